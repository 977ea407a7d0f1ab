"""The models against the executable specification: they admit all that it does, and nothing else.

A run of the specification is a history without concurrency. It must be linearizable; it must stay so when
calls are made to overlap and replies are lost; and it must be violated when one reply is another one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.histories.checker import Model, Verdict, check
from tests.histories.history import Operation
from tests.histories.verification import MODELS

from anypod import commands as c
from anypod.stores.memory import Records
from anypod.stores.specification import execute

pytestmark = pytest.mark.quick

SECOND = 1_000_000
KEY = "ap::kind:name:s"
LENGTH = 80

Draw = Callable[[random.Random, "Known"], c.Command[Any]]


class Known:
    """What a caller has been told, for arguments that mean something."""

    def __init__(self) -> None:
        self.tokens: list[int] = [1]
        self.versions: list[int] = [0]

    def learn(self, reply: Any) -> None:
        token = getattr(reply, "token", None)
        if token:
            self.tokens = [*self.tokens, token][-3:]
        current = getattr(reply, "current", reply)
        if isinstance(current, c.Versioned):
            self.versions = [0, current.version]


def counter(chance: random.Random, known: Known) -> c.Command[Any]:
    by, bounds = chance.choice((1, 2, -1)), chance.choice(((-5, 5), (0, 3)))
    once = chance.choice((None, None, "a", "b"))
    return chance.choice((c.Add(KEY, by, *bounds, once=once), c.Total(KEY)))


def values(chance: random.Random, known: Known) -> c.Command[Any]:
    value = chance.choice((b"x", b"y", None))
    expect = chance.choice((None, *known.versions))
    put = c.Put(KEY, value, expect=expect, fence=chance.randrange(4))
    return chance.choice((put, put, c.Get(KEY)))


def lock(chance: random.Random, known: Known) -> c.Command[Any]:
    waiter = chance.choice("abc")
    ask = c.Acquire(KEY, waiter, 2.5, patience=chance.choice((0.0, 3.5, 3.5)))
    token = chance.choice(known.tokens)
    return chance.choice(
        (ask, ask, ask, c.Release(KEY, token), c.Renew(KEY, token, 2.5), c.Withdraw(KEY, waiter))
    )


def slots(chance: random.Random, known: Known) -> c.Command[Any]:
    waiter = chance.choice("abcd")
    ask = c.Acquire(KEY, waiter, 2.5, patience=chance.choice((0.0, 3.5, 3.5)), limit=2)
    token = chance.choice(known.tokens)
    return chance.choice(
        (ask, ask, ask, c.Release(KEY, token), c.Renew(KEY, token, 2.5), c.Withdraw(KEY, waiter))
    )


def windows(chance: random.Random, known: Known) -> c.Command[Any]:
    bounds = chance.choice(((-5, 5), (0, 3)))
    return chance.choice((c.Add(KEY, 1, *bounds, window=3.0), c.Total(KEY)))


def claims(chance: random.Random, known: Known) -> c.Command[Any]:
    token = chance.choice(known.tokens)
    claim = c.Claim(KEY, chance.choice("ffffg"), lease=2.5, ttl=9_000.0)
    done = c.Complete(KEY, token, chance.choice((b"1", b"2")), ttl=9_000.0)
    return chance.choice(
        (claim, claim, claim, c.Renew(KEY, token, 2.5), c.Abandon(KEY, token), done)
    )


def documents(chance: random.Random, known: Known) -> c.Command[Any]:
    fields = {chance.choice("ab"): chance.choice((b"1", b"2"))}
    drop = chance.choice(((), ("a",), ("b",)))
    patch = c.PatchDocument(KEY, fields, drop, chance.choice(tuple(c.Existence)))
    end = c.EndDocument(KEY, keep=9_000.0)
    return chance.choice((patch, patch, patch, c.ReadDocument(KEY), c.ReadDocument(KEY), end))


DRAWS: dict[str, Draw] = {
    "counter": counter,
    "windows": windows,
    "map": values,
    "lock": lock,
    "slots": slots,
    "idempotency": claims,
    "session": documents,
}


KINDS = {"slots": "lock", "windows": "counter"}  # more runs of the same model


def model_of(kind: str) -> Model:
    return MODELS[KINDS.get(kind, kind)]


def history(kind: str, chance: random.Random, length: int) -> list[Operation]:
    """A run of the specification. Commands come at half seconds; no lease or window ends at one."""
    table, known = Records(), Known()
    now, operations = 1_000 * SECOND + SECOND // 2, []
    for _ in range(length):
        now += chance.choice((0, 0, 1, 2, 4)) * SECOND + 10
        command = DRAWS[kind](chance, known)
        table.now = now
        reply = execute(command, table, now)
        known.learn(reply)
        operations.append(Operation("t", command, reply, now - 2, now + 2))
    return operations


def long_history(kind: str, seed: int) -> list[Operation]:
    return history(kind, random.Random(f"{kind} {seed}"), LENGTH if kind != "session" else 12)


EACH = pytest.mark.parametrize(
    ("kind", "seed"), [(kind, seed) for kind in DRAWS for seed in range(12)]
)


@EACH
def test_a_run_is_admitted(kind: str, seed: int) -> None:
    operations = long_history(kind, seed)
    result = check(model_of(kind), operations)
    assert result.verdict is Verdict.LINEARIZABLE, str(result)
    assert list(result.order) == operations


@EACH
def test_it_stays_admitted_when_calls_overlap_and_replies_are_lost(kind: str, seed: int) -> None:
    chance = random.Random(f"overlap {kind} {seed}")
    blurred = []
    for each in long_history(kind, seed):
        assert each.returned is not None
        called = each.called - chance.choice((0, SECOND, 3 * SECOND))
        returned = each.returned + chance.choice((0, SECOND, 3 * SECOND))
        wide = Operation("t", each.command, each.reply, called, returned)
        blurred.append(wide.forgotten() if chance.random() < 0.06 else wide)
    result = check(model_of(kind), blurred)
    assert result.verdict is Verdict.LINEARIZABLE, str(result)


@EACH
def test_another_reply_is_a_violation(kind: str, seed: int) -> None:
    operations = long_history(kind, seed)
    tried = 0
    for place, each in enumerate(operations):
        for wrong in others(each.reply):
            told = Operation("t", each.command, wrong, each.called, each.returned)
            changed = [*operations[:place], told, *operations[place + 1 :]]
            result = check(model_of(kind), changed)
            assert result.verdict is Verdict.VIOLATED, f"{told} instead of {each.reply}"
            tried += 1
    assert tried >= len(operations)


def others(reply: Any) -> Iterator[Any]:
    """Replies that differ in what they claim to have happened."""
    yield from OTHERS[type(reply)](reply)


def _other_added(reply: c.Added) -> Iterator[c.Added]:
    yield c.Added(reply.value + 1, reply.outcome)
    yield from (c.Added(reply.value, each) for each in c.AddOutcome if each != reply.outcome)


def _other_stored(reply: c.Stored) -> Iterator[c.Stored]:
    yield c.Stored(not reply.written, reply.current)
    if reply.current is not None:
        yield c.Stored(reply.written, c.Versioned(b"other", reply.current.version))
        yield c.Stored(reply.written, c.Versioned(reply.current.value, 1))


def _other_acquired(reply: c.Acquired) -> Iterator[c.Acquired]:
    if reply.token is None:
        yield c.Acquired(10**15, held=1)
        yield c.Acquired(None, reply.position + 1, reply.wait, reply.held)
    else:
        yield c.Acquired(None, 1, 1.0, 1)
        yield c.Acquired(1, held=1)


def _other_claimed(reply: c.Claimed) -> Iterator[c.Claimed]:
    for status in c.ClaimStatus:
        if status is not reply.status:
            outcome = b"1" if status is c.ClaimStatus.COMPLETE else None
            yield c.Claimed(status, reply.token or 1, outcome, 1.0, reply.attempt)


def _other_patched(reply: c.Patched) -> Iterator[c.Patched]:
    yield from (c.Patched(each, reply.version) for each in c.PatchOutcome if each != reply.outcome)
    if reply.outcome is c.PatchOutcome.PATCHED:
        yield c.Patched(reply.outcome, 1)


OTHERS: dict[type[Any], Callable[[Any], Iterator[Any]]] = {
    bool: lambda reply: iter((not reply,)),
    int: lambda reply: iter((reply + 1,)),
    type(None): lambda reply: iter((c.Versioned(b"x", 10**15),)),
    c.Versioned: lambda reply: iter((None, c.Versioned(b"other", reply.version))),
    c.Document: lambda reply: iter((None, c.Document({"c": b""}, reply.version, reply.left))),
    c.Added: _other_added,
    c.Stored: _other_stored,
    c.Acquired: _other_acquired,
    c.Claimed: _other_claimed,
    c.Patched: _other_patched,
}
