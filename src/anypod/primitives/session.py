"""Sessions that any replica can read, change and end.

The client holds a token, `lookup.secret`; the store holds only hashes of its parts. A session is one
document in the store whose fields are committed one by one, so that two requests which change
different fields at the same time both win.

Invariants:
    - a token that the store does not know is never adopted: `load` answers None, `save` refuses;
    - a request that only reads writes nothing but the idle deadline;
    - ending a session leaves a tombstone that outlives its absolute timeout: a slow request which saves
      later gets `SessionEnded`, and nothing is resurrected;
    - a user's index is written before the session itself, so that ending all sessions of a user may
      meet ids that never came to be, but misses none (`session_index`);
    - a rotation leaves at most one earlier token alive, for its grace, and ending the session ends it too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, MutableMapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from anypod.commands import (
    Document,
    Existence,
    PatchDocument,
    Patched,
    PatchOutcome,
    ReadDocument,
)
from anypod.durations import check_durations, shown
from anypod.errors import RecordError, SessionEnded
from anypod.flow import Flow, arun, run
from anypod.keys import Key, encode
from anypod.primitives import session_index as index
from anypod.primitives.session_index import SessionInfo
from anypod.serializer import Serializer, Undecodable

if TYPE_CHECKING:
    from anypod.stores import Store

_TOKEN = re.compile(r"([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")

# Fields of the document that are not the user's; a user's field is stored as "." + its name.
_VERIFIER: Final = "verifier"
_USER: Final = "user"
_PREVIOUS: Final = "previous"

_ABSENT: Final = object()
_AT_ONCE: Final = 1e-6  # seconds


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=32).hexdigest()


class Sessions:
    """A family of sessions. Made by `State.session`.

    Args:
        store: where the sessions are.
        name: names the family.
        idle: seconds without a request after which a session ends (up to a sixteenth sooner, because
            a busy session does not move its deadline at each request).
        absolute: seconds after which a session ends however busy it is.
        grace: seconds for which the token before a `rotate` still reads what it could read before.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        idle: float = 1_800.0,
        absolute: float = 86_400.0,
        grace: float = 10.0,
    ) -> None:
        check_durations(f"session {name!r}", idle=idle, absolute=absolute, grace=grace)
        self.name = name
        self.idle = min(idle, absolute)
        self.absolute = absolute
        self.grace = grace
        self.store = store
        self._serializer: Serializer[Any] = Serializer(owner="its value")
        self._prefix = ""

    def new(self) -> Session:
        """A session that is not in the store yet: its first `save` puts it there, if it holds anything."""
        return Session(self, _token(), fields={}, known=False)

    def create(self, /, *, user: Key = None, **fields: Any) -> Session:
        """Make a session in the store, for a user or for nobody yet.

        Args:
            user: whose it is; `revoke` ends all sessions of a user.
            fields: what it holds from the start.
        """
        return run(self.store, self._create(user, fields))

    async def acreate(self, /, *, user: Key = None, **fields: Any) -> Session:
        """`create`, awaiting."""
        return await arun(self.store, self._create(user, fields))

    def load(self, token: str | None) -> Session | None:
        """The session that this token opens, or None.

        None for a token that is missing, malformed, unknown, wrong, ended or timed out: the caller
        cannot and need not tell which. Costs one exchange, or none for a malformed token.
        """
        # Without a flow, as its twin and `Session.save`: every request of a user waits for these.
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None:
            return None
        handle = _digest(match[1])
        return self._opened(match, handle, self.store.perform(self._read(handle)))

    async def aload(self, token: str | None) -> Session | None:
        """`load`, awaiting."""
        match = _TOKEN.fullmatch(token) if isinstance(token, str) else None
        if match is None:
            return None
        handle = _digest(match[1])
        return self._opened(match, handle, await self.store.aperform(self._read(handle)))

    def sessions(self, user: Key, *, current: Session | None = None) -> list[SessionInfo]:
        """The sessions of a user that are alive, the youngest first: a list of devices.

        Costs one exchange, and one per session. What is found to have ended leaves the user's index.

        Args:
            user: whose.
            current: the session that asks, so that it can be told from the others.
        """
        return run(self.store, index.listed(self, user, self._handle_of(current)))

    async def asessions(self, user: Key, *, current: Session | None = None) -> list[SessionInfo]:
        """`sessions`, awaiting."""
        return await arun(self.store, index.listed(self, user, self._handle_of(current)))

    def end(self, user: Key, handle: str) -> bool:
        """End one session of a user by its handle; False if this user has no such session.

        The handle may come from a form: another user's is not found.
        """
        return run(self.store, index.ended(self, user, handle))

    async def aend(self, user: Key, handle: str) -> bool:
        """`end`, awaiting."""
        return await arun(self.store, index.ended(self, user, handle))

    def revoke(self, user: Key, *, keep: Session | None = None) -> int:
        """End all sessions of a user and return how many there were.

        Args:
            user: whose.
            keep: the one that asks, which goes on: "log out my other devices".
        """
        return run(self.store, index.revoked(self, user, self._handle_of(keep)))

    async def arevoke(self, user: Key, *, keep: Session | None = None) -> int:
        """`revoke`, awaiting."""
        return await arun(self.store, index.revoked(self, user, self._handle_of(keep)))

    def erase(self, user: Key) -> int:
        """End all sessions of a user until none is left, and return how many there were.

        For an account that is closed: nothing that the user put into a session remains. Hashes of the
        ended ones and the empty index stay until the absolute timeout has passed, so that nothing is
        resurrected.

        Raises:
            Conflict: the user kept logging in meanwhile.
        """
        return run(self.store, index.erased(self, user))

    async def aerase(self, user: Key) -> int:
        """`erase`, awaiting."""
        return await arun(self.store, index.erased(self, user))

    # What follows is shared with `Session`.

    def address(self, handle: str) -> str:
        """The key of the document of a session, by the hash of its token's lookup part."""
        if not self._prefix:
            self._prefix = self.store.prefix("session", self.name) + "s"
        return self._prefix + handle

    def index_address(self, user_key: str) -> str:
        """The key of the index of one user's sessions."""
        return self.store.prefix("session-user", self.name) + user_key

    def encode(self, name: str, value: object) -> bytes:
        """A field's value as bytes; TypeError or ValueError if it is not plain data, or too large."""
        try:
            return self._serializer.encode(value)
        except (TypeError, ValueError) as failure:
            raise type(failure)(f"session {self.name!r}: field {name!r}: {failure}") from failure

    def decode(self, name: str, encoded: bytes) -> Any:
        """A field's value; RecordError if it was written by what this version does not read."""
        try:
            return self._serializer.decode(encoded)
        except Undecodable as failure:
            raise RecordError(f"session {self.name!r}: field {name!r}: {failure}") from failure

    def bind(
        self, token: str, user_key: str | None, put: dict[str, bytes], previous: str | None
    ) -> Flow[None]:
        """Put a new session into the store: the user's index first, then the document."""
        lookup, _, secret = token.partition(".")
        handle = _digest(lookup)
        document = {**put, _VERIFIER: _digest(secret).encode()}
        if user_key is not None:
            document[_USER] = user_key.encode()
            yield from index.entered(self, user_key, handle, previous)
        if previous is not None:
            document[_PREVIOUS] = previous.encode()
        patched: Patched = yield PatchDocument(
            self.address(handle),
            put=document,
            existence=Existence.NEW,
            idle=self.idle,
            absolute=self.absolute,
        )
        self.refuse_unless_patched(patched)

    def refuse_unless_patched(self, patched: Patched) -> None:
        """Raise if a patch was not made.

        Raises:
            SessionEnded: the session is not there any more.
        """
        if patched.outcome is not PatchOutcome.PATCHED:
            raise SessionEnded(
                f"session {self.name!r} was ended or ran out while this request was using it; nothing was "
                f"written: treat the client as logged out"
            )

    def _create(self, user: Key, fields: dict[str, Any]) -> Flow[Session]:
        token = _token()
        user_key = None if user is None else encode(user)
        put = {"." + name: self.encode(name, value) for name, value in fields.items()}
        yield from self.bind(token, user_key, put, None)
        return Session(
            self, token, fields={"." + k: put["." + k] for k in fields}, user_key=user_key
        )

    def _handle_of(self, session: object) -> str | None:
        if session is not None and not isinstance(session, Session):
            raise TypeError(
                f"session {self.name!r}: give a Session that asks, not {shown(session)}"
            )
        return None if session is None else session.handle

    def _read(self, handle: str) -> ReadDocument:
        return ReadDocument(self.address(handle), self.idle)

    def _opened(
        self, token: re.Match[str], handle: str, document: Document | None
    ) -> Session | None:
        if document is None:
            return None
        fields = document.fields.copy()
        verifier = fields.pop(_VERIFIER, b"")
        if not secrets.compare_digest(verifier, _digest(token[2]).encode()):
            return None
        user_key = fields.pop(_USER, None)
        previous = fields.pop(_PREVIOUS, None)
        return Session(
            self,
            token[0],
            fields=fields,
            user_key=None if user_key is None else user_key.decode(),
            previous=None if previous is None else previous.decode(),
            handle=handle,
        )


class Session(MutableMapping[str, Any]):
    """One session: a mapping of names to plain data, committed by `save`.

    Changes inside a value (`session["cart"].append(…)`) are seen. Not for use by two threads at once;
    two requests load two of them.

    Attributes:
        id: the token to give to the client, and to nobody else.
    """

    __slots__ = (
        "_handle",
        "_known",
        "_live",
        "_previous",
        "_sessions",
        "_stored",
        "_user_key",
        "id",
    )

    def __init__(
        self,
        sessions: Sessions,
        token: str,
        *,
        fields: dict[str, bytes],
        user_key: str | None = None,
        previous: str | None = None,
        known: bool = True,
        handle: str | None = None,
    ) -> None:
        self.id = token
        self._handle = handle
        self._sessions = sessions
        self._stored = fields  # as the store has them, names with their "."
        self._live: dict[str, Any] = {}  # what was read or set here; _ABSENT once deleted
        self._user_key = user_key
        self._previous = previous
        self._known = known

    @property
    def handle(self) -> str:
        """What names the session in lists; it opens nothing."""
        if self._handle is None:
            self._handle = _digest(self.id.partition(".")[0])
        return self._handle

    @property
    def saved(self) -> bool:
        """Whether the session is in the store."""
        return self._known

    @property
    def modified(self) -> bool:
        """Whether `save` would write anything."""
        put, drop = self._delta()
        return bool(put or drop)

    def save(self) -> None:
        """Commit what was changed, and only that. Costs one exchange, or none if nothing was.

        Raises:
            SessionEnded: the session was ended or ran out meanwhile; nothing was written.
            TypeError: a value is not plain data.
        """
        put, drop = self._delta()
        if not put and not drop:
            return
        if self._known:
            patched = self._sessions.store.perform(self._patch(put, drop))
            self._sessions.refuse_unless_patched(patched)
        else:
            run(self._sessions.store, self._sessions.bind(self.id, self._user_key, put, None))
        self._settled(put, drop)

    async def asave(self) -> None:
        """`save`, awaiting."""
        put, drop = self._delta()
        if not put and not drop:
            return
        if self._known:
            patched = await self._sessions.store.aperform(self._patch(put, drop))
            self._sessions.refuse_unless_patched(patched)
        else:
            await arun(
                self._sessions.store, self._sessions.bind(self.id, self._user_key, put, None)
            )
        self._settled(put, drop)

    def end(self) -> None:
        """End the session everywhere, for good (log out)."""
        run(self._sessions.store, self._end())

    async def aend(self) -> None:
        """`end`, awaiting."""
        await arun(self._sessions.store, self._end())

    def rotate(self, *, user: Key = None) -> str:
        """Go on under a new token, as every change of privileges must, and return it.

        The fields, changed ones included, go along. The token before keeps what it could read before,
        and nothing more, for the family's `grace`; what is written under it from now on is lost.

        Args:
            user: whose session it is from now on; None leaves that as it is.

        Raises:
            SessionEnded: the session was ended or ran out meanwhile.
        """
        return run(self._sessions.store, self._rotate(user))

    async def arotate(self, *, user: Key = None) -> str:
        """`rotate`, awaiting."""
        return await arun(self._sessions.store, self._rotate(user))

    def __getitem__(self, name: str) -> Any:
        if name in self._live:
            value = self._live[name]
            if value is _ABSENT:
                raise KeyError(name)
            return value
        encoded = self._stored.get(f".{name}")
        if encoded is None:
            raise KeyError(name)
        value = self._live[name] = self._sessions.decode(name, encoded)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        if type(name) is not str:
            raise TypeError(f"the name of a session field must be str, not {type(name).__name__}")
        if not name.isascii():
            name.encode()  # half a character is no name: UnicodeEncodeError, which is a ValueError
        self._live[name] = value

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._live[name] = _ABSENT

    def __contains__(self, name: object) -> bool:
        if name in self._live:
            return self._live[name] is not _ABSENT
        return f".{name}" in self._stored

    def __iter__(self) -> Iterator[str]:
        stored = (name[1:] for name in self._stored)
        names = dict.fromkeys([*stored, *self._live])
        return (name for name in names if self._live.get(name) is not _ABSENT)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Session of {self._sessions.name!r} with {len(self)} fields>"

    def _delta(self) -> tuple[dict[str, bytes], tuple[str, ...]]:
        put: dict[str, bytes] = {}
        drop: list[str] = []
        for name, value in self._live.items():
            field = "." + name
            if value is _ABSENT:
                if field in self._stored:
                    drop.append(field)
                continue
            encoded = self._sessions.encode(name, value)
            if self._stored.get(field) != encoded:
                put[field] = encoded
        return put, tuple(drop)

    def _patch(self, put: dict[str, bytes], drop: tuple[str, ...]) -> PatchDocument:
        address = self._sessions.address(self.handle)
        return PatchDocument(address, put, drop, idle=self._sessions.idle)

    def _settled(self, put: dict[str, bytes], drop: tuple[str, ...]) -> None:
        for name in drop:
            del self._stored[name]
        self._stored.update(put)
        self._known = True

    def _end(self) -> Flow[None]:
        if self._known:
            handle, previous = self.handle, self._previous
            yield from index.buried(self._sessions, handle)
            if previous is not None:
                yield from index.buried(self._sessions, previous)
            if self._user_key is not None:
                yield from index.left_out(self._sessions, self._user_key, (handle,))
        self._known = False
        self._stored = {}
        self._live = {}
        self.id, self._handle = _token(), None

    def _rotate(self, user: Key) -> Flow[str]:
        put, drop = self._delta()
        previous = None
        if self._known:
            previous = self.handle
            grace = self._sessions.grace
            patched: Patched = yield PatchDocument(
                self._sessions.address(previous), put={}, absolute=grace
            )
            self._sessions.refuse_unless_patched(patched)
            if self._previous is not None:
                # One earlier token at most: the one before that is over now, if it is not already.
                yield PatchDocument(
                    self._sessions.address(self._previous), put={}, absolute=_AT_ONCE
                )
        token = _token()
        user_key = self._user_key if user is None else encode(user)
        fields = {k: v for k, v in self._stored.items() if k not in drop} | put
        yield from self._sessions.bind(token, user_key, fields, previous)
        self._settled(put, drop)
        self.id, self._handle, self._user_key, self._previous = token, None, user_key, previous
        return token


def _token() -> str:
    return f"{secrets.token_urlsafe(16)}.{secrets.token_urlsafe(32)}"
