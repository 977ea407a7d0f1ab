"""Findings where a CI shows them: GitHub annotations, GitLab code quality, JUnit."""

from __future__ import annotations

import hashlib
import json
from xml.sax.saxutils import escape, quoteattr

from anypod.check.model import Finding, Result
from anypod.report.findings import plain


def github(result: Result, *, colour: bool = False) -> str:
    """Workflow commands: one annotation per finding."""
    del colour
    lines = []
    for f in result.findings:
        where = f"file={quoted(f.path)},line={f.line},col={f.column + 1},title={quoted(f.rule)}"
        lines.append(f"::{f.severity} {where}::{message(f'{f.message}. {f.why}')}")
    for p in result.problems:
        line = f",line={p.line}" if p.line else ""
        lines.append(f"::warning file={quoted(p.path)}{line}::{message(p.message)}")
    return "\n".join([*lines, ""]) if lines else ""


def message(text: str) -> str:
    """A text as the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def quoted(text: str) -> str:
    """A text as a property of a workflow command."""
    return message(text).replace(":", "%3A").replace(",", "%2C")


def gitlab(result: Result, *, colour: bool = False) -> str:
    """A code quality report."""
    del colour
    seen: dict[str, int] = {}
    rows = []
    for f in result.findings:
        identity = f"{f.rule} {f.path} {f.state}"
        # Two findings of one state in one file must still differ.
        seen[identity] = seen.get(identity, 0) + 1
        named = f"{identity} {seen[identity]}".encode("utf-8", "surrogateescape")
        mark = hashlib.sha256(named).hexdigest()
        rows.append(
            {
                "description": f"{f.message}. {f.why}",
                "check_name": f.rule,
                "fingerprint": mark,
                "severity": "major" if f.severity == "error" else "minor",
                "location": {"path": f.path, "lines": {"begin": f.line}},
            }
        )
    return json.dumps(rows, indent=1) + "\n"


def junit(result: Result, *, colour: bool = False) -> str:
    """One test suite: each finding is a failed case, each unreadable file an error."""
    del colour
    cases = [_case(f) for f in result.findings]
    cases.extend(
        f'  <testcase classname={quoteattr(p.path)} name="readable">'
        f"<error message={quoteattr(p.message)}/></testcase>"
        for p in result.problems
    )
    if not cases:
        cases = ['  <testcase classname="anypod.check" name="no findings"/>']
    failures, errors = len(result.findings), len(result.problems)
    head = (
        f'<testsuite name="anypod check" tests="{max(1, failures + errors)}" '
        f'failures="{failures}" errors="{errors}">'
    )
    body = "\n".join(cases)
    report = f"<testsuites>\n{head}\n{body}\n</testsuite>\n</testsuites>\n"
    # XML has no control characters, not even escaped.
    report = "\n".join(plain(line) for line in report.split("\n"))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{report}'


def _case(f: Finding) -> str:
    sites = ", ".join(f"{s.path}:{s.line}" for s in f.sites)
    text = escape(f"{f.why}\n{sites}\n{f.fix}")
    return (
        f"  <testcase classname={quoteattr(f.path)} name={quoteattr(f'{f.rule} {f.state}')} "
        f'file={quoteattr(f.path)} line="{f.line}">'
        f"<failure type={quoteattr(f.rule)} message={quoteattr(f.message)}>"
        f"{text}</failure></testcase>"
    )
