"""What only a SQLite file can say about itself: its disk, its log, its soundness, who can see it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from anypod.stores.doctor import Finding, Statistics, error, fine, warning

if TYPE_CHECKING:
    from anypod.stores.sqlite.driver import SQLiteDriver

LITTLE_SPACE: Final = 256 * 1024 * 1024  # bytes
LONG_LOG: Final = 64 * 1024 * 1024  # bytes: twice what writers let it grow to


def examine(driver: SQLiteDriver) -> Iterator[Finding]:
    """Everything that can be said about the file."""
    yield fine(f"SQLite {sqlite3.sqlite_version}, {driver.path}")
    yield from _visibility()
    trouble = driver.ask("PRAGMA quick_check(1)")[0][0]
    if trouble != "ok":
        yield error(f"the file is damaged: {trouble}", "restore it, or move it away to start empty")
    free = shutil.disk_usage(Path(driver.path).parent).free
    if free < LITTLE_SPACE:
        yield warning(
            f"{free / 2**20:.0f} MiB are free on its disk; without space every write is refused",
            "free some space",
        )
    log = _size(driver.path + "-wal")
    if log > LONG_LOG:
        yield warning(
            f"the write-ahead log has grown to {log / 2**20:.0f} MiB: somebody keeps a read open",
            f"find the program: fuser {driver.path}",
        )
    waiting = _expired(driver)
    if waiting > 10_000:
        yield warning(
            f"{waiting} records have run out and take up space",
            f"anypod store reap sqlite:///{driver.path}",
        )


def _visibility() -> Iterator[Finding]:
    inside = "KUBERNETES_SERVICE_HOST" in os.environ or any(
        Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")
    )
    if inside:
        yield error(
            "this is a container, and no other pod can see a file in it",
            "use redis:// or postgresql://; a file is right for several processes of one machine",
        )


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def _expired(driver: SQLiteDriver) -> int:
    statement = "SELECT count(*) FROM anypod_records WHERE deadline <= ?"
    return int(driver.ask(statement, driver.now())[0][0])


def statistics(driver: SQLiteDriver) -> Statistics:
    """Numbers about the file."""
    records, counters, expiring = driver.ask(
        "SELECT count(*), count(number), count(deadline) FROM anypod_records"
    )[0]
    pages, size = (driver.ask(f"PRAGMA page_{what}")[0][0] for what in ("count", "size"))
    return {
        "records": records,
        "counters": counters,
        "records_with_deadline": expiring,
        "records_expired": _expired(driver),
        "file_bytes": pages * size,
        "wal_bytes": _size(driver.path + "-wal"),
        "sqlite_version": sqlite3.sqlite_version,
    }


def reap(driver: SQLiteDriver) -> int:
    """Delete what has expired, in small batches, so that writers get their turn in between."""
    gone = 0
    while batch := driver.reap():
        gone += batch
    return gone
