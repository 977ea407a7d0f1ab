"""Names the state behind a difference: which global, class attribute, file, and where it is defined.

The replicas say what process-local state each request of the reduced trace changed. Suspected is the
state that one process had changed and the reader's process lacked, or the old copy that the reader
kept; of several, first the one that the differing route's handler reads. Source is read with `ast`,
never imported. A cause found this way is correlated with the difference; `verify` tries it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from anypod.prove.events import Cause
from anypod.prove.model import Exchange, Response
from anypod.prove.schedules import Kind
from anypod.replicas import Change

SESSION_WORDS = re.compile(r"sess|login|logged|user|token|cart|auth", re.IGNORECASE)
CACHE_WORDS = re.compile(r"cache|memo|rates?$|copies", re.IGNORECASE)
LARGEST_SOURCE = 2_000_000
EMPTY = frozenset({"''", "0 bytes"})
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Suspected:
    """A state that may be behind a difference.

    Attributes:
        change: of the state.
        position: of the exchange that changed it.
        writer: that exchange.
        reader: the exchange whose answer differs.
    """

    change: Change
    position: int
    writer: Exchange
    reader: Exchange

    @property
    def is_kept(self) -> bool:
        """Whether it is the reader's own process that holds it: an old copy."""
        return _process(self.writer) == _process(self.reader)

    def named(self) -> Cause:
        """As a person is told of it."""
        change = self.change
        return Cause(
            change.kind,
            change.name,
            change.module,
            change.file,
            definition(Path(change.file), change.name) if change.module else None,
            self.writer.pod,
            self.reader.pod,
            change.before,
            change.after,
        )


def _process(exchange: Exchange) -> tuple[int, int]:
    return exchange.pod, exchange.incarnation


def ranked(kind: Kind, exchanges: Sequence[Exchange], expected: str) -> tuple[Suspected, ...]:
    """The states that can be behind a reduced difference, the likeliest first, each once.

    Args:
        kind: what was tried.
        exchanges: of the reduced run; the last one's answer differs.
        expected: what one replica answered at the differing place.

    Returns:
        Nothing when no process-local state can explain it.
    """
    if kind in {Kind.RETRY, Kind.IDENTITY}:
        return ()
    *earlier, reader = exchanges
    found: list[tuple[int, int, int, Suspected]] = []
    for position, exchange in enumerate(earlier):
        same = _process(exchange) == _process(reader)
        for number, change in enumerate(exchange.changes):
            score = _score(kind, change, exchange, reader, expected, same=same)
            if score > 0:
                suspected = Suspected(change, position, exchange, reader)
                found.append((score, position, number, suspected))
    found.sort(key=lambda one: one[:3], reverse=True)
    best = {one.change.state: one for *_, one in reversed(found)}
    return tuple(one for *_, one in found if best[one.change.state] is one)


def lacked(exchanges: Sequence[Exchange]) -> tuple[Cause | None, str | None]:
    """What a pod lacked that refused a request's second delivery, correlated, and the check rule for it.

    Args:
        exchanges: of the reduced run, up to that delivery.
    """
    suspects = ranked(Kind.ANOTHER_POD, exchanges, "")
    cause = suspects[0].named() if suspects else None
    return cause, rule(Kind.ANOTHER_POD, cause, "")


def twice(exchanges: Sequence[Exchange]) -> int | None:
    """The step that is to blame for a retry: one whose second delivery was refused, or the last."""
    refused = _refused(exchanges)
    if refused:
        return exchanges[refused[0]].step.index
    twice = [e for e in exchanges if e.duplicate]
    return twice[-1].step.index if twice else None


def _refused(exchanges: Sequence[Exchange]) -> list[int]:
    """The positions of second deliveries that were refused where the first ones were not."""
    first = {e.step.index: e for e in exchanges if not e.duplicate}
    return [
        at
        for at, again in enumerate(exchanges)
        if again.duplicate
        and again.step.index in first
        and _status(first[again.step.index]) < 400 <= _status(again)
    ]


def refused_elsewhere(exchanges: Sequence[Exchange]) -> int | None:
    """The position of a second delivery that another pod refused: it lacks something, and did nothing."""
    for at in _refused(exchanges):
        again = exchanges[at]
        first = next(e for e in exchanges if e.step.index == again.step.index)
        if (first.pod, first.incarnation) != (again.pod, again.incarnation):
            return at
    return None


def _status(exchange: Exchange) -> int:
    """What was answered; none is a failure."""
    return exchange.response.status if isinstance(exchange.response, Response) else 599


def _score(
    kind: Kind, change: Change, writer: Exchange, reader: Exchange, expected: str, *, same: bool
) -> int:
    """How well a change explains the difference; 0 or less means that it cannot."""
    if same and kind is not Kind.STALE_COPY:
        # What the reader's own process changed it did not lack.
        return 0
    score = 2
    if kind is Kind.STALE_COPY:
        # The old copy is on the reader's pod, put there by a request like the one that differs.
        score += 3 if same else 0
        score += 2 if same and writer.step.method == reader.step.method else 0
    if change.module and is_read_for(reader, Path(change.file), change.name):
        score += 8
    if any((c.module, c.name) == (change.module, change.name) for c in reader.changes):
        score += 2
    if "()" in change.name:
        score -= 3  # first the cache that made it: that one may be what is stale
    if change.kind == "file" and change.after.partition(",")[0] in EMPTY:
        score -= 1  # a lock, most likely: its content is not what somebody lacks
    shown = expected.strip("\"'")
    if shown and shown in change.after:
        score += 1
    return score


def rule(kind: Kind, cause: Cause | None, route: str) -> str | None:
    """The rule of `anypod check` that finds such state."""
    if kind is Kind.RETRY:
        return "POD107"
    if kind is Kind.IDENTITY:
        return "POD109"
    if cause is None:
        return None
    if cause.kind in {"file", "database"}:
        return "POD105"
    if cause.drawn:
        return "POD109"
    if cause.kind == "cache":
        return "POD102"
    leaf = cause.name.rsplit(".", 1)[-1]
    if SESSION_WORDS.search(leaf):
        return "POD103"
    if kind is Kind.STALE_COPY or CACHE_WORDS.search(leaf):
        return "POD102"
    if cause.kind == "class attribute":
        return "POD104"
    if SESSION_WORDS.search(route) and not cause.after.lstrip("-").isdigit():
        return "POD103"
    return "POD101"


@dataclass(frozen=True, slots=True)
class _Source:
    """What one source file defines, by name."""

    tree: ast.Module
    functions: dict[str, Function]


@lru_cache(maxsize=256)
def _source(path: Path) -> _Source | None:
    """The parsed file, or None if it cannot be read as Python."""
    try:
        if path.stat().st_size > LARGEST_SOURCE:
            return None
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    functions = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return _Source(tree, functions)


def definition(path: Path, name: str) -> int | None:
    """The line on which a state is defined, 1-based; None when the source does not show it.

    Args:
        path: of the source file.
        name: `request_count`, `Store.items`, or the name of a function with a closure or a cache.
    """
    source = _source(path)
    if source is None:
        return None
    scopes: list[ast.AST] = [source.tree]
    line: int | None = None
    for part in re.findall(r"[A-Za-z_]\w*", name):
        found = _define(scopes, part)
        if found is None:
            return line
        line, scope = found
        scopes = [scope]
    return line


def _define(scopes: Sequence[ast.AST], name: str) -> tuple[int, ast.AST] | None:
    """Where a name is bound: in the scope's own body first, then anywhere below it."""
    for scope in scopes:
        for node in [*_own_body(scope), *ast.walk(scope)]:
            if node is not scope and name in set(_bound(node)):
                return node.lineno, node  # type: ignore[attr-defined]
    return None


def _own_body(scope: ast.AST) -> Iterator[ast.AST]:
    yield from getattr(scope, "body", ())


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds, attributes of `self` among them."""
    targets: Sequence[ast.expr] = ()
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    for target in targets:
        for part in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
            if isinstance(part, ast.Name):
                yield part.id
            elif isinstance(part, ast.Attribute):
                yield part.attr


def is_read_for(exchange: Exchange, path: Path, name: str) -> bool:
    """Whether the handler of this request, or what it calls in this file, mentions the state."""
    source = _source(path)
    if source is None:
        return False
    parts = set(re.findall(r"[A-Za-z_]\w*", name))
    target = exchange.request.target.split("?", 1)[0]
    handlers = list(_handlers(source, exchange.request.method, target))
    seen: set[str] = set()
    while handlers:
        function = handlers.pop()
        if function.name in seen:
            continue
        seen.add(function.name)
        used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        if parts & (used | {function.name}):
            return True
        handlers += [source.functions[called] for called in used if called in source.functions]
    return False


def _handlers(source: _Source, method: str, target: str) -> Iterator[Function]:
    """Functions whose decorator names a path that matches the target.

    Prefixes of blueprints and routers are unknown, so a path may match the target's end. Where no
    function is decorated for the method, those for any method are taken.
    """
    exact: list[Function] = []
    loose: list[Function] = []
    for function in source.functions.values():
        for decorator in function.decorator_list:
            if not isinstance(decorator, ast.Call):
                continue
            paths = [a.value for a in decorator.args if isinstance(a, ast.Constant)]
            if not any(isinstance(p, str) and _matches(p, target) for p in paths):
                continue
            text = ast.unparse(decorator).upper()
            (exact if f".{method}(" in text or f"'{method}'" in text else loose).append(function)
    yield from exact or loose


def _matches(path: str, target: str) -> bool:
    pattern = re.sub(r"<[^>]+>|\{[^}]+\}", "\0", path.rstrip("/"))
    expression = re.escape(pattern).replace("\0", "[^/]+")
    return bool(pattern) and re.search(f"{expression}/?$", target) is not None
