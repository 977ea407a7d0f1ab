"""What `prove` finds in services with planted bugs and in safe ones: `python -m tests.prove.truth [WORD]`."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anypod.prove.engine import Options, prove
from anypod.prove.events import Divergence, Outcome, Verdict
from anypod.prove.schedules import Kind
from anypod.prove.workload import parse
from anypod.replicas import Application

CORPUS = Path(__file__).parent / "corpus"
OPTIONS = Options(replicas=2, budget=120.0, timeout=20.0)
OF_THE_STORES = ("ANYPOD_URL", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT")
# A cause is told of what is kept in a process; what takes effect twice or too early has none.
WITHOUT_STATE = frozenset({Kind.RETRY, Kind.OVERLAP, Kind.IDENTITY})

_SERVICE = re.compile(r"^## (.+?)$", re.MULTILINE)
_FILE = re.compile(
    r"^```(?:python (?P<path>\S+)|http)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_BUG = re.compile(
    r"^- (?P<route>[A-Z]+ \S+): (?P<kind>[a-z ]+?)(?:, (?P<state>.+))?$", re.MULTILINE
)
_REPLICAS = re.compile(r"^options: replicas (\d)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Bug:
    """A planted bug: the route to blame, a schedule that must show it, the state behind it."""

    service: str
    route: str
    kind: Kind
    state: str


@dataclass(frozen=True, slots=True)
class Service:
    """One service of the corpus, its workload, and what must be found in it."""

    name: str
    files: dict[str, str]
    workload: str
    bugs: tuple[Bug, ...]
    replicas: int

    def prove(self, folder: Path) -> Verdict:
        """Run the proof in a folder of its own."""
        for path, text in self.files.items():
            (folder / path).write_text(text)
        workload = folder / "workload.http"
        workload.write_text(self.workload)
        env = {name: value for name, value in os.environ.items() if name not in OF_THE_STORES}
        env["PYTHONPATH"] = os.pathsep.join(sys.path)
        return prove(
            Application("service:app", folder, env),
            parse(self.workload, workload),
            replace(OPTIONS, replicas=self.replicas),
        )


@dataclass(slots=True)
class Judged:
    """How a verdict compares with what was planted."""

    service: Service
    verdict: Verdict
    found: dict[Bug, Divergence] = field(default_factory=dict)
    missed: list[Bug] = field(default_factory=list)
    false: list[Divergence] = field(default_factory=list)

    @property
    def wrong_causes(self) -> list[tuple[Bug, str]]:
        """Bugs whose cause is not the planted one, with what was told instead."""
        told = ((bug, state_of(divergence)) for bug, divergence in self.found.items())
        return [(bug, state) for bug, state in told if state != bug.state]

    @property
    def unverified(self) -> list[Bug]:
        """Bugs with a state that is only correlated."""
        return [bug for bug in self.found if bug.state and bug not in self.verified]

    @property
    def verified(self) -> list[Bug]:
        """Bugs whose state was verified."""
        return [
            bug
            for bug, divergence in self.found.items()
            if divergence.cause is not None and divergence.cause.verified
        ]


def state_of(divergence: Divergence) -> str:
    """The state that a divergence is told with."""
    cause = divergence.cause
    return "" if cause is None else f"{cause.kind} {cause.name}"


def services() -> Iterator[Service]:
    """The whole corpus."""
    for page in sorted(CORPUS.glob("*.md")):
        if page.name == "README.md":
            continue
        text = page.read_text()
        marks = [*_SERVICE.finditer(text)]
        for mark, after in zip(marks, [*marks[1:], None], strict=True):
            part = text[mark.end() : after.start() if after else None]
            name = f"{page.stem}: {mark[1]}"
            blocks = [*_FILE.finditer(part)]
            (workload,) = (block["text"] for block in blocks if block["path"] is None)
            replicas = _REPLICAS.search(part)
            yield Service(
                name,
                {block["path"]: block["text"] for block in blocks if block["path"]},
                workload,
                tuple(
                    Bug(name, bug["route"], Kind(bug["kind"]), bug["state"] or "")
                    for bug in _BUG.finditer(part)
                ),
                int(replicas[1]) if replicas else OPTIONS.replicas,
            )


def judge(service: Service, verdict: Verdict) -> Judged:
    """Compare a verdict with what was planted."""
    judged = Judged(service, verdict)
    for bug in service.bugs:
        shown = [
            one
            for one in verdict.divergences
            if one.route == bug.route and bug.kind in {one.schedule, *one.also}
        ]
        if shown:
            judged.found[bug] = shown[0]
        else:
            judged.missed.append(bug)
    planted = {bug.route for bug in service.bugs}
    judged.false = [one for one in verdict.divergences if one.route not in planted]
    return judged


def measure(service: Service) -> Judged:
    """Prove one service and judge the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        return judge(service, service.prove(Path(folder).resolve()))


def told(judged: Judged) -> Iterator[str]:
    """What is wrong with a verdict, in lines."""
    verdict = judged.verdict
    if verdict.outcome is Outcome.COULD_NOT_RUN:
        yield f"could not run: {verdict.reason}"
    for bug in judged.missed:
        yield f"missed: {bug.route} ({bug.kind})"
    for one in judged.false:
        yield f"false alarm: {one.route} ({one.schedule}) {one.where}: {one.expected} / {one.got}"
    for bug, state in judged.wrong_causes:
        yield f"wrong cause: {bug.route}: {state or 'none'} instead of {bug.state or 'none'}"
    for bug, one in judged.found.items():
        if one.cause is not None and not one.cause.verified:
            yield f"only correlated: {bug.route}: {state_of(one)}"
        elif one.cause is not None and one.cause.written_at is None:
            yield f"no line: {bug.route}: {state_of(one)}"
    if verdict.partial:
        yield f"partial: {'; '.join(verdict.not_tried)}"


@dataclass(frozen=True, slots=True)
class Tally:
    """What one pass over services comes to.

    Attributes:
        services: how many were proved.
        safe: how many of them are replica-safe.
        bugs: planted in the others.
        found: how many of those were found.
        false: differences that were reported where there is none.
        right: found bugs whose cause is the planted one.
        stateful: found bugs that have a state behind them.
        verified: how many of those were verified.
    """

    services: int
    safe: int
    bugs: int
    found: int
    false: int
    right: int
    stateful: int
    verified: int


def tally(results: Sequence[Judged]) -> Tally:
    """Add up verdicts."""
    found = [bug for judged in results for bug in judged.found]
    return Tally(
        services=len(results),
        safe=sum(not judged.service.bugs for judged in results),
        bugs=sum(len(judged.service.bugs) for judged in results),
        found=len(found),
        false=sum(len(judged.false) for judged in results),
        right=len(found) - sum(len(judged.wrong_causes) for judged in results),
        stateful=sum(bug.kind not in WITHOUT_STATE and bool(bug.state) for bug in found),
        verified=sum(len(judged.verified) for judged in results),
    )


def main() -> None:
    """Print the table."""
    wanted = " ".join(sys.argv[1:])
    chosen = [service for service in services() if wanted in service.name]
    began = time.monotonic()
    results = []
    for judged in map(measure, chosen):
        results.append(judged)
        print(f"{judged.verdict.seconds:5.1f} s  {judged.service.name}", flush=True)
        for line in told(judged):
            print(f"         {line}", flush=True)
    came = tally(results)
    print(f"services                {came.services}, of them safe {came.safe}")
    print(f"planted bugs found      {came.found} of {came.bugs}")
    print(f"false alarms            {came.false}")
    print(f"cause right             {came.right} of {came.found}")
    print(f"cause verified          {came.verified} of {came.stateful} that have one")
    print(f"seconds                 {time.monotonic() - began:.0f}")


if __name__ == "__main__":
    main()
