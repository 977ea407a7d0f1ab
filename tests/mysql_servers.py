"""A real MariaDB or MySQL server for the tests that need one, where one is on the PATH: it is in no wheel."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pymysql
import pytest
from tests.servers import Server, await_answer, free_port, launch, prepare

PROGRAM = next(filter(None, map(shutil.which, ("mariadbd", "mysqld"))), None)
WITHOUT = "needs mariadbd or mysqld on the PATH (Debian: apt-get install mariadb-server-core)"

BOOTSTRAP = [
    "CREATE DATABASE mysql;",
    "USE mysql;",
    "SET @auth_root_socket = NULL;",
    "SET @skip_auth_anonymous = 1;",
    "SET @current_hostname = 'localhost';",
]


def _system_tables() -> list[Path]:
    """What makes MariaDB's own tables; MySQL makes them itself."""
    assert PROGRAM is not None
    share = Path(PROGRAM).resolve().parent.parent / "share"
    names = ("mysql_system_tables.sql", "mysql_system_tables_data.sql")
    found = [path for name in names for path in share.glob(f"m*/{name}")]
    return found if Path(PROGRAM).name == "mariadbd" else []


def start_mysql() -> Server:
    """Start a server with fresh data and without durability, and wait until it answers."""
    assert PROGRAM is not None
    folder = Path(tempfile.mkdtemp(prefix="anypod-mysql-"))
    data = folder / "data"
    account = ["--user=root"] if os.geteuid() == 0 else []
    data.mkdir()
    if scripts := _system_tables():  # MariaDB's own script for it is in a package of its own
        first = "\n".join([*BOOTSTRAP, *(script.read_text() for script in scripts)]).encode()
        how = "--bootstrap"
    else:
        first, how = b"", "--initialize-insecure"
    prepare([PROGRAM, "--no-defaults", f"--datadir={data}", *account, how], folder, input=first)
    port = free_port()
    command = [
        *(PROGRAM, "--no-defaults", f"--datadir={data}", *account),
        *("--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder / 'socket'}"),
        *(f"--pid-file={folder / 'pid'}", "--innodb-flush-log-at-trx-commit=0"),
    ]
    server = launch(command, port, folder)
    if await_answer(
        server,
        lambda: pymysql.connect(host="127.0.0.1", port=port, user="root").close(),
        pymysql.OperationalError,
    ):
        return server
    report = (folder / "log").read_text(errors="replace")
    server.stop()
    return pytest.fail(f"the server did not start:\n{report}")


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[Server]:
    """A MariaDB or MySQL server of this worker."""
    if PROGRAM is None:
        pytest.skip(WITHOUT)
    server = start_mysql()
    yield server
    server.stop()


@pytest.fixture
def new_mysql_url(mysql_server: Server) -> Callable[[], str]:
    """Makes the URL of a fresh, empty database at each call."""

    def make() -> str:
        name = f"test_{uuid.uuid4().hex}"
        with pymysql.connect(host="127.0.0.1", port=mysql_server.port, user="root") as connection:
            connection.cursor().execute(f"CREATE DATABASE {name}")
        return f"mysql://root@127.0.0.1:{mysql_server.port}/{name}"

    return make
