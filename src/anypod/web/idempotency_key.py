"""The Idempotency-Key header and the answers that are kept for it, without any framework.

After draft-ietf-httpapi-idempotency-key-header-07: the value is a Structured Field String
(RFC 9651, `"b7c5…"`); the bare value that most clients send means the same key.

Invariants:
    - two requests share a fingerprint only if method, path, query (as a multiset) and body are equal;
    - an answer is kept if the operation was carried out or refused for good, and not kept if the client
      is expected to come back and find it otherwise;
    - nothing that identifies one client (Set-Cookie) is kept unless asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qsl

from anypod.errors import (
    AnypodError,
    EarlierFailure,
    InFlight,
    KeyReused,
    NotReplayable,
    RecordError,
    StoreError,
)
from anypod.web.problem import Problem

HEADER: Final = "Idempotency-Key"
LONGEST_KEY: Final = 255  # characters
MAX_REQUEST: Final = 1024 * 1024  # bytes of a request that is fingerprinted
MAX_BODY: Final = 64 * 1024  # bytes of an answer that is kept for replay

TEMPORARY: Final = frozenset({401, 403, 408, 409, 425, 429})
"""4xx that a client is told in order to come back: the next attempt is a first attempt."""

# What belongs to one connection or one moment, or is computed again from the body.
_NOT_KEPT: Final = frozenset(
    {
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# RFC 9651, section 3.3.3; what follows the string are parameters, which say nothing here.
_QUOTED: Final = re.compile(
    r'"((?:[ !#-\[\]-~]|\\["\\])*)"(?:;[ ]*[a-z*][a-z0-9_.*-]*(?:=[^;,]*)?)*'
)
_BARE: Final = re.compile(r"[!#$%&'*+./:=?@^_`|~A-Za-z0-9-]+")


class BadKey(ValueError):
    """The header is missing or malformed; the message says what was expected."""


def parse_key(values: Sequence[str]) -> str:
    """The key that the request's Idempotency-Key header lines carry.

    Args:
        values: one string per header line.

    Raises:
        BadKey: none, several, empty, too long, or neither a quoted string nor one bare word.
    """
    if not values:
        raise BadKey(f'this operation needs an {HEADER} header, for example {HEADER}: "a-uuid"')
    if len(values) > 1:
        raise BadKey(f"{HEADER} was sent {len(values)} times; send one")
    value = values[0].strip(" ")
    quoted = _QUOTED.fullmatch(value)
    if quoted:
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    elif _BARE.fullmatch(value):
        key = value
    else:
        raise BadKey(
            f"{HEADER} must be a quoted string of printable ASCII characters or one bare word, "
            f"not {value[:80]!r}"
        )
    if not 1 <= len(key) <= LONGEST_KEY:
        raise BadKey(f"{HEADER} must have 1 to {LONGEST_KEY} characters, not {len(key)}")
    return key


def fingerprint(method: str, path: str, query: str, body: bytes) -> str:
    """What makes a request the same request: equal for a retry, different for anything else.

    The query's parameters may come in another order. The body is compared byte for byte, which is
    what a retry sends.
    """
    digest = blake2b(digest_size=16)
    parameters = sorted(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    parts = [method, path, *(part for pair in parameters for part in pair)]
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(b"%d:" % len(encoded))
        digest.update(encoded)
    digest.update(b"|")
    digest.update(body)
    return digest.hexdigest()


def is_kept(status: int) -> bool:
    """Whether an answer of this status is the answer to every later attempt.

    A 5xx is: the operation may have happened. Who knows that nothing did says so (the adapters'
    `nothing_happened`).
    """
    return status not in TEMPORARY


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it is stored, and given to every later attempt."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @classmethod
    def of(
        cls,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        *,
        cookies: bool = False,
    ) -> KeptAnswer:
        """What to keep of an answer: repeated headers stay repeated, cookies only if asked for."""
        dropped = _NOT_KEPT if cookies else _NOT_KEPT | {"set-cookie"}
        kept = tuple((name, value) for name, value in headers if name.lower() not in dropped)
        return cls(status, kept, body)

    def as_data(self) -> dict[str, Any]:
        """Plain data for the store."""
        return {
            "status": self.status,
            "headers": [[name, value] for name, value in self.headers],
            "body": self.body,
        }

    @classmethod
    def from_data(cls, data: Any) -> KeptAnswer:
        """The answer that `as_data` wrote."""
        headers = tuple((name, value) for name, value in data["headers"])
        return cls(data["status"], headers, data["body"])


def refusal(error: BadKey | AnypodError) -> Problem | None:
    """The answer to a request whose key could not be claimed; None if the error is not about that."""
    if isinstance(error, BadKey):
        return Problem(400, "Bad idempotency key", str(error))
    if isinstance(error, KeyReused):
        return Problem(
            422,
            "Idempotency key reused",
            f"this {HEADER} came before with another request; send a new key with a new request",
        )
    if isinstance(error, InFlight):
        return Problem(
            409,
            "Request in progress",
            f"a request with this {HEADER} is being carried out; retry later with the same key",
            retry_after=error.retry_after,
        )
    if isinstance(error, NotReplayable):
        return Problem(
            409,
            "Answer not kept",
            f"the request with this {HEADER} was carried out, and its answer was too large to be "
            f"kept; read what it made instead of sending it again",
        )
    if isinstance(error, EarlierFailure):
        return Problem(
            500,
            "Failed before",
            f"the request with this {HEADER} failed the first time, perhaps halfway; find out what it "
            f"left behind, and send a new key to try anew",
        )
    if isinstance(error, StoreError) and not isinstance(error, RecordError):
        return Problem(
            503,
            "Store unavailable",
            f"whether this {HEADER} was used before cannot be told now, so nothing was done; retry "
            f"with the same key",
            retry_after=1.0,
        )
    return None
