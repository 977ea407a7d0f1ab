"""A proof where a CI shows it: JUnit, and GitHub's annotations."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

from anypod.prove.events import Divergence, Outcome, Verdict
from anypod.report.findings_ci import message as command_text
from anypod.report.findings_ci import quoted
from anypod.report.proof_sarif import delivered, message, place, relative

NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def github(verdict: Verdict) -> str:
    """Workflow commands: an error per difference, a notice per accepted one."""
    lines = []
    if verdict.outcome is Outcome.COULD_NOT_RUN:
        lines.append(f"::error title=anypod prove could not run::{command_text(verdict.reason)}")
    for divergence in (*verdict.divergences, *verdict.accepted):
        path, line = place(verdict, divergence)
        level = "notice" if divergence.accepted else "error"
        text = message(divergence) + (
            f"\nAccepted: {divergence.accepted}" if divergence.accepted else ""
        )
        title = quoted(f"anypod prove: {divergence.route}")
        where = f"file={quoted(relative(path))},line={line},title={title}"
        lines.append(f"::{level} {where}::{command_text(text)}")
    return "\n".join([*lines, ""]) if lines else ""


def junit(verdict: Verdict) -> str:
    """One suite: a case per route of the workload, failed where it is to blame for a difference.

    A route with several differences has several cases. Accepted differences are skipped cases, as are
    routes whose answers could not be compared; a proof that could not run is an error.
    """
    cases: list[str] = []
    failures = skipped = errors = 0
    blamed: dict[str, list[Divergence]] = {}
    for divergence in (*verdict.divergences, *verdict.accepted):
        blamed.setdefault(divergence.route, []).append(divergence)
    for route in verdict.routes:
        if route.route not in blamed:
            uncompared = "" if route.compared else "one replica answers with an error too"
            skipped += bool(uncompared)
            cases.append(_case(route.route, _skipped(uncompared) if uncompared else ""))
    for route_name, divergences in blamed.items():
        for divergence in divergences:
            skipped += bool(divergence.accepted)
            failures += not divergence.accepted
            inside = _skipped(divergence.accepted) if divergence.accepted else _failure(divergence)
            path, line = place(verdict, divergence)
            where = f' file={_attribute(relative(path))} line="{line}"'
            cases.append(_case(f"{route_name} ({divergence.schedule})", inside, where))
    if verdict.outcome is Outcome.COULD_NOT_RUN:
        errors = 1
        cases.append(_case("the proof", f"<error message={_attribute(verdict.reason)}/>"))
    elif verdict.inconclusive and not verdict.divergences:
        errors = 1
        text = f"inconclusive: {'; '.join(verdict.not_tried)}"
        cases.append(_case("the proof", f"<error message={_attribute(text)}/>"))
    head = (
        f'<testsuite name="anypod prove" tests="{len(cases)}" failures="{failures}" '
        f'errors="{errors}" skipped="{skipped}" time="{verdict.seconds:.3f}">'
    )
    said = f"<system-out>{_text(_ending(verdict))}</system-out>"
    body = "\n".join([head, *cases, said, "</testsuite>"])
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n{body}\n</testsuites>\n'


def _ending(verdict: Verdict) -> str:
    lines = [verdict.claim, f"Not tried: {'; '.join(verdict.not_tried)}.", *verdict.warnings]
    return "\n".join(lines)


def _case(name: str, inside: str, more: str = "") -> str:
    return f'<testcase classname="anypod.prove" name={_attribute(name)}{more}>{inside}</testcase>'


def _skipped(reason: str) -> str:
    return f"<skipped message={_attribute(reason)}/>"


def _failure(divergence: Divergence) -> str:
    kind = _attribute(divergence.rule or str(divergence.schedule))
    first, _, rest = message(divergence).partition("\n")
    requests = "\n".join(delivered(request) for request in divergence.requests)
    return f"<failure type={kind} message={_attribute(first)}>{_text(f'{requests}{chr(10)}{rest}')}</failure>"


def _attribute(text: str) -> str:
    return quoteattr(NOT_XML.sub("\ufffd", text))


def _text(text: str) -> str:
    return escape(NOT_XML.sub("\ufffd", text))
