"""The records of a store, and the table that they are in.

Times are integers: microseconds of the store's clock. A record with `deadline <= now` does not exist; the
table's `load` already answers None for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from msgspec import MsgspecError, Struct, msgpack

from anypod.commands import Command

T = TypeVar("T")

FORMAT: Final = 1  # of a stored record; a reader knows this version and the one before
_MARK: Final = bytes([FORMAT])


class ValueRecord(Struct, tag="v", array_like=True):
    """A versioned value, and the largest fencing token that has written it."""

    value: bytes
    version: int
    deadline: int | None
    fence: int = 0


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


class TakeRecord(Struct, tag="t", array_like=True):
    """The state of each policy of a subject, by what the policy is.

    GCRA: the theoretical arrival time. Windows: the window's number, its count, the count before.
    Log: pairs of a moment and a cost, oldest first.
    """

    policies: dict[str, list[int]]
    deadline: int | None


class SlotsRecord(Struct, tag="s", array_like=True):
    """Who holds slots, and who waits for one, in order.

    A holder is (token, lease until, waiter), a waiter is (name, until when it is taken for alive).
    """

    last: int
    holders: list[tuple[int, int, str]]
    queue: list[tuple[str, int]]
    deadline: int | None


Record: TypeAlias = (
    ValueRecord
    | CounterRecord
    | OnceRecord
    | ClaimRecord
    | DocumentRecord
    | CacheRecord
    | TakeRecord
    | SlotsRecord
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
    except (MsgspecError, UnicodeDecodeError, RecursionError) as failure:
        raise WrongRecord(f"the record at {key!r} cannot be read: {failure}") from failure


class Table(Protocol):
    """Where the records are: inside one transaction, nobody else sees or changes them."""

    def load(self, key: str) -> Record | None:
        """The record at `key`, None if there is none or its deadline has passed."""

    def save(self, key: str, record: Record) -> None:
        """Write the record at `key`."""

    def remove(self, key: str) -> None:
        """Delete the record at `key`, if there is one."""

    def walk(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        """Up to `limit` records whose keys begin with `prefix` and sort after `after`, in order."""

    def notify(self, mailbox: str) -> None:
        """Put a notification into a mailbox: once the transaction is done, a waiter finds it there."""

    def publish(self, channel: str, message: bytes) -> None:
        """Send a message to all who listen to the channel, once the transaction is done."""


class WrongRecord(Exception):
    """A record of another kind stands at the key; the store wraps this in `RecordError`."""


Rules: TypeAlias = dict[type[Command[Any]], Callable[[Any, Table, int], Any]]


def once_key(key: str, once: str) -> str:
    """Where the reply to an operation id is kept: in the record's own slot."""
    return f"{key}#{once}"


def micros(seconds: float) -> int:
    """Seconds as microseconds."""
    return round(seconds * 1_000_000)


def deadline_after(now: int, seconds: float | None) -> int | None:
    """When a duration that begins now ends; None for ever."""
    return None if seconds is None else now + micros(seconds)


def end_of_window(now: int, seconds: float) -> int:
    """When the current window of this length ends; windows lie end to end from the epoch on."""
    length = micros(seconds)
    return now - now % length + length


def sooner(first: int | None, second: int | None) -> int | None:
    """The nearer of two deadlines."""
    if first is None or second is None:
        return first if second is None else second
    return min(first, second)


def next_version(last: int, now: int) -> int:
    """A version or token that is larger than the last one, also when the last one is forgotten."""
    return max(last + 1, now)


def load(table: Table, key: str, kind: type[T]) -> T | None:
    """The record at `key`, which must be of this kind."""
    record = table.load(key)
    if record is None or isinstance(record, kind):
        return record
    raise WrongRecord(f"the record at {key!r} is a {type(record).__name__}, not a {kind.__name__}")
