"""Judges one run: which of its answers differ from one replica's, and are not mere consequences.

A step that needs a value of a step that differed is tainted: its answer says nothing. A request
delivered twice has two answers and the client may go on with either, so a later answer differs only
if it does so whichever was taken, and the second answer itself is never judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from anypod.prove.compare import Difference, Noise, compare
from anypod.prove.model import Trace
from anypod.prove.player import Played
from anypod.prove.workload import Workload


@dataclass(frozen=True, slots=True)
class Judge:
    """Compares runs of a workload, knowing its noise."""

    workload: Workload
    noise: Noise

    def producers(self, step: int) -> frozenset[int]:
        """Every step whose answer this one needs, directly or through others."""
        found: set[int] = set()
        todo = list(self.workload.producers(step))
        while todo:
            producer = todo.pop()
            if producer not in found:
                found.add(producer)
                todo += self.workload.producers(producer)
        return frozenset(found)

    def differences(self, expected: Trace, played: Played) -> tuple[Difference, ...]:
        """The first difference of each step that is not tainted, in order of the steps.

        Args:
            expected: the same steps on one replica.
            played: the run to judge.
        """
        alternatives = [
            self._untainted(expected, trace, unjudged, played.skipped)
            for trace, unjudged in _alternatives(played.trace)
        ]
        return min(alternatives, key=len)

    def _untainted(
        self,
        expected: Trace,
        got: Trace,
        unjudged: Collection[int],
        skipped: Mapping[int, str],
    ) -> tuple[Difference, ...]:
        present = {exchange.step.index for exchange in got.exchanges}
        aligned = Trace(tuple(e for e in expected.exchanges if e.step.index in present))
        by_step: dict[int, Difference] = {}
        for difference in compare(aligned, got, self.noise):
            if difference.step_index not in unjudged:
                by_step.setdefault(difference.step_index, difference)
        asked = {exchange.step.index for exchange in expected.exchanges}
        for step, reason in skipped.items():
            if step not in asked:
                continue  # one replica could not be asked either
            by_step.setdefault(
                step,
                Difference(step, "request", "a request that can be sent", reason, "not sent"),
            )
        return tuple(
            by_step[step] for step in sorted(by_step) if not (self.producers(step) & by_step.keys())
        )

    def is_new(self, difference: Difference) -> bool:
        """Whether the runs of the whole workload showed nothing at its place, random or not."""
        return (
            difference.where not in ("status", "no response", "request")
            and (difference.step_index, difference.where) not in self.noise.seen
        )

    def knowing(self, one: Trace, two: Trace) -> Judge:
        """The same for a part of the workload that one replica was asked twice: what differs is noise."""
        differs = {(d.step_index, d.where) for d in compare(one, two, self.noise)}
        return replace(self, noise=replace(self.noise, wild=self.noise.wild | differs))

    def is_declared_stale(self, expected: Trace, got: Trace, step: int) -> bool:
        """Whether this step's answer is an earlier right answer to the same request.

        Args:
            expected: of one replica, of the whole workload or part of it.
            got: of the run in which the step differed.
            step: its index.
        """
        reference = next(e for e in expected.exchanges if e.step.index == step)
        for earlier in expected.exchanges:
            if earlier.step.index >= step:
                return False
            if (earlier.request.method, earlier.request.target) != (
                reference.request.method,
                reference.request.target,
            ) or earlier.step.client != reference.step.client:
                continue
            older = Trace(
                tuple(
                    replace(e, response=earlier.response) if e.step.index == step else e
                    for e in expected.exchanges
                )
            )
            found = compare(older, got, self.noise)
            if all(difference.step_index != step for difference in found):
                return True
        return False


def _alternatives(trace: Trace) -> Iterator[tuple[Trace, frozenset[int]]]:
    """The run as the client saw it, and the steps whose own answer is not judged.

    With duplicates there are two: the first answers taken, and the second ones.
    """
    twice = frozenset(e.step.index for e in trace.exchanges if e.duplicate)
    yield Trace(tuple(e for e in trace.exchanges if not e.duplicate)), frozenset()
    if twice:
        yield (
            Trace(
                tuple(
                    replace(e, duplicate=False)
                    for e in trace.exchanges
                    if e.duplicate or e.step.index not in twice
                )
            ),
            twice,
        )
