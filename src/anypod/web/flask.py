"""Flask: server-side sessions, Idempotency-Key and health checks, each one line in an application.

    app.session_interface = AnypodSessionInterface(state)      # `flask.session`, on every pod

    @app.post("/orders")
    @idempotent(state)                                         # a retry gets the first answer
    def place_order(): ...

    Health(app, state)                                         # /livez, /readyz

Invariants:
    - a request that does not look at its session costs no exchange with the store, one that only reads
      costs one and writes nothing but the idle deadline;
    - a session id that the store does not know is never adopted, and one that was ended stays ended;
    - an idempotent view's answer is stored before it is sent; a view that fails is not run again, unless
      it said that nothing had happened;
    - a streamed answer goes out untouched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import wraps
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, ParamSpec

from flask import Flask, Request, Response, current_app, g, request, session
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from anypod.errors import AnypodError, LeaseLost, SessionEnded, StoreError
from anypod.primitives.idempotency import Attempt
from anypod.primitives.session import Session, Sessions
from anypod.web.idempotency_key import (
    HEADER,
    MAX_BODY,
    MAX_REQUEST,
    BadKey,
    KeptAnswer,
    fingerprint,
    is_kept,
    parse_key,
    refusal,
)
from anypod.web.problem import Problem

if TYPE_CHECKING:
    from anypod.keys import Key
    from anypod.state import State

__all__ = [
    "AnypodSessionInterface",
    "FlaskSession",
    "Health",
    "idempotent",
    "logout",
    "nothing_happened",
    "rotate",
]

P = ParamSpec("P")

_log: Final = logging.getLogger("anypod.web.flask")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


# --- sessions -------------------------------------------------------------------------------------


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


# --- Idempotency-Key ------------------------------------------------------------------------------


def idempotent(
    state: State,
    scope: str = "http",
    *,
    required: bool = False,
    principal: Callable[[], Key] | None = None,
    wait: float = 10.0,
    lease: float = 30.0,
    ttl: float = 86_400.0,
    max_request: int = MAX_REQUEST,
    max_body: int = MAX_BODY,
    replay_cookies: bool = False,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Carry out a view once per Idempotency-Key, and give every retry the first answer.

    Put it under the route. Requests without the header go through (unless `required`), and so do
    methods that change nothing. Refusals are problem documents: 400 for a missing or malformed key, 409
    with Retry-After while the first request is at work, 422 for a key that came before with another
    request, 503 when the store is away.

    Kept are 2xx, 3xx, 5xx and 4xx other than 401, 403, 408, 409, 425 and 429; see `nothing_happened`.
    An answer that is streamed or larger than `max_body` is sent but not kept: a retry gets 409.
    A process that is killed inside the view leaves it in doubt: a retry after `lease` runs it again.

    Args:
        state: where the answers are kept.
        scope: keys of different scopes are different.
        required: refuse a request without a key.
        principal: who is asking, as part of the key, so that nobody gets another's answer; by default
            the Authorization header and the id of an anypod session.
        wait: seconds to wait for the first request's answer before the 409.
        lease: seconds after which a process that gave no sign of life is taken for dead.
        ttl: seconds for which an answer is kept.
        max_request: bytes of the largest request, which is read as a whole to tell a retry from
            another request; a larger one with a key gets 413.
        max_body: bytes of the largest answer that is kept.
        replay_cookies: whether a retry gets the first answer's cookies too.
    """
    operations = state.idempotency(scope, lease=lease, ttl=ttl)
    who = _principal if principal is None else principal

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            values = request.headers.getlist(HEADER)
            if request.method in _SAFE_METHODS or not (values or required):
                return _called(view, *args, **kwargs)
            rule = "" if request.url_rule is None else request.url_rule.rule
            with ExitStack() as block:
                try:
                    key = (parse_key(values), request.method, rule, who())
                    attempt = block.enter_context(
                        operations.claim(key, _fingerprint(max_request), wait=wait)
                    )
                except (BadKey, AnypodError) as refused:
                    problem = refusal(refused)
                    if problem is None:
                        raise
                    return _answer(problem)
                if attempt.replayed:
                    kept = KeptAnswer.from_data(attempt.outcome)
                    return Response(kept.body, kept.status, list(kept.headers))
                try:
                    response = _handled(view, *args, **kwargs)
                except Exception:
                    if _said_nothing_happened():
                        attempt.abandon()
                    raise
                return _settled(attempt, response, max_body, cookies=replay_cookies)

        return guarded

    return decorate


def nothing_happened() -> None:
    """Say inside an idempotent view that it has done nothing: its 5xx is not kept, a retry runs it.

    Call it before the first effect can have happened, for instance when a connection was refused.
    """
    g.anypod_nothing_happened = True


def _said_nothing_happened() -> bool:
    return bool(g.get("anypod_nothing_happened", False))


def _principal() -> Key:
    interface = current_app.session_interface
    cookie = None
    if isinstance(interface, AnypodSessionInterface):
        cookie = request.cookies.get(interface.get_cookie_name(current_app))
    asking = (request.headers.get("Authorization"), cookie)
    # Hashed: what opens an account must not stand in the store's keys.
    return None if asking == (None, None) else sha256(repr(asking).encode()).hexdigest()


def _fingerprint(max_request: int) -> str:
    allowed = request.max_content_length
    request.max_content_length = max_request if allowed is None else min(allowed, max_request)
    query = request.query_string.decode("latin-1")
    return fingerprint(request.method, request.path, query, request.get_data())


def _called(
    view: Callable[P, ResponseReturnValue], *args: P.args, **kwargs: P.kwargs
) -> ResponseReturnValue:
    answer: ResponseReturnValue = current_app.ensure_sync(view)(*args, **kwargs)
    return answer


def _handled(view: Callable[P, ResponseReturnValue], *args: P.args, **kwargs: P.kwargs) -> Response:
    """The view's answer, or that of the application's handler for what the view raised."""
    try:
        answer = _called(view, *args, **kwargs)
    except Exception as failure:  # noqa: BLE001  # raised again unless the application handles it
        handled = current_app.handle_user_exception(failure)
        # `abort(404)` without a handler: as a response, whose body is there, not as an application.
        answer = (
            handled.get_response(request.environ) if isinstance(handled, HTTPException) else handled
        )
    return current_app.make_response(answer)


def _settled(
    attempt: Attempt, response: Response, max_body: int, *, cookies: bool
) -> ResponseReturnValue:
    """Store the answer, then let it go."""
    nothing = response.status_code >= 500 and _said_nothing_happened()
    try:
        if nothing or not is_kept(response.status_code):
            attempt.abandon()
        elif not response.is_sequence or len(response.get_data()) > max_body:
            attempt.seal()
        else:
            kept = KeptAnswer.of(
                response.status_code,
                response.headers.items(),
                response.get_data(),
                cookies=cookies,
            )
            attempt.complete(kept.as_data())
    except LeaseLost:
        _log.warning("an idempotent view outlived its lease; another request has taken over")
        return _answer(
            Problem(
                409,
                "Request taken over",
                f"this request took longer than its lease, and a retry with the same {HEADER} has "
                f"taken over; retry to get its answer",
                retry_after=1.0,
            )
        )
    except StoreError:
        # It did happen, and the client had better know, although a retry would run it again.
        _log.exception("an idempotent view's answer could not be stored")
    return response


def _answer(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, problem.headers())


# --- health ---------------------------------------------------------------------------------------


class Health:
    """Liveness and readiness for Kubernetes: `Health(app, state)`, or `init_app` with a factory.

    Liveness answers whenever the process does, and asks nobody: a store that is away is no reason to
    restart every pod. Readiness answers 503 while the store cannot be reached, and after `drain()`.

    Args:
        app: the application, or None to call `init_app` later.
        state: what must be reachable for this pod to be useful; None for nothing.
        live: path of the liveness check.
        ready: path of the readiness check.
    """

    def __init__(
        self,
        app: Flask | None = None,
        state: State | None = None,
        *,
        live: str = "/livez",
        ready: str = "/readyz",
    ) -> None:
        self.state = state
        self.live = live
        self.ready = ready
        self._draining_since: datetime | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, state: State | None = None) -> None:
        """Add both routes to an application."""
        self.state = self.state if state is None else state
        app.add_url_rule(self.live, "anypod_livez", self._live, methods=["GET"])
        app.add_url_rule(self.ready, "anypod_readyz", self._ready, methods=["GET"])
        app.extensions["anypod_health"] = self

    def drain(self) -> None:
        """Answer readiness with 503 from now on, so that no new requests are routed here."""
        self._draining_since = datetime.now(UTC)

    def _live(self) -> tuple[dict[str, str], int, dict[str, str]]:
        return {"status": "alive"}, 200, {"Cache-Control": "no-store"}

    def _ready(self) -> tuple[dict[str, str], int, dict[str, str]]:
        headers = {"Cache-Control": "no-store"}
        if self._draining_since is not None:
            since = self._draining_since.isoformat(timespec="seconds")
            return {"status": "draining", "since": since}, 503, headers
        if self.state is not None:
            try:
                self.state.ping()
            except StoreError:
                _log.exception("not ready: the store cannot be reached")
                return {"status": "not ready", "reason": "store"}, 503, headers
        return {"status": "ready"}, 200, headers
