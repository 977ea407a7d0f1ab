"""One connection for all tasks of an event loop: order, cancellation, back-pressure, loss."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.servers import Server

from anypod.commands import Add, Get, Put, Total
from anypod.errors import OutcomeUnknown
from anypod.stores import Store, open_store
from anypod.stores.redis import RedisDriver, channel
from anypod.stores.redis.codec import request
from anypod.testing import Fault, FaultProxy

KEY = "ap:t:counter:hits:sx"


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with open_store(redis_url) as store:
        yield store


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


def test_commands_of_one_tick_leave_together(proxy: FaultProxy, redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.aexecute(Add(KEY))
        before = proxy.exchanges
        replies = await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(50)))
        assert [reply.value for reply in replies] == list(range(2, 52))
        assert proxy.exchanges - before == 1
        assert proxy.connections == 1
        await store.aclose()

    with open_store(proxy.url(redis_url)) as store:
        asyncio.run(work(store))


def test_waiting_requests_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MOST_WAITING", 20)

    async def work() -> None:
        replies = await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(500)))
        assert sorted(reply.value for reply in replies) == list(range(1, 501))
        await store.aclose()

    asyncio.run(work())


def test_room_that_cancelled_requests_leave_is_given_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MOST_WAITING", 20)

    async def work() -> None:
        await store.aexecute(Add(KEY))
        doomed = [asyncio.ensure_future(store.aexecute(Add(KEY))) for _ in range(20)]
        await asyncio.sleep(0)  # they are queued, and nothing of them has left
        patient = asyncio.ensure_future(store.aexecute(Add(KEY)))
        for task in doomed:
            task.cancel()
        await asyncio.wait_for(patient, 30)
        await asyncio.gather(*doomed, return_exceptions=True)
        await store.aclose()

    asyncio.run(work())


def test_a_cancelled_task_harms_no_other(redis_server: Server, redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.aexecute(Add(KEY))
        assert isinstance(store.driver, RedisDriver)
        redis_server.pause()
        try:
            tasks = [asyncio.ensure_future(store.aexecute(Add(KEY))) for _ in range(10)]
            while not store.driver._node.channel()._sent:  # noqa: ASYNC110  # nobody tells when it leaves
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks[::2], return_exceptions=True)
        finally:
            redis_server.resume()
        assert [reply.value for reply in await asyncio.gather(*tasks[1::2])] == [3, 5, 7, 9, 11]
        assert all(task.cancelled() for task in tasks[::2])
        assert await store.aexecute(Total(KEY)) == 11, "what has left is executed"
        await store.aclose()

    with open_store(redis_url + "?timeout=60") as store:
        asyncio.run(work(store))


def test_requests_that_belong_together_stay_together(redis_server: Server) -> None:
    """Between MULTI and EXEC nobody else's request may come, also where many wait for room."""

    async def work(store: Store) -> None:
        driver = store.driver
        assert isinstance(driver, RedisDriver)
        node, ping = driver._node, request("PING")
        crowd = [node.aexchange([ping]) for _ in range(200)]
        block = [request("MULTI"), ping, request("EXEC")]
        replies = await asyncio.gather(*crowd[:100], node.aexchange(block), *crowd[100:])
        assert replies[100] == [b"OK", b"QUEUED", [b"PONG"]]
        assert replies[:100] == replies[101:] == [[b"PONG"]] * 100
        await store.aclose()

    with (
        pytest.MonkeyPatch.context() as patch,
        open_store(f"redis://127.0.0.1:{redis_server.port}") as store,
    ):
        patch.setattr(channel, "MOST_WAITING", 20)
        asyncio.run(work(store))


def test_one_lost_connection_counts_once(proxy: FaultProxy, redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.aexecute(Add(KEY))
        proxy.inject(Fault.BEFORE_REPLY)
        replies = await asyncio.gather(
            *(store.aexecute(Add(KEY)) for _ in range(50)), return_exceptions=True
        )
        assert {type(reply) for reply in replies} == {OutcomeUnknown}
        assert await store.aexecute(Total(KEY)) == 51, "the store is not taken for away"
        await store.aclose()

    with open_store(proxy.url(redis_url)) as store:
        asyncio.run(work(store))


def test_large_requests_wait_for_the_kernel(store: Store) -> None:
    async def work() -> None:
        keys = [f"ap:t:map:m:s{number}" for number in range(12)]
        await asyncio.gather(*(store.aexecute(Put(key, b"x" * 2_000_000)) for key in keys))
        found = await asyncio.gather(*(store.aexecute(Get(key)) for key in keys))
        assert all(value is not None and len(value.value) == 2_000_000 for value in found)
        await store.aclose()

    asyncio.run(work())


def test_a_lost_connection_tells_only_those_it_concerns(proxy: FaultProxy, redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.aexecute(Add(KEY))
        proxy.inject(Fault.BEFORE_REPLY)
        first = asyncio.ensure_future(store.aexecute(Add(KEY)))
        with pytest.raises(OutcomeUnknown):
            await first
        assert (await store.aexecute(Add(KEY))).value == 3, "the unknown one had been executed"
        await store.aclose()

    with open_store(proxy.url(redis_url)) as store:
        asyncio.run(work(store))
