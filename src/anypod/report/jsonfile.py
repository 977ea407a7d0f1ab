"""The verdict as JSON, for programs; `docs/prove.md` and `docs/prove.schema.json` describe it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anypod.prove.events import Coverage, Divergence, Stale, Told, Verdict
from anypod.prove.whole import write_whole

FORMAT = 1


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain JSON values."""
    return {
        "format": FORMAT,
        "verdict": str(verdict.outcome),
        "claim": verdict.claim,
        "reason": verdict.reason,
        "application": verdict.application,
        "workload": verdict.workload,
        "exit_code": verdict.exit_code,
        "partial": verdict.partial,
        "inconclusive": verdict.inconclusive,
        "coverage": _coverage(verdict.coverage),
        "divergences": [_divergence(divergence) for divergence in verdict.divergences],
        "accepted": [_divergence(divergence) for divergence in verdict.accepted],
        "unconfirmed": [_divergence(divergence) for divergence in verdict.unconfirmed],
        "stale": [_stale(stale) for stale in verdict.stale],
        "not_retry_safe": [asdict(item) for item in verdict.not_retry_safe],
        "contended": [{**asdict(one), "answers": list(one.answers)} for one in verdict.contended],
        "not_tried": list(verdict.not_tried),
        "routes": [asdict(item) for item in verdict.routes],
        "not_exercised": None if verdict.not_exercised is None else list(verdict.not_exercised),
        "warnings": list(verdict.warnings),
        "starts": verdict.starts,
        "seconds": round(verdict.seconds, 3),
        "seed": verdict.seed,
    }


def write(verdict: Verdict, path: Path) -> None:
    """Write the verdict to a file.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(text(verdict), path)


def text(verdict: Verdict) -> str:
    """The verdict as JSON text."""
    return json.dumps(document(verdict), indent=2, ensure_ascii=False) + "\n"


def _coverage(coverage: Coverage | None) -> dict[str, Any] | None:
    if coverage is None:
        return None
    counts = asdict(coverage)
    return {
        name: {"done": value[0], "possible": value[1]} if isinstance(value, tuple) else value
        for name, value in counts.items()
    }


def _divergence(divergence: Divergence) -> dict[str, Any]:
    return {
        "route": divergence.route,
        "seen_at": divergence.seen_at,
        "schedule": str(divergence.schedule),
        "also": [str(kind) for kind in divergence.also],
        "requests": [_told(request) for request in divergence.requests],
        "alone": [_told(request) for request in divergence.alone],
        "where": divergence.where,
        "expected": divergence.expected,
        "got": divergence.got,
        "cause": None if divergence.cause is None else asdict(divergence.cause),
        "confirmed": divergence.confirmed,
        "rule": divergence.rule,
        "hint": divergence.hint,
        "accepted": divergence.accepted,
        "replay": [asdict(kept) for kept in divergence.replay],
    }


def _stale(stale: Stale) -> dict[str, Any]:
    return {
        "route": stale.route,
        "cache": stale.cache,
        "seconds": stale.seconds,
        "declared": not stale.cache,
        "schedule": str(stale.schedule),
        "requests": [_told(request) for request in stale.requests],
        "where": stale.where,
        "expected": stale.expected,
        "got": stale.got,
    }


def _told(request: Told) -> dict[str, Any]:
    return asdict(request)
