"""Refusals as problem documents (RFC 9457), for whichever framework sends them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Final

CONTENT_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal that says why and what to do.

    Attributes:
        status: the HTTP status.
        title: what kind of refusal it is; the same for all of its kind.
        detail: what was wrong with this request, and what to do next.
        retry_after: seconds after which a retry has a chance, if one has.
    """

    status: int
    title: str
    detail: str
    retry_after: float | None = None

    def body(self) -> bytes:
        """The document, JSON in UTF-8."""
        members = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        return json.dumps(members, ensure_ascii=False).encode()

    def headers(self) -> list[tuple[str, str]]:
        """The headers that go with it. Retry-After is whole seconds, rounded up and at least 1."""
        headers = [("Content-Type", CONTENT_TYPE)]
        if self.retry_after is not None:
            headers.append(("Retry-After", str(max(1, math.ceil(self.retry_after)))))
        return headers
