"""Liveness and readiness for Kubernetes."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flask import Flask

from anypod.errors import StoreError

if TYPE_CHECKING:
    from anypod.state import State

_log: Final = logging.getLogger("anypod.web.flask")


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
