"""A sequential model of claims: what idempotent operations are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.histories.checker import Model
from tests.histories.history import UNKNOWN, Operation
from tests.histories.leases import Span, moment_of, span_of
from tests.histories.values import grows

from anypod.commands import Abandon, Claim, Claimed, ClaimStatus, Complete, Renew


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


class ClaimModel(Model):
    """`Claim`, `Renew`, `Complete`, `Abandon`. Claims that are forgotten are not modelled."""

    def initial(self) -> Record:
        return Record(0, None)

    def steps(self, state: Record, operation: Operation) -> Iterable[Record]:
        command, reply = operation.command, operation.reply
        now = span_of(operation)
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
    claim, reply, now = state.claim, operation.reply, span_of(operation)
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
        now = moment_of(token, state.last, operation)
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
