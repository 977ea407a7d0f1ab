"""States that several applications of one test share, as pods share a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anypod import State


@pytest.fixture(params=["memory", "sqlite", "redis"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    if request.param == "redis":
        url = str(request.getfixturevalue("redis_url"))
    else:
        url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/anypod.db"
    with State(url) as opened:
        yield opened
