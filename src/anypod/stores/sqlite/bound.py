"""Commands inside the caller's own SQLite transaction: they commit with it, or not at all.

The records are in the caller's database, in tables that begin with `anypod_`, beside the caller's own. They are
not the store's: a counter that is counted here is another one than the store's of the same name.

Accepted are a sqlite3 connection, a SQLAlchemy `Session` or `Connection` on sqlite3, and a Django connection
inside `atomic`. None of these packages is imported here; who passes one has it loaded.

Invariants:
    - a command never begins nor commits: without an open transaction it is refused, because it would
      stand alone;
    - what tells others at once (publishing, handing a lock over) is refused: it cannot be taken back.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from anypod.commands import Acquire, Command, Publish, Release, Withdraw
from anypod.errors import ConfigurationError, StoreError
from anypod.stores.notices import Subscription
from anypod.stores.specification import execute
from anypod.stores.sqlite.rows import TABLES, Rows

if TYPE_CHECKING:
    from anypod.stores.sqlite.driver import SQLiteDriver

R = TypeVar("R")

TELLING: Final = frozenset({Publish, Acquire, Release, Withdraw})


def connection_of(given: Any) -> Callable[[], sqlite3.Connection]:
    """How to get at the sqlite3 connection behind what the caller has given.

    Raises:
        ConfigurationError: there is none.
    """
    if isinstance(given, sqlite3.Connection):
        return lambda: given
    if "sqlalchemy" in sys.modules:
        found = _on_sqlalchemy(given)
        if found is not None:
            return found
    if "django" in sys.modules and hasattr(given, "in_atomic_block"):
        return lambda: _checked(given.connection if given.in_atomic_block else None, given)
    raise _strange(given)


def _on_sqlalchemy(given: Any) -> Callable[[], sqlite3.Connection] | None:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(given, Session | scoped_session):
        return lambda: _checked(given.connection().connection.dbapi_connection, given)
    if isinstance(given, Connection):
        return lambda: _checked(given.connection.dbapi_connection, given)
    return None


def _checked(found: object, given: object) -> sqlite3.Connection:
    if found is None:
        raise ConfigurationError(_NO_TRANSACTION)
    if not isinstance(found, sqlite3.Connection):
        raise _strange(given)
    return found


def _strange(given: object) -> ConfigurationError:
    return ConfigurationError(
        f"bind() cannot run commands on a {type(given).__module__}.{type(given).__qualname__}; give it a "
        f"sqlite3 connection, a SQLAlchemy Session or Connection on SQLite, or Django's connection"
    )


_NO_TRANSACTION: Final = (
    "bind() needs an open transaction: the command would commit by itself. Begin one first (sqlite3: "
    "execute('BEGIN IMMEDIATE'), Django: `with transaction.atomic():`)"
)


class BoundDriver:
    """A driver whose commands are part of one open transaction. Made by `SQLiteDriver.bind`.

    Args:
        given: the caller's connection.
        parent: the driver whose clock counts.
    """

    name = "sqlite"

    def __init__(self, given: object, parent: SQLiteDriver) -> None:
        self._connection = connection_of(given)
        self._parent = parent
        self.errors = parent.errors
        self.capabilities = parent.capabilities

    @property
    def clock_offset(self) -> float:
        """Seconds added to the store's clock: the parent's."""
        return self._parent.clock_offset

    def execute(self, command: Command[R]) -> R:
        """Execute one command in the transaction."""
        if type(command) in TELLING:
            raise ConfigurationError(
                f"{type(command).__name__} tells others at once and cannot be part of a transaction: use "
                f"the store itself"
            )
        connection = self._connection()
        if not connection.in_transaction:
            raise ConfigurationError(_NO_TRANSACTION)
        for table in TABLES:
            connection.execute(table)  # in the transaction too; nothing if it is there
        now = self._parent.now()
        return execute(command, Rows(connection, now), now)  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command in the transaction; it blocks as the caller's own statements do."""
        return self.execute(command)

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands one by one."""
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(self.execute(command))
            except self.errors as failure:
                replies.append(failure)
        return replies

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Wait for a notification of the store's, outside the transaction."""
        return self._parent.receive(mailbox, seconds)

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        return await self._parent.areceive(mailbox, seconds)

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel of the store's, outside the transaction."""
        return self._parent.listen(channel)

    def bind(self, connection: object) -> BoundDriver:
        """The same, on another connection."""
        return BoundDriver(connection, self._parent)

    def classify(self, failure: Exception) -> type[StoreError]:
        """What a raised error means."""
        return self._parent.classify(failure)

    def answered(self, failure: Exception) -> bool:
        """A file is always there."""
        return self._parent.answered(failure)

    def advice(self, failure: Exception) -> str:
        """What a raised error means in plain words."""
        return "your own database keeps your own transaction waiting" if _busy(failure) else ""

    def close(self) -> None:
        """Nothing: the connection is the caller's."""

    async def aclose(self) -> None:
        """Nothing: the connection is the caller's."""


def _busy(failure: Exception) -> bool:
    return str(getattr(failure, "sqlite_errorname", "")).startswith("SQLITE_BUSY")
