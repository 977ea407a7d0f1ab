"""A listener to one channel of a SQLite store: reads the events after the last one that it has seen."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING

from anypod.stores.notices import GAP, Notice

if TYPE_CHECKING:
    from anypod.stores.sqlite.driver import SQLiteDriver


class ChannelSubscription:
    """One listener.

    Events stay for a minute; a listener that has not asked for longer finds that some are gone, and is
    told of the gap.

    Args:
        driver: whose events.
        channel: which of them.
        last: the number of the last event that this listener does not want any more.
    """

    def __init__(self, driver: SQLiteDriver, channel: str, last: int) -> None:
        self._driver = driver
        self._channel = channel
        self._last = last

    def get(self, seconds: float) -> Notice | None:
        """The next message, or None if none came in time."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self._driver.await_event(self._look, max(0.0, end - time.monotonic()))
            except (sqlite3.Error, OSError):
                if time.monotonic() >= end:
                    return None
                time.sleep(min(0.1, seconds))

    def _look(self) -> Notice | None:
        latest, first, number, message = self._driver.next_event(self._channel, self._last)
        if first > self._last + 1 or latest < self._last:
            self._last = latest  # some were reaped, or the file is another one
            return GAP
        if number is None:
            self._last = latest
            return None
        self._last = number
        return message

    def close(self) -> None:
        """Nothing to give up: a listener is only a number."""
