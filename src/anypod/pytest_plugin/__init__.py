"""The pytest plugin: a workload out of the tests that are there, and replicas for tests of one's own.

`pytest --anypod-record FILE` listens to the test clients of werkzeug, Starlette, httpx and Django and
writes what they send as a workload. The fixture `replicas` runs the service as replicas, with clients
that route as they are told. Nothing is loaded before one of the two is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from anypod.pytest_plugin.routed import Replicas
    from anypod.replicas import World

_MARK = (
    "replicas(app, *, count=2, command='', ready='', setup=(), shared=(), allow_hosts=(), env={}): "
    "what the fixture `replicas` runs"
)
_worlds = pytest.StashKey[dict[str, "World"]]()


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a mark says; the names are those of `anypod prove`'s options."""

    app: str = ""
    count: int = field(default=2, kw_only=True)
    command: str = field(default="", kw_only=True)
    ready: str = field(default="", kw_only=True)
    setup: Sequence[str] = field(default=(), kw_only=True)
    shared: Sequence[str] = field(default=(), kw_only=True)
    allow_hosts: Sequence[str] = field(default=(), kw_only=True)
    env: Mapping[str, str] = field(default_factory=dict, kw_only=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options and the settings."""
    group = parser.getgroup("anypod")
    group.addoption(
        "--anypod-record",
        metavar="FILE",
        type=Path,
        help="write the requests of the tests as a workload for `anypod prove`",
    )
    parser.addini("anypod_app", "what the fixture `replicas` runs: module:app", default="")
    parser.addini("anypod_root", "the folder that it is run from (default: rootdir)", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to listen, if a recording was asked for."""
    config.addinivalue_line("markers", _MARK)
    given: Path | None = config.getoption("--anypod-record")
    if given is None:
        return
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("--anypod-record listens in one process: add -n 0")
    # Where pytest was called, not beside the tests' own temporary folders.
    path = config.invocation_params.dir / given
    if path.is_dir() or path.suffix == ".har":
        raise pytest.UsageError(f"--anypod-record writes a .http file: {given} cannot be one")
    if find_spec("lxml") is None:
        raise pytest.UsageError("--anypod-record reads HTML: pip install 'anypod[prove]'")
    from anypod.pytest_plugin.listening import Listening

    config.pluginmanager.register(Listening(path), "anypod-record")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what runs."""
    for world in config.stash.get(_worlds, {}).values():
        world.close()


@pytest.fixture
def replicas(request: pytest.FixtureRequest) -> Iterator[Replicas]:
    """Replicas of the service, none of which has served anything.

    What runs is `anypod_app` of the configuration, or what the mark says:
    `@pytest.mark.replicas("shop:app", count=3)`.
    """
    from anypod.pytest_plugin.routed import Replicas
    from anypod.replicas import Application, World

    config = request.config
    mark = request.node.get_closest_marker("replicas")
    try:
        said = _Settings() if mark is None else _Settings(*mark.args, **mark.kwargs)
    except TypeError:
        raise pytest.UsageError(f"expected @pytest.mark.{_MARK}") from None
    app = said.app or str(config.getini("anypod_app"))
    if not app and not said.command:
        raise pytest.UsageError(
            "the fixture `replicas` does not know what to run: set anypod_app = module:app in the "
            'configuration, or mark the test with @pytest.mark.replicas("module:app")'
        )
    root = config.rootpath / str(config.getini("anypod_root"))
    worlds = config.stash.setdefault(_worlds, {})
    key = f"{app} {said}"
    if key not in worlds:
        application = Application(
            "" if said.command else app,
            root,
            {**os.environ, **said.env},
            command=said.command,
            ready=said.ready,
            setup=tuple(said.setup),
        )
        worlds[key] = World(
            application,
            slots=said.count,
            shared=tuple(map(Path, said.shared)),
            allow_hosts=tuple(said.allow_hosts),
        )
    worlds[key].reset()
    running = Replicas(worlds[key], said.count)
    yield running
    running.close()
