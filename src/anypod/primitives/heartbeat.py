"""Heartbeats: leases of living holders are renewed, those of dead ones run out.

One daemon thread per process renews what blocking holders hold; an asynchronous holder's renewals are
a task of its own loop, made when the first is due. An operation that is over before a third of its
lease has passed costs an entry in a queue, and no exchange.

Invariants:
    - a renewal that the store answers with False ends the heartbeat: somebody else holds the lease;
    - a store that cannot be reached is tried again until the lease has run out;
    - a forked child inherits no heartbeat: its parent's leases are not its own.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from anypod.commands import Renew
from anypod.errors import StoreError

if TYPE_CHECKING:
    from anypod.stores import Store


class Heartbeat:
    """Renews one lease while its block runs: `with` from a thread, `async with` from a task.

    Args:
        store: where the claim is.
        address: its key.
        token: the holder's fencing token.
        lease: seconds; renewed when a third of it has passed.

    Attributes:
        lost: set once a renewal was refused.
        renewed: when (monotonic seconds) the last successful renewal was sent, None before the first.
    """

    def __init__(self, store: Store, address: str, token: int, lease: float) -> None:
        self.lost = threading.Event()
        self.renewed: float | None = None
        self.stopped = False
        self.every = lease / 3
        self.store = store
        self.command = Renew(address, token, lease)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def beat(self) -> bool:
        """Renew once; False when there is nothing left to renew."""
        if self.stopped:
            return False
        sent = time.monotonic()
        try:
            if self.store.execute(self.command):
                self.renewed = sent
                return True
        except StoreError:
            return True  # the store may be back before the lease runs out
        self.lost.set()
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
                if not await self.store.aexecute(self.command):
                    self.lost.set()
                    return
                self.renewed = sent
            except StoreError:
                pass  # the store may be back before the lease runs out
            await asyncio.sleep(self.every)


class _Pacemaker:
    """The thread that beats for blocking holders; it ends when nothing is left to beat."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Heartbeat]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, heartbeat: Heartbeat) -> None:
        with self._changed:
            due = time.monotonic() + heartbeat.every
            heapq.heappush(self._due, (due, next(self._order), heartbeat))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="anypod-heartbeat", daemon=True
                )
                self._thread.start()
            elif self._due[0][2] is heartbeat:
                self._changed.notify()

    def _next(self) -> Heartbeat | None:
        """The heartbeat that is due, waiting for it; None once all have stopped."""
        with self._changed:
            while self._due:
                due, _, heartbeat = self._due[0]
                if heartbeat.stopped:
                    heapq.heappop(self._due)
                    continue
                left = due - time.monotonic()
                if left <= 0:
                    heapq.heappop(self._due)
                    return heartbeat
                self._changed.wait(left)
            self._thread = None
            return None

    def _run(self) -> None:
        while (heartbeat := self._next()) is not None:
            if heartbeat.beat():
                with self._changed:
                    due = time.monotonic() + heartbeat.every
                    heapq.heappush(self._due, (due, next(self._order), heartbeat))


_current = _Pacemaker()


def _pacemaker() -> _Pacemaker:
    return _current


def _forget() -> None:
    global _current  # noqa: PLW0603  # a forked child has none of its parent's threads or leases
    _current = _Pacemaker()


os.register_at_fork(after_in_child=_forget)
