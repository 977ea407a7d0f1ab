"""Claims (idempotency) and slots (locks, concurrency limits)."""

from __future__ import annotations

from typing import Final

from anypod.commands import (
    Abandon,
    Acquire,
    Acquired,
    Claim,
    Claimed,
    ClaimStatus,
    Complete,
    Inspect,
    Release,
    Renew,
    Withdraw,
    mailbox,
)
from anypod.stores.specification.records import (
    ClaimRecord,
    Rules,
    SlotsRecord,
    Table,
    load,
    micros,
    next_version,
)


def _claim(command: Claim, table: Table, now: int) -> Claimed:
    record = load(table, command.key, ClaimRecord)
    if record is not None:
        if record.fingerprint != command.fingerprint:
            return Claimed(ClaimStatus.REUSED)
        if record.outcome is not None:
            return Claimed(ClaimStatus.COMPLETE, outcome=record.outcome, attempt=record.attempt)
        if record.lease_until > now:
            return Claimed(
                ClaimStatus.IN_FLIGHT,
                wait=(record.lease_until - now) / 1e6,
                attempt=record.attempt,
            )
    token = next_version(0 if record is None else record.token, now)
    attempt = 1 if record is None else record.attempt + 1
    lease_until = now + micros(command.lease)
    deadline = max(now + micros(command.ttl), lease_until)
    table.save(
        command.key,
        ClaimRecord(command.fingerprint, token, lease_until, attempt, None, deadline),
    )
    return Claimed(ClaimStatus.GRANTED, token=token, attempt=attempt)


def _held(table: Table, key: str, token: int) -> ClaimRecord | None:
    record = load(table, key, ClaimRecord)
    if record is None or record.token != token or record.outcome is not None:
        return None
    return record


def _renew(command: Renew, table: Table, now: int) -> bool:
    until = now + micros(command.lease)
    record = table.load(command.key)
    if isinstance(record, SlotsRecord):
        for index, (token, _, waiter) in enumerate(record.holders):
            if token == command.token:
                record.holders[index] = (token, until, waiter)
                _keep(record, now)
                table.save(command.key, record)
                return True
        return False
    claim = _held(table, command.key, command.token)
    if claim is None:
        return False
    claim.lease_until = until
    if claim.deadline is not None:
        claim.deadline = max(claim.deadline, until)
    table.save(command.key, claim)
    return True


def _complete(command: Complete, table: Table, now: int) -> bool:
    record = load(table, command.key, ClaimRecord)
    if record is None or record.token != command.token:
        return False
    if record.outcome is not None:
        return record.outcome == command.outcome
    record.outcome = command.outcome
    record.deadline = now + micros(command.ttl)
    table.save(command.key, record)
    return True


def _abandon(command: Abandon, table: Table, now: int) -> bool:  # noqa: ARG001
    if _held(table, command.key, command.token) is None:
        return False
    table.remove(command.key)
    return True


def _inspect(command: Inspect, table: Table, now: int) -> Claimed | None:
    record = load(table, command.key, ClaimRecord)
    if record is None:
        return None
    if record.outcome is not None:
        return Claimed(ClaimStatus.COMPLETE, record.token, record.outcome, attempt=record.attempt)
    left = max(0, record.lease_until - now) / 1e6
    return Claimed(ClaimStatus.IN_FLIGHT, record.token, wait=left, attempt=record.attempt)


# --- slots


def _acquire(command: Acquire, table: Table, now: int) -> Acquired:
    record = load(table, command.key, SlotsRecord) or SlotsRecord(0, [], [], None)
    for token, until, waiter in record.holders:
        if waiter == command.waiter and until > now:
            return Acquired(token, held=_held_now(record, now))
    queue = [(name, until) for name, until in record.queue if until > now]
    names = [name for name, _ in queue]
    place = names.index(command.waiter) if command.waiter in names else len(queue)
    held = _held_now(record, now)
    if held + place < command.limit:
        # Every waiter that is ahead has a free slot of its own.
        if command.waiter in names:
            del queue[place]
        token = record.last = next_version(record.last, now)
        # A holder whose lease has run out keeps its entry only until somebody else takes its slot.
        record.holders = [holder for holder in record.holders if holder[1] > now]
        record.holders.append((token, now + micros(command.lease), command.waiter))
        record.queue = queue
        _keep(record, now)
        table.save(command.key, record)
        return Acquired(token, held=held + 1)
    ends = [until for _, until, _ in record.holders if until > now]
    ends += [until for name, until in queue[:place] if name != command.waiter]
    wait = (min(ends) - now) / 1e6
    if command.patience <= 0:
        return Acquired(None, 0, wait, held)
    entry = (command.waiter, now + micros(command.patience))
    queue[place : place + 1] = [entry]
    record.queue = queue
    _keep(record, now)
    table.save(command.key, record)
    return Acquired(None, place + 1, wait, held)


def _release(command: Release, table: Table, now: int) -> bool:
    record = load(table, command.key, SlotsRecord)
    if record is None:
        return False
    kept = [holder for holder in record.holders if holder[0] != command.token]
    if len(kept) == len(record.holders):
        return False
    record.holders = kept
    _announce(command.key, record, table, now)
    _keep(record, now)
    table.save(command.key, record)
    return True


def _withdraw(command: Withdraw, table: Table, now: int) -> bool:
    record = load(table, command.key, SlotsRecord)
    if record is None:
        return False
    kept = [entry for entry in record.queue if entry[0] != command.waiter]
    if len(kept) == len(record.queue):
        return False
    record.queue = kept
    _announce(command.key, record, table, now)
    _keep(record, now)
    table.save(command.key, record)
    return True


def _held_now(record: SlotsRecord, now: int) -> int:
    return sum(until > now for _, until, _ in record.holders)


def _announce(key: str, record: SlotsRecord, table: Table, now: int) -> None:
    """Tell the first living waiter; whether a slot is free it finds out by asking."""
    for name, until in record.queue:
        if until > now:
            table.notify(mailbox(key, name))
            return


REMEMBERED: Final = (
    86_400_000_000  # µs for which the last token is kept after the last sign of life
)


def _keep(record: SlotsRecord, now: int) -> None:
    ends = [until for _, until, _ in record.holders] + [until for _, until in record.queue]
    record.deadline = max([now, *ends]) + REMEMBERED


RULES: Final[Rules] = {
    Claim: _claim,
    Renew: _renew,
    Complete: _complete,
    Abandon: _abandon,
    Inspect: _inspect,
    Acquire: _acquire,
    Release: _release,
    Withdraw: _withdraw,
}
