"""Reads `.http` text into steps: blocks between `###`, each with comments, variables and one request.

Two passes. The first cuts the text into blocks and notes every variable and name with its line; the
second fills the variables in and checks what each reference names. Every refusal is a `WorkloadError`
that says what was expected and what stood there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from anypod.errors import ConfigurationError
from anypod.prove.model import Step
from anypod.prove.workload_fill import is_loopback
from anypod.prove.workload_reference import NAME, PLACEHOLDER, Reference, references
from anypod.prove.workload_route import labels
from anypod.prove.workload_variables import BadVariable, Definition, Variables

METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"),
    # of WebDAV and CalDAV (RFC 3253, 3744, 4791, 4918, 5323), which editors take too
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK"),
    *("REPORT", "SEARCH", "MKCALENDAR", "ACL"),
)
DIRECTIVES = ("@name", "@client", "@retry", "@stale", "@status", "@no-redirect")
PRIVATE = "http-client.private.env.json"  # where editors keep secrets, by environment
ENVIRONMENT = "anypod"
MAX_INCLUDED = 8 * 1024 * 1024  # bytes of one `< ./file`

_SEPARATOR = re.compile(r"###")
_DIRECTIVE = re.compile(r"(?:#+|//)\s*@(\S+?)(?:\s*=\s*|\s+|$)(.*)")
_VARIABLE = re.compile(r"@([^\s=]+)\s*=\s*(.*)")
_REQUEST = re.compile(r"(?P<method>[A-Za-z]+)\s+(?P<target>.+)")
_HTTP_VERSION = re.compile(r"\s+HTTP/\d+(?:\.\d+)?$")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*:\s*(.*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SCRIPT = re.compile(r"<>\s|>>!?\s*\S|>\s*(?:\{%|\S+\.js$)|<\s*\{%")
_INCLUDE = re.compile(r"<(@?)\s+(\S.*)")
_NEXT_REQUEST = re.compile(rf"(?:{'|'.join(METHODS)}) (?:/|https?://|\{{\{{)\S*(?: HTTP/[\d.]+)?")
_VARIABLE_HOST = re.compile(r"https?://\{\{[^{}]*\}\}(?::(?:\d+|\{\{[^{}]*\}\}))?")
_URL = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_BARE_HOST = re.compile(r"([A-Za-z0-9.-]+(?::\d+)?|\[[0-9a-f:]+\](?::\d+)?)([/?].*)?", re.DOTALL)
_SHOWN = 60  # characters of a line that a message repeats


class WorkloadError(ConfigurationError):
    """A workload file that cannot be run as it stands.

    Attributes:
        path: the file, or the URL that it came from.
        line: 1-based, or None when it is about the file as a whole.
        problem: what was expected and what was there.
    """

    def __init__(self, path: Path | str, line: int | None, problem: str) -> None:
        self.path, self.line, self.problem = path, line, problem
        place = str(path) if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {problem}")


@dataclass(slots=True)
class _Block:
    """What stands between two `###`, before any variable is filled in; lines keep their numbers."""

    line: int = 0
    method: str = ""
    target: str = ""
    name: str | None = None
    client: str = "default"
    retry: bool = False
    stale: float | None = None
    recorded: int | None = None
    headers: list[tuple[str, str, int]] = field(default_factory=list)
    body: list[tuple[str, int]] = field(default_factory=list)
    directives: dict[str, int] = field(default_factory=dict)


def read(text: str, path: Path) -> tuple[Step, ...]:
    """The steps of a workload.

    Args:
        text: the file's content.
        path: what errors call the file, and where `< ./file` starts from.

    Raises:
        WorkloadError: a line is not what the format expects.
        MissingExtra: it has an XPath and lxml is not installed.
    """
    return _Reader(path).read(text)


def reads_back(body: str, content_type: str) -> bool:
    """Whether a body that is written into a workload is read as the same body.

    Args:
        body: its text.
        content_type: the value of its Content-Type header, or empty.
    """
    kind = f"Content-Type: {content_type}\n" if content_type else ""
    try:
        steps = _Reader(Path(os.devnull)).read(f"POST /\n{kind}\n{body}\n")
    except WorkloadError:
        return False
    lines = "\r\n" if content_type.startswith("multipart/") else "\n"
    return len(steps) == 1 and steps[0].body == body.replace("\n", lines)


class _Reader:
    """One file being read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._variables = Variables(self._private())
        self._names: dict[str, int] = {}  # a step's name: its line
        self._seen: set[str] = set()  # names of the steps already built

    def read(self, text: str) -> tuple[Step, ...]:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if not text.strip():
            raise self._error(None, "expected at least one request, got an empty file")
        blocks = [block for chunk in _chunks(lines) if (block := self._block(chunk)) is not None]
        if not blocks:
            message = "expected at least one request, for example 'GET /', got only comments"
            raise self._error(None, message)
        steps = [self._step(index, block) for index, block in enumerate(blocks)]
        routes = labels([(block.method, self._route_target(block)) for block in blocks])
        named: dict[str, str] = {}
        for index, step in enumerate(steps):
            followed = PLACEHOLDER.fullmatch(step.target)
            reference = Reference.parse(followed[1]) if followed is not None else None
            if reference is not None:  # its path is only known when it is sent
                routes[index] = f"{step.method} ({reference.path} of {named[reference.name]})"
            if step.name is not None:
                named[step.name] = routes[index]
        return tuple(replace(step, route=route) for step, route in zip(steps, routes, strict=True))

    def _error(self, line: int | None, problem: str) -> WorkloadError:
        return WorkloadError(self._path, line, problem)

    def _private(self) -> dict[str, str]:
        """The variables of ours in the file beside the workload that is kept out of version control."""
        file = self._path.parent / PRIVATE
        try:
            found = json.loads(file.read_bytes())
        except OSError:
            return {}
        except ValueError as bad:
            raise WorkloadError(file, None, f"expected JSON, got {bad}") from None
        own = found.get(ENVIRONMENT, {}) if isinstance(found, dict) else None
        if not isinstance(own, dict):
            message = f'expected {{"{ENVIRONMENT}": {{"name": "value"}}}}, got something else'
            raise WorkloadError(file, None, message)
        return {name: str(value) for name, value in own.items()}

    # The first pass: lines into blocks.

    def _block(self, chunk: list[tuple[str, int]]) -> _Block | None:
        block = _Block()
        lines = iter(chunk)
        for line, number in lines:
            stripped = line.strip()
            if not stripped:
                continue
            if stripped.startswith(("#", "//")):
                self._comment(block, stripped, number)
            elif variable := _VARIABLE.fullmatch(stripped):
                self._define(variable[1], variable[2], number)
            else:
                self._request_line(block, stripped, number)
                break
        if not block.method:
            if block.directives:
                directive, number = next(iter(block.directives.items()))
                message = f"expected a request below {directive}, got the end of its block"
                raise self._error(number, message)
            return None
        self._head(block, lines)
        self._body(block, lines)
        return block

    def _define(self, name: str, value: str, line: int) -> None:
        if not re.fullmatch(NAME, name):
            message = f"expected a variable's name (letters, digits, - and _), got {name!r}"
            raise self._error(line, message)
        self._variables.define(Definition(name, value.strip(), line))

    def _comment(self, block: _Block, comment: str, line: int) -> None:
        match = _DIRECTIVE.fullmatch(comment)
        if match is None:
            return
        directive, value = "@" + match[1], match[2].strip()
        if directive not in DIRECTIVES:
            expected = ", ".join(DIRECTIVES[:-1])
            message = f"expected one of {expected} after '#', got {directive!r}"
            raise self._error(line, message)
        if directive in block.directives:
            before = block.directives[directive]
            message = f"expected {directive} once per request, got it again after line {before}"
            raise self._error(line, message)
        block.directives[directive] = line
        if directive == "@name":
            block.name = self._identifier(directive, value, line)
            if block.name in self._names:
                before = self._names[block.name]
                message = f"expected a new name, got {block.name!r}, which line {before} has"
                raise self._error(line, message)
            self._names[block.name] = line
        elif directive == "@client":
            block.client = self._identifier(directive, value, line)
        elif directive == "@stale":
            block.stale = self._duration(value, line)
        elif directive == "@status":
            block.recorded = self._status(value, line)
        elif value:
            raise self._error(line, f"expected nothing after {directive}, got {value!r}")
        else:
            block.retry = block.retry or directive == "@retry"

    def _identifier(self, directive: str, value: str, line: int) -> str:
        if not re.fullmatch(NAME, value):
            message = f"expected a name (letters, digits, - and _) after {directive}, got {value!r}"
            raise self._error(line, message)
        return value

    def _duration(self, value: str, line: int) -> float:
        match = _DURATION.fullmatch(value)
        if match is None:
            message = f"expected a duration like 500ms, 30s, 5m or 1h after @stale, got {value!r}"
            raise self._error(line, message)
        return float(match[1]) * _SECONDS[match[2]]

    def _status(self, value: str, line: int) -> int:
        if not re.fullmatch(r"[1-5]\d\d", value):
            message = f"expected a status such as 200 after @status, got {value!r}"
            raise self._error(line, message)
        return int(value)

    def _request_line(self, block: _Block, line: str, number: int) -> None:
        if _SCRIPT.match(line):
            message = f"expected a request line, got the script or redirection {line[:_SHOWN]!r}"
            raise self._error(number, f"{message}; scripts are not run")
        block.line = number
        if line.startswith(("/", "http://", "https://", "{{")):
            block.method, block.target = "GET", _HTTP_VERSION.sub("", line)
            return
        match = _REQUEST.fullmatch(line)
        if match is None or match["method"] not in METHODS:
            message = (
                f"expected a request line such as 'GET /path', got {line[:_SHOWN]!r}"
                f" (methods: {', '.join(METHODS)})"
            )
            raise self._error(number, message)
        block.method, block.target = match["method"], _HTTP_VERSION.sub("", match["target"])

    def _head(self, block: _Block, lines: Iterator[tuple[str, int]]) -> None:
        """Continuations of the query, then headers, up to the blank line."""
        for line, number in lines:
            stripped = line.strip()
            if not stripped:
                return
            if stripped.startswith(("#", "//")):
                self._comment(block, stripped, number)
            elif not block.headers and stripped[0] in "?&":
                block.target += _HTTP_VERSION.sub("", stripped)
            elif header := _HEADER.fullmatch(stripped):
                if header[1].lower() == "x-request-type":
                    message = f"expected a plain HTTP request, got {stripped[:_SHOWN]!r}"
                    raise self._error(number, message)
                block.headers.append((header[1], header[2], number))
            else:
                message = f"expected a header 'Name: value' or a blank line before the body, got {stripped[:_SHOWN]!r}"
                raise self._error(number, message)

    def _body(self, block: _Block, lines: Iterator[tuple[str, int]]) -> None:
        body = list(lines)
        while body and not body[-1][0].strip():
            body.pop()
        while body and not body[0][0].strip():
            body.pop(0)
        for line, number in body:
            stripped = line.strip()
            if _SCRIPT.match(stripped):
                message = f"expected a body, got the script or redirection {stripped[:_SHOWN]!r}; scripts are not run"
                raise self._error(number, message)
            directive = _DIRECTIVE.fullmatch(stripped)
            if (directive is not None and "@" + directive[1] in DIRECTIVES) or (
                _VARIABLE.fullmatch(line) or _NEXT_REQUEST.fullmatch(stripped)
            ):
                message = f"expected '###' before the next request, got {stripped[:_SHOWN]!r} in the body of line {block.line}"
                raise self._error(number, message)
        block.body = body

    # The second pass: blocks into steps.

    def _fill(self, text: str, index: int, line: int) -> str:
        """Text with its variables filled in and its references checked."""
        try:
            filled = self._variables.fill(text, line, seed=index)
            for reference in references(filled):
                self._check_reference(reference, line)
        except BadVariable as bad:
            raise self._error(bad.line, bad.problem) from None
        except ValueError as bad:
            raise self._error(line, str(bad)) from None
        return filled

    def _fill_line(self, text: str, index: int, line: int) -> str:
        """The same for a target or a header, where braces are nothing else."""
        filled = self._fill(text, index, line)
        if "{{" in PLACEHOLDER.sub("", text):
            raise self._error(line, f"expected '}}}}' after '{{{{', got {text[:_SHOWN]!r}")
        return filled

    def _check_reference(self, reference: Reference, line: int) -> None:
        named_at = self._names.get(reference.name)
        if named_at is None:
            message = f"expected a request with '# @name {reference.name}' above, got {{{{{reference.expression}}}}}"
            raise self._error(line, message)
        if reference.name not in self._seen:
            message = f"expected a reference to an earlier request, got {reference.name!r}, which line {named_at} names"
            raise self._error(line, message)

    def _step(self, index: int, block: _Block) -> Step:
        target = self._target(block, index)
        headers = tuple((n, self._fill_line(v, index, at)) for n, v, at in block.headers)
        body, payload = self._content(block, index, headers)
        if block.name is not None:
            self._seen.add(block.name)
        return Step(
            index,
            block.method,
            target,
            block.line,
            name=block.name,
            headers=headers,
            body=body,
            client=block.client,
            retry=block.retry,
            stale=block.stale,
            payload=payload,
            recorded=block.recorded,
        )

    def _target(self, block: _Block, index: int) -> str:
        raw = _VARIABLE_HOST.sub("", block.target) if _VARIABLE_HOST.match(block.target) else None
        if raw is not None:
            return self._fill_line(_rooted(raw), index, block.line)
        filled = self._fill_line(block.target, index, block.line)
        return self._path_of(filled, block)

    def _path_of(self, filled: str, block: _Block) -> str:
        by_variable = block.target.startswith("{{")
        if filled.startswith("/"):
            return filled
        if url := _URL.fullmatch(filled):
            if by_variable or is_loopback(url[1]):
                return _rooted(url[2])
            message = f"expected a path or a loopback URL, got the host {url[1]!r}: replicas answer on loopback only"
            raise self._error(block.line, message)
        if by_variable and filled.startswith("{{"):
            return filled  # a Location or a link, followed as the answer gave it
        bare = _BARE_HOST.fullmatch(filled)
        if bare is not None and (by_variable or is_loopback(bare[1])):
            return _rooted(bare[2] or "")
        message = (
            f"expected a path that starts with '/', or http://localhost/…, got {filled[:_SHOWN]!r}"
        )
        raise self._error(block.line, message)

    def _route_target(self, block: _Block) -> str:
        """The target with the host and a leading variable filled in, the others left by name."""
        host = _VARIABLE_HOST.match(block.target)
        if host is not None:
            return _rooted(block.target[host.end() :])
        leading = PLACEHOLDER.match(block.target)
        if leading is None:
            return self._path_of(block.target, block)
        prefix = self._variables.fill(leading[0], block.line, seed=0)
        return self._path_of(prefix + block.target[leading.end() :], block)

    def _content(
        self, block: _Block, index: int, headers: tuple[tuple[str, str], ...]
    ) -> tuple[str | None, bytes | None]:
        if not block.body:
            return None, None
        kind = next((v.lower() for n, v in headers if n.lower() == "content-type"), "")
        first, line = block.body[0]
        include = _INCLUDE.fullmatch(first.strip())
        if include is not None:
            if len(block.body) > 1:
                message = f"expected the included file to be the whole body, got {block.body[1][0][:_SHOWN]!r} after it"
                raise self._error(block.body[1][1], message)
            content = self._included(include[2], line)
            if not include[1]:
                return None, content
            try:
                return self._fill(content.decode("utf-8-sig"), index, line), None
            except UnicodeDecodeError:
                message = (
                    f"expected UTF-8 in {include[2]!r}, which '<@' fills in; '<' sends it as it is"
                )
                raise self._error(line, message) from None
        lines = [self._fill(text, index, at) for text, at in block.body]
        if "x-www-form-urlencoded" in kind:
            return "".join(text.strip() for text in lines), None
        return ("\r\n" if kind.startswith("multipart/") else "\n").join(lines), None

    def _included(self, name: str, line: int) -> bytes:
        file = self._path.parent / name
        try:
            if file.stat().st_size > MAX_INCLUDED:
                message = f"expected a file of at most {MAX_INCLUDED} bytes, got {file}"
                raise self._error(line, message)
            return file.read_bytes()
        except (OSError, ValueError) as failed:
            reason = failed.strerror if isinstance(failed, OSError) else str(failed)
            message = f"expected a file to send, got {name!r}: {reason}"
            raise self._error(line, message) from None


def _chunks(lines: list[str]) -> Iterator[list[tuple[str, int]]]:
    chunk: list[tuple[str, int]] = []
    for number, line in enumerate(lines, 1):
        if _SEPARATOR.match(line):
            yield chunk
            chunk = []
        else:
            chunk.append((line, number))
    yield chunk


def _rooted(path: str) -> str:
    return path if path.startswith("/") else "/" + path
