"""After several commands in a row found nobody there, the next ones fail at once for a while.

Without it every request would wait for the same time limit again, and a store that comes back would be met
by all of them together.

Invariants:
    - only failures to reach the engine count; an engine that answers with an error is there;
    - while it is open one command at a time is let through to see; its success closes the breaker, its
      failure doubles the pause; what was under way when it opened changes nothing;
    - a breaker that has seen no failure costs one comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

THRESHOLD: Final = 5  # failures in a row
FIRST_PAUSE: Final = 0.25  # seconds until the first look …
LONGEST_PAUSE: Final = 5.0  # … twice as long after each that fails


class BreakerOpen(ConnectionError):
    """The command was not tried."""


class Breaker:
    """The breaker of one store, in one process.

    Args:
        clock: seconds, monotonic.
    """

    __slots__ = ("_clock", "_counted", "_last", "_looking", "_pause", "_until", "failures")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0  # in a row
        self._clock = clock
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self._last = ""
        self._counted: Exception | None = None
        self._looking = False  # a command was let through to see

    def enter(self) -> None:
        """Let a command pass, or refuse it.

        Raises:
            BreakerOpen: it was not tried.
        """
        if self.failures < THRESHOLD:
            return
        now = self._clock()
        if now < self._until:
            raise BreakerOpen(
                f"not tried, because the last {self.failures} commands found nobody there; the next "
                f"attempt is in {self._until - now:.2f} s. The last one said: {self._last}"
            )
        self._until = now + self._pause  # this one looks; the others go on waiting
        self._looking = True

    def failed(self, failure: Exception) -> None:
        """A command did not reach the engine; those that one lost connection took along count once."""
        if failure is self._counted:
            return
        self._counted = failure
        self.failures += 1
        self._last = str(failure) or type(failure).__name__
        if self.failures >= THRESHOLD:
            if self._looking:
                self._pause = min(self._pause * 2, LONGEST_PAUSE)
            self._looking = False
            self._until = self._clock() + self._pause

    def succeeded(self) -> None:
        """The engine is there."""
        self.failures = 0
        self._counted = None
        self._looking = False
        self._pause = FIRST_PAUSE
