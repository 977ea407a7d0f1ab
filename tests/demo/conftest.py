"""Real replicas of the shop: processes of a production server over one database and one store."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

SERVE = """
import socket, sys
from importlib import import_module
from waitress import serve
app = import_module(sys.argv[1]).app
serve(app, sockets=[socket.socket(fileno=int(sys.argv[2]))], threads=4)
"""


@dataclass(frozen=True)
class Pod:
    """One replica."""

    port: int

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Send JSON, or bytes as they are, and return the status and the decoded answer."""
        status, _, answer = self.exchange(method, path, body, headers)
        return status, json.loads(answer) if answer else None

    def exchange(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send a request and return status, headers and body."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        content = {} if body is None else {"Content-Type": "application/json"}
        payload = body if body is None or isinstance(body, bytes) else json.dumps(body)
        try:
            connection.request(method, path, payload, {**content, **(headers or {})})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def start_pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Pod]]]:
    """A function that starts replicas: `start_pods(twin, count, **environment)`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(twin: str, count: int, **environment: str) -> list[Pod]:
        home: Path = tmp_path_factory.mktemp(twin)
        names = {"DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT", "ANYPOD_NAMESPACE"}
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        defaults = {
            "DATABASE_URL": f"sqlite:///{home}/shop.db",
            "ANYPOD_URL": f"sqlite:///{home}/anypod.db",
        }
        pods = []
        for _ in range(count):
            # Listening before the process starts: a request may be sent at once, and waits there.
            listening = socket.create_server(("127.0.0.1", 0), backlog=64)
            with listening:
                fd = listening.fileno()
                process = subprocess.Popen(
                    [sys.executable, "-c", SERVE, f"anypod.demo.{twin}", str(fd)],
                    pass_fds=[fd],
                    env={**inherited, **defaults, **environment},
                    cwd=home,
                )
                processes.append(process)
                pods.append(Pod(listening.getsockname()[1]))
        return pods

    yield start
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
