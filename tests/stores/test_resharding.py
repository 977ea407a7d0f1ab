"""Slots that move, or that nobody has, while commands and walks are under way."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.crc import key_slot
from tests.servers import Cluster, redis_executable, start_cluster, valkey_executable, wait_until
from tests.stores.topologies import (
    KEY,
    Traffic,
    begin,
    errors,
    finish,
    migrate,
    move_keys,
    walked,
)

from anypod.commands import Add, Put, Scan, Total
from anypod.errors import StoreUnavailable
from anypod.stores import Store, open_store

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("topologies")]


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three primaries without replicas, which are started sooner."""
    programs = {"redis": redis_executable, "valkey": valkey_executable}
    cluster = start_cluster(programs[getattr(request, "param", "redis")](), replicas=0)
    yield cluster
    cluster.stop()


def test_a_slot_moves_while_it_is_used(bare: Cluster) -> None:
    slot = key_slot(KEY.encode())
    with open_store(f"redis+cluster://{bare.hosts}") as store:
        with Traffic(store) as traffic:
            traffic.await_more()
            source, target = migrate(bare, slot)
            traffic.await_more()
            move_keys(bare, slot, source, target)
            traffic.await_more()  # by ASK
            finish(bare, slot, target)
            traffic.await_more()  # by MOVED
        assert traffic.unknown == traffic.refused == 0
        traffic.check(store.execute(Total(KEY)))

        async def work() -> None:
            source, target = migrate(bare, slot)
            await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(20)))
            move_keys(bare, slot, source, target)
            await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(20)))
            finish(bare, slot, target)
            await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(20)))
            await store.aclose()

        before = store.execute(Total(KEY))
        asyncio.run(work())
        assert store.execute(Total(KEY)) == before + 60


def test_two_keys_of_a_moving_slot_wait_until_they_are_together(bare: Cluster) -> None:
    slot = key_slot(KEY.encode())
    with open_store(f"redis+cluster://{bare.hosts}?timeout=60") as store:
        assert store.execute(Add(KEY, once="a")).value == 1
        source, target = migrate(bare, slot)
        bare.ask(source, "MIGRATE", "127.0.0.1", target.port, KEY, 0, 5000)
        done: list[int] = []
        thread = threading.Thread(
            target=lambda: done.append(store.execute(Add(KEY, once="a")).value)
        )
        thread.start()  # the counter is there, its operation id still here
        wait_until(lambda: errors(bare, "TRYAGAIN"), "a refusal")
        move_keys(bare, slot, source, target)
        finish(bare, slot, target)
        thread.join(30)
        assert done == [1]


def test_a_slot_that_nobody_has_is_waited_for(bare: Cluster) -> None:
    slot = key_slot(KEY.encode())
    owner = bare.owner(slot)
    url = f"redis+cluster://{bare.hosts}"

    async def work(store: Store) -> int:
        added = await store.aexecute(Add(KEY))
        await store.aclose()
        return added.value

    with (
        open_store(url + "?timeout=0.3") as hasty,
        open_store(url + "?timeout=60") as store,
        open_store(url + "?timeout=60") as other,
        ThreadPoolExecutor(2) as pool,
    ):
        for each in (hasty, store):
            each.execute(Add(KEY))
        for node in bare.nodes:
            bare.ask(node, "CLUSTER", "DELSLOTS", slot)
        with pytest.raises(StoreUnavailable, match="slot"):
            hasty.execute(Add(KEY))
        told = errors(bare, "CLUSTERDOWN")
        assert told
        threaded = pool.submit(store.execute, Add(KEY))
        wait_until(lambda: errors(bare, "CLUSTERDOWN") > told, "a refusal")
        looped = pool.submit(asyncio.run, work(other))
        bare.ask(owner, "CLUSTER", "ADDSLOTS", slot)
        assert {threaded.result(60).value, looped.result(60)} == {3, 4}
        assert hasty.execute(Add(KEY)).value == 5


def keys_of(prefix: str, slot: int, number: int) -> list[str]:
    """So many keys of one slot."""
    found: list[str] = []
    for candidate in itertools.count():
        key = f"{prefix}s{candidate}"
        if key_slot(key.encode()) == slot:
            found.append(key)
        if len(found) == number:
            return found
    raise AssertionError


@pytest.mark.parametrize(
    ("way", "bare"), [("sync", "redis"), ("async", "valkey")], indirect=["bare"]
)
def test_a_walk_meets_what_moves_meanwhile(bare: Cluster, way: str) -> None:
    prefix = "ap:t:map:walk:"
    with (
        open_store(f"redis+cluster://{bare.hosts}?timeout=20") as store,
        asyncio.Runner() as runner,
    ):
        # One slot stays between two nodes for the whole walk, half of its keys here, half there.
        halved = 16_000
        stuck = keys_of(prefix, halved, 6)
        keys = {*stuck, *(f"{prefix}s{number}" for number in range(300))}
        for key in keys:
            store.execute(Put(key, b"x"))
        source, target = migrate(bare, halved)
        for key in stuck[::2]:
            bare.ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        first = bare.owner(0)  # where a walk begins
        met: set[str] = set()
        moves = 0
        after: str | None = ""
        while after is not None:
            command = Scan(prefix, after, 20)
            page = store.execute(command) if way == "sync" else runner.run(store.aexecute(command))
            met.update(key for key, _ in page.items)
            after = page.after
            ahead = sorted(keys - met - set(stuck))
            if ahead and moves < 12:
                # A slot that was not looked at yet goes to a node that was, or is being looked at.
                slot = key_slot(ahead[-1].encode())
                if slot != halved and bare.owner(slot) is not first:
                    moves += 1
                    begin(bare, slot, bare.owner(slot), first)
                    move_keys(bare, slot, bare.owner(slot), first)
                    finish(bare, slot, first)
        assert moves, "nothing has moved"
        assert met == keys
        runner.run(store.aclose())


def test_a_walk_that_cannot_see_every_slot_says_so(bare: Cluster) -> None:
    with open_store(f"redis+cluster://{bare.hosts}?timeout=0.3") as store:
        for node in bare.nodes:
            bare.ask(node, "CLUSTER", "DELSLOTS", 16_000)
        with pytest.raises(StoreUnavailable, match="no node of the cluster has slot 16000"):
            walked(store, "ap:t:map:walk:")
