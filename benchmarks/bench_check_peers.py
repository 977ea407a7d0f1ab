"""`anypod check` beside semgrep with one rule, and pylint with its rules on `global`, on the same files.

The peers are installed when they are first needed, into a virtual environment of their own that is kept in the
directory for temporary files. What cannot be installed is said in the table. They really run once, and pylint on the
100k lines, since 300k take it more than four minutes; our cost of a line is the same on both.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench_check import SIZES, check, cpu, trees
from benchmarks.harness import Absent, Contest, Faster

HOME = (
    Path(tempfile.gettempdir()) / f"anypod-bench-peers-{sys.version_info[0]}.{sys.version_info[1]}"
)
GLOBALS = (
    "global-variable-undefined,global-variable-not-assigned,global-statement,global-at-module-level"
)


def installed(name: str) -> tuple[Path | None, str]:
    """The command of a peer, or why it is not to be had."""
    command = HOME / "bin" / name
    if not (HOME / "bin" / "python").exists():
        venv.create(HOME, with_pip=True)
    if not command.exists():
        pip = [str(HOME / "bin" / "python"), "-m", "pip", "install", "-q", name]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode or not command.exists():
            last = (done.stderr.strip().splitlines() or ["no such command"])[-1]
            return None, f"not installed: {last[:80]}"
    return command, ""


def contests() -> Iterator[Contest | Absent]:
    with trees() as made:
        rule = made[SIZES[-1]][0].parent / "rule.yml"
        rule.write_text(
            "rules: [{id: g, languages: [python], severity: ERROR, message: m, pattern: 'global $X'}]\n"
        )
        semgrep = [
            "scan",
            "--metrics=off",
            "--disable-version-check",
            "--no-git-ignore",
            "--config",
            str(rule),
        ]
        pylint = ["-j1", "--disable=all", f"--enable={GLOBALS}", "--recursive=y"]
        for name, arguments, size, bar in (
            ("semgrep", semgrep, SIZES[2], Faster(2)),
            ("pylint", pylint, SIZES[1], Faster(25)),
        ):
            tree, _ = made[size]
            # Else semgrep leaves out what it takes for tests.
            (tree / ".semgrepignore").write_text("")
            what = f"{size // 1000}k lines, cold"
            command, why = installed(name)
            if command is None:
                yield Absent(what, name, why)
            else:
                peer = cpu([str(command), *arguments, str(tree)], runs=1)
                yield Contest(what, cpu(check(tree, "--no-cache")), {name: peer}, {name: bar})
