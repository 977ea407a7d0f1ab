"""State outside the project that a proof puts back, on real servers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import redis
from tests.postgres_servers import postgres_address
from tests.servers import Server, free_port

from anypod.replicas import CannotReset, Outside, RemoteHost
from anypod.replicas.outside import files, is_state, told
from anypod.replicas.outside import redis as keyspace


def holds(url: str, query: str) -> list[object]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(query)]  # type: ignore[call-overload]


# --- PostgreSQL


@pytest.fixture
def shop(new_postgres_url: Callable[[], str]) -> str:
    url = new_postgres_url()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA sales CREATE TABLE orders (id serial, item text)")
        connection.execute("INSERT INTO sales.orders (item) VALUES ('lamp')")
        name = url.rpartition("/")[2]
        connection.execute(f'ALTER DATABASE {name} SET search_path TO sales, "$user"')  # type: ignore[arg-type]
        connection.execute(f"ALTER DATABASE {name} SET statement_timeout TO '90s'")  # type: ignore[arg-type]
    return url


def test_each_run_gets_the_database_again_and_its_owner_at_the_end(shop: str, root: Path) -> None:
    before = holds(shop, "SELECT oid FROM pg_database WHERE datname = current_database()")
    with Outside([shop], root=root) as outside:
        for _ in range(3):
            outside.put_back()
            with psycopg.connect(shop, autocommit=True) as connection:
                connection.execute("INSERT INTO orders (item) VALUES ('mug')")
                connection.execute("CREATE TABLE more ()")
                assert connection.execute("SELECT max(id) FROM orders").fetchone() == (2,)
                shown = connection.execute("SHOW statement_timeout").fetchone()
                assert shown == ("90s",)
    assert holds(shop, "SELECT item FROM orders") == ["lamp"]
    same = holds(shop, "SELECT oid FROM pg_database WHERE datname = current_database()")
    assert same == before, "the database itself was kept aside"
    assert holds(shop, "SELECT datname FROM pg_database WHERE datname LIKE 'anypod_kept_%'") == []


def test_connections_to_what_was_there_are_ended(shop: str, root: Path) -> None:
    with Outside([shop], root=root) as outside:
        for _ in range(2):
            with psycopg.connect(shop) as idle, psycopg.connect(shop) as busy:
                busy.execute("LOCK TABLE orders")
                outside.put_back()
                for connection in (idle, busy):
                    with pytest.raises(psycopg.OperationalError):
                        connection.execute("SELECT 1")


def test_what_a_killed_proof_kept_is_not_overwritten(shop: str, root: Path) -> None:
    Outside([shop], root=root).put_back()  # and nobody closes it
    name = shop.rpartition("/")[2]
    kept = f"anypod_kept_{name}"
    with pytest.raises(CannotReset, match=f'in the database "{kept}"') as refused:
        Outside([shop], root=root).put_back()
    drop, rename = str(refused.value).partition("again: ")[2].split("; ")[:2]
    with psycopg.connect(shop.replace(name, "postgres"), autocommit=True) as connection:
        connection.execute(drop)  # type: ignore[arg-type]
        connection.execute(rename)  # type: ignore[arg-type]
    assert holds(shop, "SELECT item FROM orders") == ["lamp"]


def test_a_user_who_may_not_is_told(shop: str, root: Path) -> None:
    name = shop.rpartition("/")[2]
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(CannotReset, match="needs a user who owns the database"):
        Outside([shop.replace("postgres@", "guest@")], root=root).put_back()
    assert holds(shop, "SELECT item FROM orders") == ["lamp"], name


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@127.0.0.1:1/shop", "Connection refused"),
        ("postgresql://u:secret@127.0.0.1:1/postgres", "the service's own database"),
        ("postgresql://u:secret@127.0.0.1:1", "the service's own database"),
        ("postgresql://u:x@127.0.0.1:secret/shop", "expected a number as its port"),
        ("postgresql://u:sec/ret@127.0.0.1/shop", "percent-encoded"),
        ("postgresql://u@127.0.0.1/shop?sslpassword=secret&x=y", "expected postgresql://USER"),
        ("redis://:secret@127.0.0.1:1/3", "Connection refused|Error 111"),
        ("redis://:secret@127.0.0.1:1", "number of the database that may be emptied"),
        ("redis://:secret@127.0.0.1:x/1", "expected redis://USER"),
        ("redis://:secret@127.0.0.1/1?db=3", "no option but"),
        ("redis+sentinel://:secret@127.0.0.1/1", "clusters, sentinels"),
        ("mysql://u:secret@127.0.0.1:1/shop", "Can't connect.*Connection refused"),
        ("mysql://u:secret@127.0.0.1:1/mysql", "the service's own database"),
        ("mysql://u:secret@127.0.0.1:1", "the service's own database"),
        ("mysql+pymysql://u:x@127.0.0.1:secret/shop", "a number as its port"),
        ("mariadb://u:secret@127.0.0.1/shop?ssl_key=x", "no option but unix_socket"),
        ("mongodb://u:secret@127.0.0.1/shop", "mongodb:// is not known"),
        ("sqlite://shop.db", "expected sqlite:///PATH"),
    ],
)
def test_what_cannot_be_reset_is_said_without_its_password(root: Path, url: str, said: str) -> None:
    with pytest.raises(CannotReset, match=said) as refused:
        Outside([url], root=root).put_back()
    assert "sec" not in str(refused.value).replace("127.0.0.1:secret", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:secret@db.internal/shop",
        "postgresql:///shop?host=db.internal&password=secret",
        "postgresql://u:secret@localhost,db.internal/shop",
        "redis://:secret@db.internal/3",
        "mysql://u:secret@db.internal/shop",
    ],
)
def test_a_database_on_another_machine_is_refused(root: Path, url: str) -> None:
    with pytest.raises(RemoteHost, match=r"db\.internal is not this machine.*--allow-host") as no:
        Outside([url], root=root)
    assert "secret" not in str(no.value)
    Outside([url], root=root, allow_hosts=["db.internal"])


def test_a_host_that_the_environment_names_is_refused_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", "db.internal")
    with pytest.raises(RemoteHost, match=r"db\.internal is not this machine"):
        Outside(["postgresql:///shop"], root=root)


def test_a_database_that_is_not_there(postgres_server: Server, root: Path) -> None:
    with pytest.raises(CannotReset, match='has no database "nowhere"'):
        Outside([postgres_address(postgres_server, "nowhere")], root=root).put_back()


# --- Redis


@pytest.fixture
def number(redis_server: Server) -> str:
    """The URL of a database that only these tests use."""
    with redis.Redis(port=redis_server.port, db=11) as client:
        client.flushdb()
    return f"redis://127.0.0.1:{redis_server.port}/11"


def test_each_run_gets_the_keys_again(number: str, root: Path) -> None:
    with (
        redis.Redis.from_url(number) as client,
        redis.Redis.from_url(number.replace("/11", "/12")) as neighbour,
    ):
        neighbour.set("mine", "1")
        client.set("plain", b"\x00\xff", ex=1000)
        client.rpush("list", "a", "b")
        client.zadd("scores", {"ann": 1.5})
        client.xadd("log", {"a": 1}, id="1-1")
        with Outside([number], root=root) as outside:
            for _ in range(3):
                outside.put_back()
                assert client.lrange("list", 0, -1) == [b"a", b"b"]
                assert client.get("plain") == b"\x00\xff"
                assert 900 < int(client.ttl("plain")) <= 1000
                client.delete("list")
                client.set("new", "1")
                client.persist("plain")
        assert sorted(client.keys()) == [b"list", b"log", b"plain", b"scores"]
        assert 900 < int(client.ttl("plain")) <= 1000
        assert neighbour.get("mine") == b"1"
        neighbour.delete("mine")


def test_only_the_keys_with_the_prefix_are_touched(number: str, root: Path) -> None:
    with redis.Redis.from_url(number) as client:
        client.mset({"a[1]:x": "1", "a1:x": "1", "b": "1"})
        with Outside([f"{number}?prefix=a[1]:"], root=root) as outside:
            outside.put_back()
            client.mset({"a[1]:x": "2", "a[1]:y": "2", "a1:x": "2", "b": "2"})
            outside.put_back()
            assert client.mget("a[1]:x", "a[1]:y", "a1:x", "b") == [b"1", None, b"2", b"2"]


def test_more_keys_than_are_kept(number: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyspace, "MOST_KEYS", 3)
    with redis.Redis.from_url(number) as client:
        client.mset({str(key): "1" for key in range(5)})
        with pytest.raises(CannotReset, match="more than 3 keys"):
            Outside([number], root=root).put_back()
        assert client.dbsize() == 5


# --- SQLite and files


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_sqlite_database_is_put_back_under_who_has_it_open(
    tmp_path: Path, root: Path, mode: str
) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as service:
        service.execute(f"PRAGMA journal_mode = {mode}")
        with service:
            service.execute("CREATE TABLE orders (item)")
            service.execute("INSERT INTO orders VALUES ('lamp')")
        with Outside([f"sqlite:///{path}"], root=root) as outside:
            for _ in range(3):
                outside.put_back()
                with service:
                    service.execute("INSERT INTO orders VALUES ('mug')")
                assert len(service.execute("SELECT * FROM orders").fetchall()) == 2
        assert service.execute("SELECT * FROM orders").fetchall() == [("lamp",)]
    assert not list(tmp_path.glob("*.anypod-kept*"))


def test_a_sqlite_database_that_was_not_there_goes(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "shop.db"
    with Outside([f"sqlite:///{path}"], root=root) as outside:
        outside.put_back()
        with closing(sqlite3.connect(path)) as service, service:
            service.execute("CREATE TABLE orders (item)")
        outside.put_back()
        assert not path.exists()


def test_files_and_folders(tmp_path: Path, root: Path) -> None:
    note, folder = tmp_path / "note.txt", tmp_path / "uploads"
    note.write_text("first")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("a")
    with Outside([str(note), f"file://{folder}"], root=root) as outside:
        outside.put_back()
        note.write_text("second")
        (folder / "deep" / "a.txt").unlink()
        (folder / "b.txt").write_text("b")
        outside.put_back()
        assert note.read_text() == "first"
        assert sorted(p.name for p in folder.rglob("*")) == ["a.txt", "deep"]
        note.unlink()
    assert note.read_text() == "first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["note.txt", "project", "uploads"]


def test_a_file_that_is_a_database_is_put_back_as_one(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "shop.sqlite3"
    with closing(sqlite3.connect(path)) as service, service:
        service.execute("CREATE TABLE orders (item)")
    assert isinstance(files.at(str(path), root, copied=True), files.Database)


def test_what_is_no_state_of_a_service(tmp_path: Path, root: Path) -> None:
    (root / "app.db").touch()
    for path in (tmp_path, root, Path.home(), Path("/")):
        with pytest.raises(CannotReset, match="holds more than a service's state"):
            Outside([str(path)], root=root)
    with pytest.raises(CannotReset, match="a copy that is put back anyway"):
        Outside([str(root / "app.db")], root=root)
    Outside([str(root / "app.db")], root=root, copied=False)
    (tmp_path / "note.txt").touch()
    (tmp_path / "note.txt.anypod-kept").touch()
    with pytest.raises(CannotReset, match="a proof that was killed has kept the state"):
        Outside([str(tmp_path / "note.txt")], root=root)


def test_one_that_fails_at_the_end_does_not_keep_the_others(
    tmp_path: Path, root: Path, shop: str
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("first")
    outside = Outside([str(note), shop], root=root)
    outside.put_back()
    note.write_text("second")
    name = shop.rpartition("/")[2]
    with psycopg.connect(shop.replace(name, "postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE anypod_kept_{name}")  # type: ignore[arg-type]
    with pytest.raises(CannotReset, match="does not exist"):
        outside.close()
    assert note.read_text() == "first"


def test_states_and_commands_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    script = tmp_path / "reset.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert all(map(is_state, ["redis://localhost/1", "sqlite:///new.db", "state", str(tmp_path)]))
    assert is_state(str(tmp_path / "made-later.db"))
    no_states = ["./reset.sh", "redis-cli flushdb", "make reset", "x" * 5000, "/nowhere/reset"]
    assert not any(map(is_state, [*no_states, f"rm {tmp_path}/made-later.db", f"{tmp_path}/a;ls"]))


def test_a_password_is_not_told() -> None:
    port = free_port()
    assert told(f"redis://:p@ss@localhost:{port}/1") == f"redis://:•••@localhost:{port}/1"
    assert told("postgresql:///shop?user=u&password=p") == "postgresql:///shop?user=u&password=•••"
