"""Reads a HAR file, what browsers and proxies export, into a recording.

A HAR is JSON of any size, most of it answers. It is never in memory as a whole: a first pass finds where
each entry begins and ends and whom it was sent to, a second one reads those of the service, in the order
of their time. The format: http://www.softwareishard.com/blog/har-12-spec/
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlencode, urlsplit

from anypod.prove.model import Request, Response
from anypod.prove.recording import Recording, is_asset
from anypod.prove.recording_values import MOST_BODY
from anypod.prove.workload_read import MAX_INCLUDED, WorkloadError

__all__ = ["NotThere", "read"]

MOST_ENTRY = 16 << 20  # bytes of one entry; a larger one is a download
MOST_BODIES = 64 << 20  # bytes of all that requests sent
_CHUNK = 1 << 20
_ENTRIES = re.compile(rb'"entries"\s*:\s*\[')
_OUTSIDE = re.compile(rb"[^{\]]*+")  # between entries
_INSIDE = re.compile(rb'[^"{}]*+')  # an entry, and no string
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TEXTUAL = re.compile(r"json|x-www-form-urlencoded|^text/")
_PORTS = {"http": 80, "https": 443}
_SECRET_HEADERS = frozenset({"cookie", "authorization", "set-cookie"})


class NotThere(WorkloadError):
    """No entry of the file can be in a workload."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an entry stands in the file, and what is known of it after the first pass."""

    number: int
    offset: int
    length: int
    origin: str
    began: float


@dataclass(slots=True)
class _Seen:
    """What the second pass saw of the service's entries."""

    secrets: bool = False
    hollow: int = 0  # answers whose content is not in the file
    bodies: int = 0  # bytes


@dataclass(slots=True)
class _Scanner:
    """Finds the entries of a HAR while the bytes go by; holds one chunk at a time."""

    path: Path
    entries: list[tuple[int, int]] = field(default_factory=list)  # offset and length
    _depth: int = 0
    _in_string: bool = False
    _start: int = 0

    def scan(self, file: BinaryIO) -> None:
        """Find all.

        Raises:
            WorkloadError: it is no HAR, or it ends in the middle.
        """
        before = b""
        base = 0
        while chunk := file.read(_CHUNK):
            before += chunk
            found = _ENTRIES.search(before)
            if found is not None:
                break
            base += max(0, len(before) - 256)
            before = before[-256:]
        else:
            message = (
                "expected a HAR: JSON with the entries of a log; export it as HAR with content"
            )
            raise WorkloadError(self.path, None, message)
        data, at = before, found.end()
        while True:
            at = self._run(data, at, base)
            if at < 0:
                return
            rest = data[at:]
            base += at
            chunk = file.read(_CHUNK)
            if not chunk:
                message = (
                    f"ends in the middle, after {len(self.entries)} whole entries: the export was "
                    "cut off; export it again"
                )
                raise WorkloadError(self.path, None, message)
            data, at = rest + chunk, 0

    def _run(self, data: bytes, at: int, base: int) -> int:
        """Go through a chunk; where to go on with the next one, or -1 after the last entry."""
        end = len(data)
        while at < end:
            if self._in_string:
                found = _STRING.match(data, at)
                assert found is not None  # it matches nothing too
                at = found.end()
                if (
                    at == end or data[at] == 0x5C
                ):  # a backslash whose character is in the next chunk
                    return at
                self._in_string = False
                at += 1
                continue
            found = (_INSIDE if self._depth else _OUTSIDE).match(data, at)
            assert found is not None  # as above
            at = found.end()
            if at == end:
                return at
            byte = data[at]
            if byte == 0x7B:  # {
                if not self._depth:
                    self._start = base + at
                self._depth += 1
            elif byte == 0x22:  # "
                self._in_string = True
            elif byte == 0x7D:  # }
                self._depth -= 1
                if not self._depth:
                    self.entries.append((self._start, base + at + 1 - self._start))
            else:  # ]
                return -1
            at += 1
        return at


def read(path: Path, recording: Recording, *, origin: str = "") -> tuple[str, ...]:
    """Add the exchanges of a HAR with one service to a recording.

    Args:
        path: of the HAR.
        recording: what they are added to.
        origin: "https://shop.example", the service; by default the origin that was sent the most
            requests which are no styles, scripts and images.

    Returns:
        What people should know: which origins were left out, and what the export lacks.

    Raises:
        WorkloadError: it cannot be read, or is no HAR.
        NotThere: it has no request to that origin.
    """
    try:
        with path.open("rb") as file:
            scanner = _Scanner(path)
            scanner.scan(file)
            return _Reading(path, file, recording).read(scanner.entries, origin)
    except OSError as failed:
        raise WorkloadError(path, None, f"cannot be read: {failed.strerror}") from None


class _Reading:
    """The entries of one file, once they are found."""

    def __init__(self, path: Path, file: BinaryIO, recording: Recording) -> None:
        self._path, self._file, self._recording = path, file, recording
        self._seen = _Seen()

    def read(self, entries: list[tuple[int, int]], wanted: str) -> tuple[str, ...]:
        places: list[_Place] = []
        sent: Counter[str] = Counter()
        telling: Counter[str] = Counter()  # of these, requests that are no files
        large = 0
        for number, (offset, length) in enumerate(entries, 1):
            if length > MOST_ENTRY:
                large += 1
                continue
            entry = self._entry(number, offset, length)
            url, began = _url(entry), _began(entry)
            origin = _origin(url)
            if not origin and url.startswith(("ws:", "wss:")):
                self._recording.leave_out_websocket(_path(url))
                continue
            if not origin:
                self._recording.leave_out(
                    "entries that are no request over HTTP (data:, blob:, extensions)"
                )
                continue
            places.append(_Place(number, offset, length, origin, began))
            sent[origin] += 1
            telling[origin] += not is_asset(*_exchange(entry, b"")) if _is_whole(entry) else 0
        if large:
            self._recording.leave_out(f"entries of more than {MOST_ENTRY >> 20} MiB", large)
        chosen = self._chosen(wanted, sent, telling)
        # Some exports are in the order in which answers ended.
        for place in sorted(places, key=lambda one: one.began):
            if place.origin == chosen:
                self._add(self._entry(place.number, place.offset, place.length))
        return self._notes(chosen, sent)

    def _chosen(self, wanted: str, sent: Counter[str], telling: Counter[str]) -> str:
        there = ", ".join(f"{origin} ({number})" for origin, number in sent.most_common(8))
        if not sent:
            raise NotThere(self._path, None, "expected requests over http or https, got none")
        if not wanted:
            return telling.most_common(1)[0][0]
        chosen = _origin(wanted) or _origin(f"http://{wanted}")
        if chosen not in sent:
            message = f"expected requests to {wanted}, got those to {there}"
            raise NotThere(self._path, None, message)
        return chosen

    def _entry(self, number: int, offset: int, length: int) -> dict[str, Any]:
        self._file.seek(offset)
        try:
            entry = json.loads(self._file.read(length))
        except (ValueError, RecursionError) as bad:
            raise WorkloadError(
                self._path, None, f"expected JSON in entry {number}, got {bad}"
            ) from None
        assert isinstance(entry, dict)  # it begins with a brace
        return entry

    def _add(self, entry: dict[str, Any]) -> None:
        recording = self._recording
        if not _is_whole(entry):
            recording.leave_out("requests without an answer (aborted, blocked or refused)")
            return
        body = _body(entry["request"])
        if body is None:
            recording.leave_out("requests whose body the export does not hold as it was sent")
            return
        if len(body) > MAX_INCLUDED or self._seen.bodies + len(body) > MOST_BODIES:
            recording.leave_out("requests whose body is too large for a workload")
            return
        self._seen.bodies += len(body)
        request, response = _exchange(entry, body)
        names = {name.lower() for name, _ in (*request.headers, *response.headers)}
        self._seen.secrets = self._seen.secrets or not _SECRET_HEADERS.isdisjoint(names)
        content = _dict(entry["response"], "content")
        kind = (response.header("content-type") or "").lower()
        self._seen.hollow += (
            _whole(content.get("size")) > 0
            and not response.body
            and ("json" in kind or "html" in kind)
        )
        recording.add(request, response)

    def _notes(self, chosen: str, sent: Counter[str]) -> tuple[str, ...]:
        notes = [f"the service is {chosen}, with {sent[chosen]} requests"]
        others = [(origin, number) for origin, number in sent.most_common() if origin != chosen]
        if others:
            told = ", ".join(f"{number} × {origin}" for origin, number in others[:5])
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            notes[0] += "; --origin URL takes another"
            notes.append(f"left out, other origins: {told}{more}")
        if not self._seen.secrets:
            notes.append(
                "no request carries Cookie or Authorization and no answer sets a cookie: Chrome and Edge "
                "leave them out unless asked. If the service has logins, switch on Settings › "
                "Preferences › Network › Allow to generate HAR with sensitive data, and export HAR "
                "(with sensitive data); Firefox's Save All As HAR has them. Else everything is one user"
            )
        if self._seen.hollow:
            notes.append(
                f"{self._seen.hollow} answers are without their content, so no value can be taken from "
                "them: export the HAR with content, before the page is left"
            )
        return tuple(notes)


def _dict(of: dict[str, Any], name: str) -> dict[str, Any]:
    value = of.get(name)
    return value if isinstance(value, dict) else {}


def _text(of: dict[str, Any], name: str) -> str:
    value = of.get(name)
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _url(entry: dict[str, Any]) -> str:
    return _text(_dict(entry, "request"), "url")


def _began(entry: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(_text(entry, "startedDateTime")).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _origin(url: str) -> str:
    """`scheme://host`, with the port unless it is the scheme's; empty for what is not HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in _PORTS or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own = port is None or port == _PORTS[parts.scheme]
    return f"{parts.scheme}://{host}" + ("" if own else f":{port}")


def _path(url: str) -> str:
    try:
        return urlsplit(url).path or "/"
    except ValueError:
        return "/"


def _is_whole(entry: dict[str, Any]) -> bool:
    status = _dict(entry, "response").get("status")
    return (
        isinstance(status, int)
        and 100 <= status <= 599
        and bool(_text(_dict(entry, "request"), "method"))
    )


def _headers(of: dict[str, Any]) -> Iterator[tuple[str, str]]:
    found = of.get("headers")
    for header in found if isinstance(found, list) else []:
        if isinstance(header, dict):
            name, value = _text(header, "name"), _text(header, "value")
            if name and not name.startswith(":"):  # HTTP/2's own
                yield from ((name, line) for line in value.split("\n"))


def _exchange(entry: dict[str, Any], body: bytes) -> tuple[Request, Response]:
    request, response = _dict(entry, "request"), _dict(entry, "response")
    url = urlsplit(_text(request, "url"))
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    sent = [(name, value) for name, value in _headers(request) if name.lower() != "host"]
    sent.append(("Host", url.netloc.rpartition("@")[2]))
    if url.scheme == "https" and "x-forwarded-proto" not in {name.lower() for name, _ in sent}:
        sent.append(("X-Forwarded-Proto", "https"))  # what stands in front of a service tells it so
    got = tuple((name.lower(), value) for name, value in _headers(response))
    content = _dict(response, "content")
    if "content-type" not in dict(got) and _text(content, "mimeType"):
        got += (("content-type", _text(content, "mimeType")),)
    method = _text(request, "method").upper()
    return (
        Request(method, target, tuple(sent), body or None),
        Response(_whole(response.get("status")), got, _content(content)),
    )


def _content(content: dict[str, Any]) -> bytes:
    """What was answered, as far as values can be taken from it."""
    text = _text(content, "text")
    if len(text) > 2 * MOST_BODY:
        return b""
    if _text(content, "encoding") == "base64":
        return _unpacked(text) or b""
    return text.encode("utf-8", "replace")


def _unpacked(text: str) -> bytes | None:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return None


def _body(request: dict[str, Any]) -> bytes | None:
    """What was sent; None when the file has it not, or not as it was.

    Browsers keep text. Bytes that are no text come as characters of Latin-1, replaced, or not at all,
    which the Content-Length tells.
    """
    data = _dict(request, "postData")
    length = next((v for n, v in _headers(request) if n.lower() == "content-length"), "")
    expected = int(length) if length.isdecimal() else max(_whole(request.get("bodySize")), 0)
    text, kind = _text(data, "text"), _text(data, "mimeType").lower()
    if _text(data, "encoding") == "base64":
        return _unpacked(text)
    if not text:
        params = data.get("params")
        if isinstance(params, list) and params and "multipart" not in kind:
            named = [one for one in params if isinstance(one, dict)]
            return urlencode([(_text(one, "name"), _text(one, "value")) for one in named]).encode()
        return b"" if not expected else None
    if "\ufffd" in text:
        return None
    plain = text.encode("utf-8", "replace")
    if len(plain) == expected or not expected or _TEXTUAL.search(kind):
        return plain
    try:
        raw = text.encode("latin-1")
    except UnicodeEncodeError:
        return None
    return raw if len(raw) == expected else None
