"""What is SQLite's own: the gate, the log, group commits, and a disk that fails."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from anypod.commands import Acquire, Add, Get, Publish, Put, Release, Total, mailbox
from anypod.errors import ConfigurationError, RecordError, StoreUnavailable
from anypod.stores import Capability, Store, open_store
from anypod.stores.conformance.ground import Child, in_processes
from anypod.stores.notices import GAP
from anypod.stores.sqlite import SQLiteDriver, file_system, rows
from anypod.stores.sqlite.bell import HEARTBEAT, Bell
from anypod.stores.sqlite.gate import HINTS

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


# --- the gate


def test_a_forked_child_never_holds_its_dead_parents_gate(store: Store, url: str) -> None:
    store.execute(Add(KEY))
    reading, writing = os.pipe()

    def parent() -> None:
        with driver_of(store)._gate:
            child = os.fork()
            os.write(writing, b"%d\n" % (child or os.getpid()))
            signal.pause()

    process = os.fork()
    if process == 0:
        parent()
        os._exit(0)
    with os.fdopen(reading) as pipe:
        pids = {int(pipe.readline()) for _ in range(2)}
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    try:
        # The grandchild lives on; a gate that it had inherited would be closed for ever.
        assert store.execute(Add(KEY)).value == 2
    finally:
        for pid in pids - {process}:
            os.kill(pid, signal.SIGKILL)


def test_a_stopped_holder_is_an_error_after_a_bounded_wait(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db?timeout=0.2"
    with open_store(url) as store:
        store.execute(Add(KEY))
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            with driver_of(store)._gate:
                os.write(writing, b"!")
                signal.pause()
            os._exit(0)
        os.read(reading, 1)
        try:
            assert store.execute(Total(KEY)) == 1, "who reads does not wait at the gate"
            with pytest.raises(StoreUnavailable, match=r"another process kept the gate .* `fuser"):
                store.execute(Add(KEY))
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert store.execute(Add(KEY)).value == 2


@pytest.mark.parametrize(
    "hints",
    [(1, 0, 0), (1, 2**62, 7), (2**62, 2**62, -1)],
    ids=["a waiter that died", "before the machine started anew", "nonsense"],
)
def test_whatever_the_hints_say_all_get_their_turn(url: str, hints: tuple[int, ...]) -> None:
    with open_store(url) as store:
        store.execute(Add(KEY))
        with Path(driver_of(store).path + "-gate").open("r+b") as gate:
            gate.write(struct.pack("=3q", *hints))

    def work() -> None:
        with open_store(url) as store:
            for _ in range(200):
                store.execute(Add(KEY))

    in_processes([work] * 3)
    with open_store(url) as store:
        assert store.execute(Total(KEY)) == 601


def test_a_gate_without_hints_is_given_them(url: str, tmp_path: Path) -> None:
    (tmp_path / "store.db-gate").touch()
    with open_store(url) as store:
        assert store.execute(Add(KEY)).value == 1
    assert (tmp_path / "store.db-gate").stat().st_size == len(HINTS)


# --- what is acknowledged


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_kill_loses_nothing_acknowledged(url: str, synchronous: str) -> None:
    url += f"?synchronous={synchronous}"
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        with open_store(url) as store:
            while True:
                os.write(writing, struct.pack("<q", store.execute(Add(KEY)).value))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        last = 0
        while last < 300:
            (last,) = struct.unpack("<q", pipe.read(8))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        rest = pipe.read()
    if whole := len(rest) // 8:
        (last,) = struct.unpack("<q", rest[(whole - 1) * 8 : whole * 8])
    with open_store(url) as store:
        assert store.execute(Total(KEY)) in (last, last + 1)  # one may not have been told


def test_full_is_durable_and_normal_does_not_claim_to_be(url: str) -> None:
    with open_store(url) as normal, open_store(url + "?synchronous=full") as full:
        assert Capability.DURABLE_FENCING not in normal.driver.capabilities
        assert Capability.DURABLE_FENCING in full.driver.capabilities
        for store, level in ((normal, 1), (full, 2)):
            store.execute(Add(KEY))
            writer = driver_of(store)._writer
            assert writer is not None
            assert writer.execute("PRAGMA synchronous").fetchone() == (level,)


# --- groups


def test_commands_of_one_tick_share_a_commit(store: Store) -> None:
    async def work() -> None:
        await store.aexecute(Add(KEY))
        before = driver_of(store).commits
        await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(200)))
        assert driver_of(store).commits - before <= 20
        await store.aclose()

    asyncio.run(work())


def test_a_commit_that_fails_fails_all(store: Store) -> None:
    store.execute(Add(KEY))
    writer = driver_of(store)._writer
    assert writer is not None
    # A constraint that is looked at only at COMMIT, set off by one of the neighbours.
    writer.executescript(
        "PRAGMA foreign_keys = ON; CREATE TABLE parents (id INTEGER PRIMARY KEY);"
        "CREATE TABLE orphans (id REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);"
        "CREATE TRIGGER poison AFTER INSERT ON anypod_records WHEN new.key = 'poison' "
        "BEGIN INSERT INTO orphans VALUES (1); END"
    )

    async def work() -> list[object]:
        await store.aexecute(Total(KEY))
        commands = (Add(KEY), Put("poison", b""), Add(KEY))
        replies = await asyncio.gather(*map(store.aexecute, commands), return_exceptions=True)
        await store.aclose()
        return list(replies)

    assert [type(reply) for reply in asyncio.run(work())] == [StoreUnavailable] * 3
    assert store.execute(Total(KEY)) == 1


# --- a disk and files that fail


def test_a_full_disk_says_so_and_writes_nothing(store: Store) -> None:
    store.execute(Add(KEY))
    writer = driver_of(store)._writer
    assert writer is not None
    writer.execute("PRAGMA max_page_count = 8")
    with pytest.raises(StoreUnavailable, match=r"is full: free some space, nothing was written"):
        for number in range(100):
            store.execute(Put(f"ap:t:map:m:s{number}", b"x" * 4_000))
    writer.execute("PRAGMA max_page_count = 100000")
    assert store.execute(Add(KEY)).value == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_a_file_that_may_not_be_written(store: Store, url: str, tmp_path: Path) -> None:
    store.execute(Add(KEY))
    shared = Path("/tmp") / f"anypod-{tmp_path.name}-{os.getpid()}"  # all may enter it
    shutil.copytree(tmp_path, shared)
    shared.chmod(0o755)

    def work() -> str:
        os.setuid(65534)
        with open_store(f"sqlite:///{shared}/store.db") as other:
            try:
                other.execute(Add(KEY))
            except StoreUnavailable as failure:
                return str(failure)
        return "it wrote"

    try:
        assert "ermission denied" in Child(work).result()
    finally:
        shutil.rmtree(shared)


def test_a_damaged_file(store: Store, url: str) -> None:
    for number in range(50):
        store.execute(Put(f"ap:t:map:m:s{number}", b"x" * 4_000))
    store.close()
    path = Path(driver_of(store).path)
    sound = path.read_bytes()
    path.write_bytes(sound[:4096] + b"\xaa" * (len(sound) - 4096))
    with open_store(url) as other, pytest.raises(StoreUnavailable, match="is damaged: restore it"):
        other.execute(Add(KEY))
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    with (
        open_store(url) as other,
        pytest.raises(StoreUnavailable, match="is not a SQLite database"),
    ):
        other.execute(Add(KEY))


def test_a_database_of_another_program(url: str, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with open_store(url) as store, pytest.raises(RecordError, match="of another program"):
        store.execute(Add(KEY))


def test_a_file_of_a_newer_anypod(store: Store, url: str) -> None:
    store.execute(Add(KEY))
    store.close()
    with sqlite3.connect(driver_of(store).path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with open_store(url) as other, pytest.raises(RecordError, match=r"newer anypod \(schema 99"):
        other.execute(Add(KEY))


def test_a_record_of_a_newer_format(store: Store) -> None:
    store.execute(Put(KEY, b"x"))
    with sqlite3.connect(driver_of(store).path) as connection:
        connection.execute("UPDATE anypod_records SET body = CAST(x'07' || body AS BLOB)")
    connection.close()
    with pytest.raises(RecordError, match=r"has format 07.*upgrade this process"):
        store.execute(Get(KEY))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("/missing/store.db", "the folder .*/missing does not exist; create it first"),
        ("", "names a folder"),
        ("/store.db?synchronous=ful", "must be one of normal, full"),
        ("/store.db?synchronos=full", "did you mean synchronous"),
        ("/store.db?timeout=nan", "must be seconds, above 0"),
        ("/store.db?timeout=0", "must be seconds, above 0"),
        ("/store.db?timeout=1&timeout=2", "stands twice"),
    ],
)
def test_a_url_that_cannot_work(tmp_path: Path, end: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(f"sqlite:///{tmp_path}{end}")


def test_a_network_file_system_is_told_from_the_mounts(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    place = tmp_path / "with space"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\n")
    assert file_system(place / "..", str(mounts)) == "ext4"
    assert file_system(place, str(mounts)) == "nfs4"
    assert file_system(place, str(tmp_path / "missing")) == ""


def test_statements_have_plain_placeholders_only() -> None:
    """A sequence for named or numbered ones is a warning on Python 3.12, and an error on later ones."""
    statements = [
        line
        for value in vars(rows).values()
        for line in (
            [value] if isinstance(value, str) else value if isinstance(value, tuple) else []
        )
    ]
    assert any("VALUES (?, ?, ?)" in statement for statement in statements)
    assert [one for one in statements if re.search(r"\?\d|[ (][:@$]\w", one)] == []


def test_opening_touches_nothing(url: str, tmp_path: Path) -> None:
    with open_store(url):
        assert list(tmp_path.iterdir()) == []


# --- the bell


def test_a_writer_that_dies_before_it_rings_delays_by_a_heartbeat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is waited for is in the file: whoever waits looks by itself, also when nobody rings."""
    key = "ap:t:lock:l:sx"
    token = store.execute(Acquire(key, "one", 60)).token
    assert token is not None
    store.execute(Acquire(key, "two", 60, patience=60))
    driver = driver_of(store)
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.read(reading, 1)
        driver._bell.ring = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        store.execute(Release(key, token))
        os._exit(0)
    waits = threading.Event()
    look = driver._take_mail

    def looked(mailbox: str) -> int | None:
        found = look(mailbox)
        waits.set()
        return found

    monkeypatch.setattr(driver, "_take_mail", looked)
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(store.receive(mailbox(key, "two"), 30)))
    thread.start()
    assert waits.wait(10)
    os.write(writing, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    thread.join(10 * HEARTBEAT)
    assert told == [True]


def test_pipes_of_dead_processes_are_removed(store: Store) -> None:
    def work() -> None:
        store.receive("nobody#here", 0.0)
        os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    os.waitpid(process, 0)
    folder = Path(driver_of(store).path + "-wake")
    assert len(list(folder.iterdir())) == 1
    store.execute(Publish("channel", b"x"))
    assert list(folder.iterdir()) == []


def test_a_pipe_that_is_being_made_is_not_taken_for_a_dead_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(driver_of(store).path + "-wake")
    ringing = Bell(str(folder))
    make = os.mkfifo

    def rung_at_once(path: Path) -> None:
        make(path)
        ringing.ring()

    monkeypatch.setattr(os, "mkfifo", rung_at_once)
    assert not store.receive("nobody#here", 0.0)
    (pipe,) = folder.iterdir()
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # somebody reads it


def test_a_listener_that_was_away_too_long_is_told_of_the_gap(store: Store) -> None:
    listener = store.driver.listen("channel")
    store.execute(Publish("channel", b"in time"))
    assert listener.get(10) == b"in time"
    store.execute(Publish("channel", b"missed"))
    store.driver.clock_offset += 61
    driver_of(store).reap()
    assert listener.get(10) is GAP
    store.execute(Publish("channel", b"afterwards"))
    assert listener.get(10) == b"afterwards"
    assert listener.get(0.0) is None


def test_a_bell_that_is_closed_leaves_nothing(store: Store) -> None:
    assert not store.receive("nobody#here", 0.0)
    folder = Path(driver_of(store).path + "-wake")
    assert len(list(folder.iterdir())) == 1
    store.close()
    assert list(folder.iterdir()) == []
