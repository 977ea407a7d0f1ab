"""The jobs of a proof: what one world is asked to do, and the plain results that come back.

A job plays and compares; what follows from its result is the engine's to decide. Every job ends early
with what it has when its clock says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from anypod.prove.baseline import APART, Baseline
from anypod.prove.compare import Noise, ResetIncomplete
from anypod.prove.events import Contended, Divergence, NotRetrySafe
from anypod.prove.explain import CONFIRMATIONS, Again, Explainer, Explanation, Suspect, kept, told
from anypod.prove.fleet import Deadline, Importing
from anypod.prove.guesses import Nearness
from anypod.prove.judge import Judge
from anypod.prove.model import Trace
from anypod.prove.overlap import Apart, Pairing, Race
from anypod.prove.plan import Run
from anypod.prove.player import Clock, Played, Stopped, play
from anypod.prove.schedules import Delivery, Kind, Retry, Schedule, one_replica, retry
from anypod.prove.workload import Workload, route
from anypod.replicas import World


@dataclass(frozen=True, slots=True)
class Ran:
    """A schedule was played, or not, when time was up."""

    run: Run
    suspects: tuple[Suspect, ...] = ()
    escapes: tuple[str, ...] = ()
    played: bool = True


@dataclass(frozen=True, slots=True)
class Explained:
    """A suspect was looked into; `finished` is False when time was up first."""

    suspect: Suspect
    explanation: Explanation | Again | None
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Retried:
    """The repeatable steps were repeated in each mode; `modes` of them were played."""

    explanations: tuple[Explanation, ...]
    unexplained: tuple[Suspect, ...]
    modes: int
    escapes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeated:
    """A write that nobody marked was delivered twice."""

    route: str
    found: NotRetrySafe | None
    played: bool = True


@dataclass(frozen=True, slots=True)
class Identified:
    """Answers that depend on the process alone were asked for again."""

    divergences: tuple[Divergence, ...]
    finished: bool = True


@dataclass(frozen=True, slots=True)
class Overlapped:
    """Two requests were sent at the same moment; `played` is False when time was up first."""

    found: Divergence | Contended | Apart | None
    played: bool = True


SHARED_BY_ALL = "not isolated: "  # how an escape begins that is a write outside the copies

Result = Ran | Explained | Retried | Repeated | Identified | Overlapped
Job = Callable[[World], Result]


@dataclass(slots=True)
class Trial:
    """What every job needs to know.

    Attributes:
        workload: that is played.
        baseline: what one replica answers.
        timeout: seconds per request.
        runs: when to stop trying.
        explanations: when to stop explaining what was found.
        slots: how many replicas a schedule may use.
        importing: the world for deploys.
        known: steps that explained a route before, with the kind of schedule.
        old: steps that showed a declared staleness of a route before.
        oracles: what one replica answered to some of the steps, each time.
    """

    workload: Workload
    baseline: Baseline
    timeout: float
    runs: Deadline
    explanations: Deadline
    slots: int
    importing: Importing
    known: dict[str, list[tuple[Kind, frozenset[int]]]] = field(default_factory=dict)
    old: dict[str, list[frozenset[int]]] = field(default_factory=dict)
    oracles: dict[frozenset[int], tuple[Trace, ...]] = field(default_factory=dict)

    @property
    def nearness(self) -> Nearness:
        """Which steps have to do with one another."""
        return Nearness(self.workload, self.baseline.changing)

    @property
    def judge(self) -> Judge:
        """Who compares."""
        return Judge(self.workload, self.baseline.noise)

    def run(self, run: Run) -> Job:
        """Play one schedule of the plan."""

        def job(world: World) -> Ran:
            try:
                with self.world_for(run.schedule, world) as chosen:
                    played, suspects = self._try(chosen, run.schedule, self.runs)
            except Stopped:
                return Ran(run, played=False)
            return Ran(run, suspects, played.escapes)

        return job

    def explain(self, suspect: Suspect) -> Job:
        """Reduce, confirm and name one suspect."""

        def job(world: World) -> Explained:
            try:
                with self.world_for(suspect.schedule, world) as chosen:
                    return Explained(suspect, self.explainer(chosen).explain(suspect))
            except Stopped:
                return Explained(suspect, None, finished=False)

        return job

    def retry(self, steps: Collection[int], modes: Collection[Retry]) -> Job:
        """Repeat steps in every mode, and blame the ones that show.

        One run repeats all of them; a difference is blamed on the step that its reduction keeps,
        which is then left out, until nothing differs any more.
        """

        def job(world: World) -> Retried:
            explanations: list[Explanation] = []
            unexplained: list[Suspect] = []
            escapes: dict[str, None] = {}
            blamed: set[str] = set()
            done = 0
            try:
                for mode in modes:
                    twice = {s for s in steps if self._route(s) not in blamed}
                    self._repeat(world, twice, mode, blamed, explanations, unexplained, escapes)
                    done += 1
            except Stopped:
                pass
            return Retried(tuple(explanations), tuple(unexplained), done, tuple(escapes))

        return job

    def _repeat(
        self,
        world: World,
        twice: set[int],
        mode: Retry,
        blamed: set[str],
        explanations: list[Explanation],
        unexplained: list[Suspect],
        escapes: dict[str, None],
    ) -> None:
        explainer = self.explainer(world)
        together = True
        while twice:
            batches = [twice] if together else [{step} for step in sorted(twice)]
            found: Explanation | None = None
            left: list[Suspect] = []
            for batch in batches:
                schedule = retry(len(self.workload.steps), batch, mode, self.slots)
                played, suspects = self._try(world, schedule, self.runs)
                escapes.update(dict.fromkeys(played.escapes))
                for suspect in suspects:
                    explanation = explainer.explain(suspect)
                    if isinstance(explanation, Explanation):
                        found = explanation
                        break
                    left.append(suspect)
                if found is not None:
                    break
            if found is not None and found.repeated:
                explanations.append(found)
                blamed |= {self._route(step) for step in found.repeated}
                twice = {step for step in twice if self._route(step) not in blamed}
            elif together and left and len(twice) > 1:
                # Repeated together they may hide one another: once more, one at a time.
                together = False
            else:
                unexplained += left
                return

    def twice(self, step: int) -> Job:
        """Deliver one unmarked write twice, to say whether a later answer shows it."""

        def job(world: World) -> Repeated:
            schedule = retry(len(self.workload.steps), {step}, Retry.SAME, self.slots)
            try:
                _, suspects = self._try(world, schedule, self.runs)
                for _ in range(CONFIRMATIONS - 1):
                    if not suspects:
                        break  # a clock that ticked in between, perhaps: said of no write
                    _, again = self._try(world, schedule, self.runs)
                    seen = {suspect.step for suspect in again}
                    suspects = tuple(one for one in suspects if one.step in seen)
            except Stopped:
                return Repeated(self._route(step), None, played=False)
            if not suspects:
                return Repeated(self._route(step), None)
            first = suspects[0]
            seen_at = self._route(first.step)
            return Repeated(
                self._route(step), NotRetrySafe(self._route(step), seen_at, first.difference.where)
            )

        return job

    def overlap(self, pairing: Pairing) -> Job:
        """Send two requests at the same moment, several times."""

        def job(world: World) -> Overlapped:
            def play(schedule: Schedule) -> Played:
                return self.play(world, schedule, self.runs)

            race = Race(self.workload, pairing, self.nearness, self.judge, play)
            try:
                return Overlapped(race.run())
            except Stopped:
                return Overlapped(None, played=False)

        return job

    def identity(self) -> Job:
        """Ask two process identities again, twice, for the answers that depended on theirs."""

        def job(world: World) -> Identified:
            suspected = {d.step_index: d for d in reversed(self.baseline.identity)}
            times = dict.fromkeys(suspected, 1)
            try:
                for _ in range(CONFIRMATIONS - 1):
                    for step in self._depends(world) & times.keys():
                        times[step] += 1
            except Stopped:
                return Identified((), finished=False)
            divergences = []
            for step, difference in sorted(suspected.items()):
                pair = [
                    next(e for e in trace.exchanges if e.step.index == step)
                    for trace in (self.baseline.trace, self.baseline.other)
                ]
                here, there = (told((exchange,), moves=False)[0] for exchange in pair)
                divergences.append(
                    Divergence(
                        route=self._route(step),
                        seen_at=self._route(step),
                        schedule=Kind.IDENTITY,
                        requests=(here, replace(there, pod=2)),
                        alone=(here, here),
                        where=difference.where,
                        expected=difference.expected,
                        got=difference.got,
                        confirmed=times[step],
                        rule="POD109",
                        replay=kept((Delivery(step, 0), Delivery(step, 1)), self.workload),
                        hint="the answer depends on the process alone: a hash seed, a host name, a "
                        "process id, or a secret drawn at import; take it from configuration",
                    )
                )
            return Identified(tuple(divergences))

        return job

    def _depends(self, world: World) -> frozenset[int]:
        """The steps whose answers depend on the process, learned anew."""
        steps = range(len(self.workload.steps))

        def alone(slot: int) -> Trace:
            schedule = Schedule(Kind.IDENTITY, "one replica", one_replica(steps, slot=slot))
            return self.play(world, schedule, self.explanations).trace

        first = alone(0)
        ended = time.monotonic()
        other = alone(1)
        self.explanations.pause(max(0.0, ended + APART - time.monotonic()))
        try:
            learned = Noise.learn(first, alone(0), other)
        except ResetIncomplete:
            return frozenset()
        return frozenset(difference.step_index for difference in learned.identity)

    # --- shared by the jobs

    def world_for(self, schedule: Schedule, world: World) -> AbstractContextManager[World]:
        """Where to play a schedule: a deploy needs starts that are imports, or as good as those."""
        if schedule.rolls and world.forks and not self._forks_are_imports(world):
            return self.importing.alone()
        return nullcontext(world)

    def _forks_are_imports(self, world: World) -> bool:
        """Whether a start that is an import could show no more than one that is a fork.

        What each import draws anew, a secret or a time, has to differ between two pods then.
        """
        leaks = any(escape.startswith(SHARED_BY_ALL) for escape in self.baseline.escapes)
        return self.slots > 1 and world.imports_alike and not leaks

    def _try(
        self, world: World, schedule: Schedule, clock: Clock
    ) -> tuple[Played, tuple[Suspect, ...]]:
        played = self.play(world, schedule, clock)
        differences = self.judge.differences(self.baseline.trace, played)
        diverged = frozenset(difference.step_index for difference in differences)
        return played, tuple(Suspect(schedule, difference, diverged) for difference in differences)

    def play(self, world: World, schedule: Schedule, clock: Clock) -> Played:
        """One run of a schedule."""
        return play(world, self.workload, schedule, timeout=self.timeout, clock=clock)

    def explainer(self, world: World) -> Explainer:
        """Who explains suspects on a world."""
        return Explainer(
            world,
            self.workload,
            self.judge,
            self.timeout,
            self.explanations,
            self.nearness,
            {route: tuple(known) for route, known in self.known.items()},
            {route: tuple(steps) for route, steps in self.old.items()},
            self.oracles,
            self.baseline.touched,
        )

    def _route(self, step: int) -> str:
        return route(self.workload.steps[step])
