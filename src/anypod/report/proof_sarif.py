"""A proof as SARIF 2.1.0: each difference at the line of the state behind it, for code scanning.

A difference whose state is unknown stands at the request of the workload that shows it. Accepted
differences are there too, suppressed, with their reason.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anypod.check import rules
from anypod.prove.events import Divergence, Outcome, Told, Verdict
from anypod.report.findings_sarif import SCHEMA, described
from anypod.report.words import answered, evidence, instead, marks, sent, why

DIFFERENCE = "prove-difference"


def sarif(verdict: Verdict) -> str:
    """A SARIF log of one proof."""
    return json.dumps(document(verdict), indent=1, ensure_ascii=False) + "\n"


def document(verdict: Verdict) -> dict[str, Any]:
    """The log as plain JSON values."""
    found = (*verdict.divergences, *verdict.accepted)
    codes = sorted({divergence.rule or DIFFERENCE for divergence in found})
    failed = verdict.outcome is Outcome.COULD_NOT_RUN
    notifications = [{"level": "warning", "message": {"text": text}} for text in verdict.warnings]
    if failed:
        notifications.insert(0, {"level": "error", "message": {"text": verdict.reason}})
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {"name": "anypod prove", "rules": [_rule(code) for code in codes]}
                },
                "columnKind": "unicodeCodePoints",
                "results": [
                    _result(verdict, divergence, codes.index(divergence.rule or DIFFERENCE))
                    for divergence in found
                ],
                "invocations": [
                    {
                        "executionSuccessful": not failed,
                        "exitCode": verdict.exit_code,
                        "toolExecutionNotifications": notifications,
                    }
                ],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    if code in rules.TITLES:
        return described(code)
    text = "an answer differs from what one replica that never dies would have given"
    return {
        "id": code,
        "name": code,
        "shortDescription": {"text": text},
        "defaultConfiguration": {"level": "error"},
    }


def place(verdict: Verdict, divergence: Divergence) -> tuple[str, int]:
    """Where a difference is to be shown: the line that wrote the state, or defines it, else the workload's.

    Returns:
        A path as it is on this machine, and a line, 1-based.
    """
    cause = divergence.cause
    if cause is not None and cause.written_at:
        return cause.written_in, cause.written_at
    if cause is not None and cause.module and cause.file:
        return cause.file, cause.line or 1
    return verdict.workload, max(1, divergence.requests[-1].line)


def relative(path: str) -> str:
    """A path as seen from here where it lies below, with slashes; else as it is."""
    whole = Path(os.path.normpath(Path.cwd() / path))
    here = Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else str(whole)


def _uri(path: str) -> str:
    near = relative(path)
    return Path(near).as_uri() if Path(near).is_absolute() else quote(near)


def _location(path: str, line: int, text: str = "") -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(path)},
            "region": {"startLine": max(1, line)},
        },
        **({"message": {"text": text}} if text else {}),
    }


def _result(verdict: Verdict, divergence: Divergence, index: int) -> dict[str, Any]:
    path, line = place(verdict, divergence)
    state = divergence.cause.name if divergence.cause is not None else divergence.where
    result: dict[str, Any] = {
        "ruleId": divergence.rule or DIFFERENCE,
        "ruleIndex": index,
        "level": "error",
        "message": {"text": message(divergence)},
        "locations": [_location(path, line)],
        "partialFingerprints": {
            "routeAndState/v1": f"{divergence.schedule} {divergence.route} {state}"
        },
        "codeFlows": [
            {
                "threadFlows": [
                    {
                        "locations": [
                            {
                                "location": _location(
                                    verdict.workload, request.line, delivered(request)
                                )
                            }
                            for request in divergence.requests
                        ]
                    }
                ]
            }
        ],
    }
    cause = divergence.cause
    if cause is not None:
        result["properties"] = {"cause": "verified" if cause.verified else "correlated"}
        if cause.written_at and cause.line:
            text = f"{cause.name} is defined here"
            result["relatedLocations"] = [_location(cause.file, cause.line, text)]
    if divergence.accepted:
        result["suppressions"] = [{"kind": "external", "justification": divergence.accepted}]
    return result


def message(divergence: Divergence) -> str:
    """A difference in a few sentences of plain text."""
    replacement = instead(divergence.rule)
    seen = f", seen at {divergence.seen_at}" if divergence.seen_at != divergence.route else ""
    lines = [
        (
            f"{divergence.route} ({divergence.schedule}){seen}: {divergence.where} is {divergence.got}, "
            f"one replica answers {divergence.expected}."
        ),
        f"{why(divergence)}.",
    ]
    if proof := evidence(divergence):
        lines.append(f"{proof[:1].upper()}{proof[1:]}.")
    if replacement:
        lines.append(f"Replace by {replacement}.")
    return "\n".join(lines)


def delivered(request: Told) -> str:
    """One delivery and its answer in one line."""
    special = marks(request)
    return (
        ("the pod is killed, with its disk; then " if request.moved else "")
        + ("a deploy replaces the pod; then " if request.replaced else "")
        + f"{sent(request)} → pod {request.pod}: {answered(request)}"
        + (f" ({special})" if special else "")
    )
