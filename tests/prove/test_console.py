"""What the console says: in a pipe, at eighty columns, and of text that looks like markup."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from anypod.prove.events import (
    Cause,
    Coverage,
    Divergence,
    Finished,
    Outcome,
    Planned,
    Progress,
    Stale,
    Told,
    Verdict,
)
from anypod.prove.schedules import Kind
from anypod.report.console import ConsoleReport, told_divergence

pytestmark = pytest.mark.quick


def told(pod: int, what: str, status: int | None = 200, **more: object) -> Told:
    method, target = what.split()
    values: dict[str, object] = {
        "pod": pod,
        "incarnation": 1,
        "method": method,
        "target": target,
        "body": "",
        "status": status,
        "answer": "",
        "duplicate": False,
        "lost": False,
        "moved": False,
        "line": 1,
    }
    return Told(**{**values, **more})  # type: ignore[arg-type]


COUNTER = Divergence(
    route="GET /counter",
    seen_at="GET /counter",
    schedule=Kind.ANOTHER_POD,
    requests=(told(1, "POST /increment"), told(2, "GET /counter")),
    where="body $.count",
    expected="1",
    got="0",
    cause=Cause("global", "request_count", "shop", "/srv/shop.py", 14, 1, 2, "0", "1"),
    confirmed=3,
    rule="POD101",
    also=(Kind.POD_MOVED,),
)
STALE = Stale(
    "GET /rates/{id}",
    "rates",
    300.0,
    Kind.STALE_COPY,
    (told(1, "GET /rates/EUR"), told(2, "PUT /rates/EUR"), told(1, "GET /rates/EUR")),
    "body $.rate",
    "0.95",
    "0.92",
)
NUMBERS = Coverage(2, 40, (5, 5), (2, 2), (1, 1), (0, 0), (3, 3), (1, 1))


def said(*events: object, quiet: bool = False, **console: object) -> str:
    file = io.StringIO()
    report = ConsoleReport(
        Console(file=file, width=80, highlight=False, **console),  # type: ignore[arg-type]
        quiet=quiet,
    )
    for event in events:
        report(event)  # type: ignore[arg-type]
    report.close()
    return file.getvalue()


def verdict(**more: object) -> Verdict:
    values: dict[str, object] = {
        "outcome": Outcome.DIFFERENT,
        "claim": "2 requests, 5 schedules, 2 of 2 routes: 1 route answers unlike one replica.",
        "coverage": NUMBERS,
        "divergences": (COUNTER,),
        "not_tried": ("two requests at the same moment",),
    }
    return Verdict(**{**values, **more})  # type: ignore[arg-type]


def test_a_difference_is_told_as_a_person_would() -> None:
    text = said(Finished(verdict()))
    assert (
        """
DIFFERS  GET /counter   another pod, pod moved
    1  POST /increment → pod 1   200
    2  GET /counter    → pod 2   200
       expected  $.count  1
       got       $.count  0
  pod 1 had changed the module global request_count (/srv/shop.py:14), pod 2 never saw it
  correlated: it changed; copying it was impossible or did not mend the answer
  check rule POD101: replace by state.counter(…) or state.map(…)
"""
        in text
    )
    assert "\x1b" not in text


def test_an_accepted_old_answer_names_its_bound() -> None:
    text = said(Finished(verdict(stale=(STALE,), divergences=(), outcome=Outcome.NO_DIFFERENCE)))
    assert "stale ≤ 5 min, declared by the cache 'rates'" in text
    assert "Accepted: GET /rates/{id} stale ≤ 5 min." in text


def test_a_retry_and_a_moved_pod_show_what_was_done() -> None:
    again = told(1, "POST /refund", duplicate=True)
    lost = told(1, "POST /refund", lost=True)
    moved = told(1, "GET /paid", incarnation=2, moved=True)
    divergence = Divergence(
        "POST /refund", "GET /paid", Kind.RETRY, (lost, again, moved), "status", "200", "500"
    )
    text = said(Finished(verdict(divergences=(divergence,))))
    assert "seen at GET /paid" in text
    assert "answer lost" in text
    assert "delivered again" in text
    assert "pod 1 is killed; it starts elsewhere, disk empty" in text
    assert "POST /refund delivered twice takes effect twice" in text


def test_text_of_the_service_is_no_markup() -> None:
    divergence = Divergence(
        "GET /[bold]x[/bold]",
        "GET /[bold]x[/bold]",
        Kind.ANOTHER_POD,
        (told(1, "GET /[bold]x[/bold]"),),
        "body",
        "[red]a[/red]",
        "[/]",
    )
    text = said(Finished(verdict(divergences=(divergence,))))
    assert "GET /[bold]x[/bold]" in text
    assert "[red]a[/red]" in text
    assert "[/]" in text


PLANNED = Planned({Kind.ANOTHER_POD: 1, Kind.RETRY: 3}, 43, 120, 0.4, 9.0, 2, forks=False)


def test_the_plan_is_told_with_its_cost() -> None:
    text = said(PLANNED)
    assert "plan: 1 × another pod, 3 × retry" in text
    assert (
        "43 starts × 0.4 s and 120 requests ≈ 9 s on 2 cores, more if answers differ"
        in " ".join(text.split())
    )


def test_progress_is_only_for_terminals() -> None:
    progress = Progress("playing", 1, 4, 1)
    assert "playing" not in said(PLANNED, progress)
    assert "1/4 schedules" in said(PLANNED, progress, force_terminal=True)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_a_request_and_its_answer_stay_on_one_line(width: int) -> None:
    body = '{"name": "Mug", "price_cents": 1250, "stock": 20, "shelf": "third from the left", "sold": 0}'
    requests = (told(1, "PUT /data/mug", body=body), told(2, "GET /counter"))
    text = told_divergence(replace(COUNTER, requests=requests), width).plain
    (line,) = (line for line in text.splitlines() if "PUT" in line)
    assert len(line) <= width
    assert line.endswith("→ pod 1   200")
    assert ("1250" in line) == (width >= 100)


def test_quiet_keeps_the_differences_and_the_claim() -> None:
    text = said(PLANNED, Finished(verdict(stale=(STALE,))), quiet=True)
    assert "plan" not in text
    assert "STALE" not in text
    assert "DIFFERS" in text
    assert "1 route answers unlike one replica" in text


def test_partial_and_impossible_verdicts_say_so_first() -> None:
    assert "PARTIAL  2 requests" in said(Finished(verdict(partial=True)))
    failed = verdict(outcome=Outcome.COULD_NOT_RUN, reason="no [such] module", divergences=())
    assert "COULD NOT RUN  no [such] module" in said(Finished(failed))
