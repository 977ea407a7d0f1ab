"""What a proof may claim: counts of what was done, and a sentence no larger than they are.

The claim never says "proven" or "safe". It names what was compared, and what was not tried.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from anypod.prove.events import Coverage, Divergence, Outcome, RouteCoverage
from anypod.prove.plan import Plan
from anypod.prove.schedules import ROUTED, TRIED, Kind
from anypod.prove.workload import Workload, route
from anypod.replicas import StartFailed

ORDER = {kind: place for place, kind in enumerate(Kind)}
NEVER_TRIED = ("requests that the workload does not make",)


@dataclass(slots=True)
class Done:
    """What has been played so far."""

    played: Counter[Kind] = field(default_factory=Counter)
    unplayed: Counter[Kind] = field(default_factory=Counter)
    requests: int = 0
    pairs: int = 0
    triples: int = 0
    modes: int = 0
    starts: int = 0
    apart: int = 0


def same(known: Divergence, other: Divergence) -> bool:
    """Whether two divergences tell the same: one route, one kind of evidence, one cause."""
    if known.route != other.route:
        return False
    if {Kind.RETRY, Kind.OVERLAP} & {known.schedule, other.schedule}:
        return known.schedule is other.schedule
    if known.cause is None or other.cause is None:
        return known.where == other.where
    return (known.cause.module, known.cause.name) == (other.cause.module, other.cause.name)


def merged(known: Divergence, other: Divergence) -> Divergence:
    """Two that tell the same as one: told by the simpler schedule, the other named with it."""
    first, second = sorted((known, other), key=lambda found: ORDER[found.schedule])
    kinds = {*known.also, *other.also, first.schedule, second.schedule} - {first.schedule}
    cause = first.cause
    if cause is not None and not cause.verified and second.cause is not None:
        verified = second.cause.verified
        cause = replace(cause, verified=verified, together=second.cause.together)
    return replace(first, also=tuple(sorted(kinds, key=ORDER.__getitem__)), cause=cause)


def outcome(counting: Sequence[Divergence], accepted: Sequence[Divergence]) -> Outcome:
    """What was found, in a word."""
    if counting:
        return Outcome.DIFFERENT
    return Outcome.ACCEPTED if accepted else Outcome.NO_DIFFERENCE


def sorted_by_step(found: Iterable[Divergence]) -> tuple[Divergence, ...]:
    """As the workload has them, whatever order they were found in."""
    return tuple(
        sorted(found, key=lambda one: (one.requests[-1].line, ORDER[one.schedule], one.where))
    )


def coverage(workload: Workload, plan: Plan, done: Done, *, failing: Sequence[int]) -> Coverage:
    """The numbers.

    Args:
        workload: that was played.
        plan: that was made.
        done: how much of it was played.
        failing: steps that fail on one replica too, and so compare nothing.
    """
    steps = len(workload.steps)
    pairs = steps * (steps - 1) // 2
    routes = {route(step) for step in workload.steps}
    compared = {route(s) for s in workload.steps if s.index not in failing}
    planned = sum(plan.count(kind) for kind in TRIED)
    modes = len(plan.modes) if plan.retried else 0
    return Coverage(
        requests=steps,
        replayed=done.requests,
        schedules=(sum(done.played[kind] for kind in TRIED), planned),
        random=done.played[Kind.RANDOM],
        routes=(len(compared), len(routes)),
        pairs=(done.pairs, pairs),
        triples=(done.triples, plan.triples),
        retries=(done.modes * len(plan.retried), modes * len(plan.retried)),
        deploys=(done.played[Kind.DEPLOY], plan.count(Kind.DEPLOY)),
        overlaps=(done.played[Kind.OVERLAP], plan.overlapping),
        moves=(done.played[Kind.POD_MOVED], plan.count(Kind.POD_MOVED)),
    )


def why_not(reason: Exception) -> str:
    """Why a proof could not run; of a failed start with what the service said, once."""
    if not isinstance(reason, StartFailed):
        return str(reason)
    parts = [str(reason), reason.traceback.rstrip(), reason.log.rstrip()]
    if reason.traceback and reason.log.rstrip().endswith(reason.traceback.rstrip()):
        parts.pop()
    return "\n".join(part for part in parts if part)


def routes(workload: Workload, failing: Sequence[int]) -> tuple[RouteCoverage, ...]:
    """Each route of the workload, in its order.

    Args:
        workload: that was played.
        failing: steps that fail on one replica too, and so compare nothing.
    """
    requests = Counter(route(step) for step in workload.steps)
    compared = {route(s) for s in workload.steps if s.index not in failing}
    return tuple(RouteCoverage(name, number, name in compared) for name, number in requests.items())


def claim(
    numbers: Coverage,
    divergences: Sequence[Divergence],
    *,
    partial: bool,
    accepted: Sequence[Divergence] = (),
) -> str:
    """The sentence that a proof ends with.

    Args:
        numbers: what was done.
        divergences: that count.
        partial: not all of the plan was played.
        accepted: divergences that somebody accepted.
    """
    compared, routes = numbers.routes
    start = (
        f"{_count(numbers.requests, 'request')}, {_count(numbers.schedules[0], 'schedule')}, "
        f"{compared} of {_count(routes, 'route')}"
    )
    if divergences:
        blamed = len({divergence.route for divergence in divergences})
        verb = "answers" if blamed == 1 else "answer"
        return f"{start}: {_count(blamed, 'route')} {verb} unlike one replica that never dies."
    if accepted:
        return (
            f"{start}: no response differed from one replica but for "
            f"{_count(len(accepted), 'accepted difference')}."
        )
    if not numbers.schedules[0]:
        return f"{start}: nothing was compared."
    ending = ", as far as it got" if partial else ""
    return f"{start}: no response differed from one replica{ending}."


def not_tried(
    plan: Plan,
    done: Done,
    left_out: Sequence[str],
    *,
    kinds: frozenset[Kind],
    replicas: int,
    routed: bool = False,
) -> tuple[str, ...]:
    """What the reader must not take for tried, the specific first."""
    items = list(left_out)
    for kind, missing in done.unplayed.items():
        items.append(f"{missing} of {plan.count(kind)} {kind} schedules: the time was used up")
    items += [f"retry of {item} not observable: no later read" for item in plan.unobservable]
    if len(plan.overlaps) < plan.overlapping:
        left = plan.overlapping - len(plan.overlaps)
        items.append(f"{_count(left, 'more pair')} of requests at the same moment")
    if plan.cookies:
        items.append(
            f"{_count(plan.cookies, 'pair')} of requests at the same moment of one client that gets "
            "cookies from them"
        )
    if done.apart:
        items.append(
            f"overlap of {_count(done.apart, 'pair')} that two pods answer differently one after the "
            "other too"
        )
    if plan.overlaps:
        items.append("at the same moment: two reads, unrelated requests, more than two")
    if routed:
        items.append("a replica that has served nothing: the replicas run elsewhere")
    for kind in TRIED:
        if routed and kind not in ROUTED:
            items.append(f"{kind}: the replicas run elsewhere")
        elif kind not in kinds:
            items.append(f"{kind}: not asked for")
        elif replicas == 1 and kind in {Kind.ANOTHER_POD, Kind.STALE_COPY, Kind.OVERLAP}:
            items.append(f"{kind}: there is one replica")
    return (*dict.fromkeys(items), *NEVER_TRIED)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def websockets(workload: Workload, unreached: tuple[str, ...]) -> list[str]:
    """That websockets are not compared, if the application has some or a recording saw them opened."""
    prefix = "WEBSOCKET "
    found = [name.removeprefix(prefix) for name in unreached if name.startswith(prefix)]
    paths = found or workload.websockets
    return [f"what goes over websockets ({', '.join(paths)})"] if paths else []
