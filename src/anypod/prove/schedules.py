"""Where each request goes, and which fault happens to it: schedules as plain data.

A schedule is a tuple of deliveries in the order in which they are sent. A delivery names its step,
the slot whose replica gets it, and that replica's *life*: two deliveries with the same slot and life
reach one process, another life is a process that has served nothing. Everything a schedule does is in
these numbers, so any subsequence of a schedule is a schedule: that is what makes reduction simple.

Nothing here sends anything, and the same arguments always give the same schedules.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import combinations, count


class Kind(StrEnum):
    """What a schedule tries, in the words of the reports."""

    ANOTHER_POD = "another pod"
    STALE_COPY = "stale copy"
    RETRY = "retry"
    POD_MOVED = "pod moved"
    DEPLOY = "deploy"
    OVERLAP = "overlap"
    RANDOM = "random"
    IDENTITY = "process identity"
    SECOND = "second replica"
    RESTART = "start after a kill"


TRIED: tuple[Kind, ...] = (
    Kind.ANOTHER_POD,
    Kind.STALE_COPY,
    Kind.RETRY,
    Kind.POD_MOVED,
    Kind.DEPLOY,
    Kind.OVERLAP,
)
# What was tried with starts alone: nothing was delivered.
STARTS = frozenset({Kind.SECOND, Kind.RESTART})
# What can be tried with replicas that are not ours to start, kill or look into.
ROUTED = frozenset({Kind.ANOTHER_POD, Kind.STALE_COPY, Kind.RETRY, Kind.OVERLAP})
NEW_PROCESS = 0.1  # how often a pod is another process when a random schedule comes to it
READ_METHODS = frozenset({"GET", "HEAD", "PROPFIND", "REPORT", "SEARCH"})
SAFE_METHODS = READ_METHODS | {"OPTIONS", "TRACE"}


class Retry(StrEnum):
    """How a request comes to be delivered twice."""

    SAME = "to the same pod"
    OTHER = "to another pod"
    LOST = "after a lost response"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One step sent to one replica.

    Attributes:
        step: index of the step in the workload.
        slot: the place whose replica gets it, from 0.
        life: which process of that slot; a new number is a process that has served nothing.
        duplicate: the second delivery of a step: same bytes, same cookies as the first.
        lost: the replica answers, the client never sees it.
        overlaps: sent at the same moment as the delivery before it.
    """

    step: int
    slot: int
    life: int = 0
    duplicate: bool = False
    lost: bool = False
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """Deliveries in order, and what they are meant to show.

    `moves` says that there is one pod: when the process changes, the one before it is killed and its
    disk is gone.
    """

    kind: Kind
    name: str
    deliveries: tuple[Delivery, ...]

    @property
    def moves(self) -> bool:
        """Whether a new process replaces the one before it."""
        return self.kind is Kind.POD_MOVED

    @property
    def rolls(self) -> bool:
        """Whether a new process of a slot takes the place of the one that was there, as in a deploy."""
        return self.kind is Kind.DEPLOY

    @property
    def starts(self) -> int:
        """How many processes the schedule needs."""
        return len({(delivery.slot, delivery.life) for delivery in self.deliveries})

    @property
    def is_alone(self) -> bool:
        """Whether one process gets every request once, in order: no more than one replica does."""
        return (
            self.starts == 1
            and not self.rolls
            and not any(d.duplicate or d.lost or d.overlaps for d in self.deliveries)
        )

    def keep(self, positions: Collection[int]) -> Schedule:
        """The same schedule with only the deliveries at these positions."""
        return replace(
            self, deliveries=tuple(self.deliveries[position] for position in sorted(positions))
        )


def one_replica(steps: Sequence[int], *, slot: int = 0) -> tuple[Delivery, ...]:
    """Every step to one replica that never dies: what the others are compared with."""
    return tuple(Delivery(step, slot) for step in steps)


def another_pod(steps: int, slots: int, *, routed: bool = False) -> Iterator[Schedule]:
    """Each request on a replica that has served nothing.

    One such run covers every pair of a write and a later read. Replicas of one slot descend from one
    import, so the following runs deal the slots by another digit of the position: over all of them
    every pair of requests is also served by two imports.

    Args:
        steps: number of steps.
        slots: number of slots.
        routed: there is one process in each slot, which cannot be replaced; then it takes all of
            the runs to part every pair.
    """
    divisor = 1
    while True:
        yield Schedule(
            Kind.ANOTHER_POD,
            "each request on a replica that served nothing"
            if not routed
            else f"{divisor} and {divisor} requests in turn on each replica",
            tuple(
                Delivery(step, (step // divisor) % slots, life=0 if routed else step + 1)
                for step in range(steps)
            ),
        )
        divisor *= slots
        if slots < 2 or divisor >= steps:
            return


class Triples:
    """The stale-copy patterns i < j < k that routings have not covered yet.

    A copy can be stale when i fills it and k reads it on one replica and j changes the truth on
    another. `left[i][k]` is a bit set of the j's still to cover. Two replicas cover a quarter of all
    triples per random routing, more replicas fewer, so a routing uses two at a time.
    """

    def __init__(self, steps: int, writers: Collection[int] = ()) -> None:
        self.steps = steps
        self.total = steps * (steps - 1) * (steps - 2) // 6
        self.covered = 0
        self._likely = sum(1 << j for j in writers)
        self._left = {
            (i, k): ((1 << k) - 1) & ~((1 << (i + 1)) - 1)
            for i, k in combinations(range(steps), 2)
            if k - i > 1
        }

    def gain(self, routing: int) -> tuple[int, int]:
        """What a routing (bit k = step k goes to the second replica) would cover: (likely, all)."""
        likely = everything = 0
        for (i, k), js in self._left.items():
            first, last = routing >> i & 1, routing >> k & 1
            if first == last:
                apart = js & (~routing if first else routing)
                likely += (apart & self._likely).bit_count()
                everything += apart.bit_count()
        return likely, everything

    def cover(self, routing: int) -> int:
        """Take what this routing covers off the list; how many triples that were."""
        gained = 0
        for (i, k), js in list(self._left.items()):
            first, last = routing >> i & 1, routing >> k & 1
            if first != last:
                continue
            apart = js & (~routing if first else routing)
            if not apart:
                continue
            gained += apart.bit_count()
            if js & ~apart:
                self._left[i, k] = js & ~apart
            else:
                del self._left[i, k]
        self.covered += gained
        return gained

    def next_routing(self, rng: random.Random) -> int:
        """A routing that covers much of what is left: the best of some, improved by flips.

        Triples whose middle is a write come first, since a stale copy needs one.
        """
        tries, flips = (24, 16) if self.steps <= 60 else (6, 6) if self.steps <= 120 else (1, 0)
        best = max((rng.getrandbits(self.steps) for _ in range(tries)), key=self.gain)
        score = self.gain(best)
        for step in rng.sample(range(self.steps), min(self.steps, flips)):
            flipped = best ^ (1 << step)
            gained = self.gain(flipped)
            if gained > score:
                best, score = flipped, gained
        if score == (0, 0):
            # Nothing random helped: build one for the first triple that is left.
            (i, k), js = next(iter(self._left.items()))
            middle = (js & -js).bit_length() - 1
            return best & ~(1 << i) & ~(1 << k) | 1 << middle
        return best


def stale_copy(
    steps: int, slots: int, *, writers: Collection[int] = (), seed: int = 0
) -> Iterator[tuple[Schedule, int]]:
    """Routings after which every i < j < k was seen with i and k together and j elsewhere.

    Args:
        steps: number of steps.
        slots: number of slots, at least 2.
        writers: steps that change something; they are tried first as the j.
        seed: of the choice among equally good routings.

    Returns:
        Pairs of a schedule and the number of triples it adds to those covered.
    """
    triples = Triples(steps, writers)
    rng = random.Random(seed)
    slot_pairs = list(combinations(range(slots), 2))
    number = 0
    while triples.covered < triples.total:
        routing = triples.next_routing(rng)
        gained = triples.cover(routing)
        pair = slot_pairs[number % len(slot_pairs)]
        number += 1
        yield (
            Schedule(
                Kind.STALE_COPY,
                f"routing {number}",
                tuple(Delivery(step, pair[routing >> step & 1]) for step in range(steps)),
            ),
            gained,
        )


def at_random(steps: int, slots: int, seed: int) -> Iterator[Schedule]:
    """Without end: each request to any pod, which now and then is a new process by then.

    Uniform routing finds what no cover was made for: patterns of four requests and more.

    Args:
        steps: number of steps.
        slots: number of pods.
        seed: of all that is drawn.
    """
    rng = random.Random(seed)
    for number in count(1):
        lives = [0] * slots
        deliveries = []
        for step in range(steps):
            slot = rng.randrange(slots)
            lives[slot] += rng.random() < NEW_PROCESS
            deliveries.append(Delivery(step, slot, lives[slot]))
        yield Schedule(Kind.RANDOM, f"random {number} of seed {seed}", tuple(deliveries))


def retry(steps: int, twice: Collection[int], mode: Retry, slots: int) -> Schedule:
    """Everything on one replica, the steps in `twice` delivered a second time right after.

    Args:
        steps: number of steps.
        twice: the steps to repeat.
        mode: where the second delivery goes and who saw the first answer.
        slots: number of slots; with one, "another pod" is the same pod.
    """
    other = 1 if slots > 1 and mode is not Retry.SAME else 0
    deliveries: list[Delivery] = []
    for step in range(steps):
        if step not in twice:
            deliveries.append(Delivery(step, 0))
            continue
        deliveries.append(Delivery(step, 0, lost=mode is Retry.LOST))
        deliveries.append(Delivery(step, other, duplicate=True))
    return Schedule(Kind.RETRY, f"delivered again {mode.value}", tuple(deliveries))


def pod_moved(steps: int, writers: Collection[int]) -> Iterator[Schedule]:
    """One pod that dies, with its disk, between a write and what comes after, and starts elsewhere.

    The first run kills it before every request, which parts every pair, the others once each: state
    that takes two requests to build is lost only then.

    Args:
        steps: number of steps.
        writers: steps after which to kill it, one run each.
    """
    yield Schedule(
        Kind.POD_MOVED,
        "killed before every request",
        tuple(Delivery(step, step % 2, life=step // 2) for step in range(steps)),
    )
    for writer in sorted(writers):
        if writer >= steps - 1:
            continue
        yield Schedule(
            Kind.POD_MOVED,
            f"killed after request {writer + 1}",
            tuple(Delivery(step, int(step > writer)) for step in range(steps)),
        )


def deploy(steps: int, slots: int, cuts: Collection[int]) -> Iterator[Schedule]:
    """Requests go round all pods; after some of them each pod is replaced, one after the other.

    While that goes on old pods and new ones answer together. A pod ends as in a deploy, with SIGTERM,
    and the new one imports the service.

    Args:
        steps: number of steps.
        slots: number of pods.
        cuts: steps after which a deploy begins.
    """
    lives = [0] * slots
    deploys = 0
    deliveries: list[Delivery] = []
    for step in range(steps):
        slot = step % slots
        lives[slot] = deploys
        deliveries.append(Delivery(step, slot, lives[slot]))
        deploys += step in cuts
    if cuts:
        after = ", ".join(str(cut + 1) for cut in sorted(cuts))
        yield Schedule(Kind.DEPLOY, f"deployed after request {after}", tuple(deliveries))
