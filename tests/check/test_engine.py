"""The cache and the processes change the speed and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anypod.check import check_paths, check_sources
from anypod.check.pool import in_processes

APP = """\
from flask import Flask
from store import put{n} as put

app = Flask(__name__)


@app.get("/{n}")
def index{n}():
    return str(put({n}))
"""
STORE = "data = {}\n" + "".join(
    f"\n\ndef put{n}(k):\n    data[k] = {n}\n    return data\n" for n in range(40)
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "store.py").write_text(STORE)
    for n in range(40):
        (tmp_path / f"app{n}.py").write_text(APP.format(n=n))
    return tmp_path


def test_processes_find_the_same(project: Path) -> None:
    one = check_paths([project], processes=1)
    many = check_paths([project], processes=3)
    assert one == many
    (finding,) = one.findings
    assert len(finding.sites) == 40
    assert len(one.routes) == 40


def test_a_warm_cache_finds_the_same(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    cold = check_paths([project], cache=cache)
    assert check_paths([project], cache=cache) == cold
    (project / "store.py").write_text(STORE.replace("data[k] = 7\n", "pass\n"))
    assert len(check_paths([project], cache=cache).findings[0].sites) == 39


def test_a_damaged_cache_is_replaced(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    cold = check_paths([project], cache=cache)
    for damage in (b"", b"nonsense", (cache / "check").read_bytes()[:-20]):
        (cache / "check").write_bytes(damage)
        assert check_paths([project], cache=cache) == cold


def test_a_process_that_dies_costs_nothing_but_time() -> None:
    parent = os.getpid()

    def work(item: str) -> str:
        if os.getpid() != parent:
            os._exit(3)
        return item.upper()

    assert in_processes(work, ["a", "b", "c"], 2) == ["A", "B", "C"]


def test_every_function_behind_a_common_decorator_is_followed() -> None:
    handlers = "".join(
        f"\n\n@app.get('/{n}')\n@guarded\ndef h{n}():\n    seen{n}.append(1)\n    return str(seen{n})\n\n\nseen{n} = []\n"
        for n in range(40)
    )
    source = (
        "from flask import Flask\n\napp = Flask(__name__)\n\n\n"
        "def guarded(view):\n    def inner(*args, **kwargs):\n        return view(*args, **kwargs)\n\n    return inner\n"
    )
    result = check_sources({"app.py": source + handlers})
    assert len(result.findings) == 40
    assert len(result.routes) == 40


def test_what_an_inner_function_gives_an_outer_variable_is_read_where_it_is() -> None:
    source = (
        "from flask import Flask\n\napp = Flask(__name__)\n\n\n"
        "@app.get('/')\ndef index():\n    kept = None\n\n    def fill():\n        nonlocal kept\n"
        "        one = first()\n        two = second(one)\n        kept = [third(one, two), {'a': two}]\n\n"
        "    fill()\n    kept[0].append(1)\n    return str(kept)\n"
    )
    assert not check_sources({"app.py": source}).findings
