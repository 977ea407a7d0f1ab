"""When a replica is ready: asked over HTTP, as Kubernetes does, for services that need a while."""

from __future__ import annotations

import contextlib
import http.client
import time

__all__ = ["answers"]

_POLL = 0.01


def answers(address: tuple[str, int], path: str, deadline: float) -> bool:
    """Whether a GET of a path is answered with a 2xx or 3xx before a moment.

    Args:
        address: host and port.
        path: what to get.
        deadline: on the monotonic clock, in seconds.
    """
    while (left := deadline - time.monotonic()) > 0:
        connection = http.client.HTTPConnection(*address, timeout=left)
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(connection),
        ):
            connection.request("GET", path, headers={"Host": "localhost", "Connection": "close"})
            if connection.getresponse().status < 400:
                return True
        time.sleep(_POLL)
    return False
