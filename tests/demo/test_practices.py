"""The demonstration's rows judge what was seen, and take nothing for granted that was not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anypod.cli.demo import draw
from anypod.cli.practices import PRACTICES, Finding, Seen, minutes, rows
from anypod.prove.events import Coverage, Divergence, Outcome, Stale, Verdict
from anypod.prove.schedules import Kind

pytestmark = pytest.mark.quick

COVERAGE = Coverage(28, 300, (40, 40), (13, 13), (378, 378), (9, 9), (9, 9), (12, 12))
CLEAN = Verdict(Outcome.NO_DIFFERENCE, "28 requests: no response differed.", coverage=COVERAGE)
FINDINGS = (
    Finding("POD107", "add", 67),
    Finding("POD101", "request_count", 20),
    Finding("POD101", "counters", 21),
    Finding("POD102", "cache", 22),
    Finding("POD102", "rates", 23),
    Finding("POD103", "sessions", 24),
)


def divergence(route: str, kind: Kind = Kind.ANOTHER_POD) -> Divergence:
    return Divergence(route, route, kind, (), "body $.count", "2", "1", confirmed=3)


def different(*routes: str) -> Verdict:
    found = tuple(divergence(route) for route in routes)
    return Verdict(
        Outcome.DIFFERENT, f"{len(found)} routes differ.", coverage=COVERAGE, divergences=found
    )


BROKEN = Seen(
    FINDINGS,
    different(
        "POST /orders/{order_id}/cancel",
        "POST /increment",
        "GET /counter",
        "GET /data/{id}",
        "GET /rates/{id}",
        "GET /me",
    ),
    different("GET /counter", "GET /me"),
)
OLD = Stale("GET /rates/{id}", "rates", 300.0, Kind.STALE_COPY, (), "body $.rate", "0.95", "0.92")
FIXED = Seen((), replace(CLEAN, stale=(OLD,)), CLEAN)


def unexpected(broken: Seen = BROKEN, fixed: Seen = FIXED) -> list[str]:
    return [row.practice.name for row in rows(broken, fixed) if not row.as_expected]


def name(part: str) -> str:
    return next(practice.name for practice in PRACTICES if part in practice.name)


def test_everything_as_expected() -> None:
    assert unexpected() == []


def test_a_bug_that_was_not_seen_is_not_as_expected() -> None:
    for practice in PRACTICES:
        if not practice.broken:
            continue
        for route in practice.routes:
            pods, one_pod = (
                replace(
                    verdict,
                    divergences=tuple(
                        one for one in verdict.divergences if not one.route.startswith(route)
                    ),
                )
                for verdict in (BROKEN.pods, BROKEN.one_pod)
            )
            assert practice.name in unexpected(replace(BROKEN, pods=pods, one_pod=one_pod))


def test_a_finding_that_is_missing_is_not_as_expected() -> None:
    for finding in FINDINGS:
        fewer = tuple(one for one in FINDINGS if one is not finding)
        affected = [
            p.name for p in PRACTICES if p.rule == finding.rule and p.state in {None, finding.state}
        ]
        assert unexpected(replace(BROKEN, findings=fewer)) == affected


def test_a_difference_or_a_finding_in_the_fixed_shop_is_not_as_expected() -> None:
    worse = replace(FIXED, pods=replace(different("GET /data/{id}"), stale=(OLD,)))
    assert unexpected(fixed=worse) == [name("in-memory cache")]
    found = unexpected(fixed=replace(FIXED, findings=(Finding("POD101", "x", 1),)))
    assert found == [practice.name for practice in PRACTICES if practice.broken]


def test_the_control_must_be_the_same_in_both() -> None:
    pods = different("POST /add", *(one.route for one in BROKEN.pods.divergences))
    assert unexpected(replace(BROKEN, pods=pods)) == [name("stateless")]


def test_an_old_copy_must_be_seen_and_declared() -> None:
    assert unexpected(fixed=replace(FIXED, pods=CLEAN)) == [name("local cache")]
    undeclared = replace(different("GET /rates/{id}"), stale=(OLD,))
    assert unexpected(fixed=replace(FIXED, pods=undeclared)) == [name("local cache")]


def test_what_could_not_run_or_is_partial_is_not_as_expected() -> None:
    stopped = Verdict(Outcome.COULD_NOT_RUN, "nothing was compared", reason="it died\nlog")
    assert len(unexpected(replace(BROKEN, pods=stopped))) == len(PRACTICES) - 1
    assert len(unexpected(fixed=replace(FIXED, one_pod=stopped))) == 1
    assert unexpected(fixed=replace(FIXED, pods=replace(FIXED.pods, partial=True)))
    empty = replace(FIXED.pods, coverage=None)
    assert unexpected(fixed=replace(FIXED, pods=empty))


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits_and_says_all(width: int) -> None:
    table = draw(rows(BROKEN, FIXED), width=width)
    assert max(map(len, table.splitlines())) <= max(width, 72)
    for word in ("STALE ≤ 5 min", "SAME", "DIFFERS", "POD103"):
        assert word.lower() in table.lower()
    assert "UNEXPECTED" not in table
    assert "UNEXPECTED" in draw(rows(BROKEN, BROKEN), width=width)


def test_durations() -> None:
    assert [minutes(seconds) for seconds in (300, 60, 90, 0.5)] == [
        "5 min",
        "1 min",
        "90 s",
        "0.5 s",
    ]
