"""Each route and the kind of state that its answers depend on."""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.frames import Frame
from anypod.check.model import Finding, Route

_LOCAL_RULES = frozenset({"POD101", "POD102", "POD103", "POD104", "POD105", "POD106"})
_SHARED = (
    "sqlalchemy", "flask_sqlalchemy", "psycopg", "pymysql", "mysql", "asyncpg", "pymongo", "motor", "redis",
    "aioredis", "valkey", "boto3", "anypod.State", "django.db", "sqlmodel", "peewee", "tortoise", "requests.",
    "httpx.", "aiohttp.client", "elasticsearch", "sqlite3", "flask.session", "pony", "kafka", "pika", "celery",
    "databases.", "aiosqlite", "beanie", "mongoengine", "cassandra",
)  # fmt: skip


def routes_of(analysis: Analysis, findings: Iterable[Finding]) -> list[Route]:
    """Every route in source order."""
    by_state: dict[tuple[str, int], str] = {}
    for finding in findings:
        if finding.rule in _LOCAL_RULES:
            for site in finding.sites:
                by_state[(site.path, site.line)] = finding.state
    local: dict[Frame, set[str]] = {}
    labels = set(by_state.values())
    for state in analysis.states.values():
        if state.label in labels:
            for frame in [*(w.frame for w in state.writes), *(r.frame for r in state.reads)]:
                local.setdefault(frame, set()).add(state.label)
    for frame in analysis.parents:
        for call in frame.function.body.calls:
            label = by_state.get((frame.function.module, call[3]))
            if label is not None:
                local.setdefault(frame, set()).add(label)
    shared = {
        e.frame
        for e in analysis.externals
        if e.dotted.startswith(_SHARED) or ".database." in e.dotted or ".db." in e.dotted
    }
    found: dict[tuple[str, str, tuple[str, ...]], Route] = {}
    for entry in analysis.entries:
        if entry.kind not in {"route", "socket", "view"}:
            continue
        reached = analysis.reached_from(entry.frame)
        states = sorted({label for frame in reached for label in local.get(frame, ())})
        if states:
            kind = "local"
        elif any(frame in shared for frame in reached) or _has_orm(analysis, reached):
            kind = "shared"
        else:
            kind = "stateless"
        key = (entry.function.module, entry.function.qualname, entry.methods)
        found.setdefault(
            key,
            Route(
                entry.kind,
                entry.methods,
                entry.path,
                entry.function.qualname,
                entry.function.module,
                entry.line,
                kind,
                tuple(states),
            ),
        )
    return list(found.values())


def _has_orm(analysis: Analysis, frames: Iterable[Frame]) -> bool:
    for frame in frames:
        for callees in frame.callees.values():
            for callee in callees:
                if callee[0] == "C" and any(
                    b.startswith(_SHARED) for b in analysis.resolver.external_bases(callee[1])
                ):
                    return True
    return False
