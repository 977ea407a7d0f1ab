"""Exactly once inside Django's `atomic`: the block commits, and the claim is completed once it has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# A process of its own for each scenario, because Django is configured once per process.
BEGINNING = """
import json, sys
import django
from django.conf import settings

store, database = sys.argv[1], json.loads(sys.argv[2])
settings.configure(DATABASES={"default": database}, USE_TZ=True)
django.setup()
from django.db import connection, transaction
from anypod import ConfigurationError, InFlight, KeyReused, State
from anypod.primitives.within import purge, table
from anypod.testing import advance

state = State(store, namespace="t")
orders = state.idempotency("orders", lease=30.0)
with connection.cursor() as cursor:
    cursor.execute(table(connection.vendor))
    cursor.execute("CREATE TABLE orders (item TEXT)")


def order(item):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (%s)", [item])


def ordered():
    with connection.cursor() as cursor:
        cursor.execute("SELECT item FROM orders ORDER BY item")
        return [row[0] for row in cursor.fetchall()]


def fails(error, match, call):
    try:
        call()
    except error as failure:
        assert match in str(failure), failure
    else:
        raise AssertionError(f"no {error.__name__}")
"""

SCENARIOS = {
    "work and outcome commit together": """
for _ in range(2):
    with transaction.atomic():
        with orders.within(connection).claim("key", "f") as attempt:
            if not attempt.replayed:
                order("pen")
                attempt.complete({"id": 7})
            assert attempt.outcome == {"id": 7}
assert ordered() == ["pen"]
assert orders.explain("key").outcome == {"id": 7}


def other():
    with transaction.atomic():
        with orders.within(connection).claim("key", "g"):
            raise AssertionError("carried out")


fails(KeyReused, "other arguments", other)
""",
    "an exception rolls everything back and a retry executes": """
def call(boom):
    with transaction.atomic():
        with orders.within(connection).claim("key") as attempt:
            assert not attempt.replayed
            order("pen")
            if boom:
                raise ZeroDivisionError


fails(ZeroDivisionError, "", lambda: call(True))
assert ordered() == []
call(False)
assert ordered() == ["pen"]
""",
    "an outer block that rolls back takes the operation with it": """
def call(boom):
    with transaction.atomic():
        with transaction.atomic():
            with orders.within(connection).claim("key", wait=0) as attempt:
                order("pen")
                attempt.complete("done")
        assert orders.explain("key").fate.value == "in flight", "not before the outer block commits"
        if boom:
            raise ZeroDivisionError


fails(ZeroDivisionError, "", lambda: call(True))
assert ordered() == []
fails(InFlight, "elsewhere", lambda: call(False))
advance(state, 31.0)
call(False)
assert ordered() == ["pen"]
assert orders.explain("key").fate.value == "complete"
""",
    "abandoning rolls the block back": """
with transaction.atomic():
    with orders.within(connection).claim("key") as attempt:
        order("pen")
        attempt.abandon()
assert ordered() == []
with transaction.atomic():
    with orders.within(connection).claim("key") as attempt:
        assert not attempt.replayed
""",
    "the row decides when the store has forgotten": """
for _ in range(2):
    with transaction.atomic():
        with orders.within(connection).claim("key") as attempt:
            if not attempt.replayed:
                order("pen")
                attempt.complete("first")
            assert attempt.outcome == "first"
    advance(state, 90_000.0)
assert ordered() == ["pen"]
""",
    "without an atomic block it is refused": """
def call():
    with orders.within(connection).claim("key"):
        raise AssertionError("carried out")


fails(ConfigurationError, "with transaction.atomic()", call)
with orders.claim("key") as attempt:
    assert not attempt.replayed, "the claim was given back"
""",
    "old rows are purged": """
with transaction.atomic():
    with orders.within(connection).claim("key") as attempt:
        attempt.complete(1)
with transaction.atomic():
    assert purge(connection, 3600.0) == 0
with transaction.atomic():
    assert purge(connection, 0.0) == 1
""",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "sqlite":
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(tmp_path / "app.db"),
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
        }
    import psycopg.conninfo

    new: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    parts = psycopg.conninfo.conninfo_to_dict(new())
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "USER": parts.get("user", ""),
        "PASSWORD": parts.get("password", ""),
        "HOST": parts.get("host", ""),
        "PORT": str(parts.get("port", "")),
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_within_atomic(scenario: str, database: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("django")
    program = BEGINNING + SCENARIOS[scenario]
    ended = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/store.db", json.dumps(database)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
