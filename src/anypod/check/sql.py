"""SQL statements that a program runs one after the other, where one statement would do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from anypod.check.analysis import Analysis
from anypod.check.effects import arguments, sql_of
from anypod.check.facts import ARGS, CALL_LINE, KWARGS, Value
from anypod.check.frames import Frame
from anypod.check.loads import is_locked, is_query, loads_here
from anypod.check.reach import External

_FETCHES = frozenset(
    {"fetchone", "fetchall", "fetchmany", "fetchval", "fetchrow", "fetch_one", "fetch_val"}
)
_ARITHMETIC = frozenset(
    {"Add", "Sub", "Mult", "Div", "FloorDiv", "Mod", "BitOr", "BitAnd", "BitXor"}
)
_SERIAL = r"(?i)\bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b|BEGIN\s+(?:IMMEDIATE|EXCLUSIVE)|LOCK\s+TABLE|SERIALIZABLE|advisory_.*lock"


def is_fetch(dotted: str) -> bool:
    """Whether a call loads a row or an object."""
    return dotted.rpartition(".")[2] in _FETCHES or is_query(dotted)


def computed_updates(analysis: Analysis, frame: Frame) -> Iterator[tuple[External, str]]:
    """`SELECT n`, then `UPDATE … SET n = ?` with what Python made of it; the column is named."""
    for external in analysis.externals_of(frame):
        sql = sql_of(analysis, external)
        if (
            sql.lstrip()[:6].upper() == "UPDATE"
            and not _compares_what_it_sets(sql)
            and any(_is_made_of_a_row(analysis, v, frame) for v in arguments(external)[1:])
            and not is_serial(analysis, frame)
        ):
            yield external, _set_column(sql)


def _is_made_of_a_row(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a parameter is computed from what a query found, here or by who called with it."""
    if _is_computed(analysis, value, frame):
        return True
    parent = analysis.parents.get(frame)
    if parent is None:
        return False
    above, line = parent
    bound = 1 if frame.function.cls else 0
    positions = {one[1] - bound for one in analysis.deep(value, frame, 20) if one[0] == "p"}
    return any(
        _is_computed(analysis, given, above)
        for call in above.function.body.calls
        if call[CALL_LINE] == line
        for position, given in enumerate(call[ARGS])
        if position in positions
    )


def _is_computed(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """`row[0] + 1`, or `n -= 1` after `n` was fetched."""
    return any(
        loads_here(analysis, one, frame, is_load=is_fetch)
        for one in analysis.deep(value, frame, 40)
        if _is_arithmetic(one) or (one[0] == "u" and any(map(_is_arithmetic, one[1])))
    )


def _is_arithmetic(value: Value) -> bool:
    return value[0] == "o" and value[1] in _ARITHMETIC


def _set_column(sql: str) -> str:
    found = re.search(r"(?is)\bUPDATE\s+[\"`\[]?(\w+).*?\bSET\s+[\"`\[]?(\w+)", sql)
    return f"{found[1]}.{found[2]}" if found else "row"


def _compares_what_it_sets(sql: str) -> bool:
    """`… SET n = ? WHERE id = ? AND n = ?`: who comes second changes nothing, and can see it."""
    assigned, _, where = re.sub(r"(?is).*?\bSET\b", "", sql, count=1).upper().partition("WHERE")
    columns = set(re.findall(r"(\w+)[\"`\]]?\s*=", assigned))
    return bool(columns & set(re.findall(r"(\w+)[\"`\]]?\s*(?:=|<|>)", where)))


def is_serial(analysis: Analysis, frame: Frame) -> bool:
    """Whether the function, or who calls it, locks what it read."""
    current: Frame | None = frame
    for _ in range(3):
        if current is None:
            return False
        for call in current.function.body.calls:
            for argument in (*call[ARGS][:1], *(v for _, v in call[KWARGS])):
                for one in analysis.deep(argument, current, 20):
                    if one[0] == "k" and isinstance(one[1], str) and re.search(_SERIAL, one[1]):
                        return True
        parent = analysis.parents.get(current)
        current = parent[0] if parent else None
    return is_locked(analysis, frame)


def is_added_twice(analysis: Analysis, external: External, table: str) -> bool:
    """Whether two replicas that look for a row and find none would both add it to this table.

    Not where the function looks into other tables only, nor where the project's own `CREATE TABLE` refuses
    a second such row.
    """
    frame = external.frame
    looks = re.compile(rb"(?is)\bFROM\s+[\"`\[]?" + table.encode() + rb"\b")
    bodies = [frame.function.raw]
    for callees in frame.callees.values():
        bodies += [
            analysis.project.modules[key[0]].functions[key[1]].raw
            for tag, key, *_ in callees
            if tag == "F"
        ]
    if not any(map(looks.search, bodies)) or is_serial(analysis, frame):
        return False
    columns = re.search(r"(?is)INTO\s+\S+?\s*\((.*?)\)", sql_of(analysis, external))
    given = set(re.findall(r"\w+", columns[1].lower())) if columns else set()
    created = re.compile(
        rb"(?is)CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?[\"`\[]?"
        + table.encode()
        + rb"\b([^;\0]*)"
    )
    return not any(
        _refuses(found[1].decode(errors="replace"), given)
        for text in _texts(analysis)
        for found in created.finditer(text)
    )


def _refuses(columns: str, given: set[str]) -> bool:
    numbered = re.findall(r"(?i)(\w+)\s+(?:\w*INTEGER|\w*INT|\w*SERIAL)\s+PRIMARY\s+KEY", columns)
    rest = re.sub(r"(?i)(?:INTEGER|INT|SERIAL)\s+PRIMARY\s+KEY", "", columns)
    return bool(
        re.search(r"(?i)\bUNIQUE\b|PRIMARY\s+KEY", rest)
        or given & {column.lower() for column in numbered}
    )


def _texts(analysis: Analysis) -> Iterator[bytes]:
    """What holds the project's constants: those of modules, and bodies that are not decoded for this."""
    for module in analysis.project.modules.values():
        for bindings in module.symbols.values():
            for value, *_ in bindings:
                if value[0] == "k" and isinstance(value[1], str):
                    yield value[1].encode()
        for function in module.functions.values():
            yield function.raw
