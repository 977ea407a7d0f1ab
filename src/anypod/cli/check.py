"""`anypod check`: reads the command line and `pyproject.toml`, checks, reports, ends with its exit code.

0: nothing that counts. 1: findings (errors; with --strict warnings as well). 2: nothing could be checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from anypod.check import rules, suppressions
from anypod.check.config import Config, find_pyproject, read
from anypod.check.engine import check_paths
from anypod.check.model import Problem, Result
from anypod.report import findings as report

EXAMPLES = """\
examples:
  anypod check src
  anypod check . --format concise --statistics
  anypod check src --routes                      each route: stateless, shared or local
  anypod check src --diff origin/main            findings on changed lines only
  anypod check --explain POD101                  what the rule finds, why, and what it leaves alone
  anypod check src --write-baseline pods.json    accept what is there; then --baseline pods.json
  anypod check src --show-fixes                  a diff of what --fix would change

exit codes: 0 nothing found, 1 errors (with --strict: warnings too), 2 nothing could be checked"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Of a fixed width: asking for the terminal's imports the archive modules of the standard library."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="anypod check",
        description="Finds, without importing the code, state that breaks with a second replica.",
        epilog=EXAMPLES,
        formatter_class=_Formatter,
    )
    found.add_argument(
        "paths", nargs="*", metavar="PATH", help="files and directories (default: .)"
    )
    found.add_argument(
        "--format", choices=list(report.FORMATS), default="full", help="default: full"
    )
    found.add_argument(
        "--output", metavar="FILE", help="write the report there instead of printing it"
    )
    found.add_argument("--select", metavar="RULES", help="only these rules: POD101,POD10")
    found.add_argument("--ignore", metavar="RULES", help="all rules but these")
    found.add_argument("--exclude", metavar="GLOBS", help="leave these files and directories out")
    found.add_argument("--strict", action="store_true", help="warnings count as well")
    found.add_argument("--explain", metavar="RULE", help="print a rule's page and stop")
    found.add_argument("--statistics", action="store_true", help="counts by rule and file instead")
    found.add_argument(
        "--routes", action="store_true", help="each route and its kind of state instead"
    )
    found.add_argument(
        "--diff", metavar="BASE", help="only findings on lines changed since this commit"
    )
    found.add_argument("--baseline", metavar="FILE", help="accepted findings, by rule and state")
    found.add_argument("--write-baseline", metavar="FILE", help="accept everything found now")
    found.add_argument(
        "--add-ignores", metavar="REASON", help="write `# anypod: ignore[…] REASON` at each finding"
    )
    found.add_argument(
        "--show-fixes",
        action="store_true",
        help="print what --fix would change as a diff, and stop",
    )
    found.add_argument(
        "--fix", action="store_true", help="remove suppressions that cover nothing, then report"
    )
    found.add_argument(
        "--config", metavar="FILE", help="a pyproject.toml (default: the nearest one)"
    )
    found.add_argument("--no-cache", action="store_true", help="read every file again")
    found.add_argument("--processes", type=_count, metavar="N", help="default: one per core")
    return found


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def main(argv: Sequence[str]) -> int:
    """Run `anypod check` with these arguments and return its exit code."""
    options = parser().parse_args(list(argv))
    if options.explain is not None:
        return _explain(options.explain.upper())
    try:
        return _run(options)
    except BrokenPipeError:
        raise
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        print(f"anypod check: {named}{error.strerror}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    paths = options.paths or ["."]
    pyproject = options.config or find_pyproject(paths[0])
    config, refusal = _configured(options, read(pyproject))
    if refusal:
        print(f"anypod check: {refusal}", file=sys.stderr)
        return 2
    root = os.path.dirname(pyproject) if pyproject else ""  # noqa: PTH120  # pathlib costs a tenth of the start
    cache = None if options.no_cache else os.path.join(root, ".anypod_cache")  # noqa: PTH118  # pathlib costs a tenth of the start
    result = check_paths(paths, config, cache=cache, processes=options.processes)
    if options.show_fixes:
        return _show_fixes(result)
    if options.fix and result.fixes:
        _fix(result)
        # Lines have moved: what is reported is what is there now.
        result = check_paths(paths, config, cache=cache, processes=options.processes)
    if options.diff:
        from anypod.check import changes

        try:
            result = changes.only_changed(result, options.diff)
        except changes.GitError as error:
            print(f"anypod check: {error}", file=sys.stderr)
            return 2
    if options.write_baseline:
        count = suppressions.write_baseline(options.write_baseline, result.findings)
        print(f"{options.write_baseline}: {_counted(count, 'finding')} accepted", file=sys.stderr)
        return 0
    if options.add_ignores:
        from anypod.check import changes

        count, refused = changes.add_ignores(result, options.add_ignores)
        print(f"{_counted(count, 'comment')} added", file=sys.stderr)
        for problem in refused:
            print(report.told(problem), file=sys.stderr)
        return 0
    _print(options, result)
    return _status(result, config)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _configured(options: argparse.Namespace, config: Config) -> tuple[Config, str]:
    """The command line over the configuration, and why it is refused, if it is."""
    changed: dict[str, object] = {}
    for name in ("select", "ignore", "exclude"):
        text = getattr(options, name)
        if text:
            values = tuple(v.strip() for v in text.split(",") if v.strip())
            if name == "exclude":
                values = (*config.exclude, *values)
            changed[name] = values
    if options.baseline:
        changed["baseline"] = options.baseline
    if options.write_baseline:
        changed["baseline"] = ""
    if options.strict:
        changed["strict"] = True
    found = config._replace(**changed)  # type: ignore[arg-type]
    if options.config and not os.path.isfile(options.config):  # noqa: PTH113  # pathlib costs a tenth of the start
        return found, f"there is no file {options.config!r}"
    in_files = (code for _, codes in found.per_file_ignores for code in codes)
    for prefix in (*found.select, *found.ignore, *in_files):
        if not any(code.startswith(prefix) for code in rules.available()):
            return found, f"there is no rule {prefix!r}; there are {', '.join(rules.available())}"
    return found, ""


def _show_fixes(result: Result) -> int:
    """Print the diff; 1 when there is one."""
    from anypod.check import edits

    changes, refused = edits.planned(result.fixes)
    _say(edits.diff(changes))
    for problem in refused:
        print(report.told(problem), file=sys.stderr)
    return 1 if changes else 0


def _fix(result: Result) -> None:
    """Show the diff, then write it."""
    from anypod.check import edits

    changes, refused = edits.planned(result.fixes)
    for change in changes:
        try:
            edits.write(change)
        except edits.Refused as reason:
            refused.append(Problem(change.path, 0, f"is not fixed: it {reason}"))
        else:
            sys.stderr.write(edits.diff([change]))
    for problem in refused:
        print(report.told(problem), file=sys.stderr)


def _explain(code: str) -> int:
    if code not in rules.available():
        rows = "\n".join(f"  {c}  {t}" for c, t in rules.TITLES.items())
        print(f"anypod check: there is no rule {code!r}; there are\n{rows}", file=sys.stderr)
        return 2
    _say(f"{rules.page(code)}\n")
    return 0


def _say(text: str) -> None:
    """Print a text; what the terminal's encoding lacks is told by its number."""
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _print(options: argparse.Namespace, result: Result) -> None:
    colour = not options.output and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    if options.routes and options.format in {"full", "concise"}:
        text = report.routes(result, colour=colour)
    elif options.statistics and options.format in {"full", "concise"}:
        text = report.statistics(result)
    else:
        text = report.render(result, options.format, colour=colour)
    if options.output:
        with open(options.output, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            file.write(text)
        return
    _say(text)
    if options.format not in {"full", "concise"}:
        for problem in result.problems:
            print(report.told(problem), file=sys.stderr)


def _status(result: Result, config: Config) -> int:
    if not result.lines:
        if not result.problems:
            print("anypod check: there is no Python file to check", file=sys.stderr)
        return 2
    return 1 if result.errors or (config.strict and result.findings) else 0
