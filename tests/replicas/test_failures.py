"""A service that does not start is told as its own author would want to read it."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from anypod.replicas import (
    Application,
    BadShare,
    BadTarget,
    Interrupted,
    MissingServer,
    StartFailed,
    TreeTooLarge,
    World,
)


def failure(world: World) -> StartFailed:
    with pytest.raises(StartFailed) as caught:
        world.start(0)
    return caught.value


@pytest.mark.parametrize("fork", [True, False])
def test_an_error_at_import_shows_the_users_frames_only(worlds, tree, fork):
    (tree / "inner.py").write_text("def broken():\n    return 1 / 0\n")
    error = failure(worlds("import inner\ninner.broken()\n"))
    assert "ZeroDivisionError" in error.reason
    lines = error.traceback.splitlines()
    files = [line.strip() for line in lines if line.strip().startswith("File ")]
    assert files == [
        f'File "{tree}/service.py", line 2, in <module>',
        f'File "{tree}/inner.py", line 2, in broken',
    ]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "anypod" not in error.traceback


def test_a_chained_error_keeps_its_cause(worlds):
    source = """
        try:
            {}["missing"]
        except KeyError as error:
            raise RuntimeError("no configuration") from error
    """
    error = failure(worlds(source))
    assert "KeyError: 'missing'" in error.traceback
    assert error.traceback.endswith("RuntimeError: no configuration\n")
    assert "importlib" not in error.traceback


def test_a_syntax_error_names_the_users_file(worlds, tree):
    error = failure(worlds("def app(:\n    pass\n"))
    assert f'File "{tree}/service.py", line 1' in error.traceback
    assert "SyntaxError" in error.traceback


def test_a_missing_module_of_the_service(worlds):
    error = failure(worlds("import no_such_driver\n"))
    assert "ModuleNotFoundError: No module named 'no_such_driver'" in error.traceback


def test_a_missing_module_is_named(worlds):
    with pytest.raises(
        BadTarget, match=r"no module 'nowhere'.*run from the folder that holds nowhere"
    ):
        worlds(target="nowhere:app").start(0)


def test_leaving_at_import(worlds):
    error = failure(worlds('import sys\nprint("no licence", flush=True)\nsys.exit("bye")\n'))
    assert "sys.exit('bye')" in error.reason
    assert "no licence" in error.log


def test_dying_at_import(worlds):
    error = failure(worlds("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"))
    assert "was killed by SIGKILL" in error.reason
    error = failure(worlds("import os\nos._exit(7)\n"))
    assert "left with exit status 7" in error.reason


def test_hanging_at_import_says_where(worlds, tree):
    source = "import threading\ndef wait():\n    threading.Event().wait()\nwait()\n"
    error = failure(worlds(source, start_timeout=4.0))
    assert "did not finish its import within 4 s" in error.reason
    assert f'File "{tree}/service.py", line 3, in wait' in error.traceback
    assert "anypod" not in error.traceback


def test_a_flood_of_output_does_not_block(worlds, get):
    source = """
        import sys
        for _ in range(20_000):
            print("x" * 100)
        def app(environ, start_response):
            print("y" * 2_000_000)
            start_response("200 OK", [])
            return [b"1"]
    """
    replica = worlds(source).start(0)
    assert get(replica, "/") == 1
    assert 0 < len(replica.log) < 1 << 18


def test_a_lifespan_that_fails(worlds, tree):
    source = """
        from contextlib import asynccontextmanager
        from fastapi import FastAPI

        @asynccontextmanager
        async def lifespan(app):
            raise ValueError("no database")
            yield

        app = FastAPI(lifespan=lifespan)
    """
    error = failure(worlds(source))
    assert "lifespan" in error.reason
    assert "ValueError: no database" in error.traceback
    assert f'File "{tree}/service.py", line 7, in lifespan' in error.traceback
    assert "uvicorn" not in error.traceback


@pytest.mark.parametrize(("server", "async_"), [("waitress", ""), ("uvicorn", "async ")])
def test_a_server_that_is_not_installed_is_named(worlds, server, async_):
    source = (
        f"import sys\nsys.modules[{server!r}] = None\n{async_}def app(scope, receive, *send): ...\n"
    )
    with pytest.raises(MissingServer, match=rf"{server}.*anypod\[prove\]"):
        worlds(source).start(0)


def test_a_close_that_comes_before_the_process_ends_the_import_too(worlds, monkeypatch):
    """A hanging import whose process is made just after `close` looked for one does not hold it up."""
    world = worlds("import signal\nsignal.pause()\n", start_timeout=120.0)
    popen = subprocess.Popen
    closer = threading.Thread(target=world.close)

    def late(*arguments, **options):
        closer.start()
        while not world._pods[-1]._aborted:
            closer.join(0.001)
        return popen(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", late)
    failure(world)
    closer.join(30)
    assert not closer.is_alive()


def test_after_a_failed_start_the_world_closes_in_order(worlds):
    world = worlds("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    failure(world)
    base = world._base
    world.close()
    assert not base.exists()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("app = 3\n", "service:app", "of type int, which cannot be called: not a WSGI or ASGI"),
        (
            "application = 3\ndef create_app(): ...\n",
            "service:app",
            r"has no 'app'; it has create_app\(\)",
        ),
        ("def app(): ...\n", "service:app", r"Then write service:app\(\)"),
        ("class app:\n    def __init__(self, scope): ...\n", "service:app", "ASGI 2"),
        ("def app(scope): ...\n", "service:app", "ASGI 2"),
        ("def app(a, b, c, d): ...\n", "service:app", "neither WSGI"),
        ("app = 3\n", "service:app()", "cannot be called"),
    ],
)
def test_what_is_not_an_application(worlds, source, target, message):
    with pytest.raises(BadTarget, match=message):
        worlds(source, target).start(0)


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("service.py", "service:app"),
        ("src/service.py:application", "src.service:application"),
        ("service", "service:app"),
        ("service:", "module:app"),
        ("service:app(1)", "module:factory"),
        ("my-service:app", "module:app"),
    ],
)
def test_a_target_of_another_form_is_refused_before_anything_starts(tree, env, target, hint):
    with pytest.raises(BadTarget, match=hint.replace("(", r"\(")):
        World(Application(target, tree, env), slots=1)


def test_a_tree_that_is_too_large_names_its_heaviest_folder(tree, env):
    (tree / "small").mkdir()
    (tree / "media").mkdir()
    (tree / "small" / "a").write_bytes(b"x")
    (tree / "media" / "film").touch()
    os.truncate(tree / "media" / "film", 300 << 20)  # a hole: it takes no room
    (tree / "node_modules").mkdir()
    (tree / "node_modules" / "huge").touch()
    os.truncate(tree / "node_modules" / "huge", 400 << 20)
    with pytest.raises(TreeTooLarge, match=r"media/ \(300 MiB\)"):
        World(Application("service:app", tree, env), slots=1)


def test_a_copy_that_nobody_wants_any_more_leaves_nothing(tree, env, tmp_path, monkeypatch):
    place = tmp_path / "worlds"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 1

    (tree / "service.py").write_text("app = None\n")
    with pytest.raises(Interrupted):
        World(Application("service:app", tree, env), slots=2, stop=stop)
    assert not list(place.iterdir())


def test_a_share_outside_the_tree(tree, env):
    with pytest.raises(BadShare, match="not inside the project tree"):
        World(Application("service:app", tree, env), slots=1, shared=[tree.parent / "home"])
