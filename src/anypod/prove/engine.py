"""A proof from start to verdict: baselines, plan, runs in parallel, explanations, the small claim.

`prove` is the whole of it. It emits events and returns the verdict that the last one carries; what
is wrong with the application or the workload is a verdict too ("could not run"), not an exception.
The calling thread takes every decision; worlds only play and compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from anypod.prove import plan as plans
from anypod.prove import refusal
from anypod.prove import verdict as verdicts
from anypod.prove.acceptance import parted
from anypod.prove.baseline import Baseline, CannotRun, take
from anypod.prove.events import (
    Contended,
    Divergence,
    Event,
    Finished,
    Listener,
    Opened,
    Outcome,
    Planned,
    Progress,
    Stale,
    Verdict,
    Warned,
    nobody,
)
from anypod.prove.explain import Explanation
from anypod.prove.findings import Findings
from anypod.prove.fleet import Deadline, Fleet, Importing, cores, shares_a_store
from anypod.prove.guesses import Nearness
from anypod.prove.inquiry import Inquiry
from anypod.prove.options import Options
from anypod.prove.overlap import Apart, pairings
from anypod.prove.plan import Plan, Run
from anypod.prove.player import Stopped
from anypod.prove.schedules import TRIED, Kind
from anypod.prove.trial import (
    SHARED_BY_ALL,
    Explained,
    Identified,
    Overlapped,
    Ran,
    Repeated,
    Result,
    Retried,
    Trial,
)
from anypod.prove.verdict import Done
from anypod.prove.workload import Workload, route
from anypod.replicas import Application, Elsewhere, Outside, ReplicaError, StartFailed, World

__all__ = ["Options", "prove"]

MOST_WORLDS = 4
GRACE = 20.0  # seconds beyond the budget for explaining what was found within it
REMOTE = "reached for "


def prove(
    application: Application,
    workload: Workload,
    options: Options | None = None,
    listen: Listener = nobody,
    now: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Play a workload against replicas of an application and say which answers differed.

    Ctrl-C (KeyboardInterrupt) ends it with what was found so far, marked partial.

    Args:
        application: what to run.
        workload: what to send.
        options: how.
        listen: hears every event; called in this thread.
        now: the monotonic clock, in seconds, that the budget is measured with.

    Returns:
        The verdict; also when it could not run.
    """
    proof = _Proof(application, workload, options or Options(), listen, now, now())
    verdict = proof.verdict()
    listen(Finished(verdict))
    return verdict


@dataclass(slots=True)
class _Proof:
    """What is known so far."""

    application: Application
    workload: Workload
    options: Options
    listen: Listener
    now: Callable[[], float]
    began: float
    done: Done = field(default_factory=Done)
    plan: Plan | None = None
    baseline: Baseline | None = None
    warnings: dict[str, None] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    partial: bool = False
    inconclusive: bool = False
    _deadlines: list[Deadline] = field(default_factory=list)
    _made: tuple[str, ...] = ()
    _at_random: Iterator[Run] = field(init=False)
    _outside: Outside = field(init=False)
    findings: Findings = field(init=False)

    def __post_init__(self) -> None:
        self.findings = Findings(self._emit, self._warn)
        self._at_random = plans.at_random(self.workload, self.options)

    def verdict(self) -> Verdict:
        """Run everything and conclude."""
        self._emit(
            Opened(
                self.application.name,
                str(self.workload.path),
                len(self.workload.steps),
                self.options.replicas,
            )
        )
        try:
            with self.application.kept(self.options.allow_hosts) as self._outside:
                refused = self._run_all()
        except (CannotRun, ReplicaError) as reason:
            return self._could_not_run(verdicts.why_not(reason))
        return self._conclude() if refused is None else self._refused(refused)

    # --- the parts of a proof

    def _run_all(self) -> Divergence | None:
        """Run everything; what is returned says why no replicas could be compared."""
        try:
            self._run_fleet()
        except StartFailed as failed:
            refused = refusal.Refusal(
                lambda slot, seconds: self._open_world(alone=slot, start_timeout=seconds),
                self.application.root.resolve(),
                self.done,
                self.options.start_timeout,
                self._made,
                self._warn,
            ).find(failed)
            if refused is None:
                raise
            return refused
        return None

    def _run_fleet(self) -> None:
        fleet: Fleet[Result] = Fleet(self._open_world, self._size())
        try:
            self._run(fleet)
        except KeyboardInterrupt:
            for deadline in self._deadlines:
                deadline.interrupt()
            self.partial = self.inconclusive = True
            self.left_out.insert(0, "what was left when it was interrupted")
        finally:
            self.done.starts = fleet.starts()
            fleet.close()
            self._made = fleet.made()

    def _run(self, fleet: Fleet[Result]) -> None:
        runs = self._deadline(self.options.budget)
        world, ready = fleet.first(), self.options.budget - runs.left()
        try:
            baseline = self.baseline = fleet.on_first(
                lambda world: take(world, self.workload, timeout=self.options.timeout, clock=runs)
            )
        except Stopped:
            raise CannotRun(
                f"the budget of {self.options.budget:g} s was used up before the workload had run "
                f"three times on one replica, {ready:.1f} s of it to copy the project and to import "
                "the service; allow more with --budget"
            ) from None
        self._note_escapes(baseline.escapes)
        for text in (*world.remarks, *baseline.warnings):
            self._warn(text)
        plan = self._plan(baseline, world, runs)
        trial = Trial(
            self.workload,
            baseline,
            self.options.timeout,
            runs,
            self._deadline(runs.left() + GRACE),
            self.options.replicas,
            Importing(lambda: self._open_world(import_each=True), fleet.adopt),
        )
        self._play(fleet, plan, trial)

    def _plan(self, baseline: Baseline, world: World, runs: Deadline) -> Plan:
        options = self.options
        plan = plans.make(
            self.workload,
            changing=baseline.changing,
            replicas=options.replicas,
            kinds=options.schedules,
            strict_retry=options.strict_retry,
            seed=options.seed,
            affordable=runs.left() * self._size(),
            seconds_per_start=world.seconds_per_start,
            seconds_per_request=baseline.seconds_per_request,
            overlaps=pairings(
                self.workload, baseline.trace, Nearness(self.workload, baseline.changing)
            ),
            routed=bool(self.application.urls),
        )
        self.plan = plan  # before it is told: who hears of it may interrupt
        self.left_out += plan.unplanned
        self.left_out += verdicts.websockets(self.workload, baseline.unreached or ())
        starts, requests = plan.starts(), plan.requests(len(self.workload.steps))
        seconds = starts * world.seconds_per_start + requests * baseline.seconds_per_request
        if world.forks and not world.imports_alike and plan.count(Kind.DEPLOY):
            # Each start of a deploy is an import, and its world has to import the service first.
            imports = plan.starts(Kind.DEPLOY) + 2
            seconds += imports * world.seconds_per_import
        self._emit(
            Planned(
                {kind: plan.count(kind) for kind in TRIED if plan.count(kind)},
                starts,
                requests,
                world.seconds_per_start,
                seconds / self._size(),
                self._size(),
                world.forks,
            )
        )
        return plan

    def _play(self, fleet: Fleet[Result], plan: Plan, trial: Trial) -> None:
        for run in plan.runs:
            fleet.add(trial.run(run), urgency=run.urgency)
        if plan.retried:
            fleet.add(trial.retry(plan.retried, plan.modes), urgency=1)
        for number, step in enumerate(plan.once):
            fleet.add(trial.twice(step), urgency=3 + number)
        for number, pairing in enumerate(plan.overlaps):
            fleet.add(trial.overlap(pairing), urgency=8 + 2 * number)
        if trial.baseline.identity:
            fleet.add(trial.identity(), urgency=1)
        inquiry = Inquiry(
            self.workload, lambda suspect: fleet.add(trial.explain(suspect), urgency=-1)
        )
        self._go_on(fleet, trial, self._size())
        for result in fleet.results():
            match result:
                case Ran():
                    self._ran(fleet, trial, inquiry, result)
                case Explained():
                    self._explained_one(trial, inquiry, result)
                case Retried():
                    self._retried(plan, result)
                case Repeated():
                    self._repeated(result)
                case Identified():
                    self._identified(result)
                case Overlapped():
                    self._overlapped(result)
            self._progress(plan, result)
        self.left_out += [f"still more causes at {name}" for name in inquiry.unlooked()]

    # --- what follows from a result

    def _ran(self, fleet: Fleet[Result], trial: Trial, inquiry: Inquiry, ran: Ran) -> None:
        kind = ran.run.schedule.kind
        if kind is Kind.RANDOM:
            if not ran.played:
                return  # they end with the budget
            self._go_on(fleet, trial, 1)
        if not ran.played:
            self.done.unplayed[kind] += 1
            self.partial = True
            return
        self.done.played[kind] += 1
        self.done.requests += len(ran.run.schedule.deliveries)
        self.done.pairs += ran.run.pairs
        self.done.triples += ran.run.triples
        self._note_escapes(ran.escapes)
        for suspect in ran.suspects:
            inquiry.add(suspect)

    def _go_on(self, fleet: Fleet[Result], trial: Trial, number: int) -> None:
        """Play some more schedules at random, if they are asked for, once the plan is played."""
        for run in islice(self._at_random, number):
            fleet.add(trial.run(run), urgency=run.urgency)

    def _explained_one(self, trial: Trial, inquiry: Inquiry, result: Explained) -> None:
        suspect, explanation = result.suspect, result.explanation
        kind, name = inquiry.key(suspect)
        if not result.finished:
            if suspect.without:
                self.left_out.append(
                    f"what else makes {name} differ ({kind}): the time was used up"
                )
                return
            self.partial = self.inconclusive = True
            self.left_out.append(
                f"explaining a difference at {name} ({kind}): the time was used up"
            )
            return
        if isinstance(explanation, Explanation):
            if isinstance(explanation.finding, Stale):
                trial.old.setdefault(name, []).append(explanation.steps)
            else:
                known = (explanation.finding.schedule, explanation.steps)
                trial.known.setdefault(name, []).append(known)
            self.findings.add(explanation.finding)
        elif explanation is None and not suspect.without and min(suspect.diverged) == suspect.step:
            # It followed from no other, so it should have come back.
            self._warn(f"{name} differed once ({kind}), but not in a replay: not counted")
        inquiry.answered(suspect, explanation)

    def _retried(self, plan: Plan, result: Retried) -> None:
        self.done.modes += result.modes
        self.done.played[Kind.RETRY] += result.modes
        self.done.requests += result.modes * (len(self.workload.steps) + len(plan.retried))
        self._note_escapes(result.escapes)
        if result.modes < len(plan.modes):
            self.partial = True
            self.done.unplayed[Kind.RETRY] += len(plan.modes) - result.modes
        for explanation in result.explanations:
            self.findings.add(explanation.finding)
        if result.unexplained:
            seen = ", ".join(dict.fromkeys(self._route(s.step) for s in result.unexplained))
            self._warn(f"repeated requests changed {seen} once, but not when tried again")

    def _repeated(self, result: Repeated) -> None:
        if not result.played:
            self.partial = True
            self.done.unplayed[Kind.RETRY] += 1
            return
        self.done.played[Kind.RETRY] += 1
        self.done.requests += len(self.workload.steps) + 1
        self.findings.add(result.found)

    def _identified(self, result: Identified) -> None:
        if not result.finished:
            self.partial = self.inconclusive = True
            self.left_out.append("answers that depend on the process: the time was used up")
        for divergence in result.divergences:
            self.findings.add(divergence)

    def _overlapped(self, result: Overlapped) -> None:
        if not result.played:
            self.partial = True
            self.done.unplayed[Kind.OVERLAP] += 1
            return
        self.done.played[Kind.OVERLAP] += 1
        match result.found:
            case Divergence() as divergence:
                self.findings.add(divergence)
            case Contended() as contended:
                self.findings.contended.append(contended)
            case Apart():
                self.done.apart += 1

    def _route(self, step: int) -> str:
        return route(self.workload.steps[step])

    def _note_escapes(self, escapes: tuple[str, ...]) -> None:
        for escape in escapes:
            if escape.startswith(REMOTE):
                host = escape.removeprefix(REMOTE)
                raise CannotRun(
                    f"the service reached for {host}, which is not this machine; that was blocked, "
                    "because a proof resets, retries and kills. Point it to a server on localhost, "
                    f"or pass --allow-host {host} if it may be used"
                )
            written = escape.startswith(SHARED_BY_ALL)
            if written and self._outside.covers(Path(escape.removeprefix(SHARED_BY_ALL))):
                continue
            self._warn(escape)
            if written:
                path = escape.removeprefix(SHARED_BY_ALL)
                self.left_out.append(f"pods that do not share {path}")

    def _open_world(
        self, *, import_each: bool = False, alone: int | None = None, start_timeout: float = 0.0
    ) -> World:
        if self.application.urls:
            return Elsewhere(
                self.application,
                start_timeout=self.options.start_timeout,
                outside=self._outside,
            )
        return World(
            self.application,
            # A deploy takes two pods.
            slots=1 if alone is not None else 2 if import_each else max(2, self.options.replicas),
            first=alone or 0,
            start_timeout=start_timeout or self.options.start_timeout,
            shared=self.options.shared,
            allow_hosts=self.options.allow_hosts,
            import_each=import_each,
            outside=self._outside,
            stop=lambda: any(deadline.interrupted for deadline in self._deadlines),
        )

    def _deadline(self, seconds: float) -> Deadline:
        deadline = Deadline(seconds, self.now)
        self._deadlines.append(deadline)
        return deadline

    def _size(self) -> int:
        application = self.application
        once = application.urls or application.reset or application.outside  # what exists once
        if once or shares_a_store(application.env):
            return 1
        return min(cores(), MOST_WORLDS)

    def _progress(self, plan: Plan, result: Result) -> None:
        kind = "explaining" if isinstance(result, Explained) else "playing"
        total = sum(plan.count(kind) for kind in TRIED)
        done = sum(self.done.played[kind] + self.done.unplayed[kind] for kind in TRIED)
        self._emit(Progress(kind, done, total, len(self.findings.divergences)))

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings[text] = None
            self._emit(Warned(text))

    def _emit(self, event: Event) -> None:
        self.listen(event)

    # --- the end

    def _could_not_run(self, reason: str, *, partial: bool = False) -> Verdict:
        return Verdict(
            Outcome.COULD_NOT_RUN,
            claim="nothing was compared",
            reason=reason,
            partial=partial,
            application=self.application.name,
            workload=str(self.workload.path),
            warnings=tuple(self.warnings),
            starts=self.done.starts,
            seconds=self.now() - self.began,
        )

    def _refused(self, refused: Divergence) -> Verdict:
        self.findings.add(refused)
        return replace(
            self._could_not_run(""),
            **refusal.verdict(self.findings.divergences, self.options.accepted),
            seed=self.options.seed,
        )

    def _conclude(self) -> Verdict:
        if self.plan is None or self.baseline is None:
            text = "interrupted before the workload had run on one replica"
            return self._could_not_run(text, partial=True)
        # Without a schedule no answer was compared with one replica's, whatever that one answered.
        played = self.done.played.total() > 0
        silent = self.baseline.failing if played else tuple(range(len(self.workload.steps)))
        coverage = verdicts.coverage(self.workload, self.plan, self.done, failing=silent)
        divergences, accepted, unused = parted(
            verdicts.sorted_by_step(self.findings.divergences), self.options.accepted
        )
        for entry in unused if not self.partial else ():
            self._warn(f"accepted, but not seen any more: {entry.route} ({entry.shown_by})")
        left_out = verdicts.not_tried(
            self.plan,
            self.done,
            self.left_out,
            kinds=self.options.schedules,
            replicas=self.options.replicas,
            routed=bool(self.application.urls),
        )
        return Verdict(
            verdicts.outcome(divergences, accepted),
            claim=verdicts.claim(coverage, divergences, partial=self.partial, accepted=accepted),
            application=self.application.name,
            workload=str(self.workload.path),
            seed=self.options.seed,
            coverage=coverage,
            divergences=divergences,
            accepted=accepted,
            unconfirmed=tuple(self.findings.unconfirmed),
            stale=tuple(self.findings.stale),
            not_retry_safe=tuple(self.findings.not_retry_safe),
            contended=tuple(self.findings.contended),
            not_tried=left_out,
            routes=verdicts.routes(self.workload, silent),
            not_exercised=self.baseline.unreached,
            warnings=tuple(self.warnings),
            starts=self.done.starts,
            seconds=self.now() - self.began,
            partial=self.partial,
            inconclusive=self.inconclusive or not coverage.schedules[0],
        )
