"""Defects that were reproduced or read in other libraries, each as a test that ours passes, on every store.

Those that belong to HTTP (truncated streams, a replay on another path) are in `tests/web`.
"""

from __future__ import annotations

import asyncio
import threading

import pytest

from anypod import InFlight, SessionEnded, State
from anypod.commands import Acquire, Release
from anypod.errors import LeaseLost, LockTimeout
from anypod.primitives.rate_limit import hit_all

from .conftest import advance


def test_a_slow_reader_reverts_nothing(state: State) -> None:
    """Flask-Session 0.8: a read-only request writes back all that it read."""
    sessions = state.session()
    token = sessions.create(cart=["pen"]).id
    slow, quick = sessions.load(token), sessions.load(token)
    assert slow is not None
    assert quick is not None
    assert slow["cart"] == ["pen"]
    quick["cart"].append("ink")
    quick.save()
    slow.save()
    again = sessions.load(token)
    assert again is not None
    assert again["cart"] == ["pen", "ink"]


def test_a_slow_request_resurrects_no_session(state: State) -> None:
    """Flask-Session 0.8, starsessions #58: a save after the logout brings the session back."""
    sessions = state.session()
    token = sessions.create(user=7).id
    slow, out = sessions.load(token), sessions.load(token)
    assert slow is not None
    assert out is not None
    out.end()
    slow["seen"] = True
    with pytest.raises(SessionEnded):
        slow.save()
    assert sessions.load(token) is None
    assert sessions.sessions(7) == []


def test_an_id_that_the_client_chose_is_not_adopted(state: State) -> None:
    """starsessions 2.2: whatever the cookie says becomes the session's id."""
    sessions = state.session()
    chosen = "A" * 22 + "." + "B" * 43
    assert sessions.load(chosen) is None
    mine = sessions.create(user=7)
    assert mine.id != chosen
    assert sessions.load(chosen) is None


def test_a_users_index_keeps_no_dead_sessions(state: State) -> None:
    """Spring Session #2230, #1987: the index leaks ids of sessions that timed out."""
    sessions = state.session(idle=60.0, absolute=86_400.0)
    for _ in range(5):
        sessions.create(user=7)
        advance(state, 61.0)
    alive = sessions.create(user=7)
    assert [info.handle for info in sessions.sessions(7)] == [alive.handle]
    assert sessions.revoke(7) == 1


def test_an_identical_retry_gets_the_outcome(state: State) -> None:
    """Powertools 3.37 on Redis: completing drops the fingerprint, and an identical retry is refused."""
    orders = state.idempotency("orders")
    for _ in range(3):
        with orders.claim("key", "f") as attempt:
            if not attempt.replayed:
                attempt.complete({"id": 7})
            assert attempt.outcome == {"id": 7}


def test_a_zombie_overwrites_no_successor(state: State) -> None:
    """Powertools 3.37: completing and deleting carry no owner, so a late holder replaces the outcome."""
    orders = state.idempotency("orders", lease=30.0)
    with pytest.raises(LeaseLost), orders.claim("key") as zombie:
        advance(state, 31.0)
        with orders.claim("key") as successor:
            successor.complete("successor")
        zombie.complete("zombie")
    with orders.claim("key") as later:
        assert later.outcome == "successor"


def test_a_vanished_holder_does_not_block_a_key_for_ever(state: State) -> None:
    """asgi-idempotency-header 0.2: 409 for ever; Powertools #1038, #4759: stuck in progress."""
    orders = state.idempotency("orders", lease=30.0)

    async def vanish() -> None:
        try:
            async with orders.aclaim("key"):
                raise asyncio.CancelledError
        finally:
            await state.aclose()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(vanish())
    with pytest.raises(InFlight):
        orders.claim("key").__enter__()
    advance(state, 31.0)
    with orders.claim("key") as attempt:
        assert not attempt.replayed
        attempt.complete("done")


def test_a_living_holder_is_not_taken_for_dead(state: State) -> None:
    """idemkit 1.0: no heartbeat, so whatever takes longer than the lease runs twice."""
    orders = state.idempotency("orders", lease=0.3)
    with orders.claim("key") as attempt:
        with pytest.raises(InFlight):
            orders.claim("key", wait=1.0).__enter__()
        attempt.complete("done")


def test_concurrent_duplicates_run_once(state: State) -> None:
    """django-idempotency-key 1.3: two at once both run."""
    orders = state.idempotency("orders")
    ran: list[int] = []
    meet = threading.Barrier(6)

    @orders.once(key=lambda key, _: key, wait=20.0)
    def place(key: str, number: int) -> int:
        ran.append(number)
        return number

    def call(number: int) -> None:
        meet.wait()
        place("key", number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 1


def test_a_refusal_gives_back_what_other_limits_gave(state: State) -> None:
    """limits 5.8: several limits are hit one by one, and what they took stays taken."""
    both = state.rate_limit("both", "100/hour; 2/day")
    address, user = state.rate_limit("address", "100/hour"), state.rate_limit("user", "2/hour")
    for _ in range(9):
        both.hit("ada")
        hit_all((address, "10.0.0.1"), (user, "ada"))
    assert both.peek("ada").quotas[0].remaining == 98
    assert address.peek("10.0.0.1").quotas[0].remaining == 98


def test_statistics_are_those_of_the_hit(state: State) -> None:
    """limits 5.8: the numbers for the headers are asked for afterwards, when others have hit."""
    limit = state.rate_limit("api", "100/hour")
    assert [limit.hit("ip").quotas[0].remaining for _ in range(3)] == [99, 98, 97]


def test_tasks_that_share_a_lock_object_do_not_share_the_lock(state: State) -> None:
    """redis-py's asyncio Lock: the token is in a thread-local, so every task of the thread has it."""
    lock = state.lock("jobs")

    async def scenario() -> None:
        async with lock.aacquire("x"):

            async def other() -> None:
                async with lock.aacquire("x", wait=0.0):
                    pass

            with pytest.raises(LockTimeout):
                await asyncio.create_task(other())
        await state.aclose()

    asyncio.run(scenario())


def test_a_crashed_holder_does_not_hold_for_ever(state: State) -> None:
    """python-redis-lock 4.0, redis-py with `timeout=None`: no expiry unless one asks for it."""
    lock = state.lock("jobs")
    assert state.store.execute(Acquire(lock._address("x"), "crashed", lock.lease)).token
    with pytest.raises(LockTimeout):
        lock.acquire("x", wait=0.0).__enter__()
    advance(state, lock.lease + 1.0)
    with lock.acquire("x", wait=0.0):
        pass


def test_waiters_are_served_in_turn(state: State) -> None:
    """redis-py's Lock: one of four processes waited 1.6 s while the others had it hundreds of times."""
    address = state.lock("jobs")._address("x")

    def ask(name: str) -> int | None:
        return state.store.execute(Acquire(address, name, 30.0, 60.0)).token

    token = ask("a")
    assert [ask(name) for name in "bcd"] == [None] * 3
    for holder in "abcd" * 3:
        assert token is not None
        assert state.store.execute(Release(address, token))
        assert ask(holder) is None, "who had it asks again at once, and is behind the others"
        following = chr((ord(holder) - ord("a") + 1) % 4 + ord("a"))
        assert all(ask(name) is None for name in "abcd" if name != following)
        token = ask(following)
