"""Leases on a clock that nobody sees: what the models of locks and of claims have in common.

The store's clock at the moment of a command is known only as the span of its call. A lease that was given
there ends in a span too, from `soon` to `late`. A reply that needs the lease to stand is possible before
`late`, one that needs it to have run out is possible from `soon` on; in between both are, and the models
answer with every state that may follow. The token of a grant is the clock itself, to the microsecond,
unless the one before was given in the same one; so the leases of tokens that are known end at a known time.

A grant whose reply was lost has a token that nobody knows (0 here): at least `least`, and told to whoever
asks as the same waiter again.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.histories.history import NEVER, Operation

ROUNDING = 1_000  # µs by which a wait that a reply tells may be rounded


def micros(seconds: float) -> int:
    return round(seconds * 1e6)


class Span(NamedTuple):
    """A moment of the store's clock that lies between the two."""

    soon: int
    late: int

    def plus(self, seconds: float) -> Span:
        late = self.late if self.late >= NEVER else self.late + micros(seconds)
        return Span(self.soon + micros(seconds), late)

    def may_be_over(self, now: Span) -> bool:
        return now.late >= self.soon

    def may_last(self, now: Span) -> bool:
        return now.soon < self.late

    def begun_by(self, now: Span, seconds: float) -> Span:
        """The same, knowing that what lasts for so long had begun by now."""
        late = min(self.late, now.plus(seconds).late)
        return self if late == self.late else Span(min(self.soon, late), late)

    def told(self, now: Span, wait: float) -> Span | None:
        """The same, knowing that it ends after so many seconds from now; None if it cannot."""
        told = now.plus(wait)
        soon = max(self.soon, told.soon - ROUNDING)
        late = min(self.late, told.late + ROUNDING)
        return Span(soon, late) if soon <= late else None


def span_of(operation: Operation) -> Span:
    return Span(operation.earliest, operation.latest)


def moment_of(token: int, last: int, operation: Operation) -> Span:
    """When a grant with this token was made."""
    if token > last + 1:
        return Span(token, token)
    return Span(operation.earliest, min(operation.latest, token))
