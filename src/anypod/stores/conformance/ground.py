"""What the checks stand on: opened stores, keys of their own, other threads and processes."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, TypeVar

from anypod.commands import Put
from anypod.stores import Capability, Store

T = TypeVar("T")

Opener: TypeAlias = Callable[[], Store]

PATIENCE = 60.0  # seconds until a check that hangs is a failed check


class Ground:
    """How the checks reach one store.

    Args:
        opener: opens it.
        examples: how many histories the model check generates.
        shrink: whether to look for the shortest history that fails, which takes its time.
    """

    def __init__(self, opener: Opener, *, examples: int = 50, shrink: bool = True) -> None:
        self.shrink = shrink
        self.opener = opener
        self.examples = examples

    @contextmanager
    def store(self) -> Iterator[Store]:
        """An opened store, closed at the end."""
        with self.opener() as store:
            yield store

    def shared(self, store: Store) -> bool:
        """Whether a store that was opened elsewhere sees the same records."""
        return Capability.SHARED in store.driver.capabilities


def fresh(kind: str = "check") -> str:
    """A key that no other check uses."""
    return f"ap:conformance:{kind}:{uuid.uuid4().hex}:s"


ALIGNED: Final = 317.0  # seconds past a whole 10,000: far from where any window of a check begins


def store_clock(store: Store) -> float:
    """The store's clock in seconds, told by the version of a new value."""
    reply = store.execute(Put(fresh("clock"), b"", ttl=60.0))
    assert reply.current is not None
    return reply.current.version / 1e6


def align(store: Store) -> float:
    """Move the store's clock to `ALIGNED`, and return what it shows."""
    here = store_clock(store)
    moved = 10_000 - here % 10_000 + ALIGNED
    store.driver.clock_offset += moved
    return here + moved


def in_threads(work: Sequence[Callable[[], T]]) -> list[T]:
    """Carry out work in as many threads at once, and return the results in order."""
    results: list[Any] = [None] * len(work)
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(work))

    def carry_out(place: int) -> None:
        try:
            barrier.wait(PATIENCE)
            results[place] = work[place]()
        except BaseException as failure:  # noqa: BLE001  # raised again below, in the caller's thread
            failures.append(failure)

    threads = [threading.Thread(target=carry_out, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"a thread still works after {PATIENCE:.0f} s"
    if failures:
        raise failures[0]
    return results


class Child:
    """A forked process that carries out some work and tells its result."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # forking among threads is the point
            self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        os.close(self._reading)
        try:
            answer = (True, work())
        except BaseException:  # noqa: BLE001  # told to the parent, who raises it
            answer = (False, traceback.format_exc())
        try:
            with os.fdopen(writing, "wb") as pipe:
                pickle.dump(answer, pipe)
        finally:
            os._exit(0)  # nothing of the parent's is cleaned up twice

    def result(self) -> Any:
        """What the work returned, or a failed assertion with its traceback."""
        with os.fdopen(self._reading, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(self.pid, 0)
        assert answer, f"process {self.pid} died without a word"
        fine, value = pickle.loads(answer)  # noqa: S301  # written by our own child
        assert fine, f"in a forked process:\n{value}"
        return value


def in_processes(work: Sequence[Callable[[], T]]) -> list[T]:
    """Carry out work in as many forked processes at once, and return the results in order."""
    children = [Child(one) for one in work]
    return [child.result() for child in children]
