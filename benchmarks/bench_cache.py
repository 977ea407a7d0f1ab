"""The shared cache on a real Redis, beside a cache by hand: `get`, decode, and `set` on a miss."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from anypod import State
from benchmarks.bench_counter import cpu_clock, exchanges, redis_server
from benchmarks.harness import Contest, Fact, coroutine, statement

try:
    import redis
    import redis.asyncio
except ModuleNotFoundError as missing:
    from benchmarks.harness import Skipped

    raise Skipped(f"{missing.name} is not installed (requirements/dev.txt)") from missing

VALUE = {"id": 7, "name": "tea", "price": 3, "tags": ["green", "loose"], "stock": None}


class ByHand:
    """What one writes without a library: no lease, so a late load may store what is out of date."""

    def __init__(self, client: redis.Redis[Any]) -> None:
        self.client = client
        self.encode = msgspec.msgpack.Encoder().encode
        self.decode = msgspec.msgpack.Decoder().decode

    def get_or_load(self, key: str, loader: Any) -> Any:
        stored = self.client.get(key)
        if stored is not None:
            return self.decode(stored)
        value = loader()
        self.client.set(key, self.encode(value), ex=300)
        return value


def load() -> dict[str, Any]:
    return VALUE


def loads_of_a_cold_key(state: State, threads: int) -> int:
    """How often threads of two replicas load one missing key."""
    replicas = [state.cache("cold", ttl=300.0) for _ in range(2)]
    loads: list[int] = []
    meet = threading.Barrier(threads)

    def loader() -> int:
        loads.append(1)
        return len(loads)

    def work(index: int) -> None:
        meet.wait()
        replicas[index % 2].get_or_load("key", loader)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    return len(loads)


def contests() -> Iterator[Contest | Fact]:
    """A hit, a miss, a cold key wanted by many."""
    with redis_server() as server:
        url, clock = f"redis://127.0.0.1:{server.port}/0", cpu_clock(server)
        with State(url) as state, redis.Redis.from_url(url) as client:
            ours, hand = state.cache("data", ttl=300.0), ByHand(client)
            yield Fact("exchanges per hit", exchanges(client, lambda: ours.get_or_load(1, load)), 1)
            keys = itertools.count(10)
            yield Fact(
                "exchanges per miss",
                exchanges(client, lambda: ours.get_or_load(next(keys), load)),
                2,
            )
            yield Fact(
                "loads of a cold key, 16 threads, 2 replicas", loads_of_a_cold_key(state, 16), 1
            )
            for what, call in (
                ("hit", "c.get_or_load('key', load)"),
                ("miss", "c.get_or_load(str(next(keys)), load)"),
            ):
                sides = {
                    name: statement(
                        call, clock=clock, c=cache, load=load, keys=itertools.count(10**6)
                    )
                    for name, cache in (("anypod", ours), ("redis-py by hand", hand))
                }
                for side in sides.values():
                    side(50)
                yield Contest(what, sides.pop("anypod"), sides)
        yield from awaited(url, clock)


def awaited(url: str, clock: Any) -> Iterator[Contest]:
    loop = asyncio.new_event_loop()
    state, client = State(url), redis.asyncio.Redis.from_url(url)
    ours, decode = state.cache("data", ttl=300.0), msgspec.msgpack.Decoder().decode
    try:
        sides = {
            "": coroutine(
                loop, "await c.aget_or_load('key', load)", clock=clock, c=ours, load=load
            ),
            "redis.asyncio by hand": coroutine(
                loop, "decode(await c.get('key'))", clock=clock, c=client, decode=decode
            ),
        }
        loop.run_until_complete(client.set("key", msgspec.msgpack.encode(VALUE)))
        sides[""](20)
        yield Contest("awaited hit", sides.pop(""), sides)
    finally:
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(state.aclose())
        loop.close()
