"""Heartbeats: leases of living holders are renewed, those of dead ones run out.

One daemon thread per process renews what blocking holders hold; an asynchronous holder's renewals are
a task of its own loop, made when the first is due. An operation that is over before a third of its
lease has passed costs an entry in a dict for as long as it takes, and no exchange.

Invariants:
    - a renewal that the store answers with False ends the heartbeat: somebody else holds the lease;
    - a store that cannot be reached is tried again until the lease has run out;
    - a forked child inherits no heartbeat: its parent's leases are not its own;
    - what is over is forgotten at once: nothing grows with the number of operations.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from anypod.commands import Renew
from anypod.errors import StoreError

if TYPE_CHECKING:
    from anypod.stores import Store


LINGER: Final = 30.0  # seconds that the thread stays when nothing is left to beat

_making = threading.Lock()


class Heartbeat:
    """Renews one lease while its block runs: `with` from a thread, `async with` from a task.

    Args:
        store: where the claim is.
        address: its key.
        token: the holder's fencing token.
        lease: seconds; renewed when a third of it has passed.

    Attributes:
        refused: a renewal was refused.
        renewed: when (monotonic seconds) the last successful renewal was sent, None before the first.
    """

    __slots__ = (
        "_event",
        "_lease",
        "_task",
        "_timer",
        "address",
        "every",
        "refused",
        "renewed",
        "stopped",
        "store",
        "token",
    )

    def __init__(self, store: Store, address: str, token: int, lease: float) -> None:
        self.refused = False
        self.renewed: float | None = None
        self.stopped = False
        self.every = lease / 3
        self.store = store
        self.address = address
        self.token = token
        self._lease = lease
        self._event: threading.Event | None = None  # made for those who ask for it
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def command(self) -> Renew:
        """What renews the lease."""
        return Renew(self.address, self.token, self._lease)

    @property
    def lost(self) -> threading.Event:
        """Set once a renewal was refused."""
        with _making:
            if self._event is None:
                self._event = threading.Event()
                if self.refused:
                    self._event.set()
            return self._event

    def refuse(self) -> None:
        """Somebody else holds the lease."""
        with _making:
            self.refused = True
            if self._event is not None:
                self._event.set()

    def beat(self) -> bool:
        """Renew once; False when there is nothing left to renew."""
        if self.stopped:
            return False
        sent = time.monotonic()
        try:
            if self.store.perform(self.command):
                self.renewed = sent
                return True
        except StoreError:
            return True  # the store may be back before the lease runs out
        self.refuse()
        return False

    def __enter__(self) -> Self:
        _pacemaker().add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped = True
        _pacemaker().remove(self)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.every, self._start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._beats())

    async def _beats(self) -> None:
        while not self.stopped:
            sent = time.monotonic()
            try:
                if not await self.store.aperform(self.command):
                    self.refuse()
                    return
                self.renewed = sent
            except StoreError:
                pass  # the store may be back before the lease runs out
            await asyncio.sleep(self.every)


class _Pacemaker:
    """The thread that beats for blocking holders; it ends when nothing was left to beat for a while."""

    def __init__(self) -> None:
        self._due: dict[Heartbeat, float] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._looks_at = 0.0  # when the thread, if it waits, looks again
        self._shortest = (
            LINGER  # of all there were: looking so often, it need not be woken for each
        )
        self._thread: threading.Thread | None = None

    def add(self, heartbeat: Heartbeat) -> None:
        due = time.monotonic() + heartbeat.every
        with self._lock:
            self._due[heartbeat] = due
            if heartbeat.every < self._shortest:
                self._shortest = heartbeat.every
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anypod-heartbeat", daemon=True
                )
                self._thread.start()
            elif due < self._looks_at:
                self._changed.notify()

    def remove(self, heartbeat: Heartbeat) -> None:
        with self._lock:
            self._due.pop(heartbeat, None)

    def _next(self) -> Heartbeat | None:
        """The heartbeat that is due, waiting for it; None when there was none for a while."""
        lingering = time.monotonic() + LINGER
        with self._changed:
            while True:
                now = time.monotonic()
                due = now + self._shortest
                if self._due:
                    heartbeat = min(self._due, key=self._due.__getitem__)
                    due = min(due, self._due[heartbeat])
                    lingering = now + LINGER
                    if due <= now:
                        # Not forgotten while it beats: the next turn is set before this one is taken.
                        self._due[heartbeat] = now + heartbeat.every
                        return heartbeat
                elif now >= lingering:
                    self._thread = None
                    return None
                self._looks_at = due
                self._changed.wait(due - now)
                self._looks_at = 0.0

    def _run(self) -> None:
        while (heartbeat := self._next()) is not None:
            if not heartbeat.beat():
                self.remove(heartbeat)


_current = _Pacemaker()


def _pacemaker() -> _Pacemaker:
    return _current


def _forget() -> None:
    global _current  # noqa: PLW0603  # a forked child has none of its parent's threads or leases
    _current = _Pacemaker()


os.register_at_fork(after_in_child=_forget)
