"""What one replica answers, and how much of it means nothing.

The workload runs three times on one replica that never dies: A and A′ under the same process
identity, at least 1.1 s apart so that clocks show, and B under another (hash seed, host name, import).
What differs between A and A′ is noise; what is the same in both and differs in B depends on the
process. A workload whose answers on one replica are errors or missing cannot be judged, and says so.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from anypod.prove.client import STREAM
from anypod.prove.compare import Difference, Noise, ResetIncomplete
from anypod.prove.model import Exchange, NoResponse, Response, Trace
from anypod.prove.player import Clock, Played, play
from anypod.prove.schedules import Kind, Schedule, one_replica
from anypod.prove.workload import Workload
from anypod.replicas import Application, State, World

APART = 1.1
_TOLD = 5  # steps that are named beside the first
_BRIEF = 120  # characters of a value
_WRITTEN = "not isolated: "
_NAMED_STORE = re.compile(r"(?:postgres(?:ql)?(?:\+\w+)?://[^/]*/\w|(?:redis|valkey)s?://[^/]*/\d)")


class CannotRun(Exception):
    """There is nothing to judge, or it would not be safe to go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The expected answers.

    Attributes:
        trace: of run A.
        other: of run B, under another process identity.
        noise: what to rename, and what depends on the process.
        touched: the process-local states that a step changes, by step.
        seconds_per_request: as measured.
        failing: steps that answer with a 5xx on one replica too.
        escapes: writes outside the copies and hosts reached for.
        warnings: what to know of these answers to judge what follows from them.
        unreached: the application's routes that no step calls; None if they are not known.
    """

    trace: Trace
    other: Trace
    noise: Noise
    touched: Mapping[int, frozenset[State]]
    seconds_per_request: float
    failing: tuple[int, ...]
    escapes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    unreached: tuple[str, ...] | None = None

    @property
    def changing(self) -> frozenset[int]:
        """Steps that change process-local state."""
        return frozenset(self.touched)

    @property
    def identity(self) -> tuple[Difference, ...]:
        """Differences that depend on the process identity alone."""
        return tuple(self.noise.identity)


def take(world: World, workload: Workload, *, timeout: float, clock: Clock) -> Baseline:
    """Play the workload three times on one replica each.

    Raises:
        CannotRun: an answer is missing, all are errors, or the runs differ in structure.
        Stopped: the clock said so.
        StartFailed: the application does not start.
    """
    steps = range(len(workload.steps))
    seconds: list[float] = []

    def alone(slot: int, *, routes: bool = False) -> Played:
        schedule = Schedule(Kind.IDENTITY, "one replica", one_replica(steps, slot=slot))
        began = time.monotonic()
        played = play(
            world, workload, schedule, timeout=timeout, clock=clock, probe=True, routes=routes
        )
        seconds.append(time.monotonic() - began)
        _answered(workload, played, world.lacks_tables)
        return played

    first = alone(0, routes=True)
    ended = time.monotonic()
    other = alone(1)
    # A′ steps may be a little faster than A's, so the distance is from A's last step to A′'s first.
    time.sleep(max(0.0, ended + APART - time.monotonic()))
    second = alone(0)
    failing = tuple(
        e.step.index
        for e in first.trace.exchanges
        if isinstance(e.response, Response) and e.response.status >= 500
    )
    if len(failing) == len(workload.steps):
        raise CannotRun(
            f"every request of {workload.path.name} was answered with an error "
            f"({_status(first.trace.exchanges[0])} for {first.trace.exchanges[0].step.label}) by one "
            "replica alone, so no difference would mean anything; does it need a service or a setting "
            f"that is not there?{_line(world.lacks_tables)}{_printed(first)}"
        )
    try:
        noise = Noise.learn(first.trace, second.trace, other.trace)
    except ResetIncomplete as incomplete:
        outlives = _outlives(workload, incomplete, first, second)
        escapes = (*first.escapes, *second.escapes)
        raise CannotRun(f"{outlives}. {_what_to_name(world.application, escapes)}") from incomplete
    return Baseline(
        trace=first.trace,
        other=other.trace,
        noise=noise,
        touched=_touched((first, other, second)),
        # The first run is the slowest: what is loaded late is loaded then.
        seconds_per_request=min(seconds) / max(1, len(workload.steps)),
        failing=failing,
        escapes=tuple(dict.fromkeys((*first.escapes, *other.escapes, *second.escapes))),
        warnings=tuple(_warnings(workload, first, failing)),
        unreached=first.unreached,
    )


def _touched(runs: Iterable[Played]) -> dict[int, frozenset[State]]:
    touched: dict[int, frozenset[State]] = {}
    for played in runs:
        for exchange in played.trace.exchanges:
            if exchange.changes:
                states = {change.state for change in exchange.changes}
                step = exchange.step.index
                touched[step] = touched.get(step, frozenset()) | states
    return touched


def _warnings(workload: Workload, played: Played, failing: tuple[int, ...]) -> Iterator[str]:
    if unlike := _unlike(played):
        yield unlike
    for index in failing:
        step = workload.steps[index]
        yield (
            f"line {step.line}: {step.label} is answered with an error (5xx) by one replica too, so it "
            "shows nothing"
        )


def _unlike(played: Played) -> str:
    """The first step that is not answered as it was recorded: what it needs is not in the workload."""
    found = [
        (exchange.step, exchange.response.status)
        for exchange in played.trace.exchanges
        if isinstance(exchange.response, Response)
        and exchange.step.recorded not in {None, exchange.response.status}
    ]
    if not found:
        return ""
    step, status = found[0]
    more = f", and {len(found) - 1} later ones likewise" if len(found) > 1 else ""
    return (
        f"state created outside HTTP: line {step.line}: {step.label} was answered {step.recorded} when "
        f"it was recorded, and {status} by a fresh replica{more}. {_left_behind(played.escapes)}"
    )


def _left_behind(escapes: tuple[str, ...]) -> str:
    """What may be why a fresh replica is not where the recorded one began."""
    elsewhere = (
        "What it needs was made by something else than the requests of the workload (a fixture, a "
        "migration, a login without a request): let --setup CMD make it, or record the requests that do"
    )
    if not (paths := [one.removeprefix(_WRITTEN) for one in escapes if one.startswith(_WRITTEN)]):
        return elsewhere
    named = " ".join(f"--reset {shlex.quote(path)}" for path in paths)
    return (
        f"It may be that {' and '.join(paths)}, outside the project, still holds what was recorded: take "
        f"that out of it, and record again and prove with {named}. If not: {elsewhere}"
    )


def _answered(workload: Workload, played: Played, lacking: str) -> None:
    """Every step was sent and answered; `lacking` is what the service is known to lack."""
    for exchange in played.trace.exchanges:
        if isinstance(exchange.response, NoResponse):
            step = exchange.step
            ended = f"; {played.died[0]}" if played.died else ""
            streams = exchange.response.reason.startswith(STREAM)
            advice = "leave it out of the workload" if streams else "look at the request"
            raise CannotRun(
                f"{workload.path.name}:{step.line}: {step.label}: one replica alone gave no answer: "
                f"{exchange.response.reason}{ended}; {advice}, or allow more time with "
                f"--timeout{_printed(played)}"
            )
    earlier = _line(_unlike(played)) + _line(lacking)
    for step_index, reason in sorted(played.skipped.items()):
        step = workload.steps[step_index]
        raise CannotRun(
            f"{workload.path.name}:{step.line}: {step.label} cannot be sent, on one replica alone: "
            f"{reason}{earlier}"
        )


def _line(text: str) -> str:
    return f"\n{text}" if text else ""


def _printed(played: Played) -> str:
    """What the application said about it, if anything."""
    return f"\nThe application printed:\n{played.log}" if played.log else ""


def _status(exchange: Exchange) -> int:
    return exchange.response.status if isinstance(exchange.response, Response) else 0


def _outlives(workload: Workload, incomplete: ResetIncomplete, *runs: Played) -> str:
    """Which steps remember an earlier run, and how the first of them shows it."""
    step = workload.steps[incomplete.difference.step_index]
    difference = incomplete.difference
    others = [workload.steps[index] for index in _unlike_steps(*runs) if index != step.index]
    told = ", ".join(f"line {other.line}: {other.label}" for other in others[:_TOLD])
    more = f" and {len(others) - _TOLD} more" if len(others) > _TOLD else ""
    return (
        f"reset incomplete: {workload.path.name}:{step.line}: {step.label}: the same run on one fresh "
        f"replica answered differently the second time, at {difference.where}: first "
        f"{_brief(difference.expected)}, then {_brief(difference.got)}"
        + (f"; the same at {told}{more}" if told else "")
    )


def _unlike_steps(first: Played, second: Played) -> Iterator[int]:
    for one, two in zip(first.trace.exchanges, second.trace.exchanges, strict=False):
        try:
            Noise.learn(Trace((one,)), Trace((two,)))
        except ResetIncomplete as found:
            yield found.step


def _what_to_name(application: Application, escapes: tuple[str, ...]) -> str:
    """What to do about state that outlives a run, as far as it can be guessed."""
    names: dict[str, str] = {}
    for name, value in sorted(application.env.items()):
        if _NAMED_STORE.match(value) and value not in application.outside:
            names.setdefault(value, f'--reset "${name}"')
    for escape in escapes:
        if escape.startswith(_WRITTEN):
            path = escape.removeprefix(_WRITTEN)
            names.setdefault(path, f"--reset {shlex.quote(path)}")
    named = (
        f"It may be what {' and '.join(names.values())} would put back before each run. "
        if names
        else ""
    )
    return (
        f"Something outside the project outlives a run, a database or a service. {named}--reset takes "
        "sqlite:///PATH, postgresql://…, mysql://…, redis://…/N, a file, a folder, or a command. Or leave DATABASE_URL unset "
        "for a private SQLite file, or write the workload so that it creates what it reads. "
        "If instead the answer tells of the process and the moment (threads, load, metrics), leave that "
        "request out of the workload"
    )


def _brief(text: str) -> str:
    """A value as one sentence can hold it."""
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"
