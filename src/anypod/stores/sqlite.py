"""`sqlite:///path.db`: one file for all processes of one machine.

A command is the specification, executed on a table inside one short transaction. Plain additions, the
commonest command, are a single statement.

Invariants:
    - writers pass the gate (`gate.py`) one at a time and never meet SQLite's own wait;
    - what only reads does not pass the gate; a command that turns out to write starts over behind it;
    - asynchronous commands are executed by one worker thread, which commits what is queued as one
      group: a savepoint keeps one command's failure from its neighbours, replies leave after COMMIT, and
      a COMMIT that fails fails them all;
    - a forked child uses neither its parent's connections nor its parent's gate;
    - the write-ahead log stays bounded: past `WAL_CAP` a writer empties it before it goes on.

What "acknowledged" means: with `synchronous=normal` (the default) a reply survives the death of every
process, and a power loss may take the last commits with it, never the file; with `synchronous=full` it
survives a power loss too.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from anypod.commands import (
    MAX_INTEGER,
    Add,
    Added,
    AddOutcome,
    CacheRead,
    Command,
    Get,
    ReadDocument,
    Scan,
    Total,
)
from anypod.errors import (
    ConfigurationError,
    OutcomeUnknown,
    RecordError,
    StoreError,
    StoreUnavailable,
)
from anypod.stores import forks
from anypod.stores.address import options
from anypod.stores.driver import Capability
from anypod.stores.gate import Gate
from anypod.stores.group import GroupWorker
from anypod.stores.specification import (
    CounterRecord,
    Record,
    WrongRecord,
    decode_record,
    encode_record,
    execute,
)

R = TypeVar("R")

APPLICATION_ID: Final = 0x616E7970  # "anyp", in the file's header
SCHEMA_VERSION: Final = 1
WAL_CAP: Final = 32 * 1024 * 1024  # bytes
LOOK_AT_WAL_EVERY: Final = 4 * 1024 * 1024  # bytes written by this process
PAGE: Final = 4096
REAP_EVERY: Final = 512  # writes
REAP_BATCH: Final = 128  # records

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS records (
    key TEXT NOT NULL UNIQUE,
    number INTEGER,   -- the value of a counter; NULL for every other record
    body BLOB,        -- any other record: a format byte and MessagePack
    deadline INTEGER  -- µs of the store's clock; NULL is never
);
CREATE INDEX IF NOT EXISTS deadlines ON records (deadline) WHERE deadline IS NOT NULL;
"""
LOAD: Final = "SELECT number, body, deadline FROM records WHERE key = ?"
SAVE: Final = (
    "INSERT INTO records (key, number, body, deadline) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET number = excluded.number, body = excluded.body, deadline = excluded.deadline"
)
WALK: Final = (
    "SELECT key, number, body, deadline FROM records WHERE key >= ? AND key > ? AND key < ? "
    "AND (deadline IS NULL OR deadline > ?) ORDER BY key LIMIT ?"
)
REMOVE: Final = "DELETE FROM records WHERE key = ?"
# Nothing is returned, and nothing changed, when a bound or another kind of record is in the way.
ADD: Final = """
INSERT INTO records (key, number, deadline) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE SET
    number = iif(deadline <= ?4, ?2, number + ?2),
    deadline = iif(deadline <= ?4, ?3, deadline),
    body = NULL
WHERE deadline <= ?4 OR (body IS NULL AND number + ?2 BETWEEN ?5 AND ?6)
RETURNING number
"""
REAP: Final = (
    "DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE deadline <= ? LIMIT ?)"
)

READERS: Final = frozenset({Get, Scan, Total, ReadDocument, CacheRead})  # which usually only read

OPTIONS: Final = {"synchronous": ("normal", "full"), "timeout": 5.0}

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "fuse.sshfs"}
    | {"fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.ceph", "gpfs", "beegfs"}
)


class _WouldWrite(Exception):
    """A command that was executed for reading only wants to write."""


class _Rows:
    """The table of the specification, inside a transaction of one connection."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self._now = now
        self.written = 0  # bytes, estimated
        self.notified: list[str] = []  # mailboxes, in order
        self.published: list[tuple[str, bytes]] = []  # channels and messages, in order

    def load(self, key: str) -> Record | None:
        row = self._connection.execute(LOAD, (key,)).fetchone()
        if row is None:
            return None
        number, body, deadline = row
        if deadline is not None and deadline <= self._now:
            return None
        return CounterRecord(number, deadline) if body is None else decode_record(key, body)

    def save(self, key: str, record: Record) -> None:
        number, body = None, None
        if isinstance(record, CounterRecord):
            number = record.value
        else:
            body = encode_record(record)
            self.written += len(body)
        self._connection.execute(SAVE, (key, number, body, record.deadline))
        self.written += 2 * PAGE

    def remove(self, key: str) -> None:
        self._connection.execute(REMOVE, (key,))
        self.written += 2 * PAGE

    def walk(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        rows = self._connection.execute(
            WALK, (max(prefix, after), after, prefix + chr(0x10FFFF), self._now, limit)
        )
        return [
            (key, CounterRecord(number, deadline) if body is None else decode_record(key, body))
            for key, number, body, deadline in rows
        ]

    def notify(self, mailbox: str) -> None:
        self.notified.append(mailbox)

    def publish(self, channel: str, message: bytes) -> None:
        self.published.append((channel, message))


class _ReadOnlyRows(_Rows):
    def save(self, key: str, record: Record) -> None:  # noqa: ARG002
        raise _WouldWrite

    def remove(self, key: str) -> None:  # noqa: ARG002
        raise _WouldWrite


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
        self._writer: sqlite3.Connection | None = None
        self._readers: list[sqlite3.Connection] = []
        self._worker = GroupWorker(self.execute_many, "anypod-sqlite")
        self._until_reap = REAP_EVERY
        self._until_look = LOOK_AT_WAL_EVERY
        forks.watch(self)

    # --- executing

    def execute(self, command: Command[R]) -> R:
        """Execute one command in one transaction."""
        if type(command) in READERS:
            try:
                return self._read(command)
            except _WouldWrite:
                pass
        with self._gate:
            connection = self._writer or self._open_writer()
            now = self._now()
            if type(command) is Add and command.once is None:
                reply = self._add(connection, command, now)
                if reply is not None:
                    self._wrote(connection, 2 * PAGE, now)
                    return reply  # type: ignore[return-value]
            return self._transact(connection, command, now)

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command on the worker thread, in one transaction with its neighbours."""
        return await self._worker.submit(command)  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one transaction; a failed one leaves the others alone."""
        if all(type(command) in READERS for command in commands):
            try:
                return [self._read_or_failure(command) for command in commands]
            except _WouldWrite:
                pass  # reading again does no harm
        with self._gate:
            return self._group(self._writer or self._open_writer(), commands)

    def _now(self) -> int:
        return int((time.time() + self.clock_offset) * 1_000_000)

    def _read(self, command: Command[R]) -> R:
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._open_reader()
        try:
            return execute(command, _ReadOnlyRows(connection, now := self._now()), now)  # type: ignore[no-any-return]
        finally:
            self._readers.append(connection)

    def _read_or_failure(self, command: Command[Any]) -> Any:
        try:
            return self._read(command)
        except WrongRecord as failure:
            return failure

    def _add(self, connection: sqlite3.Connection, command: Add, now: int) -> Added | None:
        if not command.floor <= command.by <= command.ceiling:
            return None  # a first step would break the bounds: the slow path knows what to answer
        ttl = command.ttl
        rows = connection.execute(
            ADD,
            (
                command.key,
                command.by,
                None if ttl is None else now + round(ttl * 1_000_000),
                now,
                max(command.floor, -MAX_INTEGER),
                min(command.ceiling, MAX_INTEGER),
            ),
        ).fetchall()
        return Added(rows[0][0], AddOutcome.ADDED) if rows else None

    def _transact(self, connection: sqlite3.Connection, command: Command[R], now: int) -> R:
        connection.execute("BEGIN IMMEDIATE")
        rows = _Rows(connection, now)
        try:
            reply = execute(command, rows, now)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._wrote(connection, rows.written, now)
        return reply  # type: ignore[no-any-return]

    def _group(self, connection: sqlite3.Connection, commands: Sequence[Command[Any]]) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE")
        now = self._now()
        rows = _Rows(connection, now)
        replies: list[Any] = []
        try:
            for command in commands:
                if type(command) is Add and command.once is None:
                    added = self._add(connection, command, now)
                    if added is not None:
                        rows.written += 2 * PAGE
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
        return replies

    # --- housekeeping, behind the gate

    def _wrote(self, connection: sqlite3.Connection, written: int, now: int) -> None:
        if not written:
            return
        self.commits += 1
        self._until_look -= written
        if self._until_look <= 0:
            self._until_look = LOOK_AT_WAL_EVERY
            self._bound_wal(connection)
        self._until_reap -= 1
        if self._until_reap <= 0:
            self._until_reap = REAP_EVERY
            connection.execute(REAP, (now, REAP_BATCH))

    def _bound_wal(self, connection: sqlite3.Connection) -> None:
        try:
            size = Path(self.path + "-wal").stat().st_size
        except FileNotFoundError:
            return
        if size > WAL_CAP:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    # --- connections

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=self._timeout,  # for programs that do not know the gate
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA mmap_size = 134217728")
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._open()
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._writer = connection
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        if self._writer is None:
            with self._gate:
                if self._writer is None:
                    self._open_writer()
        return self._open()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the file a store of this version, or refuse it. The gate is held."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if version == SCHEMA_VERSION and application == APPLICATION_ID:
            return
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            raise WrongRecord(
                f"{self.path} was written by a newer anypod (schema {version}, this one knows "
                f"{SCHEMA_VERSION}): upgrade this process, or give it another file"
            )
        if tables and application != APPLICATION_ID:
            raise WrongRecord(
                f"{self.path} is a database of another program: give anypod a file of its own"
            )
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise OSError(f"{self.path}: this file system has no write-ahead log ({mode} instead)")
        connection.executescript(
            f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
        )

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone, for ever.

        Closing them here would touch the locks and the log that the parent is using.
        """
        forks.immortalize(self._writer, *self._readers)
        self._writer = None
        self._readers = []
        self._gate.forget()
        self._worker.forget()

    def close(self) -> None:
        """Finish what is queued and close the file."""
        self._worker.close()
        if self._writer is None:
            return  # the file was never opened
        with self._gate:
            writer, self._writer = self._writer, None
            readers, self._readers = self._readers, []
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


def open_driver(url: str) -> SQLiteDriver:
    """Open `sqlite:///relative.db` or `sqlite:////absolute.db`; options `synchronous`, `timeout`.

    Nothing is opened before the first command, so that a process may fork in between.

    Raises:
        ConfigurationError: no file is named, its folder does not exist, or it is on a network.
    """
    parts = urlsplit(url)
    settings = options(url, OPTIONS)
    name = unquote(parts.path)[1:]
    if parts.netloc or not name:
        raise ConfigurationError(
            f"{url!r} must name a file: sqlite:///relative.db or sqlite:////absolute/path.db"
        )
    path = Path(name).absolute()
    if path.is_dir():
        raise ConfigurationError(f"{url!r} names a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"{url!r}: the folder {path.parent} does not exist; create it first"
        )
    kind = file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{url!r} is on a network file system ({kind}), where SQLite's shared memory does not "
            f"work: use a local disk, or redis:// or postgresql:// to share between machines"
        )
    return SQLiteDriver(str(path), **settings)


def file_system(folder: Path, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system that a folder is on, empty if the system does not say."""
    try:
        table = Path(mounts).read_text(errors="replace")
    except OSError:
        return ""
    real = os.path.realpath(folder)
    best, kind = "", ""
    for line in table.splitlines():
        _, point, type_, *_ = line.split(" ")
        point = point.encode().decode("unicode_escape")  # a space is written \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, type_
    return kind
