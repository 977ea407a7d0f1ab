"""What two runs of one replica say about each place at which they differ.

A differing atom becomes a slot. Long random values share one domain: they cannot meet by chance. Short
ones (serial numbers, short codes) are compared within domains that the runs themselves suggest: places
where the same value became the same other value. A domain counts as one-to-one only on evidence (a
value that comes back, or numbers that moved together); without it, and wherever the runs contradict
it, the slot is free: a measured duration is not an id.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import takewhile
from typing import Any

from anypod.prove.renaming import GLOBAL, Atom, Numeral, atoms, is_strong, show

CLOCK = "clock"  # the domain of moments

CODE = 4  # characters that a short code has at least
DICE = 4  # times that a small number must come back, always alike, to be taken for an id

_MEASURE = re.compile(
    r"(?:^|[._ -])(?:uptime|elapsed|duration|took|latency|runtime|ttl|expires_in|retry_after"
    r"|response_time|process_time|\w+_(?:ms|millis|seconds|secs|ns|us))$",
    re.IGNORECASE,
)
_ENCODED = re.compile(
    r"(?:[\w+=-]|/(?=.*[+=]))[\w+/=-]{15,}", re.ASCII
)  # base64: its punctuation is random
_INDEX = re.compile(r"\[\d+\]")
_WHOLE = -1  # the position of a slot that is not one atom


def general(where: str) -> str:
    """A place without the positions in its lists."""
    return _INDEX.sub("[*]", where)


def is_measure(where: str) -> bool:
    """Whether a place is named like something measured, which is never twice the same."""
    return _MEASURE.search(where) is not None


def canonical(value: Any) -> str:
    """JSON with what may be generated blotted out, to recognise an item in another order."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{canonical(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        plain = "".join("*" if a.family or is_strong(a.text) else a.text for a in atoms(value))
        return plain if isinstance(value, Numeral) else repr(plain)
    return show(value)


@dataclass(frozen=True, slots=True)
class Sample:
    """One place at which two runs of one replica differ."""

    step: int
    route: str
    where: str
    first: str
    second: str
    run: int = 0  # which of several second runs


@dataclass(frozen=True, slots=True)
class Slot:
    """A generated part of a place.

    Attributes:
        scope: the kind of place, shared by steps of one route and by items of one list.
        domain: within which values are one-to-one; `CLOCK` for moments, None when anything goes.
    """

    scope: str
    domain: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """What is generated at one place of one step's answer.

    Attributes:
        slots: by position of the atom; empty when the atoms do not line up from run to run.
        whole: the slot for what lies between `prefix` and `suffix`, when they do not.
        prefix: how the text always begins.
        suffix: how it always ends.
    """

    slots: Mapping[int, Slot]
    whole: Slot | None = None
    prefix: str = ""
    suffix: str = ""

    @property
    def is_free(self) -> bool:
        """Whether nothing at this place is compared but its presence."""
        if self.whole is not None:
            return self.whole.domain is None and not self.prefix and not self.suffix
        return not self.slots

    @property
    def is_loose(self) -> bool:
        """Whether some of what stands here is not compared."""
        every = [*self.slots.values(), *([self.whole] if self.whole is not None else [])]
        return any(slot.domain is None for slot in every)

    @property
    def loosened(self) -> Place:
        """Only the part that is not compared."""
        free = {at: slot for at, slot in self.slots.items() if slot.domain is None}
        return Place(free, self.whole, self.prefix, self.suffix)

    def merged(self, other: Place) -> Place:
        """What is generated at either of two places."""
        if self.whole is None and other.whole is None:
            return Place({**other.slots, **self.slots})
        if self == other:
            return self
        whole = self.whole or other.whole
        return Place({}, whole)


@dataclass(frozen=True, slots=True)
class _Occurrence:
    sample: Sample
    position: int
    first: str
    second: str
    clock: bool
    prefix: str = ""
    suffix: str = ""

    @property
    def scope(self) -> str:
        return f"{self.sample.route} {general(self.sample.where)} @{self.position}"


_Pair = tuple[int, str, str]  # a second run, and what a value of the first became in it


def learn_places(
    samples: Sequence[Sample], refuted: Collection[str]
) -> dict[tuple[int, str], Place]:
    """The generated places.

    Args:
        samples: every place at which two runs differ.
        refuted: scopes that turned out not to be one-to-one.
    """
    occurrences = [found for sample in samples for found in _occurrences(sample)]
    domains = _domains(occurrences, refuted)
    grouped: defaultdict[tuple[int, str], list[_Occurrence]] = defaultdict(list)
    for found in occurrences:
        grouped[found.sample.step, found.sample.where].append(found)
    return {key: _place(group, domains) for key, group in grouped.items()}


def _place(group: Sequence[_Occurrence], domains: Mapping[str, str | None]) -> Place:
    slots = {o.position: Slot(o.scope, domains[o.scope]) for o in group if o.position != _WHOLE}
    wholes = [found for found in group if found.position == _WHOLE]
    if not wholes:
        return Place(slots)
    first = wholes[0]
    same = len(wholes) == len(group) == 1
    whole = Slot(first.scope, domains[first.scope])
    return Place({}, whole, first.prefix if same else "", first.suffix if same else "")


def _occurrences(sample: Sample) -> Iterable[_Occurrence]:
    ours, theirs = atoms(sample.first), atoms(sample.second)
    encoded = _ENCODED.fullmatch(sample.first) and _ENCODED.fullmatch(sample.second)
    if encoded and max(len(ours), len(theirs)) > 1:
        yield _Occurrence(sample, _WHOLE, sample.first, sample.second, clock=False)
        return
    if len(ours) == len(theirs) and _line_up(ours, theirs):
        for position, (one, two) in enumerate(zip(ours, theirs, strict=True)):
            if one.text != two.text:
                clock = bool(one.family) and one.family == two.family
                yield _Occurrence(sample, position, one.text, two.text, clock)
        return
    prefix = _common(ours, theirs)
    shorter = min(len(ours), len(theirs)) - prefix
    suffix = min(_common(ours[::-1], theirs[::-1]), shorter)
    yield _Occurrence(
        sample,
        _WHOLE,
        _text(ours[prefix : len(ours) - suffix]),
        _text(theirs[prefix : len(theirs) - suffix]),
        clock=False,
        prefix=_text(ours[:prefix]),
        suffix=_text(ours[len(ours) - suffix :]),
    )


def _line_up(ours: Sequence[Atom], theirs: Sequence[Atom]) -> bool:
    """Whether the atoms that differ are words, so that the same number of them is no accident."""
    return all(
        one.text == two.text or (_is_word(one) and _is_word(two))
        for one, two in zip(ours, theirs, strict=True)
    )


def _is_word(atom: Atom) -> bool:
    return bool(atom.family) or atom.text[:1].isalnum() or len(atom.text) > 1


def _common(ours: Sequence[Atom], theirs: Sequence[Atom]) -> int:
    pairs = zip(ours, theirs, strict=False)
    return len(list(takewhile(lambda pair: pair[0].text == pair[1].text, pairs)))


def _text(pieces: Iterable[Atom]) -> str:
    return "".join(piece.text for piece in pieces)


def _domains(occurrences: Sequence[_Occurrence], refuted: Collection[str]) -> dict[str, str | None]:
    scopes: defaultdict[str, list[_Occurrence]] = defaultdict(list)
    for found in occurrences:
        scopes[found.scope].append(found)
    domains: dict[str, str | None] = {}
    weak: dict[str, list[_Occurrence]] = {}
    for scope, group in scopes.items():
        if scope in refuted or is_measure(group[0].sample.where):
            domains[scope] = None
        elif all(found.clock for found in group):
            domains[scope] = CLOCK
        elif any(" " in found.first and " " in found.second for found in group):
            domains[scope] = None  # prose
        elif all(is_strong(found.first) and is_strong(found.second) for found in group):
            domains[scope] = GLOBAL
        else:
            weak[scope] = group
    return domains | _weak_domains(weak)


def _weak_domains(weak: Mapping[str, list[_Occurrence]]) -> dict[str, str | None]:
    """Scopes that agree on how values moved form a domain; one without evidence is free."""
    domains: dict[str, str | None] = {}
    families: list[tuple[list[str], list[_Pair]]] = []
    for scope, group in weak.items():
        pairs = [(found.sample.run, found.first, found.second) for found in group]
        if not _is_one_to_one(pairs):
            domains[scope] = None
            continue
        for members, known in families:
            if {*pairs} & {*known} and _is_one_to_one(known + pairs):
                members.append(scope)
                known.extend(pairs)
                break
        else:
            families.append(([scope], pairs))
    for members, pairs in families:
        domain = members[0] if _is_evident(pairs, len(members)) else None
        domains.update(dict.fromkeys(members, domain))
    return domains


def _is_one_to_one(pairs: Iterable[_Pair]) -> bool:
    """Whether in each run a value became one other value, and no two became the same."""
    different = set(pairs)
    became = {(run, first) for run, first, _ in different}
    come_from = {(run, second) for run, _, second in different}
    return len(became) == len(come_from) == len(different)


def _is_evident(pairs: Sequence[_Pair], places: int) -> bool:
    """Whether a value came back, or several numbers moved by the same amount.

    A small number that comes back at one kind of place is no evidence: dice do that.
    """
    different = set(pairs)
    came_back = len(pairs) - len(different)
    coded = all(len(first) >= CODE and not first.isdigit() for _, first, _ in different)
    if came_back >= (1 if places > 1 or coded else DICE):
        return True
    try:
        moved = {(run, Decimal(second) - Decimal(first)) for run, first, second in different}
    except InvalidOperation:
        return False
    return len(moved) < len(different) and len(moved) == len({run for run, _ in moved})
