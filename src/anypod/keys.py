"""Keys as users write them, turned into strings that never meet unless the keys are equal.

`1`, `"1"`, `True`, `("a:b", "c")` and `("a", "b:c")` are five different keys. Allowed are None, bool,
int, str, bytes, UUID, datetime, date, Enum members, and tuples of these; anything else is a `TypeError`,
because a representation that merely looks right has leaked one user's data to another before.

Invariants:
    - `encode` is injective: every value is tagged with its type, and every variable part is closed by
      a character that it cannot contain;
    - the result is printable ASCII without `:`, `#`, `{`, `}` or white space, so that it can stand in
      any engine's key and never chooses a cluster slot;
    - a long key is replaced by its 256-bit hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from datetime import UTC, date, datetime
from enum import Enum
from hashlib import blake2b
from typing import Any, Final, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes
from uuid import UUID

Key: TypeAlias = Hashable
"""What users give as a key; `encode` says which types are accepted."""

LONGEST: Final = 200  # characters of an encoded key before it is hashed

_PLAIN = re.compile(r"[A-Za-z0-9_.-]{0,100}")


def encode(key: Key) -> str:
    """The key as a string for the store.

    Raises:
        TypeError: a key of a type that has no unambiguous form.
    """
    if type(key) is str and _PLAIN.fullmatch(key):
        return "s" + key
    text = _ENCODERS.get(type(key), _other)(key)
    if len(text) > LONGEST:
        return "h" + blake2b(text.encode(), digest_size=32).hexdigest()
    return text


def _text(key: str) -> str:
    return "s" + quote_from_bytes(key.encode("utf-8", "surrogatepass"), safe="")


def _moment(key: datetime) -> str:
    if key.tzinfo is None:
        return f"t{key.isoformat().replace(':', '.')}"
    moment = key.astimezone(UTC).replace(tzinfo=None)
    return f"T{moment.isoformat().replace(':', '.')}"


def _tuple(key: tuple[Any, ...]) -> str:
    return "(" + ",".join(_ENCODERS.get(type(part), _other)(part) for part in key) + ")"


def _other(key: Any) -> str:
    if isinstance(key, Enum):
        owner = type(key)
        return f"e({_text(f'{owner.__module__}.{owner.__qualname__}')},{_text(key.name)})"
    kinds: tuple[type, ...] = (str, bool, int, bytes, UUID, datetime, date, tuple)
    for kind in kinds:
        if isinstance(key, kind):
            return _ENCODERS[kind](key)
    raise TypeError(
        f"a key must be str, int, bytes, bool, None, UUID, datetime, date, an Enum member or a tuple "
        f"of these, not {type(key).__name__}; write it as one of them yourself, so that two different "
        f"keys cannot look alike"
    )


_ENCODERS: Final[dict[type, Callable[[Any], str]]] = {
    type(None): lambda _: "n",
    bool: lambda key: f"b{int(key)}",
    int: lambda key: f"i{int(key)}",
    str: _text,
    bytes: lambda key: "x" + bytes(key).hex(),
    UUID: lambda key: "u" + key.hex,
    datetime: _moment,
    date: lambda key: "d" + key.isoformat(),
    tuple: _tuple,
}


def names_nothing(key: Key) -> bool:
    """Whether a key is what a missing header or an empty field becomes: None, or nothing of its kind."""
    return key is None or key in ("", b"", ())


def decode(text: str) -> Any:
    """The key that `encode` made this of.

    Raises:
        ValueError: a hashed key or an Enum member, of which the text does not hold the whole.
    """
    key, rest = _read(text)
    if rest:
        raise ValueError(f"{text!r} is not an encoded key")
    return key


def _read(text: str) -> tuple[Any, str]:
    """The key at the beginning of a text, and what follows it."""
    tag, rest = text[:1], text[1:]
    if tag == "(":
        parts = []
        while not rest.startswith(")"):
            part, rest = _read(rest)
            parts.append(part)
            rest = rest.removeprefix(",")
        return tuple(parts), rest[1:]
    end = next((index for index, char in enumerate(rest) if char in ",)"), len(rest))
    body, rest = rest[:end], rest[end:]
    if tag not in _DECODERS:
        what = {"h": "a long key is kept as its hash only", "e": "an Enum member needs its class"}
        raise ValueError(what.get(tag, f"{text!r} is not an encoded key"))
    return _DECODERS[tag](body), rest


_DECODERS: Final[dict[str, Callable[[str], Any]]] = {
    "n": lambda _: None,
    "b": lambda body: body == "1",
    "i": int,
    "s": lambda body: unquote_to_bytes(body).decode("utf-8", "surrogatepass"),
    "x": bytes.fromhex,
    "u": lambda body: UUID(hex=body),
    "t": lambda body: datetime.fromisoformat(body.replace(".", ":", 2)),
    "T": lambda body: datetime.fromisoformat(body.replace(".", ":", 2)).replace(tzinfo=UTC),
    "d": date.fromisoformat,
}
