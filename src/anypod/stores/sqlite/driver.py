"""The driver of `sqlite://`: who executes what on which connection. The invariants stand in the package."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from anypod.commands import (
    MAX_INTEGER,
    Add,
    Added,
    AddOutcome,
    CacheRead,
    CacheVersion,
    Command,
    Get,
    Inspect,
    ReadDocument,
    Scan,
    Total,
)
from anypod.errors import OutcomeUnknown, RecordError, StoreError, StoreUnavailable
from anypod.stores import forks
from anypod.stores.driver import Capability
from anypod.stores.notices import Notice, Subscription
from anypod.stores.specification import WrongRecord, execute
from anypod.stores.sqlite.bell import Bell
from anypod.stores.sqlite.bound import BoundDriver
from anypod.stores.sqlite.gate import Gate
from anypod.stores.sqlite.group import GroupWorker
from anypod.stores.sqlite.listener import ChannelSubscription
from anypod.stores.sqlite.rows import (
    LOOK,
    NEXT,
    PAGE,
    REAP,
    STEP,
    TAKE,
    ReadOnlyRows,
    Rows,
    WouldWrite,
    prepare,
)

R = TypeVar("R")

CHECKPOINT_EVERY: Final = 8 * 1024 * 1024  # bytes written by this process
WAL_CAP: Final = 32 * 1024 * 1024  # bytes
CAP_PATIENCE: Final = 20  # ms for which writers wait for readers that keep the log above the cap
REAP_EVERY: Final = 512  # writes
REAP_BATCH: Final = 128  # records
FORK_PATIENCE: Final = 1.0  # seconds that a fork waits for commands under way

READERS: Final = frozenset(
    {Get, Scan, Total, Inspect, ReadDocument, CacheRead, CacheVersion}
)  # which usually only read


logger = logging.getLogger("anypod.stores")


class SQLiteDriver:
    """Records in one SQLite file.

    Args:
        path: the absolute path of the file; created if missing, its folder is not.
        synchronous: `normal` or `full`, see the module.
        timeout: seconds to wait for a turn to write.
    """

    name = "sqlite"
    errors: tuple[type[Exception], ...] = (sqlite3.Error, OSError, WrongRecord)

    def __init__(self, path: str, *, synchronous: str = "normal", timeout: float = 5.0) -> None:
        self.path = path
        self.clock_offset = 0.0
        self.commits = 0  # transactions that wrote; what a group commit saves can be seen here
        self.capabilities = Capability.SHARED
        if synchronous == "full":
            self.capabilities |= Capability.DURABLE_FENCING
        self._synchronous = synchronous
        self._timeout = timeout
        self._gate = Gate(path + "-gate", timeout)
        self._bell = Bell(path + "-wake")
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []  # which nobody uses right now
        self._reading = 0  # how many there are, those that are used included
        self._prepared = False  # whether the file is known to be a store of this version
        self._opening = threading.Lock()
        self._held_opening = self._held_gate = False  # around a fork
        self._worker = GroupWorker(self.execute_many, "anypod-sqlite")
        self._until_reap = REAP_EVERY
        self._stepper: sqlite3.Cursor  # of the writer; making one for each statement takes time
        self._sum = 0  # of the latest step
        # A process knows of its own writes only. Because each begins somewhere else, all of them together
        # carry the log over as often as if one had written everything.
        self._until_checkpoint = random.randrange(CHECKPOINT_EVERY)
        self._checkpoint_due = False
        forks.quiet(self)

    # --- executing

    def execute(self, command: Command[R]) -> R:
        """Execute one command in one transaction."""
        if type(command) in READERS:
            try:
                return self._read(command)
            except WouldWrite:
                pass
        with self._gate:
            connection = self._writer or self._open_writer()
            now = self.now()
            reply: Any = None
            if type(command) is Add and command.once is None:
                reply = self._step(command, now)
                if reply is not None:
                    self._wrote(connection, PAGE, now)
            if reply is None:
                reply = self._transact(connection, command, now)
        if self._checkpoint_due:
            self._checkpoint()
        return reply  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command on the worker thread, in one transaction with its neighbours."""
        return await self._worker.submit(command)  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one transaction; a failed one leaves the others alone."""
        if all(type(command) in READERS for command in commands):
            try:
                return [self._read_or_failure(command) for command in commands]
            except WouldWrite:
                pass  # reading again does no harm
        with self._gate:
            replies = self._group(self._writer or self._open_writer(), commands)
        if self._checkpoint_due:
            self._checkpoint()
        return replies

    def now(self) -> int:
        """The store's clock in µs."""
        return int((time.time() + self.clock_offset) * 1_000_000)

    def _read(self, command: Command[R]) -> R:
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._open_reader()
        try:
            return execute(command, ReadOnlyRows(connection, now := self.now()), now)  # type: ignore[no-any-return]
        finally:
            self._readers.append(connection)

    def _read_or_failure(self, command: Command[Any]) -> Any:
        try:
            return self._read(command)
        except WrongRecord as failure:
            return failure

    def _step(self, command: Add, now: int) -> Added | None:
        """Add to a counter that is there, in one statement; None leaves the command to the specification."""
        by = command.by
        floor, ceiling = max(-MAX_INTEGER, command.floor), min(MAX_INTEGER, command.ceiling)
        if not floor <= by <= ceiling:
            return None  # and may be more than SQLite can hold
        cursor = self._stepper.execute(STEP, (by, command.key, now, by, floor, ceiling))
        return Added(self._sum, AddOutcome.ADDED) if cursor.rowcount else None

    def _note_sum(self, number: int) -> int:
        self._sum = number
        return number

    def _transact(self, connection: sqlite3.Connection, command: Command[R], now: int) -> R:
        connection.execute("BEGIN IMMEDIATE")
        rows = Rows(connection, now)
        try:
            reply = execute(command, rows, now)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._wrote(connection, rows.written, now)
        if rows.rings:
            self._bell.ring()
        return reply  # type: ignore[no-any-return]

    def _group(self, connection: sqlite3.Connection, commands: Sequence[Command[Any]]) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE")
        now = self.now()
        rows = Rows(connection, now)
        replies: list[Any] = []
        try:
            for command in commands:
                if type(command) is Add and command.once is None:
                    added = self._step(command, now)
                    if added is not None:
                        rows.written += PAGE
                        replies.append(added)
                        continue
                connection.execute("SAVEPOINT command")
                try:
                    replies.append(execute(command, rows, now))
                except (WrongRecord, sqlite3.Error) as failure:
                    if not connection.in_transaction:
                        raise  # SQLite gave up the whole transaction
                    connection.execute("ROLLBACK TO command")
                    replies.append(failure)
                connection.execute("RELEASE command")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._wrote(connection, rows.written, now)
        if rows.rings:
            self._bell.ring()
        return replies

    def bind(self, connection: object) -> BoundDriver:
        """A driver that runs its commands inside the transaction that is open on `connection`.

        Args:
            connection: a sqlite3 connection, a SQLAlchemy Session or Connection on SQLite, or Django's
                connection inside `atomic`, to a database of the caller's.

        Raises:
            ConfigurationError: it is none of these.
        """
        return BoundDriver(connection, self)

    # --- notifications

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, waiting for the bell."""
        return self._bell.wait_for(lambda: self._take_mail(mailbox), seconds) is not None

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        found = await self._bell.await_for(
            lambda: asyncio.to_thread(self._take_mail, mailbox), seconds
        )
        return found is not None

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel: what is published from now on."""
        ((last, *_),) = self.ask(NEXT, channel, 0)
        return ChannelSubscription(self, channel, last or 0)

    def next_event(self, channel: str, last: int) -> tuple[int, int, int | None, bytes | None]:
        """The last number given, the first event that is left, and the channel's next after `last`."""
        ((latest, first, number, message),) = self.ask(NEXT, channel, last)
        latest = latest or 0
        return latest, latest + 1 if first is None else first, number, message

    def await_event(self, look: Callable[[], Notice | None], seconds: float) -> Notice | None:
        """Look until there is a notice, or the time is up."""
        return cast(Notice | None, self._bell.wait_for(look, seconds))

    def _take_mail(self, mailbox: str) -> int | None:
        if not self.ask(LOOK, mailbox):
            return None
        with self._gate:
            connection = self._writer or self._open_writer()
            rows = connection.execute(TAKE, (mailbox,)).fetchall()
        return rows[0][0] if rows else None

    def ask(self, statement: str, *arguments: Any) -> list[Any]:
        """The rows of a statement that only reads, on a connection for reading."""
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._open_reader()
        try:
            return connection.execute(statement, arguments).fetchall()
        finally:
            self._readers.append(connection)

    def reap(self) -> int:
        """Delete one small batch of what has expired, and return how many records went."""
        with self._gate:
            connection = self._writer or self._open_writer()
            arguments = (self.now(), REAP_BATCH)
            return max(0, sum(connection.execute(one, arguments).rowcount for one in REAP))

    # --- housekeeping

    def _wrote(self, connection: sqlite3.Connection, written: int, now: int) -> None:
        if not written:
            return
        self.commits += 1
        self._until_checkpoint -= written
        if self._until_checkpoint <= 0:
            self._until_checkpoint = CHECKPOINT_EVERY
            self._checkpoint_due = True
        self._until_reap -= 1
        if self._until_reap <= 0:
            self._until_reap = REAP_EVERY
            try:
                for statement in REAP:
                    connection.execute(statement, (now, REAP_BATCH))
            except sqlite3.Error as failure:  # what was committed is committed
                logger.warning("%s: expired records were not deleted: %s", self.path, failure)

    def _checkpoint(self) -> None:
        """Carry the log over into the database, most of it beside the writers.

        What they have written meanwhile follows behind the gate, so that the next writer finds everything
        carried over and begins the log anew.
        """
        self._checkpoint_due = False
        self._gate.end_run()
        try:
            self.ask("PRAGMA wal_checkpoint(PASSIVE)")
            with self._gate:
                connection = self._writer or self._open_writer()
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                if Path(self.path + "-wal").stat().st_size > WAL_CAP:
                    connection.execute(f"PRAGMA busy_timeout = {CAP_PATIENCE}")
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                    connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
        except (
            sqlite3.Error,
            OSError,
        ) as failure:  # the command was committed; the next one tries again
            logger.warning("%s: the log was not carried over: %s", self.path, failure)

    # --- connections

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=self._timeout,  # for programs that do not know the gate
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA mmap_size = 134217728")
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # `_checkpoint` does it
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._open()
        try:
            prepare(connection, self.path)
        except BaseException:
            connection.close()
            raise
        connection.create_function("anypod_sum", 1, self._note_sum)
        self._stepper = connection.cursor()
        self._writer = connection
        self._prepared = True
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        with self._opening:
            if not self._prepared:
                with self._gate:
                    if self._writer is None:
                        self._open_writer()
            connection = self._open()
            self._reading += 1
            return connection

    # --- forks

    def before_fork(self) -> None:
        """Close the file: SQLite's own bookkeeping of locks must not be copied into a child.

        A child that inherited it would take its parent's locks for its own, and the file would no
        longer be protected from it. Commands are short, so the wait is; whoever forks in the middle of
        one gets a child that leaves what it inherited alone.
        """
        self._held_opening = self._opening.acquire(timeout=FORK_PATIENCE)
        self._held_gate = self._gate.hold(FORK_PATIENCE)
        held: list[sqlite3.Connection] = []
        end = time.monotonic() + FORK_PATIENCE
        while True:
            readers, self._readers = self._readers, []
            held += readers
            if len(held) == self._reading or time.monotonic() > end:
                break
            time.sleep(50e-6)
        if self._held_gate and len(held) == self._reading:
            for connection in (*held, self._writer):
                if connection is not None:
                    connection.close()
            self._writer = None
            self._reading = 0
            self._gate.shut()
        else:
            self._readers += held

    def after_fork_in_parent(self) -> None:
        """Go on; the next command opens the file again."""
        if self._held_gate:
            self._gate.let_go()
        if self._held_opening:
            self._opening.release()

    def after_fork(self) -> None:
        """In a forked child: leave what is left of the parent's connections alone, for ever.

        Closing them here would touch the locks and the log that the parent is using.
        """
        forks.immortalize(self._writer, *self._readers)
        self._writer = None
        self._readers = []
        self._reading = 0
        self._opening = threading.Lock()
        self._gate.forget()
        self._bell.forget()
        self._worker.forget()

    def close(self) -> None:
        """Finish what is queued and close the file."""
        self._worker.close()
        self._bell.close()
        if self._writer is None and not self._readers:
            return  # the file was never opened
        with self._gate:
            writer, self._writer = self._writer, None
            readers, self._readers = self._readers, []
            self._reading -= len(readers)
            for connection in (*readers, writer):
                if connection is not None:
                    connection.close()
        self._gate.close()

    async def aclose(self) -> None:
        """Finish what is queued and close the file."""
        await asyncio.to_thread(self.close)

    # --- errors

    def classify(self, failure: Exception) -> type[StoreError]:
        """A failed write to the disk leaves its outcome open; everything else did not execute."""
        if isinstance(failure, WrongRecord):
            return RecordError
        if _code(failure).startswith("SQLITE_IOERR"):
            return OutcomeUnknown
        return StoreUnavailable

    def answered(self, failure: Exception) -> bool:  # noqa: ARG002
        """A file is always there: what fails is worth trying again at once."""
        return True

    def advice(self, failure: Exception) -> str:
        """What to do about it."""
        for beginning, text in ADVICE.items():
            if _code(failure).startswith(beginning):
                return text.format(path=self.path, folder=Path(self.path).parent)
        return ""


ADVICE: Final = {
    "SQLITE_FULL": "the disk under {folder} is full: free some space, nothing was written",
    "SQLITE_READONLY": "this process may not write {path} and its neighbours in {folder}",
    "SQLITE_CANTOPEN": "{folder} must exist and be writable for this process",
    "SQLITE_CORRUPT": "{path} is damaged: restore it, or move it away to start empty",
    "SQLITE_NOTADB": "{path} is not a SQLite database: give anypod a file of its own",
    "SQLITE_BUSY": "another program keeps {path} locked",
    "SQLITE_IOERR": "the disk under {folder} failed",
}


def _code(failure: Exception) -> str:
    return getattr(failure, "sqlite_errorname", "") if isinstance(failure, sqlite3.Error) else ""
