"""Every store keeps the one contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anypod.stores import Store, open_store
from anypod.stores.conformance import CHECKS, Check, Ground, Opener

EXAMPLES = 60

MakeOpener = Callable[[str], Opener]


TOPOLOGIES = pytest.mark.xdist_group("topologies")  # their servers are started by one worker only

KINDS = [
    *("memory", "sqlite", "sqlite-full", "redis", "valkey", "redis-unix", "resp3"),
    pytest.param("cluster", marks=TOPOLOGIES),
    pytest.param("sentinel", marks=TOPOLOGIES),
]


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    kind: str = request.param
    if kind == "memory":
        store = open_store("memory://")
        return lambda: store
    if kind.startswith("sqlite"):
        full = "?synchronous=full" if kind.endswith("full") else ""
        return opens(f"sqlite:///{tmp_path}/store.db{full}")
    if kind == "redis-unix":
        server = request.getfixturevalue("redis_server")
        return opens(f"redis+unix://{server.folder}/socket?db=1")
    if kind == "cluster":
        return opens(f"redis+cluster://{request.getfixturevalue('redis_cluster').hosts}")
    if kind == "sentinel":
        return opens(request.getfixturevalue("redis_watched").url)
    if kind == "resp3":
        return opens(request.getfixturevalue("redis_url") + "?protocol=3")
    return opens(request.getfixturevalue(f"{kind}_url"))


def opens(url: str) -> Opener:
    def opener() -> Store:
        return open_store(url)

    return opener


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(opener: Opener, check: Check) -> None:
    check(Ground(opener, examples=EXAMPLES))
