"""Which of the differences that are seen are looked into, in which order, and when enough is known.

A route is looked into once for each kind of schedule, one suspect at a time: the next one is looked at
when the last is explained, and mostly goes with it. What is explained may hide another difference of
the same route, with another state behind it. So the same suspect is looked at again without the requests
that have explained it, until nothing differs any more; and later suspects of the route that differ
elsewhere in the answer, or on another address, are looked at in the same way, as long as there are few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from anypod.prove.compare_learn import general
from anypod.prove.events import Divergence, Stale
from anypod.prove.explain import Again, Explanation, Suspect
from anypod.prove.schedules import Kind
from anypod.prove.workload import Workload, route

ATTEMPTS = 3  # to explain one route under one kind of schedule
BEYOND = 4  # further looks at a route that is explained, under one kind of schedule

Key = tuple[Kind, str]


@dataclass(slots=True)
class Inquiry:
    """What is looked into.

    Attributes:
        workload: whose routes these are.
        look: has a suspect explained.
        writers: by route, the steps that have explained it, and the like of them.
        beyond: by kind and route, how often it was looked at again.
    """

    workload: Workload
    look: Callable[[Suspect], None]
    writers: dict[str, frozenset[int]] = field(default_factory=dict)
    beyond: Counter[Key] = field(default_factory=Counter)
    _attempts: Counter[Key] = field(default_factory=Counter)
    _explained: set[Key] = field(default_factory=set)
    _accepted: set[tuple[Kind, str, str]] = field(default_factory=set)
    _explaining: set[str] = field(default_factory=set)
    _postponed: dict[str, list[Suspect]] = field(default_factory=dict)
    _places: dict[str, set[str]] = field(default_factory=dict)
    _looked: set[tuple[Key, str, str]] = field(default_factory=set)

    def key(self, suspect: Suspect) -> Key:
        """The kind of schedule and the route."""
        return suspect.schedule.kind, self._route(suspect)

    def add(self, suspect: Suspect) -> None:
        """Look into a suspect, unless its like is explained or being looked into."""
        key = self.key(suspect)
        if (*key, suspect.difference.where) in self._accepted:
            return
        if self._is_told(suspect):
            self._add_beyond(suspect)
            return
        if self._attempts[key] >= ATTEMPTS:
            return
        if key[1] in self._explaining:
            waiting = self._postponed.setdefault(key[1], [])
            if sum(self.key(other) == key for other in waiting) < ATTEMPTS:
                waiting.append(suspect)
            return
        self._attempts[key] += 1
        self._begin(suspect)

    def _is_told(self, suspect: Suspect) -> bool:
        """Whether it is known why the route differs so; what shows elsewhere needs no deploy and no luck."""
        kind, name = key = self.key(suspect)
        return key in self._explained or (
            kind in {Kind.DEPLOY, Kind.RANDOM} and name in self._places
        )

    def _add_beyond(self, suspect: Suspect) -> None:
        """Look for what else it is, once for each place in the answer, or for each address."""
        key = self.key(suspect)
        place = general(suspect.difference.where)
        if key[0] in {Kind.DEPLOY, Kind.RANDOM} and place in self._places[key[1]]:
            return
        target = self.workload.steps[suspect.step].target
        if (key, place, target) in self._looked or not self.writers.get(key[1]):
            return
        if key[1] in self._explaining:
            waiting = self._postponed.setdefault(key[1], [])
            if len(waiting) < BEYOND * ATTEMPTS:
                waiting.append(suspect)
            return
        self._look_beyond(suspect)

    def _look_beyond(self, suspect: Suspect) -> bool:
        key = self.key(suspect)
        if self.beyond[key] >= BEYOND:
            return False
        without = self.writers.get(key[1], frozenset())
        if not without - suspect.without:
            return False
        self.beyond[key] += 1
        place = general(suspect.difference.where)
        self._looked.add((key, place, self.workload.steps[suspect.step].target))
        self._begin(replace(suspect, without=without))
        return True

    def _begin(self, suspect: Suspect) -> None:
        self._explaining.add(self._route(suspect))
        self.look(suspect)

    def answered(self, suspect: Suspect, explanation: Explanation | Again | None) -> None:
        """What came of a suspect; the next ones are looked into.

        Args:
            suspect: that was looked into.
            explanation: what was found, if anything.
        """
        key = self.key(suspect)
        self._explaining.discard(key[1])
        if isinstance(explanation, Explanation):
            known = self.writers.get(key[1], frozenset())
            self.writers[key[1]] = known | explanation.writers
            place = general(explanation.finding.where)
            if isinstance(explanation.finding, Divergence):
                self._places.setdefault(key[1], set()).add(place)
            if isinstance(explanation.finding, Stale):
                # Only this place may be old; another difference of the route is another matter.
                self._accepted.add((*key, suspect.difference.where))
        if explanation is not None:
            if not (
                isinstance(explanation, Explanation) and isinstance(explanation.finding, Stale)
            ):
                self._explained.add(key)
            if self._look_beyond(suspect):
                return
        for other in self._postponed.pop(key[1], []):
            self.add(other)

    def unlooked(self) -> Sequence[str]:
        """Routes of which no more causes were looked for, because there were so many."""
        return sorted({name for (_, name), times in self.beyond.items() if times >= BEYOND})

    def _route(self, suspect: Suspect) -> str:
        return route(self.workload.steps[suspect.step])
