"""Carries a piece of state from one replica into another, inside the replicas.

Only to find out whether a state is the cause of a difference: this is an intervention, after which the
process is of no further use. The same code runs in both processes, so pickles between them name the
same classes; unlike a fingerprint, a pickle may run code of the service. Containers are filled in
place, because other modules may hold them; everything else is bound anew where it was bound. What
cannot be pickled, sockets and open files among it, is not carried; locks arrive unlocked.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import functools
import gc
import importlib
import io
import pickle
import random
import re
import sys
import threading
import types
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any

from anypod.replicas.change import State
from anypod.replicas.digest import attributes_of, has_type, own_items
from anypod.replicas.lru import CACHED, entries
from anypod.replicas.roots import Place, Roots, companions

__all__ = ["bound", "give", "take"]

_LARGEST = 8 << 20  # bytes of one state's pickle
_ABSENT = "absent"
_NOTHING = object()  # the value of a place that this replica does not have
_OTHERS = 8  # states that are taken beside what is asked for
_PLAIN = frozenset({bool, int, float, str, dict, list, set, collections.deque})
_LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}
_STEP = re.compile(r"\[(?P<key>'(?:[^'\\]|\\.)*')\]|(?P<name>[^\W\d]\w*)(?P<made>\(\))?")


def take(roots: Roots, states: Collection[State], but: Collection[State] = ()) -> dict[State, str]:
    """Each state's content as text, for `give` in another replica; without those that cannot be carried.

    Args:
        roots: of the service.
        states: which ones.
        but: take a few others too, plain ones and none of these.
    """
    places = _places(roots, states)
    wanted = dict.fromkeys(states)
    if but:
        plain = (state for state, place in places.items() if type(place.value) in _PLAIN)
        # The many settings of a framework's application stand in brackets: they would be all of it.
        left = (s for s in plain if s not in but and s not in wanted and "[" not in s.name)
        wanted.update(dict.fromkeys(islice(left, _OTHERS)))
    taken: dict[State, str] = {}
    for state in wanted:
        place = places.get(state)
        if place is None:
            taken[state] = _ABSENT
            continue
        try:
            content = _pickled(_content(place))
        except Exception:  # noqa: BLE001, S112  # the service's own `__reduce__` may raise anything: not carried
            continue
        if len(content) <= _LARGEST:
            taken[state] = base64.b85encode(content).decode()
    return taken


def give(roots: Roots, contents: Mapping[State, str]) -> frozenset[State]:
    """Put states that were taken from another replica into this one.

    Args:
        roots: of the service.
        contents: what `take` returned there.

    Returns:
        The states that now are as they were there.
    """
    for name in {state.module for state in contents} - sys.modules.keys():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)  # a library that no request here has needed yet
    places = _places(roots, contents)
    given = []
    for state, content in contents.items():
        try:
            place = places.get(state) or _absent(state)
            if place is None:
                continue
            if content == _ABSENT:
                _remove(place)
            else:
                _put(roots, place, pickle.loads(base64.b85decode(content)))  # noqa: S301  # from our own replica
        except Exception:  # noqa: BLE001, S112  # the service's own code may raise anything: not carried
            continue
        given.append(state)
    return frozenset(given)


def _places(roots: Roots, states: Collection[State]) -> dict[State, Place]:
    """All places; those inside objects of libraries only if one of them is meant."""
    places = {place.state: place for place in roots.places()}
    if not places.keys() >= set(states):
        places = {place.state: place for place in roots.secrets()} | places
    return places


class _Pickler(pickle.Pickler):
    """Pickles locks as new ones: inside a container they are no part of what it holds."""

    def reducer_override(self, value: Any) -> Any:
        new = _LOCKS.get(type(value))
        return NotImplemented if new is None else (new, ())


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _content(place: Place) -> Any:
    if place.kind == "cache":
        return entries(bound(place))
    return place.value, dict(companions(place))


def bound(place: Place) -> Any:
    """The object that a place's holder has."""
    if place.holder is None:
        raise LookupError(f"nothing holds {place.name}")
    owner, key = place.holder
    if has_type(owner, types.CellType):
        return owner.cell_contents
    if has_type(owner, (dict, list)):
        return owner[key]
    value = vars(owner)[key] if has_type(owner, type) else object.__getattribute__(owner, key)
    return value.__func__ if has_type(value, (staticmethod, classmethod)) else value


def _bind(holder: tuple[Any, Any] | None, value: Any) -> None:
    if holder is None:
        raise LookupError("nothing holds it")
    owner, key = holder
    if has_type(owner, types.CellType):
        owner.cell_contents = value
    elif has_type(owner, (dict, list)):
        owner[key] = value
    elif has_type(owner, type):
        setattr(owner, key, value)
    else:
        object.__setattr__(owner, key, value)


def _absent(state: State) -> Place | None:
    """A place for a state that this replica does not have: where its name says that it would be."""
    module = sys.modules.get(state.module)
    steps = list(_STEP.finditer(state.name))
    if module is None or not steps or state.kind not in {"global", "class attribute"}:
        return None
    owner: Any = module
    holder: Any = None
    for step in steps[:-1]:
        if step["name"]:
            holder, owner = owner, dict(own_items(owner)).get(step["name"])
        else:
            holder, owner = owner, _kept(holder, owner, step["key"][1:-1])
        if step["made"] and has_type(owner, CACHED):
            owner = owner()  # as the request that needs it would have made it
        if owner is None:
            return None
    last = steps[-1]
    if last["key"] is not None:
        return Place(*_of(state), _NOTHING, (owner, last["key"][1:-1]))
    held = attributes_of(owner)
    return Place(*_of(state), _NOTHING, (owner if held is None else held, last["name"]))


def _kept(holder: Any, items: Any, key: str) -> Any:
    """What an object keeps under a key, made by it if it makes things when they are first asked for."""
    if not has_type(items, dict):
        return None
    if key not in items and has_type(getattr(type(holder), "get", None), types.FunctionType):
        holder.get(key)  # as the request that needs it would have asked
    return items.get(key)


def _of(state: State) -> tuple[str, str, str]:
    return state.kind, state.name, state.module


def _remove(place: Place) -> None:
    """Let a state be absent, as it is in the other replica."""
    if place.holder is None:
        raise LookupError(f"nothing holds {place.name}")
    owner, key = place.holder
    if has_type(owner, types.CellType):
        del owner.cell_contents
    elif has_type(owner, dict):
        owner.pop(key, None)
    elif has_type(owner, type):
        delattr(owner, key)
    else:
        object.__delattr__(owner, key)


def _put(roots: Roots, place: Place, content: Any) -> None:
    if place.kind == "cache":
        _fill_cache(roots, place, content)
        return
    value, beside = content
    if not _filled(place.value, value):
        _bind(place.holder, value)
    for name, present in companions(place):
        if not _filled(present, beside[name]):
            raise TypeError(f"{name} cannot be filled")


def _filled(target: Any, source: Any) -> bool:
    """Let a mutable object hold what another of its type holds; False if it has to be replaced.

    Containers in a dictionary are filled in place too, since somebody may hold them directly.
    """
    kind = type(target)
    if type(source) is not kind:
        return False
    if target is source:
        return True
    filled = True
    if has_type(target, dict):
        base = collections.OrderedDict if has_type(target, collections.OrderedDict) else dict
        merged = {
            key: target[key] if key in target and _is_filled_inside(target[key], value) else value
            for key, value in dict.items(source)
        }
        base.clear(target)
        base.update(target, merged)
    elif has_type(target, list):
        list.__setitem__(target, slice(None), list(source))
    elif has_type(target, set):
        set.clear(target)
        set.update(target, source)
    elif has_type(target, collections.deque):
        collections.deque.clear(target)
        collections.deque.extend(target, source)
    elif has_type(target, bytearray):
        target[:] = source
    elif has_type(target, random.Random):
        target.setstate(source.getstate())
        return True
    else:
        filled = False
    attributes = attributes_of(target)
    items = own_items(source)
    if attributes is not None and not has_type(target, (types.FunctionType, types.ModuleType)):
        attributes.clear()
        filled = True
    for name, value in items:
        object.__setattr__(target, name, value)
        filled = True
    return filled


def _is_filled_inside(target: Any, source: Any) -> bool:
    return has_type(target, (dict, list, set, collections.deque)) and _filled(target, source)


# --- functools.lru_cache


def _fill_cache(roots: Roots, place: Place, held: dict[Any, Any]) -> None:
    wrapper = bound(place)
    wrapper.cache_clear()
    if not held:
        return
    if wrapper.cache_parameters()["maxsize"] is None:
        holders = [part for part in gc.get_referents(wrapper) if type(part) is dict]
        empty = [part for part in holders if not part and part is not vars(wrapper)]
        if len(empty) != 1:
            raise LookupError("its content is not to be seen")
        empty[0].update(held)
        return
    filled = _Answering(wrapper, held)
    for module in roots.modules():  # whoever imported it by its name
        for name, value in list(vars(module).items()):
            if value is wrapper:
                setattr(module, name, filled)
    # On a class too it is called as the static method that it was, or on the class that it is bound to.
    in_class = place.holder is not None and has_type(place.holder[0], type)
    _bind(place.holder, staticmethod(filled) if in_class else filled)


class _Answering:
    """Stands for an `lru_cache` that holds these entries; nothing else can fill a bounded one."""

    def __init__(self, wrapper: Any, entries: dict[Any, Any]) -> None:
        functools.update_wrapper(self, wrapper)
        self._wrapper = wrapper
        self._entries = entries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapper, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs:
            # As functools makes its keys: one plain argument is its own.
            key = args[0] if len(args) == 1 and type(args[0]) in {int, str} else args
            if key in self._entries:
                return self._entries[key]
        return self._wrapper(*args, **kwargs)
