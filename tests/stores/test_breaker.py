"""After several commands in a row found nobody there, the next ones fail at once for a while."""

from __future__ import annotations

import asyncio

import pytest
from tests.servers import Server

from anypod.commands import Add, Get, Total
from anypod.errors import RecordError, StoreUnavailable
from anypod.stores import open_store
from anypod.stores.breaker import FIRST_PAUSE, LONGEST_PAUSE, THRESHOLD, Breaker, BreakerOpen
from anypod.testing import FaultProxy

pytestmark = pytest.mark.quick

KEY = "ap:t:counter:hits:sx"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_looks_again() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(THRESHOLD):
        breaker.enter()
        breaker.failed(ConnectionError("refused"))
    with pytest.raises(BreakerOpen, match=r"not tried.*next attempt is in 0\.25 s.*refused"):
        breaker.enter()
    clock.now += FIRST_PAUSE
    breaker.enter()  # one looks …
    with pytest.raises(BreakerOpen):
        breaker.enter()  # … the others wait
    breaker.succeeded()
    breaker.enter()
    breaker.enter()


def test_the_pause_doubles_up_to_a_bound_and_starts_again_after_success() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    pauses = []
    for _ in range(20):
        breaker.failed(ConnectionError())
        start = clock.now
        while breaker.failures >= THRESHOLD:
            try:
                breaker.enter()
            except BreakerOpen:
                clock.now += FIRST_PAUSE
            else:
                break
        pauses.append(clock.now - start)
    assert pauses[: THRESHOLD - 1] == [0.0] * (THRESHOLD - 1)
    assert pauses[THRESHOLD - 1 : THRESHOLD + 2] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == LONGEST_PAUSE


def test_many_that_fail_at_once_do_not_make_the_pause_longer() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(100):
        breaker.failed(ConnectionError())
    clock.now += FIRST_PAUSE
    breaker.enter()
    breaker.succeeded()
    one = ConnectionError("of a connection that many shared")
    for _ in range(100):
        breaker.failed(one)
    breaker.enter()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_store_that_is_away_is_not_asked_by_everybody(
    redis_url: str, redis_server: Server, clock: Clock
) -> None:
    with (
        FaultProxy("127.0.0.1", redis_server.port) as proxy,
        open_store(proxy.url(redis_url)) as store,
    ):
        store._breaker = Breaker(clock)
        store.execute(Add(KEY))
        proxy.refuse()
        for _ in range(THRESHOLD):
            with pytest.raises(StoreUnavailable, match=r"closed|reset"):
                store.execute(Add(KEY))
        with pytest.raises(StoreUnavailable, match="not tried"):
            store.execute(Add(KEY))

        async def work() -> None:
            with pytest.raises(StoreUnavailable, match="not tried"):
                await store.aexecute(Add(KEY))
            proxy.allow()
            clock.now += FIRST_PAUSE
            assert (await store.aexecute(Add(KEY))).value == 2
            await store.aclose()

        asyncio.run(work())
        assert store.execute(Add(KEY)).value == 3


def test_an_engine_that_answers_with_an_error_is_there(redis_url: str, clock: Clock) -> None:
    with open_store(redis_url) as store:
        store._breaker = Breaker(clock)
        store.execute(Add(KEY))
        for _ in range(THRESHOLD + 1):
            with pytest.raises(RecordError):
                store.execute(Get(KEY))
        assert store.execute(Total(KEY)) == 1
