"""The SQL pattern for fencing tokens in the user's own tables: what `docs/lock.md` shows, on both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from anypod import State
from anypod.commands import Acquire
from anypod.errors import LeaseLost

from .conftest import advance

UPDATE = "UPDATE reports SET body = ?, token = ? WHERE id = ? AND token <= ?"
UPSERT = (
    "INSERT INTO reports (id, body, token) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "
    "SET body = excluded.body, token = excluded.token WHERE reports.token <= excluded.token"
)


class Table:
    """A table of the application's, with a column for the token that wrote last."""

    def __init__(self, connection: Any, mark: str) -> None:
        self.connection = connection
        self.mark = mark
        self.run(
            "CREATE TABLE reports (id INTEGER PRIMARY KEY, body TEXT, token BIGINT NOT NULL DEFAULT 0)"
        )

    def run(self, statement: str, *values: object) -> Any:
        return self.connection.execute(statement.replace("?", self.mark), values)

    def write(self, body: str, token: int) -> bool:
        return bool(self.run(UPDATE, body, token, 1, token).rowcount)

    def upsert(self, body: str, token: int) -> bool:
        return bool(self.run(UPSERT, 1, body, token).rowcount)

    @property
    def body(self) -> str:
        return str(self.run("SELECT body FROM reports WHERE id = 1").fetchone()[0])


@pytest.fixture(params=["sqlite3", "psycopg"])
def reports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Table]:
    if request.param == "sqlite3":
        connection: Any = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
        yield Table(connection, "?")
    else:
        new: Callable[[], str] = request.getfixturevalue("new_postgres_url")
        connection = psycopg.connect(new(), autocommit=True)
        yield Table(connection, "%s")
    connection.close()


def test_a_zombies_write_is_refused(state: State, reports: Table) -> None:
    reports.run("INSERT INTO reports (id, body) VALUES (1, 'empty')")
    lock = state.lock("reports", lease=30.0)
    with pytest.raises(LeaseLost), lock.acquire("report") as zombie:
        advance(state, 31.0)  # paused for longer than its lease
        successor = state.store.execute(Acquire(lock._address("report"), "successor", 30.0))
        assert successor.token is not None
        assert reports.write("successor", successor.token)
        assert reports.write("successor again", successor.token)
        assert not reports.write("zombie", zombie.token)
    assert reports.body == "successor again"


def test_the_same_with_rows_that_may_not_be_there(state: State, reports: Table) -> None:
    lock = state.lock("reports", lease=30.0)
    tokens = []
    for _ in range(2):
        with lock.acquire("report") as hold:
            tokens.append(hold.token)
    first, second = tokens
    assert reports.upsert("second", second)
    assert not reports.upsert("first", first)
    assert reports.upsert("second again", second)
    assert reports.body == "second again"


def test_tokens_grow_though_the_stores_clock_goes_back(state: State, reports: Table) -> None:
    lock = state.lock("reports")
    for body in ("before", "after"):
        with lock.acquire("report") as hold:
            assert reports.upsert(body, hold.token)
        state.store.driver.clock_offset -= 3_600.0
    assert reports.body == "after"
