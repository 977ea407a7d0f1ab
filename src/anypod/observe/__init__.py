"""Observation: one hook that hears of every command that a store executes.

    state.observe(lambda event: print(event.primitive, event.name, event.outcome, event.seconds))

An event tells the primitive's kind and name, the command, how long it took and what came of it; never a
key or a value, because those are users' data. A store that nobody observes does no work for this.

`anypod.observe.prometheus` and `anypod.observe.opentelemetry` are such observers, ready made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from msgspec import Struct

from anypod.commands import (
    Acquired,
    Added,
    CacheReply,
    Claimed,
    Command,
    Document,
    Filled,
    Patched,
    Stored,
    Taken,
    Versioned,
)

__all__ = ["Event", "Observer", "event_of"]


class Event(Struct, frozen=True):
    """What became of one command.

    Attributes:
        primitive: the kind: "counter", "map", "cache", "session", "idempotency", "rate", "lock", …
        name: the primitive's name, as given to `State`.
        command: the name of the command: "Add", "Take", …
        seconds: how long it took, the exchange included.
        outcome: what came of it, one of a few words per command ("added", "refused", "hit", "miss",
            "granted", …), or the class of the error.
        degraded: the store was not reached, and this policy decided instead ("allow", "deny", …).
    """

    primitive: str
    name: str
    command: str
    seconds: float
    outcome: str
    degraded: str | None = None


Observer: TypeAlias = Callable[[Event], None]


def _cache_outcome(reply: CacheReply) -> str:
    if reply.payload is None:
        return "miss"
    return "stale" if reply.stale else "hit"


_OUTCOMES: Final[dict[type, Callable[[Any], str]]] = {
    Added: lambda reply: reply.outcome.value,
    Acquired: lambda reply: "waiting" if reply.token is None else "acquired",
    CacheReply: _cache_outcome,
    Claimed: lambda reply: reply.status.value,
    Document: lambda _: "found",
    Filled: lambda reply: "stored" if reply.accepted else "rejected",
    Patched: lambda reply: reply.outcome.value,
    Stored: lambda reply: "written" if reply.written else "conflict",
    Taken: lambda reply: "admitted" if reply.admitted else "refused",
    Versioned: lambda _: "found",
    bool: lambda reply: "done" if reply else "refused",
    type(None): lambda _: "missing",
}


def event_of(command: Command[Any], seconds: float, reply: Any) -> Event:
    """The event for a command and its reply, which may be an exception."""
    if isinstance(reply, BaseException):
        outcome = type(reply).__name__
    else:
        outcome = _OUTCOMES.get(type(reply), lambda _: "done")(reply)
    _, _, primitive, name, *_ = [*command.key.split(":", 4), "", "", ""]
    return Event(primitive, name, type(command).__name__, seconds, outcome)
