"""What is outside the copies: put back for each run, or told."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pymysql
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


def test_a_mysql_database_is_put_back_for_each_run(
    project: Project, new_mysql_url: Callable[[], str]
) -> None:
    url = new_mysql_url()
    place = urlsplit(url)
    assert place.port is not None
    project.write(
        """
        import os, pymysql
        from flask import Flask, jsonify
        app = Flask(__name__)
        here = {"host": "127.0.0.1", "port": int(os.environ["PORT_OF_SHOP"]), "user": "root"}

        def rows(statement):
            with pymysql.connect(**here, database=os.environ["NAME_OF_SHOP"], autocommit=True) as shop:
                cursor = shop.cursor()
                cursor.execute(statement)
                return list(cursor.fetchall())

        @app.post("/orders")
        def order():
            rows("INSERT INTO orders VALUES ()")
            return jsonify(made=True), 201

        @app.get("/orders")
        def orders():
            return jsonify(rows("SELECT id FROM orders ORDER BY id"))
        """
    )
    path = project.workload("POST /orders\n\n###\nGET /orders\n")
    env = project.env({"PORT_OF_SHOP": str(place.port), "NAME_OF_SHOP": place.path[1:]})
    with pymysql.connect(host="127.0.0.1", port=place.port, user="root", autocommit=True) as shop:
        table = f"{place.path[1:]}.orders"
        shop.cursor().execute(f"CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY)")
        shop.cursor().execute(f"INSERT INTO {table} VALUES ()")
        application = Application("service:app", project.path, env, outside=(url,))
        verdict = prove(application, parse(path.read_text(), path), FEW)
        assert verdict.outcome is Outcome.NO_DIFFERENCE, verdict
        cursor = shop.cursor()
        cursor.execute(f"SELECT * FROM {table}")
        assert cursor.fetchall() == ((1,),)


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


NOTES = """
    import os, sqlite3
    from flask import Flask, jsonify
    app = Flask(__name__)

    def query(text):
        url = os.environ.get("DATABASE_URL", "sqlite:///shop.db")
        with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
            return database.execute(text).fetchall()

    @app.post("/notes")
    def write():
        query("INSERT INTO note VALUES (1)")
        return "", 204

    @app.get("/notes")
    def read():
        return jsonify(len(query("SELECT * FROM note")))

    @app.get("/ready")
    def ready():
        return "yes"
"""
WRITTEN = "GET /ready\n\n###\nPOST /notes\n\n###\nGET /notes\n"


@pytest.mark.parametrize("workload", [WRITTEN, "POST /notes\n"], ids=["some fail", "all fail"])
def test_a_database_without_tables_is_told(project: Project, workload: str) -> None:
    """The service's own default has them, as a developer left it; the database of the proof does not."""
    project.write(NOTES)
    sqlite3.connect(project.path / "shop.db").execute("CREATE TABLE note (n)").connection.close()
    verdict = project.prove(workload)
    told = "\n".join((*verdict.warnings, verdict.reason))
    assert "DATABASE_URL is not set" in told
    assert "that has no tables: let --setup CMD make them" in told


def test_the_services_own_database_is_one_of_each_pod(project: Project) -> None:
    project.write(NOTES)
    sqlite3.connect(project.path / "shop.db").execute("CREATE TABLE note (n)").connection.close()
    verdict = project.prove(WRITTEN, env={"DATABASE_URL": ""})
    assert [one.cause.name for one in verdict.divergences if one.cause] == ["shop.db"]
    assert verdict.warnings == ()


def test_what_a_recording_left_outside_is_told(project: Project, tmp_path: Path) -> None:
    """The name was free when it was recorded, and is taken since."""
    taken = tmp_path / "taken.txt"
    project.write(
        f"""
        from flask import Flask
        app = Flask(__name__)

        @app.post("/names")
        def take():
            with open({str(taken)!r}, "a+") as names:
                names.seek(0)
                if names.read():
                    return "", 409
                names.write("ann")
            return "", 201
        """
    )
    taken.write_text("ann")
    verdict = project.prove("# @status 201\nPOST /names\n")
    (told,) = [text for text in verdict.warnings if text.startswith("state created outside HTTP")]
    assert f"It may be that {taken}, outside the project, still holds what was recorded" in told
    assert f"record again and prove with --reset {taken}. If not:" in told
