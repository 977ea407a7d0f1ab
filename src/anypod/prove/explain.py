"""From a suspicious answer to what a person can read: reduced, confirmed, and with its cause.

A suspect is one differing step of one run. Its explanation is another run, of the few deliveries
that still show the difference, beside the same few steps on one replica. A difference that appears
only together with an earlier one is a consequence of that one and has no explanation of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from anypod.prove import cause as causes
from anypod.prove.compare import Difference
from anypod.prove.compare_noise import is_of_a_file
from anypod.prove.events import Divergence, Kept, Stale, Told
from anypod.prove.guesses import Nearness, guesses
from anypod.prove.judge import Judge
from anypod.prove.model import Exchange, NoResponse, Response, Trace
from anypod.prove.player import Clock, Copy, Played, play
from anypod.prove.redaction import redacted
from anypod.prove.schedules import Delivery, Kind, Schedule, one_replica
from anypod.prove.shrink import Positions, reduce
from anypod.prove.verify import Outcome, Replay, Replayed, Verification
from anypod.prove.workload import Workload, route
from anypod.replicas import State, World

CONFIRMATIONS = 3
MOST_PAIRS = 12
BODY_SHOWN = 60
SLOWER = 3  # times the timeout, when lines are traced


@dataclass(frozen=True, slots=True)
class Suspect:
    """A differing step of one run.

    Attributes:
        schedule: that was played.
        difference: of the step.
        diverged: every step that differed in that run.
        without: steps to leave out, to see whether it differs for another reason too.
    """

    schedule: Schedule
    difference: Difference
    diverged: frozenset[int]
    without: frozenset[int] = frozenset()

    @property
    def step(self) -> int:
        """The index of the step that differed."""
        return self.difference.step_index


@dataclass(frozen=True, slots=True)
class Explanation:
    """A reduced difference.

    Attributes:
        finding: what it is.
        repeated: steps that were repeated in it.
        steps: that it needs.
        writers: the steps that made it differ, and all others that change the same state.
    """

    finding: Divergence | Stale
    repeated: frozenset[int]
    steps: frozenset[int]
    writers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Again:
    """What explains the suspect is known: the same route, few steps, and kind of schedule."""


Known = Mapping[str, Collection[tuple[Kind, frozenset[int]]]]


@dataclass(frozen=True, slots=True)
class _Pair:
    """One reduced schedule beside its steps on one replica."""

    expected: Trace
    played: Played
    difference: Difference | None


@dataclass(slots=True)
class Explainer:
    """Explains suspects of one workload on one world.

    `known` holds the steps that explained a route before, with the kind of schedule, `old` those that
    showed a staleness that is declared, `oracles` what one replica answered to some of the steps, each
    time it was asked, and `touched` the states that a step changes on one replica.
    """

    world: World
    workload: Workload
    judge: Judge
    timeout: float
    clock: Clock
    nearness: Nearness
    known: Known
    old: Mapping[str, Collection[frozenset[int]]]
    oracles: dict[frozenset[int], tuple[Trace, ...]]
    touched: Mapping[int, frozenset[State]]

    def explain(self, suspect: Suspect) -> Explanation | Again | None:
        """Reduce, confirm and name one suspect.

        Returns:
            The explanation; `Again` when one that is known shows it; None when the step differs
            only as a consequence of another, or when the difference did not come back.

        Raises:
            Stopped: the clock said so before it was reduced.
        """
        prefix, target = _until(suspect.schedule, suspect.step)
        if suspect.without:
            rest = self._closed(prefix, frozenset(self._candidates(prefix, suspect)), target)
            if not self._shows(prefix, rest | {target}, suspect.step):
                return None
        elif told := self._told_before(suspect, prefix, target):
            return told
        kept = reduce(
            self._candidates(prefix, suspect),
            lambda positions: self._shows(prefix, positions | {target}, suspect.step),
            closure=lambda positions: self._closed(prefix, positions, target),
            guesses=guesses(prefix, self._candidates(prefix, suspect), self.nearness, self._route),
        )
        if kept is None:
            return None
        return self.tell(self._gathered(prefix.keep(kept | {target}), suspect.step), suspect)

    def _told_before(
        self, suspect: Suspect, prefix: Schedule, target: int
    ) -> Explanation | Again | None:
        """What explained the route before, if that shows here too."""
        known = self.known.get(self._route(suspect.step), ())
        if suspect.schedule.kind is Kind.RETRY:
            return None
        old = self.old.get(self._route(suspect.step), ())
        for steps in dict.fromkeys((*(steps for _, steps in known), *old)):
            wanted = frozenset(
                position
                for position in self._candidates(prefix, suspect)
                if prefix.deliveries[position].step in steps
            )
            positions = self._closed(prefix, wanted, target)
            if not self._shows(prefix, positions | {target}, suspect.step):
                continue
            schedule = prefix.keep(positions | {target})
            if any(kind is _kind(schedule) for kind, _ in known):
                return Again()
            return self.tell(self._gathered(schedule, suspect.step), suspect)
        return None

    # --- reduction

    def _candidates(self, prefix: Schedule, suspect: Suspect) -> list[int]:
        """Positions before the target that did not differ themselves, and need none that is left out."""
        needed = self.judge.producers(suspect.step)
        left_out = suspect.without - needed
        return [
            position
            for position, delivery in enumerate(prefix.deliveries[:-1])
            if (delivery.step not in suspect.diverged or delivery.step in needed)
            and not (left_out & {delivery.step, *self.judge.producers(delivery.step)})
        ]

    def _closed(self, prefix: Schedule, positions: Positions, target: int) -> Positions:
        """With the producers of every value that is sent, and both of a repeated delivery.

        Nobody gives up after a lost answer: the first delivery alone would be another story.
        """
        first: dict[int, int] = {}
        again: dict[int, int] = {}
        for position, delivery in enumerate(prefix.deliveries):
            first.setdefault(delivery.step, position)
            if delivery.duplicate:
                again[delivery.step] = position
        lost = {d.step for d in prefix.deliveries if d.lost}
        wanted = {prefix.deliveries[position].step for position in positions | {target}}
        for step in list(wanted):
            wanted |= self.judge.producers(step)
        both = {again[step] for step in wanted & lost & again.keys()}
        return (positions | {first[step] for step in wanted if step in first} | both) - {target}

    def _shows(self, prefix: Schedule, positions: Positions, step: int) -> bool:
        kept = prefix.keep(positions)
        return not kept.is_alone and self._pair(kept, step).difference is not None

    def _gathered(self, schedule: Schedule, step: int) -> Schedule:
        """The same requests, all but the last to one process, if that shows it too: a simpler story."""
        *earlier, reader = schedule.deliveries
        processes = {(d.slot, d.life) for d in earlier}
        if (
            schedule.kind not in {Kind.ANOTHER_POD, Kind.POD_MOVED, Kind.RANDOM}
            or len(processes) < 2
            or (reader.slot, reader.life) in processes
        ):
            return schedule
        there = next((d for d in earlier if d.slot != reader.slot), earlier[0])
        together = tuple(replace(d, slot=there.slot, life=there.life) for d in earlier)
        gathered = replace(schedule, deliveries=(*together, reader))
        return gathered if self._pair(gathered, step).difference is not None else schedule

    def _pair(
        self,
        schedule: Schedule,
        step: int,
        *,
        replay: int = 0,
        probe: bool = False,
        age: Mapping[int, float] | None = None,
    ) -> _Pair:
        """Play a schedule beside its oracle; a difference counts only if the step's is the only one.

        Args:
            schedule: reduced.
            step: that should differ.
            replay: which replay of the same steps on one replica to compare with, from 0.
            probe: ask what the requests changed.
            age: by position, seconds that pass for the local caches before it.
        """
        expected = self._oracle(schedule, replay)
        played = self._play(schedule, age, probe=probe)
        found = self._differences(schedule, expected, played)
        only = found[0] if len(found) == 1 and found[0].step_index == step else None
        return _Pair(expected, played, only)

    def _differences(
        self, schedule: Schedule, expected: Trace, played: Played
    ) -> tuple[Difference, ...]:
        """What differs, but for what does between two runs of these steps on one replica.

        A sign-up that the workload has refused succeeds when it is asked alone, with a random id.
        """
        found = self.judge.differences(expected, played)
        if not any(map(self.judge.is_new, found)):
            return found
        twice = self.judge.knowing(self._oracle(schedule, 0), self._oracle(schedule, 1))
        return twice.differences(expected, played)

    def _oracle(self, schedule: Schedule, replay: int) -> Trace:
        """What one replica answers to these steps, played once more if it was not so often yet."""
        steps = frozenset(delivery.step for delivery in schedule.deliveries)
        replays = self.oracles.get(steps, ())
        if len(replays) <= replay:
            alone = Schedule(Kind.IDENTITY, "one replica", one_replica(sorted(steps)))
            replays = (*replays, self._play(alone).trace)
            self.oracles[steps] = replays
        return replays[min(replay, len(replays) - 1)]

    def _play(
        self, schedule: Schedule, age: Mapping[int, float] | None = None, *, probe: bool = False
    ) -> Played:
        return play(
            self.world,
            self.workload,
            schedule,
            timeout=self.timeout,
            clock=self.clock,
            age=age,
            probe=probe,
        )

    def _route(self, step: int) -> str:
        return route(self.workload.steps[step])

    # --- telling

    def tell(self, schedule: Schedule, suspect: Suspect) -> Explanation | None:
        """Confirm and name a suspect of a schedule that is reduced already.

        Returns:
            The explanation; None when the difference did not come back.

        Raises:
            Stopped: the clock said so.
        """
        confirmed = 0
        shown: _Pair | None = None
        alone: list[Trace] = []
        for replay in range(CONFIRMATIONS):
            pair = self._pair(schedule, suspect.step, replay=replay, probe=True)
            alone.append(pair.expected)
            if pair.difference is not None:
                confirmed += 1
                shown = pair
        if shown is None or shown.difference is None:
            return None
        if suspect.without and self._is_unsteady(alone, suspect.step):
            return None
        repeated = frozenset(d.step for d in schedule.deliveries if d.duplicate)
        steps = frozenset(d.step for d in schedule.deliveries)
        finding = self._accepted(schedule, shown, suspect) or self._divergence(
            schedule, shown, suspect, confirmed
        )
        return Explanation(finding, repeated, steps, self._writers(schedule, finding, suspect.step))

    def _is_unsteady(self, alone: Sequence[Trace], step: int) -> bool:
        """Whether one replica answers so itself: what few steps show, the whole workload need not."""
        first, *others = alone
        return any(
            difference.step_index == step
            for other in others
            for difference in self.judge.differences(first, Played(other, {}))
        )

    def _writers(
        self, schedule: Schedule, finding: Divergence | Stale, step: int
    ) -> frozenset[int]:
        """The steps that made it differ: those that other processes got, and their like.

        Their like are the steps that change the state which was found; if none was, the route's.
        """
        *earlier, reader = schedule.deliveries
        here = (reader.slot, reader.life)
        found = {d.step for d in earlier if (d.slot, d.life) != here}
        state = finding.cause if isinstance(finding, Divergence) else None
        names = set() if state is None else {state.name, *state.together}
        like = {
            other for other, states in self.touched.items() if names & {one.name for one in states}
        }
        if finding.schedule is Kind.STALE_COPY:
            like = {other for other in like if self.nearness.is_unsafe(other)}
        if not like & found:
            routes = {self._route(other) for other in found}
            like |= {s.index for s in self.workload.steps if self._route(s.index) in routes}
        writers = frozenset(found | like) - {step}
        # What is needed to ask at all cannot be left out, and then nothing else would be seen.
        return frozenset() if found & self.judge.producers(step) else writers

    def _divergence(
        self, schedule: Schedule, shown: _Pair, suspect: Suspect, confirmed: int
    ) -> Divergence:
        difference = shown.difference
        assert difference is not None
        kind = _kind(schedule)
        exchanges = shown.played.trace.exchanges
        seen_at = self._route(suspect.step)
        twice = causes.twice(exchanges)
        blamed = seen_at if twice is None else self._route(twice)
        refused = causes.refused_elsewhere(exchanges) if kind is Kind.RETRY else None
        if refused is not None:
            found, rule = causes.lacked(exchanges[: refused + 1])
        else:
            found = Verification(
                self._replay(schedule, difference, shown.expected), schedule
            ).cause(causes.ranked(kind, exchanges, difference.expected))
            rule = causes.rule(kind, found, blamed)
        step = self.workload.steps[suspect.step]
        hint = ""
        if refused is not None:
            hint = "a client that gets no answer sends it again, and another pod may get it"
        elif kind is Kind.RETRY:
            hint = "a client that gets no answer sends it again: make it take effect once"
        elif kind is Kind.STALE_COPY and self.judge.is_declared_stale(
            shown.expected, shown.played.trace, suspect.step
        ):
            hint = (
                "an old answer may be acceptable for a while: an anypod LocalCache says so "
                f"itself, or write `# @stale 300s` before line {step.line} of the workload"
            )
        return Divergence(
            route=blamed,
            seen_at=seen_at,
            schedule=kind,
            requests=told(exchanges, moves=schedule.moves, rolls=schedule.rolls),
            alone=told(shown.expected.exchanges, moves=False),
            where=difference.where,
            expected=difference.expected,
            got=difference.got,
            cause=found,
            confirmed=confirmed,
            rule=rule,
            hint=hint,
            replay=kept(schedule.deliveries, self.workload),
        )

    def _replay(self, schedule: Schedule, shown: Difference, expected: Trace) -> Replay:
        """Plays a reduced schedule once more, with states copied or traced, and says how it came out."""

        def replay(copy: Copy | None = None, trace: Collection[State] = ()) -> Replayed:
            played = play(
                self.world,
                self.workload,
                schedule,
                timeout=self.timeout * (SLOWER if trace else 1),
                clock=self.clock,
                copy=copy,
                trace=trace,
            )
            found = self._differences(schedule, expected, played)
            if copy is not None and not is_of_a_file(shown.where):  # the copy has its own age
                found = tuple(one for one in found if not is_of_a_file(one.where))
            differs = any(one.step_index == shown.step_index for one in found)
            outcome = Outcome.DIFFERS if differs else Outcome.OTHER if found else Outcome.RIGHT
            return Replayed(outcome, played)

        return replay

    def _accepted(self, schedule: Schedule, shown: _Pair, suspect: Suspect) -> Stale | None:
        """The same difference as accepted staleness, if a cache or the workload says so."""
        difference = shown.difference
        assert difference is not None
        step = self.workload.steps[suspect.step]
        exchanges = shown.played.trace.exchanges
        requests = told(exchanges, moves=schedule.moves, rolls=schedule.rolls)
        seen_at = self._route(suspect.step)

        def stale(cache: str, seconds: float) -> Stale:
            return Stale(
                seen_at,
                cache,
                seconds,
                _kind(schedule),
                requests,
                difference.where,
                difference.expected,
                difference.got,
            )

        if step.stale is not None and self.judge.is_declared_stale(
            shown.expected, shown.played.trace, suspect.step
        ):
            return stale("", step.stale)
        last = len(schedule.deliveries) - 1
        for cache in sorted(shown.played.caches, key=lambda cache: cache.ttl):
            aged = self._pair(schedule, suspect.step, age={last: cache.ttl})
            if aged.difference is None and not self._differences(
                schedule, aged.expected, aged.played
            ):
                return stale(cache.name, cache.ttl)
        return None


def _until(schedule: Schedule, step: int) -> tuple[Schedule, int]:
    """The schedule up to the first delivery of a step, and that delivery's position."""
    for position, delivery in enumerate(schedule.deliveries):
        if delivery.step == step:
            return replace(schedule, deliveries=schedule.deliveries[: position + 1]), position
    raise ValueError(f"step {step} is not in the schedule {schedule.name!r}")


def _kind(schedule: Schedule) -> Kind:
    """What a reduced schedule shows: without an earlier visit to the reader's pod nothing is stale."""
    if schedule.kind not in {Kind.ANOTHER_POD, Kind.STALE_COPY, Kind.RANDOM}:
        return schedule.kind
    *earlier, reader = schedule.deliveries
    visited = any((d.slot, d.life) == (reader.slot, reader.life) for d in earlier)
    return Kind.STALE_COPY if visited else Kind.ANOTHER_POD


def kept(deliveries: tuple[Delivery, ...], workload: Workload) -> tuple[Kept, ...]:
    """Deliveries as they are saved, to be played again."""
    return tuple(
        Kept(d.step, workload.steps[d.step].label, d.slot, d.life, d.duplicate, d.lost, d.overlaps)
        for d in deliveries
    )


def told(exchanges: tuple[Exchange, ...], *, moves: bool, rolls: bool = False) -> tuple[Told, ...]:
    """Exchanges as a person is told of them.

    Args:
        exchanges: in order.
        moves: another process of a pod means that the pod was killed.
        rolls: it means that a deploy replaced it.
    """
    requests: list[Told] = []
    incarnations: dict[int, int] = {}
    for exchange in exchanges:
        response = exchange.response
        body = (exchange.request.body or b"").decode("utf-8", "replace")
        body = redacted(" ".join(body.split()))
        another = incarnations.get(exchange.pod, exchange.incarnation) != exchange.incarnation
        incarnations[exchange.pod] = exchange.incarnation
        requests.append(
            Told(
                pod=exchange.pod,
                incarnation=exchange.incarnation,
                method=exchange.request.method,
                target=redacted(exchange.request.target),
                body=body if len(body) <= BODY_SHOWN else f"{body[: BODY_SHOWN - 1]}…",
                status=response.status if isinstance(response, Response) else None,
                answer=response.reason if isinstance(response, NoResponse) else "",
                duplicate=exchange.duplicate,
                lost=exchange.lost,
                moved=moves and another,
                line=exchange.step.line,
                replaced=rolls and another,
                overlaps=exchange.overlaps,
            )
        )
    return tuple(requests)
