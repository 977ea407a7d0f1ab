"""A process that is killed inside an idempotent view leaves it in doubt: after its lease a retry runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
from tests.servers import wait_until

APP = """
import os, signal, socket, sys
from pathlib import Path
from flask import Flask
from waitress import serve
from anypod import State
from anypod.web.flask import idempotent

app = Flask(__name__)
runs = Path("runs")

@app.post("/pay")
@idempotent(State.from_env(), lease=1.0, wait=60.0)
def pay():
    with runs.open("a") as log:
        log.write(f"{os.getpid()}\\n")
    if len(runs.read_text().split()) == 1:
        signal.pause()  # until it is killed
    return f"paid by {os.getpid()}"

serve(app, sockets=[socket.socket(fileno=int(sys.argv[1]))], threads=4)
"""


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[list[tuple[subprocess.Popen[bytes], int]]]:
    (tmp_path / "service.py").write_text(APP)
    started = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            process = subprocess.Popen(
                [sys.executable, "service.py", str(listening.fileno())],
                cwd=tmp_path,
                env={**os.environ, "ANYPOD_URL": f"sqlite:///{tmp_path}/anypod.db"},
                pass_fds=[listening.fileno()],
            )
            started.append((process, listening.getsockname()[1]))
    yield started
    for process, _ in started:
        process.kill()
        process.wait()


def pay(port: int) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/pay", headers={"Idempotency-Key": '"payment-1"'})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_retry_runs_it_after_the_lease(
    pods: list[tuple[subprocess.Popen[bytes], int]], tmp_path: Path
) -> None:
    (first, first_port), (second, second_port) = pods
    lost: list[Exception] = []

    def send() -> None:
        try:
            pay(first_port)
        except OSError as failure:
            lost.append(failure)

    client = threading.Thread(target=send)
    client.start()
    runs = tmp_path / "runs"
    wait_until(lambda: runs.exists() and runs.read_text().strip(), "the view to be entered")
    first.kill()
    client.join(60)
    assert len(lost) == 1

    answer = pay(second_port)
    assert answer == (200, f"paid by {second.pid}")
    assert runs.read_text().split() == [str(first.pid), str(second.pid)]
    assert pay(second_port) == answer
    assert len(runs.read_text().split()) == 2
