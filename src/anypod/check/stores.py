"""Reads and writes of shared stores that are not one atomic step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anypod.check.analysis import Analysis
from anypod.check.effects import arguments, inserted_table, is_insert, sql_of, surrounding
from anypod.check.facts import (
    ARGS,
    CALLEE,
    EFFECT_COL,
    EFFECT_CONTEXT,
    EFFECT_LINE,
    KEY,
    KWARGS,
    NEW,
    OP,
    TARGET,
    Value,
)
from anypod.check.frames import Frame
from anypod.check.loads import is_locked, loads_here
from anypod.check.model import ERROR, WARNING
from anypod.check.reach import External
from anypod.check.sql import computed_updates, is_added_twice, is_fetch

_RELATIONS = ("ForeignKey", "OneToOneField", "ForeignKeyField", "relationship")
_GETS = frozenset({"get", "hget", "hgetall", "lrange", "smembers", "mget", "get_item"})
_ASKS = frozenset({"exists", "hexists", "sismember"})
_SETS = frozenset({"set", "hset", "setex", "hmset", "mset", "put_item"})


class Update(NamedTuple):
    """A read, change and write in several steps."""

    frame: Frame
    line: int
    column: int
    context: int
    what: str  # "increment" "toggle" "document" "key" "insert"
    name: str
    severity: str


def updates(analysis: Analysis) -> Iterator[Update]:
    """Every such place on a request path, each line once."""
    seen: set[tuple[str, int]] = set()
    for frame in analysis.parents:
        for found in (
            *_attribute_updates(analysis, frame),
            *_computed_updates(analysis, frame),
            *_check_then_insert(analysis, frame),
        ):
            where = (frame.function.module, found.line)
            if where not in seen:
                seen.add(where)
                yield found
    for found in _get_then_set(analysis):
        where = (found.frame.function.module, found.line)
        if where not in seen:
            seen.add(where)
            yield found


# Attributes of loaded objects


def _attribute_updates(analysis: Analysis, frame: Frame) -> Iterator[Update]:
    for effect in frame.function.body.effects:
        op = effect[OP]
        if op not in {"augattr", "attr", "augset", "set"}:
            continue
        if op in {"augset", "set"} and not _is_document(analysis, effect[TARGET], frame):
            continue
        what = _what(analysis, effect, frame)
        if (
            not what
            or not _is_loaded(analysis, effect[TARGET], frame)
            or not _is_column(analysis, effect, frame)
            or is_locked(analysis, frame)
        ):
            continue
        severity = (
            ERROR if loads_here(analysis, effect[TARGET], frame) and what != "document" else WARNING
        )
        yield Update(
            frame,
            effect[EFFECT_LINE],
            effect[EFFECT_COL],
            effect[EFFECT_CONTEXT],
            what,
            str(effect[KEY]) if op in {"augattr", "attr"} else "document",
            severity,
        )


def _is_column(analysis: Analysis, effect: Value, frame: Frame) -> bool:
    """Whether what a method changes of its own row is one of the columns that the class declares."""
    if effect[TARGET] != ("p", 0) or not frame.function.cls:
        return True
    key = (frame.function.module, frame.function.cls)
    return analysis.resolver.owner_of(key, effect[KEY]) is not None


def _what(analysis: Analysis, effect: Value, frame: Frame) -> str:
    if effect[OP] in {"augattr", "augset"}:
        return "" if _is_expression(analysis, effect[NEW], frame) else "increment"
    if effect[OP] == "set":
        return ""
    value = effect[NEW]
    for one in analysis.deep(value, frame, 40):
        if one[0] == "a" and one[2] == effect[KEY] and _same(one[1], effect[TARGET]):
            if value[0] == "o" and value[1] == "Not":
                return "toggle"
            if value[0] == "o":
                return "increment"
            copied = {
                "builtins.dict",
                "builtins.list",
                "copy.copy",
                "copy.deepcopy",
                "builtins.set",
            }
            return "document" if copied & set(analysis.externals_in(value, frame)) else ""
    return ""


def _same(one: Value, other: Value) -> bool:
    return one == other


def _is_expression(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """`F("n") + 1`, `Item.n + 1`: the database computes it."""
    for one in analysis.deep(value, frame, 30):
        if one[0] == "r":
            for callee in analysis.resolver.callees(frame, one[1]):
                if callee[0] == "E" and callee[1].rpartition(".")[2] in {
                    "F",
                    "func",
                    "Case",
                    "Subquery",
                }:
                    return True
    return False


def _is_document(analysis: Analysis, target: Value, frame: Frame) -> bool:
    return target[0] == "a" and _is_loaded(analysis, target[1], frame)


def _is_loaded(analysis: Analysis, target: Value, frame: Frame) -> bool:
    """Whether an object comes from a store rather than from this function or this process."""
    objects = analysis.resolver.resolve(target, frame)
    if any(o[0] in "PCMFDQ" for o in objects):
        return False
    if target[0] == "p":
        return (
            _is_model(analysis, target, frame) and not _is_asked_of_new(analysis, target, frame)
        ) or _argument_is_loaded(analysis, frame, target[1])
    return (
        loads_here(analysis, target, frame)
        or _is_model(analysis, target, frame)
        or _is_related(analysis, target, frame)
    )


def _is_model(analysis: Analysis, target: Value, frame: Frame) -> bool:
    return any(
        one[0] == "I" and one[2] < 0 and analysis.resolver.is_model(one[1])
        for one in analysis.resolver.resolve(target, frame)
    )


def _is_asked_of_new(analysis: Analysis, target: Value, frame: Frame) -> bool:
    """Whether the caller has just made the object whose method this is."""
    parent = analysis.parents.get(frame)
    if parent is None or target[1] != 0:
        return False
    above, line = parent
    return any(
        one[0] == "I" and one[2] >= 0
        for call in above.function.body.calls
        if call[3] == line and call[CALLEE][0] == "a" and call[CALLEE][2] == frame.function.name
        for one in analysis.resolver.resolve(call[CALLEE][1], above)
    )


def _is_related(analysis: Analysis, target: Value, frame: Frame) -> bool:
    """`self.question`, a foreign key: another row, loaded on the way."""
    return (
        target[0] == "a"
        and _is_model(analysis, target[1], frame)
        and any(
            one[0] == "J" and one[1].endswith(_RELATIONS)
            for one in analysis.resolver.resolve(target, frame)
        )
    )


def _argument_is_loaded(analysis: Analysis, frame: Frame, position: int) -> bool:
    parent = analysis.parents.get(frame)
    if parent is None:
        return False
    above, line = parent
    for index, call in enumerate(above.function.body.calls):
        if call[3] == line and len(call[ARGS]) > position:
            for callee in analysis.resolver.callees(above, index):
                if callee[0] == "F" and callee[1] == frame.function.key:
                    return loads_here(analysis, call[ARGS][position], above)
    return False


# SQL statements


def _computed_updates(analysis: Analysis, frame: Frame) -> Iterator[Update]:
    for external, column in computed_updates(analysis, frame):
        yield Update(
            frame,
            external.line,
            external.column,
            external.context,
            "increment",
            column,
            ERROR,
        )


# Key-value stores


def _get_then_set(analysis: Analysis) -> Iterator[Update]:
    for external in analysis.externals:
        last = external.dotted.rpartition(".")[2]
        if last not in _SETS or not _is_kv(external.dotted) or _in_transaction(external.frame):
            continue
        named = {name for name, _ in external.frame.function.body.calls[external.call][KWARGS]}
        if named & {"nx", "xx"}:
            continue
        severity = ""
        if any(_derives_from_get(analysis, v, external) for v in arguments(external)[1:]):
            severity = ERROR
        elif last != "setex" and not named & {"ex", "px"} and _is_absent(analysis, external):
            severity = WARNING
        if severity:
            yield Update(
                external.frame,
                external.line,
                external.column,
                external.context,
                "key",
                external.dotted.rpartition(".")[0] or "store",
                severity,
            )


def _is_absent(analysis: Analysis, external: External) -> bool:
    """`if not r.exists(key): r.set(key, …)`, also in a function that is called only then."""
    for kind, value, frame in surrounding(analysis, external.frame, external.context):
        negative = value[0] == "o" and value[1] == "Not"
        if kind != ("if" if negative else "else"):
            continue
        for one in analysis.deep(value, frame, 20):
            for callee in analysis.resolver.callees(frame, one[1]) if one[0] == "r" else ():
                dotted = str(callee[1 if callee[0] == "E" else 2]) if callee[0] in "EX" else ""
                if dotted.rpartition(".")[2] in _ASKS and _is_kv(dotted):
                    return True
    return False


def _is_kv(dotted: str) -> bool:
    lowered = dotted.lower()
    return any(
        w in lowered
        for w in (
            "redis",
            "valkey",
            "memcache",
            "pymemcache",
            "django.core.cache",
            "?.cache",
            "?.r.",
            "flask_caching",
            "etcd",
        )
    )


def _in_transaction(frame: Frame) -> bool:
    for callees in frame.callees.values():
        for callee in callees:
            if callee[0] in "EX" and str(callee[1 if callee[0] == "E" else 2]).rpartition(".")[
                2
            ] in {
                "watch",
                "transaction",
                "lock",
                "register_script",
            }:
                return True
    return False


def _derives_from_get(analysis: Analysis, value: Value, external: External) -> bool:
    if value[0] == "k":
        return False
    for one in analysis.deep(value, external.frame, 80):
        if one[0] == "r":
            for callee in analysis.resolver.callees(external.frame, one[1]):
                dotted = str(callee[1 if callee[0] == "E" else 2]) if callee[0] in "EX" else ""
                if value[0] in "su" and not _is_changed(value, external.frame):
                    continue  # a cache that is filled when it is empty
                if dotted.rpartition(".")[2] in _GETS and _is_kv(dotted):
                    return True
    # `data = json.loads(r.get(k)); data["n"] += 1; r.set(k, json.dumps(data))`
    return False


def _is_changed(value: Value, frame: Frame) -> bool:
    """Whether a value was computed, or is an object that the function changes."""
    body = frame.function.body
    options = body.slots[value[1]] if value[0] == "s" else (value,)
    made = (one for o in options for one in (o[1] if o[0] == "u" else (o,)))
    return any(one[0] == "o" for one in made) or any(e[TARGET] == value for e in body.effects)


# Check, then insert


def _check_then_insert(analysis: Analysis, frame: Frame) -> Iterator[Update]:
    for external in analysis.externals_of(frame):
        table = inserted_table(sql_of(analysis, external))
        if not table and not is_insert(analysis, external):
            continue
        if _handles_conflict(analysis, external) or is_locked(analysis, frame):
            continue
        if not _checks_existence(analysis, external):
            continue
        if (
            not is_added_twice(analysis, external, table)
            if table
            else _has_unique(analysis, external)
        ):
            continue
        yield Update(
            frame,
            external.line,
            external.column,
            external.context,
            "insert",
            table or external.dotted.rpartition(".")[2],
            WARNING,
        )


def _checks_existence(analysis: Analysis, external: External) -> bool:
    frame = external.frame
    for kind, value in analysis.conditions(frame, external.context):
        tag = value[0]
        negative = tag == "o" and (
            value[1] == "Not"
            or (value[1] == "Is" and value[2][-1] == ("k", None))
            or (value[1] == "Eq" and value[2][-1] == ("k", 0))
        )
        positive = tag in "sr" or (tag == "o" and value[1] in {"IsNot", "Gt", "GtE", "NotEq"})
        if ((kind == "if" and negative) or (kind == "else" and positive)) and loads_here(
            analysis, value, frame, is_load=_is_counted
        ):
            return True
    return False


def _is_counted(dotted: str) -> bool:
    return is_fetch(dotted) or dotted.endswith(".count_documents")


def _handles_conflict(analysis: Analysis, external: External) -> bool:
    body = external.frame.function.body
    for _, kind, payload in body.contexts:
        if kind == "try":
            for caught in payload:
                if any(
                    "Integrity" in n or "Unique" in n or "Duplicate" in n
                    for n in analysis.names_of(caught, external.frame)
                ):
                    return True
    return False


def _has_unique(analysis: Analysis, external: External) -> bool:
    """Whether the model that is inserted has a unique column or constraint."""
    for argument in (
        *arguments(external),
        external.frame.function.body.calls[external.call][CALLEE],
    ):
        for one in analysis.deep(argument, external.frame, 20):
            if _has_own_key(external, one):
                return True
            for found in analysis.resolver.resolve(one, external.frame) if one[0] in "nrsa" else ():
                if found[0] in "CI" and _is_unique(analysis, found[1]):
                    return True
    return False


def _has_own_key(external: External, value: Value) -> bool:
    """`Item(id=item_id)`: a second row of the same key is refused."""
    if value[0] != "r":
        return False
    keywords = external.frame.function.body.calls[value[1]][2]
    return any(name in {"id", "pk", "_id"} for name, _ in keywords)


def _is_unique(analysis: Analysis, key: tuple[str, str]) -> bool:
    for cls in analysis.resolver.lineage(key):
        owner = analysis.project.modules[cls.module].functions[cls.owner]
        calls = owner.body.calls
        for name, bindings in cls.attributes.items():
            for value, _ in bindings:
                if name in {"__table_args__", "unique_together"}:
                    return True
                if value[0] == "r" and any(
                    k == "unique" and v != ("k", False) for k, v in calls[value[1]][2]
                ):
                    return True
        for inner in analysis.project.modules[cls.module].classes.values():
            if inner.qualname == f"{cls.qualname}.Meta" and {
                "unique_together",
                "constraints",
                "indexes",
            } & set(inner.attributes):
                return True
    return False
