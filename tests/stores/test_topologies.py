"""Clusters and sentinels that change while commands are under way: failover, resharding, demotion."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest
import redis
from redis.crc import key_slot
from tests.servers import (
    Cluster,
    Server,
    Watched,
    start_cluster,
    start_watched,
    valkey_executable,
    wait_until,
)

from anypod.cli import main
from anypod.commands import Acquire, Add, Publish, Put, Release, Scan, Total, mailbox
from anypod.errors import ConfigurationError, OutcomeUnknown, StoreUnavailable
from anypod.stores import Store, open_store

KEY = "ap:t:counter:hits:sx"

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("topologies")]


@dataclass
class Traffic:
    """Steps of one counter from several threads, and what was said about each."""

    store: Store
    acknowledged: list[int] = field(default_factory=list)
    unknown: int = 0
    refused: int = 0
    failures: list[BaseException] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]
        for thread in self._threads:
            thread.start()
        return self

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.acknowledged.append(self.store.execute(Add(KEY)).value)
            except OutcomeUnknown:
                self.unknown += 1
            except StoreUnavailable:
                self.refused += 1
                self._stop.wait(0.01)
            except BaseException as failure:  # noqa: BLE001  # raised again at the end
                self.failures.append(failure)
                return

    def await_more(self, number: int = 50) -> None:
        """Wait until so many more steps were acknowledged."""
        goal = len(self.acknowledged) + number
        wait_until(
            lambda: self.failures or len(self.acknowledged) >= goal, f"{number} more steps", 60
        )

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
        if self.failures:
            raise self.failures[0]

    def check(self, total: int) -> None:
        """Nothing acknowledged was lost, nothing was done twice."""
        told = len(self.acknowledged)
        assert len(set(self.acknowledged)) == told, "one step was acknowledged twice"
        assert told <= total <= told + self.unknown, (
            f"{told} acknowledged, {self.unknown} unknown, {self.refused} refused, and then {total}"
        )


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster that the test may break."""
    cluster = start_cluster(valkey_executable())
    yield cluster
    cluster.stop()


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A watched primary that the test may break."""
    watched = start_watched(valkey_executable())
    yield watched
    watched.stop()


def test_a_cluster_survives_a_failover(cluster: Cluster) -> None:
    slot = key_slot(KEY.encode())
    with open_store(f"redis+cluster://{cluster.hosts}?timeout=1") as store:
        with Traffic(store) as before:
            before.await_more()
        primary = cluster.owner(slot)
        # A cluster replicates behind the reply: only what the replica has outlives the primary.
        wait_until(lambda: _replicated(primary), "replication")
        primary.kill()
        with Traffic(store) as after:
            after.await_more()
        assert after.refused, "the failover went by unnoticed"
        after.acknowledged += before.acknowledged
        after.check(store.execute(Total(KEY)))


def _replicated(primary: Server) -> bool:
    """Whether the replica has everything that the primary has said yes to."""
    with redis.Redis(port=primary.port) as client:
        about = client.info("replication")
    return bool(about["slave0"]["offset"] == about["master_repl_offset"])


def migrate(cluster: Cluster, slot: int) -> tuple[Server, Server]:
    """Begin to move a slot to another primary; its keys are still where they were."""
    source = cluster.owner(slot)
    slots = cluster.ask(source, "CLUSTER", "SLOTS")
    ports = {primary[1] for _, _, primary, *_ in slots}
    target = next(n for n in cluster.nodes if n.port in ports and n.port != source.port)
    cluster.ask(
        target, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.ask(source, "CLUSTER", "MYID")
    )
    cluster.ask(
        source, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.ask(target, "CLUSTER", "MYID")
    )
    return source, target


def move_keys(cluster: Cluster, slot: int, source: Server, target: Server) -> None:
    for key in cluster.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        cluster.ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)


def finish(cluster: Cluster, slot: int, target: Server) -> None:
    identity = cluster.ask(target, "CLUSTER", "MYID")
    for node in (target, *cluster.living()):
        with redis.Redis(port=node.port) as client:
            if client.info("replication")["role"] == "master":
                cluster.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", identity)


def test_a_slot_moves_while_it_is_used(cluster: Cluster) -> None:
    slot = key_slot(KEY.encode())
    with open_store(f"redis+cluster://{cluster.hosts}") as store:
        with Traffic(store) as traffic:
            traffic.await_more()
            source, target = migrate(cluster, slot)
            traffic.await_more()
            move_keys(cluster, slot, source, target)
            traffic.await_more()  # by ASK
            finish(cluster, slot, target)
            traffic.await_more()  # by MOVED
        assert traffic.unknown == traffic.refused == 0
        traffic.check(store.execute(Total(KEY)))

        async def work() -> None:
            source, target = migrate(cluster, slot)
            await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(20)))
            move_keys(cluster, slot, source, target)
            await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(20)))
            finish(cluster, slot, target)
            await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(20)))
            await store.aclose()

        before = store.execute(Total(KEY))
        asyncio.run(work())
        assert store.execute(Total(KEY)) == before + 60


def test_two_keys_of_a_moving_slot_wait_until_they_are_together(cluster: Cluster) -> None:
    slot = key_slot(KEY.encode())
    with open_store(f"redis+cluster://{cluster.hosts}") as store:
        assert store.execute(Add(KEY, once="a")).value == 1
        source, target = migrate(cluster, slot)
        cluster.ask(source, "MIGRATE", "127.0.0.1", target.port, KEY, 0, 5000)
        done: list[int] = []
        thread = threading.Thread(
            target=lambda: done.append(store.execute(Add(KEY, once="a")).value)
        )
        thread.start()  # the counter is there, its operation id still here
        move_keys(cluster, slot, source, target)
        finish(cluster, slot, target)
        thread.join(30)
        assert done == [1]


def test_a_walk_meets_the_values_of_every_node(redis_cluster: Cluster) -> None:
    with open_store(f"redis+cluster://{redis_cluster.hosts}") as store:
        keys = {f"ap:t:map:walk:s{number}" for number in range(300)}
        for key in keys:
            store.execute(Put(key, b"x"))
        met: set[str] = set()
        after: str | None = ""
        while after is not None:
            page = store.execute(Scan("ap:t:map:walk:", after))
            met.update(key for key, _ in page.items)
            after = page.after
        assert met == keys
        replies = store.driver.execute_many([Add(key.replace("map", "counter")) for key in keys])
        assert [reply.value for reply in replies] == [1] * 300


def test_a_cluster_passes_messages_on(redis_cluster: Cluster) -> None:
    with open_store(f"redis+cluster://{redis_cluster.hosts}") as store:
        listeners = [store.driver.listen("ap:t:channel:c:") for _ in range(4)]
        store.execute(Publish("ap:t:channel:c:", b"to all"))
        assert [listener.get(30) for listener in listeners] == [b"to all"] * 4
        for listener in listeners:
            listener.close()


def test_a_cluster_without_nodes(redis_cluster: Cluster) -> None:
    nobody = "redis+cluster://127.0.0.1:1,127.0.0.1:2"
    with (
        open_store(nobody) as store,
        pytest.raises(StoreUnavailable, match="no node of the cluster"),
    ):
        store.execute(Add(KEY))


def test_the_doctor_finds_slots_without_an_owner(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    slot = key_slot(KEY.encode())
    url = f"redis+cluster://{cluster.hosts}"
    assert main(["store", "doctor", url]) == 0
    for node in cluster.nodes:
        cluster.ask(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    for node in cluster.nodes:
        cluster.ask(node, "CLUSTER", "DELSLOTS", slot)
    capsys.readouterr()
    assert main(["store", "doctor", url]) == 1
    assert "1 of the cluster's 16384 slots have no owner" in capsys.readouterr().out
    with open_store(url) as store, pytest.raises(StoreUnavailable, match="slot"):
        store.execute(Add(KEY))


# --- Sentinel


def test_sentinels_name_the_new_primary(watched: Watched) -> None:
    with open_store(watched.url + "?wait_replicas=1&timeout=1") as store, Traffic(store) as traffic:
        traffic.await_more()
        watched.primary().kill()
        traffic.await_more()
        assert traffic.unknown + traffic.refused, "the failover went by unnoticed"
    with open_store(watched.url) as store:
        traffic.check(store.execute(Total(KEY)))


def test_a_demoted_primary_is_left(watched: Watched) -> None:
    with open_store(watched.url) as store:
        store.execute(Add(KEY))
        old = watched.primary()
        other = next(server for server in watched.data if server is not old)
        with redis.Redis(port=other.port) as client:
            wait_until(lambda: client.exists(KEY), "replication")
        # What a sentinel does, but without cutting the clients of the old primary off.
        with redis.Redis(port=watched.sentinels[0].port) as client:
            client.execute_command("SENTINEL", "FAILOVER", watched.name)
        wait_until(lambda: watched.primary() is not old, "the failover", 60)
        wait_until(lambda: _role(old) == "slave", "the demotion", 60)
        assert store.execute(Add(KEY)).value == 2

        async def work() -> None:
            assert (await store.aexecute(Add(KEY))).value == 3
            await store.aclose()

        asyncio.run(work())


def _role(server: Server) -> str:
    try:
        with redis.Redis(port=server.port) as client:
            return str(client.info("replication")["role"])
    except redis.RedisError:
        return "away"


def test_sentinels_that_know_nothing(redis_watched: Watched) -> None:
    unknown = redis_watched.url.replace(redis_watched.name, "another")
    with open_store(unknown) as store, pytest.raises(StoreUnavailable, match="knows no primary"):
        store.execute(Add(KEY))
    nobody = "redis+sentinel://127.0.0.1:1/mymaster"
    with open_store(nobody) as store, pytest.raises(StoreUnavailable, match="no sentinel names"):
        store.execute(Add(KEY))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+sentinel://127.0.0.1:26379", "names the primary"),
        ("redis+sentinel://127.0.0.1:x/mymaster", "is not an address"),
        ("redis+cluster://127.0.0.1:7000/1", "a cluster has no database '1'"),
        ("redis+cluster://", "is not an address"),
    ],
)
def test_a_url_that_cannot_work(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(url)


# --- writes that replicas must have


def test_a_write_that_too_few_replicas_have_is_not_acknowledged(redis_server: Server) -> None:
    alone = f"redis://127.0.0.1:{redis_server.port}/5?wait_replicas=1&wait_timeout=0.05"
    with open_store(alone) as store:
        with pytest.raises(
            OutcomeUnknown, match=r"only 0 of 1 replicas .* a failover now would undo"
        ):
            store.execute(Add(KEY))
        assert store.execute(Total(KEY)) >= 1

        async def work() -> None:
            with pytest.raises(OutcomeUnknown, match="only 0 of 1 replicas"):
                await store.aexecute(Add(KEY))
            assert await store.aexecute(Total(KEY)) >= 2
            await store.aclose()

        asyncio.run(work())


def test_a_lock_is_handed_over_on_a_cluster(redis_cluster: Cluster) -> None:
    key = "ap:t:lock:l:sx"
    with open_store(f"redis+cluster://{redis_cluster.hosts}") as store:
        token = store.execute(Acquire(key, "one", 60)).token
        assert token is not None
        store.execute(Acquire(key, "two", 60, patience=60))
        store.execute(Release(key, token))
        assert store.receive(mailbox(key, "two"), 30)
        second = store.execute(Acquire(key, "two", 60)).token
        assert second is not None
        assert second > token
        store.execute(Release(key, second))
