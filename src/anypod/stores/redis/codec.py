"""Commands as Redis requests, replies as Python values: the scripts' other half.

Invariants:
    - one command is one request: EVALSHA of its script on the keys of one cluster slot;
    - durations leave as whole µs, and no clock of this machine takes part;
    - integers are exact: everything that passes through Lua's doubles stays within ±(2⁵³−1).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from msgspec import Struct, msgpack

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
    CacheVersion,
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
    Inspect,
    Page,
    PatchDocument,
    Patched,
    PatchOutcome,
    Policy,
    Publish,
    Put,
    Quota,
    ReadDocument,
    Release,
    Renew,
    Scan,
    Stored,
    Take,
    TakeAll,
    Taken,
    Total,
    Versioned,
    Withdraw,
)
from anypod.stores.specification.limits import policy_name

Part = str | bytes | int

_ADD_OUTCOMES: Final = (AddOutcome.ADDED, AddOutcome.REFUSED, AddOutcome.REUSED)
_CLAIM_STATUSES: Final = (
    ClaimStatus.GRANTED,
    ClaimStatus.IN_FLIGHT,
    ClaimStatus.COMPLETE,
    ClaimStatus.REUSED,
)
_PATCH_OUTCOMES: Final = (
    PatchOutcome.PATCHED,
    PatchOutcome.MISSING,
    PatchOutcome.EXISTS,
    PatchOutcome.ENDED,
)
_ALGORITHMS: Final = {
    Algorithm.GCRA: 1,
    Algorithm.FIXED_WINDOW: 2,
    Algorithm.SLIDING_COUNTER: 3,
    Algorithm.SLIDING_LOG: 4,
}
_EXISTENCES: Final = (Existence.NEW, Existence.EXISTING, Existence.EITHER)


def bulk(part: Part) -> bytes:
    """One part of a request."""
    if isinstance(part, bytes):
        return b"$%d\r\n%b\r\n" % (len(part), part)
    encoded = str(part).encode("utf-8", "surrogatepass")
    return b"$%d\r\n%b\r\n" % (len(encoded), encoded)


def request(*parts: Part) -> bytes:
    """A request of these parts."""
    return b"*%d\r\n%b" % (len(parts), b"".join(map(bulk, parts)))


class Script:
    """A command's script and the beginning of the request that runs it.

    Args:
        name: the script's file.
        before: the files that stand before it.
    """

    def __init__(self, name: str, *before: str) -> None:
        folder = files(__package__) / "lua"
        self.name = name
        self.text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in (*before, name))
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        self.load = request("SCRIPT", "LOAD", self.text)
        self._evalsha = bulk("EVALSHA") + bulk(self.sha)

    def head(self, keys: int, arguments: int) -> bytes:
        """Everything before the keys, for so many keys and arguments."""
        return b"*%d\r\n%b$1\r\n%d\r\n" % (3 + keys + arguments, self._evalsha, keys)

    def call(self, key: str, arguments: Iterable[Part]) -> bytes:
        """The request that runs the script on one key."""
        tail = [bulk(argument) for argument in arguments]
        return self.head(1, len(tail)) + bulk(key) + b"".join(tail)


class Codec(Struct, frozen=True):
    """How one type of command leaves and its reply comes back.

    `encode(command, offset)` gives the whole request; `offset` is the clock's, in µs.
    """

    script: Script
    encode: Callable[[Any, int], bytes]
    decode: Callable[[Any], Any]


def micros(seconds: float | None) -> Part:
    """A duration in whole µs, empty for ever."""
    return "" if seconds is None else round(seconds * 1_000_000)


def _lasting(*durations: float | None) -> Iterable[Part]:
    return map(micros, durations)


# --- counters: the commonest command, so its request is put together from prepared pieces


_ADD: Final = Script("add", "prelude")
_ADD_HEAD: Final = _ADD.head(1, 5)
_ADD_ONCE_HEAD: Final = _ADD.head(2, 6)


@lru_cache(maxsize=1024)
def _add_tail(
    offset: int, by: int, floor: int, ceiling: int, ttl: float | None, window: float | None
) -> bytes:
    lives = micros(ttl) if window is None else f"/{round(window * 1_000_000)}"
    return b"".join(map(bulk, (offset, by, floor, ceiling, lives)))


def _encode_add(command: Add, offset: int) -> bytes:
    tail = _add_tail(
        offset, command.by, command.floor, command.ceiling, command.ttl, command.window
    )
    if command.once is None:
        key = command.key.encode()
        return b"%b$%d\r\n%b\r\n%b" % (_ADD_HEAD, len(key), key, tail)
    place = f"{{{command.key}}}#{command.once}"  # the braces keep it in the counter's own slot
    keys = bulk(command.key) + bulk(place)
    return _ADD_ONCE_HEAD + keys + tail + bulk(micros(command.once_ttl))


def _decode_add(reply: Any) -> Added:
    if type(reply) is int:
        return Added(reply, AddOutcome.ADDED)
    value, outcome = reply
    return Added(value, _ADD_OUTCOMES[outcome])


# --- the other commands: their arguments and their replies


def _versioned(reply: Any) -> Versioned | None:
    return None if reply is None else Versioned(reply[0], reply[1])


def _put(command: Put) -> tuple[Part, ...]:
    mode, value = ("delete", b"") if command.value is None else ("put", command.value)
    expect = "" if command.expect is None else command.expect
    return mode, value, micros(command.ttl), expect, command.fence


def _stored(reply: Any) -> Stored:
    return Stored(written=reply[0] == 1, current=_versioned(reply[1]))


def _claimed(reply: Any) -> Claimed:
    status, token, outcome, wait, attempt = reply
    return Claimed(_CLAIM_STATUSES[status], token, outcome, wait / 1e6, attempt)


def _inspected(reply: Any) -> Claimed | None:
    return None if reply is None else _claimed(reply)


# The fields of a document are MessagePack on the server too, which joins them and takes them apart by name.
_fields_of: Final = msgpack.Decoder(dict[str, bytes]).decode
_entries_of: Final = msgpack.Encoder().encode
_MAP_HEADS: Final = {
    0xDE: 3,
    0xDF: 5,
}  # bytes before a map's first entry; those of a small one are 1
_times_of: Final = struct.Struct(">14xdxd").unpack_from  # version and absolute deadline
_now_of: Final = struct.Struct(">d").unpack_from
_MAP_AT: Final = 37  # in a document: its record ends and its fields begin


def _document(reply: Any) -> Document | None:
    if reply is None:
        return None
    version, absolute = _times_of(reply)
    fields = _fields_of(memoryview(reply)[_MAP_AT:-8])
    if absolute == math.inf:
        return Document(fields, int(version), None)
    (now,) = _now_of(reply, len(reply) - 8)
    return Document(fields, int(version), (absolute - now) / 1e6)


_PATCH: Final = Script("patch_document", "documents")


@lru_cache(maxsize=1024)
def _patch_terms(
    offset: int, existence: int, idle: float | None, absolute: float | None, drops: int
) -> tuple[bytes, bytes]:
    terms = (offset, existence, micros(idle), micros(absolute))
    return _PATCH.head(1, 6 + drops), b"".join(map(bulk, terms))


def _encode_patch(command: PatchDocument, offset: int) -> bytes:
    put, drop = command.put, command.drop
    existence = (
        1 if command.existence is Existence.EXISTING else _EXISTENCES.index(command.existence)
    )
    head, terms = _patch_terms(offset, existence, command.idle, command.absolute, len(drop))
    key = command.key.encode()
    entries = _entries_of(put)
    entries = entries[_MAP_HEADS.get(entries[0], 1) :]
    number = b"%d" % len(put)
    return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
        head,
        len(key),
        key,
        terms,
        len(number),
        number,
        len(entries),
        entries,
        b"".join(map(bulk, drop)),
    )


def _patched(reply: Any) -> Patched:
    if type(reply) is int:
        return Patched(PatchOutcome.PATCHED, reply)
    return Patched(_PATCH_OUTCOMES[reply[0]])


def _cache_reply(reply: Any) -> CacheReply:
    payload, version, soft_left, hard_left, load_seconds, lease, lease_left = reply
    return CacheReply(
        payload=payload,
        version=version,
        stale=payload is not None and soft_left <= 0,
        soft_left=soft_left / 1e6,
        hard_left=hard_left / 1e6,
        load_seconds=float(load_seconds),
        lease=lease,
        lease_left=lease_left / 1e6,
    )


def _fill(command: CacheFill) -> tuple[Part, ...]:
    return (
        "" if command.lease is None else command.lease,
        command.schema,
        command.payload,
        micros(command.soft),
        micros(command.hard),
        repr(command.load_seconds),
    )


def _filled(reply: Any) -> Filled:
    return Filled(accepted=reply[0] == 1, version=reply[1])


def _truth(reply: Any) -> bool:
    return bool(reply == 1)


def _number(reply: Any) -> int:
    return int(reply)


def _nothing(reply: Any) -> None:  # noqa: ARG001  # how many heard it is nobody's business
    return None


def _acquired(reply: Any) -> Acquired:
    token, position, wait, held = reply
    return Acquired(token, position, wait / 1e6, held)


def _policies(policies: Iterable[Policy]) -> Iterable[Part]:
    for policy in policies:
        yield policy_name(policy)
        yield _ALGORITHMS[policy.algorithm]
        yield policy.limit
        yield micros(policy.period)
        yield policy.burst


_TAKE_ALL: Final = Script("take_all", "prelude", "policies")


def _encode_take_all(command: TakeAll, offset: int) -> bytes:
    arguments: list[Part] = [offset, command.cost]
    for _, policies in command.subjects:
        arguments += (len(policies), *_policies(policies))
    parts = [bulk(key) for key, _ in command.subjects] + [bulk(each) for each in arguments]
    return _TAKE_ALL.head(len(command.subjects), len(arguments)) + b"".join(parts)


def _taken(reply: Any) -> Taken:
    quotas = tuple(
        [
            Quota(
                reply[at],
                reply[at + 1] / 1e6,
                math.inf if reply[at + 2] < 0 else reply[at + 2] / 1e6,
            )
            for at in range(1, len(reply), 3)
        ]
    )
    return Taken(reply[0] == 1, quotas)


def _scan(command: Scan) -> tuple[Part, ...]:
    pattern = re.sub(r"([*?\[\]^\\-])", r"\\\1", command.key) + "*"
    server, _, cursor = command.after.partition(":")
    return cursor or "0", pattern, max(1, command.limit), server


_SCAN: Final = Script("scan", "prelude")


def _encode_scan(command: Scan, offset: int) -> bytes:
    # No key is named: on a cluster each node is asked for its own.
    return _SCAN.head(0, 5) + b"".join(map(bulk, (offset, *_scan(command))))


def _page(reply: Any) -> Page:
    cursor, server, *parts = reply
    items = tuple(
        (key.decode(), Versioned(value, version))
        for key, value, version in zip(*(parts[n::3] for n in range(3)), strict=True)
    )
    return Page(items, None if cursor == b"0" else f"{server.decode()}:{cursor.decode()}")


def _codec(
    name: str,
    arguments: Callable[[Any], Iterable[Part]],
    decode: Callable[[Any], Any],
    *before: str,
) -> Codec:
    script = Script(name, *(before or ("prelude",)))

    def encode(command: Command[Any], offset: int) -> bytes:
        return script.call(command.key, (offset, *arguments(command)))

    return Codec(script, encode, decode)


def _busy(
    name: str,
    standing: Callable[[Any], tuple[Any, ...]],
    render: Callable[..., Iterable[Part]],
    decode: Callable[[Any], Any],
    *before: str,
    varying: Callable[[Any], bytes] | None = None,
    number: int = 0,
) -> Codec:
    """The codec of a command that requests wait for: what a primitive says each time is rendered once.

    Args:
        name: the script's file.
        standing: what many commands have in common.
        render: those values as the first arguments.
        decode: reads the reply.
        before: the files that stand before it; if none are named, the prelude does.
        varying: the arguments that follow, as bytes.
        number: of those.
    """
    script = Script(name, *(before or ("prelude",)))

    @lru_cache(maxsize=1024)
    def rendered(offset: int, values: tuple[Any, ...]) -> tuple[bytes, bytes]:
        parts = [offset, *render(*values)]
        return script.head(1, len(parts) + number), b"".join(map(bulk, parts))

    def encode(command: Command[Any], offset: int) -> bytes:
        head, tail = rendered(offset, standing(command))
        key = command.key.encode()
        if varying is None:
            return b"%b$%d\r\n%b\r\n%b" % (head, len(key), key, tail)
        return b"%b$%d\r\n%b\r\n%b%b" % (head, len(key), key, tail, varying(command))

    return Codec(script, encode, decode)


CODECS: Final[dict[type[Command[Any]], Codec]] = {
    Add: Codec(_ADD, _encode_add, _decode_add),
    Total: _codec("total", lambda _: (), _number),
    Get: _codec("get", lambda _: (), _versioned),
    Put: _codec("put", _put, _stored),
    Claim: _busy(
        "claim",
        lambda c: (c.lease, c.ttl),
        _lasting,
        _claimed,
        varying=lambda c: bulk(c.fingerprint),
        number=1,
    ),
    Scan: Codec(_SCAN, _encode_scan, _page),
    Renew: _codec("renew", lambda c: (c.token, micros(c.lease)), _truth, "prelude", "slots"),
    Complete: _busy(
        "complete",
        lambda c: (c.ttl,),
        _lasting,
        _truth,
        varying=lambda c: bulk(c.token) + bulk(c.outcome),
        number=2,
    ),
    Abandon: _codec("abandon", lambda c: (c.token,), _truth),
    Inspect: _codec("inspect", lambda _: (), _inspected),
    ReadDocument: _busy("read_document", lambda c: (c.touch,), _lasting, _document, "documents"),
    PatchDocument: Codec(_PATCH, _encode_patch, _patched),
    EndDocument: _codec("end_document", lambda c: (micros(c.keep),), _truth, "documents"),
    CacheRead: _codec(
        "cache_read", lambda c: (c.schema, micros(c.lease), repr(c.early)), _cache_reply
    ),
    CacheFill: _codec("cache_fill", _fill, _filled),
    CacheInvalidate: _codec("cache_invalidate", lambda c: (micros(c.keep),), _number),
    CacheVersion: _codec("cache_version", lambda c: (micros(c.keep),), _number),
    CacheRelease: _codec("cache_release", lambda c: (c.lease,), _truth),
    Take: _busy(
        "take",
        lambda c: (c.cost, c.policies),
        lambda cost, policies: (cost, *_policies(policies)),
        _taken,
        "prelude",
        "policies",
    ),
    TakeAll: Codec(_TAKE_ALL, _encode_take_all, _taken),
    Acquire: _busy(
        "acquire",
        lambda c: (c.limit, c.lease, c.patience),
        lambda limit, *durations: (limit, *_lasting(*durations)),
        _acquired,
        "prelude",
        "slots",
        varying=lambda c: bulk(c.waiter),
        number=1,
    ),
    Release: _busy(
        "release",
        lambda _: (),
        _lasting,
        _truth,
        "prelude",
        "slots",
        varying=lambda c: bulk(c.token),
        number=1,
    ),
    Withdraw: _codec("withdraw", lambda c: (c.waiter,), _truth, "prelude", "slots"),
    Publish: _codec("publish", lambda c: (c.message,), _nothing),
}
