"""`anypod demo` from the built wheel, in an empty directory, whatever the environment says of stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("proof")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    built = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    unpacked = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_the_demonstration(site: Path, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "anypod", "demo", "--json", "demo.json"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(site),
            "COLUMNS": "100",
            "REDIS_HOST": "redis.example.com",
            "DATABASE_URL": "postgresql://db.example.com/shop",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "proving fixed.py" in ended.stderr

    table, _, commands = ended.stdout.partition("Try next:\n")
    assert "DIFFERS" in table
    assert "STALE ≤ 5 MIN" in table
    assert "`replicas: 1`, pod moved" in table
    assert "8 of 8 rows as expected" in table
    shop = site / "anypod" / "demo"
    assert str(shop / "shop.http") in commands
    assert len(commands.splitlines()) == 3

    told = json.loads((tmp_path / "demo.json").read_text())
    assert told["as_expected"] is True
    assert [row["broken"]["verdict"] for row in told["rows"]] == ["same"] + ["differs"] * 7
    assert {row["fixed"]["verdict"] for row in told["rows"]} == {"same", "stale ≤ 5 min"}
    for divergence in told["verdicts"]["broken"]["several pods"]["divergences"]:
        if cause := divergence["cause"]:
            assert cause["file"] == str(shop / "broken.py")

    # The commands that it suggests work from the same place.
    check = subprocess.run(
        [sys.executable, "-m", "anypod", "check", str(shop / "broken.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 1
    for rule in ("POD101", "POD102", "POD103", "POD107"):
        assert rule in check.stdout


def test_help_and_bad_arguments() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anypod", "demo", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run("--help").returncode == 0
    assert "exit codes" in run("--help").stdout
    assert run("--nonsense").returncode == 2


def test_an_interruption_ends_the_whole_of_it(tmp_path: Path) -> None:
    demonstration = subprocess.Popen(
        [sys.executable, "-m", "anypod", "demo"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demonstration.stderr is not None
    while "proving broken.py on three pods" not in demonstration.stderr.readline():
        assert demonstration.poll() is None
    demonstration.send_signal(signal.SIGINT)
    printed, said = demonstration.communicate(timeout=120)
    assert demonstration.returncode == 130, said
    assert said.splitlines()[-1] == "anypod: interrupted"
    assert printed == ""
    assert list(tmp_path.iterdir()) == []
