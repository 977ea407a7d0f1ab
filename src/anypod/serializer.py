"""Values as bytes: one serializer, data only.

A stored value opens with one byte, the version of its format; a reader knows this version and the one
before, because a rolling deploy runs both. What follows is MessagePack. Nothing that is read back can
run code.

Without a type, what goes in must come out equal: None, bool, int, float, str, bytes, datetime, and lists
and string-keyed dicts of these. Tuples, sets, UUIDs, dataclasses and the like would come back as
something else, so they are refused unless a `type` is given to decode into.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec import msgpack

T = TypeVar("T")

FORMAT: Final = b"\x01"
LARGEST: Final = 8 * 1024 * 1024  # bytes of an encoded value

_EXACT: Final = frozenset({type(None), bool, int, float, str, bytes, datetime})
_encode: Final = msgpack.Encoder().encode


class Undecodable(ValueError):
    """Bytes that are not a value of the wanted type in a known format."""


class Serializer(Generic[T]):
    """Turns values of one type into bytes and back.

    Args:
        type: what to decode into (a dataclass, a `TypedDict`, `list[UUID]`, …); None keeps plain data.
        largest: bytes of an encoded value; more is a `ValueError`.
        owner: kind and name of the primitive whose values these are, for messages.

    Raises:
        TypeError: `type` is nothing that could be decoded into.
    """

    def __init__(
        self,
        type: Any = None,  # noqa: A002  # the field's term
        *,
        largest: int = LARGEST,
        owner: str = "anypod",
    ) -> None:
        self._type = type
        self._owner = owner
        self._plain = type is None
        try:
            self._decoder: msgpack.Decoder[Any] = msgpack.Decoder(Any if type is None else type)
        except (TypeError, NameError) as failure:
            raise TypeError(
                f"{owner}: type must be something to decode into, such as a dataclass, a TypedDict or "
                f"list[UUID], not {type!r:.120}: {failure}"
            ) from failure
        self._largest = largest

    def encode(self, value: T) -> bytes:
        """The value as bytes.

        Raises:
            TypeError: it would not come back equal, so give the primitive a `type`; or it is not of that.
            ValueError: it is larger than the bound.
        """
        if self._plain and type(value) not in _EXACT:
            _refuse_inexact(value, self._owner)
        try:
            encoded = _encode(value)
        except TypeError as failure:
            raise TypeError(f"{self._owner}: {failure}") from failure
        except (ValueError, OverflowError, RecursionError) as failure:
            raise ValueError(f"{self._owner}: cannot store this value: {failure}") from failure
        if len(encoded) > self._largest:
            raise ValueError(
                f"{self._owner}: a value of {len(encoded):,} bytes is over the limit of {self._largest:,}; "
                f"store a reference to it instead"
            )
        if not self._plain:
            try:
                self._decoder.decode(encoded)
            except (msgspec.MsgspecError, RecursionError) as failure:
                raise TypeError(
                    f"{self._owner} holds {self._type!r}, and this value is not one: {failure}"
                ) from failure
        return FORMAT + encoded

    def decode(self, encoded: bytes) -> T:
        """The value that these bytes stand for.

        Raises:
            Undecodable: another format, or not a value of the type.
        """
        if encoded[:1] != FORMAT:
            raise Undecodable(f"format {encoded[:1].hex() or 'missing'}, this version reads 01")
        try:
            return self._decoder.decode(memoryview(encoded)[1:])  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as failure:
            raise Undecodable(str(failure)) from failure


def _refuse_inexact(value: Any, owner: str) -> None:
    """Raise for anything that plain MessagePack would bring back as something else."""
    pending = [value]
    seen = 0
    while pending:
        item = pending.pop()
        kind = type(item)
        seen += 1
        if seen > 1_000_000:
            raise ValueError(
                f"{owner}: cannot store this value: more than a million parts, or it holds itself"
            )
        if kind in _EXACT:
            continue
        if kind is list:
            pending.extend(item)
        elif kind is dict:
            pending.extend(item.values())
            for key in item:
                if type(key) is not str:
                    raise TypeError(
                        f"{owner}: a dict key of type {kind_name(key)} would come back as text or not at all; "
                        f"use str keys or give the primitive a type= to decode into"
                    )
        else:
            raise TypeError(
                f"{owner}: a {kind_name(item)} would come back as something else; store plain data (None, "
                f"bool, int, float, str, bytes, datetime, list, dict) or give the primitive a type="
            )


def kind_name(value: object) -> str:
    """The name of a value's type, for messages."""
    return type(value).__qualname__
