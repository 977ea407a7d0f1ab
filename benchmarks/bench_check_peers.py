"""`anypod check` beside pylint with its rules on `global`, and semgrep with one rule, on the same 300k lines.

The peers are installed when they are first needed, into a virtual environment of their own that is kept in the
directory for temporary files. What cannot be installed is said in the table. pylint takes minutes, so the peers
really run once.
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
WHAT = "300k lines, cold"
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
        tree, _ = made[SIZES[-1]]
        rule = tree.parent / "rule.yml"
        rule.write_text(
            "rules: [{id: g, languages: [python], severity: ERROR, message: m, pattern: 'global $X'}]\n"
        )
        (tree / ".semgrepignore").write_text("")
        commands = {
            "semgrep": [
                "scan", "--metrics=off", "--disable-version-check", "--no-git-ignore", "--config", str(rule), str(tree),
            ],
            "pylint": ["-j1", "--disable=all", f"--enable={GLOBALS}", "--recursive=y", str(tree)],
        }  # fmt: skip
        bars = {"semgrep": Faster(2), "pylint": Faster(25)}
        ours = cpu(check(tree, "--no-cache"))
        for name, arguments in commands.items():
            command, why = installed(name)
            if command is None:
                yield Absent(WHAT, name, why)
            else:
                peer = cpu([str(command), *arguments], runs=1)
                yield Contest(WHAT, ours, {name: peer}, {name: bars[name]})
