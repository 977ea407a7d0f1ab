"""Functions whose results are kept: `lru_cache` and its relatives, with what they read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anypod.check.analysis import Analysis
from anypod.check.calls import Resolver
from anypod.check.containers import MEMOIZERS
from anypod.check.facts import ARGS, CALL_LINE, CALLEE, KWARGS, Function, Value
from anypod.check.frames import Frame
from anypod.check.origins import frame_loads

_WITH_CACHE = frozenset({"cachetools.cached", "cachetools.cachedmethod", "asyncache.cached"})
_LIFETIMES = frozenset({"ttl", "timeout", "expire", "expires", "seconds"})


class Memo(NamedTuple):
    """A function that keeps its results in this process, and a frame in which requests call it."""

    function: Function
    frame: Frame
    line: int


def stale_memos(analysis: Analysis) -> Iterator[Memo]:
    """Memoized functions that requests call, that load data, and that never forget."""
    seen: set[tuple[str, str]] = set()
    for frame in analysis.parents:
        function = frame.function
        if (
            not function.decorators
            or function.key in seen
            or _is_short_lived(analysis.resolver, frame)
        ):
            continue
        line = _memoized(analysis, function)
        if line and frame_loads(analysis, frame):
            seen.add(function.key)
            yield Memo(function, frame, line)


def _is_short_lived(resolver: Resolver, frame: Frame) -> bool:
    """Whether what is kept goes with the call that made the function, or with the object that it was asked of."""
    if frame.outer is not None and not frame.outer.startup:
        return True
    receiver = resolver.parameter(frame, 0) if frame.function.cls and frame.function.params else ()
    return bool(receiver) and all(one[0] == "I" for one in receiver)


def _memoized(analysis: Analysis, function: Function) -> int:
    """The line of a decorator that keeps results for ever, or 0."""
    enclosing = analysis.resolver.enclosing(function)
    for position, decorator in enumerate(function.decorators):
        line = function.line - len(function.decorators) + position
        callee: Value = decorator
        arguments: tuple[Value, ...] = ()
        keywords: tuple[tuple[str, Value], ...] = ()
        if decorator[0] == "r":
            call = enclosing.function.body.calls[decorator[1]]
            callee, arguments, keywords = call[CALLEE], call[ARGS], call[KWARGS]
            line = call[CALL_LINE]
        for one in analysis.resolver.resolve(callee, enclosing):
            if one[0] != "E":
                continue
            if one[1] in MEMOIZERS and not any(name in _LIFETIMES for name, _ in keywords):
                return int(line)
            if one[1] in _WITH_CACHE:
                given = (*arguments, *(v for name, v in keywords if name == "cache"))
                if given and not _expires(analysis, given[0], enclosing):
                    return int(line)
    return 0


def _expires(analysis: Analysis, cache: Value, frame: Frame) -> bool:
    for one in analysis.resolver.resolve(cache, frame):
        held = analysis.resolver.held(one) if one[0] == "P" else (one,)
        if any(h[0] == "D" and h[1] == "ttlcache" for h in held):
            return True
        if any(h[0] == "J" and "TTL" in h[1] for h in held):
            return True
    return False
