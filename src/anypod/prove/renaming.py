"""Renaming: what a generated value is, and whether two runs use theirs alike.

A service answers with ids, tokens and dates that are new in every run. Masking them would also hide the
bugs that this project looks for: a GET that returns another id than its POST did. So they are renamed:
the values of one run and those of another must map one-to-one over the whole trace.

Text is cut into atoms: words, whole UUIDs, moments in time, single other characters. Comparison
works on atoms, so an id inside a path, a page or a cookie is the same id.

Moments are the exception. Two runs agree on a date by luck when it is coarse, and on nothing else when
it is fine; they are compared by kind and by their distance from the run, and, when finer than 10 ms,
one-to-one up to the jitter of a clock read twice in one request. How long something took, in
milliseconds or finer, is never twice the same, and compared by that it is told.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

GLOBAL = "*"  # the domain of values that cannot be equal by chance

_EPOCH = re.compile(r"\d{10}(?:\.\d+)?|\d{13}(?:\.\d+)?|\d{16}|\d{19}")
_ATOM = re.compile(
    r"""
    (?P<http>(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),\ \d{2}[ -](?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)
        [ -]\d{4}\ \d{2}:\d{2}:\d{2}\ (?:GMT|UTC|[+-]\d{4}))
  | (?<![\w-])(?P<iso>\d{4}-\d{2}-\d{2}(?:[T\ ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d{1,9})?)?
        (?:\ ?(?:Z|[+-]\d{2}:?\d{2}))?)?)(?![\w-])
  | (?<![\w.-])(?P<epoch>EPOCH)(?![\w-])(?!\.\d)
  | (?P<took>(?<![\w.-])(?:\d+(?:\.\d+)?\ ?(?:ns|[µμu]s|ms|msecs?|(?:nano|micro|milli)seconds?)
        |\d+\.\d{2,}\ ?(?:s|secs?|seconds?))\b(?!\ ago))
  | (?P<ago>\b(?:in\ )?(?:\d+|an?|a\ few)\ (?:(?:milli)?second|minute|hour|day)s?(?:\ ago)?\b|\bjust\ now\b)
  | (?<![\w:.-])(?P<hour>\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(?![\w:-])
  | (?P<uuid>(?<![\w-])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![\w-]))
  | (?P<number>(?<![\w.-])\d+(?:\.\d+)+(?:[^\W\d_]{1,6}|%)?(?![\w-]))
  | (?P<word>[\w%~-]+)
  | (?P<other>.)
    """.replace("EPOCH", _EPOCH.pattern),
    re.VERBOSE | re.DOTALL,
)
_EPOCH_UNITS = {10: 1.0, 13: 1e3, 16: 1e6, 19: 1e9}
_YEARS = 10 * 365 * 86400.0
_DAYS = 2 * 86400.0
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")

REMEMBERED = 256  # characters of a text whose reading is kept for the next comparison
NEAR = 120.0  # seconds around a run within which an equal date may be its clock
SPREAD = 600.0  # seconds by which a date may lie differently from its run
FINE = 0.01  # seconds; a moment at least this fine identifies what happened then
SAME_INSTANT = 0.01  # seconds between two looks at the clock within one request
DISTINCT = 0.002  # seconds; moments further apart are two


class Atom(NamedTuple):
    """A piece of text. `family` is empty for plain text, else the form in which a moment is written."""

    text: str
    family: str = ""
    moment: float = 0.0  # Unix time; for "hour" seconds since midnight
    resolution: float = 0.0  # seconds


@lru_cache(maxsize=8192, typed=True)
def _remembered(text: str) -> list[Atom]:
    return _cut(text)


def atoms(text: str) -> list[Atom]:
    """Text as atoms; joining their texts gives the text back. A number is one atom."""
    return _remembered(text) if len(text) <= REMEMBERED else _cut(text)


def _cut(text: str) -> list[Atom]:
    if isinstance(text, Numeral):
        epoch = _EPOCH.fullmatch(text) is not None
        return [_moment(str(text), "epoch") if epoch else Atom(str(text))]
    found: list[Atom] = []
    for match in _ATOM.finditer(text):
        family = match.lastgroup or "other"
        found.append(_moment(match[0], family) if family in _READERS else Atom(match[0]))
    return found


def _moment(text: str, family: str) -> Atom:
    try:
        moment, resolution = _READERS[family](text)
    except (ValueError, OverflowError, TypeError):
        return Atom(text)
    return Atom(text, family, moment, resolution)


def _http(text: str) -> tuple[float, float]:
    return parsedate_to_datetime(text.replace("-", " ")).timestamp(), 1.0


def _iso(text: str) -> tuple[float, float]:
    moment = datetime.fromisoformat(text.replace(",", ".").replace(" +", "+").replace(" Z", "Z"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if len(text) == 10:
        return moment.timestamp(), 86400.0
    clock = re.split(r"Z|[+-]\d{2}:?\d{2}$", text[11:])[0].strip()
    fraction = re.split(r"[.,]", clock)
    if len(fraction) == 2:
        return moment.timestamp(), 10.0 ** -len(fraction[1])
    return moment.timestamp(), 1.0 if clock.count(":") == 2 else 60.0


def _epoch(text: str) -> tuple[float, float]:
    whole, _, fraction = text.partition(".")
    unit = _EPOCH_UNITS[len(whole)]
    moment = float(text) / unit
    if abs(moment - time.time()) > (_DAYS if unit >= 1e6 else _YEARS):
        raise ValueError(text)  # a large number, not a date of our days
    return moment, 10.0 ** -len(fraction) / unit


def _hour(text: str) -> tuple[float, float]:
    parts = [float(part) for part in text.split(":")]
    if parts[0] > 23 or parts[1] > 59 or parts[-1] >= 60:
        raise ValueError(text)
    seconds = parts[0] * 3600 + parts[1] * 60 + (parts[2] if len(parts) == 3 else 0.0)
    return seconds, 60.0 if len(parts) == 2 else 1.0


def _ago(text: str) -> tuple[float, float]:
    if not text.endswith(("ago", "now")) and not text.startswith("in "):
        raise ValueError(text)  # a duration, not a moment
    return 0.0, 86400.0


def _took(text: str) -> tuple[float, float]:  # noqa: ARG001  # how long something took says nothing
    return 0.0, 86400.0


_READERS = {"took": _took, "http": _http, "iso": _iso, "epoch": _epoch, "hour": _hour, "ago": _ago}


def is_near(atom: Atom, at: float) -> bool:
    """Whether a moment may be the clock of a run that took place at a Unix time."""
    tolerance = max(NEAR, 2 * atom.resolution)
    local = datetime.fromtimestamp(at, UTC).astimezone().utcoffset()
    offsets = {0.0, local.total_seconds() if local is not None else 0.0}
    if atom.family in {"ago", "took"}:
        return True
    if atom.family == "hour":
        apart = [(atom.moment - at - offset) % 86400 for offset in offsets]
        return any(min(seconds, 86400 - seconds) <= tolerance for seconds in apart)
    return any(abs(atom.moment - at - offset) <= tolerance for offset in offsets)


def is_strong(text: str) -> bool:
    """Whether a generated text is long and varied enough never to be equal by chance."""
    if text.isdigit():
        return len(text) >= 8
    if any(map(str.isspace, text)):
        return False
    varied = any(map(str.isdigit, text)) or not (text.islower() or text.isupper() or text.istitle())
    return len(text) >= 8 if varied else len(text) >= 16


def is_uuid(text: str) -> bool:
    """Whether text is a UUID in its usual form."""
    return _UUID.fullmatch(text) is not None


class Numeral(str):
    """A JSON number as it was written."""

    __slots__ = ()


def read_json(text: str) -> Any:
    """JSON with numbers as `Numeral`.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_int=Numeral, parse_float=Numeral, parse_constant=Numeral)


def show(value: Any) -> str:
    """JSON for people, numbers as they were written."""
    if isinstance(value, Numeral):
        return str(value)
    if isinstance(value, dict):
        members = (f"{json.dumps(k, ensure_ascii=False)}: {show(v)}" for k, v in value.items())
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(show, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def claims(text: str) -> Any:
    """What a token says, or None when it says nothing that can be read.

    Understands JSON Web Tokens, itsdangerous (Flask sessions, Starlette sessions, CSRF tokens), Django's
    signed values, and bare base64 JSON (pagination cursors). Signature and signing time are dropped:
    they follow from the claims, a secret and a clock.
    """
    if not 12 <= len(text) <= 65536 or " " in text:
        return None
    return _claims(text)


@lru_cache(maxsize=1024)
def _claims(text: str) -> Any:
    bare = unquote(text).strip('"')
    for separator in (".", ":"):
        parts = bare.split(separator)
        if separator == "." and len(parts) == 3:
            header = _decoded(parts[0])
            if isinstance(header, dict) and "alg" in header:
                return {"header": header, "payload": _decoded(parts[1])}
        for signature_parts in (2, 1):  # time and signature, or the signature alone
            if len(parts) > signature_parts and len(parts[-1]) >= 20:
                payload = _decoded(separator.join(parts[:-signature_parts]))
                if payload is not None:
                    return payload
    payload = _decoded(bare)
    return payload if isinstance(payload, (dict, list)) else None


def _decoded(part: str) -> Any:
    packed = part.startswith(".")
    text = part.lstrip(".").rstrip("=")
    if not re.fullmatch(r"[\w+/-]+", text, re.ASCII) or len(text) % 4 == 1:
        return None
    plain = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    try:
        data = base64.b64decode(plain, validate=True)
        if packed:
            data = zlib.decompressobj().decompress(data, 1 << 20)
        return read_json(data.decode())
    except (binascii.Error, zlib.error, ValueError, RecursionError):
        return None


class Conflict(NamedTuple):
    """Two values that cannot be one-to-one: what this run answered before, if it did, else None."""

    earlier: str | None


@dataclass(slots=True)
class Bijection:
    """The mapping between the generated values of two runs, as far as it is known.

    Values of different domains have nothing to do with each other: order 1 is not item 1.
    """

    _forward: dict[tuple[str, str], str] = field(default_factory=dict)
    _backward: dict[tuple[str, str], str] = field(default_factory=dict)
    _moments: dict[tuple[bool, str], float] = field(default_factory=dict)
    _journal: list[tuple[dict[Any, Any], Any]] = field(default_factory=list)

    def image(self, domain: str, expected: str) -> str | None:
        """What stands in the other run for a value, if that is known."""
        return self._forward.get((domain, expected))

    def bind(self, domain: str, expected: str, got: str) -> Conflict | None:
        """Note that two values correspond, unless either already corresponds to another."""
        there = self._forward.get((domain, expected))
        back = self._backward.get((domain, got))
        if there == got and back == expected:
            return None
        if there is not None:
            return Conflict(there)
        if back is not None:
            return Conflict(None)
        self._put(self._forward, (domain, expected), got)
        self._put(self._backward, (domain, got), expected)
        return None

    def bind_moments(self, expected: Atom, got: Atom) -> Conflict | None:
        """The same for two moments: fine ones are one-to-one up to the jitter of a clock."""
        if max(expected.resolution, got.resolution) >= FINE:
            return None
        there = self._moments.get((True, expected.text))
        if there is not None and abs(there - got.moment) > SAME_INSTANT:
            return Conflict(datetime.fromtimestamp(there, UTC).isoformat())
        back = self._moments.get((False, got.text))
        if back is not None and abs(back - expected.moment) > DISTINCT:
            return Conflict(None)
        if there is None:
            self._put(self._moments, (True, expected.text), got.moment)
        if back is None:
            self._put(self._moments, (False, got.text), expected.moment)
        return None

    def mark(self) -> int:
        """A point to come back to."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Forget everything that was bound after a mark."""
        while len(self._journal) > mark:
            mapping, key = self._journal.pop()
            del mapping[key]

    def _put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        mapping[key] = value
        self._journal.append((mapping, key))
