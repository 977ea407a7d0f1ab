"""Plays saved differences again: the reduced requests of each, confirmed and explained as before.

What is saved is the deliveries, by the steps of the workload. The workload must still have these
steps; the service may have changed, which is what a replay is for: it says whether the difference is
still there. One replica's answers are learned anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anypod.errors import AnypodError
from anypod.prove import verdict as verdicts
from anypod.prove.acceptance import parted
from anypod.prove.baseline import Baseline, CannotRun, take
from anypod.prove.compare import Difference
from anypod.prove.events import (
    Divergence,
    Finished,
    Found,
    FoundStale,
    Kept,
    Listener,
    Opened,
    Outcome,
    Stale,
    Verdict,
    Warned,
    nobody,
)
from anypod.prove.explain import CONFIRMATIONS, Suspect
from anypod.prove.fleet import Deadline, Importing
from anypod.prove.model import Response
from anypod.prove.options import Options
from anypod.prove.overlap import Pairing, Race
from anypod.prove.player import Stopped
from anypod.prove.schedules import STARTS, Delivery, Kind, Schedule
from anypod.prove.trial import Identified, Trial
from anypod.prove.workload import Workload, load
from anypod.replicas import Application, Elsewhere, Outside, ReplicaError, World

NOT_TRIED = ("anything but the saved differences",)


class ReplayError(AnypodError):
    """A file of saved differences cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Saved:
    """One saved difference.

    Attributes:
        route: that it was blamed on.
        where: the place in the answer.
        kind: of its schedule.
        deliveries: the few that showed it; the last one's answer differed.
        answered: lines of the workload whose requests one replica answered without an error.
    """

    route: str
    where: str
    kind: Kind
    deliveries: tuple[Kept, ...]
    answered: frozenset[int]

    @property
    def schedule(self) -> Schedule:
        """What to play."""
        return Schedule(
            self.kind,
            "saved",
            tuple(
                Delivery(d.step, d.slot, d.life, d.duplicate, d.lost, d.overlaps)
                for d in self.deliveries
            ),
        )


def read(file: str) -> tuple[Workload, tuple[Saved, ...]]:
    """The saved differences of a file that `--json` wrote, and the workload whose steps they name.

    Args:
        file: its path; `PATH#2` is only the second difference in it.

    Raises:
        ReplayError: it cannot be read, has another form, or the workload has other steps.
        WorkloadError: the workload cannot be read.
    """
    name, mark, number = file.rpartition("#")
    path = Path(name) if mark and number.isdecimal() else Path(file)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failed:
        raise ReplayError(f"{path}: {failed.strerror or failed}") from failed
    except ValueError as failed:
        raise ReplayError(f"{path} is not JSON: {failed}") from failed
    if not isinstance(document, dict) or document.get("format") != 1:
        raise ReplayError(f"{path}: expected what `anypod prove … --json {path}` writes")
    try:
        every = [_saved(one) for one in (*document["divergences"], *document["accepted"])]
        found = load(Path(document["workload"]))
    except (KeyError, TypeError, ValueError) as wrong:
        raise ReplayError(
            f"{path}: a difference in it cannot be read ({type(wrong).__name__}: {wrong}); write the "
            "file anew with --json"
        ) from wrong
    if mark and number.isdecimal():
        if not 1 <= int(number) <= len(every):
            raise ReplayError(f"{path} has {len(every)} differences, and no number {number}")
        every = [every[int(number) - 1]]
    saved = [one for one in every if one.kind not in STARTS]  # nothing was delivered
    if not saved:
        raise ReplayError(f"{path} has no differences to play again")
    for one in saved:
        for delivery in one.deliveries:
            steps = found.steps
            if delivery.step >= len(steps) or steps[delivery.step].label != delivery.request:
                raise ReplayError(
                    f"{found.path} has changed since: request {delivery.step + 1} was "
                    f"{delivery.request}; run the proof again"
                )
    return found, tuple(saved)


def _saved(one: Any) -> Saved:
    deliveries = tuple(
        Kept(**{name: kept[name] for name in Kept.__slots__}) for kept in one["replay"]
    )
    if not deliveries and one["schedule"] not in STARTS:
        raise ValueError(f"{one['route']} has no deliveries")
    answered = frozenset(
        told["line"] for told in one["alone"] if told["status"] is not None and told["status"] < 400
    )
    return Saved(one["route"], one["where"], Kind(one["schedule"]), deliveries, answered)


def replay(
    application: Application,
    workload: Workload,
    saved: tuple[Saved, ...],
    options: Options | None = None,
    listen: Listener = nobody,
    now: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Play saved differences again and say which are still there.

    Ctrl-C (KeyboardInterrupt) ends it with what was played so far, marked partial.

    Args:
        application: what to run.
        workload: whose steps they name.
        saved: what to play.
        options: how; schedules and the seed mean nothing here.
        listen: hears every event; called in this thread.
        now: the monotonic clock, in seconds, that the budget is measured with.

    Returns:
        The verdict; also when it could not run.
    """
    again = _Replay(application, workload, saved, options or Options(), listen, now)
    verdict = again.verdict()
    listen(Finished(verdict))
    return verdict


class _Replay:
    """What came back so far."""

    def __init__(
        self,
        application: Application,
        workload: Workload,
        saved: tuple[Saved, ...],
        options: Options,
        listen: Listener,
        now: Callable[[], float],
    ) -> None:
        self.application, self.workload, self.saved = application, workload, saved
        self.options, self.listen, self.now = options, listen, now
        self.began = now()
        self.divergences: list[Divergence] = []
        self.stale: list[Stale] = []
        self.warnings: list[str] = []
        self.played = 0
        self.starts = 0
        self.partial = False
        self._outside: Outside

    def verdict(self) -> Verdict:
        """Play all of them and conclude."""
        steps, replicas = len(self.workload.steps), self.options.replicas
        path = str(self.workload.path)
        self.listen(Opened(self.application.name, path, steps, replicas))
        try:
            with self.application.kept(self.options.allow_hosts) as self._outside:
                self._play()
        except (KeyboardInterrupt, Stopped):
            self.partial = True
        except (CannotRun, ReplicaError) as reason:
            return Verdict(
                Outcome.COULD_NOT_RUN,
                claim="nothing was compared",
                reason=verdicts.why_not(reason),
                application=self.application.name,
                workload=path,
                starts=self.starts,
                seconds=self.now() - self.began,
            )
        divergences, accepted, _ = parted(self.divergences, self.options.accepted)
        outcome = Outcome.ACCEPTED if accepted else Outcome.NO_DIFFERENCE
        if divergences:
            outcome = Outcome.DIFFERENT
        left = len(self.saved) - self.played
        return Verdict(
            outcome,
            claim=self._claim(),
            application=self.application.name,
            workload=path,
            divergences=divergences,
            accepted=accepted,
            stale=tuple(self.stale),
            not_tried=(*([f"{left} of the saved differences"] if left else []), *NOT_TRIED),
            warnings=tuple(self.warnings),
            starts=self.starts,
            seconds=self.now() - self.began,
            partial=self.partial,
            inconclusive=bool(left),
        )

    def _claim(self) -> str:
        came = len(self.divergences)
        noun = "difference" if self.played == 1 else "differences"
        return f"{self.played} saved {noun} played again: {came or 'none'} came back."

    def _play(self) -> None:
        clock = Deadline(self.options.budget, self.now)
        worlds: list[World] = []
        try:
            with self._world() as world:
                baseline = take(world, self.workload, timeout=self.options.timeout, clock=clock)
                importing = Importing(lambda: self._open(import_each=True), worlds.append)
                trial = Trial(
                    self.workload,
                    baseline,
                    self.options.timeout,
                    clock,
                    clock,
                    self.options.replicas,
                    importing,
                )
                for one in self.saved:
                    _can_be_seen(one, baseline)
                for one in self.saved:
                    self._again(trial, world, one)
                    self.played += 1
        finally:
            for opened in worlds:
                self.starts += opened.starts
                opened.close()

    def _again(self, trial: Trial, world: World, saved: Saved) -> None:
        found: Divergence | Stale | None
        if saved.kind is Kind.IDENTITY:
            found = _identity(trial, world, saved)
        elif saved.kind is Kind.OVERLAP:
            found = _overlap(trial, world, saved)
        else:
            schedule = saved.schedule
            step = schedule.deliveries[-1].step
            difference = Difference(step, saved.where, "", "", "")
            with trial.world_for(schedule, world) as chosen:
                told = trial.explainer(chosen).tell(
                    schedule, Suspect(schedule, difference, frozenset({step}))
                )
            found = None if told is None else told.finding
        match found:
            case Divergence() as divergence if divergence.confirmed == CONFIRMATIONS:
                self.divergences.append(divergence)
                self.listen(Found(divergence))
            case Stale() as stale:
                self.stale.append(stale)
                self.listen(FoundStale(stale))
            case _:
                times = found.confirmed if isinstance(found, Divergence) else 0
                text = (
                    f"{saved.route} ({saved.kind}) came back in {times} of {CONFIRMATIONS} replays"
                )
                self.warnings.append(text)
                self.listen(Warned(text))

    def _open(self, *, import_each: bool = False) -> World:
        if self.application.urls:
            return Elsewhere(
                self.application,
                start_timeout=self.options.start_timeout,
                outside=self._outside,
            )
        return World(
            self.application,
            slots=max(2, self.options.replicas, *self._slots()),
            start_timeout=self.options.start_timeout,
            shared=self.options.shared,
            allow_hosts=self.options.allow_hosts,
            import_each=import_each,
            outside=self._outside,
        )

    def _slots(self) -> Iterator[int]:
        return (d.slot + 1 for one in self.saved for d in one.deliveries)

    @contextmanager
    def _world(self) -> Iterator[World]:
        with self._open() as world:
            try:
                yield world
            finally:
                self.starts += world.starts


def _can_be_seen(saved: Saved, baseline: Baseline) -> None:
    """One replica answers at least one of the requests, unless it did not when they were saved.

    Raises:
        CannotRun: it does not; that nothing differs would mean nothing.
    """
    failed = [
        exchange
        for exchange in baseline.trace.exchanges
        if exchange.step.line in saved.answered
        and isinstance(exchange.response, Response)
        and exchange.response.status >= 400
    ]
    if failed and len(failed) == len(saved.answered):
        first = failed[-1]
        assert isinstance(first.response, Response)
        raise CannotRun(
            f"{saved.route} cannot be played again: one replica now answers all of its requests with an error "
            f"({first.response.status} for {first.step.label}), and did not when they were saved; is it the "
            "same application, with the same settings?"
        )


def _identity(trial: Trial, world: World, saved: Saved) -> Divergence | None:
    asked = trial.identity()(world)
    if not isinstance(asked, Identified) or not asked.finished:
        raise Stopped
    step = saved.deliveries[-1].step
    return next((one for one in asked.divergences if one.replay[-1].step == step), None)


def _overlap(trial: Trial, world: World, saved: Saved) -> Divergence | None:
    at = next(n for n, delivery in enumerate(saved.deliveries) if delivery.overlaps)
    pair = sorted(delivery.step for delivery in saved.deliveries[at - 1 : at + 1])
    race = Race(
        trial.workload,
        Pairing(*pair),
        trial.nearness,
        trial.judge,
        lambda schedule: trial.play(world, schedule, trial.runs),
    )
    return race.again(frozenset(delivery.step for delivery in saved.deliveries))
