"""A recording means the same on another run: values bound, clients apart, secrets elsewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from anypod.prove.model import Request, Response
from anypod.prove.recording import Recording
from anypod.prove.workload import load

JSON = ("content-type", "application/json")
SENT_JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")


class Recorder:
    """Adds exchanges in few words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recording = Recording(path, "A test.")

    def add(
        self,
        line: str,
        *headers: tuple[str, str],
        body: bytes | None = None,
        status: int = 200,
        answered: tuple[tuple[str, str], ...] = (),
        answer: bytes = b"",
    ) -> None:
        method, target = line.split(" ")
        self.recording.add(
            Request(method, target, headers, body), Response(status, answered, answer)
        )

    def text(self) -> str:
        self.recording.write()
        load(self.path)  # whatever is written can be read
        return self.path.read_text()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "shop.http")


def test_a_value_is_taken_from_the_answer_that_gave_it(recorder: Recorder) -> None:
    recorder.add(
        "POST /login", SENT_JSON, body=b"{}", answered=(JSON,), answer=b'{"token": "f00d12345678"}'
    )
    recorder.add("POST /orders", ("Authorization", "Bearer f00d12345678"), status=201,
                 answered=(JSON,), answer=b'{"order": {"id": 7}}')  # fmt: skip
    recorder.add("GET /orders/7")
    recorder.add("POST /pay", SENT_JSON, body=b'{"order_id": 7, "text": "f00d12345678"}')
    text = recorder.text()
    assert "Authorization: Bearer {{post_login.response.body.$.token}}\n" in text
    assert "GET /orders/{{post_orders.response.body.$.order.id}}\n" in text
    assert '{"order_id": {{post_orders.response.body.$.order.id}}, "text": "{{post_l' in text
    assert "f00d" not in text


def test_what_the_client_said_first_is_its_own(recorder: Recorder) -> None:
    recorder.add("PUT /data/lamp2024-11", answered=(JSON,), answer=b'{"id": "lamp2024-11"}')
    recorder.add("GET /data/lamp2024-11")
    recorder.add("PUT /users/7", answered=(JSON,), answer=b'{"id": 7}')
    recorder.add("GET /users/7")
    text = recorder.text()
    assert text.count("/data/lamp2024-11\n") == 4  # a title and a request each
    assert "{{" not in text


def test_a_small_number_is_bound_to_its_own_kind(recorder: Recorder) -> None:
    for kind in ("orders", "users"):
        recorder.add(f"POST /{kind}", answered=(JSON,), answer=b'{"id": 1, "count": 3}')
    recorder.add("GET /users/1")
    recorder.add("GET /pages/3")
    text = recorder.text()
    assert "GET /users/{{post_users.response.body.$.id}}\n" in text
    assert "GET /pages/3\n# @status" in text
    assert "GET /pages/3\n" in text


def test_redirects_forms_and_cookies_are_followed(recorder: Recorder) -> None:
    page = b'<form><input type="hidden" name="csrf" value="a1b2c3d4e5"></form>'
    recorder.add("GET /new", answered=(("content-type", "text/html"), ("set-cookie", "xsrf=99887766aa; Path=/")), answer=page)  # fmt: skip
    recorder.add("POST /orders", FORM, ("X-XSRF-Token", "99887766aa"), body=b"csrf=a1b2c3d4e5&n=2",
                 status=303, answered=(("location", "http://localhost:8000/orders/17"),))  # fmt: skip
    recorder.add("GET /orders/17")
    recorder.add("POST /orders/17/cancel")
    text = recorder.text()
    assert "csrf={{get_new.response.body.//input[@name='csrf']/@value}}&n=2\n" in text
    assert "X-XSRF-Token: {{get_new.response.cookies.xsrf}}\n" in text
    assert "GET {{post_orders.response.headers.Location}}\n" in text
    assert "POST {{post_orders.response.headers.Location}}/cancel\n" in text


def test_a_field_of_a_multipart_form_is_bound(recorder: Recorder) -> None:
    page = b'<input type="hidden" name="csrf" value="a1b2c3d4e5">'
    recorder.add("GET /new", answered=(("content-type", "text/html"),), answer=page)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="csrf"\r\n\r\na1b2c3d4e5\r\n'
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    )
    recorder.add("POST /up", ("Content-Type", "multipart/form-data; boundary=x"), body=body)
    assert 'name="csrf"\n\n{{get_new.response.body.//input[' in recorder.text()


def test_each_cookie_jar_is_a_client(recorder: Recorder) -> None:
    for cookie in ("s=one; Path=/", "s=two; Path=/"):
        recorder.add("POST /login", answered=(("set-cookie", cookie),))
    recorder.add("GET /me", ("Cookie", "s=one"))
    recorder.add("GET /me", ("Cookie", "s=two"))
    recorder.add("GET /", ("Cookie", "s=two; theme=dark; _session=0123456789"))
    recorder.recording.write()
    clients = [step.client for step in load(recorder.path).steps]
    assert clients == ["default", "client2", "default", "client2", "client2"]
    text = recorder.path.read_text()
    assert text.count("Cookie:") == 1  # the jar's own are not written
    assert "Cookie: theme=dark\n" in text


def test_a_cookie_of_another_session_is_not_sent_on(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "a.http", "A test.")
    pending = recording.begin(Request("GET", "/", (("Cookie", "sessionid=stolen; lang=de"),)))
    assert pending is not None
    assert pending.cookies == "lang=de"


@pytest.mark.parametrize("secret", ["hunter2", 'pa"ss wörd&=', "a{b}c"])
def test_secrets_are_kept_beside_the_workload(recorder: Recorder, secret: str) -> None:
    said = json.dumps({"user": "ann", "newPassword1": secret}).encode()
    recorder.add("POST /register", SENT_JSON, body=said)
    recorder.add("POST /again", SENT_JSON, body=said)
    recorder.add("GET /x", ("X-Api-Key", "k-123"), ("Authorization", "Basic YW5uOnB3"))
    text = recorder.text()
    assert secret not in text
    assert "k-123" not in text
    assert "YW5uOnB3" not in text
    assert "ann" in text
    private = recorder.path.with_name("http-client.private.env.json")
    assert private.stat().st_mode & 0o077 == 0
    assert len(json.loads(private.read_text())["anypod"]) == 3
    steps = load(recorder.path).steps
    assert json.loads(steps[0].body or "") == json.loads(steps[1].body or "") == json.loads(said)
    assert dict(steps[2].headers) == {"X-Api-Key": "k-123", "Authorization": "Basic YW5uOnB3"}


def test_secrets_of_other_workloads_stay(tmp_path: Path) -> None:
    private = tmp_path / "http-client.private.env.json"
    private.write_text('{"dev": {"a": "1"}, "anypod": {"shop_password": "old", "other_pin": "2"}}')
    recorder = Recorder(tmp_path / "shop.http")
    recorder.add("POST /", FORM, body=b"password=new")
    recorder.text()
    kept = json.loads(private.read_text())
    assert kept == {"dev": {"a": "1"}, "anypod": {"other_pin": "2", "shop_password": "new"}}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/octet-stream", b"\xff\x00\x01"),
        ("text/plain", b"### not a separator\nGET /neither\n# @name nor"),
        ("text/plain", b"{{braces}}"),
        ("text/plain", b"\n\nblank lines around\n\n"),
        ("application/json", b"{" + b" " * 100_000 + b"}"),
        ("text/plain", b"> {% a script %}"),
        ("", b"no type"),
    ],
)
def test_any_body_survives(recorder: Recorder, kind: str, body: bytes) -> None:
    headers = [("Content-Type", kind)] if kind else []
    recorder.add("POST /x", *headers, body=body)
    recorder.recording.write()
    step = load(recorder.path).steps[0]
    sent = step.payload if step.payload is not None else (step.body or "").encode()
    assert sent.strip() == body.strip()


def test_what_no_workload_can_hold_is_counted(recorder: Recorder) -> None:
    recorder.add("GET /")
    recorder.add("GET /static/a.css", answered=(("content-type", "text/css"),))
    recorder.add("PURGE /cache")
    recorder.recording.begin(Request("GET", "/events"))
    written = recorder.recording.write()
    assert written.requests == 1
    assert written.notes == (
        "left out: 1 × PURGE requests: the format has no such method",
        "left out: 1 × files (styles, scripts, images)",
        "left out: 1 × requests that had no answer yet",
    )


def test_what_calendars_and_shared_folders_are_asked_is_recorded(recorder: Recorder) -> None:
    """WebDAV's methods; the lock that a server gives is taken from its answer."""
    given = ("lock-token", "<opaquelocktoken:0x2055397b489d8fe8445ca6567125b6c6>")
    kind = ("Content-Type", "application/xml")
    recorder.add("MKCOL /new", status=201)
    recorder.add("LOCK /new/b.txt", kind, body=b"<lockinfo/>", answered=(given,))
    recorder.add("PUT /new/b.txt", ("If", f"({given[1]})"), body=b"second", status=204)
    recorder.add("PROPFIND /new", ("Depth", "1"), status=207)
    recorder.add("UNLOCK /new/b.txt", ("Lock-Token", given[1]), status=204)
    assert "If: ({{lock_new_b_txt.response.headers.lock-token}})\n" in recorder.text()
    assert recorder.recording.write().notes == ()
    steps = load(recorder.path).steps
    assert [s.method for s in steps] == ["MKCOL", "LOCK", "PUT", "PROPFIND", "UNLOCK"]
    assert steps[1].body == "<lockinfo/>"
    assert given[1] not in recorder.text()


def test_host_and_scheme_are_recorded_and_the_browser_is_not(recorder: Recorder) -> None:
    recorder.add(
        "GET /",
        ("Host", "shop.test:8000"),
        ("X-Forwarded-Proto", "https"),
        ("User-Agent", "Mozilla"),
        ("Accept-Encoding", "br"),
        ("Sec-Fetch-Mode", "navigate"),
    )
    text = recorder.text()
    assert "Host: shop.test:8000\nX-Forwarded-Proto: https\n" in text
    assert not re.search("Mozilla|br\n|Sec-", text)
