"""Histories of real stores, while workers are killed and stopped and connections break.

`ANYPOD_HISTORY_SEED=17 pytest tests/histories/test_histories.py` runs the plan of another seed. A history
that fails stays where the message says, and `python -m tests.histories FOLDER` checks it again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.histories.campaign import Campaign, Harm, plan
from tests.histories.verification import Report, verify

from anypod.testing import Fault

SEED = int(os.environ.get("ANYPOD_HISTORY_SEED", "20"))
OPERATIONS = 5_000  # on each of five stores
STORES = ("memory", "sqlite", "redis", "valkey", "postgres")


def assert_linearizable(report: Report, campaign: Campaign) -> None:
    where = f"seed {campaign.seed}, {campaign.url}, history in {campaign.folder}"
    assert not report.violations, f"{where}\n" + "\n".join(report.violations)
    assert not report.undecided, f"{where}\n" + "\n".join(report.undecided)
    assert report.operations >= campaign.operations, where
    assert set(report.checked) == {"counter", "map", "lock", "idempotency", "session"}, where
    assert report.holdings, where


def enough_met(campaign: Campaign) -> int:
    """How many operations must have overlapped another on their key, for the history to show anything."""
    return campaign.operations // (10 if campaign.workers else 100)  # threads hardly meet


def campaign_on(url: str, folder: Path, seed: int, operations: int) -> Campaign:
    """Three processes, or eight threads of this one where no other process sees the store."""
    if url == "memory://":
        return Campaign(url, folder, seed, operations, workers=0, threads=8)
    return Campaign(url, folder, seed, operations)


def test_enough_is_checked() -> None:
    assert OPERATIONS * len(STORES) >= 20_000


@pytest.mark.parametrize("store", STORES)
def test_every_key_is_linearizable(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if store == "memory":
        url = "memory://"
    elif store == "sqlite":
        url = f"sqlite:///{tmp_path}/state.db"
    else:
        url = request.getfixturevalue(f"{store}_url")
    met = 0
    # How often callers meet is the machine's doing: a busy one takes a campaign more, never a lower bar.
    for seed in range(SEED, SEED + 4):
        campaign = campaign_on(url, tmp_path / f"history{seed}", seed, OPERATIONS)
        report = verify(campaign.run())
        assert_linearizable(report, campaign)
        if campaign.workers:
            assert report.unknown, "nobody was killed in the middle of anything"
            harms = {step.harm for step in campaign.happened}
            assert harms == (set(Harm) if campaign.network else {Harm.KILL, Harm.STOP})
        met += report.overlapping
        if met > enough_met(campaign):
            return
    pytest.fail(f"{url}: of four campaigns, only {met} operations met another")


def test_a_plan_follows_from_its_seed() -> None:
    first = plan(7, 10_000, 3, network=True)
    assert first == plan(7, 10_000, 3, network=True)
    assert first != plan(8, 10_000, 3, network=True)
    faults = {step.fault for seed in range(20) for step in plan(seed, 10_000, 3, network=True)}
    assert faults >= {fault.name for fault in Fault}
    assert {step.harm for step in plan(7, 10_000, 3, network=False)} == {Harm.KILL, Harm.STOP}


def test_callers_follow_from_their_seed(tmp_path: Path) -> None:
    """One caller alone asks for the same, with the same replies, whenever it is run again."""
    runs = []
    for run in ("first", "second"):
        campaign = Campaign("memory://", tmp_path / run, 3, 150, 0, threads=1, tasks=0)
        history = campaign.run()
        asked = [
            (type(each.command).__name__, each.command.key)
            for each in history.operations
            if ":counter:" in each.command.key
        ]
        runs.append(asked[:20])
    assert runs[0] == runs[1]
    assert len(runs[0]) == 20
