"""A service that runs once on a machine is found out, not a proof that could not run."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project
from tests.prove.schema import problems
from tests.servers import free_port

from anypod.prove.acceptance import Accepted
from anypod.prove.engine import Options, prove
from anypod.prove.events import Outcome, Verdict
from anypod.prove.schedules import Kind
from anypod.prove.workload import parse
from anypod.replicas import Application
from anypod.report import jsonfile
from anypod.report.console import told_divergence
from anypod.report.proof_ci import github, junit
from anypod.report.proof_html import html
from anypod.report.proof_sarif import document

SCHEMA = Path(__file__).parents[2] / "docs" / "prove.schema.json"
QUICK = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD}))
WORKLOAD = "GET /a\n\n###\nGET /a\n"
ANSWER = """
    def app(environ, start):
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"a"]
"""
LOCKED = """
    import fcntl

    held = open({file!r}, "a")
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
WHEN_IT_SERVES = """
    import os
    from contextlib import asynccontextmanager
    from pathlib import Path

    from fastapi import FastAPI

    PID = Path({file!r})

    def alive():
        if not PID.exists():
            return False
        try:
            os.kill(int(PID.read_text() or 0), 0)
        except ProcessLookupError:
            return False
        return True

    @asynccontextmanager
    async def lifespan(app):
        if alive():
            raise RuntimeError(f"another instance runs, says {{PID}}")
        PID.write_text(str(os.getpid()))
        yield
        PID.unlink()

    app = FastAPI(lifespan=lifespan)

    @app.get("/a")
    def a():
        return "a"
"""
ON_A_PORT = """
    import socket

    metrics = socket.socket()
    metrics.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    metrics.bind(("127.0.0.1", {port}))
    metrics.listen()
"""


LEFT_BEHIND = """
    import os
    from pathlib import Path

    PID = Path({file!r})
    if PID.exists():
        raise SystemExit(f"{{PID}} is there: already running")
    PID.write_text(str(os.getpid()))
"""
WAITING = LOCKED.replace(" | fcntl.LOCK_NB", "")


def run(project: Project, options: Options = QUICK, **around: object) -> Verdict:
    path = project.workload(WORKLOAD)
    target = "" if around else "service:app"
    application = Application(target, project.path, project.env(), **around)  # type: ignore[arg-type]
    return prove(application, parse(path.read_text(), path), options)


def line_of(project: Project, text: str) -> int:
    lines = (project.path / "service.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_a_lock_taken_by_an_import(project: Project, tmp_path: Path) -> None:
    file = str(tmp_path / "service.lock")
    project.write(textwrap.dedent(LOCKED.format(file=file)) + textwrap.dedent(ANSWER))
    verdict = run(project)
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    assert verdict.exit_code == 1
    (found,) = verdict.divergences
    assert (found.schedule, found.confirmed) == (Kind.SECOND, 3)
    assert found.got.startswith("BlockingIOError")
    assert verdict.starts >= 5
    assert found.cause is not None
    assert (found.cause.kind, found.cause.name) == ("file", file)
    assert found.cause.written_in == str(project.path / "service.py")
    assert found.cause.written_at == line_of(project, "fcntl.flock(held")
    told_everywhere(verdict, file)
    accepted = (Accepted(found.route, "second replica", file, "", "one node only"),)
    again = run(project, replace(QUICK, accepted=accepted))
    # It is known, but nothing was compared.
    assert (again.outcome, again.exit_code) == (Outcome.ACCEPTED, 2)


def told_everywhere(
    verdict: Verdict, file: str, why: str = "the first replica holds the file"
) -> None:
    """The finding is in every report, each in its own form."""
    (found,) = verdict.divergences
    for text in (
        told_divergence(found).plain,
        html(verdict),
        junit(verdict),
        github(verdict),
        json.dumps(document(verdict)),
    ):
        assert why[1:] in text  # at the beginning of a sentence in some
        assert file in text
    assert found.hint in told_divergence(found).plain.replace("\n", " ")
    assert "state.lock" in html(verdict)
    schema = json.loads(SCHEMA.read_text())
    assert problems(json.loads(jsonfile.text(verdict)), schema, schema) == []
    (result,) = document(verdict)["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("service.py")
    assert place["region"]["startLine"] == found.cause.written_at  # type: ignore[union-attr]
    assert 'failures="1"' in junit(verdict)


def test_a_process_id_written_when_it_begins_to_serve(project: Project, tmp_path: Path) -> None:
    file = str(tmp_path / "service.pid")
    project.write(WHEN_IT_SERVES.format(file=file))
    (found,) = run(project).divergences
    assert found.schedule is Kind.SECOND
    assert found.cause is not None
    assert found.cause.name == file
    assert found.cause.written_at == line_of(project, "raise RuntimeError")


def test_a_port_that_one_process_can_have(project: Project) -> None:
    port = free_port()
    project.write(textwrap.dedent(ON_A_PORT.format(port=port)) + textwrap.dedent(ANSWER))
    serving = f"{sys.executable} -m waitress --listen=127.0.0.1:$PORT service:app"
    (found,) = run(project, command=serving).divergences
    assert found.schedule is Kind.SECOND
    assert "Address already in use" in found.got
    assert found.cause is not None
    assert found.cause.kind == "start"
    assert found.cause.written_at == line_of(project, "metrics.bind")


def test_a_service_that_never_starts_is_no_finding(project: Project) -> None:
    project.write("raise RuntimeError('no')")
    verdict = run(project)
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert "RuntimeError: no" in verdict.reason


def test_it_cannot_be_played_again(project: Project, tmp_path: Path) -> None:
    project.write(
        textwrap.dedent(LOCKED.format(file=str(tmp_path / "lock"))) + textwrap.dedent(ANSWER)
    )
    (project.path / "saved.json").write_text(jsonfile.text(run(project)))
    done = subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", "--replay", "saved.json"],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no differences to play again" in done.stderr


def test_a_file_that_outlives_a_killed_process(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "service.pid"
    source = LEFT_BEHIND.format(file=str(file))
    project.write(textwrap.dedent(source) + textwrap.dedent(ANSWER))
    verdict = run(project)
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    assert verdict.exit_code == 1
    (found,) = verdict.divergences
    assert (found.schedule, found.confirmed) == (Kind.RESTART, 3)
    assert found.got.endswith("already running")
    assert found.cause is not None
    assert (found.cause.kind, found.cause.name) == ("file", str(file))
    assert found.cause.written_at == line_of(project, "raise SystemExit")
    told_everywhere(verdict, str(file), "a killed replica left the file")
    assert list(tmp_path.glob("service.pid*")) == []
    assert [w for w in verdict.warnings if "removed" in w and str(file) in w] != []
    assert Accepted("the start", "start after a kill", str(file), "", "a").matches(found)


def test_a_process_id_that_outlives_a_killed_command(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "service.pid"
    source = LEFT_BEHIND.format(file=str(file))
    project.write(textwrap.dedent(source) + textwrap.dedent(ANSWER))
    serving = f"{sys.executable} -m waitress --listen=127.0.0.1:$PORT service:app"
    (found,) = run(project, command=serving).divergences
    assert found.schedule is Kind.RESTART
    assert found.cause is not None
    assert found.cause.name == str(file)
    assert not file.exists()


def test_a_file_that_was_there_before_is_nobodys_finding(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "service.pid"
    file.write_text("1")
    source = LEFT_BEHIND.format(file=str(file))
    project.write(textwrap.dedent(source) + textwrap.dedent(ANSWER))
    verdict = run(project)
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert f"{file} is there" in verdict.reason
    assert file.read_text() == "1"


@pytest.mark.parametrize("serving", ["", f"{sys.executable} -m waitress --port=$PORT service:app"])
def test_a_lock_that_is_waited_for(project: Project, tmp_path: Path, serving: str) -> None:
    file = str(tmp_path / "service.lock")
    project.write(textwrap.dedent(WAITING.format(file=file)) + textwrap.dedent(ANSWER))
    around = {"command": serving} if serving else {}
    verdict = run(project, replace(QUICK, start_timeout=15.0), **around)
    assert verdict.outcome is Outcome.DIFFERENT, verdict.reason
    (found,) = verdict.divergences
    assert (found.schedule, found.confirmed) == (Kind.SECOND, 3)
    assert found.got == f"waits for the lock of {file}"
    assert found.cause is not None
    assert (found.cause.kind, found.cause.name) == ("file", file)
    if not serving:
        assert found.cause.written_at == line_of(project, "fcntl.flock(held")
        told_everywhere(verdict, file)
