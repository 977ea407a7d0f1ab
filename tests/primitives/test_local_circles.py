"""Loads that wait for each other in a circle are refused, in threads and tasks."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.primitives.local_probe import (
    Loader_of,
    eventually,
    in_threads,
)

from anypod import LocalCache
from anypod.primitives.local import ReentrantLoad

pytestmark = [pytest.mark.quick, pytest.mark.timeout(60)]


@pytest.fixture
def cache() -> LocalCache:
    return LocalCache("flights", ttl=1000.0)


class TestCircles:
    async def test_an_awaited_load_that_awaits_itself(self, cache):
        async def load():
            return await cache.aget_or_load("k", load)

        with pytest.raises(ReentrantLoad, match="'k'"):
            await cache.aget_or_load("k", load)

    async def test_through_a_child_task(self, cache):
        async def load():
            return await asyncio.gather(cache.aget_or_load("k", load))

        with pytest.raises(ReentrantLoad):
            await cache.aget_or_load("k", load)

    async def test_through_a_worker_thread(self, cache):
        async def load():
            return await asyncio.to_thread(cache.get_or_load, "k", lambda: 1)

        with pytest.raises(ReentrantLoad):
            await cache.aget_or_load("k", load)

    async def test_a_blocking_call_inside_an_awaited_load(self, cache):
        async def load():
            return cache.get_or_load("k", lambda: 1)

        with pytest.raises(ReentrantLoad):
            await cache.aget_or_load("k", load)

    def test_through_another_cache(self, cache):
        other = LocalCache("other", ttl=10.0)

        def a():
            return other.get_or_load("b", b)

        def b():
            return cache.get_or_load("a", a)

        with pytest.raises(ReentrantLoad):
            cache.get_or_load("a", a)

    def test_two_threads_that_need_each_others_key(self, cache):
        meet = threading.Barrier(2)

        def load(needed: str):
            meet.wait(20)
            return cache.get_or_load(needed, lambda: f"{needed}, alone")

        def work(index: int):
            mine, other = ("a", "b") if index == 0 else ("b", "a")
            return cache.get_or_load(mine, lambda: load(other))

        results = in_threads(2, work)
        assert any(isinstance(each, ReentrantLoad) for each in results)

    async def test_two_tasks_that_need_each_others_key(self, cache):
        both = [asyncio.Event(), asyncio.Event()]

        async def load(index: int, needed: str):
            both[index].set()
            await both[1 - index].wait()
            return await cache.aget_or_load(needed, Loader_of("alone"))

        results = await asyncio.wait_for(
            asyncio.gather(
                cache.aget_or_load("a", lambda: load(0, "b")),
                cache.aget_or_load("b", lambda: load(1, "a")),
                return_exceptions=True,
            ),
            20,
        )
        assert any(isinstance(each, ReentrantLoad) for each in results)

    def test_a_diamond_is_no_circle(self, cache):
        def top():
            return sum(in_threads_with_context(("left", "right")))

        def side(name: str):
            return cache.get_or_load("bottom", lambda: 1)

        def in_threads_with_context(names):
            with ThreadPoolExecutor(2) as pool:
                return [
                    each.result(20)
                    for each in [
                        pool.submit(
                            contextvars.copy_context().run,
                            cache.get_or_load,
                            name,
                            lambda name=name: side(name),
                        )
                        for name in names
                    ]
                ]

        assert cache.get_or_load("top", top) == 2

    async def test_a_task_that_outlives_the_load_which_started_it(self, cache):
        background = []

        async def later():
            await eventually(lambda: cache.get("k") == 1)
            cache.invalidate("k")
            return await cache.aget_or_load("k", Loader_of(2))

        async def load():
            background.append(asyncio.create_task(later()))
            return 1

        assert await cache.aget_or_load("k", load) == 1
        assert await background[0] == 2
