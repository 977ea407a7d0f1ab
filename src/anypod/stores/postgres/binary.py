"""Values in PostgreSQL's binary format, and the functions that take and give them.

Only the types that the schema's functions use are here. A parameter whose type is not stated would be
guessed by the server, so every statement states them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

Row: TypeAlias = Sequence[Any]
Values: TypeAlias = list[Any]

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
        faults: whether it has the column `fault`; else its reply says that in another way.
    """

    def __init__(self, name: str, takes: str, gives: str, *, faults: bool = True) -> None:
        types = takes.split(", ")
        numbered = ", ".join(f"${place}::{kind}" for place, kind in enumerate(types, 1))
        self.name = name.encode()
        formatted = ", ".join(f"%s::{kind}" for kind in types)
        # As a value rather than in FROM: one composite instead of columns, and a tenth less work there.
        self.statement = f"SELECT anypod.{name}({numbered})".encode()
        self.formatted = f"SELECT * FROM anypod.{name}({formatted})"  # noqa: S608  # constants
        self.formats = [1] * len(types)
        self._packers = [_PACK[kind] for kind in types]
        self.faults = faults
        columns = f"smallint, {gives}" if faults else gives
        self._unpackers = [_UNPACK[kind] for kind in columns.split(", ") if kind]

    def pack(self, values: Values) -> list[bytes | None]:
        """The values as parameters in binary format."""
        return [
            None if value is None else pack(value)
            for pack, value in zip(self._packers, values, strict=True)
        ]

    def unpack(self, body: bytes | None) -> Row:
        """The columns of the composite that the function returned; a single column comes as itself."""
        if len(self._unpackers) == 1:
            return [None if body is None else self._unpackers[0](body)]
        assert body is not None
        row: list[Any] = []
        place = 4  # after the number of columns
        for unpack in self._unpackers:
            (size,) = _INT4.unpack_from(body, place + 4)  # after the type of the column
            place += 8
            if size < 0:
                row.append(None)
            else:
                row.append(unpack(body[place : place + size]))
                place += size
        return row
