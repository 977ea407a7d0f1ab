"""What can be forked from one import, what cannot, and what imports share."""

from __future__ import annotations

from pathlib import Path

import pytest

NOT_FORKED = {
    "thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "socket": "import socket; kept = socket.socket()",
    "file": "kept = open('journal.txt', 'w')",
    "process": "import subprocess; kept = subprocess.Popen(['sleep', '1000'])",
    "database": "import sqlite3; kept = sqlite3.connect('x.db'); kept.execute('CREATE TABLE IF NOT EXISTS t (n)')",
}


@pytest.mark.parametrize("what", NOT_FORKED)
def test_an_import_that_cannot_be_forked_is_done_again(worlds, get, what):
    world = worlds(
        f"""
        import os
        from flask import Flask, jsonify
        {NOT_FORKED[what]}
        app = Flask(__name__)
        made_in = os.getpid()
        visits = 0

        @app.get("/")
        def visit():
            global visits
            visits += 1
            open("scratch.txt", "w").close()
            return jsonify([visits, made_in == os.getpid(), os.environ["ANYPOD_NAMESPACE"]])
        """
    )
    assert not world.forks
    named = {"file": "journal.txt", "database": "x.db"}.get(what, what)
    assert named in world.why_not_forked
    one, other = world.start(0), world.start(1)
    assert get(one, "/")[:2] == [1, True]
    assert get(one, "/")[:2] == [2, True]
    changed = [(change.kind, change.name) for change in one.changes()]
    assert changed == [("global", "visits"), ("file", "scratch.txt")]
    assert get(other, "/")[:2] == [1, True]
    again = world.start(0)
    assert again.incarnation == 2
    assert not one.alive()
    first = get(again, "/")
    assert first[:2] == [1, True]
    world.reset()
    assert not again.alive()
    assert get(world.start(0), "/")[2] != first[2]


def test_idle_connections_of_a_pool_do_not_prevent_a_fork(worlds, get):
    world = worlds(
        """
        import os
        from flask import Flask, jsonify
        from sqlalchemy import create_engine, text
        app = Flask(__name__)
        engine = create_engine(os.environ["DATABASE_URL"])
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS t (n INTEGER)"))

        @app.get("/")
        def add():
            with engine.begin() as connection:
                connection.execute(text("INSERT INTO t VALUES (1)"))
                return jsonify(connection.execute(text("SELECT count(*) FROM t")).scalar())
        """
    )
    assert world.forks, world.why_not_forked
    one, other = world.start(0), world.start(1)
    assert [get(one, "/"), get(other, "/"), get(one, "/")] == [1, 2, 3]
    world.reset()
    assert get(world.start(0), "/") == 1


def test_a_log_file_does_not_prevent_a_fork(worlds, get):
    world = worlds(
        """
        import logging, pathlib
        from flask import Flask, jsonify
        app = Flask(__name__)
        handler = logging.FileHandler("service.log")
        logging.getLogger().addHandler(handler)
        logging.warning("imported")

        @app.get("/")
        def log():
            logging.warning("asked")
            return jsonify(pathlib.Path("service.log").read_text().split())
        """
    )
    assert world.forks, world.why_not_forked
    for _ in range(2):
        replica = world.start(0)
        assert get(replica, "/") == ["imported", "asked"]
        assert get(replica, "/") == ["imported", "asked", "asked"]
        assert [change.name for change in replica.changes()] == ["service.log"]


COMPILES = """
    import json, os, sys
    import written

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        told = [sys.pycache_prefix, written.__cached__, sys.dont_write_bytecode]
        return [json.dumps([*told, os.environ.get("PYTHONDONTWRITEBYTECODE")]).encode()]
"""


def test_imports_share_what_they_compile_where_nothing_is_compiled(worlds, tree, get, monkeypatch):
    monkeypatch.setattr("anypod.replicas.environment.is_compiled", lambda: False)
    (tree / "written.py").write_text("")
    replica = worlds(COMPILES, slots=1).start(0)
    prefix, cached, *serving = get(replica, "/")
    assert Path(cached).is_relative_to(prefix)
    assert Path(cached).exists()
    assert serving == [True, "1"]
    assert (replica.changes(), replica.escapes()) == ((), ())


def test_imports_compile_nothing_where_all_is_compiled(worlds, tree, get, monkeypatch):
    monkeypatch.setattr("anypod.replicas.environment.is_compiled", lambda: True)
    (tree / "written.py").write_text("")
    prefix, cached, *serving = get(worlds(COMPILES, slots=1).start(0), "/")
    assert prefix is None
    assert not Path(cached).exists()
    assert serving == [True, "1"]
