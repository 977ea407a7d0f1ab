"""Traffic on a cluster or behind sentinels, and how a slot moves from one node to another."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Self

import redis
from tests.servers import Cluster, Server, wait_until

from anypod.commands import Add, Scan
from anypod.errors import OutcomeUnknown, StoreUnavailable
from anypod.stores import Store

KEY = "ap:t:counter:hits:sx"


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


def migrate(cluster: Cluster, slot: int) -> tuple[Server, Server]:
    """Begin to move a slot to another primary; its keys are still where they were."""
    source = cluster.owner(slot)
    slots = cluster.ask(source, "CLUSTER", "SLOTS")
    ports = {primary[1] for _, _, primary, *_ in slots}
    target = next(n for n in cluster.nodes if n.port in ports and n.port != source.port)
    begin(cluster, slot, source, target)
    return source, target


def begin(cluster: Cluster, slot: int, source: Server, target: Server) -> None:
    here, there = cluster.ask(source, "CLUSTER", "MYID"), cluster.ask(target, "CLUSTER", "MYID")
    cluster.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    cluster.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)


def move_keys(cluster: Cluster, slot: int, source: Server, target: Server) -> None:
    for key in cluster.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
        cluster.ask(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 5000)


def finish(cluster: Cluster, slot: int, target: Server) -> None:
    identity = cluster.ask(target, "CLUSTER", "MYID")
    for node in (target, *cluster.living()):
        with redis.Redis(port=node.port) as client:
            if client.info("replication")["role"] == "master":
                cluster.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", identity)


def errors(cluster: Cluster, known: str) -> int:
    """How often the nodes have answered with an error."""
    total = 0
    for node in cluster.living():
        with redis.Redis(port=node.port) as client:
            counted = client.info("errorstats").get(f"errorstat_{known}", {"count": 0})
        total += int(counted["count"])
    return total


def walked(store: Store, prefix: str) -> set[str]:
    """The keys that a walk meets."""
    met: set[str] = set()
    after: str | None = ""
    while after is not None:
        page = store.execute(Scan(prefix, after))
        met.update(key for key, _ in page.items)
        after = page.after
    return met
