"""Clusters and sentinels that change while commands are under way: failover, resharding, demotion."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot
from tests.servers import (
    Cluster,
    Server,
    Watched,
    redis_executable,
    start_cluster,
    start_watched,
    valkey_executable,
    wait_until,
)
from tests.stores.relays import Relay, certificates
from tests.stores.topologies import KEY, Traffic, walked

from anypod.cli import main
from anypod.commands import Acquire, Add, Get, Publish, Put, Release, Total, mailbox
from anypod.errors import ConfigurationError, OutcomeUnknown, StoreUnavailable
from anypod.stores import Store, open_store
from anypod.stores.conformance.faults import CASES
from anypod.stores.conformance.ground import fresh

# docs/stores.md promises that these are enough.
PLACES = "~ap:* ~{ap:* &ap:*"
RIGHTS = "+@read +@write +@scripting +@connection +@pubsub +time +cluster|slots +cluster|nodes"

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("topologies")]


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


@pytest.mark.parametrize("protocol", ["2", "3"])
def test_a_walk_meets_the_values_of_every_node(redis_cluster: Cluster, protocol: str) -> None:
    with open_store(f"redis+cluster://{redis_cluster.hosts}?protocol={protocol}") as store:
        prefix = f"ap:t:map:walk{protocol}:"
        keys = {f"{prefix}s{number}" for number in range(300)}
        for key in keys:
            store.execute(Put(key, b"x"))
        assert walked(store, prefix) == keys
        replies = store.driver.execute_many([Add(key.replace("map", "counter")) for key in keys])
        assert [reply.value for reply in replies] == [1] * 300


@pytest.fixture
def bare() -> Iterator[Cluster]:
    """Three primaries without replicas, which are started sooner."""
    cluster = start_cluster(redis_executable(), replicas=0)
    yield cluster
    cluster.stop()


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
    hasty = open_store(url + "?timeout=0.1")
    with hasty as store, pytest.raises(StoreUnavailable, match="slot"):
        store.execute(Add(KEY))


def test_the_doctor_asks_every_primary(bare: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis+cluster://{bare.hosts}"
    guilty = bare.nodes[1]
    bare.ask(guilty, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with open_store(url) as store:
        for number in range(30):
            store.execute(Add(f"ap:t:counter:c:s{number}"))
    assert main(["store", "stats", url, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["keys"], numbers["primaries"]) == (30, 3)
    assert main(["store", "doctor", url]) == 1
    said = capsys.readouterr().out
    assert f"✗ 127.0.0.1:{guilty.port}: maxmemory-policy allkeys-lru" in said
    assert said.count("maxmemory-policy") == 2, "found once, and named in its remedy"
    assert "  ! no persistence" in said, "what all of them say is said once"


def test_a_cluster_that_has_lost_a_primary(
    bare: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for node in bare.nodes:
        bare.ask(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")
    url = f"redis+cluster://{bare.hosts}"
    lost = bare.nodes[0]
    with open_store(url) as store:
        store.execute(Add(KEY))
        lost.kill()
        for _ in range(8):  # whichever node it finds
            store.driver.listen("ap:t:channel:c:").close()
    for _ in range(3):  # `doctor` looks with keys of its own, which may have been the lost one's
        assert main(["store", "doctor", url]) == 1
        assert f":{lost.port}" in capsys.readouterr().out
        main(["store", "stats", url, "--json"])
        numbers = json.loads(capsys.readouterr().out)
        assert "error" in numbers or numbers["keys"] is None


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


def test_writes_that_replicas_have(redis_cluster: Cluster, redis_watched: Watched) -> None:
    async def work(store: Store, key: str) -> None:
        assert (await store.aexecute(Add(key))).value == 2
        await store.aclose()

    for url in (f"redis+cluster://{redis_cluster.hosts}", redis_watched.url):
        keys = [f"ap:t:counter:{uuid.uuid4().hex}:sx" for _ in range(20)]
        with open_store(url + "?wait_replicas=1&wait_timeout=30&timeout=30") as store:
            for _ in range(2):
                replies = store.driver.execute_many([Add(key) for key in keys[1:]])
            assert [reply.value for reply in replies] == [2] * 19
            assert store.execute(Add(keys[0])).value == 1
            asyncio.run(work(store, keys[0]))
        wide = "?wait_replicas=5&wait_timeout=0.05"
        with open_store(url + wide) as store:
            said = store.driver.execute_many([Total(keys[0]), *(Add(key) for key in keys)])
            assert said[0] in (2, 3), "before the step or after it"
            assert all("of 5 replicas had it" in str(reply) for reply in said[1:])
            assert {store.driver.classify(reply) for reply in said[1:]} == {OutcomeUnknown}


def test_sentinels_and_their_primary_over_tls(redis_watched: Watched, tmp_path: Path) -> None:
    context, certificate = certificates(tmp_path)
    primary, sentinel = redis_watched.primary(), redis_watched.sentinels[0]
    key = f"ap:t:counter:{uuid.uuid4().hex}:sx"
    with (
        Relay(primary.port, context=context) as data,
        Relay(sentinel.port, context=context, ports={primary.port: data.port}) as watch,
    ):
        url = f"valkeys+sentinel://localhost:{watch.port}/{redis_watched.name}"
        with open_store(f"{url}?ssl_ca_certs={certificate}") as store:
            assert store.execute(Add(key)).value == 1

            async def work() -> None:
                assert (await store.aexecute(Add(key))).value == 2
                await store.aclose()

            asyncio.run(work())
        assert (watch.connections, data.connections) == (2, 2)
        with open_store(url) as store, pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            store.execute(Add(key))


def test_the_rights_that_a_user_of_a_cluster_needs(bare: Cluster) -> None:
    for node in bare.nodes:
        bare.ask(node, "ACL", "SETUSER", *f"shop on >pa55 {PLACES} {RIGHTS}".split())
    with open_store(f"redis+cluster://shop:pa55@{bare.hosts}", namespace="t") as store:
        for case in CASES:
            store.execute(case.command(key := fresh(), case.prepare(store, key)))
        assert store.receive("ap:t:lock:l:sx#me", 0.0) is False


def test_a_cluster_over_tls(bare: Cluster, tmp_path: Path) -> None:
    context, certificate = certificates(tmp_path)
    with ExitStack() as stack:
        relays = [stack.enter_context(Relay(node.port, context=context)) for node in bare.nodes]
        for node, relay in zip(bare.nodes, relays, strict=True):
            bare.ask(node, "CONFIG", "SET", "cluster-announce-port", relay.port)
        announced = {relay.port for relay in relays}
        for node in bare.nodes:
            wait_until(lambda n=node: _announced(bare, n) == announced, "the relays' announcement")  # type: ignore[misc]
        hosts = ",".join(f"127.0.0.1:{relay.port}" for relay in relays)
        with open_store(f"rediss+cluster://{hosts}?ssl_ca_certs={certificate}") as store:
            keys = [f"ap:t:map:walk:s{number}" for number in range(50)]
            for key in keys:
                store.execute(Put(key, b"x"))
            assert walked(store, "ap:t:map:walk:") == set(keys)

            async def work() -> None:
                found = await asyncio.gather(*(store.aexecute(Get(key)) for key in keys))
                assert all(found)
                await store.aclose()

            asyncio.run(work())


def _announced(cluster: Cluster, node: Server) -> set[int]:
    return {primary[1] for _, _, primary, *_ in cluster.ask(node, "CLUSTER", "SLOTS")}


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
