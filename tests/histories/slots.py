"""A sequential model of slots: of a lock, which is one slot, and of so many at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from tests.histories.checker import Model
from tests.histories.history import NEVER, UNKNOWN, Operation
from tests.histories.leases import ROUNDING, Span, micros, moment_of, span_of
from tests.histories.values import grows

from anypod.commands import Acquire, Acquired, Release, Renew, Withdraw


class Holder(NamedTuple):
    """Who holds a slot, also past the end of the lease, until somebody takes one."""

    token: int
    least: int
    waiter: str
    lease: float
    until: Span

    def is_(self, token: int) -> bool:
        """Whether this may be the holder's token; of an unknown one that cannot be excluded."""
        return token == self.token or (self.token == 0 and token >= self.least)


class Waiting(NamedTuple):
    """A place in the queue; whoever has it is taken for alive until then."""

    waiter: str
    until: Span
    patience: float
    doubtful: bool = False  # it may have been dropped already, by a command that clears the dead


def _cleared(queue: tuple[Waiting, ...], now: Span) -> tuple[Waiting, ...]:
    """What is left of a queue after a command that drops the dead."""
    return tuple(
        each._replace(doubtful=each.doubtful or each.until.may_be_over(now))
        for each in queue
        if each.until.may_last(now)
    )


class Slots(NamedTuple):
    """The slots of one key.

    `last`: no token so far was larger, if all are known. `since`: what came about needs the store's clock to
    have been at least this; an operation whose reply was lost may have taken place late, but then all that
    follows is later.
    """

    last: int
    holders: tuple[Holder, ...]
    queue: tuple[Waiting, ...]
    since: int = 0


class Count(NamedTuple):
    """How many there are at least and at most."""

    least: int
    most: int

    @staticmethod
    def of(untils: Iterable[Span], now: Span) -> Count:
        """How many of these have not ended."""
        living = [until for until in untils if until.may_last(now)]
        return Count(sum(not until.may_be_over(now) for until in living), len(living))


class SlotsModel(Model):
    """`Acquire`, `Renew`, `Release`, `Withdraw`."""

    def initial(self) -> Slots:
        return Slots(0, (), ())

    def steps(self, state: Slots, operation: Operation) -> Iterable[Slots]:
        command = operation.command
        if operation.latest < state.since:
            return ()
        state = _begun(state, span_of(operation))
        if isinstance(command, Acquire):
            return _acquire(state, command, operation)
        if isinstance(command, Release):
            return _release(state, command, operation)
        if isinstance(command, Renew):
            return _renew(state, command, operation)
        assert isinstance(command, Withdraw)
        return _withdraw(state, command, operation)

    def hopeless(self, state: Slots, operation: Operation, before: Iterable[Operation]) -> bool:
        command, reply = operation.command, operation.reply
        if operation.latest < state.since:
            return True
        if isinstance(command, Acquire):
            if reply.token is not None:
                return _gone(state, reply.token)
            return reply.position > 0 and _misplaced(state, operation, before)
        return (
            reply is True and isinstance(command, Release | Renew) and _gone(state, command.token)
        )


def _gone(state: Slots, token: int) -> bool:
    """Whether nobody has the token and nobody can get it any more: tokens grow."""
    return token <= state.last and not any(each.is_(token) for each in state.holders)


def _misplaced(state: Slots, operation: Operation, before: Iterable[Operation]) -> bool:
    """Whether the place that a refusal tells cannot be the waiter's any more.

    A place in the queue only moves up, unless it is lost and taken anew, at the end. Whoever cannot lose
    it stays ahead of all that come later.
    """
    told, waiter = operation.reply.position - 1, operation.command.waiter
    names = [each.waiter for each in state.queue]
    place = names.index(waiter) if waiter in names else len(names)
    if place == told or (place < told and place == len(names)):
        return False
    others = list(before)
    end = max(each.latest for each in (operation, *others) if each.returned is not None)
    leaving = {each.command.waiter for each in others if _may_leave(each, end)}
    staying = [
        each.until.soon > end and not each.doubtful and each.waiter not in leaving
        for each in state.queue
    ]
    return staying[place] if place < told else sum(staying[:place]) > told


def _may_leave(operation: Operation, end: int) -> bool:
    """Whether this names a waiter that may have no place in the queue after it, at a moment until the end."""
    command, reply = operation.command, operation.reply
    if isinstance(command, Acquire):
        if reply is UNKNOWN or reply.token is not None:
            return True
        return command.patience > 0 and operation.earliest + micros(command.patience) <= end
    return isinstance(command, Withdraw)


def _begun(state: Slots, now: Span) -> Slots:
    """What is known of a state when something happens in it: all that made it has happened."""
    holders, queue = state.holders, state.queue
    if any(each.until.late > now.plus(each.lease).late for each in holders):
        holders = tuple(
            each._replace(until=each.until.begun_by(now, each.lease)) for each in holders
        )
    if any(each.until.late > now.plus(each.patience).late for each in queue):
        queue = tuple(
            each._replace(until=each.until.begun_by(now, each.patience)) for each in queue
        )
    same = holders is state.holders and queue is state.queue
    return state if same else state._replace(holders=holders, queue=queue)


def _acquire(state: Slots, command: Acquire, operation: Operation) -> Iterator[Slots]:
    now = span_of(operation)
    for place, holder in enumerate(state.holders):
        if holder.waiter == command.waiter and holder.until.may_last(now):
            yield from _told_again(state, place, operation.reply, now)
    places = [place for place, each in enumerate(state.queue) if each.waiter == command.waiter]
    if not places or state.queue[places[0]].until.may_be_over(now):
        others = tuple(each for each in state.queue if each.waiter != command.waiter)
        yield from _asked(state, command, operation, others, ())
    if places and state.queue[places[0]].until.may_last(now):
        ahead, behind = state.queue[: places[0]], state.queue[places[0] + 1 :]
        yield from _asked(state, command, operation, ahead, behind)


def _told_again(state: Slots, place: int, reply: Acquired | object, now: Span) -> Iterator[Slots]:
    holder = state.holders[place]
    if reply is UNKNOWN:
        yield state
    elif isinstance(reply, Acquired) and reply.token is not None and holder.is_(reply.token):
        held = Count.of((each.until for each in state.holders), now)
        if not max(1, held.least) <= reply.held <= held.most:
            return
        # A token is not smaller than the clock was: that bounds the lease which the grant began.
        until = holder.until
        if holder.token == 0:
            late = min(until.late, reply.token + micros(holder.lease))
            until = Span(min(until.soon, late), late)
        known = holder._replace(token=reply.token, least=reply.token, until=until)
        holders = (*state.holders[:place], known, *state.holders[place + 1 :])
        yield state._replace(holders=holders, last=max(state.last, reply.token))


def _asked(
    state: Slots,
    command: Acquire,
    operation: Operation,
    ahead: tuple[Waiting, ...],
    behind: tuple[Waiting, ...],
) -> Iterator[Slots]:
    reply = operation.reply
    if reply is UNKNOWN or reply.token is not None:
        yield from _granted(state, command, operation, ahead, behind)
    if reply is UNKNOWN or reply.token is None:
        yield from _refused(state, command, operation, ahead, behind)


def _granted(
    state: Slots,
    command: Acquire,
    operation: Operation,
    ahead: tuple[Waiting, ...],
    behind: tuple[Waiting, ...],
) -> Iterator[Slots]:
    reply, now = operation.reply, span_of(operation)
    if reply is UNKNOWN:
        token, least = 0, max(state.last + 1, now.soon)
    else:
        token = least = reply.token
        if not grows(token, state.last, operation):
            return
        now = moment_of(token, state.last, operation)
    until = now.plus(command.lease)
    taken = Holder(token, least, command.waiter, command.lease, until)
    waiting = Count.of((each.until for each in ahead), now)
    others = _others(state, command.waiter, now)
    if others is None:
        return
    for holders in _living(others, now):
        held = len(holders)
        room = command.limit - held  # for those who wait ahead, and for this one
        if (reply is not UNKNOWN and reply.held != held + 1) or waiting.least >= room:
            continue
        queue = _cleared(ahead, now) if room > 1 else ()
        dead = [each.until.soon for each in state.holders if each not in holders]
        dead += [] if room > 1 else [each.until.soon for each in ahead]
        since = max(state.since, *(moment for moment in dead if moment > operation.earliest), 0)
        held_by = (*holders, taken)
        yield Slots(least, held_by, (*queue, *_cleared(behind, now)), since)


def _others(state: Slots, waiter: str, now: Span) -> tuple[Holder, ...] | None:
    """The holders without the one who asks; None if it holds a slot itself and would be told its token."""
    mine = [each for each in state.holders if each.waiter == waiter]
    if not all(each.until.may_be_over(now) for each in mine):
        return None
    return tuple(each for each in state.holders if each.waiter != waiter) if mine else state.holders


def _living(holders: tuple[Holder, ...], now: Span) -> Iterator[tuple[Holder, ...]]:
    """Who may be left of the holders when the dead are dropped: some or all of those in doubt."""
    living = [each for each in holders if each.until.may_last(now)]
    doubtful = [each for each in living if each.until.may_be_over(now)]
    for count in range(len(doubtful) + 1):
        for dead in combinations(doubtful, count):
            yield tuple(each for each in living if each not in dead)


def _refused(
    state: Slots,
    command: Acquire,
    operation: Operation,
    ahead: tuple[Waiting, ...],
    behind: tuple[Waiting, ...],
) -> Iterator[Slots]:
    reply, now = operation.reply, span_of(operation)
    others = _others(state, command.waiter, now)
    if others is None:
        return
    held = Count.of((each.until for each in others), now)
    waiting = Count.of((each.until for each in ahead), now)
    alive = _cleared(ahead, now)
    if reply is UNKNOWN:
        if held.most + waiting.most < command.limit:
            return
    else:
        if not held.least <= reply.held <= held.most:
            return
        if reply.held + waiting.most < command.limit:
            return
        seen = _wait_seen(state, reply, now, ahead)
        if seen is None:
            return
        state = seen
    if command.patience <= 0:
        if reply is UNKNOWN or reply.position == 0:
            yield state
        return
    if reply is not UNKNOWN:
        place = reply.position - 1
        if not waiting.least <= place <= waiting.most or reply.held + place < command.limit:
            return
        if place == waiting.least:
            alive = tuple(each for each in alive if not each.until.may_be_over(now))
    me = Waiting(command.waiter, now.plus(command.patience), command.patience)
    yield state._replace(queue=(*alive, me, *_cleared(behind, now)))


def _wait_seen(
    state: Slots, reply: Acquired, now: Span, ahead: tuple[Waiting, ...]
) -> Slots | None:
    """What a refusal tells about leases: it waits for the first end of all that is held or ahead."""
    told = now.plus(reply.wait)
    first = min((each.until.soon for each in ahead if each.until.may_last(now)), default=NEVER)
    sure = min(
        (each.until.late for each in ahead if not each.until.may_be_over(now)), default=NEVER
    )
    if told.soon - ROUNDING > sure:
        return None
    if not reply.held or not state.holders:
        return None if told.late + ROUNDING < first else state
    if len(state.holders) > 1:
        ends = [each.until for each in state.holders if each.until.may_last(now)]
        first = min(first, *(until.soon for until in ends))
        sure = min((until.late for until in ends if not until.may_be_over(now)), default=NEVER)
        fits = told.late + ROUNDING >= first and told.soon - ROUNDING <= sure
        return state if fits else None
    (holder,) = state.holders
    if first > told.late + ROUNDING:  # then it is the holder's lease that was told
        until = holder.until.told(now, reply.wait)
    else:
        soon = max(holder.until.soon, told.soon - ROUNDING)
        until = Span(soon, holder.until.late) if soon <= holder.until.late else None
    return None if until is None else state._replace(holders=(holder._replace(until=until),))


def _mine(state: Slots, token: int) -> Iterator[tuple[Holder, tuple[Holder, ...]]]:
    """Whose the token may be, each with the others."""
    exact = [each for each in state.holders if each.token == token]
    for mine in exact or [each for each in state.holders if each.is_(token)]:
        yield mine, tuple(each for each in state.holders if each is not mine)


def _nobodys(state: Slots, token: int) -> bool:
    """Whether it may be that nobody holds a slot by this token."""
    return all(each.token != token for each in state.holders)


def _release(state: Slots, command: Release, operation: Operation) -> Iterator[Slots]:
    if operation.reply is not False:
        for _, others in _mine(state, command.token):
            yield state._replace(holders=others)
    if operation.reply is not True and _nobodys(state, command.token):
        yield state


def _renew(state: Slots, command: Renew, operation: Operation) -> Iterator[Slots]:
    if operation.reply is not False:
        until = span_of(operation).plus(command.lease)
        for mine, _ in _mine(state, command.token):
            renewed = mine._replace(lease=command.lease, until=until)
            holders = tuple(renewed if each is mine else each for each in state.holders)
            yield state._replace(holders=holders)
    if operation.reply is not True and _nobodys(state, command.token):
        yield state


def _withdraw(state: Slots, command: Withdraw, operation: Operation) -> Iterator[Slots]:
    kept = tuple(each for each in state.queue if each.waiter != command.waiter)
    there = len(kept) < len(state.queue)
    if there and operation.reply is not False:
        yield state._replace(queue=kept)
    gone = all(each.doubtful for each in state.queue if each.waiter == command.waiter)
    if operation.reply is not True and gone:
        yield state._replace(queue=kept)
