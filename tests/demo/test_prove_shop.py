"""Both verdicts on the real shop: from the command, on other stores and databases, in other orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.demo.reorder import reorder

# A proof uses every core, so that two at once only slow each other down.
pytestmark = pytest.mark.xdist_group("proof")

SHOP = Path(str(files("anypod.demo"))) / "shop.http"
ELSEWHERE = {"ANYPOD_URL", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT"}
BUGS = {
    "POST /orders",
    "POST /orders/{order_id}/cancel",
    "POST /increment",
    "GET /counter",
    "GET /data/{id}",
    "GET /rates/{id}",
    "GET /me",
}


def prove(
    twin: str, folder: Path, *options: str, workload: Path = SHOP, **environment: str
) -> tuple[int, dict[str, Any]]:
    """Run the command in a folder of its own and return its exit code and its JSON."""
    verdict = folder / "verdict.json"
    inherited = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    arguments = ["--workload", str(workload), "--json", str(verdict), "--budget", "240s", *options]
    ended = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", f"anypod.demo.{twin}:app", *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict.exists(), ended.stdout + ended.stderr
    answer: dict[str, Any] = json.loads(verdict.read_text())
    assert ended.returncode != 2, answer["reason"]
    assert not answer["partial"], ended.stdout
    return ended.returncode, answer


def blamed(verdict: dict[str, Any]) -> set[str]:
    return {divergence["route"] for divergence in verdict["divergences"]}


def accepted(verdict: dict[str, Any]) -> set[tuple[str, str, float]]:
    return {(one["route"], one["cache"], one["seconds"]) for one in verdict["stale"]}


def test_the_broken_shop_and_the_lines_to_blame(tmp_path: Path) -> None:
    code, verdict = prove("broken", tmp_path)
    assert code == 1
    assert blamed(verdict) - {"POST /logout"} == BUGS
    source = Path(str(files("anypod.demo"))) / "broken.py"
    lines = source.read_text().splitlines()
    causes = {one["route"]: one["cause"] for one in verdict["divergences"] if one["cause"]}
    for route, name in {
        "POST /increment": "counters",
        "GET /counter": "request_count",
        "GET /data/{id}": "cache",
        "GET /rates/{id}": "rates",
        "GET /me": "sessions",
    }.items():
        assert causes[route]["name"] == name
        assert Path(causes[route]["file"]) == source
        assert lines[causes[route]["line"] - 1].startswith(name)


def test_the_fixed_shop(tmp_path: Path) -> None:
    code, verdict = prove("fixed", tmp_path)
    assert (code, blamed(verdict)) == (0, set())
    assert accepted(verdict) == {("GET /rates/{id}", "rates", 300.0)}
    assert verdict["coverage"]["pairs"]["done"] == verdict["coverage"]["pairs"]["possible"]


def test_one_replica_that_is_moved(tmp_path: Path) -> None:
    code, verdict = prove("broken", tmp_path, "--replicas", "1")
    assert code == 1
    assert {"GET /counter", "GET /me"} <= blamed(verdict)
    code, verdict = prove("fixed", tmp_path, "--replicas", "1")
    assert (code, blamed(verdict)) == (0, set())


@pytest.mark.parametrize("server", ["redis", "valkey"])
def test_the_fixed_shop_on_a_real_server(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    address = urlsplit(request.getfixturevalue(f"{server}_url"))
    where = {"REDIS_HOST": str(address.hostname), "REDIS_PORT": str(address.port)}
    code, verdict = prove("fixed", tmp_path, **where)
    assert (code, blamed(verdict)) == (0, set())


def test_the_fixed_shop_on_a_real_database(postgres_url: str, tmp_path: Path) -> None:
    # Outside of every world, so that worlds meet in it: they must play one at a time.
    code, verdict = prove("fixed", tmp_path, DATABASE_URL=postgres_url)
    assert (code, blamed(verdict)) == (0, set())


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_independent_requests_does_not_matter(seed: int, tmp_path: Path) -> None:
    # Two replicas show all that three do, with fewer schedules; a pod that is moved shows what
    # another pod shows, and is tried above.
    options = ["--replicas", "2"]
    for schedule in ("another-pod", "stale-copy", "retry"):
        options += ["--schedule", schedule]
    workload = tmp_path / "shop.http"
    workload.write_text(reorder(SHOP.read_text(), seed))
    code, verdict = prove("broken", tmp_path, *options, workload=workload)
    assert code == 1
    assert blamed(verdict) - {"POST /logout"} == BUGS
    code, verdict = prove("fixed", tmp_path, *options, workload=workload)
    assert (code, blamed(verdict)) == (0, set())
