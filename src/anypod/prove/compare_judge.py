"""Judges one run against what one replica answers: walks both, renames, and notes every difference.

Values that are generated are bound as they are met, in the order of the trace; the first contradiction
is a difference and binds nothing. `conflicting` tells the learner which claims the runs of one replica
themselves contradict.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from anypod.prove.compare_learn import CLOCK, Place, Slot, canonical
from anypod.prove.compare_noise import Difference, Known, lengths, outcome, short
from anypod.prove.compare_walk import Visitor, below, walk, walk_json
from anypod.prove.model import Exchange, Response
from anypod.prove.renaming import (
    SPREAD,
    Atom,
    Bijection,
    Conflict,
    Numeral,
    atoms,
    is_near,
    is_uuid,
    show,
)

MAX_PER_STEP = 50  # differences of one answer that are kept
MAX_UNORDERED = 200  # items of an unordered list that are matched; a longer one is matched in order


_COUNTDOWNS = frozenset({"header cache-control", "header age", "header retry-after"})
_SECONDS = re.compile(r"\b\d+\b")
_TICKS = 3  # seconds between two runs' clocks that mean nothing


def _count_down(expected: str, got: str) -> bool:
    """Whether two headers tell the same but for seconds, as a cache counts them down."""
    if _SECONDS.sub("", expected) != _SECONDS.sub("", got):
        return False
    pairs = zip(_SECONDS.findall(expected), _SECONDS.findall(got), strict=True)
    return all(abs(int(one) - int(two)) <= _TICKS for one, two in pairs)


def _at(response: Response) -> float | None:
    """When the answer was made, as it says itself."""
    date = response.header("date")
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


class Judgement(Visitor):
    """One run being compared with what one replica answers."""

    def __init__(self, noise: Known) -> None:
        self.differences: list[Difference] = []
        self.conflicting: set[str] = set()
        self._noise = noise
        self._bijection = Bijection()
        self._index = 0
        self._route = ""
        self._expected_at: float | None = None
        self._got_at: float | None = None
        self._now = time.time()
        self._found = 0
        self._found_before = 0
        self._generated = {step for step, where in noise.places if where.startswith("body")}

    def step(self, one: Exchange, two: Exchange) -> None:
        """Judge the next step; the steps come in the order of the trace."""
        self._index = one.step.index
        self._route = one.step.route or one.step.label
        self._found_before = self._found
        if isinstance(one.response, Response) and isinstance(two.response, Response):
            self._expected_at, self._got_at = _at(one.response), _at(two.response)
            walk(one.response, two.response, self)
        elif isinstance(one.response, Response) or isinstance(two.response, Response):
            self.differs("no response", "no response", outcome(one.response), outcome(two.response))

    def differs(self, where: str, kind: str, expected: str, got: str) -> None:
        """Note a difference of shape, unless the place means nothing."""
        if self._is_wild(where):
            return
        self._found += 1
        if self._found - self._found_before < MAX_PER_STEP:
            self.differences.append(
                Difference(self._index, where, short(expected), short(got), kind)
            )

    def wants_equal_bodies(self) -> bool:
        """Whether something in this step's body is generated, so that equal values say something."""
        return self._index in self._generated

    # Lists and objects.

    def items(self, where: str, expected: list[Any], got: list[Any]) -> None:
        """Judge two lists: in order, unless they have none."""
        if len(expected) != len(got):
            self.differs(where, "length", *lengths(expected, got))
        elif self._noise.is_unordered(self._route, where):
            self._unordered(where, expected, got)
        elif self._is_permuted(expected, got):
            self.differs(where, "order", show(expected), show(got))
        else:
            for at, (one, two) in enumerate(zip(expected, got, strict=True)):
                walk_json(f"{where}[{at}]", one, two, self)

    def _is_permuted(self, expected: list[Any], got: list[Any]) -> bool:
        if expected == got:
            return False
        ours, theirs = ([canonical(item) for item in items] for items in (expected, got))
        return ours != theirs and sorted(ours) == sorted(theirs)

    def _unordered(self, where: str, expected: list[Any], got: list[Any]) -> None:
        below_it = f"{where}[*]"
        if len(expected) > MAX_UNORDERED:
            pairs = zip(sorted(expected, key=canonical), sorted(got, key=canonical), strict=True)
            for one, two in pairs:
                walk_json(below_it, one, two, self)
            return
        left = list(got)
        unmatched = []
        for item in expected:
            match = next(
                (at for at, two in enumerate(left) if self._fits([(below_it, item, two)])), None
            )
            if match is None:
                unmatched.append(item)
            else:
                del left[match]
        for one, two in zip(unmatched, left, strict=True):
            walk_json(below_it, one, two, self)

    def _fits(self, pairs: Iterable[tuple[str, Any, Any]]) -> bool:
        """Whether values correspond; if they do, what follows from it is noted."""
        mark, before, found = self._bijection.mark(), len(self.differences), self._found
        conflicting = set(self.conflicting)
        for where, one, two in pairs:
            walk_json(where, one, two, self)
        if self._found == found:
            return True
        self._found = found
        del self.differences[before:]
        self.conflicting = conflicting
        self._bijection.rollback(mark)
        return False

    def members(self, where: str, expected: dict[str, Any], got: dict[str, Any]) -> None:
        """Judge what only one of two objects has: noise only where names are generated."""
        if not self._noise.is_keyed(self._route, where) or len(expected) != len(got):
            for member, value in expected.items():
                self.differs(below(where, member), "missing", show(value), "absent")
            for member, value in got.items():
                self.differs(below(where, member), "extra", "absent", show(value))
            return
        key, item = f"{where}.* key", f"{where}.*"
        left = dict(got)
        for member, value in expected.items():
            pairs = ([(key, member, name), (item, value, left[name])] for name in left)
            match = next((pair[0][2] for pair in pairs if self._fits(pair)), None)
            if match is None:
                self.differs(below(where, member), "missing", show(value), f"only {show(left)}")
                return
            del left[match]

    # Values.

    def leaf(self, where: str, expected: str, got: str) -> None:
        """Judge two values."""
        if self._is_wild(where) or (where in _COUNTDOWNS and _count_down(expected, got)):
            return
        place = self._noise.place(self._index, self._route, where)
        if place is None and expected == got:
            return
        if place is not None and place.is_free and bool(expected) == bool(got):
            return
        ours, theirs = atoms(expected), atoms(got)
        if place is not None and (place.whole is not None or len(ours) != len(theirs)):
            self._whole(where, place, ours, expected, got)
        elif len(ours) != len(theirs):
            self._value(where, expected, got)
        else:
            self._atoms(where, {} if place is None else place.slots, expected, got)

    def _atoms(self, where: str, slots: Mapping[int, Slot], expected: str, got: str) -> None:
        ours, theirs = atoms(expected), atoms(got)
        for at, (one, two) in enumerate(zip(ours, theirs, strict=True)):
            slot = slots.get(at)
            if slot is not None and slot.domain is None:
                continue
            if one.family and one.family == two.family and (slot is not None or self._near(one)):
                agree, conflict = self._moments(one, two)
            elif slot is not None and slot.domain == CLOCK:
                agree, conflict = one.family == two.family, None
            elif slot is not None:
                agree = is_uuid(one.text) == is_uuid(two.text)
                conflict = self._bijection.bind(slot.domain or "", one.text, two.text)
            else:
                agree, conflict = one.text == two.text, None
            if conflict is not None:
                there = conflict.earlier
                if there is not None:
                    there = _text(theirs[:at]) + there + _text(theirs[at + 1 :])
                self._renamed(where, slot, there, got)
                return
            if not agree:
                self._value(where, _like(expected, self._translated(ours, slots)), got)
                return

    def _near(self, atom: Atom) -> bool:
        return is_near(atom, self._expected_at or self._now)

    def _moments(self, one: Atom, two: Atom) -> tuple[bool, Conflict | None]:
        """Whether two moments lie alike in their runs, and how they contradict earlier ones."""
        dated = one.family not in ("hour", "ago", "took")
        if dated and self._expected_at is not None and self._got_at is not None:
            apart = (two.moment - self._got_at) - (one.moment - self._expected_at)
            if abs(apart) > SPREAD + 2 * max(one.resolution, two.resolution):
                return False, None
        return True, self._bijection.bind_moments(one, two)

    def _whole(self, where: str, place: Place, ours: list[Atom], expected: str, got: str) -> None:
        """A place whose atoms do not line up: what lies between its ends is one value."""
        if place.whole is not None:
            slot, prefix, suffix = place.whole, place.prefix, place.suffix
        elif place.slots:
            first, last = min(place.slots), max(place.slots)
            slot = place.slots[first]
            prefix, suffix = _text(ours[:first]), _text(ours[last + 1 :])
        else:
            self._value(where, expected, got)
            return
        ends = len(prefix) + len(suffix)
        if not all(
            text.startswith(prefix) and text.endswith(suffix) and len(text) > ends
            for text in (expected, got)
        ):
            self._value(where, expected, got)
        elif slot.domain not in (None, CLOCK):
            one, two = (text[len(prefix) : len(text) - len(suffix)] for text in (expected, got))
            conflict = self._bijection.bind(slot.domain or "", one, two)
            if conflict is not None:
                there = None if conflict.earlier is None else prefix + conflict.earlier + suffix
                self._renamed(where, slot, there, got)

    # What is said.

    def _is_wild(self, where: str) -> bool:
        if self._noise.is_wild(self._index, self._route, where):
            return True
        text = where.startswith("body ") and not where.startswith("body $")
        return text and self._noise.is_wild(self._index, self._route, "body")

    def _value(self, where: str, expected: str, got: str) -> None:
        self.differs(where, "value", _told(where, expected), _told(where, got))

    def _renamed(
        self,
        where: str,
        slot: Slot | None,
        expected: str | None,
        got: str,
    ) -> None:
        if slot is not None:
            self.conflicting.add(slot.scope)
        if expected is None:
            said = "a value that was not there before"
        else:
            said = f"{_told(where, _like(got, expected))}, as answered before"
        self.differs(where, "renamed", said, _told(where, got))

    def _translated(self, ours: list[Atom], slots: Mapping[int, Slot]) -> str:
        """An expected text in the values of this run, where they are known."""
        pieces = []
        for at, atom in enumerate(ours):
            slot = slots.get(at)
            image = None
            if slot is not None and slot.domain is not None:
                image = self._bijection.image(slot.domain, atom.text)
            pieces.append(atom.text if image is None else image)
        return "".join(pieces)


def _text(pieces: Iterable[Atom]) -> str:
    return "".join(piece.text for piece in pieces)


def _like(typed: str, text: str) -> str:
    """Text of the same type: a number stays a number."""
    return Numeral(text) if isinstance(typed, Numeral) else text


def _told(where: str, text: str) -> str:
    """A value for people: JSON strings keep their quotes, so that "1" is not 1."""
    in_json = where.startswith("body $") or " → $" in where
    if in_json and not isinstance(text, Numeral):
        return show(text)
    return str(text) or "nothing"
