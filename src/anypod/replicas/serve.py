"""Serve one application in this process until it is told to stop.

WSGI by waitress, ASGI by uvicorn: servers that people deploy, in pure Python, so that the guard sees
what they do. The listening socket exists before the server does, on a port that the system chose.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from anypod.replicas.errors import MissingServer

__all__ = ["StartupFailed", "listen", "prepare", "serve"]

_BACKLOG = 128
_THREADS = 4  # waitress's own default
_LEFT_BEHIND = 0.25  # seconds that an answer's end waits for what its request left to do

Ready = Callable[[], None]


class StartupFailed(Exception):
    """The application's lifespan refused to start; the message is its own traceback."""


def prepare(kind: str) -> None:
    """Import the server, in the parent: replicas that are forked later have it at once.

    Args:
        kind: "wsgi" or "asgi".

    Raises:
        MissingServer: it is not installed.
    """
    try:
        if kind == "asgi":
            import uvicorn.lifespan.on
            import uvicorn.protocols.http.auto  # noqa: F401  # loaded for its effect
        else:
            import encodings.idna  # noqa: F401  # waitress resolves a name when it starts

            import waitress.server  # type: ignore[import-untyped,unused-ignore]  # noqa: F401  # loaded
    except ModuleNotFoundError as exc:
        raise MissingServer(
            f"replicas of {kind.upper()} applications run under "
            f"{'uvicorn' if kind == 'asgi' else 'waitress'}, but there is no module {exc.name!r}: "
            f"pip install 'anypod[prove]' beside the service"
        ) from exc


def listen() -> socket.socket:
    """A listening socket on loopback, on a free port."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", 0))
    listening.listen(_BACKLOG)
    return listening


def serve(application: Any, kind: str, listening: socket.socket, ready: Ready) -> None:
    """Serve until SIGTERM; requests in flight are finished first.

    Args:
        application: the WSGI or ASGI application.
        kind: "wsgi" or "asgi".
        listening: a bound socket.
        ready: called once, when requests will be answered.

    Raises:
        StartupFailed: the application's lifespan did not start.
    """
    if kind == "asgi":
        _serve_asgi(application, listening, ready)
    else:
        _serve_wsgi(application, listening, ready)


def _serve_wsgi(application: Any, listening: socket.socket, ready: Ready) -> None:
    from waitress.server import (  # type: ignore[import-untyped,unused-ignore]
        create_server,
    )

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # waitress ends on SystemExit by letting its workers finish.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = create_server(
        application,
        sockets=[listening],
        threads=_THREADS,
        # The workload says what a proxy in front would say, as to gunicorn and uvicorn.
        trusted_proxy="127.0.0.1",
        trusted_proxy_headers={"x-forwarded-proto"},
        clear_untrusted_proxy_headers=False,
    )
    ready()
    server.run()


def _serve_asgi(application: Any, listening: socket.socket, ready: Ready) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    lifespan = _Lifespan(_Settled(application))
    # The plain asyncio loop, because uvloop connects behind the guard's back.
    config = uvicorn.Config(
        lifespan, loop="asyncio", log_level="warning", access_log=False, timeout_graceful_shutdown=5
    )
    try:
        Server(config).run(sockets=[listening])
    except SystemExit:
        if lifespan.failure is None:
            raise
    if lifespan.failure is not None:
        raise StartupFailed(lifespan.failure)


Message = MutableMapping[str, Any]


class _Lifespan:
    """Keeps what a failing lifespan says, which the server would only log."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self.failure: str | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "lifespan":
            await self._application(scope, receive, send)
            return
        began = False

        async def told(message: Message) -> None:
            nonlocal began
            began = True
            if message["type"] == "lifespan.startup.failed":
                self.failure = str(message.get("message") or "lifespan.startup.failed")
            await send(message)

        try:
            await self._application(scope, receive, told)
        except Exception:
            # An application without a lifespan raises here, and the server goes on without one.
            if began and self.failure is None:
                self.failure = traceback.format_exc()
            raise


class _Settled:
    """Ends an answer when the request's background tasks have ended, if that is soon.

    Whether the next request meets their work would be chance otherwise: the same on one replica as on
    several, and so a difference that cannot be told from noise.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        end: Message | None = None
        timer: asyncio.TimerHandle | None = None
        late: asyncio.Future[None] | None = None  # the end was sent before the work was done

        def waited() -> None:
            nonlocal late
            assert end is not None
            late = asyncio.ensure_future(send(end))

        async def told(message: Message) -> None:
            nonlocal end, timer
            if message["type"] == "http.response.body" and not message.get("more_body"):
                end, timer = message, loop.call_later(_LEFT_BEHIND, waited)
            else:
                await send(message)

        try:
            await self._application(scope, receive, told)
        finally:
            if timer is not None:
                timer.cancel()
            if late is not None:
                await late
            elif end is not None:
                await send(end)
