"""`flask.session` over sessions that every pod sees.

Invariants:
    - a request that does not look at its session costs no exchange with the store, one that only reads
      costs one and writes nothing but the idle deadline;
    - a session id that the store does not know is never adopted, and one that was ended stays ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Request, Response, session
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin

from anypod.errors import SessionEnded
from anypod.primitives.session import Session, Sessions

if TYPE_CHECKING:
    from anypod.keys import Key
    from anypod.state import State

_log: Final = logging.getLogger("anypod.web.flask")


class FlaskSession(SessionMixin):
    """`flask.session` over a session that every pod sees. Made by `AnypodSessionInterface`.

    Holds what Flask's own session holds (tuples, bytes, UUIDs, datetimes and Markup come back as they
    were). Changes inside a value are seen without `session.modified = True`. `clear()` ends the session
    in the store: what is put in afterwards is a new session under a new id, as a login wants it.
    """

    def __init__(self, sessions: Sessions, token: str | None) -> None:
        self.sent = token  # what the client's cookie said
        self._sessions = sessions
        self._opened: Session | None = None
        self._ended: list[Session] = []
        self._values: dict[str, Any] = {}  # read or set here, as the application sees them
        self.lifetime_changed = False  # `permanent` was set or unset, and the cookie must say so
        self.modified = False
        self.accessed = False

    # The parent class declares `new` as an attribute.
    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the session is not in the store yet."""
        return not self._core.saved

    @property
    def id(self) -> str:
        """The session's token: give it to the client and to nobody else."""
        return self._core.id

    def rotate(self, user: Key = None) -> None:
        """Go on under a new id, as every change of privileges must.

        Args:
            user: whose session it is from now on, so that `Sessions.revoke(user)` finds it.

        Raises:
            SessionEnded: another request ended the session meanwhile.
        """
        self._write_back()
        self._core.rotate(user=user)
        self.modified = True

    def end(self) -> None:
        """End the session everywhere, now and for good (log out)."""
        self._core.end()
        self._start_anew()

    def clear(self) -> None:
        """Forget everything; the session ends when the request does."""
        if self._core.saved:
            self._ended.append(self._core)
        self._start_anew()

    def commit(self) -> None:
        """Write to the store what this request changed, and only that.

        Raises:
            SessionEnded: another request ended the session meanwhile; nothing was written.
            StoreError: the store could not take it.
        """
        for before in self._ended:
            before.end()
        self._ended.clear()
        self._write_back()
        self._core.save()

    def __getitem__(self, name: str) -> Any:
        core = self._core
        if name not in self._values:
            self._values[name] = _tagged.loads(core[name])
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        core = self._core
        if name == "_permanent" and value != self.get(name, False):
            self.lifetime_changed = True
        # Refuses here, at the line to blame, what cannot be stored.
        core[name] = _tagged.dumps(value)
        self._values[name] = value
        self.modified = True

    def __delitem__(self, name: str) -> None:
        del self._core[name]
        self._values.pop(name, None)
        self.modified = True

    def __iter__(self) -> Iterator[str]:
        return iter(self._core)

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, name: object) -> bool:
        return name in self._core

    def __repr__(self) -> str:
        return f"<FlaskSession of {self._sessions.name!r}>"

    @property
    def _core(self) -> Session:
        self.accessed = True
        if self._opened is None:
            self._opened = self._sessions.load(self.sent) or self._sessions.new()
        return self._opened

    def _write_back(self) -> None:
        for name, value in self._values.items():
            text = _tagged.dumps(value)
            if text != self._core[name]:
                self._core[name] = text
                self.modified = True

    def _start_anew(self) -> None:
        self._opened = self._sessions.new()
        self._values = {}
        self.modified = True


_tagged: Final = TaggedJSONSerializer()


class AnypodSessionInterface(SessionInterface):
    """Keeps `flask.session` where every pod sees it; the cookie holds only its id.

    The cookie's attributes are Flask's own `SESSION_COOKIE_*`; a `session.permanent` one lasts as
    `PERMANENT_SESSION_LIFETIME` says. How long the session itself lives is said here.

    Args:
        where: the state, or a family of sessions that `state.session(…)` made.
        idle: seconds without a request after which a session ends; for a state only.
        absolute: seconds after which it ends in any case; for a state only.
    """

    def __init__(
        self, where: State | Sessions, *, idle: float = 1_800.0, absolute: float = 86_400.0
    ) -> None:
        if isinstance(where, Sessions):
            self.sessions = where
        else:
            self.sessions = where.session("flask", idle=idle, absolute=absolute)

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """The request's session; the store is asked when the application first looks at it."""
        return FlaskSession(self.sessions, request.cookies.get(self.get_cookie_name(app)))

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commit what the request changed and tell the client the session's id if it is new."""
        assert isinstance(session, FlaskSession)
        if not session.accessed:
            return
        response.vary.add("Cookie")
        try:
            session.commit()
        except SessionEnded:
            # Another request logged out. What this one changed must not bring the session back.
            _log.info("a request changed a session that another request had ended; not kept")
            self._delete_cookie(app, response)
            return
        if session.new:
            if session.sent is not None:
                self._delete_cookie(app, response)
            return
        if (
            session.id != session.sent
            or session.lifetime_changed
            or self._must_refresh(app, session)
        ):
            response.set_cookie(
                self.get_cookie_name(app),
                session.id,
                expires=self.get_expiration_time(app, session),
                httponly=self.get_cookie_httponly(app),
                **self._attributes(app),
            )

    def _must_refresh(self, app: Flask, session: FlaskSession) -> bool:
        # A cookie that outlives the session needs none: each one sent again could overwrite the new id
        # that a login in another tab has just been given.
        lifetime = app.permanent_session_lifetime.total_seconds()
        return (
            session.permanent
            and bool(app.config["SESSION_REFRESH_EACH_REQUEST"])
            and lifetime < self.sessions.absolute
        )

    def _delete_cookie(self, app: Flask, response: Response) -> None:
        response.delete_cookie(
            self.get_cookie_name(app),
            httponly=self.get_cookie_httponly(app),
            **self._attributes(app),
        )

    def _attributes(self, app: Flask) -> dict[str, Any]:
        attributes = {
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "secure": self.get_cookie_secure(app),
            "samesite": self.get_cookie_samesite(app),
        }
        if app.config.get("SESSION_COOKIE_PARTITIONED"):  # Flask 3.1 and later
            attributes["partitioned"] = True
        return attributes


def rotate(user: Key = None) -> None:
    """Give this request's session a new id: call it when somebody logs in, before or after writing.

    Args:
        user: whose session it is from now on, so that `Sessions.revoke(user)` finds it.

    Raises:
        SessionEnded: another request ended the session meanwhile.
        RuntimeError: the application's sessions are not anypod's.
    """
    _current_session().rotate(user)


def logout() -> None:
    """End this request's session everywhere, at once and for good."""
    _current_session().end()


def _current_session() -> FlaskSession:
    current = session._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001  # Werkzeug's documented way through a proxy
    if not isinstance(current, FlaskSession):
        raise RuntimeError(  # noqa: TRY004  # the application is set up wrongly, no value is
            f"flask.session is a {type(current).__name__}: set "
            f"app.session_interface = AnypodSessionInterface(state) first"
        )
    return current
