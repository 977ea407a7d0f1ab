"""Single flight: of all callers in this process who want the same key now, one loads, all get the answer.

Callers may be threads, tasks of one event loop, or tasks of several; a flight knows no loop but the
one that its load runs on.

Invariants:
- A key has at most one flight that new callers may join. Whoever detaches it (an invalidation) makes
  later callers start another; those who had joined before still get the old answer, and it is not kept.
- A cancelled caller harms no other. An awaited load runs in a task of its own and goes on as long as
  one caller wants it; when the last one has left, it is cancelled.
- A loader's `Exception` reaches every caller of that flight and is kept nowhere. Anything else
  (`KeyboardInterrupt`, `CancelledError`, …) concerns the caller it struck: the others try again, and one
  of them loads.
- No caller waits for itself, however indirectly: a wait that would close a circle of loads raises
  `ReentrantLoad` at once.
- A forked child has no flights: the threads that were carrying them out stayed with the parent.
- A failure leaves no circle of references: a frame that an error's traceback holds forgets the flight.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from contextvars import ContextVar
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from msgspec import Struct

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

ORPHAN_POLL: Final = 0.5  # seconds between looks at whether a foreign event loop still runs


class ReentrantLoad(RuntimeError):
    """A load waits, directly or through other loads, for its own result."""


class Landed(Struct, frozen=True):
    """The value that a flight brought, or that was there already."""

    value: Any


class Failed(Struct, frozen=True):
    """The exception that the loader raised, with the traceback it had then."""

    error: Exception
    traceback: TracebackType | None

    def again(self) -> Exception:
        """The error, ready to be raised for one more caller without growing its traceback."""
        return self.error.with_traceback(self.traceback)


class Abandoned(Struct, frozen=True):
    """The load ended without an answer: interrupted, cancelled, or its event loop stopped."""

    interrupt: BaseException | None = None


_INTERRUPTED: Final = Abandoned()


class Berth(Struct, frozen=True):
    """Where a caller's value may be found before it loads, and is kept after. Both run under the lock.

    Attributes:
        find: the value, if another flight has brought it since the caller looked.
        keep: stores what was loaded, unless the flight was detached meanwhile; returns what had to
            make room, to be dropped after the lock is released.
    """

    find: Callable[[], Landed | None]
    keep: Callable[[Any], object]


class Flight:
    """One load in progress and those who wait for it."""

    __slots__ = ("blocked_on", "callers", "key", "loop", "outcome", "task", "thread", "wakers")

    def __init__(self, key: Hashable, loop: asyncio.AbstractEventLoop | None) -> None:
        self.key = key
        self.loop = loop
        self.thread = threading.get_ident()
        self.task: asyncio.Task[None] | None = None
        self.callers = 1
        self.outcome: Landed | Failed | Abandoned | None = None
        self.wakers: list[Callable[[], None]] = []
        self.blocked_on: list[Flight] = []

    def orphaned(self) -> bool:
        """Whether the load sits on an event loop that no longer runs."""
        return self.loop is not None and (self.loop.is_closed() or not self.loop.is_running())


_loading: ContextVar[Flight | None] = ContextVar("anypod_loading", default=None)
# Guards every `Flight.blocked_on`, of all caches: a circle may lead through several.
_graph = threading.RLock()
_LIVE: Final[weakref.WeakSet[SingleFlight]] = weakref.WeakSet()


class SingleFlight:
    """The flights of one cache.

    Args:
        name: of the cache, for messages.

    Attributes:
        lock: guards the flights and whatever the owner keeps in step with them; re-entrant, because a
            finalizer or a signal handler may use the cache in the thread that holds it.
    """

    __slots__ = ("__weakref__", "_flights", "lock", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self._flights: dict[Hashable, Flight] = {}
        _LIVE.add(self)

    def run(
        self,
        key: Hashable,
        load: Callable[[], T],
        berth: Berth | None = None,
        *,
        displace: bool = False,
    ) -> T:
        """Load `key`, or wait for the flight that is loading it.

        Args:
            key: what is loaded.
            load: called without arguments by the caller who leads the flight.
            berth: where the value may be found and is kept; None keeps nothing.
            displace: lead in any case; later callers join this flight instead of an earlier one.

        Raises:
            ReentrantLoad: the load waits for its own result.
            Exception: whatever the loader raised.
        """
        found: Landed | Flight | None = None
        outcome: Landed | Failed | Abandoned | None = None
        try:
            while True:
                found, leading = self._join(key, None, berth, displace)
                if isinstance(found, Landed):
                    return cast(T, found.value)
                if leading:
                    try:
                        return self._lead(found, load, berth)
                    finally:
                        self._finish(found, _INTERRUPTED)  # no effect after another ending
                outcome = self._wait(found)
                if outcome is None:
                    # The load runs on the event loop of this very thread, which waiting would stop. It
                    # is not this caller's own (that raised): load alone, and leave keeping to the flight.
                    return load()
                if isinstance(outcome, Landed):
                    return cast(T, outcome.value)
                if isinstance(outcome, Failed):
                    raise outcome.again()
        finally:
            del found, outcome

    async def arun(
        self,
        key: Hashable,
        load: Callable[[], Awaitable[T]],
        berth: Berth | None = None,
        *,
        displace: bool = False,
    ) -> T:
        """Load `key`, or wait for the flight that is loading it; as `run`."""
        import asyncio

        loop = asyncio.get_running_loop()
        found: Landed | Flight | None = None
        outcome: Landed | Failed | Abandoned | None = None
        try:
            while True:
                found, leading = self._join(key, loop, berth, displace)
                if isinstance(found, Landed):
                    return cast(T, found.value)
                if leading:
                    self._take_off(found, load, berth, loop)
                outcome = await self._wait_in(found, loop)
                if isinstance(outcome, Landed):
                    return cast(T, outcome.value)
                if isinstance(outcome, Failed):
                    raise outcome.again()
                if leading and outcome.interrupt is not None:
                    raise outcome.interrupt
        finally:
            del found, outcome

    def detach(self, key: Hashable) -> None:
        """Let nobody join the flight of `key` any more, nor its value be kept. Needs the lock."""
        self._flights.pop(key, None)

    def detach_all(self) -> None:
        """Detach every flight. Needs the lock."""
        self._flights.clear()

    def forget(self) -> None:
        """Start anew in a forked child, where the lock may be held by a thread that does not exist."""
        self.lock = threading.RLock()
        self._flights = {}

    # --- joining and leaving ----------------------------------------------------------------------

    def _join(
        self,
        key: Hashable,
        loop: asyncio.AbstractEventLoop | None,
        berth: Berth | None,
        displace: bool,
    ) -> tuple[Landed, None] | tuple[Flight, bool]:
        with self.lock:
            flight = None if displace else self._flights.get(key)
            if flight is not None and not (flight.loop is not loop and flight.orphaned()):
                flight.callers += 1
                return flight, False
            found = berth.find() if berth is not None else None
            if found is not None:
                return found, None
            started = self._flights[key] = Flight(key, loop)
        if flight is not None:
            self._finish(flight, _INTERRUPTED)
        return started, True

    def _leave(self, flight: Flight) -> None:
        with self.lock:
            flight.callers -= 1
            if flight.callers or flight.outcome is not None or flight.task is None:
                return
            self._detach_flight(flight)
        assert flight.loop is not None, "a flight with a task has a loop"
        with suppress(RuntimeError):  # a closed loop has nothing left to cancel
            flight.loop.call_soon_threadsafe(flight.task.cancel)

    def _detach_flight(self, flight: Flight) -> bool:
        if self._flights.get(flight.key) is not flight:
            return False
        del self._flights[flight.key]
        return True

    def _finish(
        self, flight: Flight, outcome: Landed | Failed | Abandoned, berth: Berth | None = None
    ) -> None:
        with self.lock:
            if flight.outcome is not None:
                return
            gone: object = None
            try:
                current = self._detach_flight(flight)
                if current and isinstance(outcome, Landed) and berth is not None:
                    gone = berth.keep(outcome.value)
            finally:
                flight.outcome = outcome
                wakers, flight.wakers = flight.wakers, []
        del gone  # outside the lock
        for wake in wakers:
            wake()

    def _wake_with(self, flight: Flight, wake: Callable[[], None]) -> bool:
        """Have `wake` called when the flight ends; False if it has ended already."""
        with self.lock:
            if flight.outcome is not None:
                return False
            flight.wakers.append(wake)
            return True

    # --- blocking ---------------------------------------------------------------------------------

    def _lead(self, flight: Flight, load: Callable[[], T], berth: Berth | None) -> T:
        mine = self._block(flight)
        outside = _loading.set(flight)
        try:
            value = self._not_a_coroutine(load(), flight.key)
        except Exception as error:
            self._finish(flight, Failed(error, error.__traceback__))
            raise
        else:
            self._finish(flight, Landed(value), berth)
            return value
        finally:
            _loading.reset(outside)
            self._unblock(mine, flight)
            del flight, mine, outside

    def _not_a_coroutine(self, value: T, key: Hashable) -> T:
        if not isinstance(value, CoroutineType):
            return value
        value.close()
        raise TypeError(
            f"cache {self.name!r}: the loader of {key!r} returned a coroutine, which can be awaited "
            f"once only; use the awaiting method, or decorate an async function"
        )

    def _wait(self, flight: Flight) -> Landed | Failed | Abandoned | None:
        mine: Flight | None = None
        try:
            mine = self._block(flight)
            if flight.thread == threading.get_ident() and not flight.orphaned():
                if flight.loop is None and flight.outcome is None:
                    raise self._reentrant(flight.key)
                return flight.outcome
            landed = threading.Event()
            if self._wake_with(flight, landed.set):
                while not landed.wait(ORPHAN_POLL):
                    if flight.orphaned():
                        self._finish(flight, _INTERRUPTED)
            return flight.outcome
        finally:
            self._unblock(mine, flight)
            self._leave(flight)
            del flight, mine

    # --- awaiting ---------------------------------------------------------------------------------

    def _take_off(
        self,
        flight: Flight,
        load: Callable[[], Awaitable[T]],
        berth: Berth | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        flying = self._fly(flight, load, berth)
        try:
            flight.task = loop.create_task(flying)
        except BaseException:
            flying.close()
            self._finish(flight, _INTERRUPTED)
            raise
        # A task that is cancelled before its first step runs no `except` of its own.
        flight.task.add_done_callback(lambda task: self._after(flight, task))

    async def _fly(
        self, flight: Flight, load: Callable[[], Awaitable[T]], berth: Berth | None
    ) -> None:
        _loading.set(flight)  # in the task's own context
        try:
            value = await load()
        except Exception as error:  # noqa: BLE001  # it is raised again in every caller
            self._finish(flight, Failed(error, error.__traceback__))
        except BaseException as interrupt:
            self._finish(flight, Abandoned(interrupt))
            raise
        else:
            self._finish(flight, Landed(value), berth)
        finally:
            del flight

    def _after(self, flight: Flight, task: asyncio.Task[None]) -> None:
        import asyncio

        interrupt = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._finish(flight, Abandoned(interrupt))
        flight.task = None  # whose context holds the flight

    async def _wait_in(
        self, flight: Flight, loop: asyncio.AbstractEventLoop
    ) -> Landed | Failed | Abandoned:
        import asyncio

        mine: Flight | None = None
        try:
            mine = self._block(flight)
            landed: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                if asyncio._get_running_loop() is loop:  # noqa: SLF001  # None outside a loop, no error
                    _resolve(landed)
                    return
                with suppress(RuntimeError):  # the loop of a caller who no longer waits is closed
                    loop.call_soon_threadsafe(_resolve, landed)

            if self._wake_with(flight, wake):
                patience = None if flight.loop is loop else ORPHAN_POLL
                while not landed.done():
                    await asyncio.wait((landed,), timeout=patience)
                    if not landed.done() and flight.loop is not loop and flight.orphaned():
                        self._finish(flight, _INTERRUPTED)
            assert flight.outcome is not None, "a landed flight has an outcome"
            return flight.outcome
        finally:
            self._unblock(mine, flight)
            self._leave(flight)
            del flight, mine

    # --- circles ----------------------------------------------------------------------------------

    def _block(self, flight: Flight) -> Flight | None:
        """Note that the load which the caller is part of now depends on `flight`; return that load."""
        mine = _loading.get()
        try:
            if mine is None or mine.outcome is not None:
                return None
            with _graph:
                if _reaches(flight, mine):
                    raise self._reentrant(flight.key)
                mine.blocked_on.append(flight)
            return mine
        finally:
            del flight, mine

    def _unblock(self, mine: Flight | None, flight: Flight) -> None:
        if mine is not None:
            with _graph:
                mine.blocked_on.remove(flight)

    def _reentrant(self, key: Hashable) -> ReentrantLoad:
        return ReentrantLoad(
            f"cache {self.name!r}: the load of {key!r} asks for {key!r} itself, directly or through "
            f"other loads, and would wait for ever; load the inner value without the cache or under "
            f"another key"
        )


def _reaches(start: Flight, goal: Flight) -> bool:
    pending, seen = [start], {id(start)}
    while pending:
        flight = pending.pop()
        if flight is goal:
            return True
        for further in flight.blocked_on:
            if id(further) not in seen:
                seen.add(id(further))
                pending.append(further)
    return False


def _resolve(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)


def _after_fork() -> None:
    global _graph  # noqa: PLW0603  # the lock that a thread of the parent may have held
    _graph = threading.RLock()
    for flights in list(_LIVE):
        flights.forget()


os.register_at_fork(after_in_child=_after_fork)
