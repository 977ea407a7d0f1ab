"""Cached values."""

from __future__ import annotations

from typing import Final

from anypod.commands import (
    CacheFill,
    CacheInvalidate,
    CacheRead,
    CacheRelease,
    CacheReply,
    CacheVersion,
    Filled,
)
from anypod.stores.specification.records import (
    CacheRecord,
    Rules,
    Table,
    load,
    micros,
    next_version,
)


def _cache_read(command: CacheRead, table: Table, now: int) -> CacheReply:
    record = load(table, command.key, CacheRecord)
    payload: bytes | None = None
    soft_left = hard_left = load_seconds = 0.0
    if (
        record is not None
        and record.payload is not None
        and record.schema == command.schema
        and record.hard_until > now
    ):
        payload = record.payload
        soft_left = (record.soft_until - now) / 1e6
        hard_left = (record.hard_until - now) / 1e6
        load_seconds = record.load_seconds
    wanted = payload is None or soft_left <= 0 or command.early * load_seconds >= soft_left
    lease: int | None = None
    lease_left = 0.0
    if record is not None and record.lease_until > now:
        lease_left = (record.lease_until - now) / 1e6
    elif wanted and command.lease > 0:
        if record is None:
            record = CacheRecord(0, command.schema, None, 0.0, 0, 0, 0, 0, None)
        lease = record.lease = next_version(max(record.version, record.lease), now)
        record.lease_until = now + micros(command.lease)
        record.deadline = max(record.hard_until, record.deadline or 0, record.lease_until)
        table.save(command.key, record)
    return CacheReply(
        payload=payload,
        version=0 if record is None else record.version,
        stale=payload is not None and soft_left <= 0,
        soft_left=soft_left,
        hard_left=hard_left,
        load_seconds=load_seconds,
        lease=lease,
        lease_left=lease_left,
    )


def _cache_fill(command: CacheFill, table: Table, now: int) -> Filled:
    record = load(table, command.key, CacheRecord)
    if command.lease is not None and (record is None or record.lease != command.lease):
        return Filled(accepted=False, version=0 if record is None else record.version)
    version = next_version(0 if record is None else max(record.version, record.lease), now)
    hard_until = now + micros(command.hard)
    table.save(
        command.key,
        CacheRecord(
            version=version,
            schema=command.schema,
            payload=command.payload,
            load_seconds=command.load_seconds,
            soft_until=now + micros(command.soft),
            hard_until=hard_until,
            lease=0,
            lease_until=0,
            deadline=hard_until,
        ),
    )
    return Filled(accepted=True, version=version)


def _cache_invalidate(command: CacheInvalidate, table: Table, now: int) -> int:
    record = load(table, command.key, CacheRecord)
    version = next_version(0 if record is None else max(record.version, record.lease), now)
    schema = "" if record is None else record.schema
    deadline = now + micros(command.keep)
    table.save(command.key, CacheRecord(version, schema, None, 0.0, 0, 0, 0, 0, deadline))
    return version


def _cache_version(command: CacheVersion, table: Table, now: int) -> int:
    record = load(table, command.key, CacheRecord)
    if record is None:
        record = CacheRecord(0, "", None, 0.0, 0, 0, 0, 0, None)
    keep = micros(command.keep)
    new = record.version == 0
    moved = record.deadline is None or now + keep - record.deadline >= keep // 16
    if new:
        record.version = next_version(record.lease, now)
    if moved:
        record.deadline = now + keep
    if new or moved:
        table.save(command.key, record)
    return record.version


def _cache_release(command: CacheRelease, table: Table, now: int) -> bool:  # noqa: ARG001
    record = load(table, command.key, CacheRecord)
    if record is None or record.lease != command.lease:
        return False
    record.lease = 0
    record.lease_until = 0
    table.save(command.key, record)
    return True


RULES: Final[Rules] = {
    CacheRead: _cache_read,
    CacheFill: _cache_fill,
    CacheInvalidate: _cache_invalidate,
    CacheVersion: _cache_version,
    CacheRelease: _cache_release,
}
