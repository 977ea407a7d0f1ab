"""The caller's own transaction, whichever library it comes from: psycopg, sqlite3, SQLAlchemy or Django.

Invariants:
    - nothing is imported for this: who passes a connection has its library loaded;
    - a transaction that is already open is refused, because whoever opened it would commit it, or not,
      without the outcome; Django's `atomic` block is the exception, since it tells when it has committed;
    - a call may answer with an awaitable, when the connection is an asynchronous one.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from anypod.errors import ConfigurationError

OPEN_ALREADY = (
    "within() needs a connection without an open transaction: it begins one, and commits it together with "
    "the outcome. Commit or roll back first"
)


class Trouble(Enum):
    """What an error of the database means for a claim."""

    LOCKED = "locked"  # another transaction holds the row: the operation is in flight
    SERIALIZATION = "serialization"  # this transaction cannot go on: look again in a new one


class Transaction(Protocol):
    """What an exactly-once claim needs of the caller's connection. Methods may return awaitables."""

    dialect: str  # "postgresql" or "sqlite"
    restarts: bool  # whether `begin` may be called again after `rollback`

    def begin(self) -> Any:
        """Begin a transaction; raises `ConfigurationError` if one is open."""

    def execute(self, statement: str, values: Sequence[Any]) -> Any:
        """Run one statement with `?` for its values and return its rows."""

    def commit(self, then: Callable[[], Any]) -> Any:
        """Commit, or leave that to the block around; afterwards call `then`."""

    def rollback(self) -> Any:
        """Undo everything since `begin`."""

    def leave(self) -> Any:
        """End a transaction that has changed nothing."""

    def trouble(self, failure: BaseException) -> Trouble | None:
        """What an error means, None for any other."""


def transaction_of(connection: Any) -> Transaction:
    """The transaction of a connection.

    Raises:
        ConfigurationError: a kind of connection that is not supported.
    """
    if isinstance(connection, sqlite3.Connection):
        return SQLiteTransaction(connection)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None:
        if isinstance(connection, psycopg.Connection):
            return PsycopgTransaction(connection)
        if isinstance(connection, psycopg.AsyncConnection):
            return AsyncPsycopgTransaction(connection)
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None and isinstance(connection, orm.Session | orm.scoped_session):
        return SQLAlchemyTransaction(connection)
    engine = sys.modules.get("sqlalchemy.engine")
    if engine is not None and isinstance(connection, engine.Connection):
        return SQLAlchemyTransaction(connection)
    asyncio_ = sys.modules.get("sqlalchemy.ext.asyncio")
    if asyncio_ is not None and isinstance(
        connection, asyncio_.AsyncSession | asyncio_.AsyncConnection
    ):
        return AsyncSQLAlchemyTransaction(connection)
    if "django" in sys.modules and hasattr(connection, "in_atomic_block"):
        return DjangoTransaction(connection)
    kind = type(connection)
    raise ConfigurationError(
        f"within() does not know how to use a {kind.__module__}.{kind.__qualname__}; give it a psycopg or "
        f"sqlite3 connection, a SQLAlchemy Session or Connection, or Django's connection"
    )


def database_trouble(failure: BaseException | None) -> Trouble | None:
    """What an error means, looking through what libraries wrap around it."""
    while failure is not None:
        state = getattr(failure, "sqlstate", None)
        if state in ("55P03", "57014"):  # lock_not_available, query_canceled
            return Trouble.LOCKED
        if state in ("40001", "40P01"):  # serialization_failure, deadlock_detected
            return Trouble.SERIALIZATION
        if isinstance(failure, sqlite3.OperationalError):
            code = failure.sqlite_errorcode & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                return Trouble.LOCKED
        failure = getattr(failure, "orig", None) or failure.__cause__
    return None


def _dollars(statement: str) -> str:
    return statement.replace("?", "%s")


class SQLiteTransaction:
    """A `sqlite3.Connection` of the application's own file."""

    dialect = "sqlite"
    restarts = True

    def __init__(self, connection: sqlite3.Connection) -> None:
        if getattr(connection, "autocommit", None) is False:
            raise ConfigurationError(
                "within() cannot use a sqlite3 connection with autocommit=False, which always has a "
                "transaction open; connect with autocommit=True, or with isolation_level=None"
            )
        self._connection = connection

    def begin(self) -> None:
        """Take SQLite's write lock at once: upgrading a reader later could not wait for it."""
        if self._connection.in_transaction:
            raise ConfigurationError(OPEN_ALREADY)
        self._connection.execute("BEGIN IMMEDIATE")

    def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Run one statement."""
        return [tuple(row) for row in self._connection.execute(statement, tuple(values))]

    def commit(self, then: Callable[[], Any]) -> Any:
        """Commit."""
        self._connection.execute("COMMIT")
        return then()

    def rollback(self) -> None:
        """Roll back, if SQLite has not done so by itself."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    leave = rollback

    def trouble(self, failure: BaseException) -> Trouble | None:
        """Look at SQLite's code."""
        return database_trouble(failure)


class PsycopgTransaction:
    """A blocking psycopg connection, in autocommit mode or not."""

    dialect = "postgresql"
    restarts = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def begin(self) -> None:
        """Begin."""
        if self._connection.info.transaction_status.name != "IDLE":
            raise ConfigurationError(OPEN_ALREADY)
        if self._connection.autocommit:
            self._connection.execute("BEGIN")

    def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Run one statement."""
        cursor = self._connection.execute(_dollars(statement), tuple(values))
        return _tuples(cursor.fetchall() if cursor.description else [])

    def commit(self, then: Callable[[], Any]) -> Any:
        """Commit."""
        self._connection.commit()
        return then()

    def rollback(self) -> None:
        """Roll back."""
        self._connection.rollback()

    leave = rollback

    def trouble(self, failure: BaseException) -> Trouble | None:
        """Look at the SQLSTATE."""
        return database_trouble(failure)


class AsyncPsycopgTransaction(PsycopgTransaction):
    """An asynchronous psycopg connection."""

    async def begin(self) -> None:  # type: ignore[override]
        """Begin."""
        if self._connection.info.transaction_status.name != "IDLE":
            raise ConfigurationError(OPEN_ALREADY)
        if self._connection.autocommit:
            await self._connection.execute("BEGIN")

    async def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:  # type: ignore[override]
        """Run one statement."""
        cursor = await self._connection.execute(_dollars(statement), tuple(values))
        return _tuples(await cursor.fetchall() if cursor.description else [])

    async def commit(self, then: Callable[[], Any]) -> Any:
        """Commit."""
        await self._connection.commit()
        return await then()

    async def rollback(self) -> None:  # type: ignore[override]
        """Roll back."""
        await self._connection.rollback()

    leave = rollback  # type: ignore[assignment]


class SQLAlchemyTransaction:
    """A SQLAlchemy `Session`, `scoped_session` or `Connection`."""

    restarts = True

    def __init__(self, target: Any) -> None:
        self._target = target
        bind = target.get_bind() if hasattr(target, "get_bind") else target
        self.dialect: str = bind.dialect.name
        if self.dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(
                f"within() knows PostgreSQL and SQLite, not SQLAlchemy's dialect {self.dialect!r}"
            )

    def begin(self) -> None:
        """Begin; on SQLite, take the write lock at once."""
        if self._target.in_transaction():
            raise ConfigurationError(OPEN_ALREADY)
        self._target.begin()
        raw = self._connection().connection.driver_connection
        if self.dialect == "sqlite":
            if not raw.in_transaction:
                raw.execute("BEGIN IMMEDIATE")
        elif raw.autocommit:
            self._target.rollback()
            raise ConfigurationError(
                "within() cannot use a SQLAlchemy connection at isolation level AUTOCOMMIT: each statement "
                "would commit by itself"
            )

    def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Run one statement."""
        connection = self._connection()
        if connection.dialect.paramstyle in ("pyformat", "format", "numeric_dollar"):
            statement = _dollars(statement)
        result = connection.exec_driver_sql(statement, tuple(values))
        return _tuples(result.fetchall() if result.returns_rows else [])

    def commit(self, then: Callable[[], Any]) -> Any:
        """Commit."""
        self._target.commit()
        return then()

    def rollback(self) -> None:
        """Roll back."""
        self._target.rollback()

    leave = rollback

    def trouble(self, failure: BaseException) -> Trouble | None:
        """Look at the driver's error."""
        return database_trouble(failure)

    def _connection(self) -> Any:
        return (
            self._target.connection()
            if callable(getattr(self._target, "connection", None))
            else (self._target)
        )


class AsyncSQLAlchemyTransaction(SQLAlchemyTransaction):
    """A SQLAlchemy `AsyncSession` or `AsyncConnection`."""

    def __init__(self, target: Any) -> None:
        super().__init__(
            target.sync_session if hasattr(target, "sync_session") else (target.sync_connection)
        )
        self._async = target

    async def begin(self) -> None:  # type: ignore[override]
        """Begin."""
        if self._async.in_transaction():
            raise ConfigurationError(OPEN_ALREADY)
        await self._async.begin()
        if self.dialect != "postgresql":
            await self._async.rollback()
            raise ConfigurationError("within() takes asynchronous SQLAlchemy on PostgreSQL only")

    async def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:  # type: ignore[override]
        """Run one statement."""
        run = super().execute
        return await self._async.run_sync(lambda _: run(statement, values))  # type: ignore[no-any-return]

    async def commit(self, then: Callable[[], Any]) -> Any:
        """Commit."""
        await self._async.commit()
        return await then()

    async def rollback(self) -> None:  # type: ignore[override]
        """Roll back."""
        await self._async.rollback()

    leave = rollback  # type: ignore[assignment]


class DjangoTransaction:
    """Django's connection, inside an `atomic` block that commits by itself."""

    restarts = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.dialect: str = connection.vendor
        if self.dialect not in ("postgresql", "sqlite"):
            raise ConfigurationError(
                f"within() knows PostgreSQL and SQLite, not Django's {self.dialect!r}"
            )

    def begin(self) -> None:
        """The block has begun one."""
        if not self._connection.in_atomic_block:
            raise ConfigurationError(
                "within(django.db.connection) needs an atomic block: with transaction.atomic(): …"
            )

    def execute(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Run one statement."""
        with self._connection.cursor() as cursor:
            cursor.execute(_dollars(statement), tuple(values))
            return _tuples(cursor.fetchall() if cursor.description else [])

    def commit(self, then: Callable[[], Any]) -> None:
        """The block commits; the claim is completed once it has."""
        self._connection.on_commit(then)

    def rollback(self) -> None:
        """Let the block roll back at its end, if there is one."""
        if self._connection.in_atomic_block:
            self._connection.set_rollback(True)

    def leave(self) -> None:
        """The block goes on; nothing has to be undone."""

    def trouble(self, failure: BaseException) -> Trouble | None:
        """Look at the driver's error."""
        return database_trouble(failure)


def _tuples(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in rows]
