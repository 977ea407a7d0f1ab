"""`memory://`: the specification on a dict, for tests and for those who ask for it by name.

No other process sees it, so it is never a fallback: a service that runs on it has the very bug that
anypod is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeVar

from anypod.commands import Command
from anypod.errors import ConfigurationError, RecordError, StoreError
from anypod.stores.driver import Capability, Driver
from anypod.stores.notices import QueueSubscription, Subscription
from anypod.stores.specification import Record, WrongRecord, execute

R = TypeVar("R")

MOST_MAIL = 10_000  # notifications that nobody has come for
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
        self._mail: dict[str, None] = {}  # mailboxes that hold a notification, oldest first
        self._waiters: set[asyncio.Future[None]] = set()
        self._listeners: dict[str, set[QueueSubscription]] = {}
        self._mail_came = threading.Condition(self._lock)

    def execute(self, command: Command[R]) -> R:
        """Execute one command under the lock."""
        with self._lock:
            self._table.now = now = int((time.time() + self.clock_offset) * 1_000_000)
            reply = execute(command, self._table, now)
            if self._table.notified:
                self._deliver(self._table.notified)
            if self._table.published:
                self._broadcast(self._table.published)
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

    def _deliver(self, notified: list[str]) -> None:
        for mailbox in notified:
            self._mail.pop(mailbox, None)
            self._mail[mailbox] = None
        while len(self._mail) > MOST_MAIL:
            del self._mail[next(iter(self._mail))]  # the oldest: nobody has come for it
        notified.clear()
        self._mail_came.notify_all()
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # its loop was closed
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def _broadcast(self, published: list[tuple[str, bytes]]) -> None:
        for channel, message in published:
            for listener in tuple(self._listeners.get(channel, ())):
                listener.put(message)
        published.clear()

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Wait on the lock's condition."""
        with self._mail_came:
            if not self._mail_came.wait_for(lambda: mailbox in self._mail, seconds):
                return False
            del self._mail[mailbox]
            return True

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """Wait for the next delivery, whatever it is, and look again."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            waiter: asyncio.Future[None] = loop.create_future()
            with self._lock:
                if mailbox in self._mail:
                    del self._mail[mailbox]
                    return True
                self._waiters.add(waiter)
            try:
                done, _ = await asyncio.wait({waiter}, timeout=max(0.0, end - loop.time()))
            finally:
                self._waiters.discard(waiter)
            if not done:
                waiter.cancel()
                return False

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel."""
        listeners = self._listeners.setdefault(channel, set())
        listener = QueueSubscription(listeners.discard)
        listeners.add(listener)
        return listener

    def bind(self, connection: object) -> Driver:
        """Memory takes part in nobody's transaction.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"memory cannot take part in a transaction of {type(connection).__qualname__}; keep what must "
            f"commit together in one database: postgresql:// or sqlite://"
        )

    def classify(self, failure: Exception) -> type[StoreError]:  # noqa: ARG002
        """The only error of a dict is a record of the wrong kind."""
        return RecordError

    def answered(self, failure: Exception) -> bool:  # noqa: ARG002
        """A dict always answers."""
        return True

    def advice(self, failure: Exception) -> str:  # noqa: ARG002
        """Nothing more than the error says."""
        return ""

    def close(self) -> None:
        """Nothing to give up: the records go with the driver."""

    async def aclose(self) -> None:
        """Nothing to give up."""


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def open_driver(url: str) -> MemoryDriver:  # noqa: ARG001  # every opener takes the URL
    """Open an empty memory store."""
    return MemoryDriver()
