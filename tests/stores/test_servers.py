"""The servers that the other tests stand on: real, separate, and gone with the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis
from tests.servers import wait_until


def test_redis_and_valkey_are_what_they_say(redis_url: str, valkey_url: str) -> None:
    assert redis.Redis.from_url(redis_url).info("server")["redis_version"]
    valkey = redis.Redis.from_url(valkey_url.replace("valkey", "redis", 1))
    assert valkey.info("server")["server_name"] == "valkey"


def test_each_database_is_empty_and_separate(new_postgres_url: Callable[[], str]) -> None:
    first, second = new_postgres_url(), new_postgres_url()
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE t (x int)")
    with psycopg.connect(second) as connection:
        row = connection.execute("SELECT to_regclass('t')").fetchone()
        assert row == (None,)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed run leaves its servers")
@pytest.mark.usefixtures("redis_server")
def test_servers_die_with_the_process_that_started_them() -> None:
    script = (
        "import os, sys\n"
        "from tests import servers\n"
        "server = servers.start_redis(servers.redis_executable())\n"
        "print(server.process.pid, server.folder, flush=True)\n"
        "sys.stdin.read()\n"
    )
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        process.kill()
    wait_until(lambda: not _runs(int(pid)), "the end of the server")
    shutil.rmtree(os.fsdecode(folder))


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
