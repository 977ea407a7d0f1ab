"""Findings of `anypod check` for people and programs: full, concise, json; the others in their own files.

The first run in an old code base must be readable: one block per state, errors first, and a summary that fits
on one screen. Colour only on a terminal, and nothing depends on it.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from anypod.check.model import Finding, Result, Route

FORMAT = 1
"""The version of the JSON document."""

_SITES_SHOWN = 6


class Sources:
    """Lines of the checked files, read once and only when shown."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def line(self, path: str, number: int) -> str:
        """A line of a file without its end, or "" when there is none."""
        if path not in self._lines:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
                    self._lines[path] = file.read().splitlines()
            except OSError:
                self._lines[path] = []
        lines = self._lines[path]
        return lines[number - 1] if 0 < number <= len(lines) else ""


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
    return "\n".join([*blocks, *_problems(result), summary(result, style), ""])


def _block(finding: Finding, style: Style, sources: Sources) -> str:
    tone = "31" if finding.severity == "error" else "33"
    place = style("1", f"{finding.path}:{finding.line}:{finding.column + 1}")
    lines = [f"{place} {style(tone, finding.rule)} {finding.message}"]
    text = sources.line(finding.path, finding.line)
    if text:
        width = len(str(finding.line))
        lines.append(f"  {style('2', f'{finding.line} |')} {text.rstrip()}")
        stripped = len(text.rstrip()) - finding.column
        caret = "^" * max(1, min(stripped, 60))
        lines.append(
            f"  {' ' * width} {style('2', '|')} {' ' * finding.column}{style(tone, caret)}"
        )
    lines.append(f"  {style('36', 'why')}    {finding.why}")
    if finding.definition is not None:
        where = f"{finding.definition.path}:{finding.definition.line}"
        lines.append(f"  {style('36', 'state')}  {finding.state}, defined at {where}")
    others = [
        f"{s.line}" if s.path == finding.path else f"{s.path}:{s.line}" for s in finding.sites[1:]
    ]
    if others:
        shown = ", ".join(others[:_SITES_SHOWN])
        more = f" and {len(others) - _SITES_SHOWN} more" if len(others) > _SITES_SHOWN else ""
        lines.append(f"  {style('36', 'also')}   {shown}{more}")
    if len(finding.chain) > 1:
        steps = " → ".join(
            f"{s.name} ({_where(s.path, s.line, finding.path)})" for s in finding.chain
        )
        lines.append(f"  {style('36', 'path')}   {steps}")
    first, *rest = finding.fix.splitlines() or [""]
    lines.append(f"  {style('36', 'write')}  {first}")
    lines.extend(f"         {line}" for line in rest)
    return "\n".join(lines) + "\n"


def _where(path: str, line: int, here: str) -> str:
    return f"line {line}" if path == here else f"{path}:{line}"


def _problems(result: Result) -> list[str]:
    return [
        f"{p.path}:{p.line}: {p.message}" if p.line else f"{p.path}: {p.message}"
        for p in result.problems
    ]


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
    return f"{routes}\n{paint('1', verdict)}{accepted}"


def concise(result: Result, *, colour: bool = False) -> str:
    """One line per finding."""
    style = Style(colour)
    lines = []
    for f in result.findings:
        tone = "31" if f.severity == "error" else "33"
        more = f" (and {len(f.sites) - 1} more)" if len(f.sites) > 1 else ""
        place = f"{f.path}:{f.line}:{f.column + 1}"
        lines.append(f"{place}: {style(tone, f.rule)} {f.severity}: {f.message}{more}")
    return "\n".join([*lines, *_problems(result), summary(result, style), ""])


def as_json(result: Result, *, colour: bool = False) -> str:
    """The whole result for programs; `docs/check.md` describes it."""
    del colour
    import json  # only this format needs it, and the start must be quick

    return json.dumps(document(result), indent=1, ensure_ascii=False) + "\n"


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
        rows.append((r.state, name, f"{r.file}:{r.line} {r.handler}{states}"))
    width = max((len(name) for _, name, _ in rows), default=0)
    lines = [
        f"{style(tones[state], f'{state:<9}')} {name:<{width}}  {where}"
        for state, name, where in rows
    ]
    return "\n".join([*lines, summary(result, style), ""])


def statistics(result: Result, titles: dict[str, str]) -> str:
    """`--statistics`: findings and sites by rule."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in result.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    lines = [
        f"{len(found):>5}  {rule}  {titles[rule]}  ({sum(len(f.sites) for f in found)} places)"
        for rule, found in sorted(by_rule.items(), key=lambda item: -len(item[1]))
    ]
    by_file = Counter(f.path for f in result.findings).most_common(10)
    lines.extend(f"{n:>5}  {path}" for path, n in by_file)
    return "\n".join([*lines, summary(result), ""])
