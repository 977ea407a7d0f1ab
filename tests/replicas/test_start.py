"""A start is a process that has served nothing, on a disk that nobody has written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anypod.replicas import ReplicaError

ASGI = {
    "fastapi": """
        from contextlib import asynccontextmanager
        from fastapi import FastAPI

        log = []

        @asynccontextmanager
        async def lifespan(app):
            log.append("up")
            yield

        app = FastAPI(lifespan=lifespan)

        @app.get("/visit")
        async def visit():
            log.append("visit")
            return log
    """,
    "starlette": """
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        log = ["up"]

        async def visit(request):
            log.append("visit")
            return JSONResponse(log)

        app = Starlette(routes=[Route("/visit", visit)])
    """,
    "plain": """
        import json

        log = ["up"]

        async def app(scope, receive, send):
            assert scope["type"] == "http"
            log.append("visit")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(log).encode()})
    """,
}


def test_each_start_has_served_nothing(worlds, get):
    world = worlds()
    first = world.start(0)
    assert [get(first, "/visit") for _ in range(3)] == [1, 2, 3]
    second = world.start(0)
    assert get(second, "/visit") == 1
    assert (first.incarnation, second.incarnation) == (1, 2)
    assert not first.alive()
    assert second.alive()
    assert world.starts == 2
    assert world.seconds_per_start > 0


def test_replicas_of_a_slot_share_an_import_and_slots_do_not(worlds, get):
    world = worlds()
    one, other = get(world.start(0), "/who"), get(world.start(1), "/who")
    again = get(world.start(0), "/who")
    assert world.forks
    assert world.why_not_forked == ""
    assert one["secret"] == again["secret"] != other["secret"]
    assert one["order"] == again["order"] != other["order"]
    assert len({one["pid"], other["pid"], again["pid"]}) == 3


def test_slots_differ_in_name(worlds, get):
    world = worlds(
        """
        import os, platform, socket
        from flask import Flask, jsonify
        app = Flask(__name__)

        @app.get("/")
        def names():
            return jsonify([socket.gethostname(), platform.node(), os.uname().nodename,
                            os.environ["HOSTNAME"], socket.getfqdn()])
        """
    )
    one, other = get(world.start(0), "/"), get(world.start(1), "/")
    assert len(set(one)) == len(set(other)) == 1
    assert one != other


@pytest.mark.parametrize("framework", ASGI)
def test_asgi_is_told_by_itself(worlds, get, framework):
    world = worlds(ASGI[framework])
    assert world.kind == "asgi"
    replica = world.start(0)
    assert get(replica, "/visit") == ["up", "visit"]
    assert get(replica, "/visit") == ["up", "visit", "visit"]
    assert get(world.start(0), "/visit") == ["up", "visit"]


def test_a_factory_is_called_when_the_service_is_imported(worlds, get):
    world = worlds(
        """
        import os
        from flask import Flask, jsonify

        def create_app():
            app = Flask(__name__)
            made_in = os.getpid()

            @app.get("/")
            def where():
                return jsonify([made_in, os.getpid()])

            return app
        """,
        "service:create_app()",
    )
    made, served = get(world.start(0), "/")
    assert made != served
    assert get(world.start(0), "/")[0] == made


def test_a_dotted_target(worlds, get):
    world = worlds(
        """
        class site:
            def app(environ, start_response):
                start_response("200 OK", [])
                return [b"1"]
        """,
        "service:site.app",
    )
    assert get(world.start(0), "/") == 1


def test_the_disk_of_a_replica_is_its_own_and_goes_with_it(worlds, get, tree):
    (tree / "kept.txt").write_text("as it was")
    source = """
        import os, pathlib, shutil, tempfile
        from flask import Flask, jsonify
        app = Flask(__name__)
        HERE = pathlib.Path(__file__).parent

        @app.get("/write")
        def write():
            pathlib.Path("new.txt").write_text("x")
            (HERE / "kept.txt").write_text("changed")
            (HERE / "folder").mkdir(exist_ok=True)
            (HERE / "folder" / "deep.txt").write_text("x")
            pathlib.Path.home().joinpath(".config").write_text("x")
            pathlib.Path(tempfile.gettempdir(), "scratch").write_text("x")
            return jsonify(True)

        @app.get("/read")
        def read():
            found = [str(path.relative_to(HERE)) for path in sorted(HERE.rglob("*.txt"))]
            outside = [pathlib.Path.home().joinpath(".config").exists(),
                       pathlib.Path(tempfile.gettempdir(), "scratch").exists()]
            return jsonify([found, (HERE / "kept.txt").read_text(), outside, os.getcwd() == str(HERE)])
    """
    world = worlds(source)
    pristine = [["kept.txt"], "as it was", [False, False], True]
    writer, other = world.start(0), world.start(1)
    assert get(writer, "/write")
    dirty = [["folder/deep.txt", "kept.txt", "new.txt"], "changed", [True, True], True]
    assert get(writer, "/read") == dirty
    assert get(other, "/read") == pristine
    assert get(world.start(0), "/read") == pristine
    writer = world.start(0)
    get(writer, "/write")
    writer.kill()
    assert not writer.alive()
    assert get(world.start(0), "/read") == pristine
    assert writer.escapes() == ()
    assert (tree / "kept.txt").read_text() == "as it was"
    assert not (tree / "new.txt").exists()


def test_what_the_import_wrote_is_part_of_the_image(worlds, get):
    world = worlds(
        """
        import pathlib
        from flask import Flask, jsonify
        app = Flask(__name__)
        pathlib.Path("made.txt").write_text("at import")

        @app.get("/spoil")
        def spoil():
            pathlib.Path("made.txt").unlink()
            return jsonify(True)

        @app.get("/")
        def read():
            return jsonify(pathlib.Path("made.txt").read_text())
        """
    )
    get(world.start(0), "/spoil")
    assert get(world.start(0), "/") == "at import"


SQLITE_BESIDE_THE_SOURCE = """
    import pathlib, sqlite3
    from flask import Flask, jsonify
    app = Flask(__name__)
    BASE_DIR = pathlib.Path(__file__).resolve().parent
    with sqlite3.connect(BASE_DIR / "app.db") as db:
        db.execute("CREATE TABLE IF NOT EXISTS hits (n)")
    db.close()

    @app.get("/")
    def hit():
        with sqlite3.connect(BASE_DIR / "app.db") as db:
            db.execute("INSERT INTO hits VALUES (1)")
            count = db.execute("SELECT count(*) FROM hits").fetchone()[0]
        db.close()
        return jsonify(count)
"""


def test_a_database_beside_the_source_is_private(worlds, get, tree):
    world = worlds(SQLITE_BESIDE_THE_SOURCE)
    one, other = world.start(0), world.start(1)
    assert [get(one, "/"), get(one, "/"), get(other, "/")] == [1, 2, 1]
    assert [change.kind for change in one.changes()] == ["database"]
    assert one.escapes() == ()
    assert get(world.start(0), "/") == 1
    assert not (tree / "app.db").exists()


def test_a_shared_path_is_one_for_all_and_survives_a_kill(worlds, get, tree):
    (tree / "data").mkdir()
    (tree / "data" / "seed.txt").write_text("seed")
    world = worlds(
        """
        import pathlib
        from flask import Flask, jsonify
        app = Flask(__name__)
        DATA = pathlib.Path(__file__).parent / "data"

        @app.get("/write")
        def write():
            (DATA / "new.txt").write_text("x")
            return jsonify(True)

        @app.get("/")
        def read():
            return jsonify(sorted(path.name for path in DATA.iterdir()))
        """,
        shared=[Path("data")],
    )
    writer, other = world.start(0), world.start(1)
    get(writer, "/write")
    writer.kill()
    assert get(other, "/") == ["new.txt", "seed.txt"]
    assert get(world.start(0), "/") == ["new.txt", "seed.txt"]
    assert other.changes() == ()
    world.reset()
    assert get(world.start(0), "/") == ["seed.txt"]
    assert sorted(path.name for path in (tree / "data").iterdir()) == ["seed.txt"]


def test_databases_default_to_the_volume_and_namespaces_to_the_run(worlds, get):
    world = worlds(
        """
        import os, sqlite3
        from flask import Flask, jsonify
        app = Flask(__name__)

        @app.get("/")
        def add():
            path = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
            with sqlite3.connect(path) as db:
                db.execute("CREATE TABLE IF NOT EXISTS t (n)")
                db.execute("INSERT INTO t VALUES (1)")
                count = db.execute("SELECT count(*) FROM t").fetchone()[0]
            db.close()
            return jsonify([count, os.environ["ANYPOD_NAMESPACE"], os.environ["ANYPOD_URL"]])
        """
    )
    one = get(world.start(0), "/")
    other = get(world.start(1), "/")
    again = get(world.start(0), "/")
    assert [one[0], other[0], again[0]] == [1, 2, 3]
    assert one[1:] == other[1:] == again[1:]
    world.reset()
    after = get(world.start(0), "/")
    assert after[0] == 1
    assert after[1] != one[1]
    assert after[2] == one[2]


@pytest.mark.parametrize("name", ["ANYPOD_URL", "REDIS_URL", "REDIS_HOST"])
def test_a_store_of_the_users_is_kept(worlds, get, env, name):
    env[name] = "redis://localhost:6379/3" if name.endswith("URL") else "localhost"
    env["DATABASE_URL"] = "postgresql://localhost/shop"
    world = worlds(
        """
        import os
        from flask import Flask, jsonify
        app = Flask(__name__)

        @app.get("/")
        def show():
            return jsonify({name: os.environ.get(name) for name in
                            ("ANYPOD_URL", "REDIS_URL", "REDIS_HOST", "DATABASE_URL")})
        """
    )
    found = get(world.start(0), "/")
    wanted = dict.fromkeys(("ANYPOD_URL", "REDIS_URL", "REDIS_HOST"))
    assert found == {**wanted, name: env[name], "DATABASE_URL": env["DATABASE_URL"]}


def test_an_empty_database_url_leaves_the_default_to_the_service(worlds, get, env):
    env["DATABASE_URL"] = ""
    world = worlds(
        """
        import os
        from flask import Flask, jsonify
        app = Flask(__name__)

        @app.get("/")
        def show():
            return jsonify("DATABASE_URL" in os.environ)
        """
    )
    assert get(world.start(0), "/") is False


def test_a_source_layout_is_imported_from_the_copy(worlds, get, tree, env):
    package = tree / "src" / "inner"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nplace = os.path.dirname(__file__)\n")
    env["PYTHONPATH"] = str(tree / "src")
    world = worlds(
        """
        import inner
        from flask import Flask, jsonify
        app = Flask(__name__)

        @app.get("/")
        def where():
            return jsonify(inner.place)
        """
    )
    place = get(world.start(0), "/")
    assert place.endswith("/disk/src/inner")
    assert not place.startswith(str(tree))


def test_sigterm_lets_a_request_finish(worlds, get, tree):
    world = worlds(
        """
        import pathlib, time
        from flask import Flask, jsonify
        app = Flask(__name__)
        DATA = pathlib.Path(__file__).parent / "data"

        import atexit
        atexit.register(lambda: (DATA / "left.txt").write_text("in order"))

        @app.get("/")
        def fine():
            return jsonify(True)

        @app.get("/left")
        def left():
            return jsonify((DATA / "left.txt").exists())
        """,
        shared=[Path("data")],
    )
    replica = world.start(0)
    assert get(replica, "/")
    replica.terminate()
    assert not replica.alive()
    assert get(world.start(0), "/left") is True


def test_a_replica_that_ignores_sigterm_is_killed(worlds, get):
    world = worlds(
        """
        import signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from flask import Flask, jsonify
        app = Flask(__name__)

        @app.get("/")
        def fine():
            return jsonify(True)
        """
    )
    replica = world.start(0)
    get(replica, "/")
    replica.terminate(grace=0.05)
    assert not replica.alive()
    assert get(world.start(0), "/")


def test_a_replica_that_ends_by_itself_is_seen(worlds, get):
    world = worlds(
        """
        import os
        from flask import Flask
        app = Flask(__name__)

        @app.get("/")
        def crash():
            print("going down", flush=True)
            os._exit(3)
        """
    )
    replica = world.start(0)
    with pytest.raises(OSError):  # noqa: PT011  # how it shows depends on the moment
        get(replica, "/")
    assert not replica.alive()
    assert replica.changes() == ()
    assert "going down" in replica.log
    assert world.start(0).alive()


def test_a_closed_world_leaves_nothing_and_says_so(worlds, get):
    world = worlds()
    replica = world.start(0)
    base = world._base
    world.close()
    assert not base.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(replica.pid, 0)
    with pytest.raises(ReplicaError, match="closed"):
        world.start(0)


def test_the_volume_goes_with_its_world(worlds, get):
    world = worlds(
        """
        import json, os

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(os.environ["DATABASE_URL"]).encode()]
        """,
        slots=1,
    )
    volume = Path(get(world.start(0), "/").removeprefix("sqlite:///")).parent
    assert volume.is_dir()
    world.close()
    assert not volume.exists()
