"""The shared cache: stale values, the types of values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.primitives.local_probe import Loader, fail

from anypod import State
from anypod.commands import CacheFill
from anypod.primitives.cache import Cache

from .conftest import advance

pytestmark = pytest.mark.timeout(120)


class TestStale:
    @pytest.fixture
    def cache(self, state: State) -> Cache[Any]:
        cache = state.cache("data", ttl=300.0, stale=600.0, beta=0.0)
        cache.put("a", "old")
        advance(state, 301)
        return cache

    def test_get_serves_only_what_is_fresh(self, cache: Cache[Any]) -> None:
        assert cache.get("a") is None

    def test_one_loads_again_the_others_get_the_old(self, cache: Cache[Any], state: State) -> None:
        other = state.cache("data", ttl=300.0, stale=600.0)
        load = Loader("new")
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(cache.get_or_load, "a", load)
            assert load.started.wait(30)
            for each in (cache, other):
                assert each.get_or_load("a", lambda: "not called") == "old"
            load.release.set()
            assert loading.result(60) == "new"
        assert other.get("a") == "new"

    def test_a_failing_load_serves_the_old_and_holds_off(
        self, cache: Cache[Any], state: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        attempts: list[int] = []

        def failing() -> object:
            attempts.append(1)
            raise ConnectionError("database down")

        for _ in range(5):
            assert cache.get_or_load("a", failing) == "old"
        assert attempts == [1]
        assert "database down" in caplog.text
        advance(state, 11)  # the lease
        assert cache.get_or_load("a", failing) == "old"
        assert attempts == [1, 1]

    def test_the_old_ends_too(self, cache: Cache[Any], state: State) -> None:
        advance(state, 600)
        with pytest.raises(LookupError):
            cache.get_or_load("a", fail)

    def test_an_invalidated_value_is_not_served_even_then(self, cache: Cache[Any]) -> None:
        cache.invalidate("a")
        with pytest.raises(LookupError):
            cache.get_or_load("a", fail)

    def test_early_refresh_is_drawn_from_the_load_time(self, state: State) -> None:
        def fill(cache: Cache[Any]) -> None:
            payload = cache._encoded("old")
            state.store.execute(
                CacheFill(cache._address("b"), None, "", payload, 300.0, 300.0, load_seconds=1.0)
            )

        never = state.cache("data", ttl=300.0, beta=0.0)
        fill(never)
        assert never.get_or_load("b", lambda: "new") == "old"
        always = state.cache("data", ttl=300.0, beta=1e12)
        assert always.get_or_load("b", lambda: "new") == "new"
        assert never.get("b") == "new"
        fill(always)
        assert always.get_or_load("b", fail) == "old", "a failed refresh costs nobody the value"

    def test_jitter_shortens(self, state: State) -> None:
        cache = state.cache("jittery", ttl=100.0, jitter=0.5)
        for key in range(40):
            cache.put(key, key)
        advance(state, 49)
        assert sum(cache.get(key) is not None for key in range(40)) == 40
        advance(state, 52)
        assert sum(cache.get(key) is not None for key in range(40)) == 0


@dataclass
class Item:
    id: UUID
    price: int


@dataclass
class NewItem:
    id: UUID
    amount: int


class TestTypes:
    def test_values_come_back_as_their_type(self, state: State) -> None:
        cache = state.cache("items", ttl=10.0, type=Item)
        item = Item(uuid4(), 5)
        assert cache.get_or_load("a", lambda: item) == item
        assert cache.get("a") == item

    def test_a_value_of_another_type_is_refused(self, state: State) -> None:
        cache = state.cache("items", ttl=10.0, type=Item)
        for store in (
            lambda: cache.put("a", {"id": "no"}),
            lambda: cache.get_or_load("a", lambda: [1]),
        ):
            with pytest.raises(TypeError, match="is not one"):
                store()

    def test_what_cannot_be_decoded_is_a_miss_and_replaced(self, state: State) -> None:
        # A rolling deploy: both versions run.
        old = state.cache("items", ttl=10.0, type=Item)
        new = state.cache("items", ttl=10.0, type=NewItem)
        item, renamed = Item(uuid4(), 5), NewItem(uuid4(), 6)
        old.put("a", item)
        assert new.get("a", "miss") == "miss"
        assert new.get_or_load("a", lambda: renamed) == renamed
        assert new.get("a") == renamed
        assert old.get_or_load("a", lambda: item) == item

    def test_another_schema_is_a_miss(self, state: State) -> None:
        one = state.cache("data", ttl=10.0, schema="1")
        two = state.cache("data", ttl=10.0, schema="2")
        one.put("a", 1)
        assert two.get("a") is None
        assert two.get_or_load("a", lambda: 2) == 2
        assert two.get("a") == 2
