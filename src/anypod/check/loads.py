"""What is loaded from a database, and whether it is locked meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from anypod.check.analysis import Analysis
from anypod.check.facts import CALLEE, Value
from anypod.check.frames import Frame

_LOCKING = (
    "with_for_update",
    "select_for_update",
    "for_update",
    "with_lockmode",
    "begin_nested_serializable",
)
_LOADS = frozenset(
    """first one one_or_none scalar scalar_one scalar_one_or_none get get_or_404 first_or_404 fetchone find_one
    exists count fetchval fetchrow scalars all aget afirst get_object get_object_or_404 aexists filter_by""".split()  # noqa: SIM905
)


def is_locked(analysis: Analysis, frame: Frame) -> bool:
    """Whether rows are locked, or a version is compared, anywhere in the function or its caller."""
    current: Frame | None = frame
    for _ in range(3):
        if current is None:
            break
        for callees in current.callees.values():
            for callee in callees:
                if callee[0] in "EX":
                    dotted = str(callee[1] if callee[0] == "E" else callee[2])
                    if any(word in dotted for word in _LOCKING):
                        return True
        for call in current.function.body.calls:
            if call[CALLEE][-1] in _LOCKING or any(
                k in {"with_for_update", "version_id"} for k, _ in call[2]
            ):
                return True
        parent = analysis.parents.get(current)
        current = parent[0] if parent else None
    return False


def loads_here(
    analysis: Analysis,
    target: Value,
    frame: Frame,
    depth: int = 3,
    is_load: Callable[[str], bool] | None = None,
) -> bool:
    """Whether a value is the result of a query, made here or in checked code that is called here."""
    is_load = is_load or is_query
    for one in analysis.deep(target, frame, 30):
        if one[0] != "r":
            continue
        for callee in analysis.resolver.callees(frame, one[1]):
            if callee[0] in "EX":
                dotted = str(callee[1] if callee[0] == "E" else callee[2])
                if is_load(dotted):
                    return True
            elif callee[0] == "F" and depth:
                child = analysis.resolver.child(frame, one[1], callee)
                if any(
                    loads_here(analysis, v, child, depth - 1, is_load)
                    for v in child.function.body.returns
                ):
                    return True
    return False


def is_query(dotted: str) -> bool:
    """Whether a call loads an object from a database."""
    last = dotted.rpartition(".")[2]
    if dotted.startswith(("request", "os.", "builtins.")):
        return False
    if last in {
        "get_object_or_404",
        "get_or_404",
        "first_or_404",
        "get_object",
        "find_one",
        "one_or_none",
    }:
        return True
    return last in _LOADS and (
        ".query" in dotted
        or ".objects" in dotted
        or "session" in dotted.lower()
        or ".execute" in dotted
        or "?.db" in dotted
        or "scalars" in dotted
        or "select(" in dotted
        or ".filter" in dotted
    )
