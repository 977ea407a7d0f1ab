"""What is outside the copies: put back for each run, or told."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest
import redis
from tests.prove.conftest import FEW, Project
from tests.servers import Server

from anypod.prove.engine import prove
from anypod.prove.events import Outcome
from anypod.prove.schedules import Kind
from anypod.prove.workload import parse
from anypod.replicas import Application

OUTSIDE = """
    import os, psycopg, redis
    from flask import Flask, jsonify, request
    app = Flask(__name__)
    shop = os.environ["SHOP"]
    seen = redis.Redis.from_url(os.environ["SEEN"])

    @app.post("/orders")
    def order():
        with psycopg.connect(shop) as connection:
            row = connection.execute("INSERT INTO orders DEFAULT VALUES RETURNING id").fetchone()
        seen.incr("orders")
        return jsonify(row[0]), 201

    @app.get("/orders")
    def orders():
        with psycopg.connect(shop) as connection:
            rows = connection.execute("SELECT id FROM orders ORDER BY id").fetchall()
        return jsonify(rows=[row[0] for row in rows], seen=int(seen.get("orders") or 0))
"""


@pytest.fixture
def stores(new_postgres_url: Callable[[], str], redis_server: Server) -> Iterator[dict[str, str]]:
    """A database with two orders, and a key space that knows of them."""
    found = {"SHOP": new_postgres_url(), "SEEN": f"redis://127.0.0.1:{redis_server.port}/13"}
    with psycopg.connect(found["SHOP"], autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id serial)")
        connection.execute("INSERT INTO orders DEFAULT VALUES")
    with redis.Redis.from_url(found["SEEN"]) as client:
        client.set("orders", 1)
        yield found
        client.flushdb()


def test_stores_outside_are_put_back_for_each_run(project: Project, stores: dict[str, str]) -> None:
    """The service names them in variables of its own, so nothing but `--reset` says what they are."""
    project.write(OUTSIDE)
    path = project.workload("POST /orders\n\n###\nGET /orders\n")
    application = Application(
        "service:app", project.path, project.env(stores), outside=tuple(stores.values())
    )
    # Not all schedules: two stores that change one after the other may be read in between.
    some = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD, Kind.DEPLOY}))
    verdict = prove(application, parse(path.read_text(), path), some)
    assert verdict.outcome is Outcome.NO_DIFFERENCE, verdict
    with psycopg.connect(stores["SHOP"]) as connection:
        assert connection.execute("SELECT id FROM orders").fetchall() == [(1,)]
    with redis.Redis.from_url(stores["SEEN"]) as client:
        assert client.get("orders") == b"1"


def test_what_was_not_named_is_told_with_its_steps_and_what_to_name(
    project: Project, stores: dict[str, str]
) -> None:
    project.write(OUTSIDE)
    path = project.workload("POST /orders\n\n###\nGET /orders\n\n###\nGET /orders?again\n")
    url = stores["SHOP"].replace("postgres@", "postgres:secret@")
    env = project.env({**stores, "SHOP": url})
    application = Application("service:app", project.path, env, outside=(stores["SEEN"],))
    verdict = prove(application, parse(path.read_text(), path), FEW)
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert "reset incomplete: workload.http:4: GET /orders" in verdict.reason
    assert "the same at line 7: GET /orders" in verdict.reason
    assert '--reset "$SHOP"' in verdict.reason
    assert "secret" not in verdict.reason


def test_an_interrupted_proof_puts_back_what_is_outside(
    project: Project, stores: dict[str, str]
) -> None:
    project.write(OUTSIDE)
    project.workload("POST /orders\n\n###\nGET /orders\n")
    names = [part for url in stores.values() for part in ("--reset", url)]
    with subprocess.Popen(
        [sys.executable, "-m", "anypod", "prove", "service:app", *names, "--workload",
         "workload.http", "--budget", "300s", "--random"],
        cwd=project.path, env=project.env(stores), stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout is not None
        for line in running.stdout:
            if "plan:" in line:
                break
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        assert running.wait(60) == 2
    with psycopg.connect(stores["SHOP"]) as connection:
        assert connection.execute("SELECT id FROM orders").fetchall() == [(1,)]
    with redis.Redis.from_url(stores["SEEN"]) as client:
        assert client.get("orders") == b"1"
