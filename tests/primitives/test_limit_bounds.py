"""What each algorithm bounds, with eight processes at once whose clocks are an hour apart."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from anypod import State
from anypod.commands import Algorithm
from anypod.stores.conformance.ground import in_processes

CALLERS = 8
LIMIT = 40
HITS = 12  # each: more than the limit in all
HALF_PAST = 1_800.0


def _hits(url: str, algorithm: str, offset: float, skew: float) -> int:
    """What one replica is admitted, whose clock is off by `skew`."""
    real = time.time
    if not url.startswith("sqlite"):  # there the machine's clock is the store's
        time.time = lambda: real() + skew
    with State(url, namespace="bounds") as state:
        state.store.driver.clock_offset = offset
        limit = state.rate_limit("api", f"{LIMIT}/hour", algorithm=algorithm)
        return sum(limit.hit("ip").allowed for _ in range(HITS))


@pytest.fixture(params=["sqlite", "redis", "valkey", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state.db"
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def _admitted(url: str, algorithm: str, offset: float) -> int:
    skews = [(number % 3 - 1) * 3_600.0 for number in range(CALLERS)]
    return sum(in_processes([partial(_hits, url, algorithm, offset, skew) for skew in skews]))


@pytest.mark.parametrize("algorithm", [algorithm.value for algorithm in Algorithm])
def test_eight_processes_share_one_limit(url: str, algorithm: str) -> None:
    with State(url, namespace="bounds") as state:
        now = state.map("clock").set("now", 1) / 1e6
        half_past = HALF_PAST - now % 3_600.0  # far from where a window begins
        assert _admitted(url, algorithm, half_past) == LIMIT
        # An hour later, all of it is there again; of a sliding counter's window before, half.
        later = half_past + 3_600.0
        expected = LIMIT // 2 if algorithm == "sliding counter" else LIMIT
        assert abs(_admitted(url, algorithm, later) - expected) <= 1
        # Unused capacity is not lost, and does not pile up either.
        assert _admitted(url, algorithm, later + 10 * 3_600.0) == LIMIT
