"""The shared cache on every store; two `Cache` objects over one store stand for two replicas."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.primitives.local_probe import Loader, fail, until

from anypod import ConfigurationError, State, StoreUnavailable
from anypod.commands import CacheFill, CacheInvalidate, CacheRead, CacheRelease, Command
from anypod.observe import Event
from anypod.primitives import degraded
from anypod.primitives.cache import Cache
from anypod.primitives.local import ReentrantLoad

from .conftest import advance

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def here(state: State) -> Cache[Any]:
    return state.cache("data", ttl=300.0, beta=0.0)


@pytest.fixture
def there(state: State) -> Cache[Any]:
    return state.cache("data", ttl=300.0, beta=0.0)


def commands_of(state: State, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the commands that this state's store executes from now on."""
    names: list[str] = []
    execute = state.store.driver.execute

    def counted(command: Command[Any]) -> Any:
        names.append(type(command).__name__)
        return execute(command)

    monkeypatch.setattr(state.store, "_execute", counted)
    return names


def callers(cache: Cache[Any], key: Any) -> int:
    flight = cache._flights._flights.get(cache._address(key))
    return 0 if flight is None else flight.callers


class TestOneReplica:
    def test_a_value_is_loaded_once(self, here: Cache[Any]) -> None:
        loads: list[int] = []
        for _ in range(3):
            assert here.get_or_load("a", lambda: loads.append(1) or {"n": [1, None]}) == {
                "n": [1, None]
            }
        assert loads == [1]

    def test_none_is_a_value(self, here: Cache[Any]) -> None:
        loads: list[int] = []
        for _ in range(3):
            assert here.get_or_load("a", lambda: loads.append(1)) is None
        assert loads == [1]
        assert here.get("a", "default") is None

    def test_get_put_invalidate(self, here: Cache[Any]) -> None:
        assert here.get("a") is None
        assert here.get("a", "default") == "default"
        here.put("a", 1)
        assert here.get("a") == 1
        here.put("a", 2)
        assert here.get("a") == 2
        here.invalidate("a")
        assert here.get("a") is None
        here.invalidate("a")

    def test_keys_do_not_meet(self, here: Cache[Any]) -> None:
        keys = [1, "1", True, None, ("a:b", "c"), ("a", "b:c"), b"1"]
        for number, key in enumerate(keys):
            here.put(key, number)
        assert [here.get(key) for key in keys] == list(range(len(keys)))

    def test_names_do_not_meet(self, state: State) -> None:
        one, two = state.cache("one", ttl=10), state.cache("two", ttl=10)
        one.put("a", 1)
        assert two.get("a") is None

    def test_a_value_ends_on_the_stores_clock(self, state: State, here: Cache[Any]) -> None:
        here.put("a", 1)
        here.put("b", 1, ttl=100.0)
        advance(state, 99)
        assert (here.get("a"), here.get("b")) == (1, 1)
        advance(state, 2)
        assert (here.get("a"), here.get("b")) == (1, None)
        advance(state, 200)
        assert here.get("a") is None
        assert here.get_or_load("a", lambda: 2, ttl=50.0) == 2
        advance(state, 49)
        assert here.get("a") == 2
        advance(state, 2)
        assert here.get("a") is None

    def test_callers_get_values_of_their_own(self, here: Cache[Any]) -> None:
        first = here.get_or_load("a", lambda: {"tags": []})
        first["tags"].append("mine")
        assert here.get("a") == {"tags": []}

    def test_exchanges(
        self, state: State, here: Cache[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = commands_of(state, monkeypatch)
        here.get_or_load("a", lambda: 1)
        assert seen == ["CacheRead", "CacheFill"]
        seen.clear()
        here.get_or_load("a", lambda: 1)
        here.get("a")
        assert seen == ["CacheRead", "CacheRead"]
        seen.clear()
        here.put("a", 2)
        here.invalidate("a")
        assert seen == ["CacheFill", "CacheInvalidate"]


class TestFailures:
    def test_a_failed_load_is_not_kept_and_gives_its_lease_back(
        self, here: Cache[Any], there: Cache[Any]
    ) -> None:
        with pytest.raises(LookupError):
            here.get_or_load("a", fail)
        assert there.get_or_load("a", lambda: 1) == 1
        assert here.get("a") == 1, "the lease was free, so the next load was stored"

    def test_an_interrupted_load_gives_its_lease_back(
        self, here: Cache[Any], there: Cache[Any]
    ) -> None:
        def interrupt() -> object:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            here.get_or_load("a", interrupt)
        assert there.get_or_load("a", lambda: 1) == 1
        assert here.get("a") == 1

    @pytest.mark.parametrize("value", [object(), (1, 2), {1: 2}])
    def test_a_value_that_cannot_be_stored_is_refused(
        self, here: Cache[Any], there: Cache[Any], value: object
    ) -> None:
        with pytest.raises(TypeError):
            here.get_or_load("a", lambda: value)
        with pytest.raises(TypeError):
            here.put("a", value)
        assert there.get_or_load("a", lambda: 1) == 1
        assert here.get("a") == 1

    def test_a_coroutine_is_refused(self, here: Cache[Any]) -> None:
        async def load() -> int:
            return 1

        with pytest.raises(TypeError, match="aget_or_load"):
            here.get_or_load("a", load)

    def test_a_load_that_asks_for_itself(self, here: Cache[Any]) -> None:
        def load() -> Any:
            return here.get_or_load("a", load)

        with pytest.raises(ReentrantLoad):
            here.get_or_load("a", load)

    def test_a_failure_reaches_those_who_wait(self, here: Cache[Any]) -> None:
        load = Loader(LookupError("gone"))
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(here.get_or_load, "a", load)
            assert load.started.wait(30)
            waiting = [pool.submit(here.get_or_load, "a", load) for _ in range(3)]
            until(lambda: callers(here, "a") == 4)
            load.release.set()
            assert {type(each.exception(60)) for each in (first, *waiting)} == {LookupError}
        assert load.runs == 1

    @pytest.mark.parametrize(
        "options",
        [
            {"ttl": 0}, {"ttl": float("inf")}, {"ttl": 1, "stale": -1}, {"ttl": 1, "lease": 0},
            {"ttl": 1, "wait": -1}, {"ttl": 1, "beta": float("nan")}, {"ttl": 1, "jitter": 1},
            {"ttl": 1, "unavailable": "hope"},
        ],
    )  # fmt: skip
    def test_options_out_of_range(self, options: dict[str, Any]) -> None:
        with State("memory://") as state, pytest.raises(ConfigurationError, match="cache 'x'"):
            state.cache("x", **options)

    def test_a_ttl_out_of_range(self, here: Cache[Any]) -> None:
        with pytest.raises(ValueError, match="above 0"):
            here.put("a", 1, ttl=0)


class TestManyCallers:
    def test_threads_of_two_replicas_share_one_load(
        self, here: Cache[Any], there: Cache[Any]
    ) -> None:
        load = Loader("value")
        with ThreadPoolExecutor(12) as pool:
            first = pool.submit(here.get_or_load, "a", load)
            assert load.started.wait(30)
            waiting = [
                pool.submit(cache.get_or_load, "a", load)
                for cache in (here, there)
                for _ in range(5)
            ]
            until(lambda: callers(here, "a") == 6 and callers(there, "a") == 5)
            load.release.set()
            assert [each.result(60) for each in (first, *waiting)] == ["value"] * 11
        assert load.runs == 1

    async def test_tasks_of_two_replicas_share_one_load(
        self, state: State, here: Cache[Any], there: Cache[Any]
    ) -> None:
        load = Loader("value")
        first = asyncio.create_task(here.aget_or_load("a", load.awaiting))
        await asyncio.to_thread(load.started.wait, 30)
        waiting = [
            asyncio.create_task(cache.aget_or_load("a", load.awaiting))
            for cache in (here, there)
            for _ in range(5)
        ]
        while not (callers(here, "a") == 6 and callers(there, "a") == 5):  # noqa: ASYNC110  # bounded by the test
            await asyncio.sleep(0.001)
        load.release.set()
        assert await asyncio.gather(first, *waiting) == ["value"] * 11
        assert load.runs == 1
        await state.aclose()

    async def test_a_cancelled_caller_harms_no_other(self, state: State, here: Cache[Any]) -> None:
        load = Loader("value")
        leader = asyncio.create_task(here.aget_or_load("a", load.awaiting))
        await asyncio.to_thread(load.started.wait, 30)
        other = asyncio.create_task(here.aget_or_load("a", load.awaiting))
        while callers(here, "a") != 2:  # noqa: ASYNC110  # bounded by the test
            await asyncio.sleep(0.001)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        load.release.set()
        assert await other == "value"
        assert load.runs == 1
        await state.aclose()

    async def test_when_all_are_cancelled_the_lease_is_given_back(
        self, state: State, here: Cache[Any], there: Cache[Any]
    ) -> None:
        started = asyncio.Event()

        async def load() -> None:
            started.set()
            await asyncio.Event().wait()

        only = asyncio.create_task(here.aget_or_load("a", load))
        await asyncio.wait_for(started.wait(), 30)
        only.cancel()
        with pytest.raises(asyncio.CancelledError):
            await only
        look = CacheRead(here._address("a"), "", 0.0)
        while (await state.store.aexecute(look)).lease_left:  # noqa: ASYNC110  # bounded by the test
            await asyncio.sleep(0.001)
        assert await there.aget_or_load("a", _value(1)) == 1
        await state.aclose()

    async def test_every_method_awaits(self, state: State, here: Cache[Any]) -> None:
        assert await here.aget_or_load("a", _value(1)) == 1
        assert await here.aget_or_load("b", lambda: 2) == 2
        await here.aput("c", 3)
        assert [await here.aget(key) for key in "abc"] == [1, 2, 3]
        await here.ainvalidate("a")
        assert await here.aget("a", "gone") == "gone"
        await state.aclose()


def _value(value: Any) -> Callable[[], Any]:
    async def load() -> Any:
        return value

    return load


class TestInvalidation:
    @pytest.mark.parametrize("where", ["here", "there"])
    @pytest.mark.parametrize("how", ["invalidate", "put"])
    def test_a_load_that_began_before_is_not_stored(
        self, here: Cache[Any], there: Cache[Any], where: str, how: str
    ) -> None:
        writer = here if where == "here" else there

        def load() -> str:
            if how == "put":
                writer.put("a", "new")
            else:
                writer.invalidate("a")
            return "old"

        assert here.get_or_load("a", load) == "old"
        for cache in (here, there):
            assert cache.get_or_load("a", lambda: "new") == "new"

    def test_under_a_storm_of_invalidations_a_waiter_loads_alone(self, state: State) -> None:
        cache = state.cache("data", ttl=300.0, wait=0.0)
        other = state.cache("data", ttl=300.0)
        voided = Loader("voided")
        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(cache.get_or_load, "a", voided)
            assert voided.started.wait(30)
            waiting = pool.submit(cache.get_or_load, "a", lambda: "alone")
            until(lambda: callers(cache, "a") == 2)
            other.invalidate("a")
            voided.release.set()
            assert (before.result(60), waiting.result(60)) == ("voided", "alone")

    @pytest.mark.parametrize("where", ["here", "there"])
    def test_who_comes_after_it_does_not_get_the_old_load(
        self, here: Cache[Any], there: Cache[Any], where: str
    ) -> None:
        writer = here if where == "here" else there
        old = Loader("old")
        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(here.get_or_load, "a", old)
            assert old.started.wait(30)
            writer.invalidate("a")
            after = pool.submit(here.get_or_load, "a", lambda: "new")
            until(lambda: after.done() or callers(here, "a") == 2)
            old.release.set()
            assert before.result(60) == "old"
            assert after.result(60) == "new"
        assert here.get("a") == there.get("a") == "new"

    def test_no_read_goes_back_behind_a_finished_write(self, state: State) -> None:
        """Writers commit and invalidate; a reader never gets less than was committed before it asked."""
        replicas = [state.cache("data", ttl=300.0, beta=1.0) for _ in range(2)]
        database = dict.fromkeys("ab", 0)
        finished = dict.fromkeys("ab", 0)
        commit = threading.Lock()
        wrong: list[tuple[str, int, int]] = []

        def work(seed: int) -> None:
            cache = replicas[seed % 2]
            for step in range(120):
                key = "ab"[(seed + step) % 2]
                if (seed * 31 + step) % 5 == 0:
                    with commit:
                        database[key] += 1
                        value = database[key]
                    cache.invalidate(key)
                    with commit:
                        finished[key] = max(finished[key], value)
                else:
                    floor = finished[key]
                    got = cache.get_or_load(key, lambda key=key: database[key])
                    if got < floor:
                        wrong.append((key, floor, got))

        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, seed) for seed in range(4)]:
                done.result(100)
        assert wrong == []


class TestLeases:
    def dead_loader(self, state: State, cache: Cache[Any], lease: float = 10.0) -> int:
        """A replica was granted the lease and has died."""
        reply = state.store.execute(CacheRead(cache._address("a"), "", lease))
        assert reply.lease is not None
        return reply.lease

    def test_waiting_for_a_dead_loader_ends(self, state: State) -> None:
        cache = state.cache("data", ttl=300.0, wait=0.05)
        self.dead_loader(state, cache)
        assert cache.get_or_load("a", lambda: "alone") == "alone"
        assert cache.get("a") is None, "only the holder of the lease may store"

    def test_its_lease_runs_out(self, state: State, here: Cache[Any]) -> None:
        self.dead_loader(state, here)
        advance(state, 11)
        assert here.get_or_load("a", lambda: "mine") == "mine"
        assert here.get("a") == "mine"

    def test_a_waiter_takes_over_when_it_runs_out(self, state: State, here: Cache[Any]) -> None:
        cache = state.cache("data", ttl=300.0, wait=100.0)
        self.dead_loader(state, cache)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(cache.get_or_load, "a", lambda: "mine")
            until(lambda: callers(cache, "a") == 1)
            advance(state, 11)
            assert waiting.result(60) == "mine"
        assert here.get("a") == "mine"

    def test_a_late_fill_is_refused(self, state: State, here: Cache[Any]) -> None:
        late = self.dead_loader(state, here)
        here.invalidate("a")
        payload = here._encoded("late")
        filled = state.store.execute(CacheFill(here._address("a"), late, "", payload, 9.0, 9.0))
        assert not filled.accepted
        assert here.get("a") is None

    def test_the_lease_given_back_wakes_those_who_wait(
        self, state: State, here: Cache[Any]
    ) -> None:
        cache = state.cache("data", ttl=300.0, wait=100.0)
        lease = self.dead_loader(state, cache, 1000.0)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(cache.get_or_load, "a", lambda: "mine")
            until(lambda: callers(cache, "a") == 1)
            assert state.store.execute(CacheRelease(cache._address("a"), lease))
            assert waiting.result(60) == "mine"

    def test_a_load_longer_than_its_lease_says_so(
        self, state: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = state.cache("data", ttl=300.0, lease=0.001)

        def slow() -> str:
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 0.002)
            advance(state, 1)
            state.store.execute(CacheRead(cache._address("a"), "", 10.0))  # somebody else's turn
            return "slow"

        assert cache.get_or_load("a", slow) == "slow"
        assert "longer than its lease" in caplog.text


class TestWithoutStore:
    @pytest.fixture
    def nowhere(self, unused_tcp_port: int) -> State:
        return State(f"redis://127.0.0.1:{unused_tcp_port}/0")

    def test_reads_go_on_without_and_say_so(
        self, nowhere: State, caplog: pytest.LogCaptureFixture
    ) -> None:
        degraded._logged.clear()
        events: list[Event] = []
        nowhere.observe(events.append)
        cache = nowhere.cache("data", ttl=10.0)
        with caplog.at_level(logging.WARNING):
            assert cache.get("a", "default") == "default"
            assert [cache.get_or_load("a", lambda n=n: n) for n in range(3)] == [0, 1, 2]
        assert caplog.text.count("cache 'data' is degraded to 'allow'") == 1
        assert sum(event.degraded == "allow" for event in events) >= 4

    def test_writes_raise(self, nowhere: State) -> None:
        cache = nowhere.cache("data", ttl=10.0)
        for write in (lambda: cache.put("a", 1), lambda: cache.invalidate("a")):
            with pytest.raises(StoreUnavailable):
                write()

    def test_reads_raise_on_request(self, nowhere: State) -> None:
        cache = nowhere.cache("data", ttl=10.0, unavailable="raise")
        for read in (lambda: cache.get("a"), lambda: cache.get_or_load("a", lambda: 1)):
            with pytest.raises(StoreUnavailable):
                read()

    def test_threads_share_a_load_even_then(self, nowhere: State) -> None:
        cache = nowhere.cache("data", ttl=10.0)
        load = Loader("value")
        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(cache.get_or_load, "a", load) for _ in range(5)]
            until(lambda: callers(cache, "a") == 5)
            load.release.set()
            assert [each.result(60) for each in waiting] == ["value"] * 5
        assert load.runs == 1

    async def test_awaiting(self, nowhere: State) -> None:
        cache = nowhere.cache("data", ttl=10.0)
        assert await cache.aget_or_load("a", _value(1)) == 1
        await nowhere.aclose()

    def test_a_record_of_another_kind_is_left_as_it_is(self, state: State) -> None:
        cache = state.cache("data", ttl=10.0)
        state.store.execute(CacheInvalidate(cache._address("other"), 1.0))
        from anypod.commands import Add, Total

        state.store.execute(Add(cache._address("a")))
        assert cache.get_or_load("a", lambda: "loaded") == "loaded"
        assert state.store.execute(Total(cache._address("a"))) == 1
