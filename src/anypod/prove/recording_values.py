"""Which value of a request came from an earlier answer, and which is a secret.

A value is bound to the answer that gave it out first, unless the client had said it before: then it is
the client's own. What is long and looks random is bound wherever it stands; what is short (`7`) only
where both sides call it an identifier, because it could mean anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from anypod.prove.model import Request, Response
from anypod.prove.redaction import is_secret_name, words
from anypod.prove.workload_reference import body_text
from anypod.prove.workload_route import looks_like_an_id

__all__ = ["Place", "Producer", "Secrets", "Values", "leaves"]

MOST_BODY = 1 << 20  # bytes of an answer that is searched for values
MOST_LEAVES = 5000  # of one answer
MOST_SOURCES = 8  # of one value
MOST_VALUES = 100_000  # of a recording: some 50 MB
_IDENTIFIERS = frozenset({
    "id", "ids", "uuid", "guid", "pk", "key", "token", "slug", "ref", "reference", "number", "no", "code",
    "csrf", "xsrf", "nonce", "cursor", "etag", "version", "ticket", "handle",
})  # fmt: skip
_SECRET_VALUE = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]{8,}|(?:sk|pk|rk|ghp|gho|xox[abp])[-_][\w-]{16,}|AKIA[A-Z0-9]{16}"
)
_ONE_OF = re.compile(r"<[^<>\s]+>|(?:W/)?\"[^\"\s]+\"")
_SCHEME = re.compile(r"(bearer|basic|token|digest|apikey)\s+", re.IGNORECASE)
_SPELLED: dict[str, Callable[[str], str]] = {
    "query": quote_plus,
    "form": quote_plus,
    "segment": quote,
    "json": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
}
_TELLING = 6  # characters of a secret that is recognized wherever it stands
_TAG = re.compile(r"<(?:input|meta)\b", re.IGNORECASE)


class Producer(Protocol):
    """A recorded request whose answer others may refer to."""

    name: str
    named: bool
    title: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in a request.

    Attributes:
        kind: "segment", "query", "header", "form" or "json".
        name: of the parameter, the header or the member; of a segment the one before it.
    """

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class _Source:
    producer: Producer
    path: str  # "response.body.$.id"
    name: str


@dataclass(slots=True)
class Values:
    """What answers have given out so far.

    Attributes:
        bound: how many values of requests were taken from answers.
    """

    bound: int = 0
    _sources: dict[str, list[_Source]] = field(default_factory=dict)
    _locations: dict[str, Producer] = field(default_factory=dict)
    _chosen: set[str] = field(default_factory=set)
    _segments: set[str] = field(default_factory=set)
    _paths: set[str] = field(default_factory=set)

    def learn(self, producer: Producer, request: Request, response: Response) -> None:
        """Note the values of an answer.

        Args:
            producer: the request.
            request: the same, as it was sent.
            response: its answer.
        """
        location = response.header("location")
        if location:
            path = _path_of(location, request.target)
            if _is_generated_path(path) and path not in self._paths:
                self._locations.setdefault(path, producer)
        for name, value in response.headers:
            if name == "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                self._note(
                    content.strip().strip('"'),
                    f"cookies.{cookie.strip()}",
                    cookie.strip(),
                    producer,
                )
            elif name == "etag" or "token" in name or name.endswith("-id"):
                self._note(value, f"headers.{name}", name, producer)
        if len(response.body) > MOST_BODY:
            return
        kind = (response.header("content-type") or "").lower()
        if "json" in kind:
            try:
                found = json.loads(body_text(response))
            except (ValueError, RecursionError):
                return
            for number, (path, name, value) in enumerate(leaves(found)):
                if number >= MOST_LEAVES:
                    return
                self._note(value, f"body.{path}", name, producer)
        elif "html" in kind and _TAG.search(body_text(response)):
            for path, name, value in _fields(body_text(response)):
                self._note(value, f"body.{path}", name, producer)

    def _note(self, value: str, path: str, name: str, producer: Producer) -> None:
        if not value or value in self._chosen or len(value) > 4096 or "}}" in path:
            return
        if not (_is_strong(value) or _is_weak(value)):
            return
        if len(self._sources) >= MOST_VALUES and value not in self._sources:
            return
        known = self._sources.setdefault(value, [])
        if len(known) < MOST_SOURCES:
            known.append(_Source(producer, f"response.{path}", name))

    def chose(self, request: Request) -> None:
        """Note what a client says by itself: when the service repeats it, it did not make it up."""
        path, _, query = request.target.partition("?")
        segments = [unquote(part) for part in path.split("/") if part]
        self._segments.update(part for part in segments if part not in self._sources)
        self._paths.update((path, request.target))
        said = [*segments, *(value for _, value in parse_qsl(query))]
        kind = next((v.lower() for n, v in request.headers if n.lower() == "content-type"), "")
        body = request.body or b""
        if "x-www-form-urlencoded" in kind:
            said += [value for _, value in parse_qsl(body.decode("utf-8", "replace"))]
        elif "json" in kind and len(body) <= MOST_BODY:
            try:
                said += [value for _, _, value in leaves(json.loads(body))]
            except (ValueError, RecursionError):
                said += []
        said += [
            value
            for name, value in request.headers
            if name.lower() not in {"cookie", "authorization"}
            and not name.lower().startswith("if-")
        ]
        self._chosen.update(
            value for value in said if value not in self._sources and _is_strong(value)
        )

    def reference(self, place: Place, value: str) -> str | None:
        """`{{name.response…}}` for a value of a request, or None when it is the client's own."""
        prefix = ""
        if place.kind == "header":
            scheme = _SCHEME.match(value)
            if scheme is not None:
                prefix, value = value[: scheme.end()], value[scheme.end() :]
        known = self._sources.get(value)
        if not known:
            return prefix + listed if (listed := self._listed(place, value)) else None
        if _is_strong(value):
            source = known[0]
        else:
            if place.kind == "segment" and value in self._segments:
                return None
            fitting = [source for source in known if _fits(place, source)]
            if not fitting:
                return None
            source = max(fitting, key=lambda one: _nearness(place, one))
        return prefix + self._refer(source.producer, source.path)

    def _listed(self, place: Place, value: str) -> str | None:
        """A header that names several values, as `If: (<one> "two")` does, with those that are known."""
        if place.kind != "header":
            return None

        def known(match: re.Match[str]) -> str:
            sources = self._sources.get(match[0]) if _is_strong(match[0]) else None
            return self._refer(sources[0].producer, sources[0].path) if sources else match[0]

        listed = _ONE_OF.sub(known, value)
        return None if listed == value else listed

    def target(self, target: str) -> str | None:
        """A whole target that an earlier answer led to, or that goes on below such a place."""
        path, mark, query = target.partition("?")
        producer = self._locations.get(target) or (None if mark else self._locations.get(path))
        if producer is not None:
            return self._refer(producer, "response.headers.Location")
        for known in sorted(self._locations, key=len, reverse=True):
            if "?" not in known and target.startswith(known.rstrip("/") + "/") and not query:
                rest = target[len(known.rstrip("/")) :]
                if known.endswith("/"):
                    rest = rest[1:]
                if not any(map(str.isdigit, rest)):
                    reference = self._refer(self._locations[known], "response.headers.Location")
                    return reference + rest
        return None

    def _refer(self, producer: Producer, path: str) -> str:
        producer.named = True
        self.bound += 1
        return f"{{{{{producer.name}.{path}}}}}"


@dataclass(slots=True)
class Secrets:
    """Values that are not for other eyes, and the names that stand for them.

    Args:
        stem: what the names begin with.

    Attributes:
        values: by name.
    """

    stem: str
    values: dict[str, str] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def hidden(self, place: Place, value: str) -> str | None:
        """`{{name}}` for a secret, or None when it is none."""
        prefix = ""
        if place.kind == "header":
            scheme = _SCHEME.match(value)
            if scheme is not None:
                prefix, value = value[: scheme.end()], value[scheme.end() :]
        if not value:
            return None
        kind = words(place.name)
        # A variable is pasted as it is, so each spelling of a secret has a name of its own.
        spelled = _SPELLED.get(place.kind, str)(value)
        known = self._names.get(spelled)
        if known is not None and (len(value) >= _TELLING or is_secret_name(kind)):
            return f"{prefix}{{{{{known}}}}}"
        if not (is_secret_name(kind) or _SECRET_VALUE.search(value) or (prefix and value)):
            return None
        if place.kind == "segment" and not _SECRET_VALUE.search(value):
            return None
        base = f"{self.stem}_{'_'.join(kind) or 'secret'}"
        name, number = base, 1
        while name in self.values:
            number += 1
            name = f"{base}_{number}"
        self.values[name] = spelled
        self._names[spelled] = name
        return f"{prefix}{{{{{name}}}}}"

    def is_cookie(self, name: str, value: str) -> bool:
        """Whether a cookie of unknown origin is a secret: then it is neither sent on nor written."""
        return is_secret_name(words(name)) or len(value) > 24 or bool(_SECRET_VALUE.search(value))

    def is_own(self, name: str) -> bool:
        """Whether a name stands for a secret of this recording."""
        return name.startswith(f"{self.stem}_")


def leaves(value: Any, path: str = "$", name: str = "") -> Iterator[tuple[str, str, str]]:
    """The texts and whole numbers in JSON, each with its JSONPath and the name that it goes by."""
    pending = [(value, path, name)]
    while pending:
        here, at, called = pending.pop()
        if isinstance(here, dict):
            pending += [
                (inner, at + _member(str(key)), str(key)) for key, inner in reversed(here.items())
            ]
        elif isinstance(here, list):
            pending += [
                (inner, f"{at}[{index}]", called)
                for index, inner in reversed(list(enumerate(here)))
            ]
        elif isinstance(here, str):
            yield at, called, here
        elif isinstance(here, int) and not isinstance(here, bool):
            yield at, called, str(here)


def _member(key: str) -> str:
    if re.fullmatch(r"[A-Za-z_][\w-]*", key):
        return f".{key}"
    escaped = key.replace("\\", "\\\\").replace("'", "\\'")
    return f"['{escaped}']"


def _fields(text: str) -> Iterator[tuple[str, str, str]]:
    """Hidden fields and meta tags of a page, each with the XPath of its value."""
    from lxml import etree

    root = etree.fromstring(text.encode(), etree.HTMLParser(no_network=True, encoding="utf-8"))
    if root is None:
        return
    seen: set[str] = set()
    for tag, attribute in (("input", "value"), ("meta", "content")):
        for element in root.iter(tag):
            name, value = element.get("name"), element.get(attribute)
            if not name or not value or "'" in name or f"{tag} {name}" in seen:
                continue
            seen.add(f"{tag} {name}")  # an XPath finds the first
            if tag == "meta" or (element.get("type") or "").lower() == "hidden":
                yield f"//{tag}[@name='{name}']/@{attribute}", name, value


def _is_strong(value: str) -> bool:
    """Whether a value is so particular that the same one elsewhere is no accident."""
    if re.search(r"\s", value):
        return False
    digits = sum(map(str.isdigit, value))
    return (len(value) >= 8 and digits >= 2) or (
        len(value) >= 20 and not value.isalpha() and "." not in value
    )


def _is_small(value: str) -> bool:
    """A number that many things have."""
    return value.isdigit() and len(value) < 8


def _is_weak(value: str) -> bool:
    return len(value) <= 64 and re.fullmatch(r"[\w.:@-]+", value) is not None


def _fits(place: Place, source: _Source) -> bool:
    given = words(source.name) or [""]
    if given[-1] not in _IDENTIFIERS:
        return False
    if place.kind == "segment":
        return bool(place.name)
    asked = words(place.name)
    if not asked or asked[-1] not in _IDENTIFIERS:
        return False
    return asked[-1] == given[-1] or given[-1] in {"id", "uuid", "pk"}


def _nearness(place: Place, source: _Source) -> int:
    """How much a source is of the kind that a place asks for: `/users/7` asks for a user's id."""
    of = words(source.producer.title)
    asked = [word.removesuffix("s") for word in words(place.name)]
    own = [word.removesuffix("s") for word in (*of, *words(source.name))]
    exact = words(place.name) == words(source.name)
    return 2 * len(set(asked) & set(own)) + exact


def _is_generated_path(path: str) -> bool:
    return path.startswith("/") and any(map(looks_like_an_id, path.partition("?")[0].split("/")))


def _path_of(location: str, target: str) -> str:
    url = urlsplit(location)
    path = url.path if url.path.startswith("/") else f"{target.rpartition('/')[0]}/{url.path}"
    return f"{path}?{url.query}" if url.query else path
