"""Recall and precision on the labelled corpus, by rule, depth and access form: `python -m tests.check.truth`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anypod.check import check_sources

CORPUS = Path(__file__).parent / "corpus"
_PROJECT = re.compile(r"^## (.+?)$", re.MULTILINE)
_FILE = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LABEL = re.compile(r"#! (?:(ok)\b|(POD\d{3}(?:\+POD\d{3})*) (\d) (\w+))")


class Label(NamedTuple):
    project: str
    path: str
    line: int
    rules: tuple[str, ...]
    depth: int
    access: str

    @property
    def is_trap(self) -> bool:
        return not self.rules


class Truth(NamedTuple):
    labels: list[Label]
    found: set[tuple[str, str, int, str]]
    """(project, path, line, rule) of every reported place."""
    severities: dict[tuple[str, str, int, str], str]

    def expected(self) -> set[tuple[str, str, int, str]]:
        return {(x.project, x.path, x.line, rule) for x in self.labels for rule in x.rules}


def projects() -> Iterator[tuple[str, dict[str, str]]]:
    for page in sorted(CORPUS.glob("*.md")):
        if page.name == "README.md":
            continue
        text = page.read_text()
        marks = [*_PROJECT.finditer(text)]
        for mark, after in zip(marks, [*marks[1:], None], strict=True):
            part = text[mark.end() : after.start() if after else None]
            yield f"{page.stem}: {mark[1]}", {m[1]: m[2] for m in _FILE.finditer(part)}


def labels_of(project: str, sources: dict[str, str]) -> Iterator[Label]:
    for path, text in sources.items():
        for number, line in enumerate(text.splitlines(), 1):
            if "#!" not in line:
                continue
            match = _LABEL.search(line)
            if match is None:
                raise ValueError(f"{project}, {path}:{number}: not a label: {line.strip()}")
            rules = tuple(match[2].split("+")) if match[2] else ()
            yield Label(project, path, number, rules, int(match[3] or 0), match[4] or "")


def measure() -> Truth:
    labels: list[Label] = []
    found: set[tuple[str, str, int, str]] = set()
    severities: dict[tuple[str, str, int, str], str] = {}
    for project, sources in projects():
        labels.extend(labels_of(project, sources))
        result = check_sources(sources)
        if result.problems:
            raise ValueError(f"{project}: {result.problems}")
        for finding in result.findings:
            for site in finding.sites:
                key = (project, site.path, site.line, finding.rule)
                found.add(key)
                severities[key] = finding.severity
    return Truth(labels, found, severities)


def share(part: int, whole: int) -> str:
    return f"{part}/{whole} = {part / whole:.3f}" if whole else "-"


def main() -> int:
    truth = measure()
    expected = truth.expected()
    hit = truth.found & expected
    errors = {k for k in truth.found if truth.severities[k] == "error"}
    traps = [x for x in truth.labels if x.is_trap]
    print(f"{len(expected)} true places, {len(traps)} traps")
    print("recall          ", share(len(hit), len(expected)))
    print("precision, error", share(len(errors & expected), len(errors)))
    print("precision, all  ", share(len(hit), len(truth.found)))
    for title, pick in (
        ("by rule", lambda x, rule: rule),
        ("by depth", lambda x, rule: str(x.depth)),
        ("by access form", lambda x, rule: x.access),
    ):
        whole: Counter[str] = Counter()
        part: Counter[str] = Counter()
        for x in truth.labels:
            for rule in x.rules:
                whole[pick(x, rule)] += 1
                part[pick(x, rule)] += (x.project, x.path, x.line, rule) in truth.found
        print(f"recall {title}")
        for name in sorted(whole):
            print(f"  {name:<14}", share(part[name], whole[name]))
    for project, path, line, rule in sorted(expected - truth.found):
        print(f"missed  {project}, {path}:{line} {rule}")
    for project, path, line, rule in sorted(truth.found - expected):
        print(f"false   {project}, {path}:{line} {rule}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
