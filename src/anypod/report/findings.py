"""Findings of `anypod check` for people and programs: full, concise, json; the others in their own files.

The first run in an old code base must be readable: one block per state, errors first, and a summary that fits
on one screen. Colour only on a terminal, and nothing depends on it.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from anypod.check.model import Finding, Problem, Result, Route
from anypod.check.rules import TITLES
from anypod.check.sources import lines_of, raw_of

FORMAT = 1
"""The version of the JSON document."""

_SITES_SHOWN = 6
_LINE_SHOWN = 120
_WIDTH = 71
_MANY = 10
"""More findings than these end with a table by rule and with what to do about them."""
_CONTROL = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160))}


class Sources:
    """Lines of the checked files, read once and only when shown."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def line(self, path: str, number: int) -> str:
        """A line of a file without its end, or "" when there is none."""
        if path not in self._lines:
            self._lines[path] = lines_of(raw_of(path))
        lines = self._lines[path]
        return lines[number - 1] if 0 < number <= len(lines) else ""


def plain(text: str) -> str:
    """A text of others without control characters: a terminal obeys them, and XML has none."""
    return text if text.isprintable() else text.translate(_CONTROL)


class Style:
    """Terminal colours, or none."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour

    def __call__(self, code: str, text: str) -> str:
        """`text` in a colour: 1 bold, 2 dim, 31 red, 33 yellow, 36 cyan."""
        return f"\033[{code}m{text}\033[0m" if self._colour else text


def render(result: Result, form: str, *, colour: bool = False) -> str:
    """A result in one of the formats.

    Raises:
        KeyError: `form` is not among `FORMATS`.
    """
    module, name = FORMATS[form].split(":")
    write: Callable[..., str] = getattr(importlib.import_module(module), name)
    return write(result, colour=colour)


_HINT = """\
--format concise tells each in a line, --select POD103 one rule, --diff BASE what
changed; --write-baseline FILE accepts what is there, --baseline FILE leaves it out"""

FORMATS = {
    "full": "anypod.report.findings:full",
    "concise": "anypod.report.findings:concise",
    "json": "anypod.report.findings:as_json",
    "sarif": "anypod.report.findings_sarif:sarif",
    "github": "anypod.report.findings_ci:github",
    "gitlab": "anypod.report.findings_ci:gitlab",
    "junit": "anypod.report.findings_ci:junit",
}


def full(result: Result, *, colour: bool = False) -> str:
    """Every finding with its line, its state, its chain, the reason and the replacement."""
    style, sources = Style(colour), Sources()
    blocks = [_block(f, style, sources) for f in result.findings]
    many = [*_by_rule(result), ""] if len(result.findings) > _MANY else []
    hint = [_HINT] if many else []
    return "\n".join([*blocks, *_problems(result), *many, summary(result, style), *hint, ""])


def _block(finding: Finding, style: Style, sources: Sources) -> str:
    tone = "31" if finding.severity == "error" else "33"
    place = style("1", f"{plain(finding.path)}:{finding.line}:{finding.column + 1}")
    lines = [f"{place} {style(tone, finding.rule)} {plain(finding.message)}"]
    text = sources.line(finding.path, finding.line).rstrip()
    if text:
        width = len(str(finding.line))
        before, marked = _excerpt(text, finding.column)
        lines.append(f"  {style('2', f'{finding.line} |')} {before}{marked}")
        caret = "^" * max(1, min(_columns(marked), 60))
        lines.append(
            f"  {' ' * width} {style('2', '|')} {' ' * _columns(before)}{style(tone, caret)}"
        )
    lines.append(f"  {style('36', 'why')}    {_wrapped(finding.why.split())}")
    if finding.definition is not None:
        where = f"{plain(finding.definition.path)}:{finding.definition.line}"
        lines.append(f"  {style('36', 'state')}  {plain(finding.state)}, defined at {where}")
    others = [
        f"{s.line}" if s.path == finding.path else f"{plain(s.path)}:{s.line}"
        for s in finding.sites[1:]
    ]
    if others:
        shown = ", ".join(others[:_SITES_SHOWN])
        more = f" and {len(others) - _SITES_SHOWN} more" if len(others) > _SITES_SHOWN else ""
        lines.append(f"  {style('36', 'also')}   {shown}{more}")
    if len(finding.chain) > 1:
        first, *then = [
            f"{plain(s.name)} ({_where(s.path, s.line, finding.path)})" for s in finding.chain
        ]
        steps = _wrapped([first, *(f"→ {step}" for step in then)])
        lines.append(f"  {style('36', 'path')}   {steps}")
    first, *rest = finding.fix.splitlines() or [""]
    lines.append(f"  {style('36', 'write')}  {first}")
    lines.extend(f"         {line}" for line in rest)
    return "\n".join(lines) + "\n"


def _excerpt(text: str, column: int) -> tuple[str, str]:
    """What is shown of a line before its column and from there on: not all of a minified one, tabs as spaces."""
    before, marked = text[:column], text[column : column + _LINE_SHOWN]
    if not before.isspace() and len(before) + len(marked) > _LINE_SHOWN:
        room = max(30, _LINE_SHOWN - len(marked))
        before = before if len(before) <= room else f"…{before[-room:]}"
    more = "…" if len(text) > column + _LINE_SHOWN else ""
    return plain(before.expandtabs(4)), plain(marked.expandtabs(4)) + more


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(2 if east_asian_width(c) in "WF" else not combining(c) for c in text)


def _wrapped(parts: Sequence[str]) -> str:
    """Parts in lines that fit a terminal of 80 columns where a part alone does, behind a margin of nine."""
    lines = [""]
    for part in parts:
        if not lines[-1]:
            lines[-1] = part
        elif len(lines[-1]) + 1 + len(part) > _WIDTH:
            lines.append(part)
        else:
            lines[-1] += f" {part}"
    return f"\n{' ' * 9}".join(lines)


def _where(path: str, line: int, here: str) -> str:
    return f"line {line}" if path == here else f"{plain(path)}:{line}"


def told(problem: Problem) -> str:
    """A problem in one line."""
    place = f"{problem.path}:{problem.line}" if problem.line else problem.path
    return f"{plain(place)}: {plain(problem.message)}"


def _problems(result: Result) -> list[str]:
    return [told(p) for p in result.problems]


def summary(result: Result, style: Style | None = None) -> str:
    """What was found, in two lines."""
    paint = style or Style(False)
    counts = Counter(r.state for r in result.routes)
    routes = (
        f"{len(result.routes)} {'route' if len(result.routes) == 1 else 'routes'}: "
        f"{counts['stateless']} stateless, {counts['shared']} shared, {counts['local']} local"
    )
    if not result.routes:
        routes = f"no request handlers in {result.files} {'file' if result.files == 1 else 'files'}"
    errors = result.errors
    warnings = len(result.findings) - errors
    if not result.lines:
        verdict = "nothing was checked"
    elif not result.findings:
        verdict = "nothing found"
    else:
        verdict = ", ".join(
            f"{n} {word}{'' if n == 1 else 's'}"
            for n, word in ((errors, "error"), (warnings, "warning"))
            if n
        )
    accepted = f"; {result.suppressed} accepted" if result.suppressed else ""
    if result.lines and result.unread:
        files = "1 file was" if result.unread == 1 else f"{result.unread} files were"
        accepted += f"; {files} not checked"
    return f"{routes}\n{paint('1', verdict)}{accepted}"


def concise(result: Result, *, colour: bool = False) -> str:
    """One line per finding."""
    style = Style(colour)
    lines = []
    for f in result.findings:
        tone = "31" if f.severity == "error" else "33"
        more = f" (and {len(f.sites) - 1} more)" if len(f.sites) > 1 else ""
        place = f"{plain(f.path)}:{f.line}:{f.column + 1}"
        lines.append(f"{place}: {style(tone, f.rule)} {f.severity}: {plain(f.message)}{more}")
    return "\n".join([*lines, *_problems(result), summary(result, style), ""])


def as_json(result: Result, *, colour: bool = False) -> str:
    """The whole result for programs; `docs/check.md` describes it."""
    del colour
    import json  # only this format needs it, and the start must be quick

    return json.dumps(document(result), indent=1) + "\n"


def document(result: Result) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "format": FORMAT,
        "findings": [_finding(f) for f in result.findings],
        "routes": [_route(r) for r in result.routes],
        "problems": [p._asdict() for p in result.problems],
        "summary": {
            "files": result.files,
            "lines": result.lines,
            "errors": result.errors,
            "warnings": len(result.findings) - result.errors,
            "suppressed": result.suppressed,
            "unread": result.unread,
            "routes": dict(Counter(r.state for r in result.routes)),
        },
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        **finding._asdict(),
        "chain": [s._asdict() for s in finding.chain],
        "sites": [s._asdict() for s in finding.sites],
        "definition": finding.definition._asdict() if finding.definition is not None else None,
    }


def _route(route: Route) -> dict[str, Any]:
    return {**route._asdict(), "methods": list(route.methods), "states": list(route.states)}


def routes(result: Result, *, colour: bool = False) -> str:
    """`--routes`: each route with its kind of state."""
    style = Style(colour)
    tones = {"local": "31", "shared": "36", "stateless": "2"}
    rows = []
    for r in result.routes:
        name = f"{','.join(r.methods) or '*':<8} {r.path or '(registered elsewhere)'}"
        states = f"  {', '.join(r.states)}" if r.states else ""
        rows.append((r.state, plain(name), plain(f"{r.file}:{r.line} {r.handler}{states}")))
    width = max((len(name) for _, name, _ in rows), default=0)
    lines = [
        f"{style(tones[state], f'{state:<9}')} {name:<{width}}  {where}"
        for state, name, where in rows
    ]
    return "\n".join([*lines, summary(result, style), ""])


def statistics(result: Result) -> str:
    """`--statistics`: findings and sites by rule, and the ten files with most of them."""
    lines = _by_rule(result)
    by_file = Counter(f.path for f in result.findings).most_common(10)
    if by_file:
        lines += ["", *(f"{n:>5}  {plain(path)}" for path, n in by_file), ""]
    return "\n".join([*lines, summary(result), ""])


def _by_rule(result: Result) -> list[str]:
    by_rule: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    rows = []
    for rule, found in sorted(by_rule.items(), key=lambda item: (-len(item[1]), item[0])):
        places = sum(len(f.sites) for f in found)
        word = "place" if places == 1 else "places"
        rows.append(f"{len(found):>5}  {rule}  {places:>4} {word:<6}  {TITLES[rule]}")
    return rows
