"""Locks and concurrency limits over all replicas: leased slots, handed over in the order of asking.

A lease gives efficiency, not safety: a holder that is paused longer than its lease goes on without
knowing. What a lock protects must therefore refuse what comes from the past: give the fencing token to the
protected write (`Map.set(fence=…)`, or the SQL pattern in the documentation), and a zombie's write is
refused.

Invariants:
    - tokens grow: a later holder's is larger than any earlier one's;
    - the holder's own deadline is on the monotonic clock of its process, counted from before the request
      left, less a margin: it is over here before it is over in the store;
    - a waiter that died is skipped once its patience is over; the others keep their order;
    - who is cancelled, interrupted or cut off while it asks gives back what it may have been granted;
    - a hold belongs to its process: a forked child that leaves the block releases nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from anypod.commands import MAX_INTEGER, Acquire, Acquired, Release, Withdraw, mailbox
from anypod.durations import check_durations, check_wait, shown
from anypod.errors import (
    ConfigurationError,
    LeaseLost,
    LockTimeout,
    OutcomeUnknown,
    Reentered,
    StoreError,
    StoreUnavailable,
)
from anypod.flow import Flow, Grant, Wait, arun, run
from anypod.keys import Key, encode
from anypod.primitives.degraded import RaiseOrDeny, check_policy, degraded
from anypod.primitives.heartbeat import Heartbeat

if TYPE_CHECKING:
    from anypod.stores import Store

PATIENCE: Final = 3.0  # seconds for which a waiter is taken for alive after it last asked
LONGEST_WAIT: Final = 1.0  # seconds between two questions of a waiter; must be well below PATIENCE
MARGIN: Final = 0.1  # of the lease: it is over for the holder that much sooner

# What a thread or task holds: entering again would wait for itself. A task that the holder starts inherits
# the context, but is another owner and may wait for its parent. A block may be left in another context than
# it was entered in, as frameworks do that run both ends in a pool of threads: so a hold itself says that it
# is over, and nothing is reset.
_held: ContextVar[tuple[Hold, ...]] = ContextVar("anypod_held", default=())


def _owner() -> object:
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:  # no event loop runs in this thread
        return threading.get_ident()


_waiters = (secrets.token_hex(8), itertools.count())


def _waiter() -> str:
    """A name that no other waiter has, in whichever process."""
    process, numbers = _waiters
    return f"{process}-{next(numbers)}"


def _forget() -> None:
    global _waiters  # noqa: PLW0603  # a forked child is another process
    _waiters = (secrets.token_hex(8), itertools.count())


os.register_at_fork(after_in_child=_forget)


class Hold:
    """One slot, held until the block ends.

    Attributes:
        token: the fencing token; give it to what the lock protects.
    """

    def __init__(self, name: str, address: str, token: int, lease: float, since: float) -> None:
        self.token = token
        self._name = name
        self._address = address
        self._lease = lease
        self._deadline = since + lease * (1 - MARGIN)
        self._heartbeat: Heartbeat | None = None
        self._owner = _owner()
        self._process = os.getpid()
        self._over = False

    @property
    def lost(self) -> threading.Event:
        """Set when a renewal was refused: somebody else holds the slot. A long job looks at it."""
        if self._heartbeat is None:
            raise RuntimeError("the hold is not entered")
        return self._heartbeat.lost

    @property
    def deadline(self) -> float:
        """Until when (monotonic seconds) the slot is surely held, as of the last renewal."""
        if self._heartbeat is not None and self._heartbeat.renewed is not None:
            return self._heartbeat.renewed + self._lease * (1 - MARGIN)
        return self._deadline

    def check(self) -> None:
        """Go on only while the slot is surely held.

        Raises:
            LeaseLost: it was taken over, or the lease may have run out meanwhile.
        """
        lost = self._heartbeat is not None and self._heartbeat.refused
        if lost or time.monotonic() >= self.deadline:
            raise LeaseLost(
                f"lock {self._name!r}: the lease of {self._lease} s ran out and somebody else may hold "
                f"the lock; what this holder has not finished must not be finished"
            )

    def attach(self, heartbeat: Heartbeat) -> None:
        """Tie the hold to what renews it."""
        self._heartbeat = heartbeat
        _held.set((*_held.get(), self))

    def leave(self) -> bool:
        """Hold no more; False in a process that was forked from the holder's, which has nothing to release."""
        self._over = True
        others = (hold for hold in _held.get() if not hold._over)  # noqa: SLF001  # its own class
        _held.set(tuple(others))
        return self._process == os.getpid()

    def keeps_out(self, address: str) -> bool:
        """Whether who asks for this address would wait for itself."""
        return (
            self._address == address
            and not self._over
            and self._owner == _owner()
            and self._process == os.getpid()
        )


class Lock:
    """A family of locks, one per key, or of slots, `limit` per key. Made by `State.lock` or `State.slots`.

    Args:
        store: where the leases are.
        name: names the family.
        lease: seconds after which a holder that gave no sign of life is taken for dead.
        limit: how many may hold a slot of one key at the same time.
        unavailable: what `acquire` does when the store cannot be reached: `"raise"`, or `"deny"`: what a
            caller gets who finds the lock held by others, at once.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        lease: float = 30.0,
        limit: int = 1,
        unavailable: RaiseOrDeny = "raise",
    ) -> None:
        check_durations(f"lock {name!r}", lease=lease)
        if type(limit) is not int or not 1 <= limit <= MAX_INTEGER:
            raise ConfigurationError(
                f"lock {name!r}: limit must be an int from 1 on, not {shown(limit)}"
            )
        check_policy("lock", name, unavailable, "raise", "deny")
        self.name = name
        self.lease = lease
        self.limit = limit
        self._unavailable = unavailable
        self._store = store
        self._prefix = ""

    @contextmanager
    def acquire(self, key: Key = None, *, wait: float | None = None) -> Iterator[Hold]:
        """Hold the lock of `key` while the block runs; its lease is renewed meanwhile.

        Args:
            key: which lock of the family.
            wait: seconds to wait at most; None waits as long as it takes, 0 does not wait.

        Raises:
            LockTimeout: others held it for all that time; or the store is away, and the lock denies then.
            StoreUnavailable, OutcomeUnknown: the store is away, and the lock raises then.
            Reentered: this thread or task holds it already.
            LeaseLost: at the end of the block: somebody else had taken over. At its beginning: the lease is
                shorter than an exchange with the store.
        """
        address = self._address(key)
        self._refuse_reentry(address)
        hold = run(self._store, self._acquire(address, wait))
        lost = False
        try:
            with Heartbeat(self._store, address, hold.token, self.lease) as heartbeat:
                hold.attach(heartbeat)
                yield hold
        finally:
            if hold.leave():
                lost = not run(self._store, self._release(address, hold.token))
        if lost:
            raise self._taken_over()

    @asynccontextmanager
    async def aacquire(self, key: Key = None, *, wait: float | None = None) -> AsyncIterator[Hold]:
        """`acquire` as an asynchronous context manager."""
        address = self._address(key)
        self._refuse_reentry(address)
        hold = await arun(self._store, self._acquire(address, wait))
        lost = False
        try:
            async with Heartbeat(self._store, address, hold.token, self.lease) as heartbeat:
                hold.attach(heartbeat)
                yield hold
        finally:
            if hold.leave():
                release = arun(self._store, self._release(address, hold.token))
                lost = not await asyncio.shield(asyncio.ensure_future(release))
        if lost:
            raise self._taken_over()

    def _address(self, key: Key) -> str:
        if not self._prefix:
            self._prefix = self._store.prefix("lock", self.name)
        return self._prefix + encode(key)

    def _refuse_reentry(self, address: str) -> None:
        if self.limit == 1 and any(hold.keeps_out(address) for hold in _held.get()):
            raise Reentered(
                f"lock {self.name!r}: this thread or task holds it already and would wait for itself; "
                f"pass the hold along instead of acquiring again"
            )

    def _acquire(self, address: str, wait: float | None) -> Flow[Hold]:
        if wait is not None:
            check_wait(f"lock {self.name!r}", wait)
        waiter = _waiter()
        start = time.monotonic()
        queued = unanswered = False
        try:
            while True:
                since = time.monotonic()
                left = float("inf") if wait is None else start + wait - since
                patience = PATIENCE if left > 0 else 0.0
                unanswered = True
                asked: Acquired = yield Grant(
                    Acquire(address, waiter, self.lease, patience, self.limit)
                )
                unanswered = False
                if asked.token is not None:
                    queued = False
                    hold = Hold(self.name, address, asked.token, self.lease, since)
                    if time.monotonic() >= hold.deadline:
                        yield Release(address, asked.token)
                        raise LeaseLost(
                            f"lock {self.name!r}: the lease of {self.lease:g} s was over before the store's "
                            f"answer came; a lease must be many times longer than an exchange"
                        )
                    return hold
                queued = queued or asked.position > 0
                if left <= 0:
                    raise LockTimeout(
                        f"lock {self.name!r}: not acquired within {wait} s; {asked.held} of {self.limit} "
                        f"held by others"
                    )
                yield Wait(
                    mailbox(address, waiter), min(LONGEST_WAIT, left, max(asked.wait, 0.001))
                )
        except (StoreUnavailable, OutcomeUnknown) as failure:
            unanswered = unanswered and isinstance(failure, OutcomeUnknown)
            if self._unavailable == "raise":
                raise
            degraded(self._store, "lock", self.name, self._unavailable, failure)
            raise LockTimeout(
                f"lock {self.name!r}: not acquired: the store cannot be reached, and the lock denies then; try "
                f"again later"
            ) from failure
        finally:
            with suppress(
                StoreError
            ):  # who does not ask any more is soon skipped, and a lease runs out
                if unanswered:  # who asks again under its own name hears what it was granted
                    asked = yield Acquire(address, waiter, self.lease, 0.0, self.limit)
                    if asked.token is not None:
                        yield Release(address, asked.token)
                if queued or unanswered:
                    yield Withdraw(address, waiter)

    def _release(self, address: str, token: int) -> Flow[bool]:
        try:
            held: bool = yield Release(address, token)
        except StoreError:
            return True  # the lease runs out by itself; nobody has taken over as far as is known
        return held

    def _taken_over(self) -> LeaseLost:
        return LeaseLost(
            f"lock {self.name!r}: the lease of {self.lease} s ran out and somebody else took over before "
            f"the block ended; was what it protects written under the fencing token?"
        )
