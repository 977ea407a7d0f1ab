"""One lock wanted by four processes that hold it for a millisecond: the longest wait, and who gets how many turns."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from anypod import State
from benchmarks.bench_counter import redis_server
from benchmarks.harness import Contest, Faster, Skipped, Within

try:
    import redis
    import redis_lock
except ModuleNotFoundError as missing:
    raise Skipped(f"{missing.name} is not installed (requirements/dev.txt)") from missing

PROCESSES = 4
HOLD = 0.001  # seconds
RUN = 2.0  # seconds per round
LEASE = 30.0

Acquire = Callable[[], AbstractContextManager[Any]]


def anypod_lock(url: str) -> Acquire:
    lock = State(url).lock("contended", lease=LEASE)
    return lambda: lock.acquire("x")


def three_holds(url: str) -> Acquire:  # nobody is asked
    """No lock: what a fair one with no cost at all makes a process wait, the holds of the three others."""

    @contextmanager
    def wait() -> Iterator[None]:
        for _ in range(PROCESSES - 1):
            time.sleep(HOLD)
        yield

    return wait


def redis_py(url: str) -> Acquire:
    client = redis.Redis.from_url(url)
    return lambda: client.lock("contended", timeout=LEASE)


def python_redis_lock(url: str) -> Acquire:
    client = redis.Redis.from_url(url)
    return lambda: redis_lock.Lock(client, "contended", expire=int(LEASE))


@dataclass
class Turns:
    """What four processes got in one round: seconds per turn, and the longest wait for one."""

    luckiest: float
    unluckiest: float
    longest_wait: float


def compete(make: Callable[[str], Acquire], url: str) -> Turns:
    """Let the processes compete for a while."""
    context = multiprocessing.get_context("fork")
    meet = context.Barrier(PROCESSES)
    results = context.SimpleQueue()

    def work() -> None:
        acquire = make(url)
        with acquire():
            pass  # connected
        meet.wait()
        turns, longest = 0, 0.0
        start = asked = time.perf_counter()
        while asked < start + RUN:
            with acquire():
                longest = max(longest, time.perf_counter() - asked)
                time.sleep(HOLD)
            turns += 1
            asked = time.perf_counter()
        results.put((turns, longest))

    children = [context.Process(target=work) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    turns = sorted(turns for turns, _ in found)
    return Turns(RUN / turns[-1], RUN / max(1, turns[0]), max(longest for _, longest in found))


@contextmanager
def all_cores() -> Iterator[None]:
    """Let the block run wherever it can: on one core the scheduler makes a queue of any competitors."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def contests() -> Iterator[Contest]:
    """The wait is the wall clock's: it is what a request feels."""
    with all_cores(), redis_server() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        last: list[Turns] = []

        def longest(make: Callable[[str], Acquire]) -> Callable[[int], float]:
            def side(times: int) -> float:
                return times * compete(make, url).longest_wait

            return side

        def unluckiest(times: int) -> float:
            last[:] = [compete(anypod_lock, url)]
            return times * last[0].unluckiest

        def luckiest(times: int) -> float:
            return times * last[0].luckiest

        yield Contest(
            "longest wait for a contended lock",
            longest(anypod_lock),
            {
                "python-redis-lock": longest(python_redis_lock),
                "redis-py Lock": longest(redis_py),
                "no lock: three holds": longest(three_holds),
            },
            {"python-redis-lock": Faster(8.0), "redis-py Lock": Faster(100.0)},
        )
        yield Contest(
            "a turn of the unluckiest process",
            unluckiest,
            {"the luckiest process": luckiest},
            {"the luckiest process": Within(1 / 0.9)},
        )
