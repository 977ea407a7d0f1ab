"""A handler that inserts a row is killed with `kill -9` at every step of the protocol, and retried.

The points are found, not written down: a first run counts every command to the store and every statement to
the database; then, for each of them, a process is killed right before and right after it. Whatever the
point, the retries must end with one row and one answer per key.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from anypod import InFlight, State
from anypod.errors import Conflict
from anypod.primitives import within as within_module
from anypod.primitives.transaction import PsycopgTransaction, SQLiteTransaction
from anypod.primitives.within import table

LEVELS = ["sqlite", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


class Points:
    """Counts the steps of a handler, names them, and kills at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self.kill_at = kill_at
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        if len(self.names) == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def around(self, owner: Any, method: str, name: Callable[..., str]) -> None:
        original = getattr(owner, method)

        def stepped(*arguments: Any) -> Any:
            what = name(*arguments)
            self.reach(f"before {what}")
            result = original(*arguments)
            self.reach(f"after {what}")
            return result

        setattr(owner, method, stepped)


class Scene:
    """A store, a database, a handler, and a way to run it in a process that may be killed."""

    def __init__(self, level: str, folder: Path, postgres: Callable[[], str] | None) -> None:
        self.level = level
        self.store = f"sqlite:///{folder}/store.db"
        self.app = str(folder / "app.db") if postgres is None else postgres()
        self.answers = folder / "answers"
        self.clock = 0.0
        with State(self.store, namespace="t") as state:
            state.ping()
        if postgres is None:
            connection: Any = sqlite3.connect(self.app)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(table("sqlite"))
        else:
            connection = psycopg.connect(self.app, autocommit=True)
            connection.execute(table("postgresql").encode())
        connection.execute("CREATE TABLE work (operation TEXT, attempt TEXT)")
        connection.close()

    def connect(self) -> Any:
        if self.level == "sqlite":
            return sqlite3.connect(self.app, timeout=10.0)
        connection = psycopg.connect(self.app)
        connection.isolation_level = psycopg.IsolationLevel[self.level.replace(" ", "_")]
        return connection

    def rows(self, operation: str) -> int:
        connection = self.connect()
        mark = "?" if self.level == "sqlite" else "%s"
        statement = f"SELECT count(*) FROM work WHERE operation = {mark}"
        (count,) = connection.execute(statement, (operation,)).fetchone()
        connection.close()
        return int(count)

    def handle(self, operation: str, points: Points, clock: float) -> str:
        """The handler: inserts a row, answers with an id of its own making."""
        answer = uuid.uuid4().hex
        with State(self.store, namespace="t") as state:
            state.store.driver.clock_offset = clock
            points.around(state.store, "perform", lambda command: type(command).__name__)
            connection = self.connect()
            for kind in (SQLiteTransaction, PsycopgTransaction):
                points.around(kind, "begin", lambda _: "BEGIN")
                points.around(kind, "execute", lambda _, statement, __: statement.split()[0])
                points.around(kind, "commit", lambda _, __: "COMMIT")
                points.around(kind, "rollback", lambda _: "ROLLBACK")
            orders = state.idempotency("orders", lease=30.0)
            within = within_module.Within(orders, connection, lock_timeout=10.0)
            with within.claim(operation, "f") as attempt:
                if not attempt.replayed:
                    points.reach("before the work")
                    mark = "?" if self.level == "sqlite" else "%s"
                    statement = f"INSERT INTO work VALUES ({mark}, {mark})"
                    connection.execute(statement, (operation, answer))
                    points.reach("after the work")
                    attempt.complete(answer)
                answer = attempt.outcome
            connection.close()
        return answer

    def spawn(self, operation: str, kill_at: int | None, out: Path) -> int:
        """Run the handler in a forked process; what it did is written to `out`."""
        self.clock += 31.0  # any lease of a process that was killed has run out
        clock = self.clock
        child = os.fork()
        if child == 0:
            code = 1
            try:
                points = Points(kill_at)
                result: dict[str, Any] = {}
                try:
                    result["answer"] = self.handle(operation, points, clock)
                except (InFlight, Conflict) as failure:
                    result["refused"] = type(failure).__name__
                result["points"] = points.names
                out.write_text(json.dumps(result))
                code = 0
            finally:
                os._exit(code)
        return child

    def run(self, operation: str, kill_at: int | None, out: Path) -> dict[str, Any] | None:
        """Spawn and wait: what it did, or None if it was killed."""
        out.unlink(missing_ok=True)
        _, status = os.waitpid(self.spawn(operation, kill_at, out), 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return None
        assert os.WEXITSTATUS(status) == 0
        return json.loads(out.read_text())  # type: ignore[no-any-return]

    def retried(self, operation: str, out: Path) -> str:
        """The answer that a client gets who asks until it is answered."""
        for _ in range(20):
            result = self.run(operation, None, out)
            if result is not None and "answer" in result:
                return str(result["answer"])
        pytest.fail(f"{operation}: no answer in 20 tries")


@pytest.fixture(params=LEVELS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    level = request.param
    postgres = None if level == "sqlite" else request.getfixturevalue("new_postgres_url")
    return Scene(level, tmp_path, postgres)


ROUNDS = 7


def test_one_row_and_one_answer_wherever_it_is_killed(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fresh = scene.run("listing", None, out)
    assert fresh is not None
    points = fresh["points"]
    expected = ["Claim", "BEGIN", "INSERT", "the work", "UPDATE", "COMMIT", "Complete"]
    for step in expected:
        assert any(step in point for point in points), f"{step} is not among {points}"
    kills = 0
    for round_ in range(ROUNDS):
        for point, name in enumerate(points):
            operation = f"killed {name} {round_} {point}"
            assert scene.run(operation, point, out) is None, name
            kills += 1
            # Every other retry is killed too, somewhere else.
            if (point + round_) % 2:
                kills += scene.run(operation, (point * 7 + round_) % len(points), out) is None
            answer = scene.retried(operation, out)
            assert scene.retried(operation, out) == answer, name
            assert scene.rows(operation) == 1, name
    assert kills >= 125, "with four levels, 500 in all"


def test_two_retries_at_once_after_a_kill(scene: Scene, tmp_path: Path) -> None:
    listing = scene.run("listing", None, tmp_path / "out")
    assert listing is not None
    for point, name in enumerate(listing["points"]):
        operation = f"killed {name} {point}"
        assert scene.run(operation, point, tmp_path / "out") is None
        scene.clock += 31.0
        outs = [tmp_path / "first", tmp_path / "second"]
        for out in outs:
            out.unlink(missing_ok=True)
        children = [scene.spawn(operation, None, out) for out in outs]
        for child in children:
            _, status = os.waitpid(child, 0)
            assert os.WEXITSTATUS(status) == 0, name
        answers = {
            result["answer"]
            for result in (json.loads(out.read_text()) for out in outs)
            if "answer" in result
        }
        answers.add(scene.retried(operation, tmp_path / "out"))
        assert len(answers) == 1, name
        assert scene.rows(operation) == 1, name
