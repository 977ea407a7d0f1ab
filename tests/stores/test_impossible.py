"""A command that asks for what cannot be is refused before it leaves, whatever the engine."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from anypod import commands as c
from anypod.stores import Store, open_store

pytestmark = pytest.mark.quick

POLICY = c.Policy(c.Algorithm.GCRA, 5, 60.0, 5)
NO_SECONDS = (-1.0, 0, math.nan, math.inf, 1e300, True, "5", timedelta(seconds=5), 10**30)
NO_COUNT = (0, -1, 2.0, True, "5", 10**30)

SECONDS = {
    "put ttl": lambda v: c.Put("k", b"x", ttl=v),
    "add ttl": lambda v: c.Add("k", ttl=v),
    "add window": lambda v: c.Add("k", window=v),
    "add once_ttl": lambda v: c.Add("k", once="a", once_ttl=v),
    "claim lease": lambda v: c.Claim("k", "f", v, 60.0),
    "claim ttl": lambda v: c.Claim("k", "f", 5.0, v),
    "renew lease": lambda v: c.Renew("k", 1, v),
    "complete ttl": lambda v: c.Complete("k", 1, b"", v),
    "read touch": lambda v: c.ReadDocument("k", v),
    "patch idle": lambda v: c.PatchDocument("k", {}, idle=v),
    "patch absolute": lambda v: c.PatchDocument("k", {}, absolute=v),
    "acquire lease": lambda v: c.Acquire("k", "w", v),
    "take period": lambda v: c.Take("k", (c.Policy(c.Algorithm.GCRA, 5, v, 5),)),
}
COUNTS = {
    "scan limit": lambda v: c.Scan("k", limit=v),
    "acquire limit": lambda v: c.Acquire("k", "w", 5.0, limit=v),
    "take limit": lambda v: c.Take("k", (c.Policy(c.Algorithm.GCRA, v, 60.0, 5),)),
    "take all burst": lambda v: c.TakeAll("k", (("k", (c.Policy(c.Algorithm.GCRA, 5, 60.0, v),)),)),
}
OTHERS = {
    "a wait for nothing": c.Acquire("k", "w", 5.0, patience=-1.0),
    "a negative lease": c.CacheRead("k", "s", -1.0),
    "NaN early": c.CacheRead("k", "s", 1.0, math.nan),
    "negative soft": c.CacheFill("k", None, "s", b"", -1.0, 1.0),
    "infinite hard": c.CacheFill("k", None, "s", b"", 1.0, math.inf),
    "keep for ever": c.CacheInvalidate("k", math.inf),
    "a tag for NaN": c.CacheVersion("k", math.nan),
    "a tombstone for NaN": c.EndDocument("k", math.nan),
    "an operation without an id": c.Add("k", once=""),
    "a sum beyond": c.Add("k", by=2**53),
    "a negative version": c.Put("k", b"x", expect=-1),
    "text for bytes": c.Put("k", "x"),  # type: ignore[arg-type]
    "a cost of half": c.Take("k", (POLICY,), 0.5),  # type: ignore[arg-type]
    "a key of another type": c.Get(5),  # type: ignore[arg-type]
    "a page without end": c.Scan("k", limit=10**9),
}


@pytest.fixture
def store() -> Iterator[Store]:
    with open_store("memory://", namespace="") as opened:
        yield opened


def refused(store: Store, command: c.Command[Any]) -> None:
    name = type(command).__name__
    with pytest.raises(ValueError, match=rf"{name} cannot be executed: \w+"):
        store.execute(command)
    with pytest.raises(ValueError, match=rf"{name} cannot be executed"):
        asyncio.run(store.aexecute(command))
    with pytest.raises(ValueError, match=rf"{name} cannot be executed"):
        store.execute_many([command, command])


@pytest.mark.parametrize("what", SECONDS)
def test_a_duration_is_one(store: Store, what: str) -> None:
    for value in NO_SECONDS:
        refused(store, SECONDS[what](value))


@pytest.mark.parametrize("what", COUNTS)
def test_a_count_is_one(store: Store, what: str) -> None:
    for value in NO_COUNT:
        refused(store, COUNTS[what](value))


@pytest.mark.parametrize("what", OTHERS)
def test_what_cannot_be_is_refused(store: Store, what: str) -> None:
    refused(store, OTHERS[what])


def test_the_field_and_the_value_are_named(store: Store) -> None:
    with pytest.raises(ValueError, match=r"Put cannot be executed: ttl: .*> 0.0, not -1"):
        store.execute(c.Put("k", b"x", ttl=-1))
