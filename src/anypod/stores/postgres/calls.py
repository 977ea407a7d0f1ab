"""Commands as function calls: what each sends, and what its reply means.

A command is a call of one function of the schema (`v1/`): the key first, then the command's own
values, then the clock's offset and, where the function takes the lock, how long to wait for it. The
values are Python objects: our own connections pack them (`binary.py`), somebody else's cursor takes them
as they are.

Invariants:
    - durations become integer microseconds here, rounded as the specification rounds them;
    - a value beyond what a column holds is brought to its edge, where the answer is the same;
    - text that callers choose travels as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from msgspec import msgpack

from anypod import commands as c
from anypod.stores.postgres.binary import Function, Row, Values
from anypod.stores.postgres.names import as_bytes, as_text, channel_name, place
from anypod.stores.specification import WrongRecord, once_key
from anypod.stores.specification.limits import policy_name

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


def _keep(command: Any, offset: int, wait: int) -> Values:
    return [place(command.key), micros(command.keep), offset, wait]


def _number(command: c.Command[int], row: Row) -> int:  # noqa: ARG001  # every reply gets its command
    return int(row[1])


def refuse(command: c.Command[Any], fault: int) -> WrongRecord:
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


def _put(command: c.Put, offset: int, wait: int) -> Values:
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


def _stored(command: c.Put, row: Row) -> c.Stored:
    _, written, version, payload = row
    if not written:
        current = None if version is None else c.Versioned(bytes(payload), version)
        return c.Stored(written=False, current=current)
    if command.value is None:
        return c.Stored(written=True, current=None)
    return c.Stored(written=True, current=c.Versioned(command.value, version))


def _page(command: c.Scan, row: Row) -> c.Page:
    _, keys, versions, payloads = row
    items = tuple(
        (as_text(key), c.Versioned(bytes(payload), version))
        for key, version, payload in zip(keys or (), versions or (), payloads or (), strict=True)
    )
    return c.Page(items, items[-1][0] if len(items) == command.limit else None)


# --- counters

_OUTCOMES: Final = tuple(c.AddOutcome)


def _add(command: c.Add, offset: int, wait: int) -> Values:
    return [
        place(command.key),
        _bounded(command.by),
        _bounded(command.floor),
        _bounded(command.ceiling),
        _optional(command.ttl),
        _optional(command.window),
        offset,
        wait,
    ]


def _add_once(command: c.Add, offset: int, wait: int) -> Values:
    argument = msgpack.encode((command.by, command.floor, command.ceiling))
    return [
        *_add(command, offset, wait)[:6],
        place(once_key(command.key, command.once or "")),
        argument,
        micros(command.once_ttl),
        offset,
        wait,
    ]


def _added(command: c.Add, row: Row) -> c.Added:
    (number,) = row
    if -_EDGE <= number <= _EDGE:
        return c.Added(number, c.AddOutcome.ADDED)
    if number < 0:
        raise refuse(command, -(2**62) - number)
    return c.Added(number - 2**62 - 1, c.AddOutcome.REFUSED)


def _added_once(command: c.Add, row: Row) -> c.Added:  # noqa: ARG001  # every reply gets its command
    return c.Added(row[1], _OUTCOMES[row[2]])


# --- claims

_STATUSES: Final = tuple(c.ClaimStatus)  # the functions count them as they are defined


def _claimed(command: c.Claim, row: Row) -> c.Claimed:  # noqa: ARG001
    _, status, token, outcome, wait, attempt = row
    kind = _STATUSES[status]
    if kind is c.ClaimStatus.REUSED:
        return c.Claimed(kind)
    return c.Claimed(
        kind,
        token=token if kind is c.ClaimStatus.GRANTED else 0,
        outcome=bytes(outcome) if kind is c.ClaimStatus.COMPLETE else None,
        wait=(wait or 0) / 1e6,
        attempt=attempt,
    )


def _inspected(command: c.Inspect, row: Row) -> c.Claimed | None:  # noqa: ARG001
    _, status, token, outcome, wait, attempt = row
    if status is None:
        return None
    kind = _STATUSES[status]
    if kind is c.ClaimStatus.COMPLETE:
        return c.Claimed(kind, token, bytes(outcome), attempt=attempt)
    return c.Claimed(kind, token, wait=wait / 1e6, attempt=attempt)


def _held(command: c.Command[bool], row: Row) -> bool:  # noqa: ARG001
    return bool(row[1])


# --- slots


def _acquired(command: c.Acquire, row: Row) -> c.Acquired:  # noqa: ARG001
    _, token, position, remaining, held = row
    return c.Acquired(token, position, (remaining or 0) / 1e6, held)


# --- rate limits

_ALGORITHMS: Final = {algorithm: place for place, algorithm in enumerate(c.Algorithm)}
_POLICIES: Final = "bytea[], bigint[], bigint[], bigint[], bigint[], bigint, bigint, integer"
_STANDINGS: Final = "boolean, bigint[], bigint[], bigint[]"


def _take(command: c.Take, offset: int, wait: int) -> Values:
    policies = [
        (policy_name(p).encode(), _ALGORITHMS[p.algorithm], p.limit, micros(p.period), p.burst)
        for p in command.policies
    ]
    columns = map(list, zip(*policies, strict=True))
    return [place(command.key), *columns, _bounded(command.cost), offset, wait]


def _take_all(command: c.TakeAll, offset: int, wait: int) -> Values:
    policies = [policy for _, each in command.subjects for policy in each]
    return [
        [place(key).encode() for key, _ in command.subjects],
        [len(each) for _, each in command.subjects],
        *_take(c.Take(command.key, tuple(policies), command.cost), offset, wait)[1:],
    ]


def _taken(command: c.Command[c.Taken], row: Row) -> c.Taken:  # noqa: ARG001
    _, admitted, remaining, resets, retries = row
    quotas = tuple(
        c.Quota(left, reset / 1e6, math.inf if retry < 0 else 0.0 if admitted else retry / 1e6)
        for left, reset, retry in zip(remaining, resets, retries, strict=True)
    )
    return c.Taken(admitted=admitted, quotas=quotas)


# --- documents

_EXISTENCE: Final = {c.Existence.NEW: 0, c.Existence.EXISTING: 1, c.Existence.EITHER: 2}
_PATCHES: Final = tuple(c.PatchOutcome)


def _document(command: c.ReadDocument, row: Row) -> c.Document | None:  # noqa: ARG001
    _, version, left, names, parts = row
    if version is None:
        return None
    fields = {
        as_text(name): bytes(part) for name, part in zip(names or (), parts or (), strict=True)
    }
    return c.Document(fields, version, None if left is None else left / 1e6)


def _patch(command: c.PatchDocument, offset: int, wait: int) -> Values:
    return [
        place(command.key),
        [as_bytes(name) for name in command.put],
        list(command.put.values()),
        [as_bytes(name) for name in command.drop],
        _EXISTENCE[command.existence],
        _optional(command.idle),
        _optional(command.absolute),
        offset,
        wait,
    ]


# --- cache


def _cache_read(command: c.CacheRead, offset: int, wait: int) -> Values:
    lease = micros(command.lease) or int(command.lease > 0)
    early = min(command.early, 1e150)  # a product that overflows is an error there, not infinity
    return [place(command.key), as_bytes(command.schema), lease, early, offset, wait]


def _cache_reply(command: c.CacheRead, row: Row) -> c.CacheReply:  # noqa: ARG001
    _, version, payload, soft, hard, load_seconds, lease, lease_left = row
    return c.CacheReply(
        payload=None if payload is None else bytes(payload),
        version=version or 0,
        stale=payload is not None and soft <= 0,
        soft_left=soft / 1e6,
        hard_left=hard / 1e6,
        load_seconds=load_seconds,
        lease=lease,
        lease_left=(lease_left or 0) / 1e6,
    )


def _cache_fill(command: c.CacheFill, offset: int, wait: int) -> Values:
    return [
        place(command.key),
        None if command.lease is None else _bounded(command.lease),
        as_bytes(command.schema),
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
        "text, bigint, bigint, bigint, bigint, bigint, text, bytea, bigint, bigint, integer",
        "bigint, integer",
    ),
    _add_once,
    _added_once,
)

_VACATE: Final = Function("vacate_v1", "text, bigint, bytea, bigint, integer", "boolean")

CALLS: Final[dict[type[c.Command[Any]], Call]] = {
    c.Get: Call(
        Function("get_v1", "text, bigint", "bigint, bytea"),
        lambda q, offset, _: [place(q.key), offset],
        lambda _, row: None if row[1] is None else c.Versioned(bytes(row[2]), row[1]),
    ),
    c.Put: Call(
        Function(
            "put_v1",
            "text, bytea, bigint, bigint, bigint, bigint, integer",
            "boolean, bigint, bytea",
        ),
        _put,
        _stored,
    ),
    c.Add: Call(
        Function("add_v2", f"text{', bigint' * 6}, integer", "bigint", faults=False),
        _add,
        _added,
    ),
    c.Scan: Call(
        Function("scan_v1", "text, text, integer, bigint", "bytea[], bigint[], bytea[]"),
        lambda q, offset, _: [q.key, q.after, q.limit, offset],
        _page,
    ),
    c.Total: Call(
        Function("total_v1", "text, bigint", "bigint"),
        lambda q, offset, _: [place(q.key), offset],
        _number,
    ),
    c.Claim: Call(
        Function(
            "claim_v1",
            "text, bytea, bigint, bigint, bigint, integer",
            "integer, bigint, bytea, bigint, integer",
        ),
        lambda q, offset, wait: [
            place(q.key),
            as_bytes(q.fingerprint),
            micros(q.lease),
            micros(q.ttl),
            offset,
            wait,
        ],
        _claimed,
    ),
    c.Renew: Call(
        Function("renew_v1", "text, bigint, bigint, bigint, integer", "boolean"),
        lambda q, offset, wait: [place(q.key), _bounded(q.token), micros(q.lease), offset, wait],
        _held,
    ),
    c.Complete: Call(
        Function("complete_v1", "text, bigint, bytea, bigint, bigint, integer", "boolean"),
        lambda q, offset, wait: [
            place(q.key),
            _bounded(q.token),
            q.outcome,
            micros(q.ttl),
            offset,
            wait,
        ],
        _held,
    ),
    c.Abandon: Call(
        Function("abandon_v1", "text, bigint, bigint, integer", "boolean"),
        lambda q, offset, wait: [place(q.key), _bounded(q.token), offset, wait],
        _held,
    ),
    c.Inspect: Call(
        Function("inspect_v1", "text, bigint", "integer, bigint, bytea, bigint, integer"),
        lambda q, offset, _: [place(q.key), offset],
        _inspected,
    ),
    c.Acquire: Call(
        Function(
            "acquire_v1",
            "text, bytea, bigint, bigint, bigint, bigint, integer",
            "bigint, integer, bigint, integer",
        ),
        lambda q, offset, wait: [
            place(q.key),
            as_bytes(q.waiter),
            micros(q.lease),
            micros(q.patience),
            q.limit,
            offset,
            wait,
        ],
        _acquired,
    ),
    c.Release: Call(
        _VACATE,
        lambda q, offset, wait: [place(q.key), _bounded(q.token), None, offset, wait],
        _held,
    ),
    c.Withdraw: Call(
        _VACATE,
        lambda q, offset, wait: [place(q.key), None, as_bytes(q.waiter), offset, wait],
        _held,
    ),
    c.Take: Call(Function("take_v1", f"text, {_POLICIES}", _STANDINGS), _take, _taken),
    c.TakeAll: Call(
        Function("take_all_v2", f"bytea[], bigint[], {_POLICIES}", _STANDINGS), _take_all, _taken
    ),
    c.Publish: Call(
        Function("publish_v1", "text, bytea", ""),
        lambda q, _offset, _wait: [channel_name(q.key), q.message],
        lambda _command, _row: None,
    ),
    c.ReadDocument: Call(
        Function(
            "read_document_v1",
            "text, bigint, bigint, integer",
            "bigint, bigint, bytea[], bytea[]",
        ),
        lambda q, offset, wait: [place(q.key), _optional(q.touch), offset, wait],
        _document,
    ),
    c.PatchDocument: Call(
        Function(
            "patch_document_v1",
            "text, bytea[], bytea[], bytea[], integer, bigint, bigint, bigint, integer",
            "integer, bigint",
        ),
        _patch,
        lambda _, row: c.Patched(_PATCHES[row[1]], row[2]),
    ),
    c.EndDocument: Call(
        Function("end_document_v1", "text, bigint, bigint, integer", "boolean"),
        _keep,
        _held,
    ),
    c.CacheRead: Call(
        Function(
            "cache_read_v1",
            "text, bytea, bigint, double precision, bigint, integer",
            "bigint, bytea, bigint, bigint, double precision, bigint, bigint",
        ),
        _cache_read,
        _cache_reply,
    ),
    c.CacheFill: Call(
        Function(
            "cache_fill_v1",
            "text, bigint, bytea, bytea, bigint, bigint, double precision, bigint, integer",
            "boolean, bigint",
        ),
        _cache_fill,
        lambda _, row: c.Filled(accepted=row[1], version=row[2]),
    ),
    c.CacheInvalidate: Call(
        Function("cache_invalidate_v1", "text, bigint, bigint, integer", "bigint"),
        _keep,
        _number,
    ),
    c.CacheVersion: Call(
        Function("cache_version_v2", "text, bigint, bigint, integer", "bigint"),
        _keep,
        _number,
    ),
    c.CacheRelease: Call(
        Function("cache_release_v1", "text, bigint, bigint, integer", "boolean"),
        lambda q, offset, wait: [place(q.key), _bounded(q.lease), offset, wait],
        _held,
    ),
}


def call_for(command: c.Command[Any]) -> Call:
    """The call that carries out this command."""
    if type(command) is c.Add and command.once is not None:
        return ADD_ONCE
    return CALLS[type(command)]


def answer(call: Call, command: c.Command[Any], row: Row) -> Any:
    """The reply to a command, given the row that came back.

    Raises:
        WrongRecord: something else stands at the key.
    """
    if row[0] is not None and call.function.faults:
        raise refuse(command, row[0])
    return call.reply(command, row)
