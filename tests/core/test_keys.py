from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum, IntEnum, StrEnum
from itertools import combinations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypod.keys import LONGEST, encode

pytestmark = pytest.mark.quick


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    ONE = "1"


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.uuids()
    | st.datetimes()
    | st.dates()
    | st.sampled_from([*Colour, *Number, *Word])
)
keys = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def typed(key: Any) -> Any:
    """The key with its types, so that Python's own 1 == True does not blur it."""
    if isinstance(key, tuple) and not isinstance(key, Enum):
        return tuple(typed(part) for part in key)
    return type(key), key


@given(keys, keys)
def test_two_keys_meet_only_if_they_are_the_same(first: Any, second: Any) -> None:
    assert (encode(first) == encode(second)) == (typed(first) == typed(second))


def test_look_alikes_do_not_meet() -> None:
    alike: list[Any] = [
        None, "None", "n", "", (), (None,), 0, False, "0", "False", b"", b"0", 1, True, "1", b"1",
        (1,), ("1",), ((1,),), ("a:b", "c"), ("a", "b:c"), ("a", "b", "c"), "a:b:c", ("a,sb",),
        ("a", "b"), "(sa,sb)", Colour.RED, Number.ONE, Word.ONE, "RED", date(2026, 1, 1),
        datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01",
        UUID(int=1), UUID(int=1).hex, str(UUID(int=1)), "é", "e\u0301", "{a}", "a b", "a\x00",
    ]  # fmt: skip
    for first, second in combinations(alike, 2):
        assert encode(first) != encode(second), (first, second)


@given(keys)
def test_an_encoded_key_fits_any_engine(key: Any) -> None:
    text = encode(key)
    assert len(text) <= LONGEST
    assert text.isascii()
    assert text.isprintable()
    assert not set(text) & set(" :#{}")


def test_the_same_moment_is_the_same_key() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert encode(moment) == encode(moment.astimezone(timezone(timedelta(hours=5))))


def test_long_keys_are_hashed_and_stay_apart() -> None:
    assert encode("x" * 1000) != encode("x" * 1001)
    assert encode("x" * 1000) != encode(b"x" * 1000)


@pytest.mark.parametrize("key", [1.5, [1], {"a": 1}, {1}, object(), (1, 2.5), int])
def test_anything_else_is_a_type_error(key: Any) -> None:
    with pytest.raises(TypeError, match="a key must be"):
        encode(key)
