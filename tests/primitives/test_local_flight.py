"""Single flight: threads, tasks, several event loops, cancellation, circles."""

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from tests.primitives.local_probe import (
    Loader,
    Loader_of,
    LoopThread,
    callers,
    eventually,
    in_threads,
    until,
)

from anypod import LocalCache
from anypod.primitives import local_flight
from anypod.primitives.local import ReentrantLoad

pytestmark = [pytest.mark.quick, pytest.mark.timeout(60)]


@pytest.fixture
def cache() -> LocalCache:
    return LocalCache("flights", ttl=1000.0)


class TestThreads:
    def test_sixteen_threads_one_load(self, cache):
        # lru_cache, cachetools with its lock and diskcache load 16 times.
        load = Loader()
        with ThreadPoolExecutor(17) as pool:
            waiting = [pool.submit(cache.get_or_load, "cold", load) for _ in range(16)]
            until(lambda: callers(cache, "cold") == 16)
            load.release.set()
            assert [each.result(30) for each in waiting] == ["value"] * 16
        assert load.runs == 1
        assert cache.stats().loads == 1

    def test_other_keys_do_not_wait(self, cache):
        load = Loader()
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(cache.get_or_load, "slow", load)
            assert load.started.wait(20)
            assert cache.get_or_load("quick", lambda: 1) == 1
            load.release.set()
            assert slow.result(30) == "value"

    def test_an_exception_reaches_every_caller_of_the_flight(self, cache):
        # theine with lock=True left the waiters hanging.
        load = Loader(LookupError("gone"))
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(cache.get_or_load, "k", load) for _ in range(8)]
            until(lambda: callers(cache, "k") == 8)
            load.release.set()
            errors = [each.exception(30) for each in waiting]
        assert all(error is load.value for error in errors)
        assert load.runs == 1
        assert cache.get_or_load("k", lambda: "now") == "now"

    def test_an_interrupted_leader_hands_over_to_one_waiter(self, cache):
        # cachebox stored the BaseException for the waiters.
        struck = Loader(KeyboardInterrupt())
        second = Loader("second")
        with ThreadPoolExecutor(5) as pool:
            leader = pool.submit(cache.get_or_load, "k", struck)
            assert struck.started.wait(20)
            waiting = [pool.submit(cache.get_or_load, "k", second) for _ in range(4)]
            until(lambda: callers(cache, "k") == 5)
            struck.release.set()
            assert isinstance(leader.exception(30), KeyboardInterrupt)
            until(lambda: callers(cache, "k") == 4)
            second.release.set()
            assert [each.result(30) for each in waiting] == ["second"] * 4
        assert second.runs == 1

    def test_callers_after_an_invalidation_do_not_join_the_old_flight(self, cache):
        old, new = Loader("old"), Loader("new")
        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(cache.get_or_load, "k", old)
            assert old.started.wait(20)
            cache.invalidate("k")
            after = pool.submit(cache.get_or_load, "k", new)
            assert new.started.wait(20)
            new.release.set()
            assert after.result(30) == "new"
            old.release.set()
            assert before.result(30) == "old"
        assert cache.get("k") == "new"

    def test_the_traceback_does_not_grow_with_the_callers(self, cache):
        load = Loader(LookupError("gone"))
        depths = []

        def call(_: int) -> None:
            try:
                cache.get_or_load("k", load)
            except LookupError as error:
                depth, step = 0, error.__traceback__
                while step is not None:
                    depth, step = depth + 1, step.tb_next
                depths.append(depth)

        threads = [threading.Thread(target=call, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        until(lambda: callers(cache, "k") == 12)
        load.release.set()
        for thread in threads:
            thread.join(30)
        assert len(depths) == 12
        assert max(depths) < 20

    @pytest.fixture
    def restless(self):
        """Threads take turns as often as the interpreter lets them."""
        usual = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(usual)

    def test_many_threads_many_keys_keep_the_bound(self, restless):
        cache = LocalCache("busy", ttl=1000.0, maxsize=8)

        def work(seed: int) -> int:
            wrong = 0
            for step in range(400):
                key = (seed * 7 + step) % 24
                wrong += cache.get_or_load(key, lambda k=key: k * 10) != key * 10
                wrong += len(cache) > 8
                if step % 17 == 0:
                    cache.invalidate(key)
                if step % 29 == 0:
                    cache.put(key, key * 10)
                if step % 101 == 0:
                    cache.clear()
            return wrong

        assert in_threads(6, work) == [0] * 6
        stats = cache.stats()
        assert stats.size <= 8
        assert not cache._flights._flights
        queue, entry = [], cache._sieve._oldest
        while entry is not None:
            queue.append(entry)
            entry = entry.newer
        assert sorted(map(id, queue)) == sorted(map(id, cache._sieve.entries.values()))


class TestTasks:
    async def test_tasks_share_a_flight(self, cache):
        load = Loader()
        tasks = [asyncio.create_task(cache.aget_or_load("k", load.awaiting)) for _ in range(50)]
        await eventually(lambda: callers(cache, "k") == 50)
        load.release.set()
        assert await asyncio.gather(*tasks) == ["value"] * 50
        assert load.runs == 1

    async def test_a_cancelled_leader_harms_no_other(self, cache):
        load = Loader()
        leader = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(load.started.is_set)
        other = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(lambda: callers(cache, "k") == 2)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        load.release.set()
        assert await other == "value"
        assert load.runs == 1
        assert cache.get("k") == "value"

    async def test_a_cancelled_waiter_harms_no_other(self, cache):
        load = Loader()
        leader = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        waiter = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(lambda: callers(cache, "k") == 2)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        load.release.set()
        assert await leader == "value"

    async def test_when_all_have_left_the_load_is_cancelled(self, cache):
        cancelled = asyncio.Event()

        async def load() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        tasks = [asyncio.create_task(cache.aget_or_load("k", load)) for _ in range(3)]
        await eventually(lambda: callers(cache, "k") == 3)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(cancelled.wait(), 20)
        assert callers(cache, "k") == 0
        assert await cache.aget_or_load("k", Loader_of("fresh")) == "fresh"

    async def test_a_timeout_is_one_callers_own(self, cache):
        load = Loader()
        patient = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(load.started.is_set)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.aget_or_load("k", load.awaiting), 0.001)
        load.release.set()
        assert await patient == "value"

    async def test_a_load_that_cancels_itself_concerns_its_own_caller(self, cache):
        struck = Loader(asyncio.CancelledError())
        second = Loader("second")
        leader = asyncio.create_task(cache.aget_or_load("k", struck.awaiting))
        await eventually(struck.started.is_set)
        waiter = asyncio.create_task(cache.aget_or_load("k", second.awaiting))
        await eventually(lambda: callers(cache, "k") == 2)
        struck.release.set()
        second.release.set()
        with pytest.raises(asyncio.CancelledError):
            await leader
        assert await waiter == "second"

    async def test_an_exception_reaches_every_task_and_is_not_kept(self, cache):
        load = Loader(LookupError("gone"))
        tasks = [asyncio.create_task(cache.aget_or_load("k", load.awaiting)) for _ in range(5)]
        await eventually(lambda: callers(cache, "k") == 5)
        load.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(each is load.value for each in results)
        assert await cache.aget_or_load("k", Loader_of(1)) == 1

    async def test_nobody_retrieving_an_exception_logs_nothing(self, cache, caplog):
        load = Loader(LookupError("gone"))
        task = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(load.started.is_set)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        load.release.set()
        await asyncio.sleep(0.01)
        assert not caplog.records

    async def test_the_load_sees_the_context_of_the_caller_that_started_it(self, cache):
        request = contextvars.ContextVar("request")
        request.set("first")

        async def load() -> str:
            return request.get()

        assert await cache.aget_or_load("k", load) == "first"

    async def test_a_task_that_never_started_leaves_no_flight(self, cache):
        task = asyncio.create_task(cache.aget_or_load("k", Loader_of(1)))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await cache.aget_or_load("k", Loader_of(2)) == 2

    async def test_a_put_during_an_awaited_load_wins(self, cache):
        load = Loader("old")
        task = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(load.started.is_set)
        cache.put("k", "new")
        load.release.set()
        assert await task == "old"
        assert cache.get("k") == "new"


class TestLoops:
    def test_two_loops_and_a_thread_share_a_flight(self, cache):
        # async-lru#611 and #732: a future of one loop awaited in another.
        load = Loader()
        with LoopThread() as one, LoopThread() as two, ThreadPoolExecutor(2) as pool:
            waiting = [
                one.submit(cache.aget_or_load("k", load.awaiting)),
                two.submit(cache.aget_or_load("k", load.awaiting)),
                pool.submit(cache.get_or_load, "k", load),
            ]
            until(lambda: callers(cache, "k") == 3)
            load.release.set()
            assert [each.result(30) for each in waiting] == ["value"] * 3
        assert load.runs == 1

    def test_a_thread_leads_and_tasks_wait(self, cache):
        load = Loader()
        with LoopThread() as one, ThreadPoolExecutor(1) as pool:
            leader = pool.submit(cache.get_or_load, "k", load)
            assert load.started.wait(20)
            waiter = one.submit(cache.aget_or_load("k", load.awaiting))
            until(lambda: callers(cache, "k") == 2)
            load.release.set()
            assert waiter.result(30) == leader.result(30) == "value"
        assert load.runs == 1

    def test_one_loop_after_another_may_use_the_cache(self, cache):
        for number in range(3):
            assert asyncio.run(cache.aget_or_load(number, Loader_of(number))) == number
            assert asyncio.run(cache.aget_or_load(0, Loader_of("again"))) == 0

    def test_a_load_on_a_stopped_loop_is_given_up(self, cache, monkeypatch):
        monkeypatch.setattr(local_flight, "ORPHAN_POLL", 0.01)
        stuck = Loader("never")
        with LoopThread() as one, LoopThread() as two, ThreadPoolExecutor(1) as pool:
            abandoned = one.submit(cache.aget_or_load("k", stuck.awaiting))
            assert stuck.started.wait(20)
            waiting = [
                two.submit(cache.aget_or_load("k", Loader_of("fresh"))),
                pool.submit(cache.get_or_load, "k", lambda: "fresh"),
            ]
            until(lambda: callers(cache, "k") == 3)
            one.stop()
            assert [each.result(30) for each in waiting] == ["fresh", "fresh"]
            assert cache.get_or_load("k", lambda: "other") == "fresh"
            assert not abandoned.done()

    def test_a_load_left_behind_by_run_until_complete_blocks_nobody(self, cache):
        loop = asyncio.new_event_loop()
        stuck = Loader("late")

        async def start() -> asyncio.Task:
            task = asyncio.create_task(cache.aget_or_load("k", stuck.awaiting))
            await eventually(stuck.started.is_set)
            return task

        task = loop.run_until_complete(start())
        assert cache.get_or_load("k", lambda: "sync") == "sync"
        assert asyncio.run(cache.aget_or_load("k", Loader_of("other loop"))) == "sync"
        stuck.release.set()
        # The caller that was left behind is served by whoever loaded meanwhile, or by its own load.
        assert loop.run_until_complete(task) in ("sync", "late")
        assert cache.get("k") == "sync"
        loop.close()

    async def test_a_blocking_call_beside_an_awaited_load_on_its_own_loop_loads_alone(self, cache):
        load = Loader("awaited")
        task = asyncio.create_task(cache.aget_or_load("k", load.awaiting))
        await eventually(load.started.is_set)
        assert cache.get_or_load("k", lambda: "alone") == "alone"
        load.release.set()
        assert await task == "awaited"
        assert cache.get("k") == "awaited"


class TestMemory:
    """A failure is freed by reference counting: its traceback holds the frames of the loader."""

    class Big:
        """Something large that a failing loader holds."""

    @pytest.fixture(autouse=True)
    def no_collector(self):
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    def failing(self, seen: list) -> None:
        big = self.Big()
        seen.append(weakref.ref(big))
        raise LookupError("gone")

    def test_a_failed_load(self, cache):
        seen = []
        with suppress(LookupError):
            cache.get_or_load("k", lambda: self.failing(seen))
        assert [each() for each in seen] == [None]

    def test_a_nested_failure(self, cache):
        seen = []

        def outer():
            return cache.get_or_load("inner", lambda: self.failing(seen))

        with suppress(LookupError):
            cache.get_or_load("outer", outer)
        assert [each() for each in seen] == [None]

    def test_a_circle(self, cache):
        seen = []

        def load():
            big = self.Big()
            seen.append(weakref.ref(big))
            return cache.get_or_load("k", load)

        with suppress(ReentrantLoad):
            cache.get_or_load("k", load)
        assert [each() for each in seen] == [None]

    async def test_an_awaited_failure(self, cache):
        seen = []

        async def load():
            self.failing(seen)

        with suppress(LookupError):
            await cache.aget_or_load("k", load)
        await eventually(lambda: seen[0]() is None)

    def test_waiters(self, cache):
        load = Loader(LookupError("gone"))
        load.value.big = self.Big()
        seen = weakref.ref(load.value.big)
        threads = [
            threading.Thread(target=lambda: suppress_lookup(cache, load), daemon=True)
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        until(lambda: callers(cache, "k") == 3)
        load.release.set()
        for thread in threads:
            thread.join(30)
        load.value = None
        assert seen() is None


def suppress_lookup(cache, load) -> None:
    with suppress(LookupError):
        cache.get_or_load("k", load)
