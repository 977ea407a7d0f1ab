"""A value that a workload takes from an earlier answer: `{{login.response.body.$.session_id}}`.

A reference is checked when the file is read and looked up when its step is sent. Four ways lead into
an answer: a header's or a cookie's name, a JSONPath (members and indexes only) and an XPath over HTML or XML. What a
reference cannot find is never replaced by something else: the step that needs it is not sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from anypod.errors import MissingExtra
from anypod.prove.model import Response

PLACEHOLDER = re.compile(r"\{\{((?:(?!\{\{).){0,1000}?)\}\}", re.DOTALL)
NAME = r"[A-Za-z_][A-Za-z0-9_-]*"

_REFERENCE = re.compile(
    rf"\s*({NAME})\.(response|request)\.(body|headers|cookies)(?:\.(.+?))?\s*", re.DOTALL
)
_MEMBER = re.compile(
    r"""\.(?P<plain>[^.\[\]\s*'"()?@]+) | \[\s*(?P<index>-?\d+)\s*\]"""
    r""" | \[\s*'(?P<single>(?:[^'\\]|\\.)*)'\s*\] | \[\s*"(?P<double>(?:[^"\\]|\\.)*)"\s*\]""",
    re.VERBOSE,
)
_CHARSET = re.compile(r"charset\s*=\s*\"?([\w.:-]+)", re.IGNORECASE)
_SHOWN = 60  # characters of a value that a message repeats


class NotFound(Exception):
    """A reference found nothing in the answer; the message says what was there instead."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One parsed reference.

    Attributes:
        expression: as written, without the braces.
        name: the step whose answer it reads.
        part: "body", "headers" or "cookies".
        path: a JSONPath, an XPath, `*` for the whole body, or a header's or a cookie's name.
    """

    expression: str
    name: str
    part: str
    path: str

    @classmethod
    def parse(cls, expression: str) -> Reference | None:
        """The reference that an expression is, or None when it is a plain variable.

        Raises:
            ValueError: it has the form of a reference but can never find anything.
            MissingExtra: it is an XPath and lxml is not installed.
        """
        match = _REFERENCE.fullmatch(expression)
        if match is None:
            return None
        name, side, part, path = match.groups()
        written = expression.strip()
        if side == "request":
            message = f"expected a value from a response, got {written!r}: requests are not kept"
            raise ValueError(message)
        if not path:
            example = {"body": "$.id", "headers": "Location", "cookies": "csrftoken"}[part]
            raise ValueError(f"expected a path after {written!r}, for example {written}.{example}")
        if part == "body":
            _check_path(path)
        return cls(written, name, part, path)

    def find(self, response: Response) -> str:
        """The text that this reference stands for.

        Raises:
            NotFound: nothing is there.
        """
        if self.part == "headers":
            return _header(response, self.path)
        if self.part == "cookies":
            return _cookie(response, self.path)
        if self.path == "*":
            return body_text(response)
        if self.path.startswith("$"):
            return _json(response, self.path)
        return _xpath(response, self.path)

    @property
    def parameter(self) -> str:
        """What a route calls the value: `id` for `$.items[0].id`, `location` for the header."""
        words = re.findall(r"[A-Za-z_]\w*", self.path)
        if not words or self.path.startswith("/"):
            return "id"
        return str(words[-1]).lower() if self.part != "body" else str(words[-1])


def references(text: str) -> Iterator[Reference]:
    """The references in a template, in order."""
    for match in PLACEHOLDER.finditer(text):
        reference = Reference.parse(match[1])
        if reference is not None:
            yield reference


def body_text(response: Response) -> str:
    """The body as text: in the charset it declares, else UTF-8; undecodable bytes are replaced."""
    declared = _CHARSET.search(response.header("content-type") or "")
    try:
        return response.body.decode(declared[1] if declared else "utf-8", "replace")
    except LookupError:
        return response.body.decode("utf-8", "replace")


def _check_path(path: str) -> None:
    if path == "*":
        return
    if path.startswith("$"):
        _members(path)
        return
    if not path.startswith(("/", "(", "string(", "normalize-space(", "substring")):
        message = f"expected a JSONPath ($.…), an XPath (//…) or *, got {path!r}"
        raise ValueError(message)
    _compiled(path)


def _members(path: str) -> list[str | int]:
    members: list[str | int] = []
    at = 1
    while at < len(path):
        match = _MEMBER.match(path, at)
        if match is None:
            message = (
                f"expected .member, ['member'] or [index] at {path[at:]!r} in {path!r}"
                " (wildcards, slices and filters are not supported)"
            )
            raise ValueError(message)
        if match["index"] is not None:
            members.append(int(match["index"]))
        else:
            quoted = match["single"] if match["single"] is not None else match["double"]
            members.append(match["plain"] or re.sub(r"\\(.)", r"\1", quoted or ""))
        at = match.end()
    return members


def _header(response: Response, name: str) -> str:
    value = response.header(name)
    if value is None:
        present = ", ".join(dict.fromkeys(key for key, _ in response.headers))
        raise NotFound(f"the answer ({response.status}) has no header {name}; it has {present}")
    return value


def _cookie(response: Response, name: str) -> str:
    for key, value in response.headers:
        pair = value.partition(";")[0]
        if key == "set-cookie" and pair.partition("=")[0].strip() == name:
            return pair.partition("=")[2].strip().strip('"')
    raise NotFound(f"the answer ({response.status}) sets no cookie {name}")


def _json(response: Response, path: str) -> str:
    try:
        value: Any = json.loads(body_text(response))
    except (ValueError, RecursionError):
        shown = body_text(response)[:_SHOWN]
        message = f"the answer ({response.status}) is not JSON: {shown!r}"
        raise NotFound(message) from None
    walked = "$"
    for member in _members(path):
        try:
            if isinstance(member, int) != isinstance(value, list):
                raise KeyError  # noqa: TRY301  # one way out for everything that is not there
            value = value[member]
        except (KeyError, IndexError, TypeError):
            shown = json.dumps(value, ensure_ascii=False)[:_SHOWN]
            missing = f"[{member}]" if isinstance(member, int) else f".{member}"
            message = (
                f"the answer ({response.status}) has no {walked}{missing}: {walked} is {shown}"
            )
            raise NotFound(message) from None
        walked += f"[{member}]" if isinstance(member, int) else f".{member}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _compiled(path: str) -> Any:  # lxml's evaluators have no useful type
    try:
        from lxml import etree
    except ModuleNotFoundError:
        raise MissingExtra("an XPath in a workload", "prove") from None
    try:
        return etree.XPath(path)
    except etree.XPathError as bad:
        raise ValueError(f"expected an XPath, got {path!r}: {bad}") from None


def _xpath(response: Response, path: str) -> str:
    evaluate = _compiled(path)
    from lxml import etree

    kind = (response.header("content-type") or "").lower()
    parser: Any
    if "xml" in kind and "html" not in kind:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True)
    else:
        parser = etree.HTMLParser(no_network=True, encoding="utf-8")
    try:
        root = etree.fromstring(body_text(response).encode(), parser)
        found = None if root is None else evaluate(root)
    except (etree.XMLSyntaxError, etree.XPathError, ValueError) as unreadable:
        message = f"the answer ({response.status}) cannot be searched for {path}: {unreadable}"
        raise NotFound(message) from None
    if isinstance(found, list):
        found = found[0] if found else None
    if found is None:
        message = f"the answer ({response.status}) has nothing at {path}"
        raise NotFound(message)
    if isinstance(found, str):
        return str(found)
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, float):
        return str(int(found)) if found.is_integer() else str(found)
    return "".join(found.itertext())
