"""Views that a retry does not run twice, by the Idempotency-Key header.

Invariants:
    - the answer is stored before it is sent;
    - a view that fails is not run again, unless it said that nothing had happened;
    - a streamed answer goes out untouched;
    - what opens an account (a bearer token, a session id) reaches the store only hashed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from hashlib import sha256
from typing import TYPE_CHECKING, Final, ParamSpec

from flask import Response, current_app, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from anypod.errors import AnypodError, LeaseLost, StoreError
from anypod.primitives.idempotency import Attempt
from anypod.web.flask.sessions import AnypodSessionInterface
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

P = ParamSpec("P")

_log: Final = logging.getLogger("anypod.web.flask")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


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
