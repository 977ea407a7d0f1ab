"""SQLite's write-ahead log: bounded, carried over beside the writers, cut short by a power loss."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from anypod.commands import Add, Get, Publish, Put
from anypod.stores import Store, open_store
from anypod.stores.conformance.ground import Child, in_processes
from anypod.stores.sqlite import SQLiteDriver
from anypod.stores.sqlite.driver import REAP_EVERY, WAL_CAP

KEY = "ap:t:counter:hits:sx"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with open_store(url) as store:
        yield store


def driver_of(store: Store) -> SQLiteDriver:
    assert isinstance(store.driver, SQLiteDriver)
    return store.driver


def test_power_loss_keeps_a_prefix_and_a_sound_file(store: Store, url: str, tmp_path: Path) -> None:
    """The log is cut at, and inside, every frame, as a disk might leave it that was not flushed."""
    for number in range(12):
        store.execute(Put(f"ap:t:map:m:s{number}", b"x" * 3_000))
    path = Path(driver_of(store).path)
    log = Path(f"{path}-wal").read_bytes()
    page = int.from_bytes(log[8:12], "big")
    frame = page + 24
    frames = (len(log) - 32) // frame
    assert frames >= 12
    seen = []
    for cut in sorted(
        {32 + n * frame for n in range(frames + 1)} | {32 + n * frame + 99 for n in range(frames)}
    ):
        copy = tmp_path / f"cut-{cut}.db"
        shutil.copy(path, copy)
        Path(f"{copy}-wal").write_bytes(log[:cut])
        with sqlite3.connect(copy) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        with open_store(f"sqlite:///{copy}") as after:
            there = [
                after.execute(Get(f"ap:t:map:m:s{number}")) is not None for number in range(12)
            ]
        assert there == sorted(there, reverse=True), "a later write survived an earlier one"
        seen.append(sum(there))
    assert seen == sorted(seen)
    assert seen[-1] == 12


def test_the_log_stays_bounded_under_saturation(url: str) -> None:
    def work() -> int:
        largest = 0
        with open_store(url) as store:
            log = Path(f"{driver_of(store).path}-wal")
            for number in range(120):
                value = bytes([number % 256]) * 300_000  # SQLite writes what differs only
                store.execute(Put(f"ap:t:map:m:s{os.getpid()}.{number % 7}", value))
                largest = max(largest, log.stat().st_size)
        return largest

    assert max(in_processes([work] * 3)) < WAL_CAP + 24 * 1024 * 1024


def test_the_log_stays_bounded_while_others_read(url: str) -> None:
    reading, writing = os.pipe()

    def read() -> None:
        os.close(writing)
        with open_store(url) as store:
            while not select.select([reading], [], [], 0)[0]:
                for number in range(7):
                    store.execute(Get(f"ap:t:map:m:s{number}"))

    readers = [Child(read) for _ in range(2)]
    os.close(reading)
    largest = 0
    with open_store(url) as store:
        log = Path(f"{driver_of(store).path}-wal")
        for number in range(300):
            store.execute(Put(f"ap:t:map:m:s{number % 7}", bytes([number % 256]) * 300_000))
            largest = max(largest, log.stat().st_size)
    os.close(writing)
    for reader in readers:
        reader.result()
    assert largest < WAL_CAP + 24 * 1024 * 1024


def test_an_open_read_lets_the_log_grow_but_stops_nobody(store: Store) -> None:
    store.execute(Add(KEY))
    log = Path(f"{driver_of(store).path}-wal")

    def write() -> None:
        for number in range(200):
            store.execute(Put(f"ap:t:map:m:s{number % 7}", bytes([number % 256]) * 300_000))

    with contextlib.closing(sqlite3.connect(driver_of(store).path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM anypod_records").fetchone()
        write()
        assert log.stat().st_size > WAL_CAP, "what the reader sees must not be overwritten"
        reader.execute("COMMIT")
    write()
    assert log.stat().st_size < WAL_CAP


def test_housekeeping_that_fails_does_not_fail_what_was_committed(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.execute(Put("ap:t:map:m:old", b"x", ttl=1.0))
    store.driver.clock_offset += 2
    driver = driver_of(store)
    assert driver._writer is not None
    driver._writer.execute(
        "CREATE TRIGGER kept BEFORE DELETE ON anypod_records BEGIN SELECT RAISE(ABORT, 'kept'); END"
    )
    assert [store.execute(Add(KEY)).value for _ in range(REAP_EVERY)][-1] == REAP_EVERY
    assert "expired records were not deleted: kept" in caplog.text
    driver._checkpoint_due = True
    Path(f"{driver.path}-wal").rename(f"{driver.path}-gone")  # as if the disk had lost it
    assert store.execute(Add(KEY)).value == REAP_EVERY + 1
    assert "the log was not carried over: " in caplog.text
    Path(f"{driver.path}-gone").rename(f"{driver.path}-wal")


def test_a_bell_that_cannot_be_rung_does_not_fail_what_was_committed(store: Store) -> None:
    Path(driver_of(store).path + "-wake").write_text("not a folder")
    listener = store.driver.listen("channel")
    store.execute(Publish("channel", b"told"))
    assert driver_of(store).next_event("channel", 0)[3] == b"told"
    listener.close()


def test_expired_records_are_reaped_in_small_batches(store: Store) -> None:
    for number in range(300):
        store.execute(Put(f"ap:t:map:m:s{number}", b"x", ttl=10.0))
    store.driver.clock_offset += 20
    for _ in range(1_600):
        store.execute(Add(KEY))
    with sqlite3.connect(driver_of(store).path) as connection:
        (left,) = connection.execute("SELECT count(*) FROM anypod_records").fetchone()
    connection.close()
    assert left == 1
