"""Planted bugs in one service of several routes: each is found, with its route, schedule and cause."""

from __future__ import annotations

import json
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove.events import Divergence, Outcome, Verdict
from anypod.prove.schedules import Kind
from anypod.report import jsonfile

SERVICE = """
    import os
    import sqlite3
    import uuid
    from functools import lru_cache
    from pathlib import Path

    from flask import Flask, abort, jsonify, request

    app = Flask(__name__)
    visits = 0
    pages = {}
    logins = {}


    class Store:
        names = []


    def connect():
        url = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
        connection = sqlite3.connect(url)
        connection.execute("create table if not exists page (id primary key, text)")
        connection.execute("create table if not exists paid (id, cents)")
        return connection


    @app.post("/add")
    def add():
        return jsonify(result=request.json["a"] + request.json["b"])


    @app.post("/visits")
    def visit():
        global visits
        visits += 1
        return "", 204


    @app.get("/visits")
    def visited():
        return jsonify(visits=visits)


    @app.put("/pages/<id>")
    def write_page(id):
        with connect() as connection:
            connection.execute("replace into page values (?, ?)", (id, request.json["text"]))
        pages.pop(id, None)
        return "", 204


    @app.get("/pages/<id>")
    def read_page(id):
        if id not in pages:
            found = connect().execute("select text from page where id = ?", (id,)).fetchone()
            pages[id] = found[0] if found else None
        return jsonify(text=pages[id])


    @app.get("/shout/<id>")
    def shout(id):
        return jsonify(text=loud(id))


    @lru_cache
    def loud(id):
        found = connect().execute("select text from page where id = ?", (id,)).fetchone()
        return found[0].upper()


    @app.post("/login")
    def login():
        token = uuid.uuid4().hex
        logins[token] = request.json["name"]
        return jsonify(token=token)


    @app.get("/me")
    def me():
        name = logins.get(request.headers.get("Authorization", "")[7:])
        return jsonify(name=name) if name else abort(401)


    @app.post("/names")
    def add_name():
        Store.names.append(request.json["name"])
        return "", 204


    @app.get("/names")
    def names():
        return jsonify(Store.names)


    @app.post("/notes")
    def write_note():
        Path("note.txt").write_text(request.json["text"])
        return "", 204


    @app.get("/notes")
    def read_note():
        note = Path("note.txt")
        return jsonify(text=note.read_text() if note.exists() else None)


    @app.post("/orders/<id>/refund")
    def refund(id):
        with connect() as connection:
            connection.execute("insert into paid values (?, 5)", (id,))
        return jsonify(status="refunded")


    @app.get("/orders/<id>")
    def order(id):
        (paid,) = connect().execute("select sum(cents) from paid where id = ?", (id,)).fetchone()
        return jsonify(paid=paid)
"""

WORKLOAD = """
    @json = application/json

    ### control
    POST /add
    Content-Type: {{json}}

    {"a": 1, "b": 2}

    ###
    POST /visits

    ###
    GET /visits

    ###
    PUT /pages/7
    Content-Type: {{json}}

    {"text": "old"}

    ###
    GET /pages/7

    ###
    GET /shout/7

    ###
    PUT /pages/7
    Content-Type: {{json}}

    {"text": "new"}

    ###
    GET /pages/7

    ###
    GET /shout/7

    ###
    # @name login
    POST /login
    Content-Type: {{json}}

    {"name": "alice"}

    ###
    GET /me
    Authorization: Bearer {{login.response.body.$.token}}

    ###
    POST /names
    Content-Type: {{json}}

    {"name": "bob"}

    ###
    GET /names

    ###
    POST /notes
    Content-Type: {{json}}

    {"text": "hello"}

    ###
    GET /notes

    ###
    # @retry
    POST /orders/1/refund

    ###
    GET /orders/1
"""


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    project = Project(tmp_path_factory.mktemp("planted"))
    project.write(SERVICE)
    return project.prove(WORKLOAD, options=replace(FEW, budget=240.0))


def found(verdict: Verdict, route: str) -> Divergence:
    (divergence,) = (d for d in verdict.divergences if d.route == route)
    return divergence


def line_of(text: str) -> int:
    lines = textwrap.dedent(SERVICE).splitlines()
    return next(n for n, line in enumerate(lines, start=1) if line.strip() == text)


def test_exactly_the_broken_routes_are_blamed(verdict: Verdict) -> None:
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    assert verdict.exit_code == 1
    assert {d.route for d in verdict.divergences} == {
        "GET /visits",
        "GET /pages/{id}",
        "GET /me",
        "GET /names",
        "GET /notes",
        "GET /shout/{id}",
        "POST /orders/{id}/refund",
    }
    assert all(d.confirmed == 3 for d in verdict.divergences)


@pytest.mark.parametrize(
    ("route", "kind", "cause", "name", "line", "rule"),
    [
        ("GET /visits", Kind.ANOTHER_POD, "global", "visits", "visits = 0", "POD101"),
        ("GET /pages/{id}", Kind.STALE_COPY, "global", "pages", "pages = {}", "POD102"),
        ("GET /shout/{id}", Kind.ANOTHER_POD, "cache", "loud", "def loud(id):", "POD102"),
        ("GET /me", Kind.ANOTHER_POD, "global", "logins", "logins = {}", "POD103"),
        ("GET /names", Kind.ANOTHER_POD, "class attribute", "Store.names", "names = []", "POD104"),
    ],
)
def test_the_state_is_named_with_its_line(
    verdict: Verdict, route: str, kind: Kind, cause: str, name: str, line: str, rule: str
) -> None:
    divergence = found(verdict, route)
    assert divergence.schedule is kind
    assert divergence.cause is not None
    assert (divergence.cause.kind, divergence.cause.name) == (cause, name)
    assert Path(divergence.cause.file).name == "service.py"
    assert divergence.cause.line == line_of(line)
    assert divergence.rule == rule


def test_each_state_is_verified_and_its_write_has_a_line(verdict: Verdict) -> None:
    written = {
        "GET /visits": "visits += 1",
        "GET /pages/{id}": "pages[id] = found[0] if found else None",
        "GET /shout/{id}": "return jsonify(text=loud(id))",
        "GET /me": 'logins[token] = request.json["name"]',
        "GET /names": 'Store.names.append(request.json["name"])',
        "GET /notes": 'Path("note.txt").write_text(request.json["text"])',
    }
    for route, text in written.items():
        cause = found(verdict, route).cause
        assert cause is not None
        assert (cause.verified, cause.together) == (True, ()), route
        assert Path(cause.written_in).name == "service.py"
        assert cause.written_at == line_of(text), route


def test_a_file_is_named_by_its_path(verdict: Verdict) -> None:
    cause = found(verdict, "GET /notes").cause
    assert cause is not None
    assert (cause.kind, cause.line) == ("file", None)
    assert cause.name.endswith("note.txt")
    assert found(verdict, "GET /notes").rule == "POD105"


def test_they_are_reduced_to_the_requests_that_show_them(verdict: Verdict) -> None:
    def requests(route: str) -> list[tuple[int, str]]:
        return [(r.pod, f"{r.method} {r.target}") for r in found(verdict, route).requests]

    assert requests("GET /visits") == [(1, "POST /visits"), (2, "GET /visits")]
    assert requests("GET /me") == [(1, "POST /login"), (2, "GET /me")]
    stale = requests("GET /pages/{id}")
    assert [what for _, what in stale][-3:] == ["GET /pages/7", "PUT /pages/7", "GET /pages/7"]
    assert stale[-3][0] == stale[-1][0] != stale[-2][0]
    assert len(stale) <= 4


def test_expected_is_what_one_replica_answers_to_the_few_requests(verdict: Verdict) -> None:
    visits = found(verdict, "GET /visits")
    assert (visits.where, visits.expected, visits.got) == ("body $.visits", "1", "0")
    me = found(verdict, "GET /me")
    assert (me.where, me.expected, me.got) == ("status", "200", "401")


def test_a_retry_blames_the_repeated_route_and_says_where_it_shows(verdict: Verdict) -> None:
    refund = found(verdict, "POST /orders/{id}/refund")
    assert refund.schedule is Kind.RETRY
    assert refund.seen_at == "GET /orders/{id}"
    assert (refund.where, refund.expected, refund.got) == ("body $.paid", "5", "10")
    assert [r.duplicate for r in refund.requests] == [False, True, False]
    assert refund.cause is None
    assert refund.rule == "POD107"


def test_a_moved_pod_loses_the_same_state(verdict: Verdict) -> None:
    for route in ("GET /visits", "GET /me", "GET /names", "GET /notes"):
        assert Kind.POD_MOVED in found(verdict, route).also


def test_unmarked_posts_are_told_and_not_judged(verdict: Verdict) -> None:
    assert {item.route for item in verdict.not_retry_safe} == {"POST /visits", "POST /names"}


def test_everything_planned_was_covered(verdict: Verdict) -> None:
    coverage = verdict.coverage
    assert coverage is not None
    for done, possible in (
        coverage.schedules,
        coverage.pairs,
        coverage.triples,
        coverage.retries,
        coverage.moves,
        coverage.routes,
    ):
        assert done == possible > 0
    assert not verdict.partial


def test_the_json_file_holds_all_of_it(verdict: Verdict, tmp_path: Path) -> None:
    file = tmp_path / "verdict.json"
    jsonfile.write(verdict, file)
    read = json.loads(file.read_text())
    assert read["verdict"] == "different"
    assert read["exit_code"] == 1
    routes = [d["route"] for d in read["divergences"]]
    assert routes == [d.route for d in verdict.divergences]
    visits = next(d for d in read["divergences"] if d["route"] == "GET /visits")
    assert visits["schedule"] == "another pod"
    assert visits["also"] == ["pod moved"]
    assert visits["cause"]["name"] == "visits"
    assert [r["pod"] for r in visits["requests"]] == [1, 2]
    assert not list(tmp_path.glob(".*")), "nothing is left beside the file"


def test_the_claim_is_small(verdict: Verdict) -> None:
    assert verdict.claim.startswith("17 requests, ")
    assert "proven" not in verdict.claim
    assert "safe" not in verdict.claim
    assert "4 more pairs of requests at the same moment" in verdict.not_tried
