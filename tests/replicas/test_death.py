"""However the tool ends, nothing stays: no process, no directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from anypod.replicas import ReplicaError, StartFailed

BOUND = 20.0

TOOL = """
    import os, sys, threading
    from pathlib import Path
    from anypod.replicas import Application, World

    root, target = sys.argv[1:]
    world = World(Application(target, Path(root), dict(os.environ)), slots=2)
    if target.endswith("app"):
        for replica in (world.start(0), world.start(1)):
            print(replica.pid, flush=True)
        print(world._base, flush=True)
    else:
        print(world._base, flush=True)
        world.start(0)
    threading.Event().wait()
"""

SERVICE = """
    import subprocess, sys, os, threading
    {before}
    if {starts}:
        subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])

    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"1"]

    def hang():
        threading.Event().wait()
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, f"not within {BOUND} s: {what}"
        threading.Event().wait(0.02)


def running_below(folder: Path) -> list[psutil.Process]:
    """Processes whose working directory is below a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("how", ["forked", "imported each time", "with children", "hanging import"])
def test_nothing_survives_the_tool(tree, tmp_path, how, death):
    before = "kept = open('journal', 'w')" if how == "imported each time" else ""
    (tree / "service.py").write_text(
        textwrap.dedent(SERVICE).format(before=before, starts=how == "with children")
    )
    target = "service:hang()" if how == "hanging import" else "service:app"
    tool = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TOOL), str(tree), target],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        assert tool.stdout is not None
        lines = [tool.stdout.readline().strip() for _ in range(1 if how == "hanging import" else 3)]
        base = Path(lines[-1])
        assert base.is_dir()
        until(lambda: bool(running_below(base)), "the service runs")
        tool.send_signal(death)
        tool.wait()
        until(lambda: not running_below(base), "every process ended")
        until(lambda: not base.exists(), "the directory is gone")
    finally:
        tool.kill()
        tool.communicate()


def test_a_dead_parent_takes_its_replica_along(worlds, get):
    world = worlds()
    replica = world.start(0)
    parent = psutil.Process(replica.pid).parent()
    assert parent is not None
    child = psutil.Process(replica.pid)
    parent.send_signal(signal.SIGKILL)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "it ended")
    assert not replica.alive()
    assert get(world.start(0), "/visit") == 1


DAEMON = """
    import os, subprocess, sys
    from flask import Flask, jsonify
    app = Flask(__name__)
    WAIT = "import threading; threading.Event().wait()"

    @app.get("/child")
    def child():
        return jsonify(subprocess.Popen([sys.executable, "-c", WAIT]).pid)

    @app.get("/session")
    def session():
        return jsonify(subprocess.Popen([sys.executable, "-c", WAIT], start_new_session=True).pid)

    @app.get("/daemon")
    def daemon():
        again = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', %r], " % WAIT
        again += "start_new_session=True, stdout=subprocess.DEVNULL).pid)"
        return jsonify(int(subprocess.check_output([sys.executable, "-c", again])))
"""


@pytest.mark.parametrize("kind", ["child", "session", "daemon"])
@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_what_a_replica_started_goes_with_it(worlds, get, kind, end):
    replica = worlds(DAEMON, slots=1).start(0)
    started = psutil.Process(get(replica, f"/{kind}"))
    getattr(replica, end)()
    until(
        lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE,
        "what the replica started ended",
    )


def test_ctrl_c_in_the_terminal_does_not_reach_replicas(worlds):
    replica = worlds().start(0)
    assert os.getsid(replica.pid) != os.getsid(0)
    assert os.getpgid(replica.pid) != os.getpgid(0)


def test_closing_ends_a_start_that_another_thread_waits_for(worlds):
    world = worlds("import threading\nthreading.Event().wait()\n")
    raised: list[BaseException] = []

    def start() -> None:
        try:
            world.start(0)
        except ReplicaError as exc:
            raised.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    until(lambda: bool(running_below(world._base)), "the import runs")
    world.close()
    thread.join(BOUND)
    assert not thread.is_alive()
    assert isinstance(raised[0], StartFailed)
    assert not world._base.exists()


def test_worlds_leave_no_directory(worlds):
    before = set(Path(tempfile.gettempdir()).glob("anypod-*"))
    world = worlds()
    world.start(0)
    world.close()
    assert world._base not in set(Path(tempfile.gettempdir()).glob("anypod-*")) - before
