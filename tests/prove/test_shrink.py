"""Reduction: it finds what is needed, keeps what that needs, and asks little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypod.prove.shrink import Positions, reduce

pytestmark = pytest.mark.quick


class Question:
    """Shows whenever all of `needed` are there, and counts how often it was asked."""

    def __init__(self, *needed: int) -> None:
        self.needed = frozenset(needed)
        self.asked: list[Positions] = []

    def __call__(self, positions: Positions) -> bool:
        self.asked.append(positions)
        return self.needed <= positions


@given(
    size=st.integers(1, 40),
    data=st.data(),
)
def test_it_keeps_exactly_what_is_needed(size: int, data: st.DataObject) -> None:
    needed = data.draw(st.sets(st.integers(0, size - 1), max_size=4))
    question = Question(*needed)
    assert reduce(range(size), question, limit=10_000) == needed
    assert len(question.asked) == len(set(question.asked))


def test_a_right_guess_costs_a_handful_of_questions() -> None:
    question = Question(7, 31)
    guesses = [frozenset({3}), frozenset({7, 31})]
    assert reduce(range(100), question, guesses=guesses) == {7, 31}
    assert len(question.asked) <= 5


def test_a_guess_that_is_too_large_is_reduced() -> None:
    question = Question(4)
    assert reduce(range(100), question, guesses=[frozenset(range(10))]) == {4}


def test_members_bring_their_producers() -> None:
    def closure(positions: Positions) -> Positions:
        return positions | {p - 1 for p in positions if p % 2}

    question = Question(5)
    assert reduce(range(20), question, closure=closure) == {4, 5}
    assert all(closure(asked) == asked for asked in question.asked)


def test_nothing_shows_it() -> None:
    assert reduce(range(10), lambda positions: False) is None


def test_nothing_before_is_needed() -> None:
    assert reduce(range(10), lambda positions: True) == frozenset()


def test_when_questions_run_out_the_smallest_so_far_is_kept() -> None:
    question = Question(1, 50, 99)
    kept = reduce(range(100), question, limit=6)
    assert kept is not None
    assert kept >= question.needed
    assert len(question.asked) <= 6


def test_a_question_without_answer_in_the_limit_is_none() -> None:
    assert reduce(range(10), Question(3), guesses=[frozenset({1})], limit=1) is None
