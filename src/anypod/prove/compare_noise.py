"""What is known about the answers of one replica, and how a difference from them is told.

`Known` is data: which places are generated, which mean nothing, which lists have no order. It is
learned in `compare` and consulted in `compare_judge`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from anypod.errors import AnypodError
from anypod.prove.compare_learn import Place, general
from anypod.prove.model import NoResponse, Response
from anypod.prove.renaming import show

_OF_A_FILE = re.compile(r"(?:header |text of <(?:\w+:)?(?:get)?)(?:etag|last-?modified)>?")
_SHOWN = 400  # characters of a value that a difference repeats


@dataclass(frozen=True, slots=True)
class Difference:
    """One place at which a run differs from one replica.

    Attributes:
        step_index: of the step whose answer differs.
        where: `status`, `header x`, `cookie x`, `body $.value`, `body line 3`, `no response`.
        expected: what one replica answers here, in the values of this run where they are known.
        got: what was answered.
        kind: `status`, `value`, `renamed` (a generated value that is not the one it should be),
            `missing`, `extra`, `length`, `order`, `type`, `text`, `bytes`, `no response`.
    """

    step_index: int
    where: str
    expected: str
    got: str
    kind: str


class ResetIncomplete(AnypodError):
    """Two runs of one replica differ in structure: something outlives a run.

    Attributes:
        step: index of the first step that differs.
        difference: how.
    """

    def __init__(self, difference: Difference) -> None:
        self.step, self.difference = difference.step_index, difference
        super().__init__(
            f"step {difference.step_index}: {difference.where}: first {difference.expected},"
            f" then {difference.got}"
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What differs between runs of one replica, by step and place.

    Attributes:
        places: what is generated where.
        generals: the same without positions in lists, for items that were not there when learning.
        seen: every place that was compared when learning.
        wild: places that mean nothing.
        loose: by route and place, what is neither constant nor one-to-one: a random choice may
            well come out alike twice in one step, and says so in another step of its route.
        wild_routes: by route and place, what may be there or not.
        cookies: by place, what is generated in a cookie on any route: a request that is asked alone
            may be the first to set one.
        unordered: by route and place, lists that come in any order.
        keyed: by route and place, objects whose members are named by generated values.
    """

    places: dict[tuple[int, str], Place] = field(default_factory=dict)
    generals: dict[tuple[int, str], Place] = field(default_factory=dict)
    seen: frozenset[tuple[int, str]] = frozenset()
    wild: frozenset[tuple[int, str]] = frozenset()
    unordered: frozenset[tuple[str, str]] = frozenset()
    keyed: frozenset[tuple[str, str]] = frozenset()
    loose: dict[tuple[str, str], Place] = field(default_factory=dict)
    wild_routes: frozenset[tuple[str, str]] = frozenset()
    cookies: dict[str, Place] = field(default_factory=dict)

    def not_compared(self) -> tuple[tuple[int, str], ...]:
        """Places that no comparison looks at, as step and place, for an honest report."""
        free = {key for key, place in self.places.items() if place.is_loose}
        return tuple(sorted(self.wild | free))

    def place(self, step: int, route: str, where: str) -> Place | None:
        """What is generated at a place, if anything."""
        known = self.places.get((step, where))
        if known is None and (step, where) not in self.seen:
            known = self.generals.get((step, general(where))) or self.cookies.get(general(where))
        return self.loose.get((route, general(where))) if known is None else known

    def is_wild(self, step: int, route: str, where: str) -> bool:
        """Whether a place means nothing at all."""
        return (step, where) in self.wild or (route, where) in self.wild_routes

    def is_unordered(self, route: str, where: str) -> bool:
        """Whether a list comes in any order."""
        return (route, general(where)) in self.unordered

    def is_keyed(self, route: str, where: str) -> bool:
        """Whether an object's members are named by generated values."""
        return (route, general(where)) in self.keyed


def is_of_a_file(where: str) -> bool:
    """Whether a place tells of a file's path, number or age, as web servers make ETags of them."""
    return _OF_A_FILE.fullmatch(where.removeprefix("body ")) is not None


def short(text: str) -> str:
    """A value as a difference repeats it."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def outcome(response: Response | NoResponse) -> str:
    """An answer in a word, for one that is set against none."""
    return str(response.status) if isinstance(response, Response) else response.reason


def lengths(expected: list[Any], got: list[Any]) -> tuple[str, str]:
    """Two lists of different length, for people."""
    ours, theirs = (f"{len(i)} item{'' if len(i) == 1 else 's'}" for i in (expected, got))
    return f"{ours}: {show(expected)}", f"{theirs}: {show(got)}"
