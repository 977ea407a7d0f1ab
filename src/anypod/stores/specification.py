"""The executable specification: what each command does to the records of a store.

`execute(command, table, now)` is the meaning of a command. The memory and the SQLite driver run it as
it is, on a table inside one transaction; the scripts and functions of the other drivers must be
indistinguishable from it, and the conformance suite sees to that.

Times are integers: microseconds of the store's clock. A record with `deadline <= now` does not exist;
the table's `load` already answers None for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from msgspec import DecodeError, Struct, ValidationError, msgpack

from anypod.commands import (
    Abandon,
    Add,
    Added,
    AddOutcome,
    CacheFill,
    CacheInvalidate,
    CacheRead,
    CacheRelease,
    CacheReply,
    Claim,
    Claimed,
    ClaimStatus,
    Command,
    Complete,
    Document,
    EndDocument,
    Existence,
    Filled,
    Get,
    PatchDocument,
    Patched,
    PatchOutcome,
    Put,
    ReadDocument,
    Renew,
    Stored,
    Total,
    Versioned,
)

T = TypeVar("T")

FORMAT: Final = 1  # of a stored record; a reader knows this version and the one before
_MARK: Final = bytes([FORMAT])


class ValueRecord(Struct, tag="v", array_like=True):
    """A versioned value."""

    value: bytes
    version: int
    deadline: int | None


class CounterRecord(Struct, tag="n", array_like=True):
    """A counter."""

    value: int
    deadline: int | None


class OnceRecord(Struct, tag="o", array_like=True):
    """The reply that was given to a command with an operation id."""

    argument: bytes
    reply: bytes
    deadline: int | None


class ClaimRecord(Struct, tag="c", array_like=True):
    """A claim: in flight while `outcome` is None."""

    fingerprint: str
    token: int
    lease_until: int
    attempt: int
    outcome: bytes | None
    deadline: int | None


class DocumentRecord(Struct, tag="d", array_like=True):
    """A document, or its tombstone when `ended`."""

    fields: dict[str, bytes]
    version: int
    absolute: int | None
    ended: bool
    deadline: int | None


class CacheRecord(Struct, tag="k", array_like=True):
    """A cached value, or the memory of one that was invalidated (`payload` is None)."""

    version: int
    schema: str
    payload: bytes | None
    load_seconds: float
    soft_until: int
    hard_until: int
    lease: int
    lease_until: int
    deadline: int | None


Record: TypeAlias = (
    ValueRecord | CounterRecord | OnceRecord | ClaimRecord | DocumentRecord | CacheRecord
)


_encode: Final = msgpack.Encoder().encode
_decoder: Final[msgpack.Decoder[Record]] = msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    """A record as bytes: one byte of format version, then MessagePack."""
    return _MARK + _encode(record)


def decode_record(key: str, body: bytes) -> Record:
    """The record that these bytes stand for.

    Raises:
        WrongRecord: a newer format, or not a record.
    """
    if body[:1] != _MARK:
        raise WrongRecord(
            f"the record at {key!r} has format {body[:1].hex() or 'none'}, this anypod reads "
            f"{_MARK.hex()}: a newer version wrote it; upgrade this process"
        )
    try:
        return _decoder.decode(memoryview(body)[1:])
    except (DecodeError, ValidationError) as failure:
        raise WrongRecord(f"the record at {key!r} cannot be read: {failure}") from failure


class Table(Protocol):
    """Where the records are: inside one transaction, nobody else sees or changes them."""

    def load(self, key: str) -> Record | None:
        """The record at `key`, None if there is none or its deadline has passed."""

    def save(self, key: str, record: Record) -> None:
        """Write the record at `key`."""

    def remove(self, key: str) -> None:
        """Delete the record at `key`, if there is one."""


class WrongRecord(Exception):
    """A record of another kind stands at the key; the store wraps this in `RecordError`."""


def once_key(key: str, once: str) -> str:
    """Where the reply to an operation id is kept: in the record's own slot."""
    return f"{key}#{once}"


def execute(command: Command[Any], table: Table, now: int) -> Any:
    """Carry out a command on the table at the time `now` and return its reply."""
    return RULES[type(command)](command, table, now)


def _micros(seconds: float) -> int:
    return round(seconds * 1_000_000)


def _deadline(now: int, seconds: float | None) -> int | None:
    return None if seconds is None else now + _micros(seconds)


def _next(last: int, now: int) -> int:
    return max(last + 1, now)


def _load(table: Table, key: str, kind: type[T]) -> T | None:
    record = table.load(key)
    if record is None or isinstance(record, kind):
        return record
    raise WrongRecord(f"the record at {key!r} is a {type(record).__name__}, not a {kind.__name__}")


# --- versioned values


def _get(command: Get, table: Table, now: int) -> Versioned | None:  # noqa: ARG001
    record = _load(table, command.key, ValueRecord)
    return None if record is None else Versioned(record.value, record.version)


def _put(command: Put, table: Table, now: int) -> Stored:
    record = _load(table, command.key, ValueRecord)
    standing = 0 if record is None else record.version
    if command.expect is not None and command.expect != standing:
        current = None if record is None else Versioned(record.value, record.version)
        return Stored(written=False, current=current)
    if command.value is None:
        table.remove(command.key)
        return Stored(written=True, current=None)
    version = _next(standing, now)
    table.save(command.key, ValueRecord(command.value, version, _deadline(now, command.ttl)))
    return Stored(written=True, current=Versioned(command.value, version))


# --- counters


def _add(command: Add, table: Table, now: int) -> Added:
    if command.once is None:
        return _add_now(command, table, now)
    place = once_key(command.key, command.once)
    argument = msgpack.encode((command.by, command.floor, command.ceiling))
    earlier = _load(table, place, OnceRecord)
    if earlier is not None:
        if earlier.argument == argument:
            return msgpack.decode(earlier.reply, type=Added)
        return Added(_total(Total(command.key), table, now), AddOutcome.REUSED)
    reply = _add_now(command, table, now)
    table.save(place, OnceRecord(argument, msgpack.encode(reply), _deadline(now, command.once_ttl)))
    return reply


def _add_now(command: Add, table: Table, now: int) -> Added:
    record = _load(table, command.key, CounterRecord)
    value = 0 if record is None else record.value
    sum_ = value + command.by
    if not command.floor <= sum_ <= command.ceiling:
        return Added(value, AddOutcome.REFUSED)
    deadline = _deadline(now, command.ttl) if record is None else record.deadline
    table.save(command.key, CounterRecord(sum_, deadline))
    return Added(sum_, AddOutcome.ADDED)


def _total(command: Total, table: Table, now: int) -> int:  # noqa: ARG001
    record = _load(table, command.key, CounterRecord)
    return 0 if record is None else record.value


# --- claims


def _claim(command: Claim, table: Table, now: int) -> Claimed:
    record = _load(table, command.key, ClaimRecord)
    if record is not None:
        if record.fingerprint != command.fingerprint:
            return Claimed(ClaimStatus.REUSED)
        if record.outcome is not None:
            return Claimed(ClaimStatus.COMPLETE, outcome=record.outcome, attempt=record.attempt)
        if record.lease_until > now:
            return Claimed(
                ClaimStatus.IN_FLIGHT,
                wait=(record.lease_until - now) / 1e6,
                attempt=record.attempt,
            )
    token = _next(0 if record is None else record.token, now)
    attempt = 1 if record is None else record.attempt + 1
    lease_until = now + _micros(command.lease)
    deadline = max(now + _micros(command.ttl), lease_until)
    table.save(
        command.key,
        ClaimRecord(command.fingerprint, token, lease_until, attempt, None, deadline),
    )
    return Claimed(ClaimStatus.GRANTED, token=token, attempt=attempt)


def _held(table: Table, key: str, token: int) -> ClaimRecord | None:
    record = _load(table, key, ClaimRecord)
    if record is None or record.token != token or record.outcome is not None:
        return None
    return record


def _renew(command: Renew, table: Table, now: int) -> bool:
    record = _held(table, command.key, command.token)
    if record is None:
        return False
    record.lease_until = now + _micros(command.lease)
    if record.deadline is not None:
        record.deadline = max(record.deadline, record.lease_until)
    table.save(command.key, record)
    return True


def _complete(command: Complete, table: Table, now: int) -> bool:
    record = _load(table, command.key, ClaimRecord)
    if record is None or record.token != command.token:
        return False
    if record.outcome is not None:
        return record.outcome == command.outcome
    record.outcome = command.outcome
    record.deadline = now + _micros(command.ttl)
    table.save(command.key, record)
    return True


def _abandon(command: Abandon, table: Table, now: int) -> bool:  # noqa: ARG001
    if _held(table, command.key, command.token) is None:
        return False
    table.remove(command.key)
    return True


# --- documents


def _sooner(first: int | None, second: int | None) -> int | None:
    if first is None or second is None:
        return first if second is None else second
    return min(first, second)


def _read_document(command: ReadDocument, table: Table, now: int) -> Document | None:
    record = _load(table, command.key, DocumentRecord)
    if record is None or record.ended:
        return None
    if command.touch is not None and record.deadline is not None:
        touch = _micros(command.touch)
        deadline = _sooner(now + touch, record.absolute)
        if deadline is not None and deadline - record.deadline >= touch // 16:
            record.deadline = deadline
            table.save(command.key, record)
    left = None if record.absolute is None else (record.absolute - now) / 1e6
    return Document(dict(record.fields), record.version, left)


def _patch_document(command: PatchDocument, table: Table, now: int) -> Patched:
    record = _load(table, command.key, DocumentRecord)
    if record is not None and record.ended:
        return Patched(PatchOutcome.ENDED)
    if record is None:
        if command.existence is Existence.EXISTING:
            return Patched(PatchOutcome.MISSING)
        absolute = _deadline(now, command.absolute)
        deadline = _sooner(_deadline(now, command.idle), absolute)
        record = DocumentRecord({}, 0, absolute, ended=False, deadline=deadline)
    elif command.existence is Existence.NEW:
        return Patched(PatchOutcome.EXISTS)
    else:
        record.absolute = _sooner(record.absolute, _deadline(now, command.absolute))
        idle = _deadline(now, command.idle)
        record.deadline = _sooner(record.deadline if idle is None else idle, record.absolute)
    for name in command.drop:
        record.fields.pop(name, None)
    record.fields.update(command.put)
    record.version = _next(record.version, now)
    table.save(command.key, record)
    return Patched(PatchOutcome.PATCHED, record.version)


def _end_document(command: EndDocument, table: Table, now: int) -> bool:
    record = _load(table, command.key, DocumentRecord)
    there = record is not None and not record.ended
    keep = now + _micros(command.keep)
    absolute = None if record is None else record.absolute
    deadline = keep if absolute is None else max(keep, absolute)
    if record is not None and record.ended and record.deadline is not None:
        deadline = max(deadline, record.deadline)
    version = _next(0 if record is None else record.version, now)
    table.save(command.key, DocumentRecord({}, version, absolute, ended=True, deadline=deadline))
    return there


# --- cache


def _cache_read(command: CacheRead, table: Table, now: int) -> CacheReply:
    record = _load(table, command.key, CacheRecord)
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
        lease = record.lease = _next(max(record.version, record.lease), now)
        record.lease_until = now + _micros(command.lease)
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
    record = _load(table, command.key, CacheRecord)
    if command.lease is not None and (record is None or record.lease != command.lease):
        return Filled(accepted=False, version=0 if record is None else record.version)
    version = _next(0 if record is None else max(record.version, record.lease), now)
    hard_until = now + _micros(command.hard)
    table.save(
        command.key,
        CacheRecord(
            version=version,
            schema=command.schema,
            payload=command.payload,
            load_seconds=command.load_seconds,
            soft_until=now + _micros(command.soft),
            hard_until=hard_until,
            lease=0,
            lease_until=0,
            deadline=hard_until,
        ),
    )
    return Filled(accepted=True, version=version)


def _cache_invalidate(command: CacheInvalidate, table: Table, now: int) -> int:
    record = _load(table, command.key, CacheRecord)
    version = _next(0 if record is None else max(record.version, record.lease), now)
    schema = "" if record is None else record.schema
    deadline = now + _micros(command.keep)
    table.save(command.key, CacheRecord(version, schema, None, 0.0, 0, 0, 0, 0, deadline))
    return version


def _cache_release(command: CacheRelease, table: Table, now: int) -> bool:  # noqa: ARG001
    record = _load(table, command.key, CacheRecord)
    if record is None or record.lease != command.lease:
        return False
    record.lease = 0
    record.lease_until = 0
    table.save(command.key, record)
    return True


RULES: Final[dict[type[Command[Any]], Callable[[Any, Table, int], Any]]] = {
    Get: _get,
    Put: _put,
    Add: _add,
    Total: _total,
    Claim: _claim,
    Renew: _renew,
    Complete: _complete,
    Abandon: _abandon,
    ReadDocument: _read_document,
    PatchDocument: _patch_document,
    EndDocument: _end_document,
    CacheRead: _cache_read,
    CacheFill: _cache_fill,
    CacheInvalidate: _cache_invalidate,
    CacheRelease: _cache_release,
}
