"""A fingerprint differs if and only if the content does, and looking runs no code of the service."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import random
import types
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anypod.replicas.digest import Digests, render

pytestmark = pytest.mark.quick


def own(kind: type) -> bool:
    return kind.__module__ == __name__


digests = Digests(own)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
data = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


def exact(value: Any) -> Any:
    """A value with its types spelled out, for comparison."""
    if isinstance(value, dict):
        return ["dict", [(exact(key), exact(item)) for key, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [exact(item) for item in value]]
    return [type(value).__name__, repr(value)]


@dataclasses.dataclass
class Box:
    held: Any


@given(data, data)
def test_equal_if_and_only_if_the_content_is(one, other):
    assert (digests.of(one) == digests.of(other)) == (exact(one) == exact(other))


@given(data, data)
@settings(max_examples=50)
def test_inside_objects_too(one, other):
    same = digests.of(Box([one])) == digests.of(Box([other]))
    assert same == (exact(one) == exact(other))
    assert digests.of(Box(one)) == digests.of(Box(copy.deepcopy(one)))


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (-1, -2),
        ("1", b"1"),
        ([1], (1,)),
        ({1: 2}, {1: 2, 3: 4}),
        (Colour.RED, Colour.BLUE),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        (decimal.Decimal(1), decimal.Decimal("1.0")),
        (uuid.UUID(int=1), uuid.UUID(int=2)),
        (collections.Counter("a"), collections.Counter("aa")),
        (collections.deque([1]), collections.deque([2])),
        (itertools.count(1), itertools.count(2)),
        (random.Random(1), random.Random(2)),
        (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (collections.UserDict({1: 1}), collections.UserDict({1: 2})),
        (bytearray(b"a"), bytearray(b"b")),
        (Box({1}), Box({2})),
    ],
)
def test_told_apart(one, other):
    assert digests.of(one) != digests.of(other)
    assert digests.of([one]) != digests.of([other])


def test_one_change_deep_inside():
    value = {"a": [Box({"b": [Box([1, {2: Box(3)}])]})]}
    before = digests.of(value)
    assert digests.of(value) == before
    value["a"][0].held["b"][0].held[1][2].held = 4
    assert digests.of(value) != before


def test_a_cycle_and_a_chain_end():
    box = Box(None)
    box.held = [box]
    assert digests.of(box) == digests.of(box)
    chain: list[Any] = []
    for _ in range(100_000):
        chain = [chain]
    assert digests.of(chain) == digests.of(chain)
    while chain:
        chain = chain.pop()  # no recursion when it is freed


def test_a_long_container_shows_additions_at_both_ends():
    value = {number: Box(number) for number in range(30_000)}
    before = digests.of(value)
    value["new"] = 1
    assert digests.of(value) != before
    queue = collections.deque(range(30_000))
    before = digests.of(queue)
    queue.popleft()
    assert digests.of(queue) != before


class Hostile(dict):
    """Everything that looking could run."""

    def _raise(self, *args: object) -> Any:
        raise AssertionError("looking ran the service's code")

    __iter__ = __len__ = __getitem__ = __eq__ = __repr__ = __getattr__ = __contains__ = _raise
    items = keys = values = get = __bool__ = __str__ = __reversed__ = _raise
    __hash__ = None

    @property
    def __class__(self) -> Any:
        raise AssertionError("looking asked for the class")


def test_no_code_of_the_service_runs():
    value = Hostile()
    dict.__setitem__(value, "k", 1)
    before = digests.of(value)
    dict.__setitem__(value, "k", 2)
    assert digests.of(value) != before
    assert render(value, own) == "{'k': 2}"


def test_reading_a_cache_of_cachetools_is_not_a_use():
    import cachetools

    cache: Any = cachetools.LRUCache(2)
    cache["old"], cache["new"] = 1, 2
    before = digests.of(cache)
    assert digests.of(cache) == before
    assert render(cache, own) == "LRUCache({'old': 1, 'new': 2})"
    cache["newest"] = 3
    assert set(cache) == {"new", "newest"}
    assert digests.of(cache) != before


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ({"a": [1, (2,)]}, "{'a': [1, (2)]}"),
        (Box(1), "Box(held=1)"),
        (list(range(10)), "[… 4 more, 4, 5, 6, 7, 8, 9]"),
        ({n: n for n in range(8)}, "{… 2 more, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7}"),
        (object(), "<object>"),
        (Colour.RED, "<Colour.RED: 1>"),
    ],
)
def test_rendering(value, text):
    assert render(value, own) == text


@given(data)
def test_rendering_is_short(value):
    assert len(render(value, own)) <= 120
