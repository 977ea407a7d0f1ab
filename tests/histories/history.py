"""Histories: what was asked of a store and what it answered, as files that can be checked again.

A history is a folder of JSON lines, one file per process that took part. A command makes two lines: one
when it is called and one when it returns. Each is in the file before the worker goes on, so that a worker
which is killed leaves what it had asked for.

Invariants:
    - times are µs of the machine's monotonic clock plus an offset that is fixed for the whole history and
      makes them the store's clock, within `SLACK`: they order what processes did, and they tell leases;
    - a command without a return (killed, cancelled, reply lost) has an unknown outcome: it may have
      happened at any time after its call, or never;
    - a command that certainly did not execute is in the file and not in the history.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from anypod import commands as c

SLACK: Final = 20_000  # µs by which a stamp and the store's clock may disagree
NEVER: Final = 2**62  # µs; later than anything

REPLIES: Final[dict[type[c.Command[Any]], Any]] = {
    c.Get: c.Versioned | None,
    c.Put: c.Stored,
    c.Scan: c.Page,
    c.Add: c.Added,
    c.Total: int,
    c.Claim: c.Claimed,
    c.Renew: bool,
    c.Complete: bool,
    c.Abandon: bool,
    c.ReadDocument: c.Document | None,
    c.PatchDocument: c.Patched,
    c.EndDocument: bool,
    c.Acquire: c.Acquired,
    c.Release: bool,
    c.Withdraw: bool,
    c.Take: c.Taken,
}
_COMMANDS: Final = {kind.__name__: kind for kind in REPLIES}
_UNKNOWN: Final = "unknown"
_NOT_EXECUTED: Final = "not executed"
_RETURNED: Final = "returned"
_NOTHING: Final = msgspec.Raw(b"null")


class Unknown:
    """The reply of a command whose outcome is unknown."""

    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True, slots=True)
class Operation:
    """One command of a history.

    Attributes:
        caller: who sent it: process, then thread or task.
        command: what was asked.
        reply: what was answered, or `UNKNOWN`.
        called: µs, before it left.
        returned: µs, after the reply came; None if none did.
        revocable: it happened as replied, but may have been lost since, with the server that replied.
    """

    caller: str
    command: c.Command[Any]
    reply: Any
    called: int
    returned: int | None
    revocable: bool = False

    @property
    def earliest(self) -> int:
        """The store's clock was at least this when the command executed."""
        return self.called - SLACK

    @property
    def latest(self) -> int:
        """The store's clock was at most this when the command executed."""
        return NEVER if self.returned is None else self.returned + SLACK

    @property
    def idle(self) -> bool:
        """Whether the reply says that nothing was changed, whatever stood there."""
        command, reply = self.command, self.reply
        if isinstance(command, c.Get | c.Total | c.ReadDocument):
            return True
        if isinstance(command, c.Acquire):  # a refusal may queue
            return isinstance(reply, c.Acquired) and reply.token is None and command.patience <= 0
        if isinstance(command, c.Add):  # with an operation id, a refusal is remembered
            return isinstance(reply, c.Added) and (
                reply.outcome is c.AddOutcome.REUSED
                or (reply.outcome is c.AddOutcome.REFUSED and command.once is None)
            )
        return (
            (reply is False and not isinstance(command, c.EndDocument))
            or (isinstance(reply, c.Stored) and not reply.written)
            or (isinstance(reply, c.Claimed) and reply.status is not c.ClaimStatus.GRANTED)
            or (isinstance(reply, c.Patched) and reply.outcome is not c.PatchOutcome.PATCHED)
        )

    def forgotten(self) -> Operation:
        """The same call, without what is known of its outcome."""
        return replace(self, reply=UNKNOWN, returned=None)

    def revoked(self) -> Operation:
        """The same operation, which may have been lost after it was acknowledged."""
        return replace(self, revocable=True)

    def __str__(self) -> str:
        until = "" if self.returned is None else str(self.returned)
        return f"[{self.called}…{until}] {self.caller}: {self.command} -> {self.reply}"


@dataclass(frozen=True, slots=True)
class Holding:
    """A holder's own knowledge: it surely held the lock from `since` until `checked` (µs)."""

    key: str
    token: int
    since: int
    checked: int


class Clock:
    """Stamps, the same in every process of a history.

    Args:
        offset: ns between the machine's monotonic clock and the store's; None measures it now.
    """

    def __init__(self, offset: int | None = None) -> None:
        self.offset = time.time_ns() - time.monotonic_ns() if offset is None else offset

    def now(self) -> int:
        """µs."""
        return (time.monotonic_ns() + self.offset) // 1_000


class Line(msgspec.Struct, omit_defaults=True):
    """One line of a file: a call, its end, or what a holder knows."""

    at: int
    number: int = 0
    caller: str = ""
    command: str = ""
    arguments: msgspec.Raw = _NOTHING
    reply: msgspec.Raw = _NOTHING
    ended: str = ""
    holding: tuple[str, int, int, int] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Notebook:
    """One process's file of a history.

    Args:
        path: the file; lines are appended.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def called(self, at: int, number: int, caller: str, command: c.Command[Any]) -> None:
        """Note a command that is about to leave."""
        name = type(command).__name__
        arguments = msgspec.Raw(_encode(command))
        self._write(Line(at, number, caller, name, arguments))

    def returned(self, at: int, number: int, reply: Any) -> None:
        """Note a reply."""
        self._write(Line(at, number, reply=msgspec.Raw(_encode(reply)), ended=_RETURNED))

    def failed(self, at: int, number: int, *, executed: bool) -> None:
        """Note that no reply will come."""
        self._write(Line(at, number, ended=_UNKNOWN if executed else _NOT_EXECUTED))

    def held(self, holding: Holding) -> None:
        """Note until when a holder was sure of its lock."""
        known = (holding.key, holding.token, holding.since, holding.checked)
        self._write(Line(holding.checked, holding=known))

    def _write(self, line: Line) -> None:
        os.write(self._file, _encode(line) + b"\n")

    def close(self) -> None:
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class History:
    """All that took part in one run.

    Attributes:
        operations: by the time of their call.
        holdings: what lock holders knew.
    """

    operations: tuple[Operation, ...]
    holdings: tuple[Holding, ...] = ()

    def by_key(self) -> dict[str, list[Operation]]:
        """The operations of each key; keys share nothing, so each is a history of its own."""
        keys: dict[str, list[Operation]] = {}
        for operation in self.operations:
            keys.setdefault(operation.command.key, []).append(operation)
        return keys

    @property
    def unknown(self) -> int:
        """How many outcomes are unknown."""
        return sum(operation.reply is UNKNOWN for operation in self.operations)


def read_history(folder: Path) -> History:
    """The history that the files of a folder tell.

    A last line that a kill has cut short is no line.

    Raises:
        msgspec.DecodeError: another line is not one of a history.
    """
    operations: list[Operation] = []
    holdings: dict[tuple[str, int], Holding] = {}
    for path in sorted(folder.glob("*.jsonl")):
        calls: dict[int, Line] = {}
        for line in _lines(path):
            if line.holding is not None:
                holdings[line.holding[:2]] = Holding(*line.holding)
            elif line.command:
                calls[line.number] = line
            else:
                call = calls.pop(line.number)
                if line.ended != _NOT_EXECUTED:
                    operations.append(_operation(call, line))
        operations.extend(_operation(call, None) for call in calls.values())
    operations.sort(key=lambda operation: operation.called)
    return History(tuple(operations), tuple(holdings.values()))


def _lines(path: Path) -> Iterator[Line]:
    whole = path.read_bytes()
    for line in whole[: whole.rfind(b"\n") + 1].splitlines():
        yield _decode(line)


def _operation(call: Line, end: Line | None) -> Operation:
    kind = _COMMANDS[call.command]
    command = msgspec.json.decode(call.arguments, type=kind)
    if end is None or end.ended != _RETURNED:
        return Operation(call.caller, command, UNKNOWN, call.at, None)
    reply = msgspec.json.decode(end.reply, type=REPLIES[kind])
    return Operation(call.caller, command, reply, call.at, end.at)


def of_kind(operations: Iterable[Operation], kind: type[c.Command[Any]]) -> list[Operation]:
    """The operations whose command is of this kind."""
    return [operation for operation in operations if type(operation.command) is kind]
