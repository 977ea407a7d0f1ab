from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import copy_context
from typing import Any

import pytest

from anypod import ConfigurationError, State
from anypod.commands import Acquire, Command, Release, Renew, Withdraw, mailbox
from anypod.errors import LeaseLost, LockTimeout, OutcomeUnknown, Reentered

from .conftest import advance


def test_one_holder_at_a_time(state: State) -> None:
    lock = state.lock("jobs")
    inside, most = 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with lock.acquire("nightly"):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_tokens_grow(state: State) -> None:
    lock = state.lock("jobs")
    tokens = []
    for _ in range(5):
        with lock.acquire() as hold:
            tokens.append(hold.token)
    assert tokens == sorted(set(tokens))


def test_not_waiting_and_waiting_in_vain(state: State) -> None:
    lock, other = state.lock("jobs"), state.lock("jobs")
    failures: list[BaseException] = []

    def elsewhere() -> None:
        for wait in (0.0, 0.05):
            try:
                with other.acquire(wait=wait):
                    pass
            except LockTimeout as failure:
                failures.append(failure)

    with lock.acquire():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(failures) == 2
    with other.acquire(wait=0.0):
        pass


def test_reentrance_is_refused(state: State) -> None:
    lock = state.lock("jobs")
    with lock.acquire("a"):
        with lock.acquire("b"):
            pass
        with pytest.raises(Reentered, match="would wait for itself"), lock.acquire("a"):
            pass
    with lock.acquire("a"):
        pass


def test_a_holder_that_was_taken_over_is_told(state: State) -> None:
    lock = state.lock("jobs", lease=30.0)
    prices = state.map("prices")
    with pytest.raises(LeaseLost, match="somebody else took over"), lock.acquire() as zombie:
        advance(state, 31.0)
        address = lock._address(None)
        successor = state.store.execute(Acquire(address, "successor", 30.0))
        assert successor.token is not None
        assert successor.token > zombie.token
        prices.set("pen", "successor", fence=successor.token)
        with pytest.raises(LeaseLost, match="larger fencing token"):
            prices.set("pen", "zombie", fence=zombie.token)
        assert zombie._heartbeat is not None
        assert not zombie._heartbeat.beat()
        assert zombie.lost.is_set()
        with pytest.raises(LeaseLost, match="ran out"):
            zombie.check()
    assert prices.get("pen") == "successor"


def test_the_holders_own_deadline_is_before_the_stores(state: State) -> None:
    with state.lock("jobs", lease=20.0).acquire() as hold:
        hold.check()
        assert hold.deadline <= time.monotonic() + 18.0


def test_the_heartbeat_keeps_a_short_lease(state: State) -> None:
    lock = state.lock("jobs", lease=0.3)
    with lock.acquire() as hold:
        end = time.monotonic() + 10
        while hold._heartbeat is None or hold._heartbeat.renewed is None:
            assert time.monotonic() < end
            hold.lost.wait(0.01)
        hold.check()
        assert state.store.execute(Acquire(lock._address(None), "thief", 1.0)).token is None


def test_hand_over_is_in_the_order_of_asking(state: State) -> None:
    lock = state.lock("jobs")
    address = lock._address("x")
    first = state.store.execute(Acquire(address, "first", 30.0))
    assert first.token is not None
    for place, name in enumerate(("second", "third", "fourth"), 1):
        asked = state.store.execute(Acquire(address, name, 30.0, 60.0))
        assert (asked.token, asked.position) == (None, place)
    assert state.store.execute(Release(address, first.token))
    assert state.store.execute(Acquire(address, "fourth", 30.0, 60.0)).token is None
    assert state.store.execute(Acquire(address, "barger", 30.0)).token is None
    assert state.store.receive(mailbox(address, "second"), 5.0)
    second = state.store.execute(Acquire(address, "second", 30.0, 60.0))
    assert second.token is not None


def test_a_dead_waiter_is_skipped(state: State) -> None:
    address = state.lock("jobs")._address("x")
    first = state.store.execute(Acquire(address, "first", 30.0))
    assert first.token is not None
    state.store.execute(Acquire(address, "dead", 30.0, 3.0))
    state.store.execute(Acquire(address, "alive", 30.0, 60.0))
    advance(state, 4.0)
    state.store.execute(Release(address, first.token))
    assert state.store.execute(Acquire(address, "alive", 30.0, 60.0)).token is not None


def test_a_lost_reply_to_acquire_may_be_repeated(state: State) -> None:
    address = state.lock("jobs")._address("x")
    first = state.store.execute(Acquire(address, "me", 30.0))
    again = state.store.execute(Acquire(address, "me", 30.0))
    assert first.token == again.token


def test_a_waiter_that_gives_up_leaves_the_queue(state: State) -> None:
    lock = state.lock("jobs")
    address = lock._address("x")
    first = state.store.execute(Acquire(address, "first", 30.0))
    assert first.token is not None
    with pytest.raises(LockTimeout), lock.acquire("x", wait=0.05):
        pass
    state.store.execute(Release(address, first.token))
    assert state.store.execute(Acquire(address, "next", 30.0)).token is not None


def test_a_release_by_someone_elses_token_does_nothing(state: State) -> None:
    lock = state.lock("jobs")
    with lock.acquire("x") as hold:
        assert not state.store.execute(Release(lock._address("x"), hold.token - 1))
        assert not state.store.execute(Release(lock._address("x"), hold.token + 1))


def test_slots_admit_so_many(state: State) -> None:
    slots = state.slots("downloads", 3)
    with slots.acquire("ada"), slots.acquire("ada"), slots.acquire("ada"):
        with pytest.raises(LockTimeout, match="3 of 3"), slots.acquire("ada", wait=0.0):
            pass
        with slots.acquire("bob", wait=0.0):
            pass
    with slots.acquire("ada", wait=0.0):
        pass


def test_the_async_twin(state: State) -> None:
    lock = state.lock("jobs")

    async def scenario() -> None:
        order: list[int] = []

        async def work(number: int) -> None:
            async with lock.aacquire("x") as hold:
                order.append(number)
                hold.check()
                await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(4)))
        assert sorted(order) == [0, 1, 2, 3]
        async with lock.aacquire("x"):
            with pytest.raises(Reentered):
                async with lock.aacquire("x"):
                    pass
        await state.aclose()

    asyncio.run(scenario())


def test_tasks_that_share_the_object_do_not_share_the_lock(state: State) -> None:
    lock = state.lock("jobs")

    async def scenario() -> None:
        acquired = asyncio.Event()
        finish = asyncio.Event()

        async def holder() -> None:
            async with lock.aacquire():
                acquired.set()
                await finish.wait()

        task = asyncio.create_task(holder())
        await acquired.wait()
        with pytest.raises(LockTimeout):
            async with lock.aacquire(wait=0.0):
                pass
        finish.set()
        await task
        await state.aclose()

    asyncio.run(scenario())


def test_a_cancelled_waiter_leaves_the_queue(state: State) -> None:
    lock = state.lock("jobs")

    async def scenario() -> None:
        async with lock.aacquire():
            waiter = asyncio.create_task(wait_for_it())
            address = lock._address(None)
            while (await state.store.aexecute(Acquire(address, "probe", 1.0, 5.0))).position < 2:
                await state.store.aexecute(Withdraw(address, "probe"))
                await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            asked = await state.store.aexecute(Acquire(address, "probe", 1.0, 5.0))
            assert asked.position == 1
            await state.store.aexecute(Withdraw(address, "probe"))
        await state.aclose()

    async def wait_for_it() -> None:
        async with lock.aacquire():
            pass

    asyncio.run(scenario())


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OutcomeUnknown("lost")])
def test_who_is_cut_off_while_asking_holds_nothing(
    state: State, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    lock = state.lock("jobs")
    perform, failures = state.store.perform, [failure]

    def cut_off(command: Command[Any]) -> Any:
        reply = perform(command)
        if failures:
            raise failures.pop()
        return reply

    monkeypatch.setattr(state.store, "perform", cut_off)
    with pytest.raises(type(failure)):
        lock.acquire().__enter__()
    with lock.acquire(wait=0.0):
        pass


def test_who_is_cancelled_while_asking_holds_nothing_and_waits_for_nothing(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = state.lock("jobs")
    perform, failures = state.store.aperform, [asyncio.CancelledError()]

    async def cancelled(command: Command[Any]) -> Any:
        reply = await perform(command)
        if failures:
            raise failures.pop()
        return reply

    async def scenario() -> None:
        monkeypatch.setattr(state.store, "aperform", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await lock.aacquire().__aenter__()
        async with lock.aacquire(wait=0.0):
            failures.append(asyncio.CancelledError())
            with pytest.raises(asyncio.CancelledError):
                await asyncio.create_task(lock.aacquire().__aenter__())
            asked = await state.store.aexecute(Acquire(lock._address(None), "probe", 1.0, 5.0))
            assert asked.position == 1
        await state.aclose()

    asyncio.run(scenario())


def test_cancelled_at_whatever_moment_it_leaks_nothing(state: State) -> None:
    """Also where commands of one task may travel on several connections."""
    lock = state.lock("jobs", lease=600.0)

    async def use(key: int) -> None:
        async with lock.aacquire(key):
            await asyncio.sleep(0)

    async def scenario() -> None:
        for key in range(80):
            task = asyncio.create_task(use(key))
            for _ in range(key % 9):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        for key in range(80):
            async with lock.aacquire(key, wait=60.0):
                pass
        await state.aclose()

    asyncio.run(scenario())


def test_a_block_may_be_left_in_another_context(state: State) -> None:
    """As frameworks do that run the two ends of a dependency in a pool of threads."""
    lock = state.lock("jobs")
    for _ in range(2):
        block = lock.acquire(wait=0.0)
        block.__enter__()
        with pytest.raises(Reentered):
            lock.acquire().__enter__()
        copy_context().run(block.__exit__, None, None, None)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of 3.12, where threads run
def test_a_forked_child_releases_nothing(state: State) -> None:
    lock = state.lock("jobs")
    block = lock.acquire()
    hold = block.__enter__()
    if (child := os.fork()) == 0:
        try:
            block.__exit__(None, None, None)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert state.store.execute(Renew(lock._address(None), hold.token, 30.0))
    block.__exit__(None, None, None)
    with lock.acquire(wait=0.0):
        pass


def test_a_lease_shorter_than_an_exchange_is_refused_before_the_block(state: State) -> None:
    lock = state.lock("jobs", lease=1e-6)
    with pytest.raises(LeaseLost, match="'jobs': the lease of 1e-06 s was over before"):
        lock.acquire("x").__enter__()

    async def scenario() -> None:
        with pytest.raises(LeaseLost, match="many times longer"):
            await lock.aacquire("x").__aenter__()
        await state.aclose()

    asyncio.run(scenario())
    with state.lock("jobs", lease=30.0).acquire("x", wait=0.0):
        pass


def test_bad_options_are_refused(state: State) -> None:
    with pytest.raises(ConfigurationError, match="lease must be seconds above 0"):
        state.lock("jobs", lease=0)
    with pytest.raises(ConfigurationError, match="limit must be an int from 1 on"):
        state.slots("jobs", 0)
