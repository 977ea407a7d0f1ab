"""`anypod prove APP --record` at the terminal: click, Ctrl-C, and prove what was clicked."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from tests.prove.conftest import Project
from tests.prove.small import WRITES_OUTSIDE
from tests.servers import free_port

from anypod.prove.workload import load

SHOP = """
    import secrets, threading
    from flask import Flask, jsonify, redirect, request, session

    app = Flask(__name__)
    app.secret_key = "the same everywhere"
    orders = {}

    @app.post("/login")
    def login():
        session["user"] = request.form["user"]
        return redirect("/me")

    @app.get("/me")
    def me():
        return jsonify(user=session.get("user"), host=request.host, scheme=request.scheme)

    @app.post("/orders")
    def order():
        number = secrets.token_hex(8)
        orders[number] = request.json
        return jsonify(id=number), 201

    @app.get("/orders/<number>")
    def show(number):
        return jsonify(orders[number]) if number in orders else ("", 404)

    @app.post("/echo")
    def echo():
        return request.get_data()

    @app.get("/endless")
    def endless():
        def lines():
            yield b"first"
            threading.Event().wait()
        return app.response_class(lines())

    ended = threading.Event()

    @app.get("/events")
    def events():
        def lines():
            yield b"data: 1\\n\\n"
            ended.wait()
        return app.response_class(lines(), mimetype="text/event-stream")

    @app.delete("/events")
    def end():
        ended.set()
        return "", 204
"""


class Recording:
    """A front that runs."""

    def __init__(self, project: Project, *arguments: str) -> None:
        self.project = project
        self.port = free_port()
        self.process = subprocess.Popen(
            [*(sys.executable, "-m", "anypod", "prove", "service:app", "--record"),
             *arguments, "--port", str(self.port)],
            cwd=project.path, env=project.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline() + self.process.stdout.readline()
        self.url = f"http://localhost:{self.port}"

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, self.said + out, err


@pytest.fixture
def front(project: Project) -> Iterator[Callable[..., Recording]]:
    project.write(SHOP)
    started: list[Recording] = []

    def start(*arguments: str) -> Recording:
        started.append(Recording(project, *arguments))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def test_what_was_clicked_is_proved(front: Callable[..., Recording], project: Project) -> None:
    recording = front()
    with httpx.Client(base_url=recording.url, follow_redirects=True) as browser:
        credentials = {"user": "ann", "password": "hunter22"}
        headers = {"X-Forwarded-Proto": "https"}
        assert browser.post("/login", data=credentials, headers=headers).json() == {
            "user": "ann", "host": f"localhost:{recording.port}", "scheme": "https",
        }  # fmt: skip
        number = browser.post("/orders", json={"item": "lamp"}).json()["id"]
        assert browser.get(f"/orders/{number}").json() == {"item": "lamp"}
    assert httpx.get(f"{recording.url}/me").json()["user"] is None
    code, out, err = recording.end()
    assert (code, err) == (0, "")
    assert f"recording service:app at http://localhost:{recording.port}\n" in out
    assert (
        ".anypod/recorded.http: 5 requests, 2 clients, 1 value taken from answers, 1 secret" in out
    )
    text = (project.path / ".anypod" / "recorded.http").read_text()
    assert "hunter22" not in text
    assert "GET /orders/{{post_orders.response.body.$.id}}\n" in text
    assert "X-Forwarded-Proto: https\n" in text
    done = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", "--last", "--schedule", "another-pod"],
        cwd=project.path, env=project.env({"NO_COLOR": "1"}), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "DIFFERS  GET /orders/{id}" in done.stdout
    assert "the module global orders" in done.stdout


def test_bytes_pass_as_they_are(front: Callable[..., Recording], project: Project) -> None:
    recording = front("shop.http")
    body = bytes(range(256)) * 300
    answer = httpx.post(
        f"{recording.url}/echo?q=%2F%C3%A9", content=body, headers={"Content-Type": "image/png"}
    )
    assert answer.content == body
    assert recording.end(signal.SIGTERM)[0] == 0
    step = load(project.path / "shop.http").steps[0]
    assert step.target == "/echo?q=%2F%C3%A9"
    assert step.payload == body


def test_an_answer_that_never_ends_does_not_hold_the_end_up(
    front: Callable[..., Recording], project: Project
) -> None:
    recording = front()
    httpx.get(f"{recording.url}/me")
    connection = HTTPConnection("localhost", recording.port)
    connection.request("GET", "/endless")
    answer = connection.getresponse()
    assert answer.read(5) == b"first"
    code, out, err = recording.end()
    connection.close()
    assert code == 0
    assert "1 request, 1 client" in out
    assert "left out: 1 × " in err


def test_a_stream_that_another_request_ends_is_left_out(
    front: Callable[..., Recording], project: Project
) -> None:
    recording = front()
    connection = HTTPConnection("localhost", recording.port)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.read(7) == b"data: 1"
    assert httpx.get(f"{recording.url}/me").status_code == 200
    assert httpx.delete(f"{recording.url}/events").status_code == 204
    assert answer.read() == b"\n\n"
    connection.close()
    code, out, err = recording.end()
    assert code == 0
    assert "2 requests, 1 client" in out
    assert "left out: 1 × the stream /events: " in err


def test_nothing_recorded_is_no_workload(front: Callable[..., Recording], project: Project) -> None:
    code, _, err = front().end()
    assert code == 2
    assert err == "anypod prove: no request was recorded\n"
    assert not (project.path / ".anypod").exists()


def test_a_port_that_is_taken(front: Callable[..., Recording], project: Project) -> None:
    recording = front()
    other = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", "--record", "--port", str(recording.port)],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert other.returncode == 2
    assert re.search(r"port \d+ cannot be used .*; choose another with --port", other.stderr)
    recording.end()


def test_an_application_that_does_not_start(project: Project) -> None:
    project.write("1 / 0")
    done = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", "--record"],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr


def test_there_is_no_last_recording_yet(project: Project) -> None:
    project.write(SHOP)
    done = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", "--last"],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "nothing was recorded in this folder yet: anypod prove APP --record" in done.stderr


def test_state_that_no_request_made_is_named(project: Project) -> None:
    project.write(SHOP)
    verdict = project.prove(
        """
        # @status 200
        GET /me

        ###
        # @status 200
        GET /orders/17

        ###
        # @status 200
        GET /orders/18
        """
    )
    assert verdict.exit_code == 0
    (told,) = [text for text in verdict.warnings if text.startswith("state created outside HTTP")]
    assert (
        "line 7: GET /orders/17 was answered 200 when it was recorded, and 404 by a fresh" in told
    )
    assert "and 1 later ones likewise" in told


def test_what_is_written_outside_is_told_with_the_next_step(
    front: Callable[..., Recording], project: Project, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.txt"
    project.write(WRITES_OUTSIDE.format(path=str(outside)))
    recording = front()
    httpx.get(recording.url)
    _, _, err = recording.end()
    assert f"note  not isolated: {outside} keeps what was clicked, unless --reset {outside}" in err
    recording = front("--reset", str(outside))
    httpx.get(recording.url)
    assert "keeps what was clicked" not in recording.end()[2]
