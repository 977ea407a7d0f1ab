"""What a listener to a channel gets: messages in order, or the word that some may be missing.

Invariants:
    - a subscription is in force when `listen` returns: what is published afterwards is seen or is a gap;
    - after `GAP` the listener knows nothing about what was published before; it must look afresh;
    - nothing is kept for a listener that does not ask beyond a bound: what it misses becomes a gap.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol, TypeAlias


class Gap(Enum):
    """Messages may have been missed."""

    GAP = "messages may have been missed"


GAP: Final = Gap.GAP
Notice: TypeAlias = bytes | Gap

MOST_KEPT: Final = 10_000  # messages for a listener that does not ask


class Subscription(Protocol):
    """One listener to one channel; used by one thread at a time."""

    def get(self, seconds: float) -> Notice | None:
        """The next message, waiting for it up to `seconds`; None if none came.

        `GAP`, once, where messages may have been missed. Failures of the store are not raised: they
        are waited out, and then there is a gap.
        """

    def close(self) -> None:
        """Listen no more."""


class QueueSubscription:
    """A subscription that somebody else puts messages into, from any thread.

    Args:
        end: called once by `close`.
    """

    def __init__(self, end: Callable[[QueueSubscription], None]) -> None:
        self._end = end
        self._queue: deque[Notice] = deque()
        self._came = threading.Condition(threading.Lock())

    def put(self, notice: Notice) -> None:
        """Give the listener a message."""
        with self._came:
            if len(self._queue) >= MOST_KEPT:
                self._queue.clear()
                notice = GAP
            self._queue.append(notice)
            self._came.notify()

    def get(self, seconds: float) -> Notice | None:
        """The next message, or None if none came in time."""
        with self._came:
            self._came.wait_for(lambda: self._queue, seconds)
            return self._queue.popleft() if self._queue else None

    def close(self) -> None:
        """Listen no more."""
        self._end(self)
