"""Several subjects in one command: all or none, whatever the algorithm, on every store."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.crc import key_slot

from anypod import ConfigurationError, State, StoreUnavailable
from anypod.commands import Algorithm, Policy, TakeAll
from anypod.errors import RecordError
from anypod.primitives.rate_limit import RateLimit, ahit_all, hit_all
from anypod.stores.memory import Records
from anypod.stores.specification import execute

from .conftest import advance


def remaining(limit: RateLimit, key: str) -> int:
    return limit.peek(key).quotas[0].remaining


@pytest.mark.parametrize("algorithm", [each.value for each in Algorithm])
def test_all_are_taken_or_none(state: State, algorithm: str) -> None:
    address = state.rate_limit("address", "9/hour", algorithm=algorithm, colocate="login")
    user = state.rate_limit("user", "2/hour; 5/day", algorithm=algorithm, colocate="login")
    taken = [hit_all((address, "10.0.0.1"), (user, "ada")) for _ in range(4)]
    assert [bool(decisions[-1]) for decisions in taken] == [True, True, False, False]
    assert remaining(address, "10.0.0.1") == 7
    assert [quota.remaining for quota in user.peek("ada").quotas] == [0, 3]
    # The record is the one that a hit of the limit alone works on.
    assert address.hit("10.0.0.1")
    assert remaining(address, "10.0.0.1") == 6


def test_a_refusal_tells_how_each_stands_and_when_to_come_back(state: State) -> None:
    address = state.rate_limit("address", "9/hour", colocate="login")
    user = state.rate_limit("user", "1/hour", colocate="login")
    first = hit_all((address, "10.0.0.1"), (user, "ada"))
    assert [decision.quotas[0].remaining for decision in first] == [8, 0]
    refused = hit_all((address, "10.0.0.1"), (user, "ada"))
    assert [decision.allowed for decision in refused] == [False, False], "none is taken"
    assert [decision.quotas[0].remaining for decision in refused] == [8, 0]
    assert all(3_590 < decision.retry_after <= 3_600 for decision in refused)
    assert [decision.quotas[0].retry > 0 for decision in refused] == [False, True]
    advance(state, refused[-1].retry_after)
    assert hit_all((address, "10.0.0.1"), (user, "ada"))[-1]


def test_it_is_one_exchange_and_none_while_a_refusal_holds(state: State) -> None:
    commands: list[str] = []
    state.observe(lambda event: commands.append(f"{event.command} {event.outcome}"))
    address = state.rate_limit("address", "9/hour", colocate="login")
    user = state.rate_limit("user", "1/hour", colocate="login")
    for _ in range(3):
        hit_all((address, "10.0.0.1"), (user, "ada"))
    assert commands == ["TakeAll admitted", "TakeAll refused"]
    assert hit_all((address, "10.0.0.1"), (user, "grace"))[-1], "another user is not refused"
    assert not user.hit("ada")
    assert commands[2:] == ["TakeAll admitted"], "the one who was refused is remembered"


def test_what_is_not_in_one_group_is_asked_one_by_one(state: State) -> None:
    commands: list[str] = []
    state.observe(lambda event: commands.append(event.command))
    here = state.rate_limit("here", "9/hour", colocate="login")
    there = state.rate_limit("there", "9/hour", colocate="search")
    alone = state.rate_limit("alone", "9/hour")
    watched = state.rate_limit("watched", "1/hour", colocate="login", shadow=True)
    for hits in (
        [(here, "x"), (there, "x")],
        [(here, "x"), (alone, "x")],
        [(alone, "x"), (alone, "y")],
        [(here, "x"), (here, "x")],  # twice the same subject
    ):
        assert hit_all(*hits)[-1]
    assert remaining(here, "x") == 5
    for _ in range(3):  # what is watched refuses nobody
        assert hit_all((watched, "x"), (here, "x"))[-1]
    assert remaining(here, "x") == 2
    assert set(commands) == {"Take"}


def test_the_cost_is_taken_from_each(state: State) -> None:
    one, two = (state.rate_limit(name, "9/hour", colocate="g") for name in ("one", "two"))
    assert hit_all((one, "x"), (two, "x"), cost=4)[-1]
    assert [remaining(one, "x"), remaining(two, "x")] == [5, 5]
    small = state.rate_limit("small", "3/hour", colocate="g")
    for cost, message in ((4, "never be admitted by 3/hour"), (0, "from 1 on"), (-1, "from 1 on")):
        with pytest.raises(ValueError, match=message):
            hit_all((one, "x"), (small, "x"), cost=cost)
    assert remaining(one, "x") == 5
    with pytest.raises(ValueError, match="at least one limit"):
        hit_all()


def test_the_async_twin(state: State) -> None:
    one, two = (state.rate_limit(name, "2/hour", colocate="g") for name in ("one", "two"))

    async def scenario() -> list[bool]:
        asked = [await ahit_all((one, "x"), (two, "y")) for _ in range(3)]
        await state.aclose()
        return [bool(decisions[-1]) for decisions in asked]

    assert asyncio.run(scenario()) == [True, True, False]


def test_callers_that_cross_neither_wait_for_each_other_nor_admit_too_much(state: State) -> None:
    """Each names the same subjects in another order: no deadlock, and exactly the limit."""
    limits = [state.rate_limit(f"l{number}", "30/day", colocate="g") for number in range(3)]
    meet = threading.Barrier(6)

    def work(number: int) -> int:
        chance = random.Random(number)
        meet.wait()
        admitted = 0
        for _ in range(8):
            order = chance.sample(limits, 3)
            admitted += bool(hit_all(*((limit, "x") for limit in order))[-1])
        return admitted

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, range(6))) == 30
    assert [remaining(limit, "x") for limit in limits] == [0, 0, 0]


def test_replies_are_the_specifications(state: State) -> None:
    """A random walk over three subjects: the same replies as the executable specification's."""
    policies = [Policy(each, 7, 36_000.0, 5) for each in Algorithm]
    chance, table = random.Random(7), Records()
    prefix = state.store.prefix("rate", "walk") + "{g}"
    for step in range(150):
        advance(state, chance.choice((0.0, 1_000.0, 9_000.0)))
        subjects = tuple(
            (f"{prefix}s{number}", tuple(chance.sample(policies, chance.randint(1, 3))))
            for number in chance.sample(range(3), chance.randint(1, 3))
        )
        command = TakeAll(subjects[0][0], subjects, chance.randint(-2, 6))
        before = now(state)
        reply = state.store.execute(command)
        expected = execute(command, at(table, before), before)
        assert reply.admitted == expected.admitted, f"step {step}: {command}"
        for quota, told in zip(reply.quotas, expected.quotas, strict=True):
            assert quota.remaining == told.remaining, f"step {step}: {command}"
            assert quota.reset == pytest.approx(told.reset, abs=30)
            assert quota.retry == pytest.approx(told.retry, abs=30)


def now(state: State) -> int:
    import time

    return int((time.time() + state.store.driver.clock_offset) * 1e6)


def at(table: Records, moment: int) -> Records:
    table.now = moment
    return table


def test_a_record_of_another_kind_takes_from_none(state: State) -> None:
    one, two = (state.rate_limit(name, "9/hour", colocate="g") for name in ("one", "two"))
    from anypod.commands import Put

    state.store.execute(Put(two.subject("x")[0], b"not a limit"))
    with pytest.raises(RecordError, match="rate:"):
        hit_all((one, "x"), (two, "x"))
    assert remaining(one, "x") == 9


def test_a_group_is_one_slot_of_a_cluster_and_keys_do_not_meet(state: State) -> None:
    one = state.rate_limit("one", "9/hour", colocate="g")
    two = state.rate_limit("two", "9/hour", colocate="g")
    alone = state.rate_limit("one", "9/hour")
    keys: list[object] = ["x", "{y}", ("a", "}{"), b"{", 7]
    slots = {key_slot(limit.subject(key)[0].encode()) for limit in (one, two) for key in keys}
    assert len(slots) == 1
    places = {limit.subject(key)[0] for limit in (one, two, alone) for key in keys}
    assert len(places) == 3 * len(keys)


@pytest.mark.parametrize("group", ["", "a b", "{g}", "x" * 101, "ä"])
def test_a_group_that_is_no_name_is_refused(state: State, group: str) -> None:
    with pytest.raises(ConfigurationError, match="rate limit 'one': colocate must be 1 to 100"):
        state.rate_limit("one", "9/hour", colocate=group)


class TestStoreDown:
    @pytest.fixture
    def down(self, unused_tcp_port: int) -> Iterator[State]:
        with State(f"redis://127.0.0.1:{unused_tcp_port}/0") as state:
            yield state

    def test_each_limit_follows_its_own_policy(self, down: State) -> None:
        def limit(name: str, policy: str, replicas: int | None = None) -> RateLimit:
            return down.rate_limit(
                name,
                "9/hour",
                colocate="g",
                unavailable=policy,  # type: ignore[arg-type]
                replicas=replicas,
            )

        allow, deny, strict = limit("a", "allow"), limit("d", "deny"), limit("s", "raise")
        local = limit("l", "local", 9)
        assert [each.allowed for each in hit_all((allow, "x"), (local, "x"))] == [True, True]
        assert [each.allowed for each in hit_all((allow, "x"), (local, "x"))] == [True, False]
        decisions = hit_all((allow, "x"), (deny, "x"), (strict, "x"))
        assert [(each.allowed, each.degraded) for each in decisions] == [
            (True, True),
            (False, True),
        ]
        with pytest.raises(StoreUnavailable):
            hit_all((allow, "x"), (strict, "x"))
