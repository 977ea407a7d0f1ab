"""One check from paths to a result: facts (cached, several processes), link, walk, rules, suppressions."""

from __future__ import annotations

import gc
import marshal
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anypod.check import rules, suppressions
from anypod.check.analysis import Analysis
from anypod.check.cache import FactCache
from anypod.check.config import Config
from anypod.check.facts import Module
from anypod.check.memory import judge
from anypod.check.model import Finding, Problem, Result
from anypod.check.pool import cores, in_processes
from anypod.check.project import Project
from anypod.check.routes import routes_of
from anypod.check.sources import discover, facts_of, in_characters, raw_of, read_facts

_FEW = 24
"""Fewer files than this are read faster than a second process starts."""
_RECURSION = 12_000


def check_paths(
    paths: Iterable[str | os.PathLike[str]],
    config: Config | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    processes: int | None = None,
) -> Result:
    """Check these files and directories.

    Args:
        paths: What to check; directories are searched.
        config: The configuration; default: nothing selected, ignored or excluded.
        cache: A directory for the facts of unchanged files; default: none is used.
        processes: How many processes read files; default: one per core.

    Returns:
        The findings (suppressed ones left out), the routes, and the files that could not be checked.
    """
    settings = config or Config()
    problems: list[Problem] = list(settings.problems)
    gc_was_on = gc.isenabled()
    # Facts are trees without cycles; collecting them again and again doubles the time of a large run.
    gc.disable()
    try:
        given = [os.fspath(p) for p in paths]
        files = list(discover(given, settings.exclude, problems))
        store = FactCache(os.fspath(cache) if cache is not None else None)
        facts = _facts(files, store, processes or cores(), problems)
        store.write()
        modules = [Module(path, raw) for path, raw in facts.items()]
        roots = [os.path.normpath(p).replace(os.sep, "/") for p in given]
        for module in modules:
            module.is_test = is_test(module.path, roots)
        return _checked(modules, settings, problems, len(files), raw_of)
    finally:
        if gc_was_on:
            gc.enable()


def is_test(path: str, roots: Sequence[str]) -> bool:
    """Whether a file below one of these roots is a test; a file that is named itself is not."""
    for root in roots:
        if path == root:
            return False
        if path.startswith(f"{root}/"):
            path = path[len(root) + 1 :]
            break
    *directories, name = path.split("/")
    if name.startswith("test_") or name.endswith("_test.py") or name in {"conftest.py", "tests.py"}:
        return True
    return any(d in {"tests", "test", "testing"} for d in directories)


def check_sources(sources: dict[str, str], config: Config | None = None) -> Result:
    """Check source texts by their (relative) path, as `check_paths` checks files."""
    problems: list[Problem] = []
    modules = []
    for path, text in sources.items():
        raw, problem = facts_of(text.encode(), path)
        if problem is not None:
            problems.append(Problem(path, *problem))
        if raw is not None:
            modules.append(Module(path, raw))
            modules[-1].is_test = is_test(path, ())
    return _checked(
        modules, config or Config(), problems, len(sources), lambda path: sources[path].encode()
    )


def _facts(
    files: Sequence[str], store: FactCache, processes: int, problems: list[Problem]
) -> dict[str, tuple[Any, ...]]:
    known: dict[str, tuple[Any, ...]] = {}
    missing = []
    for path in files:
        found = store.get(path)
        if found is None:
            missing.append(path)
        else:
            known[path] = found
    if not store.file and (len(missing) < _FEW or processes == 1):
        # Nothing to send and nothing to store.
        for path in missing:
            facts, trouble = read_facts(path)
            if trouble is not None:
                problems.append(Problem(path, *trouble))
            if facts is not None:
                known[path] = facts
        return {path: known[path] for path in files if path in known}
    read = (
        in_processes(_read_for_pipe, missing, processes)
        if len(missing) >= _FEW and processes > 1
        else (_read_for_pipe(path) for path in missing)
    )
    for path, (raw, problem) in zip(missing, read, strict=True):
        if problem is not None:
            problems.append(Problem(path, *problem))
        if raw is not None:
            store.put(path, raw)
            known[path] = marshal.loads(raw)  # our own facts  # noqa: S302  # our own facts, never foreign input
    # Source order, whatever was cached.
    return {path: known[path] for path in files if path in known}


def _read_for_pipe(path: str) -> tuple[bytes | None, tuple[int, str] | None]:
    facts, problem = read_facts(path)
    if facts is None:
        return None, problem
    try:
        return marshal.dumps(facts), problem
    except ValueError:
        return None, (0, "is nested too deeply to be checked")


def _checked(
    modules: list[Module],
    config: Config,
    problems: list[Problem],
    files: int,
    raw: Callable[[str], bytes],
) -> Result:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _RECURSION))
    try:
        analysis = Analysis(
            Project(modules), config.entry_points, config.local_defaults, config.shared_paths
        )
        analysis.run()
        for name in analysis.unknown:
            message = f"entry-points names {name!r}, and its module has no such function"
            problems.append(Problem(config.path, 0, message))
        verdicts = judge(analysis)
        found: list[Finding] = []
        for code in rules.available():
            # Without a handler there is only configuration to judge.
            if config.runs(code) and (analysis.entries or code == "POD110"):
                found.extend(rules.load(code).find(analysis, verdicts))
        routes = routes_of(analysis, found)
    finally:
        sys.setrecursionlimit(limit)
    kept, suppressed, faults, fixes = suppressions.apply(found, analysis.project, config)
    problems.extend(faults)
    kept.sort(key=lambda f: (f.severity != "error", f.path, f.line, f.rule))
    kept = in_characters(kept, raw)
    return Result(
        tuple(kept),
        tuple(routes),
        tuple(problems),
        suppressed,
        files,
        sum(m.lines for m in modules),
        tuple(fixes),
        files - len(modules),
    )
