"""Overlap: two requests at the same moment on two replicas, judged by what one replica does with them.

One replica that answers one request at a time is the sequential specification (cf. Warszawski and Bailis,
"ACIDRain", SIGMOD 2017): whatever happened at once must look like one order or the other, in the answers
and in what is read later. The same request may also overlap itself; then it is delivered twice.

Two things are kept apart. What two replicas already answer differently one after the other is the matter
of other schedules: such a pair is left alone here. And a service may refuse or fail one of two competing
requests: with a status that says so it is as if that request had not been sent; with a 5xx it is told, but
counts less than an update or a uniqueness that was lost. So does a write's answer that shows the other
one's work already, when everything that is read later is right. A read beside a write has to show what
was before it or what is after it, and must leave nothing old behind in a cache that all replicas share.

A race does not show each time, so each replay is a number of tries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, islice

from anypod.prove.compare import Difference
from anypod.prove.events import Contended, Divergence
from anypod.prove.explain import CONFIRMATIONS, kept, told
from anypod.prove.guesses import Nearness
from anypod.prove.judge import Judge
from anypod.prove.model import Exchange, Response, Step, Trace
from anypod.prove.player import Played
from anypod.prove.schedules import Delivery, Kind, Schedule, one_replica
from anypod.prove.workload import Workload, route

TRIES = 5
MOST = 6  # requests beside themselves, and pairs of two writes
MOST_READS = 4  # pairs of a read and a write
READS = 12  # after both, whatever they are called
CHANGE_ATOMICALLY = (
    "change it in one atomic step, such as a conditional UPDATE or a unique constraint"
)
READ_WHOLE = (
    "read what belongs together in one statement or transaction, and fill a cache only if nothing was "
    "written since the value was loaded"
)
REFUSALS = frozenset({409, 412, 423, 425, 429, 503})


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two steps to send at the same moment; twice the same one to let it overlap itself."""

    first: int
    second: int

    @property
    def twin(self) -> bool:
        """Whether a request overlaps itself."""
        return self.first == self.second


@dataclass(frozen=True, slots=True)
class Pairings:
    """The pairs of requests that are worth sending at the same moment.

    Attributes:
        twins: each write beside itself.
        writes: two writes that have to do with one another.
        reads: a read and a write that have to do with one another, or the read that comes next.
        cookies: how many pairs were left out because both belong to one client, and one sets cookies.
    """

    twins: tuple[Pairing, ...] = ()
    writes: tuple[Pairing, ...] = ()
    reads: tuple[Pairing, ...] = ()
    cookies: int = 0

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.twins) + len(self.writes) + len(self.reads)

    @property
    def chosen(self) -> tuple[Pairing, ...]:
        """As many of each sort as a proof tries."""
        return (*self.twins[:MOST], *self.writes[:MOST], *self.reads[:MOST_READS])


class Apart:
    """Two replicas answer two requests differently one after the other: an overlap shows nothing new."""


def pairings(workload: Workload, answers: Trace, nearness: Nearness) -> Pairings:
    """The pairs worth trying, the likeliest of each sort first; one pair for each two routes.

    Two requests of one client of which one sets cookies are left out: a browser keeps the later ones,
    with one replica as well.

    Args:
        workload: whose steps they are.
        answers: of one replica.
        nearness: of the steps.
    """
    sets = {e.step.index for e in answers.exchanges if _sets_cookies(e)}
    writes = [s for s in workload.steps if nearness.is_unsafe(s.index)]
    first_of = {route(step): step.index for step in reversed(writes)}
    twins = tuple(Pairing(step, step) for step in sorted(first_of.values()))
    found: dict[tuple[str, str], Pairing] = {}
    cookies: set[tuple[str, str]] = set()
    steps = [s for s in workload.steps if s.method != "OPTIONS"]
    near = [
        (one, two)
        for one, two in combinations(steps, 2)
        if nearness.is_unsafe(one.index) or nearness.is_unsafe(two.index)
        if nearness.share(one.index, two.index) > 0 or two is _next_read(nearness, steps, one)
    ]
    for one, two in sorted(near, key=lambda pair: not _is_read_again(workload, nearness, *pair)):
        kinds = (route(one), route(two))
        if one.index in _producers(workload, two.index):
            continue
        if one.client == two.client and {one.index, two.index} & sets:
            cookies.add(kinds)
        elif nearness.is_unsafe(one.index) == nearness.is_unsafe(two.index):
            found.setdefault(kinds, Pairing(one.index, two.index))
        else:
            # Whether the read or the write comes first in the workload is all the same here.
            found.setdefault((min(kinds), max(kinds)), Pairing(one.index, two.index))
    pairs = sorted(found.values(), key=lambda pair: -nearness.share(pair.first, pair.second))
    both = [p for p in pairs if nearness.is_unsafe(p.first) and nearness.is_unsafe(p.second)]
    return Pairings(
        twins,
        tuple(both),
        tuple(pair for pair in pairs if pair not in both),
        len({tuple(sorted(kinds)) for kinds in cookies} - {tuple(sorted(k)) for k in found}),
    )


def _next_read(nearness: Nearness, steps: list[Step], write: Step) -> Step | None:
    """The read that follows a write: whoever wrote the workload may look there at what it did."""
    later = (s for s in steps if s.index > write.index and not nearness.is_unsafe(s.index))
    return next(later, None) if nearness.is_unsafe(write.index) else None


def _is_read_again(workload: Workload, nearness: Nearness, one: Step, two: Step) -> bool:
    """Whether a later request asks for the same as the read of a pair, if one of them is a read."""
    reads = [step for step in (one, two) if not nearness.is_unsafe(step.index)]
    return not reads or any(
        later.label == reads[0].label for later in workload.steps[two.index + 1 :]
    )


def _sets_cookies(exchange: Exchange) -> bool:
    return (
        isinstance(exchange.response, Response)
        and exchange.response.header("set-cookie") is not None
    )


def _producers(workload: Workload, step: int) -> frozenset[int]:
    found: set[int] = set()
    todo = list(workload.producers(step))
    while todo:
        producer = todo.pop()
        if producer not in found:
            found.add(producer)
            todo += workload.producers(producer)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Shown:
    """A run that no order explains, and the nearest order's difference."""

    played: Played
    expected: Trace
    difference: Difference


@dataclass(frozen=True, slots=True)
class Race:
    """Tries one pairing.

    Attributes:
        workload: whose steps they are.
        pairing: which ones.
        nearness: of the steps.
        judge: who compares.
        play: sends a schedule.
    """

    workload: Workload
    pairing: Pairing
    nearness: Nearness
    judge: Judge
    play: Callable[[Schedule], Played]

    def run(self) -> Divergence | Contended | Apart | None:
        """The difference that an overlap makes, that one fails, that it cannot be told, or nothing.

        Raises:
            Stopped: the clock said so.
        """
        related = self._related()
        found = self._try(related)
        if not isinstance(found, _Shown):
            return found
        few = self._closed({found.difference.step_index})
        steps = few if few < related and isinstance(self._try(few), _Shown) else related
        return self.again(steps) or self._divergence(found, 0, steps)

    def again(self, steps: frozenset[int]) -> Divergence | None:
        """The difference that an overlap makes among these steps, tried as often as confirms one.

        Raises:
            Stopped: the clock said so.
        """
        shown: _Shown | None = None
        confirmed = 0
        for _ in range(CONFIRMATIONS):
            found = self._try(steps)
            if isinstance(found, _Shown):
                shown, confirmed = found, confirmed + 1
        return None if shown is None else self._divergence(shown, confirmed, steps)

    # --- which steps

    def _closed(self, steps: set[int]) -> frozenset[int]:
        wanted = {*steps, self.pairing.first, self.pairing.second}
        for step in list(wanted):
            wanted |= _producers(self.workload, step)
        return frozenset(wanted)

    def _related(self) -> frozenset[int]:
        """What has to do with either, the first reads after both, and what these need.

        What a write changes may show under quite another name: `POST /take`, `GET /stock`.
        """
        pair = (self.pairing.first, self.pairing.second)
        steps = self.workload.steps
        near = {
            s.index for s in steps if any(self.nearness.share(s.index, one) > 0 for one in pair)
        }
        later = (s.index for s in steps[max(pair) :] if not self.nearness.is_unsafe(s.index))
        return self._closed(near | {*islice(later, READS)})

    def _order(self, steps: frozenset[int], *, swapped: bool) -> list[int]:
        """The steps in order, the second of the pair moved to right after the first, or before it."""
        first, second = self.pairing.first, self.pairing.second
        order: list[int] = []
        for step in sorted(steps - {second}):
            order += ([second, first] if swapped else [first, second]) if step == first else [step]
        return order

    # --- runs

    def _alone(self, steps: frozenset[int], *, swapped: bool = False) -> Trace:
        """What one replica answers, in one order."""
        if self.pairing.twin:
            return self.play(self._both(steps, together=False, slot=0)).trace
        return self.play(_one(self._order(steps, swapped=swapped))).trace

    def _both(
        self, steps: frozenset[int], *, together: bool, slot: int = 1, swapped: bool = False
    ) -> Schedule:
        """All on the first replica, one of the pair on another one."""
        first, second = self.pairing.first, self.pairing.second
        deliveries: list[Delivery] = []
        order = sorted(steps) if self.pairing.twin else self._order(steps, swapped=swapped)
        for step in order:
            here = slot if step == second and not self.pairing.twin else 0
            later = deliveries and {deliveries[-1].step, step} == {first, second}
            at_once = together and bool(later) and not self.pairing.twin
            deliveries.append(Delivery(step, here, overlaps=at_once))
            if self.pairing.twin and step == first:
                deliveries.append(Delivery(step, slot, duplicate=True, overlaps=together))
        return Schedule(Kind.OVERLAP, "two at once", tuple(deliveries))

    def _try(self, steps: frozenset[int]) -> _Shown | Contended | Apart | None:
        """Send the two at once, several times; the other order is played only if it may explain one."""
        alone = [self._alone(steps)]
        if self._is_apart(steps, alone):
            return Apart()
        contended: Contended | None = None
        for attempt in range(TRIES):
            played = self.play(
                self._both(steps, together=True, swapped=not self.pairing.twin and attempt % 2 == 1)
            )
            if not self._differences(alone[0], played) and not self._failed(alone, played):
                continue
            if not self.pairing.twin and len(alone) == 1:
                alone.append(self._alone(steps, swapped=True))
            found = self._judged(steps, alone, played)
            if found and not contended and len(alone) == 2 and self._is_apart(steps, alone):
                return Apart()
            if isinstance(found, _Shown):
                return found
            contended = contended or found
        return contended

    def _is_apart(self, steps: frozenset[int], alone: list[Trace]) -> bool:
        """Whether two replicas answer otherwise one after the other too, in the latest order."""
        swapped = len(alone) == 2
        apart = self.play(self._both(steps, together=False, swapped=swapped))
        return bool(self._differences(alone[-1], apart))

    def _judged(
        self, steps: frozenset[int], alone: list[Trace], played: Played
    ) -> _Shown | Contended | None:
        failed = self._failed(alone, played)
        mixed: Contended | None = None
        best: _Shown | None = None
        for expected, seen in self._explanations(steps, alone, played):
            found = self._differences(expected, seen)
            if not found:
                return failed
            if {difference.step_index for difference in found} <= self._pair - self._reads:
                # All that was read later is right: only these two saw one another's work.
                mixed = mixed or self._mixed(found[0])
            if best is None:
                best = _Shown(played, expected, found[0])
        return failed or mixed or best

    def _differences(self, expected: Trace, played: Played) -> tuple[Difference, ...]:
        """What differs, but for answers that the workload declares may be old."""
        return tuple(
            difference
            for difference in self.judge.differences(expected, played)
            if self.workload.steps[difference.step_index].stale is None
            or not self.judge.is_declared_stale(expected, played.trace, difference.step_index)
        )

    @property
    def _reads(self) -> frozenset[int]:
        return frozenset(step for step in self._pair if not self.nearness.is_unsafe(step))

    @property
    def _pair(self) -> frozenset[int]:
        return frozenset({self.pairing.first, self.pairing.second})

    def _mixed(self, difference: Difference) -> Contended:
        return Contended(
            self._name(self.pairing.first),
            self._name(difference.step_index),
            (difference.expected, difference.got),
            difference.where,
        )

    def _explanations(
        self, steps: frozenset[int], alone: list[Trace], played: Played
    ) -> Iterator[tuple[Trace, Played]]:
        """Each order, then the orders in which a request that was turned away was never sent."""
        for expected in alone:
            yield expected, played
        pair = self._pair
        turned_away = {
            e.step.index for e in played.trace.exchanges if e.step.index in pair and _turned_away(e)
        }
        if not turned_away:
            return
        if self.pairing.twin:
            yield self.play(_one(sorted(steps))).trace, played
            return
        for step in sorted(turned_away):
            without = Trace(tuple(e for e in played.trace.exchanges if e.step.index != step))
            order = [s for s in self._order(steps, swapped=False) if s != step]
            expected = self.play(_one(order)).trace
            yield expected, Played(without, played.skipped)

    def _failed(self, alone: list[Trace], played: Played) -> Contended | None:
        """A 5xx in the overlap where no order has one."""
        pair = self._pair

        def statuses(trace: Trace) -> list[tuple[int, int]]:
            return [
                (e.step.index, e.response.status if isinstance(e.response, Response) else 0)
                for e in trace.exchanges
                if e.step.index in pair
            ]

        usual = {status for trace in alone for status in statuses(trace)}
        for step, status in statuses(played.trace):
            if (status == 0 or status >= 500) and (step, status) not in usual and status != 503:
                answers = tuple(str(s or "no answer") for _, s in statuses(played.trace))
                return Contended(
                    self._name(self.pairing.first), self._name(step), answers, "status"
                )
        return None

    # --- telling

    def _name(self, step: int) -> str:
        return route(self.workload.steps[step])

    def _divergence(self, shown: _Shown, confirmed: int, steps: frozenset[int]) -> Divergence:
        last = shown.difference.step_index
        # Up to the answer that differs; the pair is told whole even if it is one of the two.
        until = max(
            at
            for at, e in enumerate(shown.played.trace.exchanges)
            if e.step.index == last or e.step.index in self._pair
        )
        exchanges = shown.played.trace.exchanges[: until + 1]
        names = list(
            dict.fromkeys((self._name(self.pairing.first), self._name(self.pairing.second)))
        )
        reads = [self._name(step) for step in self._reads]
        return Divergence(
            route=reads[0] if reads else names[-1],
            seen_at=self._name(last),
            schedule=Kind.OVERLAP,
            requests=told(exchanges, moves=False),
            alone=told(shown.expected.exchanges, moves=False),
            where=shown.difference.where,
            expected=shown.difference.expected,
            got=shown.difference.got,
            confirmed=confirmed,
            rule=None if reads else "POD107",
            replay=kept(self._both(steps, together=True).deliveries, self.workload),
            hint=f"{' and '.join(names)} at the same moment came out as in neither order: "
            + (READ_WHOLE if reads else CHANGE_ATOMICALLY),
        )


def _one(order: list[int]) -> Schedule:
    return Schedule(Kind.IDENTITY, "one replica", one_replica(order))


def _turned_away(exchange: Exchange) -> bool:
    if not isinstance(exchange.response, Response):
        return True
    return exchange.response.status in REFUSALS or exchange.response.status >= 500
