"""The checker itself, on histories small enough to judge by eye."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from tests.histories.checker import Verdict, check
from tests.histories.history import (
    UNKNOWN,
    Clock,
    Holding,
    Notebook,
    Operation,
    read_history,
)
from tests.histories.values import CounterModel, MapModel
from tests.histories.verification import overlaps, verify

from anypod.commands import Add, Added, AddOutcome, Command, Get, Put, Stored, Total, Versioned

pytestmark = pytest.mark.quick

KEY = "ap::counter:c:s"
START = 1_000_000_000


def added(value: int) -> Added:
    return Added(value, AddOutcome.ADDED)


def op(command: Command[Any], reply: Any, called: int, returned: int | None = None) -> Operation:
    """Times in units that are far larger than the slack of the clocks."""
    unit = 1_000_000
    end = None if returned is None else START + returned * unit
    return Operation("t", command, reply, START + called * unit, end)


def verdict(*operations: Operation) -> Verdict:
    return check(CounterModel(), operations).verdict


def test_one_after_the_other() -> None:
    first, second = op(Add(KEY), added(1), 0, 1), op(Add(KEY), added(2), 2, 3)
    assert verdict(first, second, op(Total(KEY), 2, 4, 5)) is Verdict.LINEARIZABLE
    assert verdict(first, second, op(Total(KEY), 1, 4, 5)) is Verdict.VIOLATED


def test_at_once_in_either_order() -> None:
    assert verdict(op(Add(KEY), added(2), 0, 5), op(Add(KEY), added(1), 1, 4)) is (
        Verdict.LINEARIZABLE
    )


def test_not_before_it_was_called() -> None:
    assert verdict(op(Add(KEY), added(2), 0, 1), op(Add(KEY), added(1), 2, 3)) is Verdict.VIOLATED


def test_the_same_value_twice() -> None:
    assert verdict(op(Add(KEY), added(1), 0, 5), op(Add(KEY), added(1), 1, 4)) is Verdict.VIOLATED


def test_what_is_unknown_may_have_happened_or_not_or_happen_late() -> None:
    lost = op(Add(KEY), UNKNOWN, 0)
    for total in (0, 1):
        assert verdict(lost, op(Total(KEY), total, 1, 2)) is Verdict.LINEARIZABLE
    late = [
        op(Total(KEY), total, 10 + 2 * place, 11 + 2 * place)
        for place, total in enumerate((0, 0, 1))
    ]
    assert verdict(lost, *late) is Verdict.LINEARIZABLE


def test_what_is_unknown_happens_once_and_not_before_its_call() -> None:
    lost = op(Add(KEY), UNKNOWN, 5)
    assert verdict(op(Total(KEY), 1, 0, 1), lost) is Verdict.VIOLATED
    assert verdict(lost, op(Total(KEY), 2, 6, 7)) is Verdict.VIOLATED
    there_and_gone = op(Total(KEY), 1, 6, 7), op(Total(KEY), 0, 8, 9)
    assert verdict(lost, *there_and_gone) is Verdict.VIOLATED


def test_a_lost_compare_and_swap_leaves_a_version_that_nobody_knows() -> None:
    version, later = START + 5_000_000, START + 8_500_000
    lost = op(Put(KEY, b"lost"), UNKNOWN, 4)
    seen = op(Get(KEY), Versioned(b"lost", version), 6, 7)
    over = op(Put(KEY, b"x", expect=version), Stored(True, Versioned(b"x", later)), 8, 9)
    assert check(MapModel(), [lost, seen, over]).verdict is Verdict.LINEARIZABLE
    other = op(Get(KEY), Versioned(b"lost", version + 7), 8, 9)
    assert check(MapModel(), [lost, seen, other]).verdict is Verdict.VIOLATED


def test_many_lost_steps_are_no_explosion() -> None:
    lost = [op(Add(KEY), UNKNOWN, place) for place in range(40)]
    result = check(CounterModel(), [*lost, op(Total(KEY), 20, 50, 51)])
    assert result.verdict is Verdict.LINEARIZABLE
    assert result.steps < 1_000
    result = check(CounterModel(), [*lost, op(Total(KEY), 41, 50, 51)])
    assert result.verdict is Verdict.VIOLATED
    assert result.steps < 1_000


def test_a_bound_is_no_verdict() -> None:
    # Ten different steps at once, whose sums all differ, and a total that none of them makes.
    lost = [op(Add(KEY, by=2**place), UNKNOWN, 0) for place in range(16)]
    result = check(CounterModel(), [*lost, op(Total(KEY), -1, 1, 2)], seconds=0.0)
    assert result.verdict is Verdict.UNDECIDED


def test_a_violation_names_what_could_not_come_next() -> None:
    wrong = op(Add(KEY), added(3), 2, 3)
    result = check(CounterModel(), [op(Add(KEY), added(1), 0, 1), wrong])
    assert result.stuck == (wrong,)
    assert "violated after 1 operations" in str(result)
    assert "Added(value=3" in str(result)


@pytest.mark.parametrize("seed", range(60))
def test_it_agrees_with_trying_every_order(seed: int) -> None:
    """On small random histories, right and wrong ones, against the definition itself."""
    chance = random.Random(seed)
    operations = []
    for _ in range(6):
        called = chance.randrange(12)
        returned = called + chance.randrange(1, 6)
        value = chance.randrange(1, 4)
        if chance.random() < 0.25:
            operations.append(op(Add(KEY), UNKNOWN, called))
        elif chance.random() < 0.5:
            operations.append(op(Total(KEY), value - 1, called, returned))
        else:
            operations.append(op(Add(KEY), added(value), called, returned))
    expected = Verdict.LINEARIZABLE if _by_definition(operations) else Verdict.VIOLATED
    assert check(CounterModel(), operations).verdict is expected


def _by_definition(operations: list[Operation]) -> bool:
    known = [each for each in operations if each.reply is not UNKNOWN]
    lost = [each for each in operations if each.reply is UNKNOWN]
    for count in range(len(lost) + 1):
        for chosen in itertools.combinations(lost, count):
            for order in itertools.permutations([*known, *chosen]):
                if _keeps_time(order) and _is_a_run(order):
                    return True
    return False


def _keeps_time(order: tuple[Operation, ...]) -> bool:
    return not any(
        later.returned is not None and later.returned < earlier.called
        for earlier, later in itertools.combinations(order, 2)
    )


def _is_a_run(order: tuple[Operation, ...]) -> bool:
    value = 0
    for each in order:
        if isinstance(each.command, Add):
            value += 1
            if each.reply is not UNKNOWN and each.reply.value != value:
                return False
        elif each.reply != value:
            return False
    return True


def test_a_history_is_a_file_that_can_be_checked_again(tmp_path: Path) -> None:
    clock = Clock()
    notebook = Notebook(tmp_path / "w1.jsonl")
    notebook.called(clock.now(), 1, "w1", Add(KEY))
    notebook.returned(clock.now(), 1, added(1))
    notebook.called(clock.now(), 2, "w1", Add(KEY))  # killed
    notebook.called(clock.now(), 3, "w1", Put("ap::map:m:s", b"\0\xff"))
    notebook.failed(clock.now(), 3, executed=False)
    notebook.called(clock.now(), 4, "w1", Get("ap::map:m:s"))
    notebook.returned(clock.now(), 4, None)
    notebook.held(Holding("ap::lock:l:s", 7, 1, 2))
    notebook.held(Holding("ap::lock:l:s", 7, 1, 3))
    notebook.close()
    with (tmp_path / "w1.jsonl").open("ab") as file:
        file.write(b'{"at": 1, "numb')  # cut short by a kill
    history = read_history(tmp_path)
    assert [each.reply for each in history.operations] == [added(1), UNKNOWN, None]
    assert history.unknown == 1
    assert history.holdings == (Holding("ap::lock:l:s", 7, 1, 3),)
    report = verify(history)
    assert report.checked == {"counter": 2, "map": 1}
    assert not report.violations


def test_two_who_are_sure_of_one_lock() -> None:
    first, second = Holding("k", 5, 100, 200), Holding("k", 6, 201, 300)
    assert overlaps((first, second)) == []
    assert len(overlaps((first, Holding("k", 6, 150, 300)))) == 1
    assert len(overlaps((second, Holding("k", 9, 100, 200)))) == 1, "a larger token held earlier"
    assert overlaps((first, Holding("another", 6, 150, 300))) == []


def test_what_is_revocable_happened_as_replied_or_is_lost() -> None:
    kept, risked = op(Add(KEY), added(1), 0, 1), op(Add(KEY), added(2), 2, 3).revoked()
    for total in (1, 2):
        assert verdict(kept, risked, op(Total(KEY), total, 4, 5)) is Verdict.LINEARIZABLE
    assert verdict(kept, risked, op(Total(KEY), 3, 4, 5)) is Verdict.VIOLATED
    other = op(Add(KEY), added(7), 2, 3).revoked()
    assert verdict(kept, other, op(Total(KEY), 2, 4, 5)) is Verdict.VIOLATED
