"""What each algorithm promises about hits whose moments are known as spans only.

Each function says what is wrong with the hits of one limit on one key. Two things can be: more was admitted
than the bound, counting only what was certainly there; or a hit was refused although there was room,
counting everything that may have been there.

Times are µs of the store's clock, within `SLACK` of a stamp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.histories.history import SLACK


@dataclass(frozen=True, slots=True)
class Span:
    """One hit.

    Attributes:
        soon: it was decided at this moment or later.
        late: and at this one or sooner.
        admitted: the decision.
    """

    soon: int
    late: int
    admitted: bool


Judge = Callable[[Sequence[Span], int, int], Iterator[str]]


def gcra(hits: Sequence[Span], limit: int, period: int) -> Iterator[str]:
    """At most burst + rate × t in any span t; refused only while that is used up."""
    unit = -(-period // limit)
    admitted = sorted((hit for hit in hits if hit.admitted), key=lambda hit: hit.soon)
    for first in admitted:
        inside = sorted(hit.late for hit in admitted if hit.soon >= first.soon)
        for count, end in enumerate(inside, 1):
            if count > limit + (end - first.soon) / unit + 1e-9:
                yield f"{count} admitted within {end - first.soon} µs"
    for refused in (hit for hit in hits if not hit.admitted):
        arrival = 0
        for hit in sorted(admitted, key=lambda hit: hit.late):
            if hit.soon <= refused.late:
                arrival = max(arrival, hit.late) + unit
        if arrival + unit <= refused.soon + limit * unit:
            yield f"{refused} although there was room"


def fixed_window(hits: Sequence[Span], limit: int, period: int) -> Iterator[str]:
    """At most limit in each window; refused only when that many were admitted in it."""
    admitted = [hit for hit in hits if hit.admitted]
    for window in {hit.soon // period for hit in admitted}:
        inside = sum(hit.soon // period == hit.late // period == window for hit in admitted)
        if inside > limit:
            yield f"{inside} admitted in window {window}"
    for refused in (hit for hit in hits if not hit.admitted):
        windows = range(refused.soon // period, refused.late // period + 1)
        if not any(_most_in(admitted, window, period) >= limit for window in windows):
            yield f"{refused} although there was room"


def _most_in(admitted: Sequence[Span], window: int, period: int) -> int:
    return sum(hit.soon // period <= window <= hit.late // period for hit in admitted)


def _least_in(admitted: Sequence[Span], window: int, period: int) -> int:
    return sum(hit.soon // period == window == hit.late // period for hit in admitted)


def sliding_counter(hits: Sequence[Span], limit: int, period: int) -> Iterator[str]:
    """The window before counts by the share of it that is left; refused only when that fills it."""
    admitted = [hit for hit in hits if hit.admitted]
    for hit in admitted:
        window = hit.soon // period
        if window != hit.late // period:
            continue
        share = (period - (hit.late - window * period)) / period
        earlier = sum(each.late < hit.soon and each.soon // period == window for each in admitted)
        estimate = earlier + _least_in(admitted, window - 1, period) * share
        if estimate + 1 > limit + 1e-9:
            yield f"{hit} admitted over an estimate of {estimate}"
    for hit in (hit for hit in hits if not hit.admitted):
        windows = range(hit.soon // period, hit.late // period + 1)
        if not any(_may_fill(admitted, hit, window, limit, period) for window in windows):
            yield f"{hit} although there was room"


def _may_fill(admitted: Sequence[Span], hit: Span, window: int, limit: int, period: int) -> bool:
    share = (period - max(0, hit.soon - window * period)) / period
    most = _most_in(admitted, window, period) + _most_in(admitted, window - 1, period) * share
    return most + 1 > limit


def sliding_log(hits: Sequence[Span], limit: int, period: int) -> Iterator[str]:
    """At most limit in any span of one period; refused only when that many were admitted in it."""
    admitted = [hit for hit in hits if hit.admitted]
    for first in admitted:
        inside = sum(hit.soon >= first.soon and hit.late < first.soon + period for hit in admitted)
        if inside > limit:
            yield f"{inside} admitted within a period from {first.soon}"
    for refused in (hit for hit in hits if not hit.admitted):
        before = sum(
            hit.late > refused.soon - period and hit.soon <= refused.late for hit in admitted
        )
        if before < limit:
            yield f"{refused} although there was room"


JUDGES: Final[dict[str, Judge]] = {
    "gcra": gcra,
    "fixed window": fixed_window,
    "sliding counter": sliding_counter,
    "sliding log": sliding_log,
}


def spans(hits: Sequence[tuple[int, int, bool]], offset: int) -> Iterator[Span]:
    """The hits of one caller, in order, as spans.

    A remembered denial holds until what the store said, counted from when the answer came: it may outlast
    the truth by what that exchange took. So a refusal may be as old as the longest exchange so far.

    Args:
        hits: sent, answered (µs of the monotonic clock), admitted.
        offset: µs between the monotonic and the store's clock.
    """
    longest = 0
    for sent, answered, admitted in hits:
        longest = max(longest, answered - sent)
        age = 0 if admitted else longest
        yield Span(sent + offset - SLACK - age, answered + offset + SLACK, admitted)
