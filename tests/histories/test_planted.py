"""The checker finds planted bugs, under the same work that it finds nothing wrong with otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.histories import planted
from tests.histories.campaign import Campaign
from tests.histories.verification import Report, kind_of, verify

from anypod.stores.memory import MemoryDriver

OPERATIONS = 1_500
SEEDS = range(1, 21)  # the first that shows the bug is enough


def judged(driver: MemoryDriver, folder: Path, seed: int) -> Report:
    campaign = Campaign("memory://", folder, seed, OPERATIONS, 0, threads=6, driver=driver)
    return verify(campaign.run())


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    report = judged(MemoryDriver(), tmp_path, 1)
    assert report.operations >= OPERATIONS
    assert not report.violations
    assert not report.undecided


@pytest.mark.parametrize(
    ("bug", "where"),
    [
        (planted.ReadModifyWrite, "counter"),
        (planted.ForgetsOnce, "counter"),
        (planted.WindowFromTheFirst, "counter"),
        (planted.StaleRead, "map"),
        (planted.LostUpdate, "map"),
        (planted.WalksByOffset, "map"),
        (planted.NoFence, "map"),
        (planted.NoToken, "lock"),
        (planted.ReleasesAnybody, "lock"),
        (planted.TwoHolders, "lock"),
        (planted.Overbooks, "lock"),
        (planted.ReleasesOldest, "lock"),
        (planted.ZombieCompletes, "idempotency"),
        (planted.ClaimsTwice, "idempotency"),
        (planted.ReplayAfterTombstone, "session"),
        (planted.WholeSession, "session"),
    ],
)
def test_a_planted_bug_is_found(bug: type[MemoryDriver], where: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        report = judged(bug(), tmp_path / str(seed), seed)
        assert not report.undecided
        if any(kind_of(violation.partition(" ")[0]) == where for violation in report.violations):
            return
    pytest.fail(f"{bug.__name__} went unnoticed")
