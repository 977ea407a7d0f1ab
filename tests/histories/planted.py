"""Drivers with the bugs that the checker exists to find: each is one that real libraries have had.

They are the memory driver with one rule of the specification broken. Where a bug needs two callers in the
wrong moment, the driver arranges it: a lock that is taken twice, as by a client that reads in one exchange
and writes in another.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from msgspec import structs

from anypod.commands import (
    Acquire,
    Acquired,
    Add,
    Added,
    AddOutcome,
    Claim,
    Command,
    Complete,
    EndDocument,
    Get,
    Page,
    PatchDocument,
    Put,
    Release,
    Scan,
    Stored,
    Total,
    Versioned,
)
from anypod.stores.memory import MemoryDriver
from anypod.stores.specification import (
    ClaimRecord,
    CounterRecord,
    DocumentRecord,
    SlotsRecord,
    ValueRecord,
)

PAUSE = 0.0005  # seconds between the two exchanges of what ought to be one


class ReadModifyWrite(MemoryDriver):
    """A counter that is read, added to here, and written back."""

    def execute(self, command: Command[Any]) -> Any:
        if not isinstance(command, Add) or command.once is not None:
            return super().execute(command)
        value = super().execute(Total(command.key)) + command.by
        if not command.floor <= value <= command.ceiling:
            return Added(value - command.by, AddOutcome.REFUSED)
        time.sleep(PAUSE)
        with self._lock:
            self._table.save(command.key, CounterRecord(value, None))
        return Added(value, AddOutcome.ADDED)


class ForgetsOnce(MemoryDriver):
    """An increment that a retry makes again, although it carries an operation id."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Add):
            command = Add(command.key, command.by, command.floor, command.ceiling, command.ttl)
        return super().execute(command)


class StaleRead(MemoryDriver):
    """Reads that go to a replica, which lags a few writes behind."""

    def __init__(self) -> None:
        super().__init__()
        self._earlier: dict[str, deque[Versioned | None]] = {}

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Get):
            current = super().execute(command)
            lagging = self._earlier.setdefault(command.key, deque(maxlen=3))
            lagging.append(current)
            return lagging[0]
        return super().execute(command)


class LostUpdate(MemoryDriver):
    """A compare-and-swap that compares in one exchange and swaps in another."""

    def execute(self, command: Command[Any]) -> Any:
        if not isinstance(command, Put) or command.expect is None:
            return super().execute(command)
        current = super().execute(Get(command.key))
        if (0 if current is None else current.version) != command.expect:
            return Stored(written=False, current=current)
        time.sleep(PAUSE)
        return super().execute(Put(command.key, command.value, fence=command.fence))


class WindowFromTheFirst(MemoryDriver):
    """A counter whose window begins with its first increment, at another moment for each key."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Add) and command.window is not None:
            command = Add(command.key, command.by, ttl=command.window)
        return super().execute(command)


class WalksByOffset(MemoryDriver):
    """A walk that counts what it has met, and goes on after so many: what is deleted meanwhile shifts it."""

    def execute(self, command: Command[Any]) -> Any:
        if not isinstance(command, Scan):
            return super().execute(command)
        met = int(command.after or 0)
        with self._lock:
            self._table.now = int(time.time() * 1_000_000)
            records = self._table.walk(command.key, "", met + command.limit)[met:]
        time.sleep(PAUSE)
        items = tuple(
            (key, Versioned(record.value, record.version))
            for key, record in records
            if isinstance(record, ValueRecord)
        )
        more = len(records) == command.limit
        return Page(items, str(met + command.limit) if more else None)


class ReplayAfterTombstone(MemoryDriver):
    """A session that a slow request saves back after it was ended."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, EndDocument):
            with self._lock:
                record = self._table.records.pop(command.key, None)
            return isinstance(record, DocumentRecord)
        return super().execute(command)


class WholeSession(MemoryDriver):
    """A session that is written back whole: the fields that others set meanwhile are gone."""

    def execute(self, command: Command[Any]) -> Any:
        reply = super().execute(command)
        if isinstance(command, PatchDocument):
            with self._lock:
                record = self._table.records.get(command.key)
                if isinstance(record, DocumentRecord) and not record.ended:
                    record.fields = dict(command.put)
        return reply


class NoToken(MemoryDriver):
    """A lock without fencing: every holder has the token 1."""

    def execute(self, command: Command[Any]) -> Any:
        reply = super().execute(command)
        if isinstance(reply, Acquired) and reply.token is not None:
            with self._lock:
                record = self._table.records[command.key]
                assert isinstance(record, SlotsRecord)
                record.holders = [(1, until, waiter) for _, until, waiter in record.holders]
            return Acquired(1, held=reply.held)
        return reply


class NoFence(MemoryDriver):
    """A store that takes a write under any token, so that a zombie overwrites its successor."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Put):
            with self._lock:
                record = self._table.records.get(command.key)
                if isinstance(record, ValueRecord):
                    record.fence = 0
        return super().execute(command)


class ReleasesAnybody(MemoryDriver):
    """A release that does not look whose lock it is."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Release):
            with self._lock:
                record = self._table.records.get(command.key)
                if isinstance(record, SlotsRecord) and record.holders:
                    command = Release(command.key, record.holders[0][0])
        return super().execute(command)


class TwoHolders(MemoryDriver):
    """A lock that is looked at in one exchange and taken in another."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Acquire):
            with self._lock:
                before = self._table.records.get(command.key)
                free = not isinstance(before, SlotsRecord) or not before.holders
            time.sleep(PAUSE)
            if free:
                with self._lock:
                    record = self._table.records.get(command.key)
                    if isinstance(record, SlotsRecord):
                        record.holders, record.queue = [], []
        return super().execute(command)


class Overbooks(MemoryDriver):
    """Slots that are counted before the last grant can be seen: one more is given than there are."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Acquire) and command.limit > 1:
            command = structs.replace(command, limit=command.limit + 1)
        return super().execute(command)


class ReleasesOldest(MemoryDriver):
    """A semaphore that only counts: whoever releases gives back the slot of who has held longest."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Release):
            with self._lock:
                record = self._table.records.get(command.key)
                if isinstance(record, SlotsRecord) and len(record.holders) > 1:
                    command = Release(command.key, record.holders[0][0])
        return super().execute(command)


class ZombieCompletes(MemoryDriver):
    """An outcome that whoever comes last overwrites, whoever holds the claim."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Complete):
            with self._lock:
                record = self._table.records.get(command.key)
                if isinstance(record, ClaimRecord):
                    record.outcome = None
                    command = Complete(command.key, record.token, command.outcome, command.ttl)
        return super().execute(command)


class ClaimsTwice(MemoryDriver):
    """A claim that is looked up in one exchange and recorded in another."""

    def execute(self, command: Command[Any]) -> Any:
        if isinstance(command, Claim):
            with self._lock:
                absent = command.key not in self._table.records
            time.sleep(PAUSE)
            if absent:
                with self._lock:
                    self._table.records.pop(command.key, None)
        return super().execute(command)
