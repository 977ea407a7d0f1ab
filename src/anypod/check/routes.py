"""Each route and the kind of state that its answers depend on."""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.facts import CALL_LINE
from anypod.check.frames import Frame
from anypod.check.model import Finding, Route

# A copy in each process that says how old it may be: nothing to report, and still not shared.
_LOCAL_CACHES = ("anypod.LocalCache", "anypod.primitives.local.LocalCache")
_LOCAL_RULES = frozenset({"POD101", "POD102", "POD103", "POD104", "POD105", "POD106"})
_SHARED = (
    "sqlalchemy", "flask_sqlalchemy", "psycopg", "pymysql", "mysql", "asyncpg", "pymongo", "motor", "redis",
    "aioredis", "valkey", "boto3", "anypod.State", "django.db", "sqlmodel", "peewee", "tortoise", "requests.",
    "httpx.", "aiohttp.client", "elasticsearch", "sqlite3", "flask.session", "pony", "kafka", "pika", "celery",
    "databases.", "aiosqlite", "beanie", "mongoengine", "cassandra",
)  # fmt: skip


def routes_of(analysis: Analysis, findings: Iterable[Finding]) -> list[Route]:
    """Every route in source order."""
    local = _local(analysis, findings)
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
        function = entry.function
        found.setdefault(
            (function.module, function.qualname, entry.methods),
            Route(
                entry.kind,
                entry.methods,
                entry.path,
                function.qualname,
                function.module,
                entry.line,
                kind,
                tuple(states),
            ),
        )
    return list(found.values())


def _local(analysis: Analysis, findings: Iterable[Finding]) -> dict[Frame, set[str]]:
    """The local states that each frame touches: those that are reported, and caches that expire."""
    local: dict[Frame, set[str]] = {}
    by_line = {
        (site.path, site.line): finding.state
        for finding in findings
        if finding.rule in _LOCAL_RULES
        for site in finding.sites
    }
    labels = set(by_line.values())
    for state in analysis.states.values():
        expires = any(h[0] == "D" and h[1] == "ttlcache" for h in analysis.held(state))
        if state.label in labels or expires:
            for frame in [*(w.frame for w in state.writes), *(r.frame for r in state.reads)]:
                local.setdefault(frame, set()).add(state.label)
    for external in analysis.externals:
        if external.dotted.startswith(_LOCAL_CACHES) and external.receiver is not None:
            label = analysis.resolver_label(external.receiver)
            local.setdefault(external.frame, set()).add(label)
    for frame in analysis.parents:
        for call in frame.function.body.calls:
            found = by_line.get((frame.function.module, call[CALL_LINE]))
            if found is not None:
                local.setdefault(frame, set()).add(found)
    return local


def _has_orm(analysis: Analysis, frames: Iterable[Frame]) -> bool:
    for frame in frames:
        for callees in frame.callees.values():
            for callee in callees:
                if callee[0] == "C" and any(
                    b.startswith(_SHARED) for b in analysis.resolver.external_bases(callee[1])
                ):
                    return True
    return False
