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
from typing import NamedTuple

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
        if isinstance(command, Acquire):
            assert command.limit == 1
            return _acquire(state, command, operation)
        if isinstance(command, Release):
            return _release(state, command, operation)
        if isinstance(command, Renew):
            return _renew_lock(state, command, operation)
        assert isinstance(command, Withdraw)
        return _withdraw(state, command, operation)


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
    me = Waiting(command.waiter, now.plus(command.patience))
    yield state._replace(queue=(*alive, me, *_cleared(behind, now)))


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
                until = _span(operation).plus(command.lease)
                after.append(state._replace(claim=claim._replace(until=until)))
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
        if claim.until.may_last(now) and (
            reply is UNKNOWN
            or (
                reply.status is ClaimStatus.IN_FLIGHT
                and reply.attempt == claim.attempt
                and reply.wait > 0
            )
        ):
            yield state
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
    yield Record(least, Claiming(command.fingerprint, token, least, until, attempt, None))


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
