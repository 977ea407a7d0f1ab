"""Judges states in process memory: what a state is for, and whether a second replica breaks it.

The purpose decides the rule before the place does: a module-level dict of sessions is POD103, a cache POD102,
connections and queues POD106; what is left is POD104 on objects and classes and POD101 on modules.
"""

from __future__ import annotations

from typing import NamedTuple

from anypod.check import words
from anypod.check.analysis import Analysis, State
from anypod.check.frames import Obj
from anypod.check.model import ERROR, WARNING
from anypod.check.origins import is_of_the_image, is_request, without_settings
from anypod.check.plumbing import is_per_task, is_plumbing
from anypod.check.purposes import (
    clears,
    expires_with_a_sibling,
    has_ttl,
    is_load,
    is_made_by_each_reader,
    is_of_each_connection,
    is_throttle,
    is_validated,
    own_names,
    purpose_of,
    without_restored,
)
from anypod.check.reach import Write

_IN_FLIGHT = frozenset({"flight", "flights", "inflight", "singleflight"})
_OWN_BUSINESS = frozenset(
    {
        "ensured",
        "mtime",
        "patched",
        "breaker",
        "breakers",
        "circuit",
        "backoff",
        "warned",
        "pool",
        "pools",
        "metrics",
        "tracer",
        "logger",
        "loggers",
        "receivers",
        "creation",
        "telemetry",
        "profiler",
        "profiling",
        "busy",
        "secured",
    }
)
_LOGGED = frozenset({"logged", "warning", "warnings", "deprecation", "deprecations", "warn"})
_OWN = (is_throttle, is_load, is_made_by_each_reader)
_CLIENTS = ("Client", "Connection", "Transport")
_STREAMS = ("asyncio.open_", "asyncio.Stream", "socket.socket", "socket.create_connection")
_METRICS = ("prometheus_client.", "statsd.", "opentelemetry.", "datadog.", "sentry_sdk.")


class Verdict(NamedTuple):
    """What is wrong with a state."""

    rule: str
    state: State
    writes: tuple[Write, ...]
    severity: str
    purpose: str


def judge(analysis: Analysis) -> list[Verdict]:
    """A verdict for each state that a second replica breaks."""
    found = []
    for state in analysis.states.values():
        verdict = _judge(analysis, state)
        if verdict is not None:
            found.append(verdict)
    return _merged(found)


def _merged(verdicts: list[Verdict]) -> list[Verdict]:
    """One object that several places hold is one state: the one with the shortest name is told."""
    seen: set[tuple[str, str, int]] = set()
    kept = []
    for verdict in sorted(verdicts, key=lambda v: (len(v.state.key[1]), v.state.label)):
        sites = {(verdict.rule, w.frame.function.module, w.line) for w in verdict.writes}
        if not sites <= seen:
            kept.append(verdict)
            seen |= sites
    return kept


def _judge(analysis: Analysis, state: State) -> Verdict | None:
    if not state.writes or _is_own_business(analysis, state):
        return None
    writes = tuple(w for w in state.writes if not is_plumbing(analysis, state, w))
    writes = without_restored(analysis, state, writes)
    if state.root[0] == "env":
        writes = without_settings(analysis, writes)
    if not writes or expires_with_a_sibling(analysis, state, writes):
        return None
    if any(is_own(analysis, state, writes) for is_own in _OWN):
        return None
    if len(writes) < len(state.writes) and all(clears(w) or w.removes for w in writes):
        # Clients or tasks that are dropped, to be made anew.
        return None
    purpose = purpose_of(analysis, state, writes)
    if purpose in {"cache", "data"} and is_of_the_image(
        analysis, state, writes, by_name=not words.any_of(own_names(state), words.TRANSLATIONS)
    ):
        return None
    if purpose in {"cache", "data"} and is_validated(analysis, state, writes):
        return None
    if purpose == "cache":
        if has_ttl(analysis, state, writes) or not state.reads:
            return None
        return Verdict("POD102", state, writes, ERROR, purpose)
    if purpose == "session":
        return Verdict("POD103", state, writes, ERROR, purpose)
    if not state.reads and not any(w.used for w in writes):
        # Written, never looked at in a request: diagnostics.
        return None
    if purpose == "connections" and is_of_each_connection(analysis, state, writes):
        return None
    if purpose in {"connections", "queue"}:
        return Verdict("POD106", state, writes, ERROR, purpose)
    severity = WARNING if _is_vague(state) else ERROR
    return Verdict(_rule_by_place(state), state, writes, severity, purpose)


def _is_own_business(analysis: Analysis, state: State) -> bool:
    """Whether a state is of no concern beyond its process, task or request, whatever is written."""
    spoken = words.words(state.name)
    if spoken == {"logged"} or (spoken & _LOGGED and not spoken & words.SESSION):
        # What was last said in the log, and when.
        return True
    if words.any_of([state.name], _IN_FLIGHT) or words.any_of(own_names(state), _OWN_BUSINESS):
        # Who waits for whom within one process, and what protects or reports this process alone.
        return True
    return (
        analysis.is_per_context(state)
        or analysis.is_of_one_call(state)
        or _is_external(analysis, state)
        or any(is_per_task(analysis, w) for w in state.writes)
        or _is_of_a_connection(analysis, state)
    )


def _is_of_a_connection(analysis: Analysis, state: State) -> bool:
    """What a client keeps beside the stream that it opened, that it was dropped, and what it failed with last."""
    root, path = state.key
    if not path:
        return False
    if all(w.op == "attr" and clears(w) for w in state.writes) and _opens(analysis, state.place):
        return True
    if state.name.strip("_") in {"error", "last_error"}:
        return all(
            w.op == "attr" and w.value is not None and not is_request(analysis, w.value, w.frame)
            for w in state.writes
        )
    return not any(
        one[0] == "p" or is_request(analysis, one, w.frame)
        for w in state.writes
        for one in analysis.deep(w.value, w.frame)
    ) and _opens(analysis, ("P", root, path[:-1]))


def _opens(analysis: Analysis, place: Obj) -> bool:
    """Whether a place holds a client of the project's own that opened a stream."""
    return any(
        one[0] == "I"
        and one[1][1].endswith(_CLIENTS)
        and any(
            held[1].startswith(_STREAMS)
            for cls in analysis.resolver.lineage(one[1])
            for name in cls.instance
            for held in analysis.resolver.held(("P", place[1], (*place[2], f".{name}")))
            if held[0] in "JE"
        )
        for one in analysis.resolver.held(place)
    )


def _rule_by_place(state: State) -> str:
    root, path = state.key
    if root[0] in {"c", "s", "app", "env"} or path:
        return "POD104"
    return "POD101"


def _is_vague(state: State) -> bool:
    return state.root[0] == "s" and not state.key[1]


def _is_external(analysis: Analysis, state: State) -> bool:
    """Whether the state belongs to an external object: its own library answers for it."""
    if state.root[0] in {"app", "env"}:
        return state.key[1] == () and state.root[0] == "app"
    for length in range(len(state.key[1]) + 1):
        held = analysis.resolver.held(("P", state.root, state.key[1][:length]))
        kinds = {h[0] for h in held}
        if "J" in kinds and not kinds & {"D", "I"} and length < len(state.key[1]):
            return True
        if any(h[0] == "J" and h[1].startswith(_METRICS) for h in held):
            return True
    return False
