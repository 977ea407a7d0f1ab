"""Which imports are alike whenever they happen, so that a fork of one is as good as another one."""

from __future__ import annotations

import sys

import pytest
from tests.replicas.conftest import Worlds

APPLICATION = """
    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b'"plain"']
"""
ALIKE = {
    "nothing": "pass",
    "a file of its own": 'open("notes.txt", "w").close(); open("notes.txt").close()',
    "a secret and a clock": "import os, time; SECRET, BORN = os.urandom(8), time.time()",
}
OTHERWISE = {
    "the shared database": """
        import os, sqlite3
        sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///")).close()
    """,
    "a look at the shared database": """
        import os
        try:
            open(os.environ["DATABASE_URL"].removeprefix("sqlite:///")).close()
        except FileNotFoundError:
            os.listdir(os.path.dirname(os.environ["DATABASE_URL"].removeprefix("sqlite:///")))
    """,
    "a file outside": 'open("{outside}/notes.txt", "a").close()',
    "a socket": """
        import socket
        with socket.socket() as asking:
            asking.connect_ex(("127.0.0.1", 9))
    """,
    "a program": "import subprocess; subprocess.run(['true'], check=True)",
    "a client that connects unseen": 'import sys, types; sys.modules["psycopg2"] = types.ModuleType("psycopg2")',
}


@pytest.mark.parametrize("does", ALIKE.values(), ids=ALIKE)
def test_an_import_that_keeps_to_itself(worlds: Worlds, does: str) -> None:
    world = worlds(f"{APPLICATION}\n    {does}\n")
    assert world.forks
    assert world.imports_alike == (sys.platform == "linux")  # whose kernel tells what was opened


@pytest.mark.parametrize("does", OTHERWISE.values(), ids=OTHERWISE)
def test_an_import_that_a_request_may_have_changed(
    worlds: Worlds, does: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    does = does.replace("\n    ", "\n").replace("{outside}", str(tmp_path_factory.mktemp("else")))
    world = worlds(f"{APPLICATION}\n    {does}\n")
    assert world.forks
    assert not world.imports_alike
