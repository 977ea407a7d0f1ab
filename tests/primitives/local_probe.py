"""What the tests of the local layer share: a clock, a bounded poll, a look at who waits."""

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from typing import Self

from anypod import LocalCache


class Clock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


def callers(cache: LocalCache, key: Hashable) -> int:
    """How many callers share the flight of a (typed) key."""
    flight = cache._flights._flights.get(key)
    return 0 if flight is None else flight.callers


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """Run `work(i)` in threads at once; its results or exceptions in order."""
    results: list[object] = [None] * count

    def run(index: int) -> None:
        try:
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a caller hangs"
    return results


class Loader:
    """A load that lasts until it is released; counts its runs."""

    def __init__(self, value: object = "value") -> None:
        self.value = value
        self.runs = 0
        self.started = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> object:
        self.runs += 1
        self.started.set()
        assert self.release.wait(30)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    async def awaiting(self) -> object:
        self.runs += 1
        self.started.set()
        while not self.release.is_set():  # noqa: ASYNC110  # threads of other loops set it
            await asyncio.sleep(0.001)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


async def eventually(condition) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110  # conditions that have no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), 20)


class LoopThread:
    """An event loop in a thread of its own."""

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def submit(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)

    def __exit__(self, *_: object) -> None:
        if self.thread.is_alive():
            self.stop()
        self.loop.run_until_complete(self._cancel_the_rest())
        self.loop.close()

    async def _cancel_the_rest(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def Loader_of(value):  # noqa: N802  # reads like Loader(value) that does not wait
    async def load():
        return value

    return load


def fail() -> object:
    raise LookupError("no such item")
