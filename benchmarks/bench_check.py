"""`anypod check` beside Python's own parser and ruff: cold, warm, one file, memory.

The files are installed packages, copied into a directory of their own in sizes of about 30k, 100k and 300k lines.
Every side is a process of its own and its figure is CPU time, ours with all of its children. A run takes seconds, so
each side really runs three times (a small one more often), however often it has its turn.
"""

from __future__ import annotations

import contextlib
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

from benchmarks.harness import Bound, Contest, Side, Skipped, Within

SIZES = (30_000, 100_000, 300_000)
REAL_RUNS = 3
SMALL_RUNS = 9
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


def used(command: list[str]) -> resource.struct_rusage:
    """What a command and the children that it waited for have used."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": tempfile.gettempdir() + "/anypod-bench-pyc"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def cpu(
    command: list[str], prepare: Callable[[], object] = lambda: None, runs: int = REAL_RUNS
) -> Side:
    """CPU seconds of a command and its children; really run `runs` times."""
    taken: list[float] = []

    def side(n: int) -> float:
        if len(taken) < runs:
            prepare()
            usage = used(command)
            taken.append(usage.ru_utime + usage.ru_stime)
        return max(statistics.median(taken), 1e-4) * n

    return side


def per_line(side: Side, lines: int) -> Side:
    """The same for one line."""
    return lambda n: side(n) / lines


def check(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "anypod", "check", *map(str, arguments)]


def touch(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@contextlib.contextmanager
def trees() -> Iterator[dict[int, tuple[Path, int]]]:
    """Directories of about so many lines, with how many there are.

    Raises:
        Skipped: not that much is installed.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for size in SIZES:
            tree = Path(folder) / str(size)
            tree.mkdir()
            lines = copy(tree, size)
            if lines < size:
                raise Skipped(
                    f"only {lines:,} lines of packages are installed, {size:,} are needed"
                )
            made[size] = tree, lines
        yield made


def contests() -> Iterator[Contest | Bound]:
    ruff = shutil.which("ruff") or str(Path(sys.executable).with_name("ruff"))
    with trees() as made:
        cold = {
            size: cpu(check(tree, "--no-cache"), runs=9 if size < 100_000 else REAL_RUNS)
            for size, (tree, _) in made.items()
        }
        for size, (tree, _) in made.items():
            parse = [sys.executable, "-c", PARSE, str(tree)]
            yield Contest(
                f"{size // 1000}k lines, cold",
                cold[size],
                {"ast.parse, one process": cpu(parse)},
                {"ast.parse, one process": Within(2.5)},
            )
        tree, lines = made[SIZES[-1]]
        yield Contest(
            "one line of 300k, cold",
            per_line(cold[SIZES[-1]], lines),
            {f"of {size // 1000}k": per_line(cold[size], made[size][1]) for size in SIZES[:-1]},
            {f"of {size // 1000}k": Within(1.25) for size in SIZES[:-1]},
        )
        # The peak of the largest of its processes; Linux tells it in KiB, macOS in bytes.
        peak = used(check(tree, "--no-cache")).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        yield Bound("bytes of memory for each of 300k lines", round(peak / lines), 1500)
        (tree / "pyproject.toml").write_text("[project]\nname = 'bench'\n")
        changed = next(tree.rglob("*.py"))
        used(check(tree))
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
        one = tree / "one.py"
        one.write_text(
            "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get('/')\ndef index():\n    return 'ok'\n"
        )
        yield Contest(
            "one small file",
            cpu(check(one, "--no-cache"), runs=SMALL_RUNS),
            {"python -c pass": cpu([sys.executable, "-c", "pass"], runs=SMALL_RUNS)},
            {"python -c pass": Within(4)},
        )
