"""`anypod check` beside Python's own parser, ruff, and pylint and semgrep where they are installed.

The files are installed packages, copied into a directory of their own in sizes of about 30k, 100k and 300k lines.
Every side is a process of its own and its figure is CPU time, ours with all of its children. A run takes seconds, so
each side really runs three times, however often it has its turn.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
import site
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.harness import Contest, Faster, Side, Skipped, Within

SIZES = (30_000, 100_000, 300_000)
REAL_RUNS = 3
PARSE = """
import ast, sys, pathlib, warnings
warnings.simplefilter("ignore")
for path in pathlib.Path(sys.argv[1]).rglob("*.py"):
    ast.parse(path.read_bytes())
"""


def packages() -> Iterator[tuple[Path, int]]:
    """Installed packages with their lines, in an order that does not change."""
    for root in site.getsitepackages():
        for package in sorted(Path(root).iterdir()):
            if (package / "__init__.py").is_file() and package.name != "anypod":
                lines = 0
                for path in package.rglob("*.py"):
                    lines += path.read_bytes().count(b"\n")
                yield package, lines


def copy(target: Path, size: int) -> int:
    """Copy packages into `target` until there are `size` lines; returns how many there are."""
    total = 0
    for package, lines in packages():
        if total >= size:
            break
        if lines > size:
            continue
        shutil.copytree(
            package,
            target / package.name,
            ignore=lambda _, names: [n for n in names if n.endswith(".so")],
        )
        total += lines
    return total


def cpu(command: list[str], prepare: Callable[[], object] = lambda: None) -> Side:
    """CPU seconds of a command and its children; really run `REAL_RUNS` times."""
    taken: list[float] = []
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": tempfile.gettempdir() + "/anypod-bench-pyc"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def side(n: int) -> float:
        if len(taken) < REAL_RUNS:
            prepare()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                env=environment,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return max(statistics.median(taken), 1e-4) * n

    return side


def check(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "anypod", "check", *map(str, arguments)]


def touch(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def contests() -> Iterator[Contest]:
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    with tempfile.TemporaryDirectory() as folder:
        trees = {}
        for size in SIZES:
            trees[size] = Path(folder) / str(size)
            trees[size].mkdir()
            lines = copy(trees[size], size)
            if lines < size * 0.8:
                raise Skipped(
                    f"only {lines:,} lines of packages are installed, {size:,} are needed"
                )
        for size in SIZES:
            tree = trees[size]
            parse = [sys.executable, "-c", PARSE, str(tree)]
            yield Contest(
                f"{size // 1000}k lines, cold",
                cpu(check(tree, "--no-cache")),
                {"ast.parse": cpu(parse)},
                {"ast.parse": Within(2.5)},
            )
        tree = trees[SIZES[-1]]
        (tree / "pyproject.toml").write_text("[project]\nname = 'bench'\n")
        changed = next(tree.rglob("*.py"))
        cpu(check(tree))(1)
        yield Contest(
            "300k lines, one file changed",
            cpu(check(tree), functools.partial(touch, changed)),
            {
                "ruff cold, one rule": cpu(
                    [ruff, "check", "--isolated", "--no-cache", "--select", "PLW0603", str(tree)]
                )
            },
            {"ruff cold, one rule": Within(5)},
        )
        one = Path(folder) / "one.py"
        one.write_text(
            "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get('/')\ndef index():\n    return 'ok'\n"
        )
        yield Contest(
            "one small file",
            cpu(check(one, "--no-cache")),
            {"python -c pass": cpu([sys.executable, "-c", "pass"])},
            {"python -c pass": Within(4)},
        )
        yield from _peers(trees[SIZES[0]])


def _peers(tree: Path) -> Iterator[Contest]:
    peers = {}
    bars: dict[str, Faster | Within] = {}
    if shutil.which("pylint"):
        peers["pylint"] = cpu(["pylint", "--disable=all", "--enable=global-statement", str(tree)])
        bars["pylint"] = Faster(25)
    if shutil.which("semgrep"):
        rule = tree.parent / "rule.yml"
        rule.write_text(
            "rules: [{id: g, languages: [python], severity: ERROR, message: m, pattern: 'global $X'}]\n"
        )
        peers["semgrep"] = cpu(["semgrep", "--metrics=off", "--config", str(rule), str(tree)])
        bars["semgrep"] = Faster(2)
    if peers:
        yield Contest("30k lines, cold", cpu(check(tree, "--no-cache")), peers, bars)
