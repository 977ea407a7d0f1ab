"""`state`: the same tests on every store, each with a namespace of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from anypod import State

STORES = ["memory", "sqlite", "redis", "valkey", "postgres"]


@pytest.fixture(params=STORES)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    if request.param == "memory":
        url = "memory://"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/state.db"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    with State(url, namespace=uuid.uuid4().hex) as state:
        yield state


def advance(state: State, seconds: float) -> None:
    """Move the clock that this state's store goes by."""
    state.store.driver.clock_offset += seconds
