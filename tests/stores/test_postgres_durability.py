"""PostgreSQL: what was acknowledged survives a crash."""

from __future__ import annotations

import subprocess

import psycopg
from tests.postgres_servers import postgres_address, start_postgres
from tests.servers import Server, die_with_parent, wait_until

from anypod import commands as c
from anypod.stores import open_store
from anypod.stores.conformance.ground import fresh


def test_what_was_acknowledged_survives_a_crash_and_the_cache_only_forgets() -> None:
    server = start_postgres("synchronous_commit=on")
    url = postgres_address(server)
    key = fresh()
    try:
        with open_store(url) as store:
            for number in range(1, 51):
                assert store.execute(c.Add(key)).value == number
            store.execute(c.CacheFill(key + "c", None, "s", b"x", 600.0, 600.0))
            lease = store.execute(c.CacheRead(key + "d", "s", 600.0)).lease
            _crash(server)
            assert store.execute(c.Total(key)) == 50
            assert store.execute(c.CacheRead(key + "c", "s", 0.0)).payload is None
            filled = store.execute(c.CacheFill(key + "d", lease, "s", b"old", 600.0, 600.0))
            assert not filled.accepted
    finally:
        server.stop()


def _crash(server: Server) -> None:
    """Kill every process of the server at once, and start it again on the same files."""
    with psycopg.connect(postgres_address(server), autocommit=True) as connection:
        rows = connection.execute("SELECT pid FROM pg_stat_activity").fetchall()
    arguments = server.process.args
    owner = server.folder.stat().st_uid
    server.kill()
    wait_until(lambda: not any(_running(pid) for (pid,) in rows), "the end of the server")
    (server.folder / "data" / "postmaster.pid").unlink(missing_ok=True)
    with (server.folder / "log").open("ab") as output:
        server.process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=server.folder,
            start_new_session=True,
            preexec_fn=die_with_parent,
            user=owner,
            group=owner,
            extra_groups=[],
        )

    def answers() -> bool:
        try:
            psycopg.connect(postgres_address(server), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    wait_until(answers, "the server's recovery")


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
