"""What a lock and an idempotent operation do while the store is away: raise or deny, and say so.

The store is a real one behind a proxy that refuses, or loses a reply. What a rate limit does stands in
`test_rate_limit.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from anypod import ConfigurationError, InFlight, OutcomeUnknown, State, StoreUnavailable
from anypod.errors import AnypodError, LockTimeout
from anypod.observe import Event
from anypod.primitives import degraded
from anypod.primitives.within import table
from anypod.testing import Fault, FaultProxy


@pytest.fixture
def proxy(redis_url: str) -> Iterator[FaultProxy]:
    parts = urlsplit(redis_url)
    with FaultProxy(parts.hostname or "", parts.port or 0) as proxy:
        yield proxy


@pytest.fixture
def state(redis_url: str, proxy: FaultProxy) -> Iterator[State]:
    degraded._logged.clear()
    with State(proxy.url(redis_url), namespace=uuid.uuid4().hex) as state:
        state.ping()
        yield state


def locking(state: State, policy: str) -> Callable[[], object]:
    lock = state.lock("jobs", unavailable=policy)  # type: ignore[arg-type]
    return lambda: lock.acquire("nightly").__enter__()


def claiming(state: State, policy: str) -> Callable[[], object]:
    orders = state.idempotency("orders", unavailable=policy)  # type: ignore[arg-type]
    return lambda: orders.claim("key").__enter__()


EACH = pytest.mark.parametrize(
    ("call", "what", "denial"),
    [
        (locking, "lock 'jobs'", LockTimeout),
        (claiming, "idempotency 'orders'", InFlight),
    ],
)


@EACH
def test_raise_is_the_default(
    state: State,
    proxy: FaultProxy,
    call: Callable[..., Callable[[], object]],
    what: str,
    denial: type[AnypodError],
) -> None:
    proxy.refuse()
    with pytest.raises(StoreUnavailable):
        state.lock("jobs").acquire().__enter__()
    with pytest.raises(StoreUnavailable):
        state.idempotency("orders").claim("key").__enter__()
    with pytest.raises(StoreUnavailable):
        call(state, "raise")()


@EACH
def test_deny_refuses_as_if_others_were_at_it_and_says_why(
    state: State,
    proxy: FaultProxy,
    caplog: pytest.LogCaptureFixture,
    call: Callable[..., Callable[[], object]],
    what: str,
    denial: type[AnypodError],
) -> None:
    events: list[Event] = []
    state.observe(events.append)
    attempt = call(state, "deny")
    proxy.refuse()
    with caplog.at_level(logging.WARNING, logger="anypod"):
        for _ in range(3):
            with pytest.raises(denial, match=f"{what}: .*the store cannot be reached") as told:
                attempt()
            assert isinstance(told.value.__cause__, StoreUnavailable)
    lines = [record.getMessage() for record in caplog.records if what in record.getMessage()]
    assert len(lines) == 1, "one line for an outage, not one for each call"
    assert f"{what} is degraded to 'deny'" in lines[0]
    told_of = [(event.primitive, event.degraded) for event in events if event.degraded]
    assert told_of == [(what.partition(" ")[0], "deny")] * 3
    proxy.allow()


@EACH
def test_a_policy_that_would_break_the_promise_is_refused(
    state: State,
    call: Callable[..., Callable[[], object]],
    what: str,
    denial: type[AnypodError],
) -> None:
    for policy in ("allow", "local", "stale", ""):
        with pytest.raises(ConfigurationError, match=f"{what}: unavailable must be raise or deny"):
            call(state, policy)


def test_a_lost_reply_denies_for_as_long_as_the_claim_may_stand(
    state: State, proxy: FaultProxy
) -> None:
    orders = state.idempotency("orders", lease=20.0, unavailable="deny")
    with orders.claim("another"):
        pass  # the server knows the script, so that the next exchange is the claim itself
    proxy.inject(Fault.BEFORE_REPLY)
    with pytest.raises(InFlight) as told:
        orders.claim("key").__enter__()
    assert isinstance(told.value.__cause__, OutcomeUnknown)
    assert told.value.retry_after == 20.0
    assert orders.explain("key").attempts == 1, "it was granted, and nobody knew"


def test_a_waiter_whose_store_goes_away_is_denied(state: State, proxy: FaultProxy) -> None:
    lock = state.lock("jobs", unavailable="deny")
    with lock.acquire("x"):
        waiter = state.lock("jobs", unavailable="deny")

        async def scenario() -> None:
            queued = asyncio.Event()

            def told(event: Event) -> None:
                if event.outcome == "waiting":
                    queued.set()

            state.observe(told)
            waiting = asyncio.create_task(waiter.aacquire("x").__aenter__())
            await asyncio.wait_for(queued.wait(), 30.0)
            proxy.refuse()
            with pytest.raises(LockTimeout, match="cannot be reached"):
                await asyncio.wait_for(waiting, 30.0)
            await state.aclose()

        asyncio.run(scenario())


def test_the_handlers_work_is_not_hidden_when_its_outcome_cannot_be_noted(
    state: State, proxy: FaultProxy
) -> None:
    """Denying is for those who have not begun: what was done and not noted is raised."""
    orders = state.idempotency("orders", unavailable="deny")
    with pytest.raises(StoreUnavailable), orders.claim("key") as attempt:
        proxy.refuse()
        attempt.complete("done")


def test_within_denies_before_it_begins_a_transaction(state: State, proxy: FaultProxy) -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.execute(table("sqlite"))
    orders = state.idempotency("orders", unavailable="deny")
    proxy.refuse()
    with pytest.raises(InFlight):
        orders.within(database).claim("key").__enter__()
    assert not database.in_transaction
    database.close()
