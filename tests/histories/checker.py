"""Is a history linearizable? The algorithm of Wing and Gong, with the memo of Lowe.

A history is linearizable if each operation can be given one moment between its call and its return, such
that the operations, taken in the order of these moments, are a run of the sequential model. (Wing & Gong,
"Testing and Verifying Concurrent Objects", 1993; Lowe, "Testing for Linearizability", 2017. Keys share
nothing, so that each is checked alone: Herlihy & Wing, 1990.)

The search keeps the calls and returns in a list, in the order of time. Any call in front of the first
return may come next: it is lifted out of the list together with its return, and put back when that turns
out to lead nowhere. What was tried is remembered by what is done and the state that it led to.

Invariants:
    - a history that is linearizable is never called violated, whatever the model leaves open;
    - an operation whose outcome is unknown may take place at any later moment or never. It is tried only
      after those that are known, and of several equal ones only the first. Where it is placed, it took
      place before the first return of what is not placed yet, or it would come after that;
    - a state in which a known operation cannot come any more, now or later, is left at once. Otherwise all
      orders of what is concurrent with it would be tried, and all that is unknown at each place;
    - a state that was tried is not tried again with fewer unknown operations left;
    - one that is revocable takes place as it was replied, or never;
    - a search that passes its bound answers `UNDECIDED`, never a guess.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from tests.histories.history import UNKNOWN, Operation

LOOK_AHEAD: Final = 24  # known operations that are asked whether they can still come
LOOK_AT_CLOCK: Final = 512  # steps between two looks


class Model(ABC):
    """What one key does when nothing is concurrent. States are immutable and hashable."""

    @abstractmethod
    def initial(self) -> Any:
        """The state of a key that was never written."""

    @abstractmethod
    def steps(self, state: Any, operation: Operation) -> Iterable[Any]:
        """The states that the operation, with its reply, may lead to from here; none if it cannot be.

        There may be several where the model leaves something open (a lease that may have run out).
        """

    def hopeless(self, state: Any, operation: Operation, before: Iterable[Operation]) -> bool:
        """Whether the operation, with its reply, cannot come any more, whatever of `before` comes first.

        `before` are the other operations that are not placed yet and may come first; False is always right.
        """
        return False


class Verdict(Enum):
    """What a check says."""

    LINEARIZABLE = "linearizable"
    VIOLATED = "violated"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one check.

    Attributes:
        verdict: what it says.
        order: the longest run of the model that was found.
        stuck: the operations of which none could come next there.
        state: the model's state there.
        steps: how many moves the search tried.
    """

    verdict: Verdict
    order: tuple[Operation, ...]
    stuck: tuple[Operation, ...] = ()
    state: Any = None
    steps: int = 0

    def __str__(self) -> str:
        if self.verdict is Verdict.LINEARIZABLE:
            return f"linearizable: {len(self.order)} operations, {self.steps} steps"
        lines = [f"{self.verdict.value} after {len(self.order)} operations, {self.steps} steps"]
        lines += [f"    … {operation}" for operation in self.order[-6:]]
        lines += [f"  then the state is {self.state}, and none of these can come next:"]
        lines += [f"    ? {operation}" for operation in self.stuck]
        return "\n".join(lines)


class _Event:
    """A call or a return in the list of what is not placed yet."""

    __slots__ = ("after", "at", "before", "index", "matching", "operation")

    def __init__(self, at: int, operation: Operation, index: int, matching: _Event | None) -> None:
        self.at = at
        self.operation = operation
        self.index = index
        self.matching = matching  # a call's return; a return has none
        self.before: _Event
        self.after: _Event | None = None


def _unlink(event: _Event) -> None:
    event.before.after = event.after
    if event.after is not None:
        event.after.before = event.before


def _link(event: _Event) -> None:
    event.before.after = event
    if event.after is not None:
        event.after.before = event


def _events(known: Sequence[Operation]) -> _Event:
    """The list of calls and returns; a call at the moment of a return may still come before it."""
    events: list[tuple[int, int, _Event]] = []
    for index, operation in enumerate(known):
        assert operation.returned is not None
        end = _Event(operation.returned, operation, index, None)
        events.append((operation.called, 0, _Event(operation.called, operation, index, end)))
        events.append((operation.returned, 1, end))
    events.sort(key=lambda event: event[:2])
    head = last = _Event(-1, None, -1, None)  # type: ignore[arg-type]
    for _, _, event in events:
        event.before, last.after = last, event
        last = event
    return head


def _optional(operation: Operation) -> bool:
    return operation.reply is UNKNOWN or operation.revocable


class _Search:
    def __init__(self, model: Model, operations: Iterable[Operation]) -> None:
        ordered = sorted(operations, key=lambda operation: operation.called)
        self.known = [operation for operation in ordered if not _optional(operation)]
        self.pending = [operation for operation in ordered if _optional(operation)]
        self.alike = [repr((operation.command, operation.reply)) for operation in self.pending]
        self.idle = [operation.idle for operation in self.known]
        self.model = model
        self.bounded: dict[tuple[int, int], Operation] = {}
        self.head = _events(self.known)
        self.placed: list[_Event | int] = []  # the event of a known call, or the index of a pending
        self.taken = 0  # pending operations that are placed, as bits
        self.done = 0  # known ones
        self.steps = 0

    def moves(self, state: Any) -> Iterator[tuple[_Event | int, Any]]:
        """What may come next. The list is the same again whenever this goes on."""
        if self.hopeless(state):
            return
        found: list[tuple[_Event | int, Any]] = []
        event = self.head.after
        while event is not None and event.matching is not None:
            steps = tuple(self.model.steps(state, event.operation))
            if steps == (state,) and self.idle[event.index]:
                # It may come next and changes nothing: whatever else is possible is so after it.
                yield event, state
                return
            found.extend((event, after) for after in steps)
            event = event.after
        yield from found
        if event is None:
            return
        horizon, tried = event.at, set()
        for index, operation in enumerate(self.pending):
            if operation.called > horizon:
                return
            alike = self.alike[index]
            if self.taken >> index & 1 or alike in tried:
                continue
            tried.add(alike)
            for after in self.model.steps(state, self.by(horizon, index)):
                if after != state:
                    yield index, after

    def by(self, horizon: int, index: int) -> Operation:
        """A pending operation that took place before this return."""
        found = self.bounded.get((horizon, index))
        if found is None:
            operation = self.pending[index]
            returned = min(horizon, operation.returned or horizon)
            found = self.bounded[horizon, index] = replace(operation, returned=returned)
        return found

    def hopeless(self, state: Any) -> bool:
        """Whether one of the next known operations cannot come any more."""
        event, left = self.head.after, LOOK_AHEAD
        while event is not None and left:
            if event.matching is not None:
                left -= 1
                if self.model.hopeless(state, event.operation, self.before(event)):
                    return True
            event = event.after
        return False

    def before(self, waiting: _Event) -> Iterator[Operation]:
        """What else may come before this call's return."""
        end = waiting.matching
        assert end is not None
        event = self.head.after
        while event is not None and event is not end:
            if event.matching is not None and event is not waiting:
                yield event.operation
            event = event.after
        for index, operation in enumerate(self.pending):
            if operation.called > end.at:
                return
            if not self.taken >> index & 1:
                yield operation

    def place(self, move: _Event | int) -> None:
        self.placed.append(move)
        if isinstance(move, int):
            self.taken |= 1 << move
            return
        assert move.matching is not None
        self.done |= 1 << move.index
        _unlink(move)
        _unlink(move.matching)

    def take_back(self) -> None:
        move = self.placed.pop()
        if isinstance(move, int):
            self.taken ^= 1 << move
            return
        assert move.matching is not None
        self.done ^= 1 << move.index
        _link(move.matching)
        _link(move)

    def order(self) -> tuple[Operation, ...]:
        return tuple(
            self.pending[move] if isinstance(move, int) else move.operation for move in self.placed
        )

    def stuck(self) -> tuple[Operation, ...]:
        found = []
        event = self.head.after
        while event is not None and event.matching is not None:
            found.append(event.operation)
            event = event.after
        horizon = 0 if event is None else event.at
        found += [
            operation
            for index, operation in enumerate(self.pending)
            if operation.called <= horizon and not self.taken >> index & 1
        ]
        return tuple(found)

    def run(self, seconds: float) -> Result:
        end = time.monotonic() + seconds
        state = self.model.initial()
        tried: dict[tuple[int, Any], list[int]] = {(0, state): [0]}
        longest: tuple[int, tuple[Operation, ...], tuple[Operation, ...], Any] = (-1, (), (), state)
        stack = [(self.moves(state), state)]
        while self.head.after is not None:
            move, after = next(stack[-1][0], (None, None))
            if move is not None:
                self.steps += 1
                self.place(move)
                before = tried.setdefault((self.done, after), [])
                if any(not taken & ~self.taken for taken in before):
                    self.take_back()
                else:
                    before.append(self.taken)
                    stack.append((self.moves(after), after))
                if self.steps % LOOK_AT_CLOCK == 0 and time.monotonic() > end:
                    return Result(Verdict.UNDECIDED, *longest[1:], self.steps)
                continue
            if len(self.placed) > longest[0]:
                longest = (len(self.placed), self.order(), self.stuck(), stack[-1][1])
            stack.pop()
            if not stack:
                return Result(Verdict.VIOLATED, *longest[1:], self.steps)
            self.take_back()
        return Result(Verdict.LINEARIZABLE, self.order(), (), stack[-1][1], self.steps)


def check(model: Model, operations: Iterable[Operation], *, seconds: float = 60.0) -> Result:
    """Whether the operations on one key are linearizable.

    Args:
        model: what the key does when nothing is concurrent.
        operations: all of them.
        seconds: after which the answer is `UNDECIDED`.
    """
    return _Search(model, operations).run(seconds)
