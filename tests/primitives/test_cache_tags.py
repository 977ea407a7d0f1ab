"""Tags of the shared cache, on every store; two `Cache` objects over one store stand for two replicas."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.primitives.local_probe import until

from anypod import State, StoreUnavailable
from anypod.commands import CacheInvalidate, CacheVersion
from anypod.primitives.cache import Cache
from anypod.primitives.tags import MOST_TAGS
from anypod.testing import FaultProxy

from .conftest import advance

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def here(state: State) -> Cache[Any]:
    return state.cache("data", ttl=300.0, beta=0.0)


@pytest.fixture
def there(state: State) -> Cache[Any]:
    return state.cache("data", ttl=300.0, beta=0.0)


def fail() -> object:
    raise LookupError("no such item")


def callers(cache: Cache[Any]) -> int:
    return sum(flight.callers for flight in cache._flights._flights.values())


class TestInvalidation:
    @pytest.mark.parametrize("where", ["here", "there"])
    def test_every_value_with_the_tag_is_forgotten_and_no_other(
        self, here: Cache[Any], there: Cache[Any], where: str
    ) -> None:
        writer = here if where == "here" else there
        for cache in (here, there):
            for key in "abc":
                tags = ("shop", ("item", key))
                assert cache.get_or_load(key, lambda key=key: key + "1", tags=tags) == key + "1"
        writer.invalidate_tag(("item", "a"))
        for cache in (here, there):
            found = [cache.get(key, tags=("shop", ("item", key))) for key in "abc"]
            assert found == [None, "b1", "c1"]
        writer.invalidate_tag("shop")
        for cache in (here, there):
            assert [cache.get(key, tags=("shop", ("item", key))) for key in "abc"] == [None] * 3
        for cache in (here, there):
            assert cache.get_or_load("a", lambda: "a2", tags=("shop", ("item", "a"))) == "a2"

    def test_neither_the_order_of_tags_nor_a_tag_twice_matters(self, here: Cache[Any]) -> None:
        here.put("a", 1, tags=("x", "y"))
        assert here.get("a", tags=["y", "x", "y"]) == 1
        assert here.get("a", tags={"x", "y"}) == 1

    def test_a_value_is_found_only_under_its_own_tags(self, here: Cache[Any]) -> None:
        here.put("a", 1, tags=("x",))
        assert here.get("a") is None
        assert here.get("a", tags=("y",)) is None
        assert here.get("a", tags=("x", "y")) is None
        assert here.get("a", tags=("x",)) == 1

    def test_tags_of_different_types_and_caches_do_not_meet(self, state: State) -> None:
        one, two = state.cache("one", ttl=60.0), state.cache("two", ttl=60.0)
        one.put("a", 1, tags=(1,))
        one.put("b", 2, tags=("1",))
        two.put("a", 3, tags=(1,))
        one.invalidate_tag(1)
        found = one.get("a", tags=(1,)), one.get("b", tags=("1",)), two.get("a", tags=(1,))
        assert found == (None, 2, 3)

    def test_a_key_that_looks_like_a_tag_is_another_record(self, here: Cache[Any]) -> None:
        here.put("x", 1)
        here.invalidate_tag("x")
        assert here.get("x") == 1

    def test_put_is_after_what_was_invalidated_before(self, here: Cache[Any]) -> None:
        here.invalidate_tag("x")
        here.put("a", 1, tags=("x",))
        assert here.get("a", tags=("x",)) == 1
        here.invalidate_tag("x")
        assert here.get("a", tags=("x",)) is None

    @pytest.mark.parametrize("where", ["here", "there"])
    def test_a_load_that_began_before_it_is_found_by_nobody_who_comes_after(
        self, here: Cache[Any], there: Cache[Any], where: str
    ) -> None:
        writer = here if where == "here" else there

        def load() -> str:
            writer.invalidate_tag("x")
            return "old"

        assert here.get_or_load("a", load, tags=("x",)) == "old"
        for cache in (here, there):
            assert cache.get("a", tags=("x",)) is None
        for cache in (here, there):
            assert cache.get_or_load("a", lambda: "new", tags=("x",)) == "new"

    @pytest.mark.parametrize("where", ["here", "there"])
    def test_who_comes_while_the_old_load_is_under_way_does_not_get_it(
        self, here: Cache[Any], there: Cache[Any], where: str
    ) -> None:
        reader = here if where == "here" else there
        started, release = threading.Event(), threading.Event()

        def load() -> str:
            started.set()
            assert release.wait(60)
            return "old"

        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(here.get_or_load, "a", load, tags=("x",))
            try:
                assert started.wait(30)
                here.invalidate_tag("x")
                after = pool.submit(reader.get_or_load, "a", lambda: "new", tags=("x",))
                until(lambda: after.done() or callers(reader) == (2 if reader is here else 1))
            finally:
                release.set()
            assert before.result(60) == "old"
            assert after.result(60) == "new"

    def test_a_forgotten_counter_brings_nothing_back(self, state: State, here: Cache[Any]) -> None:
        here.put("a", "old", tags=("x",))
        counter = here._tags.address("x")
        before = state.store.execute(CacheVersion(counter, 1.0))
        here.invalidate_tag("x")
        state.store.execute(CacheInvalidate(counter, keep=1.0))
        advance(state, 2)
        assert here.get("a", tags=("x",)) is None
        assert state.store.execute(CacheVersion(counter, 1.0)) > before
        assert here.get_or_load("a", lambda: "new", tags=("x",)) == "new"
        assert here.get("a", tags=("x",)) == "new"

    def test_a_counter_outlives_what_was_stored_under_it(self, state: State) -> None:
        cache = state.cache("long", ttl=10.0, stale=1_000.0)
        cache.put("a", 1, ttl=100_000.0, tags=("x",))
        cache.put("b", 1, tags=("x",))
        advance(state, 99_000)
        assert cache.get("a", tags=("x",)) == 1

    def test_a_value_that_is_stale_by_its_tag_is_not_served_when_loading_fails(
        self, state: State
    ) -> None:
        cache = state.cache("stale", ttl=300.0, stale=600.0)
        cache.put("a", "old", tags=("x",))
        advance(state, 301)
        assert cache.get_or_load("a", fail, tags=("x",)) == "old"
        cache.invalidate_tag("x")
        advance(state, 11)  # the lease of the load that failed
        with pytest.raises(LookupError):
            cache.get_or_load("a", fail, tags=("x",))

    def test_one_reader_loads_in_advance_with_tags_too(self, state: State) -> None:
        never = state.cache("early", ttl=300.0, beta=0.0)
        always = state.cache("early", ttl=300.0, beta=1e15)
        assert never.get_or_load("a", lambda: "old", tags=("x",)) == "old"
        assert never.get_or_load("a", lambda: "new", tags=("x",)) == "old"
        assert always.get_or_load("a", lambda: "old", tags=("x",)) == "old"
        assert always.get_or_load("a", lambda: "new", tags=("x",)) == "new"
        assert never.get("a", tags=("x",)) == "new"

    def test_invalidate_forgets_a_value_with_tags(self, here: Cache[Any]) -> None:
        here.put("a", 1, tags=("x",))
        here.invalidate("a")
        assert here.get("a", tags=("x",)) is None

    def test_no_read_goes_back_behind_a_finished_write(self, state: State) -> None:
        """Writers commit and invalidate a tag; a reader never gets less than was committed before it asked."""
        replicas = [state.cache("data", ttl=300.0, beta=1.0) for _ in range(2)]
        database = dict.fromkeys("ab", 0)
        finished = dict.fromkeys("ab", 0)
        commit = threading.Lock()
        wrong: list[tuple[str, int, int]] = []

        def work(seed: int) -> None:
            cache = replicas[seed % 2]
            for step in range(60):
                key = "ab"[(seed + step) % 2]
                if (seed * 31 + step) % 5 == 0:
                    with commit:
                        database[key] += 1
                        value = database[key]
                    cache.invalidate_tag(key)
                    with commit:
                        finished[key] = max(finished[key], value)
                else:
                    floor = finished[key]
                    got = cache.get_or_load(
                        (key, step % 3), lambda key=key: database[key], tags=(key, "all")
                    )
                    if got < floor:
                        wrong.append((key, floor, got))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, seed) for seed in range(4)]:
                done.result(100)
        assert wrong == []

    async def test_every_method_awaits(self, state: State, here: Cache[Any]) -> None:
        tags = ("x", "y")
        assert await here.aget_or_load("a", lambda: 1, tags=tags) == 1
        await here.aput("b", 2, tags=tags)
        assert [await here.aget(key, tags=tags) for key in "ab"] == [1, 2]
        await here.ainvalidate_tag("y")
        assert [await here.aget(key, "gone", tags=tags) for key in "ab"] == ["gone"] * 2
        assert await here.aget_or_load("a", lambda: 3, tags=tags) == 3
        await state.aclose()


class TestBadInput:
    def test_tags_are_several_keys_and_not_too_many(self, here: Cache[Any]) -> None:
        with pytest.raises(TypeError, match=r"write tags=\('shop',\)"):
            here.get("a", tags="shop")
        with pytest.raises(TypeError, match="a key must be"):
            here.get("a", tags=(1.5,))
        with pytest.raises(TypeError, match="a key must be"):
            here.invalidate_tag(1.5)
        with pytest.raises(ValueError, match=f"may have {MOST_TAGS} tags, not {MOST_TAGS + 1}"):
            here.put("a", 1, tags=range(MOST_TAGS + 1))
        here.put("a", 1, tags=range(MOST_TAGS))
        assert here.get("a", tags=range(MOST_TAGS)) == 1

    def test_without_the_store_reads_go_on_and_an_invalidation_says_so(
        self, unused_tcp_port: int
    ) -> None:
        cache = State(f"redis://127.0.0.1:{unused_tcp_port}/0").cache("data", ttl=10.0)
        assert cache.get_or_load("a", lambda: 1, tags=("x",)) == 1
        assert cache.get("a", "default", tags=("x", "y")) == "default"
        for write in (lambda: cache.invalidate_tag("x"), lambda: cache.put("a", 1, tags=("x",))):
            with pytest.raises(StoreUnavailable):
                write()

    def test_the_memory_of_tags_is_bounded(
        self, here: Cache[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("anypod.primitives.tags.MOST_MARKS", 3)
        for tag in range(10):
            here.put("a", tag, tags=(tag,))
            assert here.get("a", tags=(tag,)) == tag
            assert len(here._tags._marks) <= 3


class TestExchanges:
    """What a read costs, counted at a proxy in front of the server.

    Not on PostgreSQL: libpq sends each command of a pipeline by itself, so that the proxy counts as many
    exchanges as the server happens to be fast. That nothing waits in between, `test_postgres_server.py` shows.
    """

    TAGS = ("x", "y", "z")

    @pytest.fixture(params=["redis", "valkey"])
    def proxied(self, request: pytest.FixtureRequest) -> Any:
        url: str = request.getfixturevalue(f"{request.param}_url")
        parts = urlsplit(url)
        with (
            FaultProxy(parts.hostname or "", parts.port or 0) as proxy,
            State(proxy.url(url), namespace=uuid.uuid4().hex) as state,
        ):
            yield proxy, state

    def test_a_hit_is_one_exchange_and_a_miss_three_and_the_load(self, proxied: Any) -> None:
        proxy, state = proxied
        cache = state.cache("data", ttl=300.0, beta=0.0)

        def cost(call: Any) -> int:
            before: int = proxy.exchanges
            call()
            return int(proxy.exchanges - before)

        def read(key: str) -> int:
            return cost(lambda: cache.get_or_load(key, lambda: 1, tags=self.TAGS))

        for warm in (
            lambda: read("warm"),
            lambda: read("warm"),
            lambda: cache.put("warm", 1, tags=self.TAGS),
            lambda: cache.invalidate_tag("x"),
        ):
            warm()
        read("a")  # the tags have a new mark, which the next calls know
        assert read("a") == 1
        assert cost(lambda: cache.get("a", tags=self.TAGS)) == 1
        assert read("b") == 3
        assert cost(lambda: cache.put("b", 2, tags=self.TAGS)) == 2
        assert cost(lambda: cache.invalidate_tag("x")) == 1
        assert read("a") == 3, "a mark that has changed costs what a miss costs"

    async def test_an_event_loop_reads_in_one_exchange(self, proxied: Any) -> None:
        proxy, state = proxied
        cache = state.cache("data", ttl=300.0, beta=0.0)
        for _ in range(2):
            await cache.aget_or_load("a", lambda: 1, tags=self.TAGS)
        before = proxy.exchanges
        assert await cache.aget("a", tags=self.TAGS) == 1
        assert proxy.exchanges - before == 1
        await state.aclose()
