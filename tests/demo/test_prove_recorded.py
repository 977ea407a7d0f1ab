"""The shop's own tests, recorded and proved: the verdicts of `shop.http`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.demo.test_prove_shop import BUGS, ELSEWHERE, accepted, blamed, prove

pytestmark = pytest.mark.xdist_group("proof")


@pytest.mark.parametrize("twin", ["broken", "fixed"])
def test_the_tests_of_the_shop_become_its_workload(twin: str, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("shop_tests.py"), tmp_path / "test_shop.py")
    inherited = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    stores = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "ANYPOD_URL": f"sqlite:///{tmp_path}/anypod.db",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "--anypod-record", "tests.http"],
        cwd=tmp_path,
        env={**inherited, **stores, "SHOP": twin, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "-secret" not in (tmp_path / "tests.http").read_text()
    # These three with two replicas show all that the others do: see the orders in test_prove_shop.py.
    options = ["--replicas", "2"]
    for schedule in ("another-pod", "stale-copy", "retry"):
        options += ["--schedule", schedule]
    code, verdict = prove(twin, tmp_path, *options, workload=tmp_path / "tests.http")
    assert not [told for told in verdict["warnings"] if "outside HTTP" in told]
    if twin == "broken":
        assert code == 1
        assert blamed(verdict) - {"POST /logout"} == BUGS
    else:
        assert (code, blamed(verdict)) == (0, set())
        assert accepted(verdict) == {("GET /rates/{id}", "rates", 300.0)}
