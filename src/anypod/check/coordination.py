"""Coordination within one process: locks around shared effects, schedulers, threads, events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anypod.check import words
from anypod.check.analysis import Analysis
from anypod.check.databases import embedded_databases
from anypod.check.effects import sql_of
from anypod.check.facts import ARGS, CALL_CONTEXT, CALL_LINE, GENERATOR, KWARGS, Value
from anypod.check.files import is_log
from anypod.check.frames import Frame, Obj
from anypod.check.model import ERROR, WARNING
from anypod.check.origins import is_client
from anypod.check.reach import External

LOCKS = frozenset(
    {
        "threading.Lock", "threading.RLock", "threading.Semaphore", "threading.BoundedSemaphore",
        "threading.Condition", "asyncio.Lock", "asyncio.Semaphore", "asyncio.BoundedSemaphore", "asyncio.Condition",
        "multiprocessing.Lock", "multiprocessing.RLock", "multiprocessing.Semaphore", "anyio.Lock", "anyio.Semaphore",
        "trio.Lock", "gevent.lock.Semaphore", "gevent.lock.RLock", "filelock.FileLock", "fasteners.InterProcessLock",
        "portalocker.Lock", "aiorwlock.RWLock", "eventlet.semaphore.Semaphore",
    }
)  # fmt: skip
_EVENTS = frozenset({"threading.Event", "asyncio.Event", "threading.Barrier", "anyio.Event"})
_SCHEDULERS = (
    "apscheduler.schedulers.", "flask_apscheduler.", "schedule.every", "rocketry.", "aiocron.", "fastapi_utils.tasks.",
    "fastapi_restful.tasks.", "sched.scheduler", "fastapi_scheduler.", "apscheduler.Scheduler",
)  # fmt: skip
_SCHEDULES = frozenset(
    {
        "start",
        "start_in_background",
        "every",
        "repeat_every",
        "run_pending",
        "add_job",
        "scheduled_job",
    }
)
_SHARED_EFFECTS = frozenset(
    """commit execute executemany save delete insert_one update_one replace_one put_item put_object upload_file set
    hset post put patch publish send bulk_create create write_text write_bytes dump flush get_or_create
    update_or_create incr decr find_one_and_update""".split()  # noqa: SIM905
)


_OF_ONE_FILE = ("sqlite3.connect()", "aiosqlite.connect()", "duckdb.connect()", "tinydb.TinyDB()")
_OUTSIDE = frozenset(
    [
        "cross",
        "interprocess",
        "process",
        "file",
        "path",
        "redis",
        "distributed",
        "advisory",
        "db",
        "database",
    ]
)
_PREPARES = ("SELECT", "PRAGMA", "ATTACH", "DETACH", "SET ", "SHOW ", "USE ", "BEGIN")


class Coordination(NamedTuple):
    """A place where one process coordinates what spans replicas."""

    frame: Frame
    line: int
    column: int
    state: str
    message: str
    severity: str
    purpose: str


def locks(analysis: Analysis) -> Iterator[Coordination]:
    """Long-lived locks that requests hold around effects on shared stores, files and services."""
    told = _told(analysis)
    for frame in analysis.parents:
        body = frame.function.body
        for number, (_, kind, payload) in enumerate(body.contexts):
            if kind != "with":
                continue
            for place in _locks_in(analysis, payload[0], frame):
                inside = [
                    c
                    for c in range(len(body.calls))
                    if _is_within(body.contexts, body.calls[c][CALL_CONTEXT], number)
                ]
                if _fills_once(analysis, frame, number) or _locks_outside(analysis, frame, number):
                    continue
                if _has_shared_effect(analysis, frame, inside, told, each=place[2][-1:] == ("[]",)):
                    yield _lock(analysis, frame, payload[1], 0, place)
    for external in analysis.externals:
        if external.dotted.removesuffix("().acquire") not in LOCKS or external.receiver is None:
            continue
        everything = range(len(external.frame.function.body.calls))
        if _has_shared_effect(analysis, external.frame, everything, told):
            yield _lock(analysis, external.frame, external.line, external.column, external.receiver)


def _told(analysis: Analysis) -> tuple[str, ...]:
    """Connections to a database of this pod's own, told where it is opened: a lock there is the connection's."""
    used = any(e.dotted.startswith(_OF_ONE_FILE) for e in analysis.externals)
    return _OF_ONE_FILE if used and any(embedded_databases(analysis, "")) else ()


def _locks_outside(analysis: Analysis, frame: Frame, number: int) -> bool:
    """`with self._lock, file_lock(path):` another lock, which is not of this process, is taken with it."""
    contexts = frame.function.body.contexts
    line = contexts[number][2][1]
    for other, (_, kind, payload) in enumerate(contexts):
        if kind == "with" and other != number and payload[1] == line and payload[0][0] == "r":
            for callee in analysis.resolver.callees(frame, payload[0][1]):
                name = str(
                    callee[1][1] if callee[0] == "F" else callee[-1] if callee[0] in "EX" else ""
                )
                spoken = words.words(name.rpartition(".")[2])
                if "lock" in spoken and spoken & _OUTSIDE:
                    return True
    return False


def _fills_once(analysis: Analysis, frame: Frame, number: int) -> bool:
    """`with lock: if not self._ready: …; self._ready = True`: what each process does once for itself."""
    body = frame.function.body
    asked = {
        o
        for test, _ in body.tests
        for one in analysis.deep(test, frame, 12)
        if one[0] in "na"
        for o in analysis.resolver.resolve(one, frame)
        if o[0] == "P"
    }
    return any(
        w.op in {"rebind", "attr"}
        and w.place in asked
        and _is_within(body.contexts, w.context, number)
        and w.value is not None
        and (w.value == ("k", True) or is_client(analysis, w.value, frame))
        for w in analysis.writes_of(frame)
    )


def _lock(analysis: Analysis, frame: Frame, line: int, column: int, place: Obj) -> Coordination:
    label = analysis.resolver_label(place)
    held = analysis.resolver.held(place)
    # A semaphore mostly spares this process's own resources: how many at once, not one after the other.
    throttles = bool(held) and all("Semaphore" in h[1] for h in held if h[0] == "J")
    return Coordination(
        frame,
        line,
        column,
        label,
        f"lock {label} of one process guards what every replica changes",
        WARNING if throttles else ERROR,
        "lock",
    )


def _locks_in(analysis: Analysis, value: Value, frame: Frame) -> list[Obj]:
    found = []
    for one in analysis.resolver.resolve(value, frame):
        if one[0] == "P" and any(
            h[0] == "J" and h[1] in LOCKS for h in analysis.resolver.held(one)
        ):
            found.append(one)
        elif one[0] == "J" and one[1].startswith(("filelock.", "fasteners.", "portalocker.")):
            found.append(("P", ("g", frame.function.module, one[1]), ()))
    return found


def _is_within(contexts: list[tuple[int, str, object]], context: int, number: int) -> bool:
    while context:
        if context == number:
            return True
        context = contexts[context][0]
    return False


def _has_shared_effect(
    analysis: Analysis,
    frame: Frame,
    inside: object,
    told: tuple[str, ...],
    *,
    each: bool = False,
) -> bool:
    wanted = set(inside)  # type: ignore[call-overload]
    for external in analysis.externals:
        if (
            external.frame is frame
            and external.call in wanted
            and _is_shared_effect(analysis, external, told)
        ):
            return True
    lines = {frame.function.body.calls[i][CALL_LINE] for i in wanted}
    for child, line in frame.children:
        if line in lines:
            # Two calls down: further away, what happens is not what the lock is for. A lock for each key is for
            # what has that key, wherever it is changed.
            reached = {child, *(c for c, _ in child.children)}
            for _ in range(3 if each else 0):
                reached |= {c for one in reached for c, _ in one.children}
            for external in analysis.externals:
                if external.frame in reached and _is_shared_effect(analysis, external, told):
                    return True
    return False


def _is_shared_effect(analysis: Analysis, external: External, told: tuple[str, ...]) -> bool:
    dotted = external.dotted
    if dotted.startswith(
        ("threading.", "asyncio.", "logging.", "builtins.", "time.", "collections.", "request")
    ):
        if dotted != "builtins.open":
            return False
        call = external.frame.function.body.calls[external.call]
        mode = call[ARGS][1] if len(call[ARGS]) > 1 else dict(call[KWARGS]).get("mode")
        text = analysis.resolver.constant(mode, external.frame)
        if not isinstance(text, str) or not set(text) & set("wax+"):
            return False
        return not ("a" in text and is_log(analysis, call[ARGS][0], external.frame))
    if told and dotted.startswith(told):
        return False
    last = dotted.rpartition(".")[2]
    if last in {"commit", "flush"} and external.frame.function.flags & GENERATOR:
        # A context manager closes what its users did.
        return False
    sql = sql_of(analysis, external)
    if sql:
        return not sql.lstrip().upper().startswith("SELECT")
    if last == "execute" and _prepares(analysis, external):
        return False
    if (
        last in {"set", "send", "put", "create", "flush", "delete", "save", "execute"}
        and "." not in dotted
    ):
        return False
    return last in _SHARED_EFFECTS


def _prepares(analysis: Analysis, external: External) -> bool:
    """Whether this is what every connection is told before it is used: it changes nothing."""
    for argument in external.frame.function.body.calls[external.call][ARGS][:1]:
        for one in analysis.deep(argument, external.frame, 20):
            if one[0] == "k" and isinstance(one[1], str):
                said = one[1].lstrip().upper()
                return said.startswith(_PREPARES) or "IF NOT EXISTS" in said
    return False


def events(analysis: Analysis) -> Iterator[Coordination]:
    """Events on which one request waits until another sets them.

    An event that only a thread of this process waits for (or sets) drives what that process does for itself.
    """
    seen: dict[tuple[str, int], Coordination] = {}
    sides: dict[str, set[str]] = {}
    for external in analysis.externals:
        kind, _, method = external.dotted.rpartition("().")
        if kind in _EVENTS and method in {"wait", "set"} and external.receiver is not None:
            label = analysis.resolver_label(external.receiver)
            sides.setdefault(label, set()).add(method)
            at = (external.frame.function.module, external.line)
            seen.setdefault(
                at,
                Coordination(
                    external.frame,
                    external.line,
                    external.column,
                    label,
                    f"event {label} wakes only requests of this process",
                    ERROR,
                    "connections",
                ),
            )
    yield from (found for found in seen.values() if len(sides[found.state]) == 2)


def schedulers(analysis: Analysis) -> Iterator[Coordination]:
    """Schedulers and endless threads that every replica starts."""
    if not analysis.entries:
        return
    web = _web_modules(analysis)
    handlers = {e.function.module for e in analysis.entries}
    for external in (*analysis.startup_externals, *analysis.externals):
        last = external.dotted.rpartition(".")[2]
        frame = external.frame
        if external.dotted.startswith(_SCHEDULERS) and last in _SCHEDULES:
            if last in {"add_job", "scheduled_job"} or (
                frame.startup and frame.function.module not in web
            ):
                continue
            if _is_under_main(analysis, external):
                continue
            yield Coordination(
                frame,
                external.line,
                external.column,
                external.dotted,
                "every replica starts this scheduler: each job runs once per replica",
                ERROR,
                "schedule",
            )
        elif external.dotted in {"threading.Thread", "threading.Timer"}:
            yield from _threads(analysis, external, handlers)


def _threads(analysis: Analysis, external: External, handlers: set[str]) -> Iterator[Coordination]:
    frame = external.frame
    call = frame.function.body.calls[external.call]
    target = dict(call[KWARGS]).get("target")
    if target is None and len(call[ARGS]) > 1:
        target = call[ARGS][1]
    if target is None:
        return
    loops = _is_endless(analysis, target, frame)
    if frame.startup:
        if loops and frame.function.module in handlers and not _is_under_main(analysis, external):
            yield Coordination(
                frame,
                external.line,
                external.column,
                "background thread",
                "every replica starts this thread: its work is done once per replica",
                WARNING,
                "schedule",
            )
    elif frame in analysis.parents and not loops:
        yield Coordination(
            frame,
            external.line,
            external.column,
            "background thread",
            "work that outlives its request dies with this pod, and no other replica knows of it",
            WARNING,
            "queue",
        )


def _is_endless(analysis: Analysis, target: Value, frame: Frame) -> bool:
    for one in analysis.resolver.resolve(target, frame):
        if one[0] == "F":
            body = analysis.resolver.project.function(one[1]).body
            if any(kind == "while" for _, kind, _ in body.contexts):
                return True
    return False


def _is_under_main(analysis: Analysis, external: External) -> bool:
    for _, condition in analysis.conditions(external.frame, external.context):
        if any(one == ("k", "__main__") for one in analysis.deep(condition, external.frame)):
            return True
    return external.frame.function.name in {"main", "run"}


def _web_modules(analysis: Analysis) -> set[str]:
    """Modules with handlers or an application, and what they import."""
    found = {e.function.module for e in analysis.entries}
    for module in analysis.project.modules.values():
        for entries in module.symbols.values():
            if any(v[0] == "r" for v, _, f in entries if not f) and "app" in module.symbols:
                found.add(module.path)
    queue = list(found)
    while queue:
        module = analysis.project.modules[queue.pop()]
        for entries in module.symbols.values():
            for value, _, _ in entries:
                if value[0] == "m":
                    _, target, _ = analysis.project.imported(module, value)
                    if target is not None and target.path not in found:
                        found.add(target.path)
                        queue.append(target.path)
    return found
