"""The words in which a difference is told, the same on the console, in HTML, SARIF and JUnit."""

from __future__ import annotations

import os
from pathlib import Path

from anypod.prove.events import Cause, Contended, Divergence, Told
from anypod.prove.schedules import STARTS, Kind

SHARED_INSTEAD = {
    "POD101": "state.counter(…) or state.map(…)",
    "POD102": "state.cache(…), or a LocalCache with a TTL",
    "POD103": "state.session(…)",
    "POD104": "state.map(…)",
    "POD105": "a database or a --shared volume",
    "POD107": "state.idempotency(…), or a conditional UPDATE",
    "POD109": "configuration that every pod shares",
}


def instead(rule: str | None) -> str:
    """What to write instead of state that a check rule finds; empty when the rule names nothing."""
    return SHARED_INSTEAD.get(rule or "", "")


def _why_twice(divergence: Divergence) -> str:
    for again in divergence.requests:
        first = next(r for r in divergence.requests if r.line == again.line)
        if again.duplicate and _refused(again) and not _refused(first) and again.pod != first.pod:
            cause = divergence.cause
            lacked = (
                f"what pod {first.pod} has"
                if cause is None
                else f"{_called(cause)}, as pod {cause.pod} had changed it"
            )
            return (
                f"pod {again.pod} refused {divergence.route} when it was delivered again: it lacks "
                f"{lacked}"
            )
    return f"{divergence.route} delivered twice takes effect twice"


def _refused(request: Told) -> bool:
    return request.status is None or request.status >= 400


def _called(cause: Cause) -> str:
    noun = {
        "global": "module global",
        "cache": "lru_cache of",
        "closure": "closure variable",
        "default": "default argument",
    }.get(cause.kind, cause.kind)
    return f"the {noun} {cause.name}"


def why(divergence: Divergence) -> str:
    """The state behind a difference, in a sentence without its full stop."""
    cause = divergence.cause
    if divergence.schedule is Kind.RETRY:
        return _why_twice(divergence)
    if divergence.schedule is Kind.OVERLAP:
        return "two requests at the same moment came out as in neither order"
    if divergence.schedule in STARTS:
        return _why_not_started(divergence)
    if divergence.schedule is Kind.IDENTITY:
        return "the answer depends on the process that gave it"
    if cause is None:
        return "no process-local state was seen to change; look at what the route keeps"
    where = short(cause.file)
    places = [f"{where}:{cause.line}" if cause.line else where] if cause.module else []
    if cause.written_at:
        places.append(f"written at {short(cause.written_in)}:{cause.written_at}")
    place = f" ({', '.join(places)})" if places else ""
    name = f"{_called(cause)}{place}"
    if cause.drawn:
        other = f"pod {cause.reader}" if cause.reader != cause.pod else "the process after it"
        did = "drew" if cause.module else "made"
        return f"pod {cause.pod} and {other} each {did} {name} for itself when it started"
    if divergence.schedule is Kind.STALE_COPY and cause.pod == cause.reader:
        return f"pod {cause.reader} answered from its own copy in {name}"
    if divergence.schedule is Kind.POD_MOVED:
        return f"{name} went with the pod"
    if divergence.schedule is Kind.DEPLOY and cause.pod == cause.reader:
        return f"{name} went with the old pod"
    return f"pod {cause.pod} had changed {name}, pod {cause.reader} never saw it"


def _why_not_started(divergence: Divergence) -> str:
    cause, place = divergence.cause, ""
    if cause is not None and cause.written_at:
        place = f" ({short(cause.written_in)}:{cause.written_at})"
    if cause is not None and divergence.schedule is Kind.RESTART:
        return (
            f"a killed replica left the file {cause.name}, outside its disk: none starts again while "
            f"that is there{place}"
        )
    if cause is None or cause.kind != "file":
        return f"a second replica does not start while the first one runs{place}"
    return (
        f"the first replica holds the file {cause.name}, outside its disk: a second one does not start "
        f"beside it{place}"
    )


def evidence(divergence: Divergence) -> str:
    """How sure the cause is; empty without one."""
    cause = divergence.cause
    times = divergence.confirmed
    if divergence.schedule is Kind.RESTART:
        return (
            f"tried {times} times: one starts without the file, and none does after it was killed"
        )
    if divergence.schedule is Kind.SECOND:
        return f"tried {times} times: each starts alone, and not beside the other"
    if cause is None:
        return ""
    if not cause.verified and divergence.schedule is Kind.RETRY:
        return "correlated: it changed, and copying it was not tried"
    if not cause.verified:
        return "correlated: it changed; copying it was impossible or did not mend the answer"
    also = f" together with {', '.join(cause.together)}" if cause.together else ""
    return f"verified: copying this state{also} mends the answer, copying other state does not"


def contended(race: Contended) -> str:
    """What happened to two requests at the same moment that lost nothing."""
    if race.where == "status":
        statuses = " and ".join(race.answers)
        return f"fails when two come at once: {race.failed} ({statuses}; nothing was lost)"
    expected, got = race.answers
    return (
        f"sees the other when two come at once: {race.failed} "
        f"({race.where} is {got}, not {expected}; nothing was lost)"
    )


def sent(request: Told) -> str:
    """A request in one line, as it was sent."""
    return f"{request.method} {request.target}" + (f" {request.body}" if request.body else "")


def answered(request: Told) -> str:
    """What came back, or why nothing did."""
    return str(request.status) if request.status is not None else request.answer


def marks(request: Told) -> str:
    """What is special about a delivery; empty if nothing is."""
    return ", ".join(
        mark
        for mark, on in (
            ("delivered again", request.duplicate),
            ("answer lost", request.lost),
            ("at the same moment", request.overlaps),
        )
        if on
    )


def short(path: str) -> str:
    """A path as seen from here, when that is shorter."""
    try:
        relative = os.path.relpath(path, Path.cwd())
    except (ValueError, OSError):
        return path
    return relative if len(relative) < len(path) else path


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def count(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `5 min`, `1.5 s`, `8 ms`."""
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:g} h"
    if seconds >= 120 and seconds % 60 == 0:
        return f"{seconds / 60:g} min"
    if seconds >= 10:
        return f"{seconds:.0f} s"
    if seconds >= 0.1:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    return f"{seconds * 1000:.0f} ms"
