"""Walks two answers side by side and tells a visitor every place where they can differ.

The walk knows shapes (status, headers, cookies, JSON, markup, lines, bytes), the visitor knows what a
difference means. A place is named for people: `status`, `header location`, `cookie sid`,
`body $.items[0].id`, `body <input name="csrf"> value`, `body line 3`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from html import unescape
from typing import Any, NamedTuple, Protocol

from anypod.prove.model import Response
from anypod.prove.renaming import Numeral, claims, read_json, show
from anypod.prove.workload_reference import body_text

IGNORED = frozenset(
    [
        "date",
        "server",
        "connection",
        "keep-alive",
        "content-length",
        "transfer-encoding",
        "age",
        "via",
        "x-request-id",
        "x-correlation-id",
        "x-trace-id",
        "x-amzn-trace-id",
        "traceparent",
        "tracestate",
        "x-runtime",
        "x-process-time",
        "x-response-time",
        "server-timing",
        "set-cookie",
        "alt-svc",
    ]
)
_PRESENCE = frozenset({"retry-after", "x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset"})
_SETS = frozenset(
    [
        "vary",
        "allow",
        "cache-control",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-expose-headers",
    ]
)
_TEXT = ("text/", "xml", "javascript", "x-www-form-urlencoded", "yaml", "csv")
_DEEPEST = 100  # nesting of JSON that is compared by structure; deeper is compared as text
_PLAIN_MEMBER = re.compile(r"[A-Za-z_][\w-]*")
_COPY = re.compile(
    r"(?:(?:/|%2F)[\w.-]+)*?(?:/|%2F)anypod-\w{8}(?:/|%2F)(?:pod|slot-\d+)(?=/|%2F)", re.IGNORECASE
)


class Visitor(Protocol):
    """Who is told."""

    def leaf(self, where: str, expected: str, got: str) -> None:
        """Two values: text, or a `Numeral` each."""

    def wants_equal_bodies(self) -> bool:
        """Whether to walk bodies that are equal to the byte."""

    def differs(self, where: str, kind: str, expected: str, got: str) -> None:
        """The answers have another shape here."""

    def items(self, where: str, expected: list[Any], got: list[Any]) -> None:
        """Two JSON lists."""

    def members(self, where: str, expected: dict[str, Any], got: dict[str, Any]) -> None:
        """The members of two JSON objects that only one of them has."""


def walk(expected: Response, got: Response, visitor: Visitor) -> None:
    """Tell a visitor every place of two answers. After another status nothing else is compared."""
    if expected.status != got.status:
        visitor.differs("status", "status", str(expected.status), str(got.status))
        return
    expected, got = _placed(expected), _placed(got)
    _walk_headers(expected, got, visitor)
    _walk_cookies(expected, got, visitor)
    walk_body(expected, got, visitor)


def walk_json(where: str, expected: Any, got: Any, visitor: Visitor) -> None:
    """Tell a visitor every place of two JSON values."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for member, value in expected.items():
            if member in got:
                walk_json(below(where, member), value, got[member], visitor)
        if expected.keys() != got.keys():
            only = {k: v for k, v in expected.items() if k not in got}
            new = {k: v for k, v in got.items() if k not in expected}
            visitor.members(where, only, new)
    elif isinstance(expected, list) and isinstance(got, list):
        visitor.items(where, expected, got)
    elif type(expected) is not type(got):
        visitor.differs(where, "type", show(expected), show(got))
    elif isinstance(expected, Numeral):
        visitor.leaf(where, expected, got)
    elif isinstance(expected, str):
        walk_text(where, expected, got, visitor)
    elif expected != got:  # true and false; null equals null
        visitor.differs(where, "value", show(expected), show(got))


def below(where: str, member: str) -> str:
    """The place of an object's member."""
    return f"{where}.{member}" if _PLAIN_MEMBER.fullmatch(member) else f"{where}[{show(member)}]"


def _placed(response: Response) -> Response:
    """An answer that does not tell where the replica's copy of the project is.

    In production all pods have the project at one path; here each copy has its own.
    """
    if b"anypod-" not in response.body or b"\0" in response.body:
        return response
    body = response.body.decode("latin-1")
    return replace(response, body=_COPY.sub("/pod", body).encode("latin-1"))


def walk_text(where: str, expected: str, got: str, visitor: Visitor) -> None:
    """Tell a visitor about two texts, or about what they say when they are tokens."""
    if expected != got:
        if "anypod-" in expected:
            expected, got = _COPY.sub("/pod", expected), _COPY.sub("/pod", got)
        said, says = claims(expected), claims(got)
        if said is not None and says is not None:
            walk_json(f"{where} → $", said, says, visitor)
            return
    visitor.leaf(where, expected, got)


# Headers and cookies.


def _walk_headers(expected: Response, got: Response, visitor: Visitor) -> None:
    said, says = _headers(expected), _headers(got)
    for name in dict.fromkeys((*said, *says)):
        where = f"header {name}"
        if name not in says:
            visitor.differs(where, "missing", said[name], "no such header")
        elif name not in said:
            visitor.differs(where, "extra", "no such header", says[name])
        elif name not in _PRESENCE:
            walk_text(where, said[name], says[name], visitor)


def _headers(response: Response) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, value in response.headers:
        if name not in IGNORED:
            found.setdefault(name, []).append(value)
    return {name: _normal(name, ", ".join(values)) for name, values in found.items()}


def _normal(name: str, value: str) -> str:
    if name == "content-type":
        return re.sub(r"\s*;\s*", "; ", value.lower()).strip()
    if name in _SETS:
        return ", ".join(sorted(part.strip() for part in value.split(",")))
    if name in ("ratelimit", "ratelimit-policy"):
        return re.sub(r";\s*t=\d+", ";t=…", value)
    return value


def _walk_cookies(expected: Response, got: Response, visitor: Visitor) -> None:
    said, says = _cookies(expected), _cookies(got)
    for name in dict.fromkeys((*said, *says)):
        where = f"cookie {name}"
        if name not in says:
            visitor.differs(where, "missing", said[name][0], "no such cookie")
        elif name not in said:
            visitor.differs(where, "extra", "no such cookie", says[name][0])
        else:
            walk_text(where, said[name][0], says[name][0], visitor)
            if said[name][1] != says[name][1]:
                visitor.differs(f"{where} attributes", "value", said[name][1], says[name][1])


def _cookies(response: Response) -> dict[str, tuple[str, str]]:
    """By name: the value and the attributes; when it expires counts only as whether it has."""
    found: dict[str, tuple[str, str]] = {}
    for header, text in response.headers:
        if header != "set-cookie":
            continue
        pair, *rest = text.split(";")
        name, _, value = pair.partition("=")
        attributes = sorted(_attribute(part.strip()) for part in rest if part.strip())
        found[name.strip()] = (value.strip(), "; ".join(attributes))
    return found


def _attribute(text: str) -> str:
    name, _, value = text.partition("=")
    if name.lower() == "expires":
        return "expires=" + ("at once" if "1970" in value else "later")
    return f"{name.lower()}={value}" if value else name.lower()


# Bodies.


def walk_body(expected: Response, got: Response, visitor: Visitor) -> None:
    """Tell a visitor every place of two bodies."""
    if expected.body == got.body and not visitor.wants_equal_bodies():
        return
    said, says = _json_of(expected), _json_of(got)
    if said is not None and says is not None:
        walk_json("body $", said[0], says[0], visitor)
    elif said is not None or says is not None:
        visitor.differs("body", "type", _summary(expected, said), _summary(got, says))
    elif _is_text(expected) and _is_text(got):
        if _is_markup(expected) and _is_markup(got):
            _walk_pieces(_cached_markup(body_text(expected)), _markup(body_text(got)), visitor)
        else:
            _walk_pieces(_lines(body_text(expected)), _lines(body_text(got)), visitor)
    elif expected.body != got.body:
        visitor.differs("body", "bytes", _digest(expected.body), _digest(got.body))


def _json_of(response: Response) -> tuple[Any] | None:
    """The JSON of a body, wrapped because null is JSON too."""
    kind = (response.header("content-type") or "").lower()
    if "json" not in kind and response.body[:1] not in (b"{", b"["):
        return None
    text = body_text(response)
    if _depth(text) > _DEEPEST:
        return None
    try:
        return (read_json(text),)
    except (ValueError, RecursionError):
        return None


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _is_text(response: Response) -> bool:
    kind = (response.header("content-type") or "").lower()
    if any(form in kind for form in _TEXT) or "json" in kind:
        return True
    if kind.startswith(("image/", "audio/", "video/", "font/")) or b"\0" in response.body:
        return False
    try:
        response.body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_markup(response: Response) -> bool:
    kind = (response.header("content-type") or "").lower()
    return "html" in kind or "xml" in kind


def _summary(response: Response, json: tuple[Any] | None) -> str:
    if json is not None:
        return f"JSON: {show(json[0])}"
    return f"text: {body_text(response)}" if _is_text(response) else _digest(response.body)


def _digest(body: bytes) -> str:
    return f"{len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()[:16]}"


class _Piece(NamedTuple):
    """A part of a text body: `form` must be equal, `values` are compared one by one."""

    where: str
    form: str
    values: tuple[tuple[str, str], ...] = ()


def _walk_pieces(expected: Sequence[_Piece], got: Sequence[_Piece], visitor: Visitor) -> None:
    for said, says in zip(expected, got, strict=False):
        if said.form != says.form:
            visitor.differs(f"body {said.where}", "text", _described(said), _described(says))
            return
        for (part, value), (_, other) in zip(said.values, says.values, strict=True):
            walk_text(f"body {said.where}{part}", value, other, visitor)
    if len(expected) > len(got):
        left = expected[len(got)]
        visitor.differs(f"body {left.where}", "missing", _described(left), "the end of the body")
    elif len(got) > len(expected):
        more = got[len(expected)]
        visitor.differs(f"body {more.where}", "extra", "the end of the body", _described(more))


def _described(piece: _Piece) -> str:
    if piece.form.startswith("<") and piece.values:
        attributes = " ".join(f"{part.strip()}={value!r}" for part, value in piece.values)
        return f"{piece.form.split()[0]} {attributes}>"
    return piece.values[0][1] if piece.values else f"{piece.form}>"


def _lines(text: str) -> list[_Piece]:
    lines = text.rstrip("\n").splitlines() if text else []
    return [
        _Piece(f"line {number}", "", (("", line.rstrip()),)) for number, line in enumerate(lines, 1)
    ]


_MARKUP = re.compile(
    r"""
    <!--.*?(?:-->|\Z) | <[!?][^<>]*> | </(?P<end>[a-zA-Z][^\s/<>]*)[^<>]*>
  | <(?P<tag>[a-zA-Z][^\s/<>]*)(?P<attributes>(?:"[^"]*"|'[^']*'|[^<>"'])*)>
  | (?P<text>[^<]+|<)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_ATTRIBUTE = re.compile(r"""([^\s=/"'][^\s=/]*)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"']+))?""")
_RAW_END = re.compile(r"</(?:script|style)", re.IGNORECASE)


@lru_cache(maxsize=128)
def _cached_markup(text: str) -> list[_Piece]:
    """The pieces of an expected page, which every run is compared with again."""
    return _markup(text)


def _markup(text: str) -> list[_Piece]:
    """HTML or XML as a sequence of tags and normalised texts.

    Any text has one; comments and declarations are not compared. `html.parser` would be right in
    more corners and is several times slower.
    """
    pieces: list[_Piece] = []
    seen: Counter[str] = Counter()

    def place(label: str) -> str:
        seen[label] += 1
        return label if seen[label] == 1 else f"{label} ({seen[label]})"

    def add_text(raw: str) -> None:
        words = " ".join(unescape(raw).split())
        if words:
            pieces.append(_Piece(place(under), "", (("", words),)))

    under = "text"
    at = 0
    pending: list[str] = []
    while (match := _MARKUP.match(text, at)) is not None:
        at = match.end()
        if match["text"] is not None:
            pending.append(match["text"])
            continue
        if match["tag"] is None and match["end"] is None:
            continue
        add_text("".join(pending))
        pending.clear()
        if match["end"] is not None:
            under = f"text after </{match['end'].lower()}>"
            continue
        tag = match["tag"].lower()
        given = {
            name.lower(): unescape(value.strip("\"'"))
            for name, value in _ATTRIBUTE.findall(match["attributes"])
        }
        name = next((f' {key}="{given[key]}"' for key in ("name", "id") if _stable(given, key)), "")
        values = tuple((f" {key}", value) for key, value in given.items())
        pieces.append(_Piece(place(f"<{tag}{name}>"), " ".join((f"<{tag}", *given)), values))
        under = f"text of <{tag}{name}>"
        if tag in ("script", "style"):
            end = _RAW_END.search(text, at)
            raw_end = len(text) if end is None else end.start()
            pending.append(text[at:raw_end])
            at = raw_end
    add_text("".join(pending))
    return pieces


def _stable(attributes: Mapping[str, str], key: str) -> bool:
    """Whether an attribute may name a place: it is there and looks written, not generated."""
    return re.fullmatch(r"[A-Za-z_.-]{1,40}", attributes.get(key, "")) is not None
