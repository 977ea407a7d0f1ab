"""Real services, written into a temporary tree and started as real replicas."""

from __future__ import annotations

import http.client
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from anypod.replicas import Application, Replica, World

FLASK = """
    import os
    from flask import Flask, jsonify, request

    app = Flask(__name__)
    secret = os.urandom(8).hex()
    visits = 0

    @app.get("/visit")
    def visit():
        global visits
        visits += 1
        return jsonify(visits)

    @app.get("/who")
    def who():
        return jsonify(secret=secret, pid=os.getpid(), order=list({"a", "b", "c", "d", "e", "f"}))
"""

PLAIN = """
    import os

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b'"plain"']
"""


class Worlds(Protocol):
    """Makes a world of one service from its source."""

    def __call__(
        self, source: str = ..., target: str = ..., *, slots: int = ..., **options: Any
    ) -> World: ...


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The project tree of the service."""
    path = tmp_path / "project"
    path.mkdir()
    return path


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A complete environment that names no store."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8"}


@pytest.fixture
def worlds(tree: Path, env: dict[str, str]) -> Iterator[Worlds]:
    """A factory of worlds; all are closed, and must leave nothing, when the test ends."""
    with ExitStack() as opened:

        def make(
            source: str = FLASK, target: str = "service:app", *, slots: int = 2, **options: Any
        ) -> World:
            (tree / "service.py").write_text(textwrap.dedent(source))
            return opened.enter_context(
                World(Application(target, tree, env), slots=slots, **options)
            )

        yield make


@pytest.fixture
def get() -> Callable[..., Any]:
    """Ask a replica; the answer's JSON."""
    return ask


def ask(replica: Replica, path: str, method: str = "GET", timeout: float = 20.0) -> Any:
    """One request to one replica; the answer's JSON."""
    connection = http.client.HTTPConnection(*replica.address, timeout=timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    assert response.status == 200, (response.status, body, replica.log)
    return json.loads(body)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The project, beside which things are outside."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder
