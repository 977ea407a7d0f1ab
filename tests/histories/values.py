"""Sequential models of counters and of versioned values.

A version is `max(last + 1, now)`, and a write whose reply was lost has a version that nobody knows: the
model keeps the smallest that it can be, and learns it from the next reply that tells it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.histories.checker import Model
from tests.histories.history import UNKNOWN, Operation

from anypod.commands import Add, Added, AddOutcome, Get, Put, Total, Versioned


class Window(NamedTuple):
    """In which window of the clock a counter began: one from the first to the last of these."""

    length: int  # µs
    first: int
    last: int


class Counter(NamedTuple):
    """A counter's value, what was done under which operation id, and the window in which it counts."""

    value: int
    once: frozenset[tuple[str, tuple[int, int, int], Added]] = frozenset()
    window: Window | None = None


class CounterModel(Model):
    """`Add` and `Total`, also of counters that begin again in each window. Others do not run out here."""

    def initial(self) -> Counter:
        return Counter(0)

    def steps(self, state: Counter, operation: Operation) -> Iterable[Counter]:
        command, reply = operation.command, operation.reply
        for now in _now(state, operation):
            if isinstance(command, Total):
                if reply in (UNKNOWN, now.value):
                    yield now
                continue
            assert isinstance(command, Add)
            assert command.ttl is None
            after, answer = _added(now, command)
            if reply in (UNKNOWN, answer):
                if command.window is not None and after.window is None:
                    length = round(command.window * 1e6)
                    begun = Window(length, operation.earliest // length, operation.latest // length)
                    if state.window is not None:  # it has begun again, so in a later window
                        begun = begun._replace(first=max(begun.first, state.window.first + 1))
                    after = after._replace(window=begun)
                yield after


def _now(state: Counter, operation: Operation) -> Iterable[Counter]:
    """What the operation may find: the counter, in the window in which it counts, or none any more."""
    if state.window is None:
        yield state
        return
    length, first, last = state.window
    soon, late = operation.earliest // length, operation.latest // length
    if max(first, soon) <= min(last, late):
        yield state._replace(window=Window(length, max(first, soon), min(last, late)))
    if late > first:
        yield Counter(0, state.once)


def _added(state: Counter, command: Add) -> tuple[Counter, Added]:
    argument = (command.by, command.floor, command.ceiling)
    for once, earlier, answer in state.once if command.once is not None else ():
        if once == command.once:
            if earlier == argument:
                return state, answer
            return state, Added(state.value, AddOutcome.REUSED)
    total = state.value + command.by
    if command.floor <= total <= command.ceiling:
        value, answer = total, Added(total, AddOutcome.ADDED)
    else:
        value, answer = state.value, Added(state.value, AddOutcome.REFUSED)
    once = state.once
    if command.once is not None:
        once = once | {(command.once, argument, answer)}
    return state._replace(value=value, once=once), answer


class Value(NamedTuple):
    """A value. `version` is 0 if nobody knows it; then it is at least `least`."""

    value: bytes | None  # None: there is none
    version: int
    least: int  # no version so far was larger, if `version` is not 0
    fence: int


class MapModel(Model):
    """`Get` and `Put`. Values that run out are not modelled."""

    def initial(self) -> Value:
        return Value(None, 0, 0, 0)

    def steps(self, state: Value, operation: Operation) -> Iterable[Value]:
        if isinstance(operation.command, Get):
            return _seen(state, operation.reply)
        assert isinstance(operation.command, Put)
        return _put(state, operation.command, operation)


def _seen(state: Value, reply: Any) -> tuple[Value, ...]:
    """A reply that shows what stands."""
    if reply is UNKNOWN:
        return (state,)
    if state.value is None or reply is None:
        return (state,) if state.value is reply else ()
    assert isinstance(reply, Versioned)
    if reply.value != state.value:
        return ()
    if state.version:
        return (state,) if reply.version == state.version else ()
    if reply.version < state.least:
        return ()
    return (state._replace(version=reply.version, least=reply.version),)


def _put(state: Value, command: Put, operation: Operation) -> Iterable[Value]:
    assert command.ttl is None
    reply = operation.reply
    fenced = state.value is not None and 0 < command.fence < state.fence
    standing = 0 if state.value is None else state.version or -1
    expected = command.expect is None or command.expect == standing
    # Of a version that no reply has told, nobody can exclude that it is the expected one.
    open_ = standing == -1 and command.expect is not None and command.expect >= state.least
    if (expected or open_) and not fenced and (reply is UNKNOWN or reply.written):
        yield from _written(state, command, operation)
    if (not expected or fenced) and (reply is UNKNOWN or not reply.written):
        yield from _seen(state, UNKNOWN if reply is UNKNOWN else reply.current)


def _written(state: Value, command: Put, operation: Operation) -> Iterable[Value]:
    reply = operation.reply
    last = max(state.least, command.expect or 0)
    if command.value is None:
        if reply is UNKNOWN or reply.current is None:
            yield Value(None, 0, last, 0)
        return
    fence = max(state.fence, command.fence)
    if reply is UNKNOWN:
        yield Value(command.value, 0, max(last + 1, operation.earliest), fence)
        return
    current = reply.current
    told = current is not None and current.value == command.value
    if told and grows(current.version, last, operation):
        yield Value(command.value, current.version, current.version, fence)


def grows(version: int, last: int, operation: Operation) -> bool:
    """Whether this may be the version or token that follows `last`: larger, and the store's time."""
    return version >= max(last + 1, operation.earliest) and (
        version == last + 1 or version <= operation.latest
    )
