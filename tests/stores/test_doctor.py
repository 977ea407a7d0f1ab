"""`anypod store`: what it says about a store, and with which exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.servers import Server, free_port, redis_executable, start_redis, wait_until

from anypod.cli import main
from anypod.commands import Add, Put
from anypod.stores import open_store
from anypod.stores.sqlite.driver import SQLiteDriver


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    servers: list[Server] = []

    def start(*options: str) -> str:
        servers.append(start_redis(redis_executable(), *options))
        return f"redis://127.0.0.1:{servers[-1].port}"

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["store", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def findings(capsys: pytest.CaptureFixture[str], url: str) -> tuple[int, dict[str, str]]:
    code, text = answer(capsys, "doctor", url, "--json")
    return code, {one["what"]: one["level"] for one in json.loads(text)["findings"]}


def test_eviction_is_an_error_by_name(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = answer(capsys, "doctor", start("--maxmemory-policy", "allkeys-lru"))
    assert code == 1
    assert "✗ maxmemory-policy allkeys-lru" in text
    assert "sessions" in text
    assert "CONFIG SET maxmemory-policy noeviction" in text


def test_a_sound_server_is_fine(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = start("--appendonly", "yes")
    code, found = findings(capsys, url)
    assert code == 0
    assert set(found.values()) == {"fine"}
    assert set(findings(capsys, url + "?protocol=3")[1].values()) == {"fine"}
    assert answer(capsys, "doctor", url)[1].endswith("0 errors, 0 warnings\n")


def test_no_persistence_is_a_warning(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = findings(capsys, start())
    assert code == 0
    assert "warning" in found.values()
    assert any("no persistence" in what for what in found)


def test_a_replica_and_missing_rights_are_errors(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    primary = start("--repl-diskless-sync-delay", "0")
    replica = start("--replicaof", "127.0.0.1", primary.rpartition(":")[2])
    wait_until(lambda: findings(capsys, replica)[0] == 1, "the replica's refusal")
    assert any("this is a replica of" in what for what in findings(capsys, replica)[1])
    narrow = start("--user", "shop", "on", ">pa55", "~ap:*", "+@all", "-subscribe")
    code, text = answer(capsys, "doctor", narrow.replace("//", "//shop:pa55@"))
    assert code == 1
    assert "cannot listen" in text
    assert "pa55" not in text


def test_what_only_the_machine_can_be_guilty_of(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = start("--appendonly", "yes")
    monkeypatch.setattr("anypod.stores.redis.doctor.OLDEST", (99, 0))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100.0)  # this machine's clock is wrong
    code, text = answer(capsys, "doctor", url)
    assert code == 1
    assert "is too old" in text
    assert "its clock is 100.0 s behind this machine's" in text


def test_replicas_that_no_write_can_wait_for_are_an_error(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = answer(capsys, "doctor", start() + "?wait_replicas=2&wait_timeout=0.01")
    assert code == 1
    assert "✗ wait_replicas=2, and 0 are connected: no write can be acknowledged" in text


def test_what_a_user_may_not_ask_for_is_said(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    needed = (
        "shop on >pa55 ~ap:* ~{ap:* &ap:* +@read +@write +@scripting +@connection +@pubsub +time"
    )
    narrow = start("--user", *needed.split()).replace("//", "//shop:pa55@")
    code, found = findings(capsys, narrow)
    assert code == 0
    assert found["this user may not ask for INFO"] == "warning"
    curious = start("--user", *needed.split(), "+info").replace("//", "//shop:pa55@")
    code, found = findings(capsys, curious)
    assert code == 0
    assert any("may not ask whether there are snapshots" in what for what in found)
    numbers = json.loads(answer(capsys, "stats", narrow, "--json")[1])
    assert numbers["used_memory"] is None
    assert json.loads(answer(capsys, "stats", curious, "--json")[1])["used_memory"] > 0


def test_a_sound_file_is_fine_unless_no_other_pod_can_see_it(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    code, found = findings(capsys, file)
    in_container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    assert code == int(in_container)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    code, found = findings(capsys, file)
    assert code == 1
    assert found["this is a container, and no other pod can see a file in it"] == "error"


def test_stats_and_reap(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(file) as store:
        store.execute(Add("ap::counter:c:sx"))
        store.driver.clock_offset -= 3_600
        for number in range(300):
            store.execute(Put(f"ap::map:m:s{number}", b"x", ttl=10.0))
        store.close()
    numbers = json.loads(answer(capsys, "stats", file, "--json")[1])
    assert numbers["records"] == 301
    assert numbers["records_expired"] == 300
    assert answer(capsys, "reap", file) == (0, "300 expired records deleted\n")
    assert answer(capsys, "reap", file) == (0, "0 expired records deleted\n")
    assert json.loads(answer(capsys, "stats", file, "--json")[1])["records"] == 1


def test_a_reader_that_keeps_the_log_open_is_found(
    file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anypod.stores.sqlite.doctor.LONG_LOG", 1_000_000)
    with open_store(file) as store:
        store.execute(Add("ap::counter:c:sx"))
        assert isinstance(store.driver, SQLiteDriver)
        reader = store.driver._open()
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM anypod_records").fetchone()
        for number in range(20):
            store.execute(Put(f"ap::map:m:s{number}", b"x" * 100_000))
        assert any("log has grown" in what for what in findings(capsys, file)[1])
        reader.close()


def test_ping_and_what_cannot_be_reached(
    start: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = answer(capsys, "ping", start())
    assert code == 0
    assert "answers in" in text
    away = f"redis://:hidden@127.0.0.1:{free_port()}"
    for action in ("ping", "stats", "reap", "doctor"):
        code, text = answer(capsys, action, away)
        assert code == 1
        assert "refused" in text
        assert "hidden" not in text
    code, text = answer(capsys, "ping", "redsi://host")
    assert code == 2
    assert "did you mean redis" in text


def test_postgres(postgres_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "schema version" in answer(capsys, "migrate", postgres_url)[1]
    assert answer(capsys, "ping", postgres_url)[0] == 0
    code, found = findings(capsys, postgres_url)
    assert code == 1
    assert found["fsync is off: a power loss may destroy the database"] == "error"
    assert json.loads(answer(capsys, "stats", postgres_url, "--json")[1])["server_version"]
    assert answer(capsys, "reap", postgres_url) == (0, "0 expired records deleted\n")


def test_migrate_where_there_is_nothing_to_migrate(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = answer(capsys, "migrate", file)
    assert code == 0
    assert text.endswith("nothing to migrate\n")
