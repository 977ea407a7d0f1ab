"""What a request to the shop may contain, and how a refusal reads.

Both twins use it. Everything that a client can get wrong becomes a 4xx whose body is
`{"error": "what was wrong and what was expected"}`; nothing a client sends may become a 500.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NoReturn

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType

from anypod.demo.database import OutOfStockError, UnknownIdError

MAX_BODY: Final = 16 * 1024  # bytes
MAX_NUMBER: Final = 2**53 - 1  # beyond it JSON readers disagree about which number it is
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def refuse(reason: str) -> NoReturn:
    """End the request with a 400 that says why."""
    abort(400, description=reason)


def json_body() -> Mapping[str, object]:
    """The request's JSON object; anything else is refused."""
    try:
        body = request.get_json()
    except UnsupportedMediaType:
        raise
    except BadRequest:
        refuse("the body is not JSON")
    except RecursionError:
        refuse("the body is nested too deeply")
    if not isinstance(body, dict):
        refuse(f"the body must be a JSON object, not {type(body).__name__}")
    return body


def number(body: Mapping[str, object], field: str, default: float) -> int | float:
    """A number within ±MAX_NUMBER."""
    value = body.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse(f"{field!r} must be a number, not {_kind(value)}")
    if not -MAX_NUMBER <= value <= MAX_NUMBER:  # so written, NaN is refused too
        refuse(f"{field!r} must lie within ±{MAX_NUMBER}")
    return value


def whole(body: Mapping[str, object], field: str, *, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        refuse(f"{field!r} must be a whole number from {least} to {most}")
    return value


def text(body: Mapping[str, object], field: str, *, most: int = 200) -> str:
    """A string of 1 to `most` printable characters."""
    value = body.get(field)
    if not isinstance(value, str) or not 1 <= len(value) <= most or not value.isprintable():
        refuse(f"{field!r} must be a string of 1 to {most} printable characters")
    return value


def identifier(value: object, field: str) -> str:
    """An id as the shop uses them in paths and keys: 1 to 64 ASCII letters, digits, `_` or `-`."""
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        refuse(f"{field!r} must be 1 to 64 letters, digits, '_' or '-'")
    return value


def bearer_token() -> str:
    """What follows `Authorization: Bearer`, or an empty string, which no session has."""
    authorization = request.authorization
    if authorization is None or authorization.type != "bearer":
        return ""
    return authorization.token or ""


def explain_refusals(app: Flask) -> None:
    """Give every refusal of this application a JSON body with its reason."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    @app.errorhandler(UnknownIdError)
    def unknown(error: UnknownIdError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 404

    @app.errorhandler(OutOfStockError)
    def out_of_stock(error: OutOfStockError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 409


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
