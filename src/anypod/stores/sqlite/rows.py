"""Records as rows: the table of the specification, inside a transaction of one connection."""

from __future__ import annotations

import sqlite3
from typing import Final

from anypod.stores.specification import (
    CounterRecord,
    Record,
    WrongRecord,
    decode_record,
    encode_record,
)

# A commit writes each page that it changed into the log, whole; records are small.
PAGE: Final = 1024  # bytes
APPLICATION_ID: Final = 0x616E7970  # "anyp", in the file's header
SCHEMA_VERSION: Final = 3

TABLES: Final = (
    """
CREATE TABLE IF NOT EXISTS anypod_records (
    key TEXT NOT NULL UNIQUE,
    number INTEGER,   -- the value of a counter; NULL for every other record
    body BLOB,        -- any other record: a format byte and MessagePack
    deadline INTEGER  -- µs of the store's clock; NULL is never
)""",
    """
CREATE INDEX IF NOT EXISTS anypod_deadlines ON anypod_records (deadline)
    WHERE deadline IS NOT NULL""",
    """
CREATE TABLE IF NOT EXISTS anypod_mail (
    id INTEGER PRIMARY KEY, mailbox TEXT NOT NULL, deadline INTEGER
)""",
    "CREATE INDEX IF NOT EXISTS anypod_mailboxes ON anypod_mail (mailbox)",
    """
CREATE TABLE IF NOT EXISTS anypod_events (  -- a number is never given twice, also when events are reaped
    number INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, message BLOB, deadline INTEGER
)""",
)
SCHEMA: Final = "".join(f"{table};\n" for table in TABLES)
LOAD: Final = "SELECT number, body, deadline FROM anypod_records WHERE key = ?"
SAVE: Final = (
    "INSERT INTO anypod_records (key, number, body, deadline) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE "
    "SET number = excluded.number, body = excluded.body, deadline = excluded.deadline"
)
WALK: Final = (
    "SELECT key, number, body, deadline FROM anypod_records WHERE key >= ? AND key > ? AND key < ? "
    "AND (deadline IS NULL OR deadline > ?) ORDER BY key LIMIT ?"
)
REMOVE: Final = "DELETE FROM anypod_records WHERE key = ?"
# `anypod_sum` tells the sum: `RETURNING` would take a table of its own, a sixth of the whole time. Nothing is
# changed, nor told, where there is no counter yet or any more, and where a bound or another kind is in the way.
STEP: Final = """
UPDATE anypod_records SET number = anypod_sum(number + ?) WHERE key = ? AND body IS NULL
    AND (deadline IS NULL OR deadline > ?) AND number + ? BETWEEN ? AND ?
"""
REAP: Final = tuple(
    f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE deadline <= ? LIMIT ?)"  # noqa: S608  # our own names
    for table in ("anypod_records", "anypod_mail", "anypod_events")
)
NOTIFY: Final = "INSERT INTO anypod_mail (mailbox, deadline) VALUES (?, ?)"
PUBLISH: Final = "INSERT INTO anypod_events (channel, message, deadline) VALUES (?, ?, ?)"
LOOK: Final = "SELECT id FROM anypod_mail WHERE mailbox = ? LIMIT 1"
TAKE: Final = "DELETE FROM anypod_mail WHERE id = (SELECT id FROM anypod_mail WHERE mailbox = ? LIMIT 1) RETURNING id"
# The last number that was given; the first event that is left; the next of the channel and its message.
NEXT: Final = """
SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'anypod_events'), (SELECT min(number) FROM anypod_events),
       number, message
FROM (SELECT 1) LEFT JOIN (
    SELECT number, message FROM anypod_events WHERE channel = ? AND number > ? ORDER BY number LIMIT 1
)
"""
FORGOTTEN_AFTER: Final = 60_000_000  # µs for which a notification or message waits for its reader


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """Make the file at `path` a store of this version. The gate is held.

    Raises:
        WrongRecord: it is a newer anypod's, or another program's.
        OSError: its file system has no write-ahead log.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if version == SCHEMA_VERSION and application == APPLICATION_ID:
        return
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application == APPLICATION_ID and version > SCHEMA_VERSION:
        raise WrongRecord(
            f"{path} was written by a newer anypod (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): upgrade this process, or give it another file"
        )
    if tables and application != APPLICATION_ID:
        raise WrongRecord(f"{path} is a database of another program: give anypod a file of its own")
    connection.execute(f"PRAGMA page_size = {PAGE}")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise OSError(f"{path}: this file system has no write-ahead log ({mode} instead)")
    connection.executescript(
        f"BEGIN IMMEDIATE;{SCHEMA}PRAGMA application_id = {APPLICATION_ID};"
        f"PRAGMA user_version = {SCHEMA_VERSION};COMMIT;"
    )


class WouldWrite(Exception):
    """A command that was executed for reading only wants to write."""


class Rows:
    """The table of the specification, inside a transaction of one connection."""

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection = connection
        self._now = now
        self.written = 0  # bytes, estimated
        self.rings = False  # whether somebody waits for what was written

    def load(self, key: str) -> Record | None:
        """The living record at `key`."""
        row = self._connection.execute(LOAD, (key,)).fetchone()
        if row is None:
            return None
        number, body, deadline = row
        if deadline is not None and deadline <= self._now:
            return None
        return CounterRecord(number, deadline) if body is None else decode_record(key, body)

    def save(self, key: str, record: Record) -> None:
        """Write the record at `key`."""
        number, body = None, None
        if isinstance(record, CounterRecord):
            number = record.value
        else:
            body = encode_record(record)
            self.written += len(body)
        self._connection.execute(SAVE, (key, number, body, record.deadline))
        self.written += 2 * PAGE

    def remove(self, key: str) -> None:
        """Delete the record at `key`, if there is one."""
        self._connection.execute(REMOVE, (key,))
        self.written += 2 * PAGE

    def walk(self, prefix: str, after: str, limit: int) -> list[tuple[str, Record]]:
        """Up to `limit` living records with the prefix, sorted, after `after`."""
        rows = self._connection.execute(
            WALK, (max(prefix, after), after, prefix + chr(0x10FFFF), self._now, limit)
        )
        return [
            (key, CounterRecord(number, deadline) if body is None else decode_record(key, body))
            for key, number, body, deadline in rows
        ]

    def notify(self, mailbox: str) -> None:
        """Put a notification into a mailbox."""
        self._connection.execute(NOTIFY, (mailbox, self._now + FORGOTTEN_AFTER))
        self.written += PAGE
        self.rings = True

    def publish(self, channel: str, message: bytes) -> None:
        """Keep a message for those who listen."""
        self._connection.execute(PUBLISH, (channel, message, self._now + FORGOTTEN_AFTER))
        self.written += PAGE + len(message)
        self.rings = True


class ReadOnlyRows(Rows):
    """The same for those who are not behind the gate: writing raises `WouldWrite`."""

    def save(self, key: str, record: Record) -> None:  # noqa: ARG002
        """Not here."""
        raise WouldWrite

    def remove(self, key: str) -> None:  # noqa: ARG002
        """Not here."""
        raise WouldWrite
