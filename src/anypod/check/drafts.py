"""From verdicts and sites to findings: one finding per state, its sites grouped, worst chain shown."""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis, State
from anypod.check.facts import ASYNC
from anypod.check.frames import Frame
from anypod.check.memory import Verdict
from anypod.check.model import Finding, Site, Step
from anypod.check.reach import Write
from anypod.check.replacements import replacement

_OPS = {
    "rebind": "rebound",
    "aug": "changed in place",
    "set": "item stored",
    "del": "item deleted",
    "attr": "attribute set",
    "augattr": "attribute changed in place",
}
_FRAMEWORKS = ("flask", "quart", "fastapi", "starlette", "django", "aiohttp", "litestar", "tornado")


def framework_of(analysis: Analysis, frame: Frame) -> str:
    """The framework whose handler reaches a frame, as its module imports it."""
    current: Frame | None = frame
    while current is not None:
        module = analysis.project.modules[current.function.module]
        for entries in module.symbols.values():
            for value, _, _ in entries:
                if value[0] == "m":
                    top = value[1].partition(".")[0]
                    if top in _FRAMEWORKS:
                        return str(top)
        parent = analysis.parents.get(current)
        current = parent[0] if parent else None
    return ""


def finding(
    analysis: Analysis,
    rule: str,
    severity: str,
    frame: Frame,
    line: int,
    column: int,
    text: str,
    *,
    state: str,
    message: str,
    why: str,
    purpose: str,
    sites: Iterable[Site] = (),
    definition: Site | None = None,
    access: str = "",
) -> Finding:
    """A finding at a site inside a frame."""
    first = Site(frame.function.module, line, column, text)
    others = tuple(s for s in dict.fromkeys(sites) if (s.path, s.line) != (first.path, first.line))
    is_async = bool(frame.function.flags & ASYNC)
    name = state.rpartition(".")[2]
    return Finding(
        rule,
        first.path,
        line,
        column,
        state,
        message,
        severity,
        analysis.chain(frame, line, text),
        (first, *others),
        definition,
        why,
        replacement(purpose, name, framework_of(analysis, frame), is_async=is_async),
        access,
    )


def located(
    rule: str,
    severity: str,
    frame: Frame,
    line: int,
    column: int,
    text: str,
    *,
    state: str,
    message: str,
    why: str,
    purpose: str,
) -> Finding:
    """A finding at a place that runs at start-up."""
    module = frame.function.module
    name = frame.function.qualname or "import"
    return Finding(
        rule,
        module,
        line,
        column,
        state,
        message,
        severity,
        (Step(module, line, f"{name}: {text}"),),
        (Site(module, line, column, text),),
        None,
        why,
        replacement(purpose, state, "", is_async=False),
        "startup",
    )


def of_verdict(analysis: Analysis, verdict: Verdict, message: str, why: str) -> Finding:
    """The finding of a state in memory; its first site is the one nearest to a handler."""
    state = verdict.state
    writes = sorted(
        verdict.writes, key=lambda w: (w.removes, len(analysis.chain(w.frame, 0, "")), w.line)
    )
    first = writes[0]
    sites = [Site(w.frame.function.module, w.line, w.column, described(w)) for w in writes]
    purpose = verdict.purpose
    if purpose == "data" and all(w.op in {"aug", "augattr"} or w.op == "rebind" for w in writes):
        is_number = any(w.op in {"aug", "augattr"} for w in writes)
        purpose = "counter" if is_number else "data"
    return finding(
        analysis,
        verdict.rule,
        verdict.severity,
        first.frame,
        first.line,
        first.column,
        described(first),
        state=state.label,
        message=message.format(state=state.label),
        why=why,
        purpose=purpose,
        sites=sites,
        definition=state.definition,
        access=access_form(state, first),
    )


def described(write: Write) -> str:
    """A write in a few words."""
    if write.op == "call":
        return f".{write.name}()"
    return _OPS[write.op]


def access_form(state: State, write: Write) -> str:
    """How the code gets at a state."""
    root, path = state.key
    if root[0] in {"c", "s", "app", "env"}:
        return {"c": "class", "s": "singleton", "app": "application", "env": "environment"}[root[0]]
    if root[0] in {"v", "d"}:
        return "closure" if root[0] == "v" else "default"
    if path:
        return "method"
    if root[0] == "r":
        return "memo"
    if len(write.place[2]) > len(path):
        return "alias"
    if write.frame.function.module != root[1]:
        return "imported"
    if write.frame.bindings and any(o == state.place for b in write.frame.bindings for o in b):
        return "parameter"
    return "direct"
