"""Rates as people write them: `"100/minute"`, `"10/second burst 20"`, `"5/15m; 1000/day"`.

    rates  = rate { (";" | ",") rate }
    rate   = limit ("/" | "per") [count] unit ["burst" limit]
    unit   = ms s m h d, or their words, with or without an s

An error points at the character where reading ended.
"""

from __future__ import annotations

import re
from typing import Final

from anypod.commands import Algorithm, Policy
from anypod.errors import ConfigurationError

_UNITS: Final = {
    "ms": 0.001, "millisecond": 0.001,
    "s": 1.0, "sec": 1.0, "second": 1.0,
    "m": 60.0, "min": 60.0, "minute": 60.0,
    "h": 3_600.0, "hour": 3_600.0,
    "d": 86_400.0, "day": 86_400.0,
    "w": 604_800.0, "week": 604_800.0,
}  # fmt: skip

LARGEST_LIMIT: Final = 1_000_000
LARGEST_LOG: Final = 10_000  # hits that a sliding log remembers for each subject
SHORTEST_PERIOD: Final = 0.001
LONGEST_PERIOD: Final = 366 * 86_400.0
MOST_RATES: Final = 16  # of one limit
LONGEST_TEXT: Final = 1_000  # characters

_TOKEN = re.compile(r"\s*(?:(?P<number>[0-9_]+)|(?P<word>[A-Za-z]+)|(?P<mark>.))", re.DOTALL)


class _Reader:
    def __init__(self, text: str, owner: str) -> None:
        self.text = text
        self.owner = owner
        self.at = 0

    def fail(self, expected: str, at: int) -> ConfigurationError:
        shown = self.text if self.text.isprintable() else ascii(self.text)
        return ConfigurationError(
            f"{self.owner}, character {at + 1}: expected {expected}\n    {shown}\n    {' ' * at}^"
        )

    def peek(self) -> tuple[str, str, int]:
        """The kind of the next token (number, word, mark, end), its text, and where it begins."""
        match = _TOKEN.match(self.text, self.at)
        if match is None or match.lastgroup is None or not match[0].strip():
            return "end", "", len(self.text)
        return match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)

    def take(self, kind: str, expected: str) -> tuple[str, int]:
        found, text, at = self.peek()
        if found != kind:
            raise self.fail(expected, at)
        self.at = at + len(text)
        return text, at

    def accept(self, *texts: str) -> bool:
        _, text, at = self.peek()
        if text.lower() not in texts:
            return False
        self.at = at + len(text)
        return True

    def number(self, what: str, largest: int) -> int:
        text, at = self.take("number", what)
        # More digits are too many, whatever they say; Python refuses to read thousands.
        value = int(text.replace("_", "").lstrip("0")[:20] or 0)
        if not 0 < value <= largest:
            raise self.fail(f"{what} from 1 to {largest:,}", at)
        return value


def parse_rates(text: str, algorithm: Algorithm, owner: str = "rate limit") -> tuple[Policy, ...]:
    """The policies that a text names.

    Args:
        text: one rate or several, separated by `;` or `,`.
        algorithm: how each of them counts.
        owner: whose rates these are, for the message.

    Raises:
        ConfigurationError: pointing at the character that does not fit.
    """
    if len(text) > LONGEST_TEXT:
        raise ConfigurationError(
            f"{owner}: rates are written in {LONGEST_TEXT:,} characters at most, not {len(text):,}; "
            f"'100/minute; 1000/day' are two"
        )
    reader = _Reader(text, owner)
    policies = []
    while True:
        policies.append(_rate(reader, algorithm))
        if not reader.accept(";", ","):
            break
    kind, _, at = reader.peek()
    if kind != "end":
        raise reader.fail("';' and another rate, 'burst', or the end", at)
    return tuple(policies)


def _rate(reader: _Reader, algorithm: Algorithm) -> Policy:
    limit = reader.number("a limit such as 100", LARGEST_LIMIT)
    if not reader.accept("/", "per"):
        raise reader.fail("'/' or 'per' and a unit of time", reader.peek()[2])
    start = reader.peek()[2]
    count = reader.number("a count", 10**9) if reader.peek()[0] == "number" else 1
    word, at = reader.take("word", "a unit: second, minute, hour, day, or s, m, h, d")
    unit = _UNITS.get(word.lower()) or _UNITS.get(word.lower().removesuffix("s"))
    if unit is None:
        raise reader.fail("a unit: second, minute, hour, day, or s, m, h, d", at)
    period = count * unit
    if period > LONGEST_PERIOD:
        raise reader.fail("a period of at most a year", start)
    burst = limit
    burst_at = reader.peek()[2]
    if reader.accept("burst"):
        if algorithm is not Algorithm.GCRA:
            raise reader.fail(f"no burst: {algorithm.value} has none, gcra has", burst_at)
        burst = reader.number("a burst such as 20", LARGEST_LIMIT)
    return Policy(algorithm, limit, period, burst)


def describe(policy: Policy) -> str:
    """A policy as people write it: `100/minute`, `5/15m`."""
    for unit, name in ((86_400.0, "day"), (3_600.0, "hour"), (60.0, "minute"), (1.0, "second")):
        if policy.period == unit:
            rate = f"{policy.limit}/{name}"
            break
        if policy.period % unit == 0:
            rate = f"{policy.limit}/{policy.period / unit:.0f}{name[0]}"
            break
    else:
        rate = f"{policy.limit}/{policy.period * 1000:.0f}ms"
    return rate if policy.burst == policy.limit else f"{rate} burst {policy.burst}"
