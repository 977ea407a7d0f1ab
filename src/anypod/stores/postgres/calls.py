"""Commands as function calls: what each sends, and what its reply means.

A command is a call of one function of the schema (`v1.sql`): the key first, then the command's own
values, then the clock's offset and, where the function takes the lock, how long to wait for it. Values
travel in PostgreSQL's binary format; drivers that run on somebody else's cursor pass the same values as
Python objects.

Invariants:
    - durations become integer microseconds here, rounded as the specification rounds them;
    - a value beyond what a column holds is brought to its edge, where the answer is the same;
    - text that callers choose travels as bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha256
from typing import Any, Final, NamedTuple, TypeAlias

from msgspec import msgpack

from anypod.commands import (
    Abandon,
    Acquire,
    Acquired,
    Add,
    Added,
    AddOutcome,
    Algorithm,
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
    Page,
    PatchDocument,
    Patched,
    PatchOutcome,
    Publish,
    Put,
    Quota,
    ReadDocument,
    Release,
    Renew,
    Scan,
    Stored,
    Take,
    Taken,
    Total,
    Versioned,
    Withdraw,
)
from anypod.stores.specification import WrongRecord, once_key
from anypod.stores.specification.limits import policy_name

Row: TypeAlias = Sequence[Any]
Values: TypeAlias = list[Any]

_LONGEST_KEY: Final = 1000  # bytes; an index entry holds 2,700
_EDGE: Final = 2**61  # µs or units: further than any sum in a function may reach
_KINDS: Final = {
    1: "value",
    2: "counter",
    3: "operation id",
    4: "claim",
    5: "document",
    6: "cached value",
    7: "rate limit",
    8: "set of slots",
}


# --- the binary format ----------------------------------------------------------------------------

_INT2 = struct.Struct(">h")
_INT4 = struct.Struct(">i")
_INT8 = struct.Struct(">q")
_FLOAT8 = struct.Struct(">d")
_ARRAY = struct.Struct(">iiIii")  # dimensions, has nulls, element type, length, lower bound
_BYTEA, _BIGINT = 17, 20  # element types


def _pack_array(element: int, items: Sequence[bytes]) -> bytes:
    if not items:
        return struct.pack(">iiI", 0, 0, element)
    parts = [_ARRAY.pack(1, 0, element, len(items), 1)]
    for item in items:
        parts += (_INT4.pack(len(item)), item)
    return b"".join(parts)


def _pack_bytes(items: Sequence[bytes]) -> bytes:
    return _pack_array(_BYTEA, items)


def _pack_integers(items: Sequence[int]) -> bytes:
    return _pack_array(_BIGINT, [_INT8.pack(item) for item in items])


def _unpack_bytes(body: bytes) -> list[bytes]:
    if len(body) < _ARRAY.size:
        return []
    count = _ARRAY.unpack_from(body)[3]
    place = _ARRAY.size
    items = []
    for _ in range(count):
        (size,) = _INT4.unpack_from(body, place)
        place += 4
        items.append(body[place : place + size])
        place += size
    return items


def _unpack_integers(body: bytes) -> list[int]:
    return [_INT8.unpack(item)[0] for item in _unpack_bytes(body)]


_PACK: Final[dict[str, Callable[[Any], bytes]]] = {
    "text": str.encode,
    "bytea": bytes,
    "bytea[]": _pack_bytes,
    "bigint[]": _pack_integers,
    "integer": _INT4.pack,
    "bigint": _INT8.pack,
    "double precision": _FLOAT8.pack,
}
_UNPACK: Final[dict[str, Callable[[bytes], Any]]] = {
    "bytea": bytes,
    "bytea[]": _unpack_bytes,
    "bigint[]": _unpack_integers,
    "boolean": b"\x01".__eq__,
    "smallint": lambda body: _INT2.unpack(body)[0],
    "integer": lambda body: _INT4.unpack(body)[0],
    "bigint": lambda body: _INT8.unpack(body)[0],
    "double precision": lambda body: _FLOAT8.unpack(body)[0],
}


class Function:
    """One function of the schema: its statement in libpq's and in the DB-API's spelling.

    Args:
        name: the function, with its version.
        takes: the types of its parameters, in order.
        gives: the types of its columns after `fault`, in order.
    """

    def __init__(self, name: str, takes: str, gives: str) -> None:
        types = takes.split(", ")
        numbered = ", ".join(f"${place}::{kind}" for place, kind in enumerate(types, 1))
        self.name = name.encode()
        formatted = ", ".join(f"%s::{kind}" for kind in types)
        self.statement = f"SELECT * FROM anypod.{name}({numbered})".encode()  # noqa: S608  # constants
        self.formatted = f"SELECT * FROM anypod.{name}({formatted})"  # noqa: S608  # constants
        self.formats = [1] * len(types)
        self._packers = [_PACK[kind] for kind in types]
        columns = ["smallint", *gives.split(", ")] if gives else ["smallint"]
        self._unpackers = [_UNPACK[kind] for kind in columns]

    def pack(self, values: Values) -> list[bytes | None]:
        """The values as parameters in binary format."""
        return [
            None if value is None else pack(value)
            for pack, value in zip(self._packers, values, strict=True)
        ]

    def unpack(self, value: Callable[[int, int], bytes | None]) -> Row:
        """The first row of a result, given its `get_value`."""
        row: list[Any] = []
        for column, unpack in enumerate(self._unpackers):
            body = value(0, column)
            row.append(None if body is None else unpack(body))
        return row


class Call(NamedTuple):
    """What one kind of command sends, and how its reply is read."""

    function: Function
    values: Callable[[Any, int, int], Values]
    reply: Callable[[Any, Row], Any]


def micros(seconds: float) -> int:
    """Seconds as microseconds, as the specification rounds them, within what a column holds."""
    return max(-_EDGE, min(_EDGE, round(seconds * 1_000_000)))


def _optional(seconds: float | None) -> int | None:
    return None if seconds is None else micros(seconds)


def _bounded(number: int) -> int:
    return number if -_EDGE <= number <= _EDGE else max(-_EDGE, min(_EDGE, number))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(body: bytes) -> str:
    return bytes(body).decode("utf-8", "surrogatepass")


def place(key: str) -> str:
    """The key as the column holds it: itself, or a hash where it is too long or not printable ASCII.

    Keys as `Store` names them always stay what they are; only the ids of operations may be hashed.
    """
    if len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable() and key[:2] != "#h":
        return key
    return "#h" + blake2b(_bytes(key), digest_size=32).hexdigest()


def refuse(command: Command[Any], fault: int) -> WrongRecord:
    """What to raise where something else stands at the key."""
    if fault < 0:
        return WrongRecord(
            f"the record at {command.key!r} has format {-fault}, this anypod reads 1: a newer version "
            f"wrote it; upgrade this process"
        )
    return WrongRecord(
        f"the record at {command.key!r} is a {_KINDS.get(fault, f'record of kind {fault}')}, which "
        f"{type(command).__name__} does not work on"
    )


# --- versioned values


def _put(command: Put, offset: int, wait: int) -> Values:
    expect = None if command.expect is None else _bounded(command.expect)
    return [
        place(command.key),
        command.value,
        _optional(command.ttl),
        expect,
        _bounded(command.fence),
        offset,
        wait,
    ]


def _stored(command: Put, row: Row) -> Stored:
    _, written, version, payload = row
    if not written:
        current = None if version is None else Versioned(bytes(payload), version)
        return Stored(written=False, current=current)
    if command.value is None:
        return Stored(written=True, current=None)
    return Stored(written=True, current=Versioned(command.value, version))


def _page(command: Scan, row: Row) -> Page:
    _, keys, versions, payloads = row
    items = tuple(
        (_text(key), Versioned(bytes(payload), version))
        for key, version, payload in zip(keys or (), versions or (), payloads or (), strict=True)
    )
    return Page(items, items[-1][0] if len(items) == command.limit else None)


# --- counters

_OUTCOMES: Final = (AddOutcome.ADDED, AddOutcome.REFUSED, AddOutcome.REUSED)


def _add(command: Add, offset: int, wait: int) -> Values:
    return [
        place(command.key),
        _bounded(command.by),
        _bounded(command.floor),
        _bounded(command.ceiling),
        _optional(command.ttl),
        offset,
        wait,
    ]


def _add_once(command: Add, offset: int, wait: int) -> Values:
    argument = msgpack.encode((command.by, command.floor, command.ceiling))
    return [
        *_add(command, offset, wait)[:5],
        place(once_key(command.key, command.once or "")),
        argument,
        micros(command.once_ttl),
        offset,
        wait,
    ]


def _added(command: Add, row: Row) -> Added:  # noqa: ARG001  # every reply gets its command
    return Added(row[1], _OUTCOMES[row[2]])


# --- claims

_STATUSES: Final = (
    ClaimStatus.GRANTED,
    ClaimStatus.IN_FLIGHT,
    ClaimStatus.COMPLETE,
    ClaimStatus.REUSED,
)


def _claimed(command: Claim, row: Row) -> Claimed:  # noqa: ARG001
    _, status, token, outcome, wait, attempt = row
    kind = _STATUSES[status]
    if kind is ClaimStatus.REUSED:
        return Claimed(kind)
    return Claimed(
        kind,
        token=token if kind is ClaimStatus.GRANTED else 0,
        outcome=bytes(outcome) if kind is ClaimStatus.COMPLETE else None,
        wait=(wait or 0) / 1e6,
        attempt=attempt,
    )


def _held(command: Command[bool], row: Row) -> bool:  # noqa: ARG001
    return bool(row[1])


# --- slots


def channel(name: str) -> str:
    """What listeners to a channel LISTEN to."""
    return "anypod_" + blake2b(_bytes(name), digest_size=16).hexdigest()


def mail_box(mailbox: str) -> str:
    """Under which name the notifications in a mailbox are kept."""
    return sha256(_bytes(mailbox)).hexdigest()


def _acquired(command: Acquire, row: Row) -> Acquired:  # noqa: ARG001
    _, token, position, remaining, held = row
    return Acquired(token, position, (remaining or 0) / 1e6, held)


# --- rate limits

_ALGORITHMS: Final = {
    Algorithm.GCRA: 0,
    Algorithm.FIXED_WINDOW: 1,
    Algorithm.SLIDING_COUNTER: 2,
    Algorithm.SLIDING_LOG: 3,
}


def _take(command: Take, offset: int, wait: int) -> Values:
    policies = command.policies
    return [
        place(command.key),
        [policy_name(policy).encode() for policy in policies],
        [_ALGORITHMS[policy.algorithm] for policy in policies],
        [policy.limit for policy in policies],
        [micros(policy.period) for policy in policies],
        [policy.burst for policy in policies],
        _bounded(command.cost),
        offset,
        wait,
    ]


def _taken(command: Take, row: Row) -> Taken:  # noqa: ARG001
    _, admitted, remaining, resets, retries = row
    return Taken(
        admitted=admitted,
        quotas=tuple(
            Quota(left, reset / 1e6, math.inf if retry < 0 else 0.0 if admitted else retry / 1e6)
            for left, reset, retry in zip(remaining, resets, retries, strict=True)
        ),
    )


# --- documents

_EXISTENCE: Final = {Existence.NEW: 0, Existence.EXISTING: 1, Existence.EITHER: 2}
_PATCHES: Final = (
    PatchOutcome.PATCHED,
    PatchOutcome.MISSING,
    PatchOutcome.EXISTS,
    PatchOutcome.ENDED,
)


def _document(command: ReadDocument, row: Row) -> Document | None:  # noqa: ARG001
    _, version, left, names, parts = row
    if version is None:
        return None
    fields = {_text(name): bytes(part) for name, part in zip(names or (), parts or (), strict=True)}
    return Document(fields, version, None if left is None else left / 1e6)


def _patch(command: PatchDocument, offset: int, wait: int) -> Values:
    return [
        place(command.key),
        [_bytes(name) for name in command.put],
        list(command.put.values()),
        [_bytes(name) for name in command.drop],
        _EXISTENCE[command.existence],
        _optional(command.idle),
        _optional(command.absolute),
        offset,
        wait,
    ]


# --- cache


def _cache_read(command: CacheRead, offset: int, wait: int) -> Values:
    lease = micros(command.lease) or int(command.lease > 0)
    early = min(command.early, 1e150)  # a product that overflows is an error there, not infinity
    return [place(command.key), _bytes(command.schema), lease, early, offset, wait]


def _cache_reply(command: CacheRead, row: Row) -> CacheReply:  # noqa: ARG001
    _, version, payload, soft, hard, load_seconds, lease, lease_left = row
    return CacheReply(
        payload=None if payload is None else bytes(payload),
        version=version or 0,
        stale=payload is not None and soft <= 0,
        soft_left=soft / 1e6,
        hard_left=hard / 1e6,
        load_seconds=load_seconds,
        lease=lease,
        lease_left=(lease_left or 0) / 1e6,
    )


def _cache_fill(command: CacheFill, offset: int, wait: int) -> Values:
    return [
        place(command.key),
        None if command.lease is None else _bounded(command.lease),
        _bytes(command.schema),
        command.payload,
        micros(command.soft),
        micros(command.hard),
        command.load_seconds,
        offset,
        wait,
    ]


ADD_ONCE: Final = Call(
    Function(
        "add_once_v1",
        "text, bigint, bigint, bigint, bigint, text, bytea, bigint, bigint, integer",
        "bigint, integer",
    ),
    _add_once,
    _added,
)

_VACATE: Final = Function("vacate_v1", "text, bigint, bytea, bigint, integer", "boolean")

CALLS: Final[dict[type[Command[Any]], Call]] = {
    Get: Call(
        Function("get_v1", "text, bigint", "bigint, bytea"),
        lambda c, offset, _: [place(c.key), offset],
        lambda _, row: None if row[1] is None else Versioned(bytes(row[2]), row[1]),
    ),
    Put: Call(
        Function(
            "put_v1",
            "text, bytea, bigint, bigint, bigint, bigint, integer",
            "boolean, bigint, bytea",
        ),
        _put,
        _stored,
    ),
    Add: Call(
        Function(
            "add_v1",
            "text, bigint, bigint, bigint, bigint, bigint, integer",
            "bigint, integer",
        ),
        _add,
        _added,
    ),
    Scan: Call(
        Function("scan_v1", "text, text, integer, bigint", "bytea[], bigint[], bytea[]"),
        lambda c, offset, _: [c.key, c.after, c.limit, offset],
        _page,
    ),
    Total: Call(
        Function("total_v1", "text, bigint", "bigint"),
        lambda c, offset, _: [place(c.key), offset],
        lambda _, row: row[1],
    ),
    Claim: Call(
        Function(
            "claim_v1",
            "text, bytea, bigint, bigint, bigint, integer",
            "integer, bigint, bytea, bigint, integer",
        ),
        lambda c, offset, wait: [
            place(c.key),
            _bytes(c.fingerprint),
            micros(c.lease),
            micros(c.ttl),
            offset,
            wait,
        ],
        _claimed,
    ),
    Renew: Call(
        Function("renew_v1", "text, bigint, bigint, bigint, integer", "boolean"),
        lambda c, offset, wait: [place(c.key), _bounded(c.token), micros(c.lease), offset, wait],
        _held,
    ),
    Complete: Call(
        Function("complete_v1", "text, bigint, bytea, bigint, bigint, integer", "boolean"),
        lambda c, offset, wait: [
            place(c.key),
            _bounded(c.token),
            c.outcome,
            micros(c.ttl),
            offset,
            wait,
        ],
        _held,
    ),
    Abandon: Call(
        Function("abandon_v1", "text, bigint, bigint, integer", "boolean"),
        lambda c, offset, wait: [place(c.key), _bounded(c.token), offset, wait],
        _held,
    ),
    Acquire: Call(
        Function(
            "acquire_v1",
            "text, bytea, bigint, bigint, bigint, bigint, integer",
            "bigint, integer, bigint, integer",
        ),
        lambda c, offset, wait: [
            place(c.key),
            _bytes(c.waiter),
            micros(c.lease),
            micros(c.patience),
            c.limit,
            offset,
            wait,
        ],
        _acquired,
    ),
    Release: Call(
        _VACATE,
        lambda c, offset, wait: [place(c.key), _bounded(c.token), None, offset, wait],
        _held,
    ),
    Withdraw: Call(
        _VACATE,
        lambda c, offset, wait: [place(c.key), None, _bytes(c.waiter), offset, wait],
        _held,
    ),
    Take: Call(
        Function(
            "take_v1",
            "text, bytea[], bigint[], bigint[], bigint[], bigint[], bigint, bigint, integer",
            "boolean, bigint[], bigint[], bigint[]",
        ),
        _take,
        _taken,
    ),
    Publish: Call(
        Function("publish_v1", "text, bytea", ""),
        lambda c, _offset, _wait: [channel(c.key), c.message],
        lambda _command, _row: None,
    ),
    ReadDocument: Call(
        Function(
            "read_document_v1",
            "text, bigint, bigint, integer",
            "bigint, bigint, bytea[], bytea[]",
        ),
        lambda c, offset, wait: [place(c.key), _optional(c.touch), offset, wait],
        _document,
    ),
    PatchDocument: Call(
        Function(
            "patch_document_v1",
            "text, bytea[], bytea[], bytea[], integer, bigint, bigint, bigint, integer",
            "integer, bigint",
        ),
        _patch,
        lambda _, row: Patched(_PATCHES[row[1]], row[2]),
    ),
    EndDocument: Call(
        Function("end_document_v1", "text, bigint, bigint, integer", "boolean"),
        lambda c, offset, wait: [place(c.key), micros(c.keep), offset, wait],
        _held,
    ),
    CacheRead: Call(
        Function(
            "cache_read_v1",
            "text, bytea, bigint, double precision, bigint, integer",
            "bigint, bytea, bigint, bigint, double precision, bigint, bigint",
        ),
        _cache_read,
        _cache_reply,
    ),
    CacheFill: Call(
        Function(
            "cache_fill_v1",
            "text, bigint, bytea, bytea, bigint, bigint, double precision, bigint, integer",
            "boolean, bigint",
        ),
        _cache_fill,
        lambda _, row: Filled(accepted=row[1], version=row[2]),
    ),
    CacheInvalidate: Call(
        Function("cache_invalidate_v1", "text, bigint, bigint, integer", "bigint"),
        lambda c, offset, wait: [place(c.key), micros(c.keep), offset, wait],
        lambda _, row: row[1],
    ),
    CacheRelease: Call(
        Function("cache_release_v1", "text, bigint, bigint, integer", "boolean"),
        lambda c, offset, wait: [place(c.key), _bounded(c.lease), offset, wait],
        _held,
    ),
}


def call_for(command: Command[Any]) -> Call:
    """The call that carries out this command."""
    if type(command) is Add and command.once is not None:
        return ADD_ONCE
    return CALLS[type(command)]


def answer(call: Call, command: Command[Any], row: Row) -> Any:
    """The reply to a command, given the row that came back.

    Raises:
        WrongRecord: something else stands at the key.
    """
    if row[0] is not None:
        raise refuse(command, row[0])
    return call.reply(command, row)
