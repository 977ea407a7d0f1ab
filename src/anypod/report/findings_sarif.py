"""Findings as SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from anypod.check import rules
from anypod.check.model import Finding, Result, Site

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(result: Result, *, colour: bool = False) -> str:
    """A SARIF log of one run."""
    del colour
    return json.dumps(document(result), indent=1) + "\n"


def document(result: Result) -> dict[str, Any]:
    """The log as plain JSON values."""
    codes = rules.available()
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "anypod check",
                        "rules": [described(code) for code in codes],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(f, codes.index(f.rule)) for f in result.findings],
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {
                                "level": "warning",
                                "message": {"text": p.message},
                                "locations": [_location(Site(p.path, max(1, p.line), 0))],
                            }
                            for p in result.problems
                        ],
                    }
                ],
            }
        ],
    }


def described(code: str) -> dict[str, Any]:
    """A rule of `anypod check` as SARIF describes rules."""
    return {
        "id": code,
        "name": code,
        "shortDescription": {"text": rules.TITLES[code]},
        "fullDescription": {"text": rules.TITLES[code]},
        "help": {"text": rules.page(code), "markdown": rules.page(code)},
        "defaultConfiguration": {"level": "warning" if code in {"POD107", "POD108"} else "error"},
    }


def _uri(path: str) -> str:
    """A path as a URI, relative where it can be: code scanning knows files by their place in the checkout."""
    if os.path.isabs(path):  # noqa: PTH117  # the checker's paths are texts
        inside = os.path.relpath(path)
        path = path if inside.startswith("..") else inside.replace(os.sep, "/")
    named = path if not os.path.isabs(path) else f"file://{path}"  # noqa: PTH117
    return quote(named, safe="/:", errors="surrogateescape")


def _location(site: Site) -> dict[str, Any]:
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(site.path)},
            "region": {"startLine": max(1, site.line), "startColumn": site.column + 1},
        },
        **({"message": {"text": site.text}} if site.text else {}),
    }


def _result(finding: Finding, index: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": finding.severity,
        "message": {"text": f"{finding.message}. {finding.why}\n{finding.fix}"},
        "locations": [_location(Site(finding.path, finding.line, finding.column))],
        "partialFingerprints": {"ruleAndState/v1": f"{finding.rule} {finding.state}"},
        "codeFlows": [
            {
                "threadFlows": [
                    {
                        "locations": [
                            {"location": _location(Site(s.path, s.line, 0, s.name))}
                            for s in finding.chain
                        ]
                    }
                ]
            }
        ],
    }
    others = finding.sites[1:]
    if others:
        found["relatedLocations"] = [_location(s) for s in others]
    return found
