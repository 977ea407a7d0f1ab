"""Verdicts with everything in them, for the tests of the reports."""

from __future__ import annotations

from dataclasses import replace

from anypod.prove.events import (
    Cause,
    Contended,
    Coverage,
    Divergence,
    NotRetrySafe,
    Outcome,
    RouteCoverage,
    Stale,
    Told,
    Verdict,
)
from anypod.prove.schedules import Kind


def told(pod: int, what: str, status: int | None = 200, **more: object) -> Told:
    method, target = what.split(" ", 1)
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
    requests=(told(1, "POST /increment"), told(2, "GET /counter", line=4)),
    alone=(told(1, "POST /increment"), told(1, "GET /counter", line=4)),
    where="body $.count",
    expected="1",
    got="0",
    cause=Cause("global", "request_count", "shop", "shop.py", 14, 1, 2, "0", "1"),
    confirmed=3,
    rule="POD101",
    also=(Kind.POD_MOVED,),
)
REFUND = Divergence(
    route="POST /refund",
    seen_at="GET /paid",
    schedule=Kind.RETRY,
    requests=(
        told(1, "POST /refund", lost=True),
        told(1, "POST /refund", duplicate=True),
        told(1, "GET /paid", None, answer="no answer within 10 s", line=9),
    ),
    alone=(told(1, "POST /refund"), told(1, "GET /paid", line=9)),
    where="body $.paid",
    expected="5",
    got="10",
    confirmed=3,
    rule="POD107",
)
MOVED = replace(
    COUNTER,
    route="GET /<script>alert(1)</script>",
    schedule=Kind.POD_MOVED,
    requests=(told(1, "POST /increment"), told(1, "GET /counter", incarnation=2, moved=True)),
    cause=None,
    rule=None,
    where="header x-\x00\x1b]]>",
    also=(),
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
NUMBERS = Coverage(4, 40, (5, 5), (3, 4), (1, 1), (2, 4), (3, 3), (1, 1))


def verdict(**more: object) -> Verdict:
    values: dict[str, object] = {
        "outcome": Outcome.DIFFERENT,
        "claim": "4 requests, 5 schedules, 3 of 4 routes: 2 routes answer unlike one replica.",
        "application": "shop:app",
        "workload": "shop.http",
        "coverage": NUMBERS,
        "divergences": (COUNTER, REFUND, MOVED),
        "unconfirmed": (replace(COUNTER, confirmed=1),),
        "stale": (STALE,),
        "not_retry_safe": (NotRetrySafe("POST /note", "GET /notes", "body $"),),
        "contended": (
            Contended("POST /names", "POST /names", ("201", "500"), "status"),
            Contended("PUT /price", "PUT /price", ("3900", "4900"), "body $.cents"),
        ),
        "not_tried": ("requests that the workload does not make",),
        "warnings": ("not isolated: /var/lib/shop",),
        "routes": (
            RouteCoverage("POST /increment", 1, True),
            RouteCoverage("GET /counter", 1, True),
            RouteCoverage("GET /broken", 1, False),
        ),
        "starts": 12,
        "seconds": 3.25,
    }
    return Verdict(**{**values, **more})  # type: ignore[arg-type]
