"""The files to check: discovery, decoding, and facts of one file, whatever is in it.

A file that cannot be read or parsed is a problem of that file only.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from anypod.check.extract import extract
from anypod.check.model import Finding, Problem

SKIPPED = frozenset(
    {
        ".git", ".hg", ".svn", ".tox", ".nox", ".venv", "venv", "env", "__pycache__", "node_modules", "build",
        "dist", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".eggs", "site-packages", ".anypod_cache",
    }
)  # fmt: skip
_IGNORE = r"#\s*anypod:\s*ignore(?:\[([^\]]*)\])?\s*(.*)"
_LARGEST = 8 * 1024 * 1024
# A file nested deeper than this would exhaust the stack of the parser's own consumers.
_DEEPEST = 900

Status = tuple[int, int]


def discover(
    paths: Iterable[str], excluded: tuple[str, ...] = (), problems: list[Problem] | None = None
) -> Iterator[str]:
    """Every Python file under these paths, sorted; a file that is named is checked whatever is excluded."""
    seen: set[str] = set()
    for given in paths:
        path = os.path.normpath(given).replace(os.sep, "/")
        if os.path.isfile(path):  # pathlib alone costs a tenth of the start  # noqa: PTH113  # pathlib costs a tenth of the start
            if path not in seen:
                seen.add(path)
                yield path
            continue
        if not os.path.isdir(path):  # noqa: PTH112  # pathlib costs a tenth of the start
            if problems is not None:
                problems.append(Problem(path, 0, "there is no such file or directory"))
            continue
        for found in _under(path, excluded, problems):
            if found not in seen:
                seen.add(found)
                yield found


def _under(root: str, excluded: tuple[str, ...], problems: list[Problem] | None) -> Iterator[str]:
    visited: set[tuple[int, int]] = set()
    stack = [root]
    while stack:
        directory = stack.pop()
        try:
            with os.scandir(directory) as entries:
                listed = sorted(entries, key=lambda e: e.name)
        except OSError as error:
            if problems is not None:
                problems.append(Problem(directory, 0, f"cannot be listed: {error.strerror}"))
            continue
        inner = []
        for entry in listed:
            path = entry.name if directory == "." else f"{directory}/{entry.name}"
            if excluded and is_excluded(path, excluded):
                continue
            try:
                if entry.is_dir():
                    if entry.name in SKIPPED or entry.name.endswith(".egg-info"):
                        continue
                    if entry.is_symlink():
                        status = entry.stat()
                        mark = (status.st_dev, status.st_ino)
                        # A link to where we are already is a loop; each real directory is entered once.
                        if mark in visited or _is_above(mark, directory):
                            continue
                        visited.add(mark)
                    inner.append(path)
                elif entry.name.endswith(".py") and entry.is_file():
                    yield path
            except OSError:
                continue
        stack.extend(reversed(inner))


def _is_above(mark: tuple[int, int], directory: str) -> bool:
    current = os.path.abspath(directory)  # noqa: PTH100  # pathlib costs a tenth of the start
    while True:
        status = os.stat(current)  # noqa: PTH116  # pathlib costs a tenth of the start
        if (status.st_dev, status.st_ino) == mark:
            return True
        parent = os.path.dirname(current)  # noqa: PTH120  # pathlib costs a tenth of the start
        if parent == current:
            return False
        current = parent


def is_excluded(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path matches a pattern: a path, a directory above, or a glob."""
    from fnmatch import fnmatch

    for given in patterns:
        pattern = given.rstrip("/")
        if path == pattern or path.startswith(f"{pattern}/") or fnmatch(path, pattern):
            return True
        if "/" not in pattern and any(fnmatch(part, pattern) for part in path.split("/")):
            return True
        if path.endswith(f"/{pattern}") or f"/{pattern}/" in path or fnmatch(path, f"*/{pattern}"):
            return True
    return False


def read_facts(path: str) -> tuple[tuple[Any, ...] | None, tuple[int, str] | None]:
    """(facts, None) of a file, or (None, (line, why not))."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        return None, (0, f"cannot be read: {error.strerror}")
    if len(raw) > _LARGEST:
        return None, (0, f"is larger than {_LARGEST // 1024 // 1024} MB: exclude it")
    return facts_of(raw, path)


def facts_of(
    raw: bytes, path: str = "<memory>"
) -> tuple[tuple[Any, ...] | None, tuple[int, str] | None]:
    """(facts, None) of a source text, or (None, (line, why not))."""
    if b"\0" in raw:
        return None, (
            raw[: raw.index(b"\0")].count(b"\n") + 1,
            "contains a null byte: not Python source",
        )
    try:
        with warnings.catch_warnings():
            # Other people's invalid escapes are not ours to report.
            warnings.simplefilter("ignore")
            tree = ast.parse(raw, path)
        facts = extract(tree, raw.count(b"\n") + 1)
    except SyntaxError as error:
        return None, (error.lineno or 0, f"is not valid Python 3: {error.msg}")
    except RecursionError:
        return None, (0, "is nested too deeply to be checked")
    except MemoryError:
        return None, (0, "is nested too deeply for Python's own parser")
    except (ValueError, LookupError) as error:
        return None, (0, f"cannot be decoded: {error}")
    if b"anypod" in raw and b"ignore" in raw:
        facts[-2].extend(comments(raw))
    return facts, None


def raw_of(path: str) -> bytes:
    """What is in a file; nothing when it is gone."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            return file.read()
    except OSError:
        return b""


def in_characters(findings: Iterable[Finding], raw: Callable[[str], bytes]) -> list[Finding]:
    """The findings with columns in characters: the parser counts the bytes of the line in UTF-8."""
    known: dict[str, list[str]] = {}

    def column(path: str, line: int, offset: int) -> int:
        if not offset:
            return 0
        if path not in known:
            content = raw(path)
            # Where each character is a byte nothing is to be done.
            known[path] = [] if content.isascii() else lines_of(content)
        lines = known[path]
        if not 0 < line <= len(lines):
            return offset
        return len(lines[line - 1].encode("utf-8", "replace")[:offset].decode("utf-8", "replace"))

    return [
        found._replace(
            column=column(found.path, found.line, found.column),
            sites=tuple(s._replace(column=column(s.path, s.line, s.column)) for s in found.sites),
        )
        for found in findings
    ]


def lines_of(raw: bytes) -> list[str]:
    """The lines of a source text as Python counts them, without their ends."""
    encoding = "utf-8"
    if not raw.isascii():
        import io
        import tokenize

        with contextlib.suppress(SyntaxError, LookupError):
            encoding = tokenize.detect_encoding(io.BytesIO(raw).readline)[0]
    text = raw.decode(encoding, "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n")


def suppression(comment: str) -> tuple[tuple[str, ...], str] | None:
    """(rules, reason) of a suppression comment."""
    match = re.search(_IGNORE, comment)
    if match is None:
        return None
    rules = tuple(r.strip().upper() for r in (match[1] or "").split(",") if r.strip())
    return rules, match[2].strip()


def comments(raw: bytes) -> list[tuple[int, tuple[str, ...], str]]:
    """The suppression comments of a file: (line, rules, reason); no rules means that none was named."""
    import io
    import tokenize

    found: list[tuple[int, tuple[str, ...], str]] = []
    try:
        for token in tokenize.tokenize(io.BytesIO(raw).readline):
            if token.type != tokenize.COMMENT:
                continue
            said = suppression(token.string)
            if said is not None:
                found.append((token.start[0], *said))
    except (tokenize.TokenError, SyntaxError):
        return found
    return found
