"""What a walk tells about each key: what it met stood there, and what it did not meet was absent once."""

from __future__ import annotations

import pytest
from tests.histories.checker import Verdict, check
from tests.histories.history import UNKNOWN, History, Operation
from tests.histories.values import MapModel
from tests.histories.verification import verify
from tests.histories.walks import without_walks

from anypod.commands import Command, Get, Page, Put, Scan, Stored, Versioned

pytestmark = pytest.mark.quick

MAP = "ap::map:m:"
SECOND = 1_000_000
START = 1_000 * SECOND


def op(command: Command[object], reply: object, called: int, returned: int | None) -> Operation:
    end = None if returned is None else START + returned * SECOND
    return Operation("w", command, reply, START + called * SECOND, end)


def put(key: str, called: int) -> Operation:
    written = Versioned(key.encode(), START + called * SECOND + 10)
    return op(Put(MAP + key, key.encode()), Stored(True, written), called, called + 1)


def page(after: str, keys: str, more: str | None, called: int) -> Operation:
    items = tuple((MAP + key, Versioned(key.encode(), START + 10)) for key in keys)
    return op(Scan(MAP, after), Page(items, more), called, called + 1)


def reads(operations: list[Operation]) -> dict[str, object]:
    return {
        each.command.key.removeprefix(MAP): each.reply
        for each in without_walks(operations)
        if isinstance(each.command, Get)
    }


def test_a_whole_walk_says_what_was_absent() -> None:
    told = reads([put("a", 0), put("b", 0), page("", "a", "x", 2), page("x", "", None, 4)])
    assert told["a"] == Versioned(b"a", START + 10)
    assert told["b"] is None


def test_a_walk_that_was_given_up_says_only_what_it_met() -> None:
    given_up = op(Scan(MAP, "x"), UNKNOWN, 4, None)
    for rest in ([given_up], []):
        told = reads([put("a", 0), put("b", 0), page("", "a", "x", 2), *rest])
        assert list(told) == ["a"]


def test_a_walk_without_its_beginning_says_only_what_it_met() -> None:
    told = reads([put("a", 0), put("b", 0), page("x", "a", None, 2)])
    assert list(told) == ["a"]


def test_another_map_is_not_concerned() -> None:
    other = Put("ap::map:other:b", b"b")
    told = reads([put("a", 0), op(other, UNKNOWN, 0, None), page("", "a", None, 2)])
    assert list(told) == ["a"]


def test_a_value_that_is_skipped_although_it_stood_is_a_violation() -> None:
    skipped = [put("a", 0), put("b", 0), page("", "a", None, 2)]
    assert verify(History(tuple(skipped))).violations
    late = [put("a", 0), put("b", 2), page("", "a", None, 2)]  # at the same time as the walk
    assert not verify(History(tuple(late))).violations


def test_a_value_that_never_stood_is_a_violation() -> None:
    operations = without_walks([put("a", 0), page("", "z", None, 2)])
    of_z = [each for each in operations if each.command.key == MAP + "z"]
    assert check(MapModel(), of_z).verdict is Verdict.VIOLATED
