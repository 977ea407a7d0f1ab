"""Commands inside the caller's own SQLite transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from anypod.commands import Add, Claim, Existence, PatchDocument, Publish, Put, ReadDocument, Total
from anypod.errors import ConfigurationError, RecordError
from anypod.stores import Store, open_store

pytestmark = pytest.mark.quick

KEY = "ap:t:counter:hits:sx"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path}/store.db", namespace="t") as store:
        yield store


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
    yield connection
    connection.close()


def test_commands_commit_with_the_callers_rows_or_not_at_all(
    store: Store, shop: sqlite3.Connection
) -> None:
    bound = store.bind(shop)
    shop.execute("BEGIN IMMEDIATE")
    shop.execute("INSERT INTO orders VALUES (1)")
    assert bound.execute(Add(KEY)).value == 1
    shop.execute("ROLLBACK")
    shop.execute("BEGIN IMMEDIATE")
    assert bound.execute(Total(KEY)) == 0
    shop.execute("INSERT INTO orders VALUES (1)")
    assert bound.execute(Add(KEY, once="order-1")).value == 1
    assert bound.execute(Add(KEY, once="order-1")).value == 1
    bound.execute(PatchDocument("d", {"a": b"1"}, existence=Existence.NEW))
    assert asyncio.run(bound.aexecute(ReadDocument("d"))) is not None
    shop.execute("COMMIT")
    shop.execute("BEGIN")
    assert bound.execute(Total(KEY)) == 1
    shop.execute("COMMIT")
    assert store.execute(Total(KEY)) == 0, "the records are the caller's, not the store's"
    assert bound.namespace == "t"


def test_without_a_transaction_nothing_is_done(store: Store, shop: sqlite3.Connection) -> None:
    with pytest.raises(ConfigurationError, match="needs an open transaction"):
        store.bind(shop).execute(Add(KEY))
    assert shop.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (1,)


def test_sqlalchemy(store: Store, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/alchemy.db")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
    with Session(engine) as session:
        session.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        assert store.bind(session).execute(Add(KEY)).value == 1
        session.rollback()
        session.execute(sqlalchemy.text("INSERT INTO orders VALUES (1)"))
        assert store.bind(session).execute(Add(KEY)).value == 1
        session.commit()
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (2)"))
        assert store.bind(connection).execute(Add(KEY)).value == 2
    engine.dispose()


def test_errors_are_the_stores(store: Store, shop: sqlite3.Connection) -> None:
    bound = store.bind(shop)
    shop.execute("BEGIN IMMEDIATE")
    bound.execute(Put(KEY, b"x"))
    with pytest.raises(RecordError):
        bound.execute(Add(KEY))
    with pytest.raises(ConfigurationError, match="tells others at once"):
        bound.execute(Publish("c", b"x"))
    assert bound.execute(Claim("c", "f", 1, 1)).attempt == 1
    shop.execute("COMMIT")


def test_what_cannot_be_bound(store: Store) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot run commands on a builtins\.str"):
        store.bind("a string")
    for url in ("memory://", "redis://127.0.0.1:1"):
        with open_store(url) as other, pytest.raises(ConfigurationError, match="cannot take part"):
            other.bind(sqlite3)


DJANGO = """
import sys
import django
from django.conf import settings

url, shop, key = sys.argv[1:]
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": shop}}, USE_TZ=True
)
django.setup()
from django.db import connection, transaction
from anypod import commands as c
from anypod.errors import ConfigurationError
from anypod.stores import open_store


def orders():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders")
        return cursor.fetchone()[0]


def order():
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (NULL)")


with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
with open_store(url) as store:
    bound = store.bind(connection)
    try:
        bound.execute(c.Add(key))
    except ConfigurationError as refused:
        assert "needs an open transaction" in str(refused), refused
    else:
        raise AssertionError("a command stood alone")
    try:
        with transaction.atomic():
            order()
            assert bound.execute(c.Add(key)).value == 1
            raise KeyError
    except KeyError:
        pass
    with transaction.atomic():
        assert (orders(), bound.execute(c.Total(key))) == (0, 0)
        order()
        assert bound.execute(c.Add(key, once="order-1")).value == 1
        try:
            with transaction.atomic():  # a savepoint of its own
                order()
                assert bound.execute(c.Add(key)).value == 2
                raise KeyError
        except KeyError:
            pass
        assert bound.execute(c.Add(key, once="order-1")).value == 1
        document = c.PatchDocument(key + "d", {"a": b"1"}, existence=c.Existence.NEW)
        assert bound.execute(document).outcome is c.PatchOutcome.PATCHED
    with transaction.atomic():
        assert (orders(), bound.execute(c.Total(key))) == (1, 1)
    assert store.execute(c.Total(key)) == 0, "the records are the caller's, not the store's"
connection.close()
"""


def test_django_inside_atomic(tmp_path: Path) -> None:
    url, shop = f"sqlite:///{tmp_path}/store.db", str(tmp_path / "shop.db")
    arguments = [sys.executable, "-W", "error", "-c", DJANGO, url, shop, KEY]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
