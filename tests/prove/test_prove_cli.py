"""`anypod prove` at the terminal: exit codes, what is said of bad input, and that nothing stays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.prove.conftest import Project
from tests.prove.small import WRITES_OUTSIDE

from anypod.prove.fleet import cores

ONCE = "GET /\n"
APP = """
    visits = []

    def app(environ, start):
        if environ["REQUEST_METHOD"] == "POST":
            visits.append(1)
        start("200 OK", [("Content-Type", "text/plain")])
        return [str(len(visits)).encode()]
"""
REACHING = """
    import socket

    def app(environ, start):
        start("200 OK", [])
        try:
            socket.create_connection(("192.0.2.1", 80))
        except OSError:
            pass
        return [b""]
"""
PAIR = "POST /visits\n\n###\nGET /visits\n"


def command(project: Project, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "anypod", "prove", *arguments]


def run(
    project: Project, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(project, *arguments),
        cwd=project.path,
        env=project.env({"NO_COLOR": "1", "COLUMNS": "80", **(env or {})}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_difference_is_told_in_eighty_columns(project: Project) -> None:
    project.write(APP)
    project.workload(PAIR)
    reports = ["--json", "out.json", "--sarif", "o.sarif", "--junit", "o.xml", "--html", "o.html"]
    done = run(project, "service:app", "--workload", "workload.http", *reports, "--github")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    told = re.sub(r" +", " ", done.stdout)
    assert "DIFFERS GET /visits another pod, pod moved" in told
    assert "1 POST /visits → pod 1 200" in told
    assert "2 GET /visits → pod 2 200" in told
    assert (
        "the module global visits (service.py:2, written at service.py:6), pod 2 never saw it"
        in told
    )
    assert "verified: copying this state mends the answer, copying other state does not" in told
    assert "2 requests, " in told
    assert "Not tried: " in told
    assert json.loads((project.path / "out.json").read_text())["exit_code"] == 1
    assert json.loads((project.path / "o.sarif").read_text())["runs"][0]["results"]
    assert "<failure " in (project.path / "o.xml").read_text()
    assert "<svg " in (project.path / "o.html").read_text()
    assert "\n::error file=service.py,line=6," in done.stdout


def test_what_was_found_can_be_accepted_with_a_reason(project: Project) -> None:
    project.write(APP)
    project.workload(PAIR)
    call = ("service:app", "--workload", "workload.http", "--schedule", "another-pod")
    file = project.path / "accepted.json"
    written = run(project, *call, "--write-baseline", "accepted.json")
    assert written.returncode == 1
    assert written.stderr == "accepted.json: 1 difference; reasons to write: 1\n"
    refused = run(project, *call, "--baseline", "accepted.json")
    assert refused.returncode == 2
    assert "has no reason" in refused.stderr
    file.write_text(file.read_text().replace("TODO: say", "It will go:"))
    accepted = run(project, *call, "--baseline", "accepted.json")
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert "ACCEPTED  GET /visits" in accepted.stdout
    assert "accepted: It will go:" in accepted.stdout


def test_quiet_says_only_the_differences_and_the_claim(project: Project) -> None:
    project.write(APP)
    project.workload("GET /visits\n\n###\nGET /visits\n")
    done = run(project, "service:app", "--workload", "workload.http", "--quiet", "--replicas", "1")
    assert done.returncode == 0
    assert "plan:" not in done.stdout
    assert "no response differed from one replica" in done.stdout


@pytest.mark.parametrize(
    ("application", "arguments", "said"),
    [
        ("import missing_module_of_mine", (), "No module named 'missing_module_of_mine'"),
        ("app = 3", (), "app is of type int, which cannot be called"),
        ("import sys; sys.exit(4)", (), "sys.exit(4)"),
        ("def app(e, s): s('500 X', []); return [b'']", (), "every request"),
        ("import os\ndef app(e, s): os._exit(3)", (), "closed the connection"),
        (
            "import threading\ndef app(e, s): threading.Event().wait()",
            ("--timeout", "500ms"),
            "no answer within 0.5 s",
        ),
        (
            REACHING,
            (),
            "--allow-host 192.0.2.1",
        ),
    ],
)
def test_an_application_that_cannot_be_judged(
    project: Project, application: str, arguments: tuple[str, ...], said: str
) -> None:
    project.write(application)
    project.workload(ONCE)
    done = run(
        project, "service:app", "--workload", "workload.http", *arguments, "--json", "o.json"
    )
    assert done.returncode == 2, done.stdout
    assert "COULD NOT RUN" in done.stdout
    assert said in " ".join(done.stdout.split())
    assert "anypod/" not in done.stdout, "a traceback of ours"
    assert done.stderr == ""
    written = json.loads((project.path / "o.json").read_text())
    assert (written["verdict"], written["exit_code"]) == ("could not run", 2)


def test_an_import_error_shows_the_users_own_traceback(project: Project) -> None:
    project.write("from other import thing\n")
    project.write("def broken():\n    return 1 / 0\n\nthing = broken()\n", name="other.py")
    project.workload(ONCE)
    done = run(project, "service:app", "--workload", "workload.http")
    assert done.returncode == 2
    frames = re.findall(r'File "(.*?)", line (\d+)', done.stdout)
    assert [(Path(file).name, int(line)) for file, line in frames] == [
        ("service.py", 1),
        ("other.py", 4),
        ("other.py", 2),
    ]
    assert all(Path(file).parent == project.path for file, _ in frames)
    assert "ZeroDivisionError" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("service:app", "--workload", "none.http"), "none.http"),
        (("service:app", "--workload", "bad.http"), "bad.http:2: "),
        (("service:app",), "Click them together with `anypod prove service:app --record`"),
        ((), "anypod prove APP --record"),
        (("service:app", "--workload", "w.http", "--replicas", "0"), "from 1 to 16"),
        (("service:app", "--workload", "w.http", "--budget", "soon"), "is not a duration"),
        (("service:app", "--workload", "w.http", "--schedule", "chaos"), "there are another-pod"),
    ],
)
def test_arguments_that_cannot_be_understood(
    project: Project, arguments: tuple[str, ...], said: str
) -> None:
    project.write(APP)
    (project.path / "w.http").write_text(ONCE)
    (project.path / "bad.http").write_text("GET /\n> {% script %}\n")
    done = run(project, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_environment_that_names_another_machine_is_refused(project: Project) -> None:
    project.write(APP)
    project.workload(ONCE)
    url = "postgresql://shop:hunter2@db.example.com/shop"
    done = run(project, "service:app", "--workload", "workload.http", env={"DATABASE_URL": url})
    assert done.returncode == 2
    assert "DATABASE_URL names db.example.com" in done.stdout
    assert "hunter2" not in done.stdout


def test_a_write_outside_is_told(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    project.write(WRITES_OUTSIDE.format(path=str(outside)))
    project.workload(ONCE)
    done = run(project, "service:app", "--workload", "workload.http")
    assert done.returncode == 0
    assert f"not isolated: {outside}" in done.stdout.replace("\n", "")
    assert f"Not tried: pods that do not share {outside};" in done.stdout


def test_runs_that_do_not_start_alike_are_an_incomplete_reset(
    project: Project, tmp_path: Path
) -> None:
    outside = tmp_path / "outlives.txt"
    project.write(
        f"""
        import json, pathlib

        def app(environ, start):
            kept = pathlib.Path({str(outside)!r})
            lines = kept.read_text().split() if kept.exists() else []
            kept.write_text(" ".join([*lines, "x"]))
            start("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(lines).encode()]
        """
    )
    project.workload(ONCE)
    done = run(project, "service:app", "--workload", "workload.http")
    assert done.returncode == 2
    said = " ".join(done.stdout.split())
    assert "reset incomplete: workload.http:1: GET /" in said
    assert "the answer tells of the process and the moment" in said


# --- the end of the tool

LONG = "\n###\n".join(["POST /visits\n\nx\n\n###\nGET /visits\n"] * 20)
on_linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


def left(mark: str) -> list[int]:
    """Processes whose environment carries a mark."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in environ:
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Poll a condition, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


def started(project: Project, mark: str, wanted: str) -> subprocess.Popen[str]:
    """The tool, once it has printed a word."""
    project.workload(LONG)
    tool = subprocess.Popen(
        command(project, "service:app", "--workload", "workload.http", "--json", "out.json"),
        cwd=project.path,
        env=project.env({"ANYPOD_TEST_MARK": mark}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tool.stdout is not None
    for line in tool.stdout:
        if wanted in line:
            return tool
    raise AssertionError(f"{wanted!r} was never printed: {tool.communicate()}")


@on_linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_reports_what_it_has_and_leaves_nothing(
    project: Project, number: signal.Signals
) -> None:
    # Each answer takes its time, so that the signal comes long before the last one.
    project.write(
        APP.replace(
            "def app(environ, start):", "def app(environ, start):\n        time.sleep(0.02)"
        ).replace("visits = []", "import time\n    visits = []")
    )
    mark = uuid.uuid4().hex
    tool = started(project, mark, "plan:")
    assert len(left(mark)) > 1
    tool.send_signal(number)
    out, err = tool.communicate(timeout=30)
    assert "Traceback" not in err
    assert "PARTIAL" in out
    assert "what was left when it was interrupted" in " ".join(out.split())
    assert tool.returncode in {1, 2}
    assert json.loads((project.path / "out.json").read_text())["partial"] is True
    assert until(lambda: not left(mark)), left(mark)


@on_linux
def test_interrupted_while_the_application_starts_it_leaves_nothing(
    project: Project, tmp_path: Path
) -> None:
    imports = tmp_path / "imports"
    project.write(
        f"""
        import threading
        with open({str(imports)!r}, "a") as imports:
            imports.write("x")
        threading.Event().wait()
        """
    )
    mark = uuid.uuid4().hex
    tool = started(project, mark, "service:app")
    worlds = min(cores(), 4)
    assert until(lambda: imports.exists() and len(imports.read_text()) == worlds, 30.0)
    tool.send_signal(signal.SIGINT)
    out, err = tool.communicate(timeout=60)
    assert tool.returncode == 2
    assert "interrupted before" in out
    assert "Traceback" not in err
    assert until(lambda: not left(mark)), left(mark)


@on_linux
def test_killed_it_leaves_no_process(project: Project) -> None:
    project.write(APP)
    mark = uuid.uuid4().hex
    tool = started(project, mark, "plan:")
    assert len(left(mark)) > 1
    tool.kill()
    tool.communicate(timeout=30)
    assert until(lambda: not left(mark)), left(mark)


def test_a_saved_difference_is_played_again(project: Project) -> None:
    project.write(APP)
    project.workload(PAIR)
    call = ("service:app", "--workload", "workload.http", "--schedule", "another-pod")
    assert run(project, *call, "--json", "out.json", "--quiet").returncode == 1
    done = run(project, "service:app", "--replay", "out.json#1", "--json", "again.json")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 saved difference played again: 1 came back." in done.stdout
    first, second = (
        json.loads((project.path / name).read_text())["divergences"]
        for name in ("out.json", "again.json")
    )
    assert second == first
    project.write(APP.replace("visits.append(1)", "pass"))
    assert run(project, "service:app", "--replay", "again.json").returncode == 0
    refused = run(project, "service:app", "--replay", "missing.json")
    assert (refused.returncode, "missing.json: No such file" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("place", "reason"),
    [("none/out.json", "there is no folder none"), (".", "it is a folder")],
)
def test_a_report_that_could_not_be_written_is_told_before_the_proof(
    project: Project, place: str, reason: str
) -> None:
    project.write(APP)
    project.workload(PAIR)
    for option in ("--json", "--write-baseline"):
        done = run(project, "service:app", "--workload", "workload.http", option, place)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"anypod prove: {option} {place} cannot be written: {reason}\n"


def test_a_report_to_a_pipe_or_a_link_leaves_it_what_it_is(project: Project) -> None:
    pipe, link, full = (project.path / name for name in ("pipe", "link", "full"))
    os.mkfifo(pipe)
    link.symlink_to("behind.sarif")
    full.symlink_to("/dev/full")
    project.write(APP)
    project.workload(PAIR)
    outputs = ("--json", "pipe", "--sarif", "link", "--html", "full")
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    done = run(
        project, "service:app", "--workload", "workload.http", "--schedule", "another-pod", *outputs
    )
    assert json.loads(reader.communicate(timeout=60)[0])["verdict"] == "different"
    assert json.loads((project.path / "behind.sarif").read_text())["version"] == "2.1.0"
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert full.is_symlink()
    # What was found is told, and so is what could not be.
    assert done.returncode == 2
    assert "DIFFERS" in done.stdout
    assert "cannot write full: No space left on device" in done.stderr


def told_to(project: Project, output: int) -> tuple[int, str, str]:
    """Exit code, what was said of errors and the verdict of a proof that writes to a descriptor."""
    project.write(APP)
    project.workload(PAIR)
    options = ("--workload", "workload.http", "--schedule", "another-pod", "--json", "out.json")
    done = subprocess.run(
        command(project, "service:app", *options), cwd=project.path, env=project.env(), stdout=output,
        stderr=subprocess.PIPE, text=True, timeout=120, check=False,
    )  # fmt: skip
    os.close(output)
    verdict = json.loads((project.path / "out.json").read_text())["verdict"]
    return done.returncode, done.stderr, verdict


def test_a_reader_that_has_gone_loses_no_report(project: Project) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert told_to(project, writing) == (1, "", "different")


def test_a_full_disk_is_told_and_loses_no_report(project: Project) -> None:
    code, said, verdict = told_to(project, os.open("/dev/full", os.O_WRONLY))
    assert (code, verdict) == (2, "different")
    assert said == "anypod prove: cannot write what was found: No space left on device\n"
