"""Reduction: the few deliveries out of a whole schedule that still show a difference.

`reduce` knows nothing of requests. It works on positions before a target, a closure that adds what a
position cannot do without (the producer of a value it sends, the first delivery of a duplicate), and a
question: does this subset still show it? It asks informed guesses first, because a person's guess
("that write, this read") is right most of the time and costs one run, and falls back to ddmin
(Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", TSE 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Positions = frozenset[int]
FEW = 6  # so many are tried one by one at once


class Undecided(Exception):
    """The number of questions allowed was used up before the smallest subset was known."""

    def __init__(self, smallest: Positions) -> None:
        super().__init__(f"stopped at {len(smallest)} deliveries")
        self.smallest = smallest


class _Asked:
    """The question with a memory and a limit; it answers for closed subsets only."""

    def __init__(
        self,
        shows: Callable[[Positions], bool],
        closure: Callable[[Positions], Positions],
        limit: int,
    ) -> None:
        self._shows = shows
        self._closure = closure
        self._left = limit
        self._known: dict[Positions, bool] = {}
        self.smallest: Positions | None = None

    def __call__(self, subset: Iterable[int]) -> bool:
        closed = self._closure(frozenset(subset))
        known = self._known.get(closed)
        if known is not None:
            return known
        if self._left <= 0:
            if self.smallest is None:
                return False
            raise Undecided(self.smallest)
        self._left -= 1
        answer = self._known[closed] = self._shows(closed)
        if answer and (self.smallest is None or len(closed) < len(self.smallest)):
            self.smallest = closed
        return answer

    def closed(self, subset: Iterable[int]) -> Positions:
        return self._closure(frozenset(subset))


def reduce(
    candidates: Sequence[int],
    shows: Callable[[Positions], bool],
    *,
    closure: Callable[[Positions], Positions] = lambda positions: positions,
    guesses: Iterable[Positions] = (),
    limit: int = 80,
) -> Positions | None:
    """The smallest subset found that still shows the difference; every member is needed.

    Args:
        candidates: positions before the target, in order.
        shows: whether a closed subset shows the difference; asked once per subset.
        closure: adds what the members need; idempotent.
        guesses: small subsets to try before the search, likeliest first.
        limit: how many different subsets may be asked about.

    Returns:
        A closed subset, or None when not even all candidates together show it.
    """
    asked = _Asked(shows, closure, limit)
    start: Positions | None = None
    for guess in guesses:
        if asked(guess):
            start = asked.closed(guess)
            break
    if start is None:
        start = asked.closed(candidates)
        if not asked(start):
            return None
    try:
        few = sorted(start)
        return _one_by_one(few if len(few) <= FEW else _ddmin(few, asked), asked)
    except Undecided as undecided:
        return undecided.smallest


def _ddmin(items: list[int], asked: _Asked) -> list[int]:
    """Remove ever smaller chunks while the rest still shows it."""
    chunks = 2
    while len(items) > 2 and chunks <= len(items):
        size = -(-len(items) // chunks)
        for start in range(0, len(items), size):
            rest = items[:start] + items[start + size :]
            closed = sorted(asked.closed(rest))
            if len(closed) < len(items) and asked(closed):
                items = closed
                chunks = max(2, chunks - 1)
                break
        else:
            if chunks == len(items):
                break
            chunks = min(len(items), chunks * 2)
    return items


def _one_by_one(items: list[int], asked: _Asked) -> Positions:
    """Drop single members, last first, until none can go."""
    current = frozenset(items)
    for item in sorted(current, reverse=True):
        closed = asked.closed(current - {item})
        if item not in closed and asked(closed):
            current = closed
    return current
