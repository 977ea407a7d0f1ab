"""Worlds in parallel: one thread per world, jobs handed to whichever is idle.

All decisions are taken in the calling thread, between jobs; a job only plays and compares. So the
engine needs no locks, and Ctrl-C always reaches a thread that is waiting, not one that is writing.
"""

from __future__ import annotations

import heapq
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from anypod.prove.player import Clock, Stopped
from anypod.replicas import World

STORES = re.compile(
    r"^(DATABASE|REDIS|VALKEY|POSTGRES|MYSQL|MARIADB|MONGO|AMQP|RABBITMQ|CELERY|KAFKA|MEMCACHE)"
    r"|^PG(HOST|HOSTADDR|SERVICE|DATABASE)$|^ANYPOD_URL$|BROKER|(^|_)DB_(URL|URI|HOST|NAME)$|_DSN$"
)
T = TypeVar("T")
Answer = TypeVar("Answer")
Job = Callable[[World], T]


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def shares_a_store(env: Mapping[str, str]) -> bool:
    """Whether an environment names a database or a store of the user's.

    Worlds isolate what they make themselves. What the user brings exists once, so two runs at the same
    time would see each other there; one world at a time then plays.
    """
    return any(
        value and STORES.search(name) and not value.startswith(("http://", "https://"))
        for name, value in env.items()
    )


class Deadline(Clock):
    """Stops when the budget is used up or somebody interrupts.

    Args:
        seconds: the budget.
        now: a monotonic clock, in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until = now() + seconds
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """Stop now."""
        self._interrupted.set()

    @property
    def interrupted(self) -> bool:
        """Whether it was `interrupt` that stopped it."""
        return self._interrupted.is_set()

    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self._now() >= self._until

    def stop(self) -> bool:
        """Whether either has happened."""
        return self._interrupted.is_set() or self.spent()

    def left(self) -> float:
        """Seconds of budget that remain."""
        return max(0.0, self._until - self._now())

    def pause(self, seconds: float) -> None:
        """Wait so long, or until interrupted."""
        self._interrupted.wait(seconds)


@dataclass(slots=True)
class _Worker:
    """A world and the one thread that may touch it."""

    thread: ThreadPoolExecutor
    world: Future[World]


@dataclass(slots=True)
class Fleet(Generic[T]):
    """Some worlds of one application.

    Args:
        open_world: makes a world, which is prepared here; called once per worker, in its thread.
        size: how many.
    """

    open_world: Callable[[], World]
    size: int
    _workers: list[_Worker] = field(default_factory=list)
    _worlds: list[World] = field(default_factory=list)
    _closed: bool = False
    _waiting: list[tuple[int, int, Job[T]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def first(self) -> World:
        """The first world, opened now; the others open in the background.

        Raises:
            StartFailed: the application does not start.
        """
        for number in range(self.size):
            thread = ThreadPoolExecutor(1, thread_name_prefix=f"world-{number + 1}")
            self._workers.append(_Worker(thread, thread.submit(self._open)))
        return self._workers[0].world.result()

    def _open(self) -> World:
        world = self.open_world()
        self._worlds.append(world)
        if self._closed:
            raise Stopped
        world.prepare()
        return world

    def on_first(self, job: Callable[[World], Answer]) -> Answer:
        """Run one job on the first world and wait for what it returns."""
        worker = self._workers[0]
        return worker.thread.submit(job, worker.world.result()).result()

    def add(self, job: Job[T], *, urgency: int = 0) -> None:
        """Queue a job; a lower urgency number runs earlier."""
        heapq.heappush(self._waiting, (urgency, next(self._numbers), job))

    def forget(self) -> int:
        """Drop what has not begun; how many that were."""
        dropped = len(self._waiting)
        self._waiting.clear()
        return dropped

    def results(self) -> Iterator[T]:
        """What the jobs return, as they finish; jobs may be added meanwhile."""
        running: dict[Future[T], _Worker] = {}
        while self._waiting or running:
            for worker in self._workers:
                if self._waiting and worker not in running.values():
                    job = heapq.heappop(self._waiting)[2]
                    running[worker.thread.submit(_run, job, worker.world)] = worker
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                del running[future]
                yield future.result()

    def adopt(self, world: World) -> None:
        """Close a world that was made elsewhere together with the others, and count its starts.

        Raises:
            Stopped: they are closed already.
        """
        self._worlds.append(world)
        if self._closed:
            raise Stopped

    def starts(self) -> int:
        """Processes started so far, in all worlds."""
        return sum(world.starts for world in list(self._worlds))

    def made(self) -> tuple[str, ...]:
        """Files outside the project that replicas have made, once the worlds are closed."""
        return tuple(dict.fromkeys(path for world in self._worlds for path in world.made))

    def close(self) -> None:
        """End every replica, also under an import or a request that is still going on."""
        self._closed = True
        for worker in self._workers:
            worker.thread.shutdown(wait=False, cancel_futures=True)
        ended = list(self._worlds)
        for world in ended:
            world.close()
        for worker in self._workers:
            worker.thread.shutdown(wait=True)
        for world in self._worlds[len(ended) :]:
            world.close()


@dataclass(slots=True)
class Importing:
    """The one world in which every start is an import, for deploys; made when it is first needed.

    Args:
        open_world: makes it.
        adopt: takes care that it is closed; see `Fleet.adopt`.
    """

    open_world: Callable[[], World]
    adopt: Callable[[World], None]
    _world: World | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def alone(self) -> Iterator[World]:
        """The world, for one job at a time.

        Raises:
            Stopped: everything ends.
            StartFailed: the application does not start.
        """
        with self._lock:
            if self._world is None:
                world = self.open_world()
                self.adopt(world)
                self._world = world
            yield self._world


def _run(job: Job[T], world: Future[World]) -> T:
    return job(world.result())
