"""Public types are exact: mypy agrees with every `assert_type` beside this file."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.parametrize("file", sorted(HERE.glob("*_types.py")), ids=lambda path: path.stem)
def test_what_type_checkers_see(file: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "--config-file",
         str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path), str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
