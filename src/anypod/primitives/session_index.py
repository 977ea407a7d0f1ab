"""A user's sessions: what "your devices", "log out other devices" and "close this account" stand on.

Each user has an index, a document whose fields are the handles of the user's sessions. A handle is the hash
that names a session in the store; it opens nothing and may be shown.

Invariants:
    - a session is in the index before it is in the store, so the index may hold ghosts but misses none;
    - a ghost is taken out only after a tombstone was put where its session would be: whoever is slow to make
      it is told that it was ended;
    - a session is ended by its handle only if it is in the index of the user who asks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from anypod.commands import Document, EndDocument, Existence, PatchDocument, ReadDocument
from anypod.errors import Conflict
from anypod.flow import Flow
from anypod.keys import Key, encode

if TYPE_CHECKING:
    from anypod.primitives.session import Sessions

MAKING: Final = (
    60.0  # seconds in which a session follows its entry in the index, clocks' difference included
)
MARGIN: Final = 60.0  # seconds for which indices and tombstones outlive the longest session
ROUNDS: Final = 8  # of an erasure, while new sessions keep coming


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session of a user, as a list of devices shows it.

    Attributes:
        handle: names it for `Sessions.end`; it opens nothing.
        age: seconds since it was made or last rotated (a login rotates), on the store's clock.
        left: seconds until it ends however busy it is.
        changed: when something was last written into it, on the store's clock.
        current: it is the one that asks.
    """

    handle: str
    age: float
    left: float
    changed: datetime
    current: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index knows of a session.

    Attributes:
        made: when (seconds, the clock of the replica that made it).
        absolute: seconds for which it may live.
        previous: the handle before a rotation, which may still be read for its grace.
    """

    made: float = 0.0
    absolute: float = math.nan
    previous: str | None = None

    def encoded(self) -> bytes:
        """The field's value."""
        return f"{int(self.made)} {self.absolute!r} {self.previous or ''}".encode()

    @classmethod
    def of(cls, value: bytes) -> Entry:
        """The entry that a field's value stands for; earlier versions wrote nothing."""
        made, absolute, previous = [*value.decode().split(" "), "", "", ""][:3]
        if not made or not absolute:
            return cls()
        return cls(float(made), float(absolute), previous or None)


def entered(sessions: Sessions, user_key: str, handle: str, previous: str | None) -> Flow[None]:
    """Put a session that is about to be made into its user's index, in the place of the one before."""
    made = time.time() + sessions.store.driver.clock_offset
    yield PatchDocument(
        sessions.index_address(user_key),
        put={handle: Entry(made, sessions.absolute, previous).encoded()},
        drop=() if previous is None else (previous,),
        existence=Existence.EITHER,
        idle=sessions.absolute + MARGIN,
    )


def left_out(sessions: Sessions, user_key: str, handles: tuple[str, ...]) -> Flow[None]:
    """Take sessions out of their user's index."""
    if handles:
        yield PatchDocument(sessions.index_address(user_key), put={}, drop=handles)


def buried(sessions: Sessions, handle: str) -> Flow[bool]:
    """Leave a tombstone where a session is, or would be; True if there was one."""
    there: bool = yield EndDocument(sessions.address(handle), keep=sessions.absolute + MARGIN)
    return there


def listed(sessions: Sessions, user: Key, current: str | None) -> Flow[list[SessionInfo]]:
    """The user's sessions, the youngest first; heals the index."""
    user_key = _key_of(sessions, user)
    entries = yield from _entries(sessions, user_key)
    now = time.time() + sessions.store.driver.clock_offset
    found: list[
        tuple[float, SessionInfo]
    ] = []  # with the moment it was made, on this process's clock
    ghosts: list[str] = []
    for handle, entry in entries.items():
        document: Document | None = yield ReadDocument(sessions.address(handle))
        read = time.monotonic() + sessions.store.driver.clock_offset
        if document is not None:
            left = math.inf if document.left is None else document.left
            absolute = sessions.absolute if math.isnan(entry.absolute) else entry.absolute
            changed = datetime.fromtimestamp(document.version / 1e6, UTC)
            age = max(0.0, absolute - left)
            # An age counts up to its own reading, and the readings come one after the other.
            found.append((read - age, SessionInfo(handle, age, left, changed, handle == current)))
        elif abs(now - entry.made) >= MAKING:
            yield from buried(sessions, handle)
            ghosts.append(handle)
    yield from left_out(sessions, user_key, tuple(ghosts))
    return [info for _, info in sorted(found, key=lambda pair: pair[0], reverse=True)]


def ended(sessions: Sessions, user: Key, handle: str) -> Flow[bool]:
    """End one session of a user; False if the user has none of that handle."""
    user_key = _key_of(sessions, user)
    entries = yield from _entries(sessions, user_key)
    if handle not in entries:
        return False
    there = yield from buried(sessions, handle)
    yield from _bury_previous(sessions, entries[handle])
    yield from left_out(sessions, user_key, (handle,))
    return there


def revoked(sessions: Sessions, user: Key, keep: str | None) -> Flow[int]:
    """End all sessions of a user but the one to keep; how many there were."""
    user_key = _key_of(sessions, user)
    entries = yield from _entries(sessions, user_key)
    entries.pop(keep or "", None)
    count = 0
    for handle, entry in sorted(entries.items()):
        count += yield from buried(sessions, handle)
        yield from _bury_previous(sessions, entry)
    yield from left_out(sessions, user_key, tuple(sorted(entries)))
    return count


def erased(sessions: Sessions, user: Key) -> Flow[int]:
    """End all sessions of a user until there are none."""
    user_key = _key_of(sessions, user)
    count = 0
    for _ in range(ROUNDS):
        count += yield from revoked(sessions, user, None)
        entries = yield from _entries(sessions, user_key)
        if not entries:
            return count
    raise Conflict(
        f"session {sessions.name!r}: new sessions of this user kept coming for {ROUNDS} rounds, {count} were "
        f"ended; refuse the user's logins first, then erase again"
    )


def _key_of(sessions: Sessions, user: Key) -> str:
    if user is None:
        raise ValueError(
            f"session {sessions.name!r}: the user is None, and sessions of nobody are in no list; give the "
            f"user that create() or rotate() got"
        )
    return encode(user)


def _entries(sessions: Sessions, user_key: str) -> Flow[dict[str, Entry]]:
    index: Document | None = yield ReadDocument(sessions.index_address(user_key))
    fields = {} if index is None else index.fields
    return {handle: Entry.of(value) for handle, value in fields.items()}


def _bury_previous(sessions: Sessions, entry: Entry) -> Flow[None]:
    """The token before a rotation reads until its grace is over, unless the session is ended."""
    if entry.previous is not None:
        yield from buried(sessions, entry.previous)
