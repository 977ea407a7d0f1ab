"""HAR files as browsers export them: one service out of many origins, whole, however large."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.prove.conftest import Project

from anypod.prove import har
from anypod.prove.recording import Recording, Written
from anypod.prove.workload import WorkloadError, load

SHOP = "http://localhost:8000"


def entry(
    line: str,
    status: int = 200,
    answer: Any = None,
    *,
    body: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
    answered: dict[str, str] | None = None,
    at: int = 0,
    kind: str = "application/json",
) -> dict[str, Any]:
    method, url = line.split(" ")
    text = answer if isinstance(answer, str) else "" if answer is None else json.dumps(answer)
    sent = {"Content-Type": body["mimeType"]} if body else {}
    return {
        "startedDateTime": f"2026-03-01T12:00:{at:02}.000Z",
        "request": {
            "method": method,
            "url": url if "://" in url or url.startswith("data:") else SHOP + url,
            "headers": pairs({**sent, **(headers or {})}),
            **({"postData": body} if body else {}),
        },
        "response": {
            "status": status,
            "headers": pairs({"Content-Type": kind, **(answered or {})}),
            "content": {"size": len(text), "mimeType": kind, **({"text": text} if text else {})},
        },
    }


def pairs(headers: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in headers.items()]


def as_json(value: Any) -> dict[str, Any]:
    return {"mimeType": "application/json", "text": json.dumps(value)}


def write(folder: Path, *entries: dict[str, Any]) -> Path:
    path = folder / "shop.har"
    log = {"version": "1.2", "creator": {"name": "a test"}, "pages": [], "entries": list(entries)}
    path.write_text(json.dumps({"log": log}, ensure_ascii=False), encoding="utf-8")
    return path


def recorded(path: Path, origin: str = "") -> tuple[Written, tuple[str, ...]]:
    recording = Recording(path.with_name("out.http"), "A test.")
    notes = har.read(path, recording, origin=origin)
    return recording.write(), notes


def labels(folder: Path) -> list[str]:
    return [step.label for step in load(folder / "out.http").steps]


def test_values_are_bound_and_the_order_is_that_of_time(tmp_path: Path) -> None:
    read = entry("GET /orders/a1b2c3d4e5", answer={"item": "lamp"}, at=2)
    made = entry("POST /orders", 201, {"id": "a1b2c3d4e5"}, body=as_json({"item": "lamp"}), at=1)
    written, _ = recorded(write(tmp_path, read, made))
    assert (written.requests, written.bound) == (2, 1)
    assert labels(tmp_path) == ["POST /orders", "GET /orders/{{post_orders.response.body.$.id}}"]
    assert [step.recorded for step in load(tmp_path / "out.http").steps] == [201, 200]


def test_other_origins_are_dropped_and_told(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        *[entry(f"GET https://cdn.example/{n}.js", kind="text/javascript", answer=";") for n in range(9)],
        entry("GET https://metrics.example/collect"),
        entry("GET /me", headers={"Cookie": "a=b"}),
        entry("GET http://LOCALHOST:8000/you"),
        entry("GET data:text/plain,hello"),
        entry("GET wss://localhost:8000/talk", 101),
    )  # fmt: skip
    written, notes = recorded(path)
    assert labels(tmp_path) == ["GET /me", "GET /you"]
    assert written.path is not None
    assert load(written.path).websockets == ("/talk",)
    assert notes == (
        f"the service is {SHOP}, with 2 requests; --origin URL takes another",
        "left out, other origins: 9 × https://cdn.example, 1 × https://metrics.example",
    )
    told = "left out: 1 × the websocket /talk: websockets are not compared yet"
    assert told in written.notes
    recorded(path, "https://metrics.example/")
    assert labels(tmp_path) == ["GET /collect"]
    with pytest.raises(har.NotThere, match=r"requests to shop\.example, got those to https://cdn"):
        recorded(path, "shop.example")


def test_a_sanitized_export_is_told_with_the_other_one(tmp_path: Path) -> None:
    _, notes = recorded(write(tmp_path, entry("GET /")))
    assert any("Allow to generate HAR with sensitive data" in note for note in notes)
    _, notes = recorded(write(tmp_path, entry("GET /", answered={"Set-Cookie": "s=1; Path=/"})))
    assert not any("sensitive" in note for note in notes)


def test_secrets_are_beside_it(tmp_path: Path) -> None:
    login = {
        "mimeType": "application/x-www-form-urlencoded",
        "params": [{"name": "user", "value": "ann"}, {"name": "password", "value": "hunter22"}],
    }
    written, _ = recorded(
        write(
            tmp_path,
            entry("POST /login", body=login),
            entry("GET /me", headers={"authorization": "Bearer 0123456789abcdef"}),
        )
    )
    text = (tmp_path / "out.http").read_text()
    assert "hunter22" not in text
    assert "0123456789abcdef" not in text
    assert written.secrets == 2
    assert load(tmp_path / "out.http").steps[0].body == "user=ann&password=hunter22"


def test_what_a_proxy_tells_the_service_is_kept(tmp_path: Path) -> None:
    recorded(write(tmp_path, entry("GET https://shop.example/", headers={":authority": "x"})))
    assert load(tmp_path / "out.http").steps[0].headers == (
        ("Host", "shop.example"),
        ("X-Forwarded-Proto", "https"),
    )


def test_cookies_of_one_header_and_copies_of_the_browser(tmp_path: Path) -> None:
    recorded(
        write(
            tmp_path,
            entry("GET /", answered={"set-cookie": "a=1; Path=/\nb=2; Path=/"}),
            entry("GET /x", 304, headers={"Cookie": "a=1; b=2", "If-None-Match": '"old"'}),
        )
    )
    steps = load(tmp_path / "out.http").steps
    assert [(step.client, step.recorded) for step in steps] == [("default", 200)] * 2
    assert [name for name, _ in steps[1].headers] == ["Host"]


RAW = bytes(range(256))


@pytest.mark.parametrize(
    ("data", "length", "sent"),
    [
        ({"text": base64.b64encode(RAW).decode(), "encoding": "base64"}, 256, RAW),
        ({"text": RAW.decode("latin-1")}, 256, RAW),
        ({"text": RAW.decode("utf-8", "replace")}, 256, None),
        ({}, 256, None),
        ({"text": "schön"}, 6, "schön".encode()),
    ],
    ids=["base64", "latin-1", "replaced", "missing", "text"],
)
def test_binary_bodies(
    tmp_path: Path, data: dict[str, str], length: int, sent: bytes | None
) -> None:
    body = {"mimeType": "application/octet-stream", **data}
    upload = entry("POST /up", body=body, headers={"Content-Length": str(length)})
    written, _ = recorded(write(tmp_path, entry("GET /"), upload))
    steps = load(tmp_path / "out.http").steps
    if sent is None:
        assert labels(tmp_path) == ["GET /"]
        assert "left out: 1 × requests whose body the export does not hold as it was sent" in (
            written.notes
        )
    else:
        assert (steps[1].payload or (steps[1].body or "").encode()) == sent


def test_what_has_no_answer_and_what_is_large(tmp_path: Path) -> None:
    written, _ = recorded(
        write(
            tmp_path,
            entry("GET /"),
            entry("GET /aborted", 0),
            {"request": None},
            entry("GET /film", answer="x" * har.MOST_ENTRY, kind="text/plain"),
        )
    )
    assert labels(tmp_path) == ["GET /"]
    assert "left out: 1 × entries of more than 16 MiB" in written.notes
    assert "left out: 1 × requests without an answer (aborted, blocked or refused)" in written.notes


def test_braces_quotes_and_chunks_do_not_confuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = '{"entries": [}]\\"\\\\{ü€😀"'
    path = write(tmp_path, *[entry(f"GET /p?n={n}", answer={"odd": odd * n}) for n in range(9)])
    for chunk in (1, 2, 3, 7, 64, 1 << 20):
        monkeypatch.setattr(har, "_CHUNK", chunk)
        assert recorded(path)[0].requests == 9


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected a HAR"),
        ("GET /\n", "expected a HAR"),
        ('{"log": {"entries": []}}', "expected requests over http or https, got none"),
        ('{"log": {"entries": [{"a": 1}, {"b"', "ends in the middle, after 1 whole entries"),
        ('{"log": {"entries": [{nonsense}]}}', "expected JSON in entry 1"),
        ('{"log": {"entries": [{"request": [1], "response": 7}]}}', "over http or https, got none"),
    ],
)
def test_a_file_that_is_no_har(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "shop.har"
    path.write_text(content)
    with pytest.raises(WorkloadError, match=said):
        recorded(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="cannot be read: No such file"):
        recorded(tmp_path / "none.har")


MEASURE = """
import re, resource, sys
from pathlib import Path
from anypod.prove import har
from anypod.prove.recording import Recording
from anypod.prove.workload import load
path = Path(sys.argv[1])
recording = Recording(path.with_name("out.http"), "A test.")
har.read(path, recording)
print(recording.write().requests, len(load(path.with_name("out.http")).steps))
if sys.platform == "darwin":
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20)
else:  # where that of a child begins with its parent's
    print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


def test_200_megabytes_are_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.har"
    # Values that look like ids, pages full of escapes, text that Python keeps in four bytes a character.
    ids = json.dumps([{"id": f"a1b2c3d4{n:06}"} for n in range(4000)])
    page = '<a href="/x">\n\t😀</a>' * 30_000
    with path.open("w", encoding="utf-8") as file:
        file.write('{"log": {"version": "1.2", "entries": [')
        for number in range(240):
            answer, kind = (ids, "application/json") if number % 2 else (page, "text/html")
            text = answer.replace("a1b2c3d4", f"a1b2c{number:03}")
            one = entry(f"GET /orders/{number}", answer=text, kind=kind)
            file.write(json.dumps(one, ensure_ascii=False) + ",")
        film = entry("GET /film", answer="A" * (120 << 20), kind="video/mp4")
        file.write(json.dumps(film) + "]}}")
    assert path.stat().st_size > 200_000_000
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    counts, megabytes = ended.stdout.splitlines()
    assert counts == "240 240"
    assert int(megabytes) < 300


def test_a_har_is_a_workload(project: Project) -> None:
    project.write("""
        import uuid
        from flask import Flask, jsonify, request
        app = Flask(__name__)
        orders = {}

        @app.post("/orders")
        def order():
            number = uuid.uuid4().hex
            orders[number] = request.json
            return jsonify(id=number), 201

        @app.get("/orders/<number>")
        def show(number):
            return (jsonify(orders[number]), 200) if number in orders else ("", 404)
    """)
    number = "6f1f2d0c9a374b1f8f6d1e2c3b4a5968"
    write(
        project.path,
        entry("GET https://cdn.example/x.js", kind="text/javascript"),
        entry("POST /orders", 201, {"id": number}, body=as_json({"item": "lamp"}), at=1),
        entry(f"GET /orders/{number}", answer={"item": "lamp"}, at=2),
    )
    arguments = ["service:app", "--replicas", "2", "--budget", "60s", "--schedule", "another-pod"]
    command = [sys.executable, "-m", "anypod", "prove", *arguments, "--json", "verdict.json"]
    ended = subprocess.run(
        [*command, "--workload", "shop.har"], cwd=project.path, env=project.env(),
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "note  left out, other origins: 1 × https://cdn.example\n" in ended.stderr
    assert (
        ".anypod/shop.har.http: 2 requests, 1 client, 1 value taken from answers\n" in ended.stderr
    )
    verdict = json.loads((project.path / "verdict.json").read_text())
    assert [one["route"] for one in verdict["divergences"]] == ["GET /orders/{id}"]
    assert verdict["workload"] == ".anypod/shop.har.http"


def test_an_origin_is_for_a_har(project: Project) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", "--last", "--origin", "http://x"],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--origin names the service in a .har" in ended.stderr
