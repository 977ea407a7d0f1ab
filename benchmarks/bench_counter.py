"""An increment that every replica sees, on a real Redis, beside the standard client's bare `incr()`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anypod import State
from benchmarks.harness import Contest, Fact, Side, Skipped, Within, coroutine, statement

try:
    import pytest
    import redis
    import redis.asyncio
    from tests.servers import Server, redis_executable, start_redis
except ModuleNotFoundError as missing:
    raise Skipped(f"{missing.name} is not installed (requirements/dev.txt)") from missing


def cpu_clock(server: Server) -> Callable[[], float]:
    """CPU seconds of this process and the server together; the wall clock where Linux is absent."""
    spent = Path(f"/proc/{server.process.pid}/schedstat")
    if not spent.exists():
        return time.perf_counter
    return lambda: time.process_time() + int(spent.read_text().split()[0]) / 1e9


@contextlib.contextmanager
def redis_server() -> Iterator[Server]:
    """A Redis of our own for the time of a block.

    Raises:
        Skipped: there is none.
    """
    try:
        server = start_redis(redis_executable())
    except (pytest.skip.Exception, pytest.fail.Exception) as reason:
        raise Skipped(str(reason)) from reason
    try:
        yield server
    finally:
        server.stop()


def exchanges(
    client: redis.Redis[Any], operation: Callable[[], object], times: int = 1000
) -> float:
    """How often the server had to read from a connection per operation."""
    operation()

    def reads() -> int:
        return int(client.info("stats")["total_reads_processed"])

    before = reads()
    between = reads() - before  # what asking costs
    before = reads()
    for _ in range(times):
        operation()
    return (reads() - before - between) / times


def contests() -> Iterator[Contest | Fact]:
    """Blocking, then awaiting; exchanges are counted by the server."""
    with redis_server() as server, contextlib.closing(_Served(server)) as served:
        yield from served.contests()


class _Served:
    def __init__(self, server: Server) -> None:
        self.url = f"redis://127.0.0.1:{server.port}/0"
        self.clock = cpu_clock(server)
        self.loop = asyncio.new_event_loop()

    def close(self) -> None:
        self.loop.close()

    def sides(self, code: str, **names: Any) -> Side:
        side = statement(code, clock=self.clock, **names)
        side(100)
        return side

    def contests(self) -> Iterator[Contest | Fact]:
        with State(self.url) as state, redis.Redis.from_url(self.url) as client:
            hits = state.counter("hits")
            script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
            yield Fact("exchanges per increment", exchanges(client, hits.increment), must_be=1)
            yield Fact("exchanges per read", exchanges(client, hits.value), must_be=1)
            once = iter(range(10**9))
            yield Fact(
                "exchanges per increment with once=",
                exchanges(client, lambda: hits.increment(once=next(once))),
                must_be=1,
            )
            yield Contest(
                "hits.increment()",
                self.sides("hits.increment()", hits=hits),
                {
                    "redis-py incr()": self.sides("c.incr('plain')", c=client),
                    "redis-py script": self.sides("s(keys=['plain'], args=[1])", s=script),
                },
                {"redis-py incr()": Within(1.3)},
            )
            yield Contest(
                "hits.value()",
                self.sides("hits.value()", hits=hits),
                {"redis-py get()": self.sides("c.get('plain')", c=client)},
            )
        yield from self.awaited()

    def awaited(self) -> Iterator[Contest]:
        state = State(self.url)
        client = redis.asyncio.Redis.from_url(self.url)
        hits = state.counter("hits")

        def side(code: str, **names: Any) -> Side:
            made = coroutine(self.loop, code, clock=self.clock, **names)
            made(20)
            return made

        crowd = "await gather(*[f() for _ in range(50)])"

        async def incr() -> None:
            await client.incr("plain")

        try:
            yield Contest(
                "await hits.aincrement()",
                side("await hits.aincrement()", hits=hits),
                {"redis.asyncio incr()": side("await c.incr('plain')", c=client)},
                {"redis.asyncio incr()": Within(1.3)},
            )
            yield Contest(
                "50 awaited at once",
                side(crowd, gather=asyncio.gather, f=hits.aincrement),
                {"redis.asyncio incr()": side(crowd, gather=asyncio.gather, f=incr)},
            )
        finally:
            self.loop.run_until_complete(client.aclose())
            self.loop.run_until_complete(state.aclose())
