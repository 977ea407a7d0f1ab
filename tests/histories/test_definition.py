"""The checker lies between two definitions of linearizability, in which every order is tried.

The exact one knows that the store's clock never goes back: in an order of operations it is never earlier
than the earliest moment of any that came before, nor later than the latest of any that comes after. The
loose one takes each operation's own span only. Whatever the exact one admits, the checker must admit, or it
would accuse a store that is right; what the loose one refuses, the checker must refuse.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.histories.checker import Model, Verdict, check
from tests.histories.history import UNKNOWN, Operation
from tests.histories.test_models import DRAWS, SECOND, history, model_of, others

pytestmark = pytest.mark.quick

SHORT = 7  # operations; the orders of so many can all be tried


def by_definition(model: Model, operations: list[Operation], *, exact: bool) -> bool:
    """Whether some order is a run: of all that is known, and of any of what is not."""
    return _goes_on(model, {model.initial()}, operations, 0, exact=exact)


def _goes_on(
    model: Model, states: set[Any], left: list[Operation], now: int, *, exact: bool
) -> bool:
    ends = [each.returned for each in left if each.reply is not UNKNOWN]
    if not ends:
        return True
    first = min(end for end in ends if end is not None)
    for each in left:
        if each.called > first:
            continue
        called = max(each.called, now) if exact else each.called
        # What has no return happened before something that has one, or need not have happened.
        returned = first if exact or each.returned is None else each.returned
        placed = replace(each, called=called, returned=returned)
        after = {step for state in states for step in model.steps(state, placed)}
        rest = [other for other in left if other is not each]
        if after and _goes_on(model, after, rest, called, exact=exact):
            return True
    return False


def blurred(kind: str, chance: random.Random) -> Iterator[Operation]:
    """A short run whose calls overlap, with replies that are lost, and perhaps one that is wrong."""
    wrong = chance.randrange(2 * SHORT)
    for place, each in enumerate(history(kind, chance, SHORT)):
        assert each.returned is not None
        reply = each.reply
        if place == wrong and reply is not None:
            reply = chance.choice(list(others(reply)))
        called = each.called - chance.choice((0, SECOND, 3 * SECOND))
        returned = each.returned + chance.choice((0, SECOND, 3 * SECOND))
        wide = Operation("t", each.command, reply, called, returned)
        yield wide.forgotten() if place != wrong and chance.random() < 0.3 else wide


@pytest.mark.parametrize("kind", DRAWS)
@settings(max_examples=60, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_it_agrees_with_the_definition(kind: str, chance: random.Random) -> None:
    model, operations = model_of(kind), list(blurred(kind, chance))
    result = check(model, operations)
    told = "\n".join([str(result), *map(str, operations)])
    if by_definition(model, operations, exact=True):
        assert result.verdict is Verdict.LINEARIZABLE, told
    elif not by_definition(model, operations, exact=False):
        assert result.verdict is Verdict.VIOLATED, told
