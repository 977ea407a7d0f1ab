from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy

from anypod import ConfigurationError, InFlight, KeyReused, State
from anypod.primitives.idempotency import Idempotency
from anypod.primitives.within import purge, table

from .conftest import advance

KINDS = ["sqlite3", "psycopg", "psycopg-autocommit", "sqlalchemy", "sqlalchemy-pg", "session"]


class Database:
    """One application database, through one of the libraries that people use."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
        self.kind = kind
        self.engine: Any = None
        self.on_postgres = kind.startswith("psycopg") or kind.endswith("-pg")
        if self.on_postgres:
            self.url = request.getfixturevalue("new_postgres_url")()
        else:
            self.url = str(folder / "app.db")
        if kind in ("sqlalchemy", "session"):
            self.engine = sqlalchemy.create_engine(f"sqlite:///{self.url}")
        elif kind == "sqlalchemy-pg":
            url = self.url.replace("postgresql://", "postgresql+psycopg://")
            self.engine = sqlalchemy.create_engine(url)
        self.opened: list[Any] = []
        dialect = "postgresql" if self.on_postgres else "sqlite"
        self.run(table(dialect))
        self.run("CREATE TABLE orders (item TEXT)")

    def connect(self) -> Any:
        if self.kind == "sqlite3":
            connection: Any = sqlite3.connect(self.url, timeout=0.2, check_same_thread=False)
        elif self.engine is None:
            connection = psycopg.connect(self.url, autocommit=self.kind.endswith("autocommit"))
        elif self.kind == "session":
            from sqlalchemy.orm import Session

            connection = Session(self.engine)
        else:
            connection = self.engine.connect()
        self.opened.append(connection)
        return connection

    def order(self, connection: Any, item: str) -> None:
        statement = f"INSERT INTO orders VALUES ('{item}')"
        connection.execute(statement if self.engine is None else sqlalchemy.text(statement))

    def run(self, statement: str) -> list[Any]:
        if self.on_postgres:
            with psycopg.connect(self.url, autocommit=True) as connection:
                cursor = connection.execute(statement.encode())
                return cursor.fetchall() if cursor.description else []
        connection_ = sqlite3.connect(self.url)
        try:
            with connection_:
                return connection_.execute(statement).fetchall()
        finally:
            connection_.close()

    def orders(self) -> list[str]:
        return [row[0] for row in self.run("SELECT item FROM orders")]

    def close(self) -> None:
        for connection in self.opened:
            connection.close()
        if self.engine is not None:
            self.engine.dispose()


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = Database(request.param, request, tmp_path)
    yield database
    database.close()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(f"sqlite:///{tmp_path}/store.db", namespace="t") as state:
        yield state


@pytest.fixture
def orders(state: State) -> Idempotency:
    return state.idempotency("orders", lease=30.0)


def test_work_and_outcome_commit_together(orders: Idempotency, database: Database) -> None:
    connection = database.connect()
    with orders.within(connection).claim("key", "f") as attempt:
        assert not attempt.replayed
        database.order(connection, "pen")
        attempt.complete({"id": 7})
    with orders.within(connection).claim("key", "f") as again:
        assert (again.replayed, again.outcome) == (True, {"id": 7})
    assert database.orders() == ["pen"]
    with pytest.raises(KeyReused), orders.within(connection).claim("key", "g"):
        pass


def test_a_failure_rolls_everything_back_and_a_retry_executes(
    orders: Idempotency, database: Database
) -> None:
    connection = database.connect()
    with pytest.raises(ZeroDivisionError), orders.within(connection).claim("key"):
        database.order(connection, "pen")
        raise ZeroDivisionError
    assert database.orders() == []
    with orders.within(connection).claim("key") as attempt:
        assert not attempt.replayed
        database.order(connection, "pen")
    assert database.orders() == ["pen"]


def test_abandoning_rolls_back(orders: Idempotency, database: Database) -> None:
    connection = database.connect()
    with orders.within(connection).claim("key") as attempt:
        database.order(connection, "pen")
        attempt.abandon()
    assert database.orders() == []
    with orders.within(connection).claim("key") as attempt:
        assert not attempt.replayed


def test_the_row_decides_when_the_store_has_forgotten(
    state: State, orders: Idempotency, database: Database
) -> None:
    connection = database.connect()
    with orders.within(connection).claim("key", "f") as attempt:
        database.order(connection, "pen")
        attempt.complete("first")
    advance(state, 90_000.0)
    with orders.within(connection).claim("key", "f") as again:
        assert (again.replayed, again.outcome) == (True, "first")
    advance(state, 90_000.0)
    with pytest.raises(KeyReused), orders.within(connection).claim("key", "g"):
        pass
    assert database.orders() == ["pen"]


def test_a_zombie_that_commits_first_is_the_one_that_counts(
    state: State, orders: Idempotency, database: Database
) -> None:
    first, second = database.connect(), database.connect()
    with orders.within(first).claim("key") as zombie:
        database.order(first, "zombie")
        advance(state, 31.0)
        with (
            pytest.raises(InFlight),
            orders.within(second, lock_timeout=0.05).claim("key"),
        ):
            pytest.fail("two executions at once")
        zombie.complete("zombie")
    with orders.within(second).claim("key") as later:
        assert (later.replayed, later.outcome) == (True, "zombie")
    assert database.orders() == ["zombie"]


def test_a_row_without_an_outcome_is_never_executed_again(
    state: State, orders: Idempotency, database: Database
) -> None:
    connection = database.connect()
    address = orders.address("key")
    database.run(
        f"INSERT INTO anypod_operations (operation, fingerprint, token) VALUES ('{address}', '', 1)"
    )
    for _ in range(2):
        with pytest.raises(InFlight), orders.within(connection).claim("key"):
            pytest.fail("executed")


def test_an_open_transaction_is_refused(orders: Idempotency, database: Database) -> None:
    connection = database.connect()
    if database.kind == "psycopg-autocommit":
        connection.execute("BEGIN")
    database.order(connection, "before")
    with pytest.raises(ConfigurationError, match="Commit or roll back first"):
        orders.within(connection).claim("key").__enter__()
    with orders.claim("key") as attempt:
        assert not attempt.replayed, "the claim was given back"


@pytest.mark.parametrize(
    "database", ["sqlite3", "psycopg", "psycopg-autocommit", "sqlalchemy-pg"], indirect=True
)
def test_eight_at_once_execute_once(orders: Idempotency, database: Database) -> None:
    outcomes: list[Any] = []

    def call(number: int) -> None:
        connection = database.connect()
        with orders.within(connection).claim("key", wait=30.0) as attempt:
            if not attempt.replayed:
                database.order(connection, str(number))
                attempt.complete(number)
            outcomes.append(attempt.outcome)
        connection.close()

    threads = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(outcomes)) == 1
    assert len(outcomes) == 8
    assert database.orders() == [str(outcomes[0])]


def test_downstream_keys_are_stable(state: State, orders: Idempotency) -> None:
    keys = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), orders.claim("key") as attempt:
            keys.append((attempt.downstream_key("charge"), attempt.downstream_key("mail")))
            attempt.abandon()
            raise ZeroDivisionError
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[0][1]
    with orders.claim("other") as attempt:
        assert attempt.downstream_key("charge") != keys[0][0]


async def _async_psycopg(url: str) -> tuple[Any, Callable[[str], Any]]:
    connection = await psycopg.AsyncConnection.connect(url)
    return connection, lambda statement: connection.execute(statement)


def test_async_psycopg(
    state: State, orders: Idempotency, new_postgres_url: Callable[[], str]
) -> None:
    url = new_postgres_url()
    with psycopg.connect(url, autocommit=True) as setup:
        setup.execute(table("postgresql").encode())
        setup.execute("CREATE TABLE orders (item TEXT)")

    async def scenario() -> None:
        connection, execute = await _async_psycopg(url)
        async with orders.within(connection).aclaim("key") as attempt:
            await execute("INSERT INTO orders VALUES ('pen')")
            await attempt.acomplete("done")
        with pytest.raises(ZeroDivisionError):
            async with orders.within(connection).aclaim("other"):
                await execute("INSERT INTO orders VALUES ('ink')")
                raise ZeroDivisionError
        async with orders.within(connection).aclaim("key") as again:
            assert again.outcome == "done"
        await connection.close()
        await state.aclose()

    asyncio.run(scenario())
    with psycopg.connect(url) as check:
        assert check.execute("SELECT item FROM orders").fetchall() == [("pen",)]


def test_what_is_no_connection_is_refused(orders: Idempotency) -> None:
    with pytest.raises(ConfigurationError, match="does not know how to use a builtins"):
        orders.within(object())
    with pytest.raises(ConfigurationError, match="lock_timeout"):
        orders.within(sqlite3.connect(":memory:"), lock_timeout=0)
    with pytest.raises(ConfigurationError, match="dialect"):
        table("oracle")


def test_async_sqlalchemy(
    state: State, orders: Idempotency, new_postgres_url: Callable[[], str]
) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    url = new_postgres_url()
    with psycopg.connect(url, autocommit=True) as setup:
        setup.execute(table("postgresql").encode())
        setup.execute("CREATE TABLE orders (item TEXT)")
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))

    async def scenario() -> None:
        async with AsyncSession(engine) as session, engine.connect() as connection:
            for number, target in enumerate((session, connection)):
                async with orders.within(target).aclaim(number) as attempt:
                    insert = sqlalchemy.text("INSERT INTO orders VALUES (:item)")
                    await target.execute(insert, {"item": f"pen {number}"})
                    await attempt.acomplete(number)
                with pytest.raises(ZeroDivisionError):
                    async with orders.within(target).aclaim("other"):
                        await target.execute(insert, {"item": "ink"})
                        raise ZeroDivisionError
                async with orders.within(target).aclaim(number) as again:
                    assert (again.replayed, again.outcome) == (True, number)
            advance(state, 90_000.0)  # the store has forgotten; the row has not
            async with orders.within(session).aclaim(0) as again:
                assert (again.replayed, again.outcome) == (True, 0)
            await session.execute(sqlalchemy.text("SELECT 1"))
            with pytest.raises(ConfigurationError, match="Commit or roll back first"):
                await orders.within(session).aclaim("open").__aenter__()
        await engine.dispose()
        await state.aclose()

    asyncio.run(scenario())
    with psycopg.connect(url) as check:
        found = check.execute("SELECT item FROM orders ORDER BY item").fetchall()
    assert found == [("pen 0",), ("pen 1",)]


def test_old_rows_are_purged(orders: Idempotency, database: Database) -> None:
    connection = database.connect()
    for key in ("a", "b"):
        with orders.within(connection).claim(key) as attempt:
            attempt.complete(key)
    old = (
        "CURRENT_TIMESTAMP - interval '2 days'"
        if database.on_postgres
        else "datetime('now', '-2 days')"
    )
    address = orders.address("a")
    database.run(f"UPDATE anypod_operations SET made = {old} WHERE operation = '{address}'")
    assert purge(connection, 7 * 86_400.0) == 0
    assert purge(connection, 86_400.0) == 1
    assert database.run("SELECT operation FROM anypod_operations") == [(orders.address("b"),)]
    assert purge(connection, 0.0) == 1
    with pytest.raises(ConfigurationError, match="older_than must be seconds"):
        purge(connection, -1.0)
