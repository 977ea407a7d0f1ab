"""What clients, clocks and other programs may do: errors that name the primitive and the remedy, and bounds.

Malformed rates are in `test_rate.py`, costs in `test_rate_limit.py`, leases shorter than an exchange in
`test_lock.py` and `test_idempotency.py`, somebody else's token in `test_lock.py`.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from anypod import State, StoreUnavailable
from anypod.commands import Claim, Command, Complete, Get, PatchDocument, Put, Take
from anypod.errors import RecordError
from anypod.primitives.degraded import MOST_SUBJECTS
from anypod.primitives.rate_limit import REMEMBERED_DENIALS, REMEMBERED_KEYS
from anypod.stores.memory import SWEEP_EVERY, MemoryDriver

from .conftest import advance

GARBAGE = b"\xc1 not a value"


# --- values that do not decode


def test_a_map_names_itself(state: State) -> None:
    prices = state.map("prices", type=int)
    state.store.execute(Put(prices._address("pen"), GARBAGE))
    with pytest.raises(RecordError, match="map 'prices': a stored value"):
        prices.get("pen")
    with pytest.raises(RecordError, match="map 'prices'"):
        prices.update("pen", lambda old: 1)
    assert state.store.execute(Get(prices._address("pen"))).value == GARBAGE, "left as it is"  # type: ignore[union-attr]
    prices.set("pen", 3)
    assert prices.get("pen") == 3


def test_an_idempotent_outcome_names_its_family(state: State) -> None:
    orders = state.idempotency("orders")
    claimed = state.store.execute(Claim(orders.address("key"), "", 30.0, 60.0))
    state.store.execute(Complete(orders.address("key"), claimed.token, b"v" + GARBAGE, 60.0))
    with pytest.raises(RecordError, match="idempotency 'orders': a stored outcome"):
        orders.claim("key").__enter__()


def test_a_session_field_names_its_session(state: State) -> None:
    sessions = state.session("web")
    session = sessions.create(name="Ada")
    state.store.execute(PatchDocument(sessions.address(session.handle), {".name": GARBAGE}))
    loaded = sessions.load(session.id)
    assert loaded is not None
    with pytest.raises(RecordError, match="session 'web': field 'name'"):
        _ = loaded["name"]
    loaded["name"] = "Grace"
    loaded.save()
    again = sessions.load(session.id)
    assert again is not None
    assert again["name"] == "Grace"


def test_a_record_of_another_kind_is_an_error_that_says_where(state: State) -> None:
    hits, prices = state.counter("hits"), state.map("prices")
    state.store.execute(Put(hits.address(None), b"x"))
    with pytest.raises(RecordError, match="counter:hits"):
        hits.increment()
    state.counter("prices")  # another primitive of the same name is another key
    prices.set("pen", 1)
    assert state.counter("prices").value("pen") == 0


# --- clocks that jump


def test_a_replica_whose_clock_is_off_changes_nothing(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state.store.url.startswith(("memory", "sqlite")):
        pytest.skip("the machine's clock is this store's clock")
    limit = state.rate_limit("api", "3/hour")
    sessions, hits = state.session(), state.counter("hits", window=86_400.0, ttl=None)
    token = sessions.create(user=7).id
    real = time.time
    counts = []
    for off in (0.0, 3_600.0, -3_600.0, 86_400.0 * 365):
        monkeypatch.setattr(time, "time", lambda off=off: real() + off)
        assert sessions.load(token) is not None
        counts.append(hits.increment())
        limit.hit("ip")
        assert [info.age < 60.0 for info in sessions.sessions(7)] == [True]
    assert counts in ([1, 2, 3, 4], [1, 1, 2, 3], [1, 2, 1, 2], [1, 2, 3, 1])  # midnight may pass
    assert not limit.peek("ip").allowed


def test_a_stores_clock_that_goes_back_gives_no_version_twice(state: State) -> None:
    prices, lock = state.map("prices"), state.lock("jobs")
    versions, tokens = [], []
    for _ in range(3):
        versions.append(prices.set("pen", 1))
        with lock.acquire() as hold:
            tokens.append(hold.token)
        state.store.driver.clock_offset -= 3_600.0
    assert versions == sorted(set(versions))
    assert tokens == sorted(set(tokens))


def test_a_stores_clock_that_goes_back_admits_nothing_twice(state: State) -> None:
    for algorithm in ("gcra", "fixed window", "sliding counter", "sliding log"):
        limit = state.rate_limit("api", "5/hour", algorithm=algorithm)
        assert sum(limit.hit(algorithm).allowed for _ in range(9)) == 5
        state.store.driver.clock_offset -= 600.0
        assert sum(limit.hit(algorithm).allowed for _ in range(9)) == 0, algorithm


# --- keys that clients choose


def test_keys_without_end_are_bounded_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a client invents, what this process remembers of it has a size."""
    with State("memory://", namespace="") as state:
        limit = state.rate_limit(
            "api", "1/hour", overrides=lambda key: f"1/{60 + int(str(key)) % 5_000}m"
        )
        for number in range(REMEMBERED_DENIALS + 4_000):
            limit.hit(number)
            limit.hit(number)
        assert len(limit._denials.until) <= REMEMBERED_DENIALS
        assert len(limit._parsed) <= 1_024
        assert not limit.hit(REMEMBERED_DENIALS + 3_999).allowed, "the last ones are remembered"

        def unreachable(command: Command[Any]) -> Any:
            raise StoreUnavailable("away")

        monkeypatch.setattr(state.store, "perform", unreachable)
        local = state.rate_limit("local", "9/hour", unavailable="local", replicas=3)
        for number in range(MOST_SUBJECTS + 1_000):
            local.hit(number)
            local.hit(f"{number}")
        assert len(local._known) <= REMEMBERED_KEYS
        local.hit("x" * 1_000_000)
        assert max(map(len, local._known)) <= 64
        assert local._local is not None
        assert len(local._local._arrivals) <= MOST_SUBJECTS


def test_what_a_buffer_keeps_of_a_key_is_short() -> None:
    with State("memory://", namespace="") as state:
        hits = state.counter("hits")
        buffer = hits.buffered(every=3_600.0)
        buffer.increment("x" * 1_000_000)
        buffer.increment("x" * 1_000_000)
        assert [len(kept) < 300 for kept in buffer._sums] == [True]
        buffer.flush()
        assert hits.value("x" * 1_000_000) == 2


def test_every_record_that_a_client_can_make_has_an_end() -> None:
    """20,000 keys of one client are gone from the store when they have no meaning any more."""
    with State("memory://", namespace="") as state:
        driver = state.store.driver
        assert isinstance(driver, MemoryDriver)
        limits = [
            state.rate_limit(name.replace(" ", "-"), "5/minute", algorithm=name)
            for name in ("gcra", "fixed window", "sliding counter", "sliding log")
        ]
        orders = state.idempotency("orders", ttl=60.0)
        for number in range(5_000):
            for limit in limits:
                limit.hit(number)
        for number in range(1_000):
            with orders.claim(number):
                pass
        made = len(driver._table.records)
        assert made >= 21_000
        assert all(record.deadline is not None for record in driver._table.records.values())
        advance(state, 300.0)
        for _ in range(SWEEP_EVERY):
            state.counter("others").increment()
        assert len(driver._table.records) == 1


def test_redis_expires_what_clients_made(redis_url: str) -> None:
    import redis

    with State(redis_url, namespace="bounds") as state, redis.Redis.from_url(redis_url) as client:
        takes = [
            Take(state.store.prefix("rate", "api") + f"i{number}", policies, 1)
            for number in range(20_000)
            for policies in [state.rate_limit("api", "5/minute").policies]
        ]
        for start in range(0, len(takes), 500):
            state.store.driver.execute_many(takes[start : start + 500])
        info = client.info("keyspace")["db0"]
        assert info["keys"] == info["expires"] == 20_000
        assert info["avg_ttl"] <= 14_000  # ms: a fifth of a minute, and a second for the collector


def test_a_key_that_is_too_long_is_hashed(state: State) -> None:
    hits = state.counter("hits")
    long = "x" * 1_000_000
    assert hits.increment(long) == 1
    assert hits.increment(long) == 2
    assert len(hits.address(long)) < 300


def test_a_key_of_no_known_kind_says_what_is_allowed(state: State) -> None:
    for call in (
        lambda: state.rate_limit("api", "5/minute").hit(1.5),
        lambda: state.lock("jobs").acquire(object()).__enter__(),
        lambda: state.idempotency("orders").claim(("a", 1.5)).__enter__(),
        lambda: state.session().create(user=frozenset()),
    ):
        with pytest.raises(TypeError, match="a key must be"):
            call()


def test_msgspec_does_not_read_the_garbage() -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(GARBAGE)
