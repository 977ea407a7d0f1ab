"""Sequential models of locks and of claims: what is held under a lease, on a clock that nobody sees.

The store's clock at the moment of a command is known only as the span of its call. A lease that was given
there ends in a span too, from `soon` to `late`. A reply that needs the lease to stand is possible before
`late`, one that needs it to have run out is possible from `soon` on; in between both are, and the models
answer with every state that may follow. The token of a grant is the clock itself, to the microsecond,
unless the one before was given in the same one; so the leases of tokens that are known end at a known time.

A grant whose reply was lost has a token that nobody knows (0 here): at least `least`, and told to whoever
asks as the same waiter again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.histories.history import NEVER, UNKNOWN, Operation
from tests.histories.values import grows

from anypod.commands import (
    Abandon,
    Acquire,
    Acquired,
    Claim,
    Claimed,
    ClaimStatus,
    Complete,
    Release,
    Renew,
    Withdraw,
)

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


def _span(operation: Operation) -> Span:
    return Span(operation.earliest, operation.latest)


def _moment(token: int, last: int, operation: Operation) -> Span:
    """When a grant with this token was made."""
    if token > last + 1:
        return Span(token, token)
    return Span(operation.earliest, min(operation.latest, token))


class Holder(NamedTuple):
    """Who holds the lock, also past the end of the lease, until somebody else takes it."""

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


class Lock(NamedTuple):
    """A lock: no token so far was larger than `last`, if all are known."""

    last: int
    holder: Holder | None
    queue: tuple[Waiting, ...]


class LockModel:
    """`Acquire`, `Renew`, `Release`, `Withdraw` on a single slot."""

    def initial(self) -> Lock:
        return Lock(0, None, ())

    def steps(self, state: Lock, operation: Operation) -> Iterable[Lock]:
        command = operation.command
        state = _begun(state, _span(operation))
        if isinstance(command, Acquire):
            assert command.limit == 1
            return _acquire(state, command, operation)
        if isinstance(command, Release):
            return _release(state, command, operation)
        if isinstance(command, Renew):
            return _renew_lock(state, command, operation)
        assert isinstance(command, Withdraw)
        return _withdraw(state, command, operation)


def _begun(state: Lock, now: Span) -> Lock:
    """What is known of a state when something happens in it: all that made it has happened."""
    holder, queue = state.holder, state.queue
    if holder is not None and holder.until.late > now.plus(holder.lease).late:
        holder = holder._replace(until=holder.until.begun_by(now, holder.lease))
    if any(each.until.late > now.plus(each.patience).late for each in queue):
        queue = tuple(
            each._replace(until=each.until.begun_by(now, each.patience)) for each in queue
        )
    return (
        state
        if holder is state.holder and queue is state.queue
        else Lock(state.last, holder, queue)
    )


def _acquire(state: Lock, command: Acquire, operation: Operation) -> Iterator[Lock]:
    holder, now = state.holder, _span(operation)
    if holder is not None and holder.waiter == command.waiter and holder.until.may_last(now):
        yield from _told_again(state, holder, operation.reply)
    places = [place for place, each in enumerate(state.queue) if each.waiter == command.waiter]
    if not places or state.queue[places[0]].until.may_be_over(now):
        others = tuple(each for each in state.queue if each.waiter != command.waiter)
        yield from _asked(state, command, operation, others, ())
    if places and state.queue[places[0]].until.may_last(now):
        ahead, behind = state.queue[: places[0]], state.queue[places[0] + 1 :]
        yield from _asked(state, command, operation, ahead, behind)


def _told_again(state: Lock, holder: Holder, reply: Acquired | object) -> Iterator[Lock]:
    if reply is UNKNOWN:
        yield state
    elif isinstance(reply, Acquired) and reply.token is not None and holder.is_(reply.token):
        # A token is not smaller than the clock was: that bounds the lease which the grant began.
        until = holder.until
        if holder.token == 0:
            late = min(until.late, reply.token + micros(holder.lease))
            until = Span(min(until.soon, late), late)
        known = holder._replace(token=reply.token, least=reply.token, until=until)
        yield state._replace(holder=known, last=max(state.last, reply.token))


def _asked(
    state: Lock,
    command: Acquire,
    operation: Operation,
    ahead: tuple[Waiting, ...],
    behind: tuple[Waiting, ...],
) -> Iterator[Lock]:
    reply = operation.reply
    if reply is UNKNOWN or reply.token is not None:
        yield from _granted(state, command, operation, ahead, behind)
    if reply is UNKNOWN or reply.token is None:
        yield from _refused(state, command, operation, ahead, behind)


def _granted(
    state: Lock,
    command: Acquire,
    operation: Operation,
    ahead: tuple[Waiting, ...],
    behind: tuple[Waiting, ...],
) -> Iterator[Lock]:
    reply, holder, now = operation.reply, state.holder, _span(operation)
    if reply is UNKNOWN:
        token, least = 0, max(state.last + 1, now.soon)
    else:
        token = least = reply.token
        if not grows(token, state.last, operation) or reply.held != 1:
            return
        now = _moment(token, state.last, operation)
    if holder is not None and not holder.until.may_be_over(now):
        return
    if not all(each.until.may_be_over(now) for each in ahead):
        return
    until = now.plus(command.lease)
    taken = Holder(token, least, command.waiter, command.lease, until)
    yield Lock(least, taken, _cleared(behind, now))


def _refused(
    state: Lock,
    command: Acquire,
    operation: Operation,
    ahead: tuple[Waiting, ...],
    behind: tuple[Waiting, ...],
) -> Iterator[Lock]:
    reply, holder, now = operation.reply, state.holder, _span(operation)
    held = (
        holder is not None
        and holder.waiter != command.waiter  # it would be told its token again
        and holder.until.may_last(now)
    )
    free = holder is None or holder.until.may_be_over(now)
    sure = sum(not each.until.may_be_over(now) for each in ahead)
    alive = _cleared(ahead, now)
    queued = free and bool(alive)
    if reply is UNKNOWN:
        if not held and not queued:
            return
    elif not (held if reply.held else queued):
        return
    else:
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
        if not sure <= place <= len(alive) or (reply.held == 0 and place == 0):
            return
        if place == sure:
            alive = tuple(each for each in alive if not each.until.may_be_over(now))
    me = Waiting(command.waiter, now.plus(command.patience), command.patience)
    yield state._replace(queue=(*alive, me, *_cleared(behind, now)))


def _wait_seen(state: Lock, reply: Acquired, now: Span, ahead: tuple[Waiting, ...]) -> Lock | None:
    """What a refusal tells about the lease: it waits for the first end of all that is ahead."""
    told = now.plus(reply.wait)
    first = min((each.until.soon for each in ahead if each.until.may_last(now)), default=NEVER)
    sure = min(
        (each.until.late for each in ahead if not each.until.may_be_over(now)), default=NEVER
    )
    if told.soon - ROUNDING > sure:
        return None
    holder = state.holder
    if not reply.held or holder is None:
        return None if told.late + ROUNDING < first else state
    if first > told.late + ROUNDING:  # then it is the holder's lease that was told
        until = holder.until.told(now, reply.wait)
    else:
        soon = max(holder.until.soon, told.soon - ROUNDING)
        until = Span(soon, holder.until.late) if soon <= holder.until.late else None
    return None if until is None else state._replace(holder=holder._replace(until=until))


def _release(state: Lock, command: Release, operation: Operation) -> Iterator[Lock]:
    mine = state.holder is not None and state.holder.is_(command.token)
    if mine and operation.reply is not False:
        yield state._replace(holder=None)
    if operation.reply is not True and (
        state.holder is None or state.holder.token != command.token
    ):
        yield state


def _renew_lock(state: Lock, command: Renew, operation: Operation) -> Iterator[Lock]:
    holder = state.holder
    if holder is not None and holder.is_(command.token) and operation.reply is not False:
        until = _span(operation).plus(command.lease)
        yield state._replace(holder=holder._replace(lease=command.lease, until=until))
    if operation.reply is not True and (holder is None or holder.token != command.token):
        yield state


def _withdraw(state: Lock, command: Withdraw, operation: Operation) -> Iterator[Lock]:
    kept = tuple(each for each in state.queue if each.waiter != command.waiter)
    there = len(kept) < len(state.queue)
    if there and operation.reply is not False:
        yield state._replace(queue=kept)
    gone = all(each.doubtful for each in state.queue if each.waiter == command.waiter)
    if operation.reply is not True and gone:
        yield state._replace(queue=kept)


# --- claims


class Claiming(NamedTuple):
    """A claim: in flight while `outcome` is None."""

    fingerprint: str
    token: int
    least: int
    lease: float
    until: Span
    attempt: int
    outcome: bytes | None


class Record(NamedTuple):
    """What is known of a key: the claim that stands there, and the largest token so far."""

    last: int
    claim: Claiming | None


class ClaimModel:
    """`Claim`, `Renew`, `Complete`, `Abandon`. Claims that are forgotten are not modelled."""

    def initial(self) -> Record:
        return Record(0, None)

    def steps(self, state: Record, operation: Operation) -> Iterable[Record]:
        command, reply = operation.command, operation.reply
        now = _span(operation)
        if state.claim is not None:
            until = state.claim.until.begun_by(now, state.claim.lease)
            if until is not state.claim.until:
                state = state._replace(claim=state.claim._replace(until=until))
        if isinstance(command, Claim):
            return _claim(state, command, operation)
        claim = state.claim
        if isinstance(command, Complete):
            return _complete(state, command, operation)
        assert isinstance(command, Renew | Abandon)
        held = claim is not None and claim.outcome is None and _holds(claim, command.token)
        after: list[Record] = []
        if claim is not None and held and reply is not False:
            if isinstance(command, Abandon):
                after.append(state._replace(claim=None))
            else:
                until = now.plus(command.lease)
                renewed = claim._replace(lease=command.lease, until=until)
                after.append(state._replace(claim=renewed))
        if reply is not True and not (held and claim is not None and claim.token):
            after.append(state)
        return after


def _holds(claim: Claiming, token: int) -> bool:
    return token == claim.token or (claim.token == 0 and token >= claim.least)


def _claim(state: Record, command: Claim, operation: Operation) -> Iterator[Record]:
    claim, reply, now = state.claim, operation.reply, _span(operation)
    if claim is not None:
        if claim.fingerprint != command.fingerprint:
            if reply in (UNKNOWN, Claimed(ClaimStatus.REUSED)):
                yield state
            return
        if claim.outcome is not None:
            told = Claimed(ClaimStatus.COMPLETE, outcome=claim.outcome, attempt=claim.attempt)
            if reply in (UNKNOWN, told):
                yield state
            return
        if claim.until.may_last(now):
            yield from _in_flight(state, claim, reply, now)
    attempt = 1 if claim is None else claim.attempt + 1
    if reply is UNKNOWN:
        token, least = 0, max(state.last + 1, now.soon)
    else:
        if reply.status is not ClaimStatus.GRANTED or reply.attempt != attempt:
            return
        token = least = reply.token
        if not grows(token, state.last, operation):
            return
        now = _moment(token, state.last, operation)
    if claim is not None and not claim.until.may_be_over(now):
        return
    until = now.plus(command.lease)
    made = Claiming(command.fingerprint, token, least, command.lease, until, attempt, None)
    yield Record(least, made)


def _in_flight(state: Record, claim: Claiming, reply: Any, now: Span) -> Iterator[Record]:
    if reply is UNKNOWN:
        yield state
    elif reply.status is ClaimStatus.IN_FLIGHT and reply.attempt == claim.attempt:
        until = claim.until.told(now, reply.wait)
        if until is not None and reply.wait > 0:
            same = until == claim.until
            yield state if same else state._replace(claim=claim._replace(until=until))


def _complete(state: Record, command: Complete, operation: Operation) -> Iterator[Record]:
    claim, reply = state.claim, operation.reply
    if claim is None or not _holds(claim, command.token):
        if reply is not True:
            yield state
        return
    if claim.outcome is not None:
        if reply in (UNKNOWN, claim.outcome == command.outcome):
            yield state
        return
    if reply is not False:
        yield state._replace(claim=claim._replace(outcome=command.outcome))
    if claim.token == 0 and reply is not True:
        yield state
