"""Redis: waits that are cut off, silence, and connections in use while a store closes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import redis
from tests.servers import Server, free_port, wait_until

from anypod.commands import (
    Add,
)
from anypod.errors import OutcomeUnknown, StoreUnavailable
from anypod.stores import open_store
from anypod.stores.redis.codec import request
from anypod.testing import FaultProxy

KEY = "ap:t:counter:hits:sx"


def test_silence_is_bounded(start: Callable[..., Server]) -> None:
    server = start()
    with open_store(f"redis://127.0.0.1:{server.port}?timeout=1") as store:
        store.execute(Add(KEY))
        server.pause()
        with pytest.raises(OutcomeUnknown, match=r"no reply came within 1 s"):
            store.execute(Add(KEY))

        async def work() -> None:
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.aexecute(Add(KEY))  # a new connection whose greeting is not answered
            server.resume()
            await store.aexecute(Add(KEY))
            server.pause()
            replies = await asyncio.gather(
                *(store.aexecute(Add(KEY)) for _ in range(3)), return_exceptions=True
            )
            assert [type(reply) for reply in replies] == [OutcomeUnknown] * 3
            server.resume()
            assert (await store.aexecute(Add(KEY))).value >= 3
            await store.aclose()

        asyncio.run(work())


def test_a_wait_that_is_cut_off_ends_and_the_next_one_waits(
    proxy: FaultProxy, redis_url: str, client: redis.Redis
) -> None:
    box = "ap:t:lock:l:sx#me"
    with ThreadPoolExecutor(1) as pool, open_store(proxy.url(redis_url)) as store:
        for way in (store.receive, lambda *wait: asyncio.run(later(*wait))):

            async def later(box: str, seconds: float) -> bool:
                came = await store.areceive(box, seconds)
                await store.aclose()
                return came

            waiting = pool.submit(way, box, 60.0)
            wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the wait")
            proxy.cut()
            assert waiting.result(30) is False
            client.rpush("{ap:t:lock:l:sx}#me", "1")
            assert way(box, 60.0) is True
            proxy.cut()  # an idle connection of those that wait: noticed before it is used
            client.rpush("{ap:t:lock:l:sx}#me", "1")
            assert way(box, 60.0) is True


def test_a_connection_in_use_while_the_store_closes_is_closed_after(
    start: Callable[..., Server],
) -> None:
    server = start()
    box = "ap:t:lock:l:sx#me"
    with (
        ThreadPoolExecutor(1) as pool,
        redis.Redis(port=server.port) as client,
        open_store(f"redis://127.0.0.1:{server.port}") as store,
    ):
        links = store.driver.members()[0][1].links

        def shared(box: str, seconds: float) -> None:
            links.exchange(request("BLPOP", "list", str(seconds)))

        def piped(box: str, seconds: float) -> None:
            links.pipeline([request("BLPOP", "list", str(seconds))])

        def wake() -> None:
            client.rpush("list", "1")
            client.rpush("{ap:t:lock:l:sx}#me", "1")

        def blocked() -> bool:
            return client.info("clients")["blocked_clients"] == 1

        async def awaited() -> None:
            wait = asyncio.create_task(store.areceive(box, 4.0))
            await asyncio.to_thread(wait_until, blocked, "the wait")
            await store.aclose()
            wake()
            await wait

        def alone() -> bool:
            return client.info("clients")["connected_clients"] == 1

        for way in (shared, piped, store.receive):
            waiting = pool.submit(way, box, 4.0)
            wait_until(blocked, "the wait")
            store.close()
            wake()
            waiting.result(30)
            wait_until(alone, "every connection is closed")
            client.flushall()
        asyncio.run(awaited())
        wait_until(alone, "every connection is closed")


def test_a_host_that_does_not_answer_costs_the_time_to_connect() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(3):  # nobody accepts, so that there is no place for another
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        url = f"redis://127.0.0.1:{address[1]}?connect_timeout=0.2&timeout=60"
        store = stack.enter_context(open_store(url))
        with pytest.raises(StoreUnavailable, match=r"(?i)time"):
            store.execute(Add(KEY))

        async def work() -> None:
            with pytest.raises(StoreUnavailable, match=r"(?i)time"):
                await store.aexecute(Add(KEY))
            await store.aclose()

        asyncio.run(work())


def test_a_wait_ends_when_the_server_is_demoted(start: Callable[..., Server]) -> None:
    server = start()
    with (
        ThreadPoolExecutor(1) as pool,
        redis.Redis(port=server.port) as client,
        open_store(f"redis://127.0.0.1:{server.port}") as store,
    ):
        waiting = pool.submit(store.receive, "ap:t:lock:l:sx#me", 60.0)
        wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the wait")
        client.replicaof("127.0.0.1", free_port())
        assert waiting.result(30) is False
