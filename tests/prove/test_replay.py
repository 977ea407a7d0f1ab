"""Saved differences are played again: the same verdict while the bug is there, none when it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove.events import Outcome, Verdict
from anypod.prove.replay import ReplayError, read, replay
from anypod.replicas import Application
from anypod.report import jsonfile

SERVICE = """
    import os
    import sqlite3
    import time

    from flask import Flask, jsonify

    app = Flask(__name__)
    visits = 0
    secret = os.urandom(8).hex()


    def connect():
        url = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
        connection = sqlite3.connect(url, isolation_level=None)
        connection.execute("create table if not exists paid (cents)")
        connection.execute("create table if not exists stock (n)")
        connection.execute("insert into stock select 9 where not exists (select 1 from stock)")
        return connection


    @app.post("/visits")
    def visit():
        global visits
        visits += 1
        return "", 204


    @app.get("/visits")
    def visited():
        return jsonify(visits=visits)


    @app.put("/payment")
    def pay():
        connect().execute("insert into paid values (5)")
        return "", 204


    @app.get("/payment")
    def paid():
        return jsonify(connect().execute("select sum(cents) from paid").fetchone())


    @app.post("/stock/take")
    def take():
        (left,) = connect().execute("select n from stock").fetchone()
        time.sleep(0.05)  # the planted race: time for the other request to come in between
        connect().execute("update stock set n = ?", (left - 1,))
        return "", 204


    @app.get("/stock")
    def stock():
        return jsonify(connect().execute("select n from stock").fetchone())


    @app.get("/signature")
    def signature():
        return jsonify(secret)
"""
WORKLOAD = """
    POST /visits

    ###
    GET /visits

    ###
    PUT /payment

    ###
    GET /payment

    ###
    POST /stock/take

    ###
    GET /stock

    ###
    GET /signature
"""
MENDED = SERVICE.replace("visits += 1", "pass").replace("os.urandom(8).hex()", '"configured"')


def told(verdict: Verdict) -> set[tuple[object, ...]]:
    return {
        (d.route, d.schedule, d.where, d.cause and (d.cause.name, d.cause.verified), d.confirmed)
        for d in verdict.divergences
    }


def again(project: Project, file: str) -> Verdict:
    workload, saved = read(file)
    return replay(Application("service:app", project.path, project.env()), workload, saved, FEW)


def test_a_replay_gives_the_same_verdict_and_none_when_it_is_mended(project: Project) -> None:
    project.write(SERVICE)
    first = project.prove(WORKLOAD)
    assert {d.route for d in first.divergences} == {
        "GET /visits", "PUT /payment", "POST /stock/take", "GET /signature"
    }  # fmt: skip
    file = project.path / "out.json"
    jsonfile.write(first, file)
    second = again(project, str(file))
    assert told(second) == told(first)
    assert (second.outcome, second.exit_code) == (Outcome.DIFFERENT, 1)
    assert second.claim == "4 saved differences played again: 4 came back."
    number = 1 + [d.route for d in first.divergences].index("GET /visits")
    one = again(project, f"{file}#{number}")
    assert [d.route for d in one.divergences] == ["GET /visits"]
    project.write(MENDED)
    mended = again(project, str(file))
    assert {d.route for d in mended.divergences} == {"PUT /payment", "POST /stock/take"}
    assert "GET /visits (another pod) came back in 0 of 3 replays" in mended.warnings


def test_another_application_has_not_mended_it(project: Project) -> None:
    project.write(SERVICE)
    verdict = project.prove("POST /visits\n\n###\nGET /visits\n")
    jsonfile.write(verdict, project.path / "saved.json")
    project.write(SERVICE.replace('"/visits"', '"/seen"'))
    verdict = again(project, str(project.path / "saved.json"))
    assert (verdict.outcome, verdict.exit_code) == (Outcome.COULD_NOT_RUN, 2)
    assert "404 for GET /visits" in verdict.reason
    assert "is it the same application" in verdict.reason


def test_a_file_that_cannot_be_played_says_why(tmp_path: Path) -> None:
    workload = tmp_path / "shop.http"
    workload.write_text("GET /b\n")
    file = tmp_path / "out.json"
    kept = {"step": 0, "request": "GET /a", "slot": 0, "life": 0}
    one = {
        "route": "GET /a",
        "where": "status",
        "schedule": "another pod",
        "alone": [],
        "replay": [{**kept, "duplicate": False, "lost": False, "overlaps": False}],
    }
    document = {"format": 1, "workload": str(workload), "divergences": [one], "accepted": []}
    for content, reason in (
        ("{", "is not JSON"),
        ("[]", "expected what"),
        (json.dumps({**document, "divergences": []}), "has no differences"),
        (json.dumps({**document, "divergences": [{**one, "replay": []}]}), "cannot be read"),
        (json.dumps(document), "has changed since: request 1 was GET /a"),
    ):
        file.write_text(content)
        with pytest.raises(ReplayError, match=reason):
            read(str(file))
    with pytest.raises(ReplayError, match="No such file"):
        read(str(tmp_path / "missing.json"))
    with pytest.raises(ReplayError, match="no number 2"):
        read(f"{file}#2")
