"""A small Flask service around routes that a test writes."""

from __future__ import annotations

import textwrap

from tests.prove.conftest import Project

# A WSGI application in a few lines: routes are functions named by their method and path.
SMALL = """
    import json
    import os
    import sqlite3
    from pathlib import Path

    ROUTES = {{}}


    def route(what):
        return lambda handler: ROUTES.setdefault(what, handler)


    def connect():
        connection = sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///"))
        connection.execute("create table if not exists t (k primary key, v)")
        return connection


    def read(key):
        with connect() as connection:
            found = connection.execute("select v from t where k = ?", (key,)).fetchone()
        return found[0] if found else None


    def write(key, value):
        with connect() as connection:
            connection.execute("replace into t values (?, ?)", (key, value))


    def app(environ, start):
        handler = ROUTES[environ["REQUEST_METHOD"] + " " + environ["PATH_INFO"]]
        size = int(environ.get("CONTENT_LENGTH") or 0)
        answer = handler(environ["wsgi.input"].read(size).decode())
        status, value = answer if isinstance(answer, tuple) else (200, answer)
        body = json.dumps(value).encode()
        start(f"{{status}} X", [("Content-Type", "application/json")])
        return [body]

    {routes}
"""

# A service that writes to a file outside the project.
WRITES_OUTSIDE = """
    def app(environ, start):
        open({path!r}, "a").close()
        start("200 OK", [])
        return [b""]
"""

SHARED_WORKLOAD = """
PUT /value

one

###
GET /value

###
PUT /value

two

###
GET /value

###
POST /things

###
GET /thing
"""


def small(project: Project, routes: str) -> None:
    project.write(textwrap.dedent(SMALL).format(routes=textwrap.dedent(routes)))


SHARED = """
    import uuid

    @route("PUT /value")
    def put(body):
        write("value", body)
        return {}

    @route("GET /value")
    def get(body):
        return {"value": read("value")}

    @route("POST /things")
    def add(body):
        id = str(uuid.uuid4())
        write("thing", id)
        return 201, {"id": id}

    @route("GET /thing")
    def thing(body):
        return {"id": read("thing"), "asked": uuid.uuid4().hex}
"""
