"""Compares a run with what one replica answers, after renaming what is generated.

`Noise.learn` looks at runs of one replica: what differs between two of them under one process identity
is generated, and generated values are claimed to be one-to-one only where these runs bear it out. What
differs only under another process identity is a finding of its own. `compare` then walks two traces
and returns every difference that renaming does not explain.

Invariants: comparing the runs that were learned from gives nothing; so does comparing a trace with
itself under a one-to-one renaming of its generated values; a map that is not one-to-one is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from anypod.prove.compare_judge import Judgement
from anypod.prove.compare_learn import Place, Sample, canonical, general, learn_places
from anypod.prove.compare_noise import (
    Difference,
    Known,
    ResetIncomplete,
    is_of_a_file,
    lengths,
    outcome,
    short,
)
from anypod.prove.compare_walk import Visitor, below, walk, walk_json
from anypod.prove.model import Exchange, Response, Trace
from anypod.prove.renaming import atoms, is_strong, show

__all__ = ["Difference", "Noise", "ResetIncomplete", "compare"]


@dataclass(frozen=True, slots=True)
class Noise(Known):
    """What differs between runs of one replica, and so means nothing between replicas.

    Attributes:
        identity: what differs only under another process identity (hash seed, pid, host name).
    """

    identity: tuple[Difference, ...] = ()

    @classmethod
    def learn(
        cls, a: Trace, a2: Trace, b: Trace | None = None, *, more: Iterable[Trace] = ()
    ) -> Noise:
        """What to rename.

        Args:
            a: a run of the workload on one replica.
            a2: the same again, at least 1.1 s later, under the same process identity.
            b: the same under another process identity.
            more: further runs like `a2`, whole or in part; each shows more of what is random.

        Raises:
            ResetIncomplete: `a` and a later run differ in status or in the shape of their JSON.
        """
        learner = _Learner()
        again = (a2, *more)
        for run, other in enumerate(again):
            for one, two in _aligned(a, other):
                learner.step(one, two, run)
        refuted: set[str] = set()
        noise = learner.noise(frozenset())
        for other in (*again, *(() if b is None else (b,))):
            while conflicts := _conflicts(noise, a, other) - refuted:
                refuted |= conflicts
                noise = learner.noise(frozenset(refuted))
        left = {(d.step_index, d.where) for other in again for d in compare(a, other, noise)}
        noise = replace(noise, wild=noise.wild | left)
        return noise if b is None else _with_identity(noise, a, b)


def _with_identity(noise: Noise, a: Trace, b: Trace) -> Noise:
    found = compare(a, b, noise)
    wild = {(d.step_index, d.where) for d in found if d.kind not in ("status", "order")}
    routes = {e.step.index: e.step.route or e.step.label for e in a.exchanges}
    unordered = {(routes[d.step_index], general(d.where)) for d in found if d.kind == "order"}
    return replace(
        noise,
        identity=tuple(d for d in found if not is_of_a_file(d.where)),
        wild=noise.wild | wild,
        unordered=noise.unordered | unordered,
    )


def compare(expected: Trace, got: Trace, noise: Noise) -> list[Difference]:
    """Every difference that renaming does not explain, in the order of the expected trace.

    Args:
        expected: what one replica answers.
        got: the run to judge. Steps that only one trace has are not compared, nor are duplicates.
        noise: learned from runs of one replica.
    """
    comparison = Judgement(noise)
    for one, two in _aligned(expected, got):
        comparison.step(one, two)
    return comparison.differences


def _conflicts(noise: Noise, a: Trace, other: Trace) -> set[str]:
    """The scopes in which two runs of one replica are not one-to-one."""
    comparison = Judgement(noise)
    for one, two in _aligned(a, other):
        comparison.step(one, two)
    return comparison.conflicting


def _aligned(expected: Trace, got: Trace) -> Iterator[tuple[Exchange, Exchange]]:
    answered = {e.step.index: e for e in reversed(got.exchanges) if not e.duplicate}
    for exchange in expected.exchanges:
        other = answered.get(exchange.step.index)
        if other is not None and not exchange.duplicate:
            yield exchange, other


class _Learner(Visitor):
    """Collects what differs between two runs of one replica."""

    def __init__(self) -> None:
        self._index = self._run = 0
        self._route = ""
        self._routes: dict[int, str] = {}
        self._samples: list[Sample] = []
        self._seen: set[tuple[int, str]] = set()
        self._wild: set[tuple[int, str]] = set()
        self._unordered: set[tuple[str, str]] = set()
        self._keyed: set[tuple[str, str]] = set()

    def step(self, one: Exchange, two: Exchange, run: int) -> None:
        self._run = run
        self._index = one.step.index
        self._route = self._routes[self._index] = one.step.route or one.step.label
        if isinstance(one.response, Response) and isinstance(two.response, Response):
            walk(one.response, two.response, self)
        elif isinstance(one.response, Response) or isinstance(two.response, Response):
            raise ResetIncomplete(
                Difference(
                    self._index,
                    "no response",
                    outcome(one.response),
                    outcome(two.response),
                    "no response",
                )
            )

    def noise(self, refuted: frozenset[str]) -> Noise:
        places = learn_places(self._samples, refuted)
        generals: dict[tuple[int, str], Place] = {}
        cookies: dict[str, Place] = {}
        for (step, where), place in places.items():
            anywhere = general(where)
            key = (step, anywhere)
            generals[key] = place if key not in generals else generals[key].merged(place)
            if where.startswith("cookie "):
                known = cookies.get(anywhere)
                cookies[anywhere] = place if known is None else known.merged(place)
        return Noise(
            places,
            generals,
            frozenset(self._seen),
            frozenset(self._wild),
            frozenset(self._unordered),
            frozenset(self._keyed),
            self._loose(places),
            frozenset((self._routes[step], where) for step, where in self._wild),
            cookies,
        )

    def _loose(self, places: dict[tuple[int, str], Place]) -> dict[tuple[str, str], Place]:
        loose: dict[tuple[str, str], Place] = {}
        for (step, where), place in places.items():
            if place.is_loose:
                key = (self._routes[step], general(where))
                free = place.loosened
                loose[key] = free if key not in loose else loose[key].merged(free)
        return loose

    def wants_equal_bodies(self) -> bool:
        return False

    def leaf(self, where: str, expected: str, got: str) -> None:
        self._seen.add((self._index, where))
        if expected != got:
            self._samples.append(Sample(self._index, self._route, where, expected, got, self._run))

    def differs(self, where: str, kind: str, expected: str, got: str) -> None:
        structural = where in ("status", "body") or where.startswith("body $")
        if structural and kind != "bytes":
            raise ResetIncomplete(Difference(self._index, where, short(expected), short(got), kind))
        self._wild.add((self._index, where))
        if where.startswith("body ") and not where.startswith("body $"):
            self._wild.add((self._index, "body"))  # text of another shape: no line can be trusted

    def items(self, where: str, expected: list[Any], got: list[Any]) -> None:
        if len(expected) != len(got):
            self.differs(where, "length", *lengths(expected, got))
        ours = [canonical(item) for item in expected]
        theirs = [canonical(item) for item in got]
        if ours != theirs and sorted(ours) == sorted(theirs):
            self._unordered.add((self._route, general(where)))
            left = list(range(len(got)))
            for item, form in zip(expected, ours, strict=True):
                match = next(at for at in left if theirs[at] == form)
                left.remove(match)
                walk_json(f"{where}[*]", item, got[match], self)
            return
        for at, (one, two) in enumerate(zip(expected, got, strict=True)):
            walk_json(f"{where}[{at}]", one, two, self)

    def members(self, where: str, expected: dict[str, Any], got: dict[str, Any]) -> None:
        named = (*expected, *got)
        if len(expected) != len(got) or not all(map(_is_key, named)):
            one = next(iter({**expected, **got}))
            ours, theirs = (show(d[one]) if one in d else "absent" for d in (expected, got))
            self.differs(below(where, one), "missing" if one in expected else "extra", ours, theirs)
        self._keyed.add((self._route, general(where)))
        for (key, one), (other, two) in zip(expected.items(), got.items(), strict=True):
            self.leaf(f"{where}.* key", key, other)
            walk_json(f"{where}.*", one, two, self)


def _is_key(name: str) -> bool:
    """Whether an object's member may be named by a generated value."""
    return name.isdigit() or is_strong(name) or any(atom.family for atom in atoms(name))
