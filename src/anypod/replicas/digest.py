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
from typing import Any

__all__ = ["Digests", "is_plain", "render", "state_of"]

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

_WHOLE = 10_000  # entries of one container; of a longer one, both ends and the length
_NODES = 20_000  # values looked at below one root
_DEPTH = 12
_SHOWN = 120


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
            return hash((kind, value))
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
        if isinstance(value, bytearray):
            return (kind.__qualname__, bytes(value))
        for scalar in (str, bytes, int, float):
            if isinstance(value, scalar):  # a subclass: its own methods are not asked
                return (kind.__qualname__, scalar.__hash__(value))  # type: ignore[arg-type]  # as above
        if isinstance(value, _SHOWN_BY_REPR):
            return (kind.__qualname__, repr(value))
        if isinstance(value, enum.Enum):
            return (kind.__qualname__, value.name)
        if id(value) in seen:
            return ("↑", seen[id(value)])
        parts = state_of(value, own=self._is_own(kind))
        if parts is None:
            return ("#", kind.__qualname__, id(value))
        seen[id(value)] = len(seen)
        return (
            kind.__qualname__,
            _size(value),
            [self._plain(part, depth + 1, seen, left) for part in parts],
        )


def state_of(value: Any, *, own: bool) -> list[Any] | None:
    """The parts of which a value's state consists; None if it is opaque.

    Args:
        value: any object.
        own: whether its class is the service's own.
    """
    kind = type(value)
    if isinstance(value, _OPAQUE) or (not own and str(kind.__module__).startswith("anypod.")):
        return None
    if isinstance(value, dict):
        items = [*_ends(dict.items(value), dict.__len__(value), dict.__reversed__(value), value)]
        return items + _attributes(value)
    if isinstance(value, list):
        return [
            *_bounded(list.__iter__(value), list.__len__(value), list.__reversed__(value)),
            *_attributes(value),
        ]
    if isinstance(value, tuple):
        return [*islice(tuple.__iter__(value), _WHOLE)]
    if isinstance(value, set):
        return [*islice(set.__iter__(value), _WHOLE), *_attributes(value)]
    if isinstance(value, frozenset):
        return [*islice(frozenset.__iter__(value), _WHOLE), *_attributes(value)]
    if isinstance(value, collections.deque):
        return [*islice(collections.deque.__iter__(value), _WHOLE)]
    if isinstance(value, types.MappingProxyType):
        return list(value.items())
    if isinstance(value, random.Random):
        return [random.Random.getstate(value)]
    if own or isinstance(value, types.SimpleNamespace):
        return _attributes(value)
    if isinstance(
        value, (collections.abc.Mapping, collections.abc.Set, collections.abc.MutableSequence)
    ):
        return _attributes(value) or None
    queued = getattr(value, "queue", None) or getattr(value, "_queue", None)
    if kind.__module__ in {"queue", "asyncio.queues"} and queued is not None:
        return list(queued)
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


def _attributes(value: Any) -> list[Any]:
    found: list[Any] = []
    attributes = getattr_static_dict(value)
    if attributes:
        found.extend(list(attributes.items()))
    for base in type(value).__mro__:
        for name, slot in list(vars(base).items()):
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    found.append((name, slot.__get__(value)))
                except AttributeError:
                    continue  # an empty slot
    return found


def getattr_static_dict(value: Any) -> dict[str, Any] | None:
    """An object's own attributes, without running a `__getattr__` of its class."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if isinstance(attributes, dict) else None


def _size(value: Any) -> int:
    for base in (dict, list, tuple, set, frozenset, collections.deque):
        if isinstance(value, base):
            return base.__len__(value)  # type: ignore[arg-type]  # the loop keeps them together
    return -1


def is_plain(value: Any) -> bool:
    """Whether a value can never change, so that keeping it keeps how it looked."""
    return type(value) in _SCALARS


def render(value: Any) -> str:
    """A value in at most 120 characters, as a person would write it."""
    text = _render(value, 0)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _render(value: Any, depth: int) -> str:
    kind = type(value)
    if isinstance(value, (str, bytes)):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN])
    if kind in _SCALARS or isinstance(value, (*_SHOWN_BY_REPR, enum.Enum)):
        return repr(value)
    if depth > 3:
        return "…"
    if isinstance(value, dict):
        pairs = list(islice(dict.items(value), 6))
        inner = [f"{_render(key, depth + 1)}: {_render(item, depth + 1)}" for key, item in pairs]
        return _bracketed("{}", inner, dict.__len__(value))
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        brackets = (
            "()"
            if isinstance(value, tuple)
            else "{}"
            if isinstance(value, (set, frozenset))
            else "[]"
        )
        inner = [_render(item, depth + 1) for item in islice(value, 6)]
        return _bracketed(brackets, inner, len(value))
    attributes = getattr_static_dict(value)
    if attributes and not isinstance(value, _OPAQUE):
        inner = [
            f"{name}={_render(item, depth + 1)}"
            for name, item in islice(list(attributes.items()), 4)
        ]
        return f"{kind.__qualname__}{_bracketed('()', inner, len(attributes))}"
    return f"<{kind.__qualname__}>"


def _bracketed(brackets: str, inner: list[str], length: int) -> str:
    more = [f"… {length} in all"] if length > len(inner) else []
    return brackets[0] + ", ".join([*inner, *more]) + brackets[1]
