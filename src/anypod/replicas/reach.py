"""What lies below an object of a library: its attributes, what they hold, what its functions close over.

A service hangs its state on objects that others wrote: a signer with a key that was drawn, a store of
sessions in memory. Nothing of theirs runs: attributes are read from `__dict__` and slots.
"""

from __future__ import annotations

import functools
import logging
import re
import threading
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from anypod.replicas.digest import attributes_of, has_type, held_by, own_items, per_type

__all__ = ["Reached", "below", "entries", "is_store"]

_CLOSED = (
    type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, types.FrameType, re.Pattern,
    logging.Logger, logging.Handler, logging.Filter, threading.Thread, weakref.ref, BaseException,
)  # fmt: skip
_LEAVES = frozenset({bool, int, float, complex, str, bytes, type(None), type(...)})
_ITEMS = 64  # of one container
_CONTAINERS = (dict, list, set, deque)


class Reached(NamedTuple):
    """A value and how it was reached.

    Attributes:
        name: as Python writes it: `signer.secret_keys[0]`.
        value: the value.
        holder: an object and the name, key or position under which it has the value; None when it
            cannot be bound anew.
    """

    name: str
    value: Any
    holder: tuple[Any, Any] | None


def below(value: Any, name: str, *, depth: int, most: int, seen: set[int]) -> Iterator[Reached]:
    """Everything below an object, the nearest first, each object once.

    Args:
        value: the object.
        name: what it is called.
        depth: steps from it.
        most: values that are looked at.
        seen: ids of objects that were met before; those met are added.
    """
    waiting = deque([(Reached(name, value, None), 0)])
    while waiting:
        found, steps = waiting.popleft()
        if steps == depth or type(found.value) in _LEAVES:
            continue
        if id(found.value) in seen or has_type(found.value, _CLOSED):
            continue
        seen.add(id(found.value))
        for part in _parts(found.value, found.name):
            if (most := most - 1) < 0:
                return
            yield part
            waiting.append((part, steps + 1))


def is_store(value: Any) -> bool:
    """Whether an object of a library keeps entries in memory by key: it can get, set and delete.

    Not those that a fingerprint looks into by itself.
    """
    kind = type(value)
    return held_by(kind) is None and _gets_and_sets(kind) and any(True for _ in entries(value))


def entries(value: Any) -> Iterator[Reached]:
    """The containers in which a store keeps its entries: of its own, or of its class."""
    for name, item in own_items(value):
        if has_type(item, _CONTAINERS):
            yield Reached(name, item, (value, name))
    for base in type(value).__mro__:
        for name, item in list(vars(base).items()):
            if has_type(item, _CONTAINERS) and not name.startswith("__") and not name.isupper():
                yield Reached(name, item, (base, name))


@per_type
def _gets_and_sets(kind: type) -> bool:
    if issubclass(kind, _CONTAINERS):
        return False
    methods = {name for base in kind.__mro__ for name in vars(base)}
    removes = not methods.isdisjoint({"delete", "clear", "remove", "pop"})
    return removes and {"get", "set"} <= methods and not str(kind.__module__).startswith("anypod.")


def _parts(value: Any, name: str) -> Iterator[Reached]:
    if has_type(value, dict):
        for key in [*dict.__iter__(value)][:_ITEMS]:
            if type(key) is str:
                yield Reached(f"{name}[{key!r}]", dict.get(value, key), (value, key))
    elif has_type(value, list):
        for at, item in enumerate(list.__getitem__(value, slice(_ITEMS))):
            yield Reached(f"{name}[{at}]", item, (value, at))
    elif has_type(value, tuple):
        for at, item in enumerate(tuple.__getitem__(value, slice(_ITEMS))):
            yield Reached(f"{name}[{at}]", item, None)
    elif has_type(value, types.FunctionType):
        yield from _closed_over(value, name)
    elif has_type(value, types.MethodType):
        yield Reached(name, value.__self__, None)
    elif has_type(value, functools.partial):
        for at, item in enumerate((value.func, *value.args, *value.keywords.values())):
            yield Reached(f"{name}({at})", item, None)
    if not has_type(value, (dict, list, tuple, types.FunctionType, types.MethodType)):
        held = attributes_of(value)
        for attribute, item in own_items(value):
            in_dict = held is not None and attribute in held
            yield Reached(f"{name}.{attribute}", item, (held if in_dict else value, attribute))


def _closed_over(function: types.FunctionType, name: str) -> Iterator[Reached]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    for variable, cell in cells:
        try:
            yield Reached(f"{name}.{variable}", cell.cell_contents, (cell, None))
        except ValueError:
            continue  # not assigned yet
    if (inner := function.__dict__.get("__wrapped__")) is not None:
        yield Reached(name, inner, None)
