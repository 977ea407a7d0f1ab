"""The two ways to accept a finding: a comment with a reason, and a baseline file.

A comment `# anypod: ignore[POD101] reason` at a site covers that finding; at the definition of a state it covers
all of the state's sites. A comment that covers nothing, names no rule or gives no reason is reported; what covers
nothing can be taken away again by `--fix`. The baseline is keyed by rule and state, never by line, so that moving code does not bring findings back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from anypod.check.config import Config
from anypod.check.model import Finding, Fix, Problem
from anypod.check.project import Project
from anypod.check.sources import is_excluded

_FORMAT = 1
_Comments = dict[tuple[str, int], tuple[tuple[str, ...], str]]
_Used = set[tuple[str, int, str]]
"""(path, line, rule) of what comments cover."""


def apply(
    findings: Iterable[Finding], project: Project, config: Config
) -> tuple[list[Finding], int, list[Problem], list[Fix]]:
    """(what is left, how many were suppressed, what is wrong with the suppressions, what would right it)."""
    comments: _Comments = {}
    for module in project.modules.values():
        for line, codes, reason in module.comments:
            comments[(module.path, line)] = (codes, reason)
    used: _Used = set()
    kept: list[Finding] = []
    suppressed = 0
    accepted, problems = read_baseline(config.baseline)
    base = _directory(config.baseline)
    for finding in findings:
        left = _without_comments(finding, comments, used)
        if (
            left is None
            or (accepted and key_of(finding, base) in accepted)
            or _is_ignored_in_file(finding, config)
        ):
            suppressed += 1
        else:
            kept.append(left)
    faults, fixes = _faults(comments, used, config)
    return kept, suppressed, [*problems, *faults], fixes


def _without_comments(
    finding: Finding,
    comments: _Comments,
    used: _Used,
) -> Finding | None:
    """The finding without its suppressed sites, or None when none is left."""
    definition = finding.definition
    if definition is not None:
        at = (definition.path, definition.line)
        if at in comments and finding.rule in comments[at][0]:
            used.add((*at, finding.rule))
            return None
    left = []
    for site in finding.sites:
        at = (site.path, site.line)
        if at in comments and finding.rule in comments[at][0]:
            used.add((*at, finding.rule))
        else:
            left.append(site)
    if not left:
        return None
    if len(left) == len(finding.sites):
        return finding
    first = left[0]
    return finding._replace(
        path=first.path, line=first.line, column=first.column, sites=tuple(left)
    )


def _faults(comments: _Comments, used: _Used, config: Config) -> tuple[list[Problem], list[Fix]]:
    problems, fixes = [], []
    for (path, line), (codes, reason) in comments.items():
        if not codes:
            message = "`anypod: ignore` names no rule: write ignore[POD101] reason"
            problems.append(Problem(path, line, message))
            continue
        # A rule that did not run says nothing about its comments.
        unused = [c for c in codes if (path, line, c) not in used and config.runs(c)]
        if unused:
            named = ", ".join(unused)
            problems.append(Problem(path, line, f"unused `anypod: ignore[{named}]`: remove it"))
            fixes.append(Fix(path, line, codes, reason, tuple(c for c in codes if c not in unused)))
        elif not reason:
            message = "`anypod: ignore` gives no reason: say why it is right"
            problems.append(Problem(path, line, message))
    return problems, fixes


def _is_ignored_in_file(finding: Finding, config: Config) -> bool:
    return any(
        any(finding.rule.startswith(code) for code in codes)
        and is_excluded(finding.path, (pattern,))
        for pattern, codes in config.per_file_ignores
    )


# Baseline


def key_of(finding: Finding, base: str) -> str:
    """What identifies a finding across edits: its rule, its file as seen from the baseline's directory, its state."""
    where = finding.definition.path if finding.definition is not None else finding.path
    inside = os.path.relpath(os.path.realpath(where), base).replace(os.sep, "/")
    return f"{finding.rule} {inside} {finding.state}"


def _directory(baseline: str) -> str:
    return os.path.dirname(os.path.realpath(baseline))  # noqa: PTH120  # pathlib costs a tenth of the start


def read_baseline(path: str) -> tuple[set[str], list[Problem]]:
    """The accepted keys; a baseline that cannot be read is a problem and accepts nothing."""
    if not path:
        return set(), []
    import json  # a baseline is rare, and the start must be quick

    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            content = json.load(file)
        return {str(key) for key in content["accepted"]}, []
    except FileNotFoundError:
        return set(), [Problem(path, 0, "there is no such baseline; --write-baseline makes one")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return set(), [Problem(path, 0, f"is not a baseline of `anypod check`: {error}")]


def write_baseline(path: str, findings: Iterable[Finding]) -> int:
    """Accept these findings and return how many keys that is."""
    import json

    base = _directory(path)
    keys = sorted({key_of(f, base) for f in findings})
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
        json.dump({"format": _FORMAT, "accepted": keys}, file, indent=1)
        file.write("\n")
    return len(keys)
