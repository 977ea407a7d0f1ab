"""Versioned values and counters."""

from __future__ import annotations

from typing import Final

from msgspec import msgpack

from anypod.commands import Add, Added, AddOutcome, Get, Page, Put, Scan, Stored, Total, Versioned
from anypod.stores.specification.records import (
    CounterRecord,
    OnceRecord,
    Rules,
    Table,
    ValueRecord,
    deadline_after,
    end_of_window,
    load,
    next_version,
    once_key,
)


def _get(command: Get, table: Table, now: int) -> Versioned | None:  # noqa: ARG001
    record = load(table, command.key, ValueRecord)
    return None if record is None else Versioned(record.value, record.version)


def _put(command: Put, table: Table, now: int) -> Stored:
    record = load(table, command.key, ValueRecord)
    standing, fence = (0, 0) if record is None else (record.version, record.fence)
    expected = command.expect is None or command.expect == standing
    fenced = 0 < command.fence < fence
    if not expected or fenced:
        current = None if record is None else Versioned(record.value, record.version)
        return Stored(written=False, current=current)
    if command.value is None:
        table.remove(command.key)
        return Stored(written=True, current=None)
    version = next_version(standing, now)
    until = deadline_after(now, command.ttl)
    table.save(command.key, ValueRecord(command.value, version, until, max(fence, command.fence)))
    return Stored(written=True, current=Versioned(command.value, version))


def _scan(command: Scan, table: Table, now: int) -> Page:  # noqa: ARG001
    records = table.walk(command.key, command.after, command.limit)
    items = tuple(
        (key, Versioned(record.value, record.version))
        for key, record in records
        if isinstance(record, ValueRecord)
    )
    more = len(records) == command.limit
    return Page(items, records[-1][0] if more else None)


# --- counters


def _add(command: Add, table: Table, now: int) -> Added:
    if command.once is None:
        return _add_now(command, table, now)
    place = once_key(command.key, command.once)
    argument = msgpack.encode((command.by, command.floor, command.ceiling))
    earlier = load(table, place, OnceRecord)
    if earlier is not None:
        if earlier.argument == argument:
            return msgpack.decode(earlier.reply, type=Added)
        return Added(_total(Total(command.key), table, now), AddOutcome.REUSED)
    reply = _add_now(command, table, now)
    table.save(
        place, OnceRecord(argument, msgpack.encode(reply), deadline_after(now, command.once_ttl))
    )
    return reply


def _add_now(command: Add, table: Table, now: int) -> Added:
    record = load(table, command.key, CounterRecord)
    value = 0 if record is None else record.value
    sum_ = value + command.by
    if not command.floor <= sum_ <= command.ceiling:
        return Added(value, AddOutcome.REFUSED)
    if record is not None:
        deadline = record.deadline
    elif command.window is not None:
        deadline = end_of_window(now, command.window)
    else:
        deadline = deadline_after(now, command.ttl)
    table.save(command.key, CounterRecord(sum_, deadline))
    return Added(sum_, AddOutcome.ADDED)


def _total(command: Total, table: Table, now: int) -> int:  # noqa: ARG001
    record = load(table, command.key, CounterRecord)
    return 0 if record is None else record.value


RULES: Final[Rules] = {Get: _get, Put: _put, Scan: _scan, Add: _add, Total: _total}
