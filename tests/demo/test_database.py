"""The shop's database: made by whoever comes first, handed down to no forked child."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OPEN_AFTER_IMPORT = """
import threading
from importlib import import_module
import_module("anypod.demo.{twin}")
from pathlib import Path
links = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
print([link for link in links if ".db" in link or link.startswith("socket:")], threading.active_count())
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    return str(request.getfixturevalue("postgres_url"))


def test_replicas_that_start_at_once_make_the_tables_once(
    start_pods: Callable[..., list[Any]], database_url: str
) -> None:
    pods = start_pods("fixed", 4, DATABASE_URL=database_url)
    answers: list[Any] = []
    item = {"name": "Mug", "price_cents": 1, "stock": 1}
    threads = [
        threading.Thread(target=lambda pod=pod: answers.append(pod.request("PUT", "/data/m", item)))
        for pod in pods
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(200, {"id": "m", **item})] * 4


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("twin", ["broken", "fixed"])
def test_importing_opens_nothing(twin: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "ANYPOD_URL": f"sqlite:///{tmp_path}/anypod.db",
    }
    ended = subprocess.run(
        [sys.executable, "-c", OPEN_AFTER_IMPORT.format(twin=twin)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout.strip() == "[] 1", ended.stdout + ended.stderr


def test_a_database_client_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ModuleNotFoundError('no psycopg', name='psycopg')")
    ended = subprocess.run(
        [sys.executable, "-c", "import anypod.demo.database"],
        env={**os.environ, "DATABASE_URL": "postgresql://h/d", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "pip install 'anypod[postgres]'" in ended.stderr
