from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from anypod import ConfigurationError, State, StoreError
from anypod.commands import Put
from anypod.errors import Conflict, LeaseLost, RecordError

from .conftest import advance


def test_set_get_delete(state: State) -> None:
    prices = state.map("prices")
    assert prices.get("pen") is None
    assert prices.get("pen", 0) == 0
    prices.set("pen", {"cents": 150})
    assert prices.get("pen") == {"cents": 150}
    prices.delete("pen")
    prices.delete("pen")
    assert prices.get("pen") is None


def test_none_is_a_value(state: State) -> None:
    prices = state.map("prices")
    prices.set("pen", None)
    assert prices.get("pen", "absent") is None
    assert prices.entry("pen") is not None


def test_versions_grow_and_guard_a_write(state: State) -> None:
    prices = state.map("prices")
    first = prices.set("pen", 1, expect=0)
    with pytest.raises(Conflict):
        prices.set("pen", 2, expect=0)
    second = prices.set("pen", 2, expect=first)
    assert second > first
    with pytest.raises(Conflict, match="nothing was removed"):
        prices.delete("pen", expect=first)
    entry = prices.entry("pen")
    assert entry is not None
    assert (entry.value, entry.version) == (2, second)
    prices.delete("pen", expect=second)
    assert prices.set("pen", 3, expect=0) > second


def test_a_fenced_write_is_refused_once_a_larger_token_has_written(state: State) -> None:
    work = state.map("work")
    work.set("job", "first", fence=10)
    work.set("job", "second", fence=20)
    with pytest.raises(LeaseLost, match="larger fencing token than 10"):
        work.set("job", "zombie", fence=10)
    assert work.get("job") == "second"
    work.set("job", "unfenced")
    with pytest.raises(LeaseLost):
        work.set("job", "zombie", fence=19)
    work.set("job", "same holder", fence=20)


def test_update_sees_what_stands(state: State) -> None:
    carts = state.map("carts")
    assert carts.update("ada", lambda cart: [*cart, "pen"], default=[]) == ["pen"]
    assert carts.update("ada", lambda cart: [*cart, "ink"], default=[]) == ["pen", "ink"]
    assert carts.get("ada") == ["pen", "ink"]


def test_concurrent_updates_are_all_there(state: State) -> None:
    carts = state.map("carts")

    def work(number: int) -> None:
        for step in range(10):
            carts.update("shared", lambda cart, s=step: [*cart, [number, s]], default=[])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cart: Any = carts.get("shared")
    assert sorted(cart) == [[n, s] for n in range(4) for s in range(10)]


def test_update_gives_up_in_the_end(state: State) -> None:
    values = state.map("values")

    def contended(value: int | None) -> int:
        values.set("key", (value or 0) + 1)
        return -1

    with pytest.raises(Conflict, match="64 attempts"):
        values.update("key", contended)
    assert values.get("key") == 64


def test_what_the_function_raises_leaves_the_value_alone(state: State) -> None:
    values = state.map("values")
    values.set("key", 1)
    with pytest.raises(ZeroDivisionError):
        values.update("key", lambda value: value / 0)
    assert values.get("key") == 1


def test_items_walks_all_pages(state: State) -> None:
    values, other = state.map("values"), state.map("values.other")
    other.set("not", "mine")
    keys: list[Any] = [
        None, True, 7, -7, "seven", "a:b{c}", b"\x00\xff", UUID(int=7), date(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4, 5, 678_000), datetime(2026, 1, 2, tzinfo=UTC),
        ("a", ("b", 1), None), (),
    ]  # fmt: skip
    for number, key in enumerate(keys):
        values.set(key, number)
    for number in range(50):
        values.set(("many", number), number)
    walked = dict(values.items(page=7))
    assert walked == {**{k: n for n, k in enumerate(keys)}, **{("many", n): n for n in range(50)}}
    assert dict(state.map("empty").items()) == {}


def test_keys_that_cannot_be_given_back_are_refused(state: State) -> None:
    with pytest.raises(TypeError, match="a map gives its keys back"):
        state.map("values").set("x" * 300, 1)


def test_ttl(state: State) -> None:
    values = state.map("values", ttl=60.0)
    values.set("key", 1)
    advance(state, 59.0)
    assert values.get("key") == 1
    values.set("key", 2)
    advance(state, 59.0)
    assert values.get("key") == 2
    advance(state, 2.0)
    assert values.get("key") is None
    assert dict(values.items()) == {}


def test_a_type_brings_values_back(state: State) -> None:
    @dataclass
    class Price:
        cents: int
        since: date

    prices = state.map("prices", type=Price)
    prices.set("pen", Price(150, date(2026, 1, 1)))
    assert prices.get("pen") == Price(150, date(2026, 1, 1))


def test_a_value_that_does_not_decode_is_an_error_that_names_the_map(state: State) -> None:
    prices = state.map("prices", type=int)
    state.store.execute(Put(prices._address("pen"), b"\x01\xa3abc"))
    with pytest.raises(RecordError, match="map 'prices'"):
        prices.get("pen")
    state.store.execute(Put(prices._address("pen"), b"\x09"))
    with pytest.raises(StoreError, match="format 09"):
        prices.get("pen")


def test_the_async_twins(state: State) -> None:
    values = state.map("values")

    async def scenario() -> None:
        version = await values.aset("key", 1)
        entry = await values.aentry("key")
        assert entry is not None
        assert entry.version == version

        async def more(value: int | None) -> int:
            return (value or 0) + 1

        assert await asyncio.gather(*(values.aupdate("n", more) for _ in range(8)))
        assert await values.aget("n") == 8
        assert {item async for item in values.aitems(page=1)} == {("key", 1), ("n", 8)}
        await values.adelete("key")
        assert await values.aget("key", "gone") == "gone"
        await state.aclose()

    asyncio.run(scenario())


def test_bad_options_are_refused(state: State) -> None:
    with pytest.raises(ConfigurationError, match="ttl must be seconds above 0"):
        state.map("values", ttl=0)
