"""What touches the user's files and history: `--diff` asks git, `--add-ignores` writes comments."""

from __future__ import annotations

import os
import re
import subprocess

from anypod.check import edits
from anypod.check.model import Finding, Problem, Result

_HUNK = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@")


class GitError(Exception):
    """git could not say what changed."""


def only_changed(result: Result, base: str) -> Result:
    """The result with only those findings of which a site or the state's definition changed since `base`.

    Raises:
        GitError: this is no repository, or there is no such commit.
    """
    lines = changed_lines(base)
    kept = []
    for finding in result.findings:
        sites = [*finding.sites, *([finding.definition] if finding.definition is not None else [])]
        touched = [s for s in sites if s.line in lines.get(os.path.realpath(s.path), ())]
        if touched:
            kept.append(finding)
    return result._replace(findings=tuple(kept))


def changed_lines(base: str) -> dict[str, set[int]]:
    """Absolute path → the lines that are new or changed since `base`, uncommitted ones included."""
    top = _git("rev-parse", "--show-toplevel").strip("\n")
    # Whatever the user's configuration says about prefixes and quotes, and from whichever directory.
    how = ("--unified=0", "--no-color", "--no-ext-diff", "--no-textconv", "--dst-prefix=b/")
    text = _git("diff", *how, "--end-of-options", base, "--", ":/*.py")
    found: dict[str, set[int]] = {}
    current: set[int] = set()
    for line in text.split("\n"):
        if line.startswith("+++ "):
            name = line[4:].removesuffix("\t").removeprefix("b/")
            current = found.setdefault(os.path.realpath(os.path.join(top, name)), set())  # noqa: PTH118  # pathlib costs a tenth of the start
        else:
            hunk = _HUNK.match(line)
            if hunk is not None:
                start, count = int(hunk[1]), int(hunk[2] or 1)
                current.update(range(start, start + count))
    untracked = _git("ls-files", "-z", "--others", "--exclude-standard", "--full-name", ":/*.py")
    for name in untracked.split("\0")[:-1]:
        path = os.path.realpath(os.path.join(top, name))  # noqa: PTH118  # pathlib costs a tenth of the start
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
                found[path] = set(range(1, file.read().count(b"\n") + 2))
        except OSError:
            # Gone meanwhile, a link to nothing, or told as unreadable already.
            continue
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  # the user's own git
            ["git", "-c", "core.quotePath=off", *arguments],  # the user's own git  # noqa: S607  # the user's own git
            check=False,
            capture_output=True,
        )
    except FileNotFoundError:
        raise GitError("--diff needs git, which is not installed") from None
    if done.returncode:
        said = os.fsdecode(done.stderr).strip()
        raise GitError(f"--diff: git says: {said or done.returncode}")
    # Names are the file system's, lines are in whatever encoding their file has.
    return os.fsdecode(done.stdout)


def add_ignores(result: Result, reason: str) -> tuple[int, list[Problem]]:
    """Write a comment at the definition of each state (or at each site).

    Returns:
        How many were written, and the files that were left alone.
    """
    wanted: dict[str, dict[int, list[str]]] = {}
    for finding in result.findings:
        for path, line in _places(finding):
            codes = wanted.setdefault(path, {}).setdefault(line, [])
            if finding.rule not in codes:
                codes.append(finding.rule)
    total = 0
    problems = []
    for path, places in wanted.items():
        comments = {n: f"# anypod: ignore[{','.join(c)}] {reason}" for n, c in places.items()}
        try:
            change, count = edits.with_comments(path, comments)
            edits.write(change)
        except edits.Refused as refused:
            problems.append(Problem(path, 0, f"got no comments: it {refused}"))
        else:
            total += count
    return total, problems


def _places(finding: Finding) -> list[tuple[str, int]]:
    if finding.definition is not None:
        return [(finding.definition.path, finding.definition.line)]
    return [(s.path, s.line) for s in finding.sites]
