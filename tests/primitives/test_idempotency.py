from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from anypod import ConfigurationError, InFlight, KeyReused, State
from anypod.errors import EarlierFailure, LeaseLost, NotReplayable
from anypod.primitives.explanation import Fate
from anypod.primitives.heartbeat import Heartbeat

from .conftest import advance


def test_the_second_caller_gets_the_outcome_of_the_first(state: State) -> None:
    orders = state.idempotency("orders")
    with orders.claim("key", "f") as first:
        assert not first.replayed
        first.complete({"id": 7})
    with orders.claim("key", "f") as second:
        assert second.replayed
        assert second.outcome == {"id": 7}


def test_a_block_that_says_nothing_completes_with_none(state: State) -> None:
    orders = state.idempotency("orders")
    with orders.claim("key"):
        pass
    with orders.claim("key") as second:
        assert (second.replayed, second.outcome) == (True, None)


def test_other_arguments_under_the_same_key_are_refused(state: State) -> None:
    orders = state.idempotency("orders")
    with (
        orders.claim("key", "f"),
        pytest.raises(KeyReused, match="a new operation needs a new key"),
        orders.claim("key", "g"),
    ):
        pass
    with pytest.raises(KeyReused), orders.claim("key", "g"):
        pass


def test_families_do_not_meet(state: State) -> None:
    with state.idempotency("a").claim("key") as attempt:
        attempt.complete(1)
    with state.idempotency("b").claim("key") as attempt:
        assert not attempt.replayed


def test_in_flight_says_when_to_come_back(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)
    with orders.claim("key"):
        with pytest.raises(InFlight) as refusal, orders.claim("key"):
            pass
        assert 0 < refusal.value.retry_after <= 30.0


def test_a_waiting_caller_gets_the_outcome(state: State) -> None:
    orders = state.idempotency("orders")
    claimed, outcomes = threading.Event(), []

    def holder() -> None:
        with orders.claim("key") as attempt:
            claimed.set()
            attempt.complete("done")

    thread = threading.Thread(target=holder)
    thread.start()
    claimed.wait(10)
    with orders.claim("key", wait=10.0) as attempt:
        outcomes.append(attempt.outcome)
    thread.join()
    assert outcomes == ["done"]


def test_eight_callers_one_execution(state: State) -> None:
    orders = state.idempotency("orders")
    executed: list[int] = []
    outcomes: list[object] = []

    def call(number: int) -> None:
        with orders.claim("key", wait=20.0) as attempt:
            if not attempt.replayed:
                executed.append(number)
                attempt.complete(number)
            outcomes.append(attempt.outcome)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(executed) == 1
    assert outcomes == executed * 8


def test_a_failure_is_an_outcome(state: State) -> None:
    orders = state.idempotency("orders")
    with pytest.raises(ZeroDivisionError), orders.claim("key"):
        raise ZeroDivisionError
    with pytest.raises(EarlierFailure, match="ZeroDivisionError"), orders.claim("key"):
        pass


def test_unless_the_handler_declares_that_nothing_happened(state: State) -> None:
    orders = state.idempotency("orders")
    with pytest.raises(ZeroDivisionError), orders.claim("key") as attempt:
        attempt.abandon()
        raise ZeroDivisionError
    with orders.claim("key") as attempt:
        assert not attempt.replayed


def test_or_the_family_retries_failures(state: State) -> None:
    jobs = state.idempotency("jobs", failures="retry")
    with pytest.raises(ZeroDivisionError), jobs.claim("message-1"):
        raise ZeroDivisionError
    with jobs.claim("message-1") as attempt:
        assert not attempt.replayed


def test_a_zombie_cannot_overwrite_its_successor(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)
    with pytest.raises(LeaseLost, match="was not stored"), orders.claim("key") as zombie:
        advance(state, 31.0)
        with orders.claim("key") as successor:
            assert successor.number == 2
            assert successor.token > zombie.token
            successor.complete("successor")
        zombie.complete("zombie")
    with orders.claim("key") as later:
        assert later.outcome == "successor"


def test_a_late_holder_without_a_successor_still_completes(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)
    with orders.claim("key") as late:
        advance(state, 31.0)
        late.complete("late")
    with orders.claim("key") as later:
        assert later.outcome == "late"


def test_outcomes_are_forgotten_after_their_ttl(state: State) -> None:
    orders = state.idempotency("orders", ttl=3_600.0)
    with orders.claim("key") as attempt:
        attempt.complete(1)
    advance(state, 3_599.0)
    with orders.claim("key") as attempt:
        assert attempt.replayed
    advance(state, 2.0)
    with orders.claim("key") as attempt:
        assert not attempt.replayed


def test_a_sealed_operation_is_neither_replayed_nor_executed(state: State) -> None:
    orders = state.idempotency("orders")
    with orders.claim("key") as attempt:
        attempt.seal()
    with pytest.raises(NotReplayable), orders.claim("key"):
        pass


def test_an_attempt_settles_once(state: State) -> None:
    with state.idempotency("orders").claim("key") as attempt:
        attempt.complete(1)
        with pytest.raises(RuntimeError, match="settled"):
            attempt.complete(2)


def test_a_lost_reply_to_complete_may_be_repeated(state: State) -> None:
    from anypod.commands import Complete

    orders = state.idempotency("orders")
    with orders.claim("key") as attempt:
        attempt.complete("done")
        again = Complete(attempt.address, attempt.token, orders.encoded("done"), 60.0)
        other = Complete(attempt.address, attempt.token, orders.encoded("else"), 60.0)
        assert state.store.execute(again)
        assert not state.store.execute(other)


def test_outcomes_of_a_type_come_back_as_that_type(state: State) -> None:
    @dataclass
    class Order:
        number: int
        lines: tuple[str, ...]

    orders = state.idempotency("orders", type=Order)
    with orders.claim("key") as attempt:
        attempt.complete(Order(7, ("pen",)))
    with orders.claim("key") as attempt:
        assert attempt.outcome == Order(7, ("pen",))


def test_the_heartbeat_renews_and_notices_a_successor(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)
    with pytest.raises(LeaseLost), orders.claim("key") as attempt:
        heartbeat = Heartbeat(state.store, attempt.address, attempt.token, 30.0)
        for _ in range(3):
            advance(state, 20.0)
            assert heartbeat.beat()
        with pytest.raises(InFlight), orders.claim("key"):
            pass
        advance(state, 31.0)
        with orders.claim("key") as successor:
            successor.complete(None)
        assert not heartbeat.beat()
        assert heartbeat.lost.is_set()


def test_a_living_holder_keeps_a_short_lease(state: State) -> None:
    orders = state.idempotency("orders", lease=0.3)
    with orders.claim("key") as attempt:
        with pytest.raises(InFlight), orders.claim("key", wait=1.0):
            pass
        attempt.complete("alive")


def test_the_async_twins(state: State) -> None:
    orders = state.idempotency("orders", lease=0.3)

    async def scenario() -> None:
        async with orders.aclaim("key", "f") as attempt:
            with pytest.raises(InFlight):
                async with orders.aclaim("key", "f", wait=1.0):
                    pass
            await attempt.acomplete([1])
        async with orders.aclaim("key", "f") as attempt:
            assert attempt.outcome == [1]
        with pytest.raises(KeyReused):
            async with orders.aclaim("key", "g"):
                pass
        async with orders.aclaim("nothing") as attempt:
            await attempt.aabandon()
        async with orders.aclaim("nothing") as attempt:
            assert not attempt.replayed
            await attempt.aseal()
        with pytest.raises(ZeroDivisionError):
            async with orders.aclaim("boom"):
                raise ZeroDivisionError
        with pytest.raises(EarlierFailure):
            async with orders.aclaim("boom"):
                pass
        await state.aclose()

    asyncio.run(scenario())


def test_a_cancelled_handler_leaves_the_claim_in_doubt_until_its_lease(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)

    async def scenario() -> None:
        claimed = asyncio.Event()

        async def handler() -> None:
            async with orders.aclaim("key"):
                claimed.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(handler())
        await claimed.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(InFlight):
            async with orders.aclaim("key"):
                pass
        advance(state, 31.0)
        async with orders.aclaim("key") as attempt:
            assert attempt.number == 2
        await state.aclose()

    asyncio.run(scenario())


def _claim_and_hang(url: str, ready: str) -> None:
    with State(url, namespace="killed").idempotency("orders", lease=0.5).claim("key"):
        Path(ready).touch()
        signal.pause()


def test_the_lease_of_a_killed_handler_runs_out(tmp_path: Path) -> None:
    url, ready = f"sqlite:///{tmp_path}/state.db", tmp_path / "ready"
    context = multiprocessing.get_context("spawn")
    handler = context.Process(target=_claim_and_hang, args=(url, str(ready)))
    handler.start()
    while not ready.exists():
        handler.join(0.01)
        assert handler.is_alive()
    assert handler.pid is not None
    os.kill(handler.pid, signal.SIGKILL)
    handler.join()
    with (
        State(url, namespace="killed") as state,
        state.idempotency("orders", lease=0.5).claim("key", wait=20.0) as attempt,
    ):
        assert not attempt.replayed
        assert attempt.number == 2


def test_bad_options_are_refused(state: State) -> None:
    for option in ("lease", "ttl"):
        with pytest.raises(ConfigurationError, match=f"{option} must be seconds above 0"):
            state.idempotency("orders", **{option: 0.0})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="failures"):
        state.idempotency("orders", failures="ignore")  # type: ignore[arg-type]


def test_explain_says_what_has_become_of_an_operation(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)
    assert orders.explain("key").fate is Fate.UNKNOWN
    with orders.claim("key", "f") as attempt:
        at_work = orders.explain("key")
        assert (at_work.fate, at_work.attempts, at_work.token) == (
            Fate.IN_FLIGHT,
            1,
            attempt.token,
        )
        assert 0 < at_work.lease_left <= 30.0
        assert "refused for" in str(at_work)
        advance(state, 31.0)
        vanished = orders.explain("key")
        assert (vanished.fate, vanished.lease_left) == (Fate.IN_DOUBT, 0.0)
        assert "carried out again" in str(vanished)
        attempt.complete({"id": 7})
    done = orders.explain("key")
    assert (done.fate, done.outcome, done.attempts) == (Fate.COMPLETE, {"id": 7}, 1)
    advance(state, 86_401.0)
    assert orders.explain("key").fate is Fate.UNKNOWN


def test_explain_tells_failed_and_sealed_operations(state: State) -> None:
    orders = state.idempotency("orders")
    with pytest.raises(ZeroDivisionError), orders.claim("failed"):
        raise ZeroDivisionError
    failed = orders.explain("failed")
    assert failed.fate is Fate.FAILED
    assert "ZeroDivisionError" in str(failed)
    with orders.claim("sealed") as attempt:
        attempt.seal()
    assert orders.explain("sealed").fate is Fate.SEALED
    with orders.claim("given up") as attempt:
        attempt.abandon()
    assert orders.explain("given up").fate is Fate.UNKNOWN


def test_explain_changes_nothing(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)

    async def scenario() -> None:
        assert (await orders.aexplain("key")).fate is Fate.UNKNOWN
        async with orders.aclaim("key") as attempt:
            assert attempt.number == 1
            assert (await orders.aexplain("key")).fate is Fate.IN_FLIGHT
        assert (await orders.aexplain("key")).fate is Fate.COMPLETE
        await state.aclose()

    asyncio.run(scenario())


def test_a_lease_shorter_than_an_exchange_is_refused_before_anything_is_done(state: State) -> None:
    orders = state.idempotency("orders", lease=1e-6)
    with pytest.raises(LeaseLost, match="'orders': the lease of 1e-06 s was over before"):
        orders.claim("key").__enter__()
    assert orders.explain("key").fate is Fate.UNKNOWN
