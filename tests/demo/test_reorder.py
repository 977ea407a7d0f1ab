"""The reorderings are what they say: the same requests, dependent ones in their order, seeds that differ."""

from __future__ import annotations

from importlib.resources import files

import pytest
from tests.demo.reorder import reorder, resources, split

pytestmark = pytest.mark.quick

SHOP = files("anypod.demo").joinpath("shop.http").read_text(encoding="utf-8")


def test_only_the_stateless_requests_are_free() -> None:
    _, blocks = split(SHOP)
    free = [block for block in blocks if not resources(block)]
    assert len(free) == 2
    assert all("/add" in block for block in free)


@pytest.mark.parametrize("seed", range(20))
def test_dependent_requests_keep_their_order(seed: int) -> None:
    _, before = split(SHOP)
    _, after = split(reorder(SHOP, seed))
    assert sorted(after) == sorted(before)
    for resource in frozenset().union(*map(resources, before)):
        users = [block for block in before if resource in resources(block)]
        assert [block for block in after if resource in resources(block)] == users


def test_seeds_differ_and_repeat() -> None:
    assert len({reorder(SHOP, seed) for seed in range(20)}) == 20
    assert reorder(SHOP, 7) == reorder(SHOP, 7)
