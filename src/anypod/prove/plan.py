"""The plan of a proof: which schedules will be played, how many starts that takes, what is left out.

It is made when the baselines are known, since they say which steps write and how long a request takes,
and printed before anything of it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from anypod.prove import schedules
from anypod.prove.guesses import Nearness
from anypod.prove.model import Step
from anypod.prove.options import Options
from anypod.prove.overlap import TRIES, Pairing, Pairings
from anypod.prove.schedules import (
    READ_METHODS,
    SAFE_METHODS,
    Kind,
    Retry,
    Schedule,
    another_pod,
    deploy,
    pod_moved,
    stale_copy,
)
from anypod.prove.workload import Workload, route

LAST = 1000  # the urgency of what is played when all else is
REPEATED_METHODS = frozenset({"PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class Run:
    """A schedule to play, and how many new pairs and triples it covers."""

    schedule: Schedule
    pairs: int = 0
    triples: int = 0
    urgency: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be tried.

    Attributes:
        runs: schedules to play, each once.
        retried: steps that clients may repeat.
        modes: how they come to be repeated.
        once: other writes, the first step of each route: repeated to be told about, not to be judged.
        unobservable: routes of `retried` whose effect no later request reads.
        triples: stale-copy patterns that exist.
        overlaps: pairs of requests to send at the same moment.
        overlapping: how many such pairs there are.
        cookies: how many more there are that would change one client's cookies at the same moment.
        unplanned: what was left out because the budget could not hold it.
    """

    runs: tuple[Run, ...]
    retried: tuple[int, ...]
    modes: tuple[Retry, ...]
    once: tuple[int, ...]
    unobservable: tuple[str, ...]
    triples: int
    unplanned: tuple[str, ...]
    overlaps: tuple[Pairing, ...] = ()
    overlapping: int = 0
    cookies: int = 0

    def count(self, kind: Kind) -> int:
        """How many schedules of a kind there are."""
        if kind is Kind.RETRY:
            return (len(self.modes) if self.retried else 0) + len(self.once)
        if kind is Kind.OVERLAP:
            return len(self.overlaps)
        return sum(run.schedule.kind is kind for run in self.runs)

    def starts(self, kind: Kind | None = None) -> int:
        """How many processes the plan needs, or its schedules of one kind that are played once."""
        if kind is not None:
            return sum(run.schedule.starts for run in self.runs if run.schedule.kind is kind)
        again = len(self.modes) * 2 if self.retried else 0
        at_once = len(self.overlaps) * (TRIES * 2 + 4)  # together, each order alone, one apart
        return sum(run.schedule.starts for run in self.runs) + again + len(self.once) + at_once

    def requests(self, steps: int) -> int:
        """How many requests the plan sends."""
        again = len(self.modes) * (steps + len(self.retried)) if self.retried else 0
        single = sum(len(run.schedule.deliveries) for run in self.runs)
        at_once = len(self.overlaps) * (TRIES + 3) * steps
        return single + again + len(self.once) * (steps + 1) + at_once


def make(
    workload: Workload,
    *,
    changing: frozenset[int],
    replicas: int,
    kinds: frozenset[Kind],
    strict_retry: bool,
    seed: int,
    affordable: float,
    seconds_per_start: float,
    seconds_per_request: float,
    overlaps: Pairings | None = None,
    routed: bool = False,
) -> Plan:
    """Plan the schedules of a workload.

    Args:
        workload: whose steps are sent.
        changing: steps that change process-local state.
        replicas: how many pods; with one only "retry" and "pod moved" make sense.
        kinds: what to try.
        strict_retry: judge every write by its retry.
        seed: of the choice among equally good routings.
        affordable: seconds of work, over all cores, that the budget holds.
        seconds_per_start: of one replica.
        seconds_per_request: of one request.
        overlaps: pairs of requests that may overlap.
        routed: the replicas run already, and each stays the process that it is.
    """
    steps = len(workload.steps)

    def cost(schedule: Schedule) -> float:
        return schedule.starts * seconds_per_start + len(schedule.deliveries) * seconds_per_request

    retried = tuple(
        step.index
        for step in workload.steps
        if may_be_retried(step) or (strict_retry and step.method not in SAFE_METHODS)
    )
    seen: set[str] = {route(workload.steps[index]) for index in retried}
    once: list[int] = []
    for step in workload.steps:
        if step.method not in SAFE_METHODS and route(step) not in seen:
            seen.add(route(step))
            once.append(step.index)
    last_read = max((s.index for s in workload.steps if s.method in READ_METHODS), default=-1)
    unobservable = tuple(
        dict.fromkeys(route(workload.steps[index]) for index in retried if index > last_read)
    )
    modes = tuple(Retry) if replicas > 1 else (Retry.SAME, Retry.LOST)
    runs: list[Run] = []
    left = affordable
    unplanned: list[str] = []
    for kind, planned in _kinds(workload, changing, replicas, kinds, seed, routed=routed):
        if kind not in kinds:
            continue
        number = 0
        for number, run in enumerate(planned, start=1):
            if left < 0 and number > 1:
                unplanned.append(f"more {kind} schedules: the budget does not hold them")
                break
            left -= cost(run.schedule)
            runs.append(run)
    retrying = Kind.RETRY in kinds
    possible = overlaps if overlaps and Kind.OVERLAP in kinds and replicas > 1 else Pairings()
    return Plan(
        runs=tuple(runs),
        retried=retried if retrying else (),
        modes=modes,
        once=tuple(once) if retrying else (),
        unobservable=unobservable if retrying else (),
        triples=steps * (steps - 1) * (steps - 2) // 6 if replicas > 1 else 0,
        unplanned=tuple(unplanned),
        overlaps=possible.chosen,
        overlapping=possible.number,
        cookies=possible.cookies,
    )


def at_random(workload: Workload, options: Options) -> Iterator[Run]:
    """Schedules without end, to be played after everything else; none if none are asked for."""
    if options.random and options.replicas > 1:
        for schedule in schedules.at_random(len(workload.steps), options.replicas, options.seed):
            yield Run(schedule, urgency=LAST)


def may_be_retried(step: Step) -> bool:
    """Whether clients and proxies may send a step again: by its method, its key, or its mark."""
    return (
        step.retry
        or step.method in REPEATED_METHODS
        or any(name.lower() == "idempotency-key" for name, _ in step.headers)
    )


def _kinds(
    workload: Workload,
    changing: frozenset[int],
    replicas: int,
    kinds: frozenset[Kind],
    seed: int,
    *,
    routed: bool,
) -> Iterator[tuple[Kind, Iterator[Run]]]:
    """Each kind with its schedules; the urgency interleaves them, so that a short budget tries all."""
    steps = len(workload.steps)
    unsafe = frozenset(s.index for s in workload.steps if s.method not in SAFE_METHODS)
    if replicas > 1:
        dealt = _dealt(steps, replicas)
        fresh = _fresh(steps, replicas, parted=Kind.STALE_COPY in kinds)
        yield Kind.ANOTHER_POD, dealt if routed else fresh
    yield Kind.POD_MOVED, _moved(steps, unsafe)
    yield Kind.DEPLOY, _deployed(workload, replicas, changing)
    if replicas > 1:
        yield (
            Kind.STALE_COPY,
            (
                Run(schedule, triples=gained, urgency=2 + number)
                for number, (schedule, gained) in enumerate(
                    stale_copy(steps, replicas, writers=unsafe | changing, seed=seed)
                )
            ),
        )


def _fresh(steps: int, replicas: int, *, parted: bool) -> Iterator[Run]:
    """The first covers every pair; the others part the pairs by import, if nothing else does."""
    for number, schedule in enumerate(another_pod(steps, replicas)):
        if number and parted:
            return
        pairs = 0 if number else steps * (steps - 1) // 2
        yield Run(schedule, pairs, urgency=0 if number == 0 else 20 + 20 * number)


def _dealt(steps: int, replicas: int) -> Iterator[Run]:
    """No replica is fresh, so a run covers the pairs that it parts, and the first comes before all."""
    left = set(combinations(range(steps), 2))
    for number, schedule in enumerate(another_pod(steps, replicas, routed=True)):
        slots = [delivery.slot for delivery in schedule.deliveries]
        parted = {(i, j) for i, j in left if slots[i] != slots[j]}
        left -= parted
        yield Run(schedule, len(parted), urgency=number)


def _moved(steps: int, unsafe: frozenset[int]) -> Iterator[Run]:
    if steps < 2:
        return
    for number, schedule in enumerate(pod_moved(steps, unsafe)):
        yield Run(schedule, urgency=2 + number)


def _deployed(workload: Workload, replicas: int, changing: frozenset[int]) -> Iterator[Run]:
    """Last, since each start is an import and most of what they show is known by then."""
    cuts = between(workload, Nearness(workload, changing))
    for schedule in deploy(len(workload.steps), min(2, replicas), cuts):
        yield Run(schedule, urgency=20)


def between(workload: Workload, nearness: Nearness) -> frozenset[int]:
    """The fewest steps such that one lies between each write and the last step that has to do with it.

    What a deploy does to the state of a write shows there, unless a later write has replaced it; then
    it shows for that one. (The points that stab all intervals: taken greedily by their ends.)
    """
    intervals = []
    steps = len(workload.steps)
    for write in filter(nearness.is_unsafe, range(steps - 1)):
        near = [later for later in range(write + 1, steps) if nearness.share(later, write) > 0]
        intervals.append((max(near, default=steps - 1), write))
    cuts: set[int] = set()
    for last, write in sorted(intervals):
        if not any(write <= cut < last for cut in cuts):
            cuts.add(last - 1)
    return frozenset(cuts)
