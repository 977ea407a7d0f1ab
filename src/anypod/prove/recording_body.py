"""Rewrites the values of a request, wherever they stand: in its path, its query, a form or JSON.

Only what has to be rewritten is: a request without a reference or a secret is written as it was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, quote_plus, unquote

from anypod.prove.model import Request
from anypod.prove.recording_values import Place
from anypod.prove.workload_read import reads_back

__all__ = ["Body", "rewrite_body", "rewrite_target"]

Rewrite = Callable[[Place, str], str]
_INLINE = 64 << 10  # characters of a body that stands in the workload itself
_WIDE = 100  # columns of JSON on one line
_PART = re.compile(  # a field of a multipart form that is no file
    r'(?P<head>Content-Disposition: form-data; name="(?P<name>[^"\n]*)"\n\n)(?P<value>[^\n]*)(?=\n--)',
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Body:
    """A body as the workload has it: text in it, or bytes beside it.

    Attributes:
        text: None when it cannot stand in the file.
        raw: what was sent.
    """

    text: str | None
    raw: bytes | None


def rewrite_target(target: str, rewrite: Rewrite) -> str:
    """A target with its values rewritten."""
    path, mark, query = target.partition("?")
    before = ""
    parts: list[str] = []
    for part in path.split("/"):
        value = unquote(part)
        new = rewrite(Place("segment", before), value) if value else value
        parts.append(part if new == value else new)
        before = value
    return "/".join(parts) + mark + _pairs(query, "query", rewrite)


def rewrite_body(request: Request, rewrite: Rewrite) -> Body:
    """A body with its values rewritten; one that cannot stand in a workload is left as bytes."""
    raw = request.body
    if not raw:
        return Body(None, None)
    given = next((v for n, v in request.headers if n.lower() == "content-type"), "")
    kind = given.lower()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return Body(None, raw)
    if kind.startswith("multipart/"):
        text = text.replace("\r\n", "\n").rstrip("\n")
    elif "json" in kind:
        text = text.strip()
    if "{{" in text or len(text) > _INLINE or not reads_back(text, given):
        return Body(None, raw)
    if kind.startswith("multipart/"):
        return Body(_PART.sub(partial(_part, rewrite), text), raw)
    if "x-www-form-urlencoded" in kind:
        return Body(_pairs(text, "form", rewrite), raw)
    if "json" in kind:
        return Body(_json(text, rewrite), raw)
    return Body(text, raw)


def _part(rewrite: Rewrite, part: re.Match[str]) -> str:
    return part["head"] + rewrite(Place("multipart", part["name"]), part["value"])


def _pairs(text: str, kind: str, rewrite: Rewrite) -> str:
    """A query or a form; what is not of the form `name=value` stays."""
    pieces: list[str] = []
    for piece in text.split("&"):
        decoded = parse_qsl(piece, keep_blank_values=True)
        if len(decoded) != 1 or "=" not in piece:
            pieces.append(piece)
            continue
        name, value = decoded[0]
        new = rewrite(Place(kind, name), value)
        pieces.append(piece if new == value else f"{quote_plus(name)}={new}")
    return "&".join(pieces)


def _json(text: str, rewrite: Rewrite) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    marks: dict[str, str] = {}

    def walk(here: Any, name: str) -> Any:
        if isinstance(here, dict):
            return {key: walk(inner, str(key)) for key, inner in here.items()}
        if isinstance(here, list):
            return [walk(inner, name) for inner in here]
        if not isinstance(here, (str, int)) or isinstance(here, bool):
            return here
        was = here if isinstance(here, str) else str(here)
        new = rewrite(Place("json", name), was)
        if new == was:
            return here
        mark = f"\x00{len(marks)}\x00"
        marks[json.dumps(mark)] = json.dumps(new, ensure_ascii=False) if here == was else new
        return mark

    try:
        walked = walk(value, "")
    except RecursionError:
        return text
    if not marks:
        return text
    written = json.dumps(walked, ensure_ascii=False)
    if len(written) > _WIDE:
        written = json.dumps(walked, ensure_ascii=False, indent=2)
    for mark, new in marks.items():
        written = written.replace(mark, new)
    return written
