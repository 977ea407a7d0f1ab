"""`memory://`: the specification on a dict, for tests and for those who ask for it by name.

No other process sees it, so it is never a fallback: a service that runs on it has the very bug that
anypod is for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar

from anypod.commands import Command
from anypod.errors import RecordError, StoreError
from anypod.stores.driver import Capability
from anypod.stores.specification import Record, WrongRecord, execute

R = TypeVar("R")

SWEEP_EVERY = 1024  # writes between two sweeps of what has expired


class Records:
    """The table of the specification, as a dict. Set `now` (µs) before each command."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.notified: list[str] = []  # mailboxes, in order
        self.published: list[tuple[str, bytes]] = []  # channels and messages, in order
        self.now = 0
        self._writes = 0

    def load(self, key: str) -> Record | None:
        """The living record at `key`."""
        record = self.records.get(key)
        if record is None or record.deadline is None or record.deadline > self.now:
            return record
        del self.records[key]
        return None

    def save(self, key: str, record: Record) -> None:
        """Write the record at `key`."""
        self.records[key] = record
        self._writes += 1
        if self._writes % SWEEP_EVERY == 0:
            self._sweep()

    def remove(self, key: str) -> None:
        """Delete the record at `key`, if there is one."""
        self.records.pop(key, None)

    def walk(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        """Up to `limit` living records with the prefix, sorted, after `after`."""
        keys = sorted(key for key in self.records if key.startswith(prefix) and key > after)
        living = ((key, record) for key in keys if (record := self.load(key)) is not None)
        return list(islice(living, limit))

    def notify(self, mailbox: str) -> None:
        """Remember that a waiter is to be told."""
        self.notified.append(mailbox)

    def publish(self, channel: str, message: bytes) -> None:
        """Remember a message."""
        self.published.append((channel, message))

    def _sweep(self) -> None:
        expired = [
            key
            for key, record in self.records.items()
            if record.deadline is not None and record.deadline <= self.now
        ]
        for key in expired:
            del self.records[key]


class MemoryDriver:
    """Records in this process alone."""

    name = "memory"
    capabilities = Capability.NONE
    errors: tuple[type[Exception], ...] = (WrongRecord,)

    def __init__(self) -> None:
        self.clock_offset = 0.0
        self._table = Records()
        self._lock = threading.Lock()
        self._mail: Counter[str] = Counter()
        self._mail_came = threading.Condition(self._lock)

    def execute(self, command: Command[R]) -> R:
        """Execute one command under the lock."""
        with self._lock:
            self._table.now = now = int((time.time() + self.clock_offset) * 1_000_000)
            reply = execute(command, self._table, now)
            if self._table.notified:
                self._mail.update(self._table.notified)
                self._table.notified.clear()
                self._mail_came.notify_all()
            return reply  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command; memory never waits long enough to yield to the loop."""
        return self.execute(command)

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands one by one."""
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(self.execute(command))
            except WrongRecord as failure:
                replies.append(failure)
        return replies

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Wait on the lock's condition."""
        with self._mail_came:
            if not self._mail_came.wait_for(lambda: self._mail[mailbox] > 0, seconds):
                del self._mail[mailbox]
                return False
            self._mail[mailbox] -= 1
            return True

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """Wait on the lock's condition, in a thread."""
        return await asyncio.to_thread(self.receive, mailbox, seconds)

    def classify(self, failure: Exception) -> type[StoreError]:  # noqa: ARG002
        """The only error of a dict is a record of the wrong kind."""
        return RecordError

    def advice(self, failure: Exception) -> str:  # noqa: ARG002
        """Nothing more than the error says."""
        return ""

    def close(self) -> None:
        """Nothing to give up: the records go with the driver."""

    async def aclose(self) -> None:
        """Nothing to give up."""


def open_driver(url: str) -> MemoryDriver:  # noqa: ARG001  # every opener takes the URL
    """Open an empty memory store."""
    return MemoryDriver()
