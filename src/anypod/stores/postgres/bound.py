"""Commands inside the caller's own transaction: they commit with it, or not at all.

Accepted are a psycopg connection (blocking or async), a SQLAlchemy `Session` or `Connection` (or their
async kin) on psycopg, and a Django connection inside `atomic`. None of these packages is imported here;
who passes one has it loaded.

Invariants:
    - a command never commits: without an open transaction it is refused, because it would stand alone;
    - a key stays locked until that transaction ends, as a row would; other commands on it wait, each
      until its own timeout. Keep such transactions short, and touch keys in one order;
    - the caller's connection is the caller's: it is neither closed nor reconfigured, and an error of the
      server has ended its transaction, as any statement's error does.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from anypod.commands import Command
from anypod.errors import ConfigurationError, StoreError
from anypod.stores.notices import Subscription
from anypod.stores.postgres.binary import Row, Values
from anypod.stores.postgres.calls import answer

if TYPE_CHECKING:
    from anypod.stores.postgres.driver import PostgresDriver

R = TypeVar("R")

Run: TypeAlias = Callable[[str, Values], Row]
ARun: TypeAlias = Callable[[str, Values], Awaitable[Row]]

_NO_TRANSACTION = (
    "bind() needs an open transaction: the command would commit by itself. Open one first "
    "(psycopg: `with connection.transaction():`, Django: `with transaction.atomic():`)"
)


def runners(connection: object) -> tuple[Run | None, ARun | None]:
    """How to run one statement on the caller's connection: blocking, awaiting, or None for neither.

    Raises:
        ConfigurationError: this is no connection that a command can run on.
    """
    if isinstance(connection, psycopg.Connection):
        return _on_psycopg(connection), None
    if isinstance(connection, psycopg.AsyncConnection):
        return None, _on_async_psycopg(connection)
    if "sqlalchemy" in sys.modules:
        found = _on_sqlalchemy(connection)
        if found is not None:
            return found
    if "django" in sys.modules and hasattr(connection, "in_atomic_block"):
        return _on_django(connection), None
    raise ConfigurationError(
        f"bind() cannot run commands on a {type(connection).__module__}.{type(connection).__qualname__}; "
        f"give it a psycopg connection, a SQLAlchemy Session or Connection, or Django's connection"
    )


def _on_psycopg(connection: psycopg.Connection[Any]) -> Run:
    def run(statement: str, values: Values) -> Row:
        _check(connection)
        with connection.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute(statement.encode(), values).fetchone()
        return _one(row)

    return run


def _on_async_psycopg(connection: psycopg.AsyncConnection[Any]) -> ARun:
    async def run(statement: str, values: Values) -> Row:
        _check(connection)
        async with connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(statement.encode(), values)
            return _one(await cursor.fetchone())

    return run


def _check(connection: psycopg.BaseConnection[Any]) -> None:
    idle = connection.info.transaction_status == TransactionStatus.IDLE
    if connection.autocommit and idle:
        raise ConfigurationError(_NO_TRANSACTION)


def _on_sqlalchemy(connection: Any) -> tuple[Run | None, ARun | None] | None:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(connection, Connection | Session | scoped_session):

        def run(statement: str, values: Values) -> Row:
            return _through_sqlalchemy(connection, statement, values)

        return run, None

    # Its import needs greenlet; who holds one of its objects has imported it.
    asynchronous: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if asynchronous is not None and isinstance(
        connection, asynchronous.AsyncConnection | asynchronous.AsyncSession
    ):

        async def arun(statement: str, values: Values) -> Row:
            row: Row = await connection.run_sync(_through_sqlalchemy, statement, values)
            return row

        return None, arun
    return None


def _through_sqlalchemy(target: Any, statement: str, values: Values) -> Row:
    from sqlalchemy.engine import Connection
    from sqlalchemy.exc import DBAPIError

    link: Connection = target if isinstance(target, Connection) else target.connection()
    if (link.dialect.name, link.dialect.driver) not in {
        ("postgresql", "psycopg"),
        ("postgresql", "psycopg_async"),
    }:
        raise ConfigurationError(
            f"bind() needs the SQLAlchemy dialect postgresql+psycopg, not "
            f"{link.dialect.name}+{link.dialect.driver}"
        )
    raw: Any = link.connection.driver_connection
    if raw.autocommit:
        raise ConfigurationError(_NO_TRANSACTION)
    try:
        return _one(link.exec_driver_sql(statement, tuple(values)).fetchone())
    except DBAPIError as failure:
        if isinstance(failure.orig, psycopg.Error):
            raise failure.orig from failure
        raise


def _on_django(connection: Any) -> Run:
    def run(statement: str, values: Values) -> Row:
        if connection.vendor != "postgresql":
            raise ConfigurationError(
                f"bind() needs a PostgreSQL connection of Django's, not {connection.vendor}"
            )
        if not connection.in_atomic_block:
            raise ConfigurationError(_NO_TRANSACTION)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return _one(cursor.fetchone())
        except sys.modules["django.db"].Error as failure:
            if isinstance(failure.__cause__, psycopg.Error):
                raise failure.__cause__ from failure
            raise

    return run


def _one(row: Sequence[Any] | None) -> Row:
    if row is None:
        raise psycopg.InternalError("the function answered no row")
    return row


class BoundDriver:
    """A driver whose commands are part of one open transaction. Made by `PostgresDriver.bind`.

    Args:
        connection: the caller's.
        parent: the driver that this one speaks for.
    """

    def __init__(self, connection: object, parent: PostgresDriver) -> None:
        self._run, self._arun = runners(connection)
        self._parent = parent
        self.name = parent.name
        self.errors = parent.errors
        self.capabilities = parent.capabilities

    @property
    def clock_offset(self) -> float:
        """Seconds added to the store's clock: the parent's."""
        return self._parent.clock_offset

    def execute(self, command: Command[R]) -> R:
        """Execute one command in the transaction, blocking."""
        if self._run is None:
            raise ConfigurationError(
                "this connection is async: use the primitive's async methods in its transaction"
            )
        self._parent.look()
        call, values = self._parent.call(command)
        try:
            row = self._run(call.function.formatted, values)
        except psycopg.Error as failure:
            self._parent.explain(failure)
            raise
        return answer(call, command, row)  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command in the transaction, awaiting."""
        if self._arun is None:
            raise ConfigurationError(
                "this connection is blocking: use the primitive's blocking methods in its transaction"
            )
        await self._parent.alook()
        call, values = self._parent.call(command)
        try:
            row = await self._arun(call.function.formatted, values)
        except psycopg.Error as failure:
            self._parent.explain(failure)
            raise
        return answer(call, command, row)  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands one by one: an error of the server ends the transaction for those after it."""
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(self.execute(command))
            except self.errors as failure:
                replies.append(failure)
        return replies

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Wait for a notification, outside the transaction."""
        return self._parent.receive(mailbox, seconds)

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        return await self._parent.areceive(mailbox, seconds)

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel, outside the transaction."""
        return self._parent.listen(channel)

    def bind(self, connection: object) -> BoundDriver:
        """The same, on another connection."""
        return BoundDriver(connection, self._parent)

    def classify(self, failure: Exception) -> type[StoreError]:
        """What a raised error means; a lost connection has taken its transaction with it."""
        return self._parent.classify(failure)

    def answered(self, failure: Exception) -> bool:
        """Whether the error is the server's own word."""
        return self._parent.answered(failure)

    def advice(self, failure: Exception) -> str:
        """What a raised error means in plain words: the parent's."""
        return self._parent.advice(failure)

    def close(self) -> None:
        """Nothing: the connection is the caller's."""

    async def aclose(self) -> None:
        """Nothing: the connection is the caller's."""
