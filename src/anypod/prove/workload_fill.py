"""Fills a step in: the values that earlier answers gave, written the way their place requires.

A value is percent-encoded in a query or a form, escaped inside a JSON string, and refused where it
would break out of a header. Editors paste values raw; a token with a `+` or a quote in it would then
test the encoding instead of the service.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus, urljoin, urlsplit

from anypod.errors import AnypodError
from anypod.prove.model import Request, Response, Step
from anypod.prove.workload_reference import PLACEHOLDER, NotFound, Reference

_LOOPBACK = re.compile(
    r"(?:localhost|127(?:\.\d{1,3}){3}|0\.0\.0\.0|\[::1\])(?::\d*)?", re.IGNORECASE
)
_URL_SAFE = "!$%&'()*+,-./:;=?@_~[]"  # what a target keeps as it is written; % is already encoded
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BASIC = re.compile(r"basic\s+(\S+?)(?:\s+|:)(\S*)\s*", re.IGNORECASE)


class MissingValue(AnypodError):
    """A step cannot be sent: an earlier answer lacks a value that it needs.

    Attributes:
        step: the step.
        expression: the reference, as written.
        why: what was there instead.
    """

    def __init__(self, step: Step, expression: str, why: str) -> None:
        self.step, self.expression, self.why = step, expression, why
        super().__init__(f"line {step.line}: {step.label} needs {{{{{expression}}}}}, but {why}")


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    return _LOOPBACK.fullmatch(host) is not None


def fill(step: Step, responses: Mapping[str, Response], producers: Mapping[str, Step]) -> Request:
    """The request that a step is in this run.

    Args:
        step: the template.
        responses: by step name, what the client received in this run.
        producers: the named steps, to resolve a relative Location.

    Raises:
        MissingValue: a reference finds nothing, or something that cannot stand in its place.
    """
    filler = _Filler(step, responses, producers)
    headers = tuple((name, filler.header(value)) for name, value in step.headers)
    if step.payload is not None:
        body: bytes | None = step.payload
    else:
        body = None if step.body is None else filler.body(step.body, _content_type(headers))
    return Request(step.method, filler.target(step.target), headers, body)


def _content_type(headers: tuple[tuple[str, str], ...]) -> str:
    return next((value.lower() for name, value in headers if name.lower() == "content-type"), "")


class _Filler:
    """One step being filled."""

    def __init__(
        self, step: Step, responses: Mapping[str, Response], producers: Mapping[str, Step]
    ) -> None:
        self._step = step
        self._responses = responses
        self._producers = producers

    def target(self, template: str) -> str:
        whole = PLACEHOLDER.fullmatch(template)
        if whole is not None:
            target = self._followed(whole[1])
        else:
            target = self._replace(template, _in_target)
            target = self._without_host(target, template)
        target = target.partition("#")[0]
        return quote(target, safe=_URL_SAFE)

    def header(self, template: str) -> str:
        value = self._replace(template, _as_is, one_line=True)
        basic = _BASIC.fullmatch(value)
        if basic is not None and basic[2]:
            pair = f"{basic[1]}:{basic[2]}".encode()
            return "Basic " + base64.b64encode(pair).decode()
        return value

    def body(self, template: str, content_type: str) -> bytes:
        if "json" in content_type:
            text = self._replace(template, _in_json)
        elif "x-www-form-urlencoded" in content_type:
            text = self._replace(template, _in_form)
        else:
            text = self._replace(template, _as_is)
        return text.encode()

    def _replace(
        self, template: str, encode: Callable[[str, str], str], *, one_line: bool = False
    ) -> str:
        pieces: list[str] = []
        end = 0
        for match in PLACEHOLDER.finditer(template):
            reference = Reference.parse(match[1])
            if reference is None:
                continue
            value = self._find(reference)
            if one_line and _CONTROL.search(value):
                why = f"{value!r} has a line break or a control character, which no header may have"
                raise MissingValue(self._step, reference.expression, why)
            pieces.append(template[end : match.start()])
            pieces.append(encode(value, template[: match.start()]))
            end = match.end()
        pieces.append(template[end:])
        return "".join(pieces)

    def _find(self, reference: Reference) -> str:
        response = self._responses.get(reference.name)
        if response is None:
            why = f"{reference.name!r} got no answer"
            raise MissingValue(self._step, reference.expression, why)
        try:
            return reference.find(response)
        except NotFound as missing:
            raise MissingValue(self._step, reference.expression, str(missing)) from None

    def _followed(self, expression: str) -> str:
        """A whole target taken from an answer: a Location, a `next` link."""
        reference = Reference.parse(expression)
        if reference is None:  # the parser replaced every variable
            raise MissingValue(self._step, expression, "it is not a reference to an answer")
        value = self._find(reference).strip()
        if value.startswith("/") and not value.startswith("//"):
            return value
        if urlsplit(value).netloc:
            return self._without_host(value, expression)
        producer = self._producers.get(reference.name)
        joined = urljoin(producer.target if producer is not None else "/", value)
        if not value or "{{" in joined or not joined.startswith("/"):
            why = f"{value!r} is not a path of the service"
            raise MissingValue(self._step, reference.expression, why)
        return joined

    def _without_host(self, target: str, template: str) -> str:
        if target.startswith("/") and not target.startswith("//"):
            return target
        url = urlsplit(target)
        own = next((value for name, value in self._step.headers if name.lower() == "host"), "")
        if not (is_loopback(url.netloc) or url.netloc == own):
            why = f"{target!r} leads to {url.netloc or 'no path'}, which is not the service"
            raise MissingValue(self._step, template.strip("{} "), why)
        path = url.path if url.path.startswith("/") else "/" + url.path
        return f"{path}?{url.query}" if url.query else path


def _as_is(value: str, before: str) -> str:  # noqa: ARG001  # every encoder sees what stands before
    return value


def _in_target(value: str, before: str) -> str:
    if "?" in before:
        return quote(value, safe="!$%'()*,-./:;?@_~")
    return quote(value, safe="!$%&'()*+,-./:;=@_~")


def _in_form(value: str, before: str) -> str:  # noqa: ARG001  # see _as_is
    return quote_plus(value)


def _in_json(value: str, before: str) -> str:
    """Escape a value that stands inside a string literal; anything else is JSON by itself."""
    inside = False
    escaped = False
    for character in PLACEHOLDER.sub("", before):
        if escaped:
            escaped = False
        elif inside and character == "\\":
            escaped = True
        elif character == '"':
            inside = not inside
    if not inside:
        return value
    return json.dumps(value, ensure_ascii=False)[1:-1]
