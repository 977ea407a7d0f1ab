"""Services as their owners run them: frameworks under their own servers, by command, and elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project
from tests.servers import free_port, wait_until

from anypod.cli.service import read_env
from anypod.errors import ConfigurationError
from anypod.prove.engine import Options, prove
from anypod.prove.events import Outcome, Verdict
from anypod.prove.schedules import ROUTED, Kind
from anypod.prove.workload import parse
from anypod.replicas import Application

FLASK = """
    from flask import Flask, jsonify
    app = Flask(__name__)
    visits = []

    @app.post("/visits")
    def visit():
        visits.append(1)
        return "", 204

    @app.get("/visits")
    def show():
        return jsonify(len(visits))
"""
FASTAPI = """
    from fastapi import FastAPI
    app = FastAPI()
    visits = []

    @app.post("/visits", status_code=204)
    def visit() -> None:
        visits.append(1)

    @app.get("/visits")
    async def show() -> int:
        return len(visits)
"""
STARLETTE = """
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    visits = []

    async def visit(request):
        visits.append(1)
        return JSONResponse(None)

    async def show(request):
        return JSONResponse(len(visits))

    app = Starlette(routes=[Route("/visits", visit, methods=["POST"]), Route("/visits", show)])
"""
DJANGO = """
    import django
    from django.conf import settings
    settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost"])
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, JsonResponse
    from django.urls import path
    visits = []

    def page(request):
        if request.method == "POST":
            visits.append(1)
            return HttpResponse(status=204)
        return JsonResponse(len(visits), safe=False)

    urlpatterns = [path("visits", page)]
    app = get_wsgi_application()
"""
AIOHTTP = """
    import os
    from aiohttp import web
    visits = []

    async def visit(request):
        visits.append(1)
        return web.Response(status=204)

    async def show(request):
        return web.json_response(len(visits))

    app = web.Application()
    app.add_routes([web.post("/visits", visit), web.get("/visits", show)])
    if __name__ == "__main__":
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
"""
IN_A_FILE = """
    from pathlib import Path
    notes = Path("notes.txt")

    def app(environ, start):
        start("200 OK", [("Content-Type", "text/plain")])
        if environ["REQUEST_METHOD"] == "POST":
            notes.write_text("noted")
        return [notes.read_bytes() if notes.exists() else b"nothing"]
"""
GUNICORN = "gunicorn --no-control-socket -b 127.0.0.1:$PORT service:app"
UVICORN = "uvicorn --port $PORT --log-level warning service:app"
PAIR = "POST /visits\n\n###\nGET /visits\n"
QUICK = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD}))


def run(
    project: Project, workload: str = PAIR, options: Options = QUICK, **around: object
) -> Verdict:
    path = project.workload(workload)
    application = Application("", project.path, project.env(), **around)  # type: ignore[arg-type]
    return prove(application, parse(path.read_text(), path), options)


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (FLASK, GUNICORN),
        (DJANGO, f"{GUNICORN} --threads 4"),
        (FASTAPI, UVICORN),
        (STARLETTE, UVICORN),
        (AIOHTTP, f"{sys.executable} service.py"),
    ],
    ids=["flask", "django", "fastapi", "starlette", "aiohttp"],
)
def test_a_framework_under_its_own_server(project: Project, source: str, command: str) -> None:
    project.write(source)
    verdict = run(project, command=command)
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    (found,) = verdict.divergences
    assert (found.route, found.expected, found.got) == ("GET /visits", "1", "0")
    assert found.cause is None
    assert any("their memory is not looked into" in text for text in verdict.warnings)
    assert not any("no Python program that can be guarded" in text for text in verdict.warnings)
    assert verdict.application == command


@pytest.mark.parametrize(
    "source", [DJANGO, FASTAPI, STARLETTE], ids=["django", "fastapi", "starlette"]
)
def test_a_framework_as_app(project: Project, source: str) -> None:
    project.write(source)
    verdict = project.prove(PAIR, options=QUICK)
    (found,) = verdict.divergences
    assert found.cause is not None
    assert (found.cause.name, found.cause.kind) == ("visits", "global")


def test_a_file_is_a_cause_whoever_writes_it(project: Project) -> None:
    project.write(IN_A_FILE)
    (found,) = run(project, command=GUNICORN).divergences
    assert found.cause is not None
    assert (found.cause.kind, found.cause.name) == ("file", "notes.txt")


def test_a_command_is_isolated_as_far_as_its_programs_are_python(
    project: Project, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.txt"
    project.write(f"""
        import os, socket

        def app(environ, start):
            start("200 OK", [("Content-Type", "text/plain")])
            open({str(outside)!r}, "w").close()
            return [socket.gethostname()[:11].encode()]
    """)
    verdict = run(project, command=GUNICORN)
    assert f"not isolated: {outside}" in verdict.warnings
    assert verdict.divergences == ()


def test_a_program_that_cannot_be_guarded_is_told(project: Project) -> None:
    project.write(FLASK)
    verdict = run(project, command=f"{sys.executable} -I -m gunicorn --chdir . {GUNICORN[9:]}")
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    assert any("no Python program that can be guarded" in text for text in verdict.warnings)


def test_another_machine_is_not_reached_by_a_command(project: Project) -> None:
    project.write("""
        import socket

        def app(environ, start):
            try:
                socket.create_connection(("192.0.2.1", 80), timeout=1)
            except OSError:
                pass
            start("200 OK", [])
            return [b""]
    """)
    verdict = run(project, command=GUNICORN)
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert "reached for 192.0.2.1" in verdict.reason


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program $PORT", "there is no such program in PATH"),
        ("echo gone; exit 3", "left with exit status 3 before it listened"),
        ("sleep 60", "did not listen on 127.0.0.1:$PORT within 1 s; does it use $PORT"),
    ],
)
def test_a_command_that_does_not_serve(project: Project, command: str, said: str) -> None:
    verdict = run(project, options=replace(QUICK, start_timeout=1.0), command=command)
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert said in verdict.reason


def test_setup_reset_and_companions(project: Project) -> None:
    """The table comes from setup, the row of each run from reset, the answer from a worker."""
    project.write("""
        import os, sqlite3, time
        path = os.environ["DATABASE_URL"].removeprefix("sqlite:///")

        def app(environ, start):
            with sqlite3.connect(path) as database:
                if environ["REQUEST_METHOD"] == "POST":
                    database.execute("UPDATE job SET state = 'asked'")
                    database.commit()
                for _ in range(2000):
                    (state,) = database.execute("SELECT state FROM job").fetchone()
                    if state != "asked":
                        break
                    time.sleep(0.005)  # polls, 2,000 times at most
            asked = environ["PATH_INFO"] in {"/", "/done"}
            start("200 OK" if asked else "404 Not Found", [("Content-Type", "text/plain")])
            return [state.encode()]
    """)
    script = """
        import os, sqlite3, sys, time
        database = sqlite3.connect(os.environ["DATABASE_URL"].removeprefix("sqlite:///"))
        database.execute("PRAGMA busy_timeout = 10000")
        with database:
            if sys.argv[1] == "setup":
                database.execute("CREATE TABLE job (state TEXT)")
            if sys.argv[1] == "reset":
                database.execute("INSERT INTO job VALUES ('new')")
        while sys.argv[1] == "work":
            with database:
                database.execute("UPDATE job SET state = 'done' WHERE state = 'asked'")
            time.sleep(0.005)  # polls its queue until it is ended
    """
    project.write(script, name="manage.py")
    python = sys.executable
    verdict = run(
        project,
        "# @name a\nPOST /\n\n###\n# @status 200\nGET /{{a.response.body.*}}\n",
        command=GUNICORN,
        setup=(f"{python} manage.py setup",),
        reset=(f"{python} manage.py reset",),
        companions=(f"{python} manage.py work",),
    )
    assert verdict.outcome is Outcome.NO_DIFFERENCE, verdict
    assert not any("state created outside" in text for text in verdict.warnings)


@pytest.mark.parametrize("option", ["setup", "reset"])
def test_a_preparation_that_fails_says_what_it_printed(project: Project, option: str) -> None:
    project.write(FLASK)
    verdict = run(project, command=GUNICORN, **{option: ("echo no table; exit 4",)})
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert f"--{option} 'echo no table; exit 4' left with exit status 4" in verdict.reason
    assert "no table" in verdict.reason


def test_a_command_that_runs_another_python_is_told_of_this_one(
    project: Project, tmp_path: Path
) -> None:
    """As `.venv/bin/anypod` is run where nobody has activated its environment."""
    project.write(FLASK)
    other = tmp_path / "bin" / "python"
    other.parent.mkdir()
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    env = project.env({"PATH": f"{other.parent}{os.pathsep}{os.defpath}"})
    path = project.workload(PAIR)
    missing = "python -c 'import nothing_of_that_name'"
    for command, setup in ((GUNICORN, (missing,)), (missing, ())):
        application = Application("", project.path, env, command=command, setup=setup)
        verdict = prove(application, parse(path.read_text(), path), QUICK)
        assert f"`python` is {other}: activate the environment of" in verdict.reason


def test_a_companion_that_ends_is_told(project: Project) -> None:
    project.write(FLASK)
    verdict = run(project, command=GUNICORN, companions=("echo no broker; exit 5",))
    assert any(
        "--with 'echo no broker; exit 5' left with exit status 5: no broker" in text
        for text in verdict.warnings
    )


def test_a_replica_is_ready_when_it_says_so(project: Project) -> None:
    project.write("""
        import threading
        warm = threading.Event()
        threading.Timer(0.2, warm.set).start()

        def app(environ, start):
            ok = warm.is_set()
            start("200 OK" if ok else "503 Not yet", [("Content-Type", "text/plain")])
            return [str(ok).encode()]
    """)
    for around in ({"command": GUNICORN}, {}):
        path = project.workload("GET /a\n\n###\nGET /b\n")
        target = "" if around else "service:app"
        application = Application(target, project.path, project.env(), ready="/", **around)
        verdict = prove(application, parse(path.read_text(), path), QUICK)
        assert verdict.outcome is Outcome.NO_DIFFERENCE, verdict
        assert verdict.warnings == () or "5xx" not in " ".join(verdict.warnings)


@pytest.fixture
def elsewhere(project: Project) -> Iterator[tuple[str, ...]]:
    """Two replicas that somebody else runs, which `reset` empties."""
    project.write(
        FLASK
        + """
    @app.post("/reset")
    def reset():
        visits.clear()
        return ""
    """
    )
    processes, urls = [], []
    for _ in range(2):
        port = free_port()
        urls.append(f"http://127.0.0.1:{port}")
        processes.append(subprocess.Popen(
            [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "service:app"],
            cwd=project.path, env=project.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ))  # fmt: skip
    import httpx

    def answers(url: str) -> bool:
        try:
            return httpx.get(f"{url}/visits").status_code == 200
        except httpx.TransportError:
            return False

    for url in urls:
        wait_until(lambda url=url: answers(url), f"{url} answers")  # type: ignore[misc]
    yield tuple(urls)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()


def emptied(urls: tuple[str, ...]) -> str:
    """A command that empties replicas."""
    return " && ".join(
        f"{sys.executable} -c \"import urllib.request as u; u.urlopen(u.Request('{url}/reset', method='POST'))\""
        for url in urls
    )


def test_replicas_that_run_elsewhere_are_only_routed(
    project: Project, elsewhere: tuple[str, ...]
) -> None:
    three = "GET /visits\n\n###\nPOST /visits\n\n###\nGET /visits\n"
    verdict = run(
        project,
        three,
        replace(FEW, schedules=ROUTED),
        urls=elsewhere,
        reset=(emptied(elsewhere),),
    )
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    assert verdict.divergences[0].route == "GET /visits"
    assert verdict.divergences[0].cause is None
    assert any("no cause is looked for" in text for text in verdict.warnings)
    assert verdict.starts == 0


def test_a_write_on_one_replica_elsewhere_is_read_on_another(
    project: Project, elsewhere: tuple[str, ...]
) -> None:
    verdict = run(
        project, options=replace(FEW, schedules=ROUTED), urls=elsewhere, reset=(emptied(elsewhere),)
    )
    (found,) = verdict.divergences
    assert (found.route, found.schedule, found.got) == ("GET /visits", Kind.ANOTHER_POD, "0")
    assert [request.pod for request in found.requests] == [1, 2]
    assert verdict.exit_code == 1
    assert verdict.coverage is not None
    assert verdict.coverage.pairs == (1, 1)
    for kind in (Kind.POD_MOVED, Kind.DEPLOY, "a replica that has served nothing"):
        assert f"{kind}: the replicas run elsewhere" in verdict.not_tried


def test_without_a_reset_what_stays_is_told(project: Project, elsewhere: tuple[str, ...]) -> None:
    verdict = run(project, options=replace(FEW, schedules=frozenset({Kind.RETRY})), urls=elsewhere)
    assert any("stays there; --reset takes" in text for text in verdict.warnings) or (
        "reset incomplete" in verdict.reason
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "expected one of APP, --command and --url, got nothing"),
        (("service:app", "--command", "x"), "got APP and --command"),
        (("--url", "http://localhost:1"), "--url names one replica"),
        (("--url", "http://localhost:1", "--url", "http://shop.example:2"), "is not this machine"),
        (("--url", "http://localhost:1/api", "--url", "x:2"), "expected http://HOST:PORT"),
        (
            ("--url", "localhost:1", "--url", "localhost:2", "--setup", "x"),
            "--setup needs replicas",
        ),
        (
            ("--url", "localhost:1", "--url", "localhost:2", "--schedule", "deploy"),
            "those of --url are not ours",
        ),
        (("--url", "localhost:1", "--url", "localhost:2"), "nobody listens there"),
        (("service:app", "--ready", "health"), "expected a path that starts with '/'"),
        (("service:app", "--env-file", "none.env"), "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_meant(project: Project, arguments: tuple[str, ...], said: str) -> None:
    project.write(FLASK)
    project.workload(PAIR)
    done = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", *arguments, "--workload", "workload.http"],
        cwd=project.path, env=project.env({"COLUMNS": "200"}), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stdout + done.stderr


def test_an_env_file(tmp_path: Path) -> None:
    file = tmp_path / "a.env"
    file.write_text(
        '# a comment\n\nexport A=1\nB = two words # a comment\nC=\'single $A\'\nD="two\\nlines \\"q\\""\nE=\n'
    )
    assert read_env(file) == {
        "A": "1", "B": "two words", "C": "single $A", "D": 'two\nlines "q"', "E": "",
    }  # fmt: skip


@pytest.mark.parametrize("line", ["no equals sign", "1A=2", "A='open", 'A="open'])
def test_an_env_file_that_cannot_be_read(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.env"
    file.write_text(f"OK=1\n{line}\n")
    with pytest.raises(ConfigurationError, match=r"a\.env:2: expected NAME=value"):
        read_env(file)


def test_the_environment_of_a_command(project: Project) -> None:
    project.write("""
        import os

        def app(environ, start):
            start("200 OK", [("Content-Type", "text/plain")])
            return [os.environ.get("GREETING", "none").encode()]
    """)
    (project.path / "a.env").write_text("GREETING=hello\n")
    project.workload("# @status 200\nGET /\n")
    done = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "--command", GUNICORN, "--env-file", "a.env",
         "--workload", "workload.http", "--schedule", "another-pod"],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no response differed" in done.stdout
