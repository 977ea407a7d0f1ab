"""Guesses at the few deliveries that explain a difference, as a person would make them.

Requests that speak of the same thing belong together: they share a rare word (an item's name in a path
and in an order's body), a value one takes from the other's answer, or at least the first segment of
their paths. A good guess costs two runs; the search that follows a bad one costs fifty.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from anypod.prove.model import Step
from anypod.prove.schedules import SAFE_METHODS, Delivery, Kind, Schedule
from anypod.prove.shrink import Positions
from anypod.prove.workload import Workload

WORD = re.compile(r"[^\W_][\w-]+")
REFERENCE = re.compile(r"\{\{\s*([\w-]+)\.response\b.*?\}\}", re.DOTALL)
PREFIXES = (4, 8, 16)


@dataclass(frozen=True)
class Nearness:
    """How much the steps of a workload have to do with one another.

    `changing` are the steps that change process-local state on one replica.
    """

    workload: Workload
    changing: frozenset[int]

    @cached_property
    def _words(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(_words(step)) for step in self.workload.steps)

    @cached_property
    def _frequency(self) -> Counter[str]:
        return Counter(word for words in self._words for word in words)

    def is_unsafe(self, step: int) -> bool:
        """Whether a step's method says that it changes something."""
        return self.workload.steps[step].method not in SAFE_METHODS

    def writes(self, step: int) -> bool:
        """Whether a step changes something, as far as its method or the probe say."""
        return step in self.changing or self.is_unsafe(step)

    def share(self, step: int, other: int) -> float:
        """How much two steps have in common: each shared word counts less the more steps have it.

        What the first step needs of earlier answers speaks for it too: an order's page has to do with
        the item that was ordered.
        """
        mine = set(self._words[step])
        for producer in self.workload.producers(step):
            mine |= self._words[producer]
        return sum(1 / self._frequency[word] for word in mine & self._words[other])


def _words(step: Step) -> Iterator[str]:
    path, _, _ = step.target.partition("?")
    first = path.strip("/").partition("/")[0]
    yield f"/{first}"
    text = f"{step.target} {step.body or ''} {' '.join(value for _, value in step.headers)}"
    for name in REFERENCE.findall(text):
        yield f"@{name}"
    if step.name is not None:
        yield f"@{step.name}"
    yield from WORD.findall(REFERENCE.sub(" ", f"{step.target} {step.body or ''}"))


def guesses(
    prefix: Schedule,
    candidates: Sequence[int],
    nearness: Nearness,
    route: Callable[[int], str],
) -> Iterator[Positions]:
    """Subsets of the candidates worth asking about, likeliest first.

    Args:
        prefix: a schedule whose last delivery differed.
        candidates: positions before it that may be kept.
        nearness: of the steps.
        route: of a step.
    """
    deliveries = prefix.deliveries
    target = deliveries[-1]

    def rank(position: int) -> tuple[float, bool, int]:
        step = deliveries[position].step
        return -nearness.share(target.step, step), not nearness.writes(step), -position

    ranked = sorted(candidates, key=rank)
    if prefix.kind is Kind.RETRY:
        yield from _repeated(deliveries, ranked, nearness)
        return
    writers = [p for p in ranked if nearness.writes(deliveries[p].step)]
    if prefix.kind in {Kind.STALE_COPY, Kind.RANDOM}:
        yield from islice(_overtaken(deliveries, ranked, writers, nearness, route), 6)
    yield from (frozenset({writer}) for writer in writers[:3])
    yield from (frozenset(ranked[:size]) for size in PREFIXES)


def _repeated(
    deliveries: Sequence[Delivery], ranked: Sequence[int], nearness: Nearness
) -> Iterator[Positions]:
    """Each repetition with the writes that it may need, then with more."""
    target = deliveries[-1].step
    once = [p for p in ranked if not deliveries[p].duplicate]
    doubled = [p for p in ranked if deliveries[p].duplicate]
    for position in doubled:
        step = deliveries[position].step
        if nearness.share(target, step) > 0:
            needed = (p for p in once if nearness.is_unsafe(deliveries[p].step))
            near = [
                p for p in needed if nearness.share(step, deliveries[p].step) > 0 and p < position
            ]
            yield frozenset({position, *near[: PREFIXES[0]]})
    for size in (PREFIXES[1], len(once)):
        yield from (frozenset({position, *once[:size]}) for position in doubled)


def _overtaken(
    deliveries: Sequence[Delivery],
    ranked: Sequence[int],
    writers: Sequence[int],
    nearness: Nearness,
    route: Callable[[int], str],
) -> Iterator[Positions]:
    """A read on the reader's pod, a write elsewhere after it, and the write that the read needs."""
    target = deliveries[-1]
    here = (target.slot, target.life)
    reads = [
        p
        for p in ranked
        if (deliveries[p].slot, deliveries[p].life) == here
        and route(deliveries[p].step) == route(target.step)
        and nearness.share(target.step, deliveries[p].step)
        >= nearness.share(target.step, target.step) / 2
    ]
    for read in sorted(reads, reverse=True):
        for write in writers:
            elsewhere = (deliveries[write].slot, deliveries[write].life) != here
            if write > read and elsewhere:
                before = [p for p in writers if p < read]
                yield frozenset({read, write, *before[:1]})
