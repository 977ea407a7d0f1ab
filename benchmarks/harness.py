"""Measure ours and the peers in one run, interleaved, and print the ratio beside the bar it must meet.

A module `bench_NAME.py` has one function, `contests()`, which yields `Contest`s, `Fact`s, `Bound`s and
`Absent`s; what it sets up around its `yield`s (servers, event loops) lasts while they are measured.

Rules:
- Absolute figures are not stable from machine to machine, so a bar is a ratio taken in one run.
- The sides of a contest take turns, round after round; each side's figure is its median.
- The process, and every server it starts, is pinned to one core where the system can: that measures
  the cost in CPU, and repeats.
- A bar that is not met is said so, in the table and below it; it does not fail the run, because a
  busy machine is no defect.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from timeit import Timer
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
ROUND_SECONDS = 0.02  # about how long one side runs before the next has its turn

Side = Callable[[int], float]
"""Does something n times and returns the seconds it took."""


@dataclass(frozen=True, slots=True)
class Faster:
    """The peer takes at least `times` as long as ours."""

    times: float

    def met(self, ratio: float) -> bool:
        return ratio >= self.times

    def __str__(self) -> str:
        return f"≥ {self.times:g} × faster"


@dataclass(frozen=True, slots=True)
class Within:
    """Ours takes at most `times` as long as the peer."""

    times: float

    def met(self, ratio: float) -> bool:
        return 1 / ratio <= self.times

    def __str__(self) -> str:
        return f"≤ {self.times:g} × its time"


@dataclass(frozen=True, slots=True)
class Contest:
    """One thing that several can do.

    Attributes:
        what: names it, for people.
        ours: our side.
        peers: the others, by name.
        bars: what the ratio to a peer must be; a peer without one is for information.
    """

    what: str
    ours: Side
    peers: Mapping[str, Side]
    bars: Mapping[str, Faster | Within] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fact:
    """A number that must be exact, such as exchanges per operation."""

    what: str
    value: float
    must_be: float


@dataclass(frozen=True, slots=True)
class Bound:
    """A number that may not be larger than another, such as bytes per line."""

    what: str
    value: float
    at_most: float


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that is not to be had here; the table says why."""

    what: str
    peer: str
    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Times are seconds per operation; `ratio` is peer / ours."""

    benchmark: str
    what: str
    ours: float
    peer: str
    theirs: float | None
    ratio: float | None
    bar: str
    met: bool | None


class Skipped(Exception):
    """A benchmark that cannot run here; the message says why."""


def statement(
    code: str, /, *, clock: Callable[[], float] = time.process_time, **names: Any
) -> Side:
    """A side that executes a statement in a plain loop; names it uses are given by keyword.

    The default clock counts this process's own CPU time, which other work on the machine cannot
    steal; give `time.perf_counter` where the time is spent elsewhere, in a server for instance.
    """
    return Timer(code, timer=clock, globals=names).timeit


def coroutine(
    loop: asyncio.AbstractEventLoop,
    code: str,
    /,
    *,
    clock: Callable[[], float] = time.process_time,
    **names: Any,
) -> Side:
    """A side that executes a statement with `await` in a plain loop, on this event loop."""
    names["_clock"] = clock
    source = (
        "async def _run(n):\n"
        "    turns = [None] * n\n"
        "    began = _clock()\n"
        "    for _ in turns:\n"
        f"        {code}\n"
        "    return _clock() - began\n"
    )
    exec(compile(source, "<coroutine side>", "exec"), names)
    return lambda n: loop.run_until_complete(names["_run"](n))


def measure(sides: Mapping[str, Side], rounds: int) -> dict[str, float]:
    """Median seconds per operation of each side, taking turns."""
    numbers = {}
    for name, side in sides.items():
        side(1)  # what a first call sets up is no measure of the later ones
        number = 1
        while (seconds := side(number)) < ROUND_SECONDS / 4:
            number = max(number * 2, int(number * ROUND_SECONDS / 2 / max(seconds, 1e-9)))
        numbers[name] = max(1, int(number * ROUND_SECONDS / seconds))
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            taken[name].append(sides[name](numbers[name]) / numbers[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def rows_of(benchmark: str, item: Contest | Fact | Bound | Absent, rounds: int) -> Iterator[Row]:
    """Measure one contest, or take down one fact."""
    if isinstance(item, Absent):
        yield Row(benchmark, item.what, 0.0, item.peer, None, None, item.why, None)
        return
    if isinstance(item, Bound):
        yield Row(
            benchmark, item.what, item.value, "", None, None,
            f"≤ {item.at_most:g}", item.value <= item.at_most,
        )  # fmt: skip
        return
    if isinstance(item, Fact):
        yield Row(
            benchmark, item.what, item.value, "", None, None,
            f"= {item.must_be:g}", item.value == item.must_be,
        )  # fmt: skip
        return
    medians = measure({"": item.ours, **item.peers}, rounds)
    for peer in item.peers:
        ratio = medians[peer] / medians[""]
        bar = item.bars.get(peer)
        yield Row(
            benchmark, item.what, medians[""], peer, medians[peer], ratio,
            "" if bar is None else str(bar), None if bar is None else bar.met(ratio),
        )  # fmt: skip


def pin() -> int | None:
    """Keep this process and its children on one core, the last one that it may use."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def duration(seconds: float) -> str:
    """Seconds for people."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    head = ("what", "ours", "peer", "its time", "ratio", "bar", "")
    lines = [head]
    last = None
    for row in rows:
        ours = (
            duration(row.ours)
            if row.ratio is not None
            else ""
            if row.met is None
            else f"{row.ours:g}"
        )
        same = row.what == last
        lines.append(
            (
                "" if same else row.what,
                "" if same else ours,
                row.peer,
                "" if row.theirs is None else duration(row.theirs),
                "" if row.ratio is None else _ratio(row),
                row.bar,
                "" if row.met is None else ("met" if row.met else "SHORT"),
            )
        )
        last = row.what
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _ratio(row: Row) -> str:
    assert row.ratio is not None
    if row.bar.startswith("≤") or row.ratio < 1:
        return f"{1 / row.ratio:.2f} × its time"
    return f"{row.ratio:.2f} × faster"


def run(name: str, module: ModuleType, rounds: int) -> list[Row]:
    """Run one benchmark and print its table.

    Raises:
        Skipped: it cannot run here.
    """
    print(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}")
    rows: list[Row] = []
    with contextlib.closing(module.contests()) as contests:
        for item in contests:
            rows.extend(rows_of(name, item, rounds))
    print(table(rows))
    return rows


def main(arguments: Sequence[str]) -> int:
    """Run benchmarks; 2 for a name that does not exist, else 0."""
    known = {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("bench_*.py"))}
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(known)}")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side (9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--no-pin", action="store_true", help="leave the core to the system")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(known)}")
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    modules: dict[str, ModuleType] = {}
    skipped: dict[str, str] = {}
    for name in options.names or known:  # before pinning: a module may ask how many cores there are
        try:
            modules[name] = importlib.import_module(f"benchmarks.bench_{name}")
        except Skipped as reason:
            skipped[name] = str(reason)
    core = None if options.no_pin else pin()
    where = "not pinned" if core is None else f"pinned to core {core}"
    print(
        f"Python {platform.python_version()}, {platform.machine()}, {where}; medians of "
        f"{options.rounds} interleaved rounds"
    )
    rows: list[Row] = []
    for name, module in modules.items():
        try:
            rows += run(name, module, options.rounds)
        except Skipped as reason:
            skipped[name] = str(reason)
    for name, why in skipped.items():
        print(f"\n{name} was not run: {why}")
    short = [row for row in rows if row.met is False]
    judged = sum(row.met is not None for row in rows)
    print(f"\n{judged - len(short)} of {judged} bars met")
    for row in short:
        beside = f" beside {row.peer}" if row.peer else ""
        print(f"short: {row.benchmark}: {row.what}{beside}")
    if options.json:
        document = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "core": core,
            "rounds": options.rounds,
            "skipped": skipped,
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
