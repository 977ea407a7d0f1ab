"""Connections that break at every point of an exchange, on every networked store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers import Cluster, Watched, redis_executable, start_cluster, wait_until
from tests.stores.relays import Relay

from anypod.stores import Store, open_store
from anypod.stores.conformance import verify_faults
from anypod.testing import FaultProxy

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_broken_exchange_is_told_as_it_is(kind: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    port = request.getfixturevalue(f"{kind}_server").port

    def through(proxy: FaultProxy) -> Store:
        return open_store(proxy.url(url) + "?timeout=1")

    verify_faults(lambda: open_store(url), through, ("127.0.0.1", port))


@pytest.fixture(scope="module")
def lopsided() -> Iterator[Cluster]:
    """A cluster whose first node has every slot, and two more that know so."""
    cluster = start_cluster(redis_executable(), bounds=(0, 16384), replicas=0)
    yield cluster
    cluster.stop()


def test_a_broken_exchange_with_a_node_of_a_cluster(lopsided: Cluster) -> None:
    busy, *others = lopsided.nodes

    def through(proxy: FaultProxy) -> Store:
        lopsided.ask(busy, "CONFIG", "SET", "cluster-announce-port", proxy.port)
        for node in others:
            wait_until(
                lambda n=node: lopsided.ask(n, "CLUSTER", "SLOTS")[0][2][1] == proxy.port,  # type: ignore[misc]
                "the announcement of the proxy",
            )
        seeds = ",".join(f"127.0.0.1:{node.port}" for node in others)
        return open_store(f"redis+cluster://{seeds}?timeout=1")

    direct = f"redis://127.0.0.1:{busy.port}"
    verify_faults(lambda: open_store(direct), through, ("127.0.0.1", busy.port))


@pytest.mark.xdist_group("topologies")
def test_a_broken_exchange_behind_sentinel(redis_watched: Watched) -> None:
    primary, (sentinel, *_) = redis_watched.primary(), redis_watched.sentinels
    relays: list[Relay] = []

    def through(proxy: FaultProxy) -> Store:
        if not relays:
            relays.append(Relay(sentinel.port, ports={primary.port: proxy.port}))
        address = f"127.0.0.1:{relays[0].port}"
        return open_store(f"redis+sentinel://{address}/{redis_watched.name}?timeout=1")

    direct = f"redis://127.0.0.1:{primary.port}"
    try:
        verify_faults(lambda: open_store(direct), through, ("127.0.0.1", primary.port))
    finally:
        for relay in relays:
            relay.__exit__()
