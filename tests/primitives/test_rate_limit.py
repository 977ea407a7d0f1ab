from __future__ import annotations

import asyncio
import logging
import math
import threading
from typing import Any

import pytest

from anypod import ConfigurationError, State, StoreUnavailable
from anypod.commands import Algorithm, Command, Policy
from anypod.primitives import degraded
from anypod.primitives.rate_limit import RateLimit, ahit_all, hit_all

from .conftest import advance

ALGORITHMS = [algorithm.value for algorithm in Algorithm]


def admitted(limit: RateLimit, hits: int, key: Any = "ip") -> int:
    return sum(limit.hit(key).allowed for _ in range(hits))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_limit_holds_and_capacity_comes_back(state: State, algorithm: str) -> None:
    limit = state.rate_limit("api", "5/hour", algorithm=algorithm)
    assert admitted(limit, 8) == 5
    assert admitted(limit, 8, "other") == 5
    advance(state, 7_200.0)
    assert admitted(limit, 8) == 5


def test_gcra_admits_at_most_burst_plus_rate_times_t(state: State) -> None:
    limit = state.rate_limit("api", "60/minute burst 10")
    assert admitted(limit, 20) == 10
    for _ in range(5):
        advance(state, 3.0)
        assert admitted(limit, 20) == 3


def test_a_fixed_window_admits_its_limit_in_each_window(state: State) -> None:
    limit = state.rate_limit("api", "4/day", algorithm="fixed window")
    total = 0
    for _ in range(12):
        total += admitted(limit, 5)
        advance(state, 3_600.0 * 4)
    assert total in {8, 12}  # two days, which touch two or three windows


def test_a_sliding_log_admits_its_limit_in_any_span(state: State) -> None:
    limit = state.rate_limit("api", "6/minute", algorithm="sliding log")
    moments: list[int] = []
    for second in range(0, 180, 5):
        moments += [second] * admitted(limit, 2)
        advance(state, 5.0)
    for start in moments:
        assert sum(start <= moment < start + 60 for moment in moments) <= 6
    assert len(moments) == 18


def test_a_sliding_counter_spreads_the_window_before(state: State) -> None:
    limit = state.rate_limit("api", "100/hour", algorithm="sliding counter")
    assert admitted(limit, 150) == 100
    # Its reset says where in the window we are: go to the beginning of the next one.
    advance(state, limit.peek("ip").quotas[0].reset - 3_600.0 + 1.0)
    assert admitted(limit, 150) == 0
    advance(state, 1_800.0)
    assert admitted(limit, 150) == 50
    advance(state, 900.0)
    assert admitted(limit, 150) == 25


def test_a_decision_carries_what_headers_need(state: State) -> None:
    limit = state.rate_limit("api", "10/minute; 100/day")
    decision = limit.hit("ip", cost=4)
    assert [quota.remaining for quota in decision.quotas] == [6, 96]
    assert [policy.limit for policy in decision.policies] == [10, 100]
    assert decision.limiting[0].limit == 10
    assert decision.retry_after == 0.0
    assert 23.0 < decision.quotas[0].reset <= 24.0
    refused = limit.hit("ip", cost=10)
    assert not refused
    assert 23.0 < refused.retry_after <= 24.0
    assert refused.limiting[0].limit == 10


def test_several_policies_are_taken_all_or_none(state: State) -> None:
    limit = state.rate_limit("api", "100/minute; 3/hour")
    assert admitted(limit, 10) == 3
    assert limit.peek("ip").quotas[0].remaining >= 97


def test_peek_takes_nothing_and_refund_gives_back(state: State) -> None:
    limit = state.rate_limit("api", "2/hour")
    assert limit.peek("ip").allowed
    assert admitted(limit, 2) == 2
    assert not limit.peek("ip").allowed
    assert not limit.hit("ip").allowed
    limit.refund("ip")
    assert limit.hit("ip").allowed
    limit.refund("ip", cost=2)
    limit.refund("ip", cost=2)
    assert admitted(limit, 5) == 2


def test_a_denial_that_holds_costs_no_exchange(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = state.rate_limit("api", "10/minute")
    assert limit.hit("ip", cost=8)
    refused = limit.hit("ip", cost=5)
    assert not refused
    seen: list[Command[Any]] = []
    execute = state.store.perform
    monkeypatch.setattr(state.store, "perform", lambda c: (seen.append(c), execute(c))[1])
    again = limit.hit("ip", cost=5)
    assert not again
    assert 0 < again.retry_after <= refused.retry_after
    assert not limit.hit("ip", cost=6)
    assert seen == []
    assert limit.hit("ip", cost=2)  # a smaller cost may fit, and is asked
    assert len(seen) == 1
    advance(state, 61.0)
    assert limit.hit("ip", cost=5)


def test_eight_callers_whose_clocks_differ_are_one_limit(state: State) -> None:
    limits = [state.rate_limit("api", "50/hour") for _ in range(8)]
    counts: list[int] = []

    def work(limit: RateLimit) -> None:
        counts.append(admitted(limit, 20))

    threads = [threading.Thread(target=work, args=(limit,)) for limit in limits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 50


def test_overrides(state: State) -> None:
    limit = state.rate_limit("api", "2/hour", overrides={"partner": "5/hour"})
    assert admitted(limit, 9, "partner") == 5
    assert admitted(limit, 9, "other") == 2
    by_plan = state.rate_limit(
        "plans", "1/hour", overrides=lambda key: "3/hour" if key[0] == "gold" else None
    )
    assert admitted(by_plan, 9, ("gold", 1)) == 3
    assert admitted(by_plan, 9, ("free", 1)) == 1


def test_shadow_mode_admits_and_says(state: State) -> None:
    limit = state.rate_limit("api", "1/hour", shadow=True)
    assert not limit.hit("ip").would_deny
    second = limit.hit("ip")
    assert second.allowed
    assert second.would_deny
    assert second.retry_after == 0.0


def test_several_subjects_give_back_what_they_took_when_one_refuses(state: State) -> None:
    by_ip = state.rate_limit("ip", "10/hour")
    by_user = state.rate_limit("user", "2/hour")
    for _ in range(2):
        assert hit_all((by_ip, "ip"), (by_user, "ada"))[-1].allowed
    assert not hit_all((by_ip, "ip"), (by_user, "ada"))[-1].allowed
    assert by_ip.peek("ip").quotas[0].remaining == 8


def test_the_async_twins(state: State) -> None:
    limit = state.rate_limit("api", "3/hour")

    async def scenario() -> None:
        decisions = await asyncio.gather(*(limit.ahit("ip") for _ in range(6)))
        assert sum(decision.allowed for decision in decisions) == 3
        assert not (await limit.apeek("ip")).allowed
        await limit.arefund("ip")
        assert (await ahit_all((limit, "ip")))[-1].allowed
        assert not (await ahit_all((limit, "ip")))[-1].allowed
        await state.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("cost", [0, -1, 1.0, True, None])
def test_a_cost_that_is_none_is_refused(state: State, cost: Any) -> None:
    with pytest.raises(ValueError, match="a cost must be an int"):
        state.rate_limit("api", "3/hour").hit("ip", cost=cost)


@pytest.mark.parametrize("cost", [0, -1, 1.5, "x", True, None, 4])
def test_a_bad_cost_is_told_while_a_denial_holds_too(state: State, cost: Any) -> None:
    limit = state.rate_limit("api", "1/hour", colocate="login")
    assert [limit.hit("ip").allowed for _ in range(2)] == [True, False]
    other = state.rate_limit("other", "9/hour", colocate="login")
    for call in (
        lambda: limit.hit("ip", cost=cost),
        lambda: asyncio.run(limit.ahit("ip", cost=cost)),
        lambda: hit_all((limit, "ip"), (other, "ada"), cost=cost),
    ):
        with pytest.raises(ValueError, match="a cost"):
            call()


def test_a_cost_that_never_fits_says_so(state: State) -> None:
    with pytest.raises(ValueError, match="can never be admitted by 3/hour"):
        state.rate_limit("api", "3/hour").hit("ip", cost=4)


def test_bad_options_are_refused(state: State) -> None:
    with pytest.raises(ConfigurationError, match="there is no algorithm 'leaky'"):
        state.rate_limit("api", "3/hour", algorithm="leaky")
    with pytest.raises(ConfigurationError, match="none twice"):
        state.rate_limit("api", "3/hour; 3/hour")
    with pytest.raises(ConfigurationError, match="at least one"):
        state.rate_limit("api", [])
    for policy in (
        Policy(Algorithm.GCRA, 0, 60.0, 1),
        Policy(Algorithm.GCRA, 1, 60.0, 0),
        Policy(Algorithm.SLIDING_LOG, 1, 0.0, 1),
        Policy(Algorithm.SLIDING_LOG, 1, math.nan, 1),
    ):
        with pytest.raises(ConfigurationError, match="a limit and a burst from 1 to 1,000,000"):
            state.rate_limit("api", [policy])
    with pytest.raises(ConfigurationError, match="character"):
        state.rate_limit("api", "3/hour", overrides={"x": "3/fortnight"})
    with pytest.raises(ConfigurationError, match="needs replicas="):
        state.rate_limit("api", "3/hour", unavailable="local")
    with pytest.raises(ConfigurationError, match="nothing else does"):
        state.rate_limit("api", "3/hour", replicas=3)


class TestStoreDown:
    @pytest.fixture
    def down(self) -> State:
        state = State("memory://", namespace="")

        def unreachable(command: Command[Any]) -> Any:
            raise StoreUnavailable("the store is down")

        state.store.perform = unreachable  # type: ignore[method-assign]
        return state

    def test_raise(self, down: State) -> None:
        with pytest.raises(StoreUnavailable):
            down.rate_limit("api", "3/hour").hit("ip")

    def test_deny_and_allow_say_that_they_are_degraded(self, down: State) -> None:
        denied = down.rate_limit("api", "3/hour", unavailable="deny").hit("ip")
        assert (denied.allowed, denied.degraded) == (False, True)
        allowed = down.rate_limit("api", "3/hour", unavailable="allow").hit("ip")
        assert (allowed.allowed, allowed.degraded) == (True, True)

    def test_local_counts_this_replicas_share(self, down: State) -> None:
        limit = down.rate_limit("api", "9/hour", unavailable="local", replicas=3)
        decisions = [limit.hit("ip") for _ in range(5)]
        assert [decision.allowed for decision in decisions] == [True] * 3 + [False] * 2
        assert all(decision.degraded for decision in decisions[:4])
        assert 0 < decisions[-1].retry_after <= 1_200.0
        assert not math.isinf(decisions[0].quotas[0].reset)

    def test_an_outage_writes_one_line(self, down: State, caplog: pytest.LogCaptureFixture) -> None:
        degraded._logged.clear()
        limit = down.rate_limit("outage", "9/hour", unavailable="allow")
        with caplog.at_level(logging.WARNING, logger="anypod"):
            for _ in range(50):
                limit.hit("ip")
        assert len(caplog.records) == 1
        assert "rate limit 'outage' is degraded to 'allow'" in caplog.text
