"""`anypod demo`: checks and proves both shops and lays the result beside the practices.

Everything happens in a temporary directory with the embedded store; what the environment says of other
stores and databases is left aside, because a demonstration resets and kills.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from signal import SIGINT, SIGTERM
from types import FrameType
from typing import Final, TextIO

from anypod.check import check_paths
from anypod.cli.practices import Cell, Finding, Row, Seen, rows
from anypod.prove import events
from anypod.prove.engine import Options, prove
from anypod.prove.schedules import Kind
from anypod.prove.workload import Workload, load
from anypod.replicas import Application
from anypod.report import jsonfile

TWINS: Final = ("broken", "fixed")
ELSEWHERE: Final = frozenset(
    {"ANYPOD_URL", "ANYPOD_NAMESPACE", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT"}
)
# What happens to one pod that is moved is tried once, where only one is wanted.
BUDGET: Final = 180.0  # seconds for one proof, which takes about ten: a slow machine gets there too
SEVERAL_PODS: Final = Options(
    replicas=3,
    budget=BUDGET,
    schedules=frozenset({Kind.ANOTHER_POD, Kind.STALE_COPY, Kind.RETRY}),
)
ONE_POD: Final = Options(replicas=1, budget=BUDGET, schedules=frozenset({Kind.POD_MOVED}))
EPILOG: Final = """\
exit codes: 0 the broken shop was found broken in every practice and the fixed one clean,
1 some row is not as expected (it is named)"""


def main(argv: Sequence[str]) -> int:
    """Run `anypod demo` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="anypod demo",
        description="Checks and proves two small shops, one broken, one fixed, on this machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the rows there")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    began = time.monotonic()
    with as_file(files("anypod.demo")) as shop, tempfile.TemporaryDirectory() as folder:
        seen = _look(shop, Path(folder))
    table = rows(*seen)
    seconds = time.monotonic() - began
    print(draw(table, width=min(shutil.get_terminal_size((100, 24)).columns, 120)))
    print(f"\n{_conclusion(table, seen, seconds)}")
    print("\nTry next:\n" + "\n".join(f"  {command}" for command in next_commands(shop)))
    surprising = [row for row in table if not row.as_expected]
    for row in surprising:
        print(f"anypod demo: not as expected: {row.practice.name}", file=sys.stderr)
    if arguments.json is not None:
        try:
            arguments.json.write_text(document(table, seen, seconds), encoding="utf-8")
        except OSError as failed:
            reason = failed.strerror or failed
            print(f"anypod demo: cannot write {arguments.json}: {reason}", file=sys.stderr)
            return 1
    return 1 if surprising else 0


def _look(shop: Path, folder: Path) -> tuple[Seen, Seen]:
    """Check both shops, then prove both on three pods and on one."""
    workload = load(shop / "shop.http")
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    progress = Progress(sys.stderr)
    seen = []
    for twin in TWINS:
        progress.phase(f"checking {twin}.py")
        result = check_paths([shop / f"{twin}.py"])
        findings = tuple(
            Finding(one.rule, one.state.rpartition(".")[2], one.line)
            for one in result.findings
            if one.severity == "error"
        )
        progress.phase(f"proving {twin}.py on three pods")
        pods = _prove(twin, workload, folder, environment, SEVERAL_PODS, progress)
        progress.phase(f"proving {twin}.py on one pod that is moved")
        one_pod = _prove(twin, workload, folder, environment, ONE_POD, progress)
        seen.append(Seen(findings, pods, one_pod))
    progress.end()
    return seen[0], seen[1]


def _prove(
    twin: str,
    workload: Workload,
    folder: Path,
    environment: Mapping[str, str],
    options: Options,
    progress: Progress,
) -> events.Verdict:
    application = Application(f"anypod.demo.{twin}:app", folder, environment)
    with _interruptible() as interrupted:
        verdict = prove(application, workload, options, progress)
    if interrupted:
        progress.end()
        raise KeyboardInterrupt
    return verdict


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """The signals that asked for an end: a proof takes them for the end of that proof alone."""
    heard: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # a signal handler
        heard.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (SIGINT, SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """Says what is going on: one line that changes on a terminal, one line per phase elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._phase = ""

    def phase(self, text: str) -> None:
        """Begin a phase."""
        self._phase = text
        self._show(f"{text} …", whole=True)

    def __call__(self, event: events.Event) -> None:
        """Hear how far a proof is."""
        match event:
            case events.Planned():
                plan = f"{event.starts} starts × {event.seconds_per_start:.2g} s"
                self._show(f"{self._phase} … {plan}")
            case events.Progress():
                so_far = f"{event.done} of {event.total} schedules"
                several = "" if event.differences == 1 else "s"
                found = f", {event.differences} difference{several}" if event.differences else ""
                self._show(f"{self._phase} … {so_far}{found}")
            case _:
                pass

    def end(self) -> None:
        """Leave nothing on the line."""
        if self._live:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _show(self, line: str, *, whole: bool = False) -> None:
        if self._live:
            width = shutil.get_terminal_size((80, 24)).columns - 1
            self._stream.write(f"\r\x1b[K{line[:width]}")
            self._stream.flush()
        elif whole:
            self._stream.write(line + "\n")
            self._stream.flush()


def draw(table: Sequence[Row], *, width: int) -> str:
    """The table as text, at most `width` columns wide (not below 72)."""
    width = max(width, 72)
    first = min(30, width * 3 // 10)
    rest = width - first - 4
    columns = (first, rest - rest * 9 // 20, rest * 9 // 20)
    lines = [_line(("practice", "broken.py", "fixed.py"), columns)]
    lines.append("  ".join("─" * column for column in columns))
    for row in table:
        cells = (row.practice.name, _words(row.broken), _words(row.fixed))
        wrapped = [
            [
                part
                for text in cell.split("\n")
                for part in textwrap.wrap(text, column, subsequent_indent="  ") or [""]
            ]
            for cell, column in zip(cells, columns, strict=True)
        ]
        for number in range(max(map(len, wrapped))):
            parts = tuple(cell[number] if number < len(cell) else "" for cell in wrapped)
            lines.append(_line(parts, columns))
    return "\n".join(lines)


def _line(parts: Sequence[str], columns: Sequence[int]) -> str:
    padded = (f"{part:<{column}}" for part, column in zip(parts, columns, strict=True))
    return "  ".join(padded).rstrip()


def _words(cell: Cell) -> str:
    mark = "" if cell.as_expected else "UNEXPECTED "
    return "\n".join((f"{mark}{cell.verdict.upper()}", *cell.evidence))


def _conclusion(table: Sequence[Row], seen: Sequence[Seen], seconds: float) -> str:
    verdicts = [verdict for twin in seen for verdict in (twin.pods, twin.one_pod)]
    starts = sum(verdict.starts for verdict in verdicts)
    lines = [
        f"{name}.py: {verdict.claim}"
        for name, twin in zip(TWINS, seen, strict=True)
        for verdict in (twin.pods,)
    ]
    expected = sum(row.as_expected for row in table)
    lines.append(
        f"{expected} of {len(table)} rows as expected; {starts} real starts in {seconds:.0f} s."
    )
    return "\n".join(lines)


def next_commands(shop: Path) -> tuple[str, str, str]:
    """What a reader might type after the demonstration."""
    here = Path.cwd()
    shop = shop.relative_to(here) if shop.is_relative_to(here) else shop
    broken, fixed, workload = (
        shlex.quote(str(shop / name)) for name in ("broken.py", "fixed.py", "shop.http")
    )
    return (
        f"anypod prove anypod.demo.broken:app --workload {workload}",
        f"anypod check {broken}",
        f"diff -u {broken} {fixed}",
    )


def document(table: Sequence[Row], seen: Sequence[Seen], seconds: float) -> str:
    """The rows and the verdicts behind them, as JSON."""

    def cell(one: Cell) -> dict[str, object]:
        return {
            "verdict": one.verdict,
            "evidence": list(one.evidence),
            "as_expected": one.as_expected,
        }

    content = {
        "format": 1,
        "as_expected": all(row.as_expected for row in table),
        "seconds": round(seconds, 1),
        "rows": [
            {
                "practice": row.practice.name,
                "as_expected": row.as_expected,
                "broken": cell(row.broken),
                "fixed": cell(row.fixed),
            }
            for row in table
        ],
        "verdicts": {
            name: {
                "several pods": jsonfile.document(twin.pods),
                "replicas: 1": jsonfile.document(twin.one_pod),
            }
            for name, twin in zip(TWINS, seen, strict=True)
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
