"""Histories as in `tests/histories/`, forty times as long; the results go to `docs/evidence/`.

`ANYPOD_SOAK_SEED` chooses another seed. The results are written when every store was checked.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import psycopg
import pytest
import redis
from tests.histories import planted
from tests.histories.campaign import Harm
from tests.histories.test_histories import STORES, assert_linearizable, campaign_on, enough_met
from tests.histories.verification import verify
from tests.servers import Server

from anypod.stores.memory import MemoryDriver

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3_600)]

SEED = int(os.environ.get("ANYPOD_SOAK_SEED", "2026"))
ROUNDS = 5
OPERATIONS = 9_000  # in each round on each store
EVIDENCE = Path(__file__).parent.parent.parent / "docs" / "evidence"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found on one store."""

    store: str
    engine: str
    operations: int
    by_primitive: dict[str, int]
    keys: int
    overlapping: int
    unknown: int
    holdings: int
    steps: int
    harm: dict[str, int]
    faults: dict[str, int]
    seeds: tuple[int, ...]
    violations: int = 0
    undecided: int = 0


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, Outcome]]:
    """What was found, by store; written down at the end if it is complete."""
    found: dict[str, Outcome] = {}
    yield found
    if set(found) == set(STORES):
        write(list(found.values()))


def test_enough_is_checked() -> None:
    assert ROUNDS * OPERATIONS * len(STORES) >= 200_000


@pytest.mark.parametrize("store", STORES)
def test_every_key_is_linearizable(
    store: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    outcomes: dict[str, Outcome],
) -> None:
    url, engine = opened(store, request, tmp_path)
    checked: Tally[str] = Tally()
    harm: Tally[str] = Tally({each.name.lower(): 0 for each in Harm})
    faults: Tally[str] = Tally()
    sums: Tally[str] = Tally()
    seeds = tuple(SEED + round_ for round_ in range(ROUNDS))
    for seed in seeds:
        folder = tmp_path / str(seed)
        campaign = campaign_on(url, folder, seed, OPERATIONS)
        report = verify(campaign.run())
        assert_linearizable(report, campaign)
        checked.update(report.checked)
        harm.update(step.harm.name.lower() for step in campaign.happened)
        faults.update(step.fault for step in campaign.happened if step.fault)
        for name in ("keys", "overlapping", "unknown", "holdings", "steps"):
            sums[name] += getattr(report, name)
        for file in folder.glob("*.jsonl"):
            file.unlink()  # a history that is fine is of no use to anybody
    assert sums["overlapping"] > ROUNDS * enough_met(campaign), f"{store}: hardly anything met"
    outcomes[store] = Outcome(
        store=store,
        engine=engine,
        operations=checked.total(),
        by_primitive=dict(sorted(checked.items())),
        harm=dict(harm),
        faults=dict(sorted(faults.items())),
        seeds=seeds,
        keys=sums["keys"],
        overlapping=sums["overlapping"],
        unknown=sums["unknown"],
        holdings=sums["holdings"],
        steps=sums["steps"],
    )


def opened(store: str, request: pytest.FixtureRequest, folder: Path) -> tuple[str, str]:
    """The URL of a store, and what exactly it is."""
    if store == "memory":
        return "memory://", f"threads of Python {platform.python_version()}"
    if store == "sqlite":
        import sqlite3

        return f"sqlite:///{folder}/state.db", f"SQLite {sqlite3.sqlite_version}"
    url = str(request.getfixturevalue(f"{store}_url"))
    if store == "postgres":
        with psycopg.connect(url) as connection:
            version = connection.info.server_version
        return url, f"PostgreSQL {version // 10_000}.{version % 10_000}"
    server: Server = request.getfixturevalue(f"{store}_server")
    with redis.Redis(port=server.port) as client:
        info = client.info("server")
    version = info.get("valkey_version") or info["redis_version"]
    return url, f"{store.title()} {version}"


def write(outcomes: list[Outcome]) -> None:
    """The results, for people and for programs."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    results = {
        "seed": SEED,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "stores": [asdict(each) for each in outcomes],
    }
    text = msgspec.json.format(json.dumps(results).encode(), indent=2).decode()
    (EVIDENCE / "histories.json").write_text(text + "\n")
    (EVIDENCE / "histories.md").write_text(page(outcomes))


def page(outcomes: list[Outcome]) -> str:
    """The results as a page."""
    total = sum(each.operations for each in outcomes)
    bugs = sorted(
        name
        for name, each in vars(planted).items()
        if isinstance(each, type) and issubclass(each, MemoryDriver) and each is not MemoryDriver
    )
    rows = [
        f"| {each.store} | {each.engine} | {each.operations:,} | {each.overlapping:,} | {each.keys:,} | "
        f"{each.unknown:,} | {each.holdings:,} | {each.harm['kill']} | {each.harm['stop']} | "
        f"{each.harm['cut']} | {each.harm['lose']} | {each.violations} | {each.undecided} |"
        for each in outcomes
    ]
    kinds = sorted(outcomes[0].by_primitive)
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    columns = (
        *("store", "engine", "operations", "overlapping", "keys", "unknown outcome", "holdings"),
        *("killed", "stopped", "cut", "lost", "violations", "undecided"),
    )
    split = [
        f"| {each.store} | " + " | ".join(f"{each.by_primitive[kind]:,}" for kind in kinds) + " |"
        for each in outcomes
    ]
    return "\n".join(
        [
            "# Histories, checked",
            "",
            f"{total:,} operations of real primitives on real stores, recorded while workers were killed and",
            "stopped and connections broke. Each key's history was checked for linearizability against a",
            "sequential model of its primitive. This page is written by `make soak`; the numbers are also in",
            "`histories.json`.",
            "",
            f"Seed {SEED}, Python {platform.python_version()}, {where}.",
            "",
            f"| {' | '.join(columns)} |",
            "|---|---|" + "---:|" * (len(columns) - 2),
            *rows,
            "",
            "| store | " + " | ".join(kinds) + " |",
            "|---|" + "---|" * len(kinds),
            *split,
            "",
            "- *overlapping*: called while another operation on the same key had not returned.",
            "- *unknown outcome*: the worker was killed, the task cancelled or the reply lost; such an operation",
            "  may have happened at any later moment, or never.",
            "- *holdings*: stretches in which a holder was sure of a lock by its own clock; no two of them on one",
            "  lock met, and a larger token was never held earlier.",
            "- *killed*, *stopped*: workers hit by SIGKILL, or by SIGSTOP for longer than every lease. *cut*: all",
            "  connections closed. *lost*: three exchanges broken at a point that the seed chose.",
            "- Three processes, each with two threads and four tasks; in memory, one process with eight threads.",
            "",
            "That the checker sees anything is shown by drivers with planted bugs, under the same work",
            "(`tests/histories/test_planted.py`, in every `make test`; within twenty seeds each is found):",
            "",
            *(f"- `{bug}`" for bug in bugs),
            "",
            f"Again: `ANYPOD_SOAK_SEED={SEED} make soak` repeats the plan of kills, pauses and faults and what each",
            "caller asks for; how the machine interleaves them is new each time. A history that fails is kept, and",
            "`python -m tests.histories FOLDER` checks it again.",
            "",
        ]
    )
