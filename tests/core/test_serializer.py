from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypod.serializer import Serializer, Undecodable

pytestmark = pytest.mark.quick

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(plain)
def test_plain_data_comes_back_equal(value: Any) -> None:
    serializer: Serializer[Any] = Serializer()
    again = serializer.decode(serializer.encode(value))
    assert again == value
    assert type(again) is type(value)


def test_nan_and_moments_come_back() -> None:
    serializer: Serializer[Any] = Serializer()
    assert math.isnan(serializer.decode(serializer.encode(math.nan)))
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    assert serializer.decode(serializer.encode(moment)) == moment


@pytest.mark.parametrize("value", [(1, 2), {1}, UUID(int=1), [(1,)], {"a": {1}}, object(), 1j])
def test_what_would_come_back_different_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="would come back as something else"):
        Serializer().encode(value)


def test_keys_that_would_come_back_different_are_refused() -> None:
    with pytest.raises(TypeError, match="use str keys"):
        Serializer().encode({1: "a"})


def test_a_type_brings_its_values_back() -> None:
    @dataclass
    class Order:
        number: UUID
        lines: tuple[str, ...]

    order = Order(UUID(int=7), ("pen",))
    serializer = Serializer[Order](Order)
    assert serializer.decode(serializer.encode(order)) == order


def test_another_shape_than_the_type_is_undecodable() -> None:
    encoded = Serializer().encode({"a": 1})
    with pytest.raises(Undecodable):
        Serializer(list[int]).decode(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x01\xa2\xff\xff",
        b"\x01" + b"\x91" * 5000,
        b"",
        b"\x02\xc0",
        b"\x00",
        b"\x01",
        b"\x01\xc1",
        b"\x01\xc0\xc0",
    ],
)
def test_other_bytes_are_undecodable(encoded: bytes) -> None:
    with pytest.raises(Undecodable):
        Serializer().decode(encoded)


@given(st.binary(max_size=64))
def test_no_bytes_do_anything_worse(encoded: bytes) -> None:
    with contextlib.suppress(Undecodable):
        Serializer().decode(encoded)


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="over the limit"):
        Serializer(largest=100).encode("x" * 200)


def test_what_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="holds itself"):
        Serializer().encode(loop)
    with pytest.raises(ValueError, match="cannot store"):
        Serializer().encode(2**70)
