"""Commands inside the caller's own SQLite transaction."""

from __future__ import annotations

import asyncio
import sqlite3
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
