"""Changes to the user's files: single lines, in the file's own encoding and line ends, all of a file or nothing.

A file is written beside itself and renamed over, so that no reader ever sees a half. It is left alone when it cannot
be decoded, when it is no longer what was read, and when the new text would not be the program that was meant.
"""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

from anypod.check.model import Fix, Problem
from anypod.check.sources import suppression

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|$)")
_RULES = re.compile(r"(?<=ignore)\[[^\]]*\]")
_IGNORE = re.compile(r"\s*#\s*anypod:\s*ignore\b.*")


class Text(NamedTuple):
    """A file's text as Python reads it."""

    raw: bytes
    encoding: str
    lines: list[str]
    """With their ends."""


class Change(NamedTuple):
    """What a file is and what it would become."""

    path: str
    before: Text
    after: list[str]


class Refused(Exception):
    """A file that is left alone, and why."""


def read(path: str) -> Text:
    """Decode a file.

    Raises:
        Refused: it cannot be read, or writing it back would not give the same bytes.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            raw = file.read()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding)
        same = text.encode(encoding) == raw
    except OSError as error:
        raise Refused(f"cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError, LookupError) as error:
        raise Refused(f"cannot be decoded: {error}") from None
    if not same:
        raise Refused(f"cannot be written back in {encoding} as it is")
    return Text(raw, encoding, [line for line in _LINE.findall(text) if line])


def write(change: Change) -> None:
    """Put the new text in the place of the old one.

    Raises:
        Refused: the file is not what it was, or cannot be written.
    """
    target = os.path.realpath(change.path)
    temporary = f"{target}.anypod-{os.getpid()}"
    try:
        mode = os.stat(target).st_mode  # noqa: PTH116  # pathlib costs a tenth of the start
        with open(temporary, "xb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            file.write("".join(change.after).encode(change.before.encoding))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # noqa: PTH101  # pathlib costs a tenth of the start
        with open(target, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            if file.read() != change.before.raw:
                raise Refused("was changed meanwhile")
        os.replace(temporary, target)  # noqa: PTH105  # pathlib costs a tenth of the start
    except (OSError, UnicodeEncodeError) as error:
        raise Refused(f"cannot be written: {error}") from None
    finally:
        if os.path.exists(temporary):  # noqa: PTH110  # pathlib costs a tenth of the start
            os.unlink(temporary)  # noqa: PTH108  # pathlib costs a tenth of the start


def planned(fixes: tuple[Fix, ...]) -> tuple[list[Change], list[Problem]]:
    """The changes that fixes make, by file, and the files that are left alone."""
    by_path: dict[str, list[Fix]] = {}
    for fix in fixes:
        by_path.setdefault(fix.path, []).append(fix)
    changes, problems = [], []
    for path, mine in by_path.items():
        try:
            changes.append(_without_comments(path, mine))
        except Refused as refused:
            problems.append(Problem(path, 0, f"is not fixed: it {refused}"))
    return changes, problems


def _without_comments(path: str, fixes: list[Fix]) -> Change:
    """The file without the comments (or the rules in them) that cover nothing."""
    text = read(path)
    after = list(text.lines)
    for fix in fixes:
        start = _comment_of(text, fix)
        line = after[fix.line - 1]
        end = line[len(line.rstrip("\r\n")) :]
        comment = line[start:].rstrip("\r\n")
        if fix.keep:
            changed = _RULES.sub(f"[{','.join(fix.keep)}]", comment, count=1)
            after[fix.line - 1] = f"{line[:start]}{changed}{end}"
            continue
        # What another tool is told in the same comment stays.
        left = line[:start] + _IGNORE.sub("", comment)
        after[fix.line - 1] = f"{left.rstrip()}{end}" if left.strip() else ""
    change = Change(path, text, after)
    _same_program(change)
    return change


def _same_program(change: Change) -> None:
    after = "".join(change.after).encode(change.before.encoding)
    try:
        same = ast.dump(ast.parse(change.before.raw)) == ast.dump(ast.parse(after))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"cannot be read as Python: {error}") from None
    if not same:
        raise Refused("would not be the same program")


def _comment_of(text: Text, fix: Fix) -> int:
    """Where the comment begins that is meant."""
    try:
        for token in tokenize.tokenize(io.BytesIO(text.raw).readline):
            if token.type == tokenize.COMMENT and token.start[0] == fix.line:
                if suppression(token.string) == (fix.rules, fix.reason):
                    return token.start[1]
                break
    except (tokenize.TokenError, SyntaxError):
        pass
    raise Refused("was changed meanwhile")


def diff(changes: list[Change]) -> str:
    """The changes as a unified diff."""
    import difflib

    parts: list[str] = []
    for change in changes:
        parts.extend(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(
                change.before.lines, change.after, change.path, change.path
            )
        )
    return "".join(parts)


def with_comments(path: str, comments: dict[int, str]) -> tuple[Change, int]:
    """The file with comments at the ends of these lines, where one may stand, and how many those are.

    Raises:
        Refused: the file is left as it is.
    """
    text = read(path)
    after = list(text.lines)
    taken = set(_without_room(text))
    count = 0
    for number, comment in comments.items():
        if number in taken or number > len(after):
            continue
        line = after[number - 1]
        body = line.rstrip("\r\n")
        after[number - 1] = f"{body}  {comment}{line[len(body) :]}"
        count += 1
    change = Change(path, text, after)
    _same_program(change)
    return change, count


def _without_room(text: Text) -> Iterator[int]:
    """Lines at whose end no comment may stand: inside a string, or continued by a backslash."""
    for number, line in enumerate(text.lines, 1):
        if line.rstrip("\r\n").endswith("\\"):
            yield number
    opened: list[int] = []
    try:
        for token in tokenize.tokenize(io.BytesIO(text.raw).readline):
            name = tokenize.tok_name[token.type]
            if name == "FSTRING_START":
                opened.append(token.start[0])
            elif name == "FSTRING_END":
                yield from range(opened.pop(), token.end[0])
            elif name == "STRING":
                yield from range(token.start[0], token.end[0])
    except (tokenize.TokenError, SyntaxError):
        return
