"""The fingerprint of a value: two looks at it differ if and only if its content does, within bounds.

No code of the service runs: containers are read through the built-in types' own methods, objects
through their `__dict__` and slots, so that looking at an LRU cache does not count as a use. Objects of
other people's classes are their identity, except containers; locks, modules, functions, loggers,
patterns and anypod's own objects are opaque.
"""

from __future__ import annotations

import collections
import collections.abc
import datetime as dt
import decimal
import enum
import fractions
import itertools
import logging
import marshal
import pathlib
import random
import re
import types
import uuid
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

__all__ = [
    "Digests",
    "attributes_of",
    "has_type",
    "held_by",
    "is_plain",
    "own_items",
    "per_type",
    "render",
]

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (dict, list, tuple, set, frozenset)
_SHOWN_BY_REPR = (
    dt.date, dt.time, dt.timedelta, dt.tzinfo, decimal.Decimal,
    fractions.Fraction, uuid.UUID, pathlib.PurePath, range, slice, itertools.count,
)  # fmt: skip
_OPAQUE = (
    types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, type,
    logging.Logger, logging.Handler, re.Pattern, BaseException, types.CodeType, types.FrameType,
)  # fmt: skip

T = TypeVar("T")

_WHOLE = 10_000  # entries of one container; of a longer one, both ends and the length
_NODES = 20_000  # values looked at below one root
_DEPTH = 60
_SHOWN = 120
_HEAD = 40
_HOLDERS = {
    "cachelib.simple.SimpleCache": "_cache",
    "limits.storage.memory.MemoryStorage": "storage",
    "queue.Queue": "queue",
    "asyncio.queues.Queue": "_queue",
}
_LISTED = 6
_DEPTH_SHOWN = 3
_BRACKETS: dict[type[Any], str] = {
    list: "[]", tuple: "()", set: "{}", frozenset: "{}", collections.deque: "[]"
}  # fmt: skip


def per_type(question: Callable[[type], T]) -> Callable[[type], T]:
    """Ask a question once per class; by identity, because a metaclass may define its own hash."""
    answers: dict[int, tuple[type, T]] = {}

    def ask(kind: type) -> T:
        known = answers.get(id(kind))
        if known is None:
            known = answers[id(kind)] = (
                kind,
                question(kind),
            )  # kept alive, so the id stays its own
        return known[1]

    return ask


class Digests:
    """Fingerprints of values, in one process.

    Args:
        is_own: tells whether a class is the service's own.
    """

    def __init__(self, is_own: Callable[[type], bool]) -> None:
        self._is_own = is_own

    def of(self, value: Any) -> int:
        """A number that changes when the value's content does."""
        kind = type(value)
        if kind in _SCALARS:
            return hash(marshal.dumps(value, 2))  # not the value's own hash: -1 and -2 share one
        if kind in _CONTAINERS and len(value) <= _WHOLE:
            try:
                return hash(marshal.dumps(value, 2))  # plain data all the way down, in C
            except ValueError:
                pass  # something else is inside
        return hash(marshal.dumps(self._plain(value, 0, {}, [_NODES]), 2))

    def _plain(self, value: Any, depth: int, seen: dict[int, int], left: list[int]) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        left[0] -= 1
        if left[0] < 0 or depth > _DEPTH:
            return ("…", _size(value))
        if has_type(value, bytearray):
            return (kind.__qualname__, bytes(value))
        for scalar in (str, bytes, int, float):
            if has_type(value, scalar):  # a subclass: its own methods are not asked
                return (kind.__qualname__, scalar.__repr__(value))
        if has_type(value, _SHOWN_BY_REPR):
            return (kind.__qualname__, repr(value))
        if has_type(value, enum.Enum):
            return (kind.__qualname__, value.name)
        if id(value) in seen:
            return ("↑", seen[id(value)])
        parts = _state_of(value, own=self._is_own(kind))
        if parts is None:
            return ("#", kind.__qualname__, id(value))
        seen[id(value)] = len(seen)
        return (
            kind.__qualname__,
            _size(value),
            [self._plain(part, depth + 1, seen, left) for part in parts],
        )


def _state_of(value: Any, *, own: bool) -> list[Any] | None:
    """The parts of which a value's state consists; None if it is opaque.

    Args:
        value: any object.
        own: whether its class is the service's own.
    """
    kind = type(value)
    if has_type(value, _OPAQUE) or (not own and str(kind.__module__).startswith("anypod.")):
        return None
    if has_type(value, dict):
        items = [*_ends(dict.items(value), dict.__len__(value), dict.__reversed__(value), value)]
        return items + own_items(value)
    if has_type(value, list):
        return [
            *_bounded(list.__iter__(value), list.__len__(value), list.__reversed__(value)),
            *own_items(value),
        ]
    if has_type(value, tuple):
        return [*islice(tuple.__iter__(value), _WHOLE)]
    if has_type(value, set):
        return [*islice(set.__iter__(value), _WHOLE), *own_items(value)]
    if has_type(value, frozenset):
        return [*islice(frozenset.__iter__(value), _WHOLE), *own_items(value)]
    if has_type(value, collections.deque):
        return [*islice(collections.deque.__iter__(value), _WHOLE)]
    if has_type(value, types.MappingProxyType):
        return list(value.items())
    if has_type(value, random.Random):
        return [random.Random.getstate(value)]
    if (held := held_by(kind)) is not None:
        return [(attributes_of(value) or {}).get(held)]
    if own or has_type(value, types.SimpleNamespace):
        return own_items(value)
    if has_type(
        value, (collections.abc.Mapping, collections.abc.Set, collections.abc.MutableSequence)
    ):
        return own_items(value) or None
    return None


def _ends(items: Any, length: int, backwards: Any, value: dict[Any, Any]) -> list[Any]:
    if length <= _WHOLE:
        return list(items)
    tail = [(key, dict.get(value, key)) for key in islice(backwards, _WHOLE // 2)]
    return [*islice(items, _WHOLE // 2), *tail]


def _bounded(items: Any, length: int, backwards: Any) -> list[Any]:
    if length <= _WHOLE:
        return list(items)
    return [*islice(items, _WHOLE // 2), *islice(backwards, _WHOLE // 2)]


@per_type
def held_by(kind: type) -> str | None:
    """The attribute in which a library's in-memory store keeps what it holds."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    return next((_HOLDERS[name] for name in names if name in _HOLDERS), None)


def own_items(value: Any) -> list[tuple[str, Any]]:
    """The attributes that an object itself holds, in its `__dict__` and in slots."""
    found = list((attributes_of(value) or {}).items())
    for name, slot in _slots(type(value)):
        try:
            found.append((name, slot.__get__(value)))
        except AttributeError:
            continue  # an empty slot
    return found


@per_type
def _slots(kind: type) -> tuple[tuple[str, types.MemberDescriptorType], ...]:
    return tuple(
        (name, slot)
        for base in kind.__mro__
        for name, slot in list(vars(base).items())
        if isinstance(slot, types.MemberDescriptorType) and not name.startswith("__")
    )


def attributes_of(value: Any) -> dict[str, Any] | None:
    """An object's own attributes, from its type's descriptor: a proxy does not get to answer."""
    descriptor = _dict_of(type(value))
    found = None if descriptor is None else descriptor.__get__(value)
    return found if type(found) is dict else None


@per_type
def _dict_of(kind: type) -> types.GetSetDescriptorType | types.MemberDescriptorType | None:
    for base in kind.__mro__:
        descriptor = base.__dict__.get("__dict__")
        if isinstance(descriptor, (types.GetSetDescriptorType, types.MemberDescriptorType)):
            return descriptor
    return None


def has_type(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance` by the real type: a proxy's `__class__` would run code and name another's."""
    return issubclass(type(value), kinds)


def _size(value: Any) -> int:
    for base in (dict, list, tuple, set, frozenset, collections.deque):
        if has_type(value, base):
            return base.__len__(value)
    return -1


def is_plain(value: Any) -> bool:
    """Whether a value can never change, so that keeping it keeps how it looked."""
    return type(value) in _SCALARS


def render(value: Any, is_own: Callable[[type], bool]) -> str:
    """A value in at most 120 characters, as a person would write it.

    Args:
        value: any object.
        is_own: tells whether a class is the service's own; others' objects are only named.
    """
    text = _render(value, 0, is_own)
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_HEAD]}…{text[_HEAD + 1 - _SHOWN :]}"


def _render(value: Any, depth: int, is_own: Callable[[type], bool]) -> str:
    kind = type(value)
    if has_type(value, (str, bytes)):
        return repr(value if len(value) <= _SHOWN else value[:_HEAD] + value[-_HEAD:])
    if kind in _SCALARS or has_type(value, (*_SHOWN_BY_REPR, enum.Enum)):
        return repr(value)
    if depth > _DEPTH_SHOWN:
        return "…"

    def pair(key: Any, item: Any) -> str:
        return f"{_render(key, depth + 1, is_own)}: {_render(item, depth + 1, is_own)}"

    if has_type(value, dict):
        length = dict.__len__(value)
        skipped = max(0, length - _LISTED)  # what is added to a dict is added at its end
        latest = list(islice(dict.__reversed__(value), _LISTED))[::-1]
        inner = [pair(key, dict.get(value, key)) for key in latest]
        return _bracketed("{}", inner, skipped)
    for base, brackets in _BRACKETS.items():
        if has_type(value, base):
            skipped = max(0, _size(value) - _LISTED)
            first = 0 if base in {set, frozenset} else skipped
            items = islice(base.__iter__(value), first, first + _LISTED)
            return _bracketed(
                brackets, [_render(item, depth + 1, is_own) for item in items], skipped
            )
    return _render_object(value, depth, is_own)


def _render_object(value: Any, depth: int, is_own: Callable[[type], bool]) -> str:
    kind = type(value)
    if has_type(value, _OPAQUE) or (kind.__module__.startswith("anypod.") and not is_own(kind)):
        return f"<{kind.__qualname__}>"
    items = own_items(value)
    if not is_own(kind):
        # Somebody else's container: what it holds is in one of its built-in ones.
        held = [item for _, item in items if has_type(item, (dict, list, collections.deque))]
        if not held or not issubclass(kind, collections.abc.Collection):
            return f"<{kind.__qualname__}>"
        return f"{kind.__qualname__}({_render(held[0], depth + 1, is_own)})"
    inner = [f"{name}={_render(item, depth + 1, is_own)}" for name, item in items[:_LISTED]]
    return f"{kind.__qualname__}{_bracketed('()', inner, max(0, len(items) - _LISTED))}"


def _bracketed(brackets: str, inner: list[str], skipped: int) -> str:
    more = [f"… {skipped} more"] if skipped else []
    return brackets[0] + ", ".join([*more, *inner]) + brackets[1]
