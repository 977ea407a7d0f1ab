"""Defects of the best libraries of each kind, by name, and our tests of the same situation on every store.

A test that stands elsewhere is run here again under the defect's name: this file is the list.
"""
# ruff: noqa: F401  # tests and fixtures are found by their names

from __future__ import annotations

import asyncio
import uuid
from urllib.parse import urlsplit

import pytest

# limits, slowapi, Flask-Limiter: several limits are hit one by one, and one that refuses gives nothing back.
from tests.primitives.test_rate_limit import (
    test_several_policies_are_taken_all_or_none as test_limits_takes_from_the_first_and_is_refused_by_the_second,
)
from tests.primitives.test_rate_limit import (
    test_several_subjects_give_back_what_they_took_when_one_refuses as test_limits_does_not_give_back,
)

# Flask-Session: a slow request that only reads writes everything back; one that ends late logs in again.
# starsessions: whatever id the client made up becomes a session.
from tests.primitives.test_session import (
    sessions,
)
from tests.primitives.test_session import (
    test_a_slow_reader_does_not_revert_a_concurrent_write as test_flask_session_reverts_a_concurrent_write,
)
from tests.primitives.test_session import (
    test_a_slow_request_does_not_resurrect_a_logged_out_session as test_flask_session_resurrects_a_logged_out_session,
)
from tests.primitives.test_session import (
    test_nested_mutation_is_seen as test_flask_session_overlooks_nested_mutation,
)
from tests.primitives.test_session import (
    test_unknown_ids_are_never_adopted as test_starsessions_adopts_the_attackers_id,
)

# idemkit: a streamed answer is truncated, and of several Link headers one is left.
from tests.web.test_flask_idempotent import (
    pod,
    shop,
)
from tests.web.test_flask_idempotent import (
    test_a_retry_on_another_pod_gets_the_first_answer as test_idemkit_keeps_one_of_several_headers,
)
from tests.web.test_flask_idempotent import (
    test_a_streamed_answer_is_whole_and_not_kept as test_idemkit_truncates_streams,
)
from tests.web.test_flask_idempotent import (
    test_an_answer_is_forgotten_after_its_time as test_asgi_idempotency_header_conflicts_for_ever,
)
from tests.web.test_flask_idempotent import (
    test_another_method_or_route_or_scope_is_another_operation as test_asgi_idempotency_header_answers_on_another_path,
)

from anypod import InFlight, OutcomeUnknown, State
from anypod.commands import Acquire, Acquired, Claim, Claimed, Complete, Release, mailbox
from anypod.testing import Fault, FaultProxy

from .conftest import advance


def test_powertools_rejects_an_identical_retry(state: State) -> None:
    """Its completed record has lost the hash of the payload, so the retry is taken for another one."""
    orders = state.idempotency("orders")
    for replayed in (False, True, True):
        with orders.claim("key", "the same payload") as attempt:
            assert attempt.replayed is replayed
            if not replayed:
                attempt.complete({"order": 1})
            assert attempt.outcome == {"order": 1}


def test_powertools_lets_a_zombie_overwrite_its_successor(state: State) -> None:
    """Its record carries no token of the owner."""
    address = state.idempotency("orders").address("key")
    zombie: Claimed = state.store.execute(Claim(address, "f", 5.0, 60.0))
    advance(state, 6.0)
    heir: Claimed = state.store.execute(Claim(address, "f", 5.0, 60.0))
    assert heir.token > zombie.token
    assert state.store.execute(Complete(address, heir.token, b"v-heir", 60.0))
    assert not state.store.execute(Complete(address, zombie.token, b"v-zombie", 60.0))
    assert state.store.execute(Claim(address, "f", 5.0, 60.0)).outcome == b"v-heir"


def test_asgi_idempotency_header_stays_in_flight_after_a_crash(state: State) -> None:
    """Its key of a handler that died answers 409 for ever; ours for as long as the lease."""
    orders = state.idempotency("orders", lease=5.0)
    state.store.execute(Claim(orders.address("key"), "", 5.0, 60.0))  # and dies
    with pytest.raises(InFlight) as told, orders.claim("key"):
        pass
    assert 0 < told.value.retry_after <= 5.0
    advance(state, told.value.retry_after + 0.001)
    with orders.claim("key") as attempt:
        assert (attempt.replayed, attempt.number) == (False, 2)


def test_redis_py_adds_three_for_one_increment_with_two_lost_replies(redis_url: str) -> None:
    parts = urlsplit(redis_url)
    with (
        FaultProxy(parts.hostname or "", parts.port or 0) as proxy,
        State(proxy.url(redis_url), namespace=uuid.uuid4().hex) as state,
    ):
        counter = state.counter("hits")
        assert counter.increment() == 1
        for attempt in range(2):
            proxy.inject(Fault.BEFORE_REPLY)
            with pytest.raises(OutcomeUnknown):  # it says so, and does not try again by itself
                counter.increment()
            assert counter.value() == 2 + attempt
        for _ in range(2):
            proxy.inject(Fault.BEFORE_REPLY)
            with pytest.raises(OutcomeUnknown):
                counter.increment("safe", once="this click")
            assert counter.value("safe") == 1
        assert counter.increment("safe", once="this click") == 1


def test_redis_py_asyncio_lock_shares_its_token_between_tasks(state: State) -> None:
    """A token in a thread-local is every task's: the one that does not hold the lock releases it."""
    lock = state.lock("jobs")

    async def scenario() -> None:
        tokens: list[int] = []
        inside = 0

        async def work() -> None:
            nonlocal inside
            async with lock.aacquire() as hold:
                inside += 1
                assert inside == 1, "two tasks hold one lock"
                tokens.append(hold.token)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(5)))
        assert tokens == sorted(set(tokens)), (
            "each holder has a token of its own, larger than before"
        )
        await state.aclose()

    asyncio.run(scenario())


def test_redis_py_lock_lets_one_process_starve(state: State) -> None:
    """Whoever polls at the right moment gets it; here it is who has waited longest, and is told so."""
    address = state.lock("jobs")._address("x")

    def ask(waiter: str) -> Acquired:
        reply: Acquired = state.store.execute(Acquire(address, waiter, 30.0, 60.0))
        return reply

    token = ask("holder").token
    assert token is not None
    line = ["first", "second", "third"]
    assert [ask(waiter).position for waiter in line] == [1, 2, 3]
    for turn, waiter in enumerate(line):
        assert state.store.execute(Release(address, token))
        later = [ask(other).token for other in reversed(line[turn + 1 :])]
        assert set(later) <= {None}, "who came later asks first, and waits all the same"
        assert state.store.receive(mailbox(address, waiter), 5.0)
        token = ask(waiter).token
        assert token is not None


def test_python_redis_lock_never_expires_by_default(state: State) -> None:
    """A holder that dies holds for ever; here it holds for its lease, and a lock has one."""
    address = state.lock("jobs")._address("x")
    dead = state.store.execute(Acquire(address, "dead", state.lock("jobs").lease))
    assert dead.token is not None
    advance(state, state.lock("jobs").lease + 0.001)
    heir = state.store.execute(Acquire(address, "heir", 30.0))
    assert heir.token is not None
    assert heir.token > dead.token
    assert not state.store.execute(Release(address, dead.token)), "and the dead release nothing"
