"""The practices, in their chapter's order, and what a check and a proof of the two shops say of each.

Pure: findings and verdicts go in, rows come out. A row is as expected when the broken shop was found
broken there and the fixed one clean; nothing is taken for granted that was not seen in this run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from anypod.prove.events import Divergence, Outcome, Stale, Verdict


class Kind(StrEnum):
    """What a practice is tried with."""

    PODS = "several pods"
    ONE_POD = "replicas: 1"


class Wanted(StrEnum):
    """What the fixed shop must show."""

    SAME = "same"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Practice:
    """One row.

    Attributes:
        name: what a person calls it.
        routes: beginnings of the routes that show it.
        rule: the check rule that finds its absence, None if none does.
        state: the variable of `broken.py` that the rule must name, None for any.
        kind: what it is tried with.
        broken: whether the broken shop must differ there; the control must not.
        fixed: what the fixed shop must show.
        every: whether each of `routes` must differ, or one is enough.
    """

    name: str
    routes: tuple[str, ...]
    rule: str | None = None
    state: str | None = None
    kind: Kind = Kind.PODS
    broken: bool = True
    fixed: Wanted = Wanted.SAME
    every: bool = False


PRACTICES: Final = (
    Practice("Do: stateless service, add", ("POST /add",), broken=False),
    Practice("Do: idempotent API, cancel an order", ("POST /orders/",), "POD107"),
    Practice("Do: shared state, increment a counter", ("POST /increment",), "POD101", "counters"),
    Practice(
        "Do: local cache with TTL, exchange rates",
        ("GET /rates/",),
        "POD102",
        "rates",
        fixed=Wanted.STALE,
    ),
    Practice("Don't: global variable, count visits", ("GET /counter",), "POD101", "request_count"),
    Practice(
        "Pods: `replicas: 1`, pod moved",
        ("GET /counter", "GET /me"),
        kind=Kind.ONE_POD,
        every=True,
    ),
    Practice("Don't: in-memory cache, items", ("GET /data/",), "POD102", "cache"),
    Practice("Don't: sessions in memory, log in", ("GET /me",), "POD103", "sessions"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of the checker, as much as a row needs."""

    rule: str
    state: str  # without its module
    line: int


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was seen of one shop."""

    findings: tuple[Finding, ...]
    pods: Verdict
    one_pod: Verdict


@dataclass(frozen=True, slots=True)
class Cell:
    """What one shop showed of one practice.

    Attributes:
        verdict: "differs", "same", "stale ≤ 5 min", "could not run".
        evidence: a few words each.
        as_expected: whether that is what this shop must show.
    """

    verdict: str
    evidence: tuple[str, ...]
    as_expected: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One practice and both shops."""

    practice: Practice
    broken: Cell
    fixed: Cell

    @property
    def as_expected(self) -> bool:
        """Whether both cells are."""
        return self.broken.as_expected and self.fixed.as_expected


def rows(broken: Seen, fixed: Seen) -> tuple[Row, ...]:
    """The whole table."""
    return tuple(
        Row(practice, _broken(practice, broken), _fixed(practice, fixed)) for practice in PRACTICES
    )


def minutes(seconds: float) -> str:
    """A duration as a person says it: `5 min`, `90 s`."""
    whole = seconds / 60
    return f"{whole:g} min" if seconds >= 60 and whole == int(whole) else f"{seconds:g} s"


def _broken(practice: Practice, seen: Seen) -> Cell:
    verdict = _verdict_of(practice, seen)
    if verdict.outcome is Outcome.COULD_NOT_RUN:
        return _not_run(verdict)
    found = _of(practice, verdict.divergences)
    if not practice.broken:
        return _clean(practice, seen, verdict)
    findings = [
        finding
        for finding in seen.findings
        if finding.rule == practice.rule and practice.state in {None, finding.state}
    ]
    evidence = [_difference(one) for one in _one_per_route(found)]
    evidence += [_found(one, named=practice.state is not None) for one in findings]
    routes = [
        prefix for prefix in practice.routes if any(one.route.startswith(prefix) for one in found)
    ]
    enough = len(routes) == len(practice.routes) if practice.every else bool(routes)
    if not found:
        evidence.append("no difference was seen")
    if practice.rule is not None and not findings:
        evidence.append(
            f"no {practice.rule}" + (f" for {practice.state}" if practice.state else "")
        )
    return Cell(
        "differs" if found else "same",
        tuple(evidence),
        enough and (practice.rule is None or bool(findings)),
    )


def _fixed(practice: Practice, seen: Seen) -> Cell:
    verdict = _verdict_of(practice, seen)
    if verdict.outcome is Outcome.COULD_NOT_RUN:
        return _not_run(verdict)
    if practice.fixed is Wanted.SAME:
        return _clean(practice, seen, verdict)
    old = [one for one in verdict.stale if one.route.startswith(practice.routes)]
    if not old:
        cell = _clean(practice, seen, verdict)
        return Cell(cell.verdict, (*cell.evidence, "no old copy was seen"), as_expected=False)
    found = _of(practice, verdict.divergences)
    evidence = [_difference(one) for one in found] or [_copy(one) for one in old[:1]]
    return Cell(
        "differs" if found else f"stale ≤ {minutes(max(one.seconds for one in old))}",
        tuple(evidence),
        as_expected=not found and not seen.findings,
    )


def _clean(practice: Practice, seen: Seen, verdict: Verdict) -> Cell:
    """A cell that must show no difference. Findings count against the shop that has no bug at all."""
    found = _of(practice, verdict.divergences)
    if found:
        return Cell("differs", tuple(_difference(one) for one in found), as_expected=False)
    if not _asked(practice, verdict):
        return Cell("not tried", ("the workload has no such request",), as_expected=False)
    if practice.broken and seen.findings:
        evidence = tuple(_found(one) for one in seen.findings)
        return Cell("same", evidence, as_expected=False)
    tried, possible = (0, 0) if verdict.coverage is None else verdict.coverage.schedules
    if verdict.partial:
        evidence = (f"in {tried} of {possible} schedules, then the time was used up",)
        return Cell("same", evidence, as_expected=False)
    return Cell("same", (f"in {tried} schedules",), as_expected=True)


def _asked(practice: Practice, verdict: Verdict) -> bool:
    """Whether anything was compared at all: a proof without coverage shows nothing."""
    return (
        verdict.coverage is not None and verdict.coverage.schedules[0] > 0 and bool(practice.routes)
    )


def _verdict_of(practice: Practice, seen: Seen) -> Verdict:
    return seen.one_pod if practice.kind is Kind.ONE_POD else seen.pods


def _of(practice: Practice, divergences: Iterable[Divergence]) -> list[Divergence]:
    return [one for one in divergences if one.route.startswith(practice.routes)]


def _one_per_route(found: Iterable[Divergence]) -> list[Divergence]:
    first: dict[str, Divergence] = {}
    for one in found:
        first.setdefault(one.route, one)
    return list(first.values())


def _found(one: Finding, *, named: bool = True) -> str:
    return f"{one.rule}{f' {one.state}' if named else ''}, line {one.line}"


def _difference(one: Divergence) -> str:
    where = one.where.removeprefix("body ")
    return f"{one.schedule}: {where} {_short(one.got)}, not {_short(one.expected)}"


def _copy(one: Stale) -> str:
    where = one.where.removeprefix("body ")
    by = f"the LocalCache {one.cache!r}" if one.cache else "the workload"
    return f"{where} {_short(one.got)}, not yet {_short(one.expected)}; declared by {by}"


def _not_run(verdict: Verdict) -> Cell:
    reason = verdict.reason.strip().splitlines() or ["no reason was given"]
    return Cell("could not run", (reason[0],), as_expected=False)


def _short(value: str, most: int = 24) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"
