from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from anypod import ConfigurationError, State, StoreError
from anypod import state as state_module
from anypod.errors import NoStore
from anypod.state import embedded_path, url_from_env
from anypod.stores import open_store, redact

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, None),
        ({"ANYPOD_URL": "memory://", "REDIS_URL": "redis://a"}, "memory://"),
        ({"REDIS_URL": "redis://a/1", "REDIS_HOST": "b"}, "redis://a/1"),
        ({"REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"REDIS_HOST": "cache", "REDIS_PORT": "7000"}, "redis://cache:7000/0"),
        ({"REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"REDIS_PORT": "tcp://10.0.0.1:6379"}, "redis://10.0.0.1:6379/0"),
        ({"REDIS_PORT": "tcp://[::1]:6379"}, "redis://[::1]:6379/0"),
        ({"REDIS_HOST": "cache", "REDIS_PORT": "tcp://10.0.0.1:6380"}, "redis://cache:6380/0"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379/0"),
        ({"ANYPOD_URL": " ", "REDIS_HOST": ""}, None),
    ],
)
def test_the_environment_names_the_store(environ: dict[str, str], url: str | None) -> None:
    assert url_from_env(environ) == url


@pytest.mark.parametrize("port", ["seven", "0", "70000", "tcp://host:x", "٣"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a port"):
        url_from_env({"REDIS_PORT": port})


def test_in_a_container_a_store_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoStore, match="seen by this replica alone"):
        State.from_env(environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOME": "/nowhere"})
    monkeypatch.setattr(state_module, "_CONTAINER_FILES", (__file__,))
    with pytest.raises(NoStore):
        State.from_env(environ={"HOME": "/nowhere"})


def test_elsewhere_one_file_per_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "_CONTAINER_FILES", ())
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    monkeypatch.chdir(tmp_path)
    first = embedded_path("/srv/shop/app.py", environ)
    monkeypatch.chdir("/")
    assert embedded_path("/srv/shop/worker.py", environ) == first
    assert embedded_path("/srv/other/app.py", environ) != first
    assert embedded_path("/elsewhere/shop/app.py", environ) != first
    with State.from_env(environ=environ, namespace="") as state:
        assert state.store.url.startswith(f"sqlite:///{tmp_path}/anypod/core-")


def test_the_namespace_is_read_at_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANYPOD_NAMESPACE", raising=False)
    with State("memory://") as state:
        monkeypatch.setenv("ANYPOD_NAMESPACE", "blue")
        assert state.store.prefix("counter", "hits") == "ap:blue:counter:hits:"
        monkeypatch.setenv("ANYPOD_NAMESPACE", "green")
        assert state.store.namespace == "blue"
    with pytest.raises(ConfigurationError, match="namespace"):
        State("memory://", namespace="a:b")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "names no store"),
        ("shop.db", "names no store"),
        ("sqlit:///x.db", "did you mean sqlite://"),
        ("reddis://host", "did you mean redis"),
        ("mongodb://u:secret@host/x", "known: "),
        ("redis://:secret@[::1", "cannot be read as a URL"),
        ("postgresql://u:secret@[::1/db", "cannot be read"),
    ],
)
def test_a_url_that_names_no_store(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        open_store(url)
    assert "secret" not in str(refusal.value)


def test_a_password_is_never_shown() -> None:
    url = "redis://user:se:cr@et@host:6379/0"
    assert redact(url) == "redis://user:***@host:6379/0"
    assert redact("redis://host?password=secret&db=1") == "redis://host?password=***&db=1"
    assert (
        redact("redis+sentinel://h?sentinel_password=s")
        == "redis+sentinel://h?sentinel_password=***"
    )
    assert redact("redis://:secret@host") == "redis://:***@host"
    assert redact("sqlite:////a/b@c:d.db") == "sqlite:////a/b@c:d.db"
    assert redact("redis://host/0?x=a:b@c") == "redis://host/0?x=a:b@c"


def test_a_driver_error_is_wrapped_once_and_names_no_key() -> None:
    with State("memory://", namespace="") as state:
        state.counter("hits").increment("user-7")
        address = state.counter("hits").address("user-7")
        from anypod.commands import Get

        with pytest.raises(StoreError, match="Get for counter:hits on memory://") as refusal:
            state.store.execute(Get(address))
        assert refusal.value.__cause__ is not None


def test_ping_and_repr() -> None:
    with State("memory://", namespace="x") as state:
        state.ping()
        assert repr(state) == "State('memory://')"


def test_an_absent_extra_is_named_with_its_install_command(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from anypod.stores import open_store\n"
        "open_store('redis://localhost').close()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ}, cwd=tmp_path,
    )  # fmt: skip
    assert "pip install 'anypod[redis]'" in ended.stderr
