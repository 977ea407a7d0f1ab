"""The recording front: a server between a person who clicks and one replica, that writes a workload.

It forwards each request as it came, Host and X-Forwarded-Proto included, streams the answer back, and
gives both to a `Recording`. The replica runs isolated as in a proof: what is clicked together ends with
it, and a proof begins where the recording began.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import shlex
import signal
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from anypod.errors import AnypodError
from anypod.prove.client import STREAMS, decoded
from anypod.prove.model import Request, Response
from anypod.prove.recording import Recording
from anypod.replicas import Application, World
from anypod.replicas.outside import Outside

__all__ = ["CannotListen", "listen", "record"]

MOST_BODY = 64 << 20  # bytes of a request that is forwarded
_KEPT = 4 << 20  # bytes of an answer that are searched for values
_CHUNK = 64 << 10
_THREADS = 64  # answers that may be on their way at once, endless ones included
_NEARBY = 20  # ports after the one that was meant, if that is taken
_OF_THE_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip
_NOT_FORWARDED = _OF_THE_HOP | {b"cookie", b"accept-encoding", b"content-length", b"expect"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class CannotListen(AnypodError):
    """The front's port is taken."""


def listen(port: int | None, default: int = 8000) -> socket.socket:
    """A listening socket on loopback.

    Args:
        port: the one that was asked for; None takes the default or one of the next that are free.
        default: where to begin.

    Raises:
        CannotListen: it is taken.
    """
    for chosen in [port] if port is not None else range(default, default + _NEARBY):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", chosen))
        except OSError as taken:
            listening.close()
            if port is not None:
                message = (
                    f"port {port} cannot be used ({taken.strerror}); choose another with --port"
                )
                raise CannotListen(message) from None
            continue
        listening.listen(128)
        return listening
    message = f"the ports {default} to {default + _NEARBY - 1} are taken; choose one with --port"
    raise CannotListen(message)


def record(
    application: Application,
    recording: Recording,
    listening: socket.socket,
    *,
    ready: Callable[[], None] = lambda: None,
    start_timeout: float = 30.0,
    shared: Sequence[Path] = (),
    allow_hosts: Collection[str] = (),
) -> tuple[str, ...]:
    """Start one replica and record what comes to the front, until Ctrl-C or SIGTERM.

    Args:
        application: what runs.
        recording: what hears of every exchange.
        listening: where people connect to.
        ready: called once, when requests will be answered.
        start_timeout: seconds for the start.
        shared: paths inside the project that are volumes.
        allow_hosts: hosts besides this machine that the service may reach.

    Returns:
        What the replica did that nobody expects: writes outside its copy, an early end.

    Raises:
        ReplicaError: it did not start.
    """
    with (
        application.kept(allow_hosts) as outside,
        World(
            application,
            slots=1,
            start_timeout=start_timeout,
            shared=shared,
            allow_hosts=allow_hosts,
            outside=outside,
        ) as world,
    ):
        world.reset()  # the recording begins where each run of its proof will begin
        replica = world.start(0)
        serve(listening, replica.address, recording, ready)
        died = () if replica.alive() else (f"the service ended by itself:\n{replica.log}",)
        told = [text for escape in replica.escapes() if (text := _told(escape, outside))]
        return (*told, *filter(None, [world.lacks_tables]), *died)


def _told(escape: str, outside: Outside) -> str:
    """What left the isolation, and what follows from that for the proof; empty if it is put back."""
    path = escape.removeprefix("not isolated: ")
    if path == escape:
        return escape
    if outside.covers(Path(path)):
        return ""
    return (
        f"{escape} keeps what was clicked, unless --reset {shlex.quote(path)} puts it back, here and in "
        "the proof"
    )


def serve(
    listening: socket.socket,
    address: tuple[str, int],
    recording: Recording,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Forward and record until Ctrl-C or SIGTERM, which end it in order.

    Args:
        listening: where people connect to.
        address: host and port of the replica.
        recording: what hears of every exchange.
        ready: called once, when requests will be answered.
    """
    front = _Front(address, recording)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        front,
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        # The server raises the signal that ended it once more, for whoever handled it before.
        signal.signal(number, signal.SIG_IGN)
    try:
        Server(config).run(sockets=[listening])
    finally:
        front.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class _Front:
    """The ASGI application that forwards."""

    address: tuple[str, int]
    recording: Recording
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_THREADS, thread_name_prefix="front")
    )
    open: set[_Upstream] = field(default_factory=set)
    begun: int = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request with what the replica answers."""
        if scope["type"] != "http":
            self.recording.leave_out(f"{scope['type']} {scope.get('path', '')}: not compared yet")
            return
        body = await _body(receive)
        if body is None:
            self.recording.leave_out(f"bodies of more than {MOST_BODY >> 20} MiB")
            await _say(send, 413, f"anypod forwards at most {MOST_BODY >> 20} MiB")
            return
        if dict(scope["headers"]).get(b"upgrade", b"").lower() == b"websocket":
            self.recording.leave_out_websocket(scope["path"])
            await _say(send, 501, "anypod does not record websockets")
            return
        target = scope["raw_path"].decode("ascii", "replace")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("ascii", "replace")
        headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"])
        request = Request(scope["method"], target, _titled(headers), body or None)
        pending = self.recording.begin(request)
        cookies = (dict(scope["headers"]).get(b"cookie", b"")).decode("latin-1")
        forwarded = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in _NOT_FORWARDED
        ]
        cookies = pending.cookies if pending is not None else cookies
        if cookies:
            forwarded.append(("cookie", cookies))
        self.begun += 1
        upstream = _Upstream(self.address, self.begun)
        self.open.add(upstream)
        try:
            response = await self._forward(upstream, request, forwarded, send)
        except (OSError, http.client.HTTPException) as failed:
            self.recording.leave_out(
                f"{request.method} {scope['path']}: the service gave no answer"
            )
            with contextlib.suppress(RuntimeError):  # the answer had begun
                await _say(send, 502, f"the service gave no answer: {failed!r}")
        else:
            for other in self.open:
                other.outlasted |= other.number < upstream.number
            kind = (response.header("content-type") or "").lower()
            listens = request.method == "GET" and kind.startswith(STREAMS)  # as browsers do
            if pending is not None and upstream.outlasted and listens:
                self.recording.leave_out_stream(pending, scope["path"])
            elif pending is not None:
                self.recording.end(pending, response)
        finally:
            self.open.discard(upstream)
            upstream.close()

    async def _forward(
        self,
        upstream: _Upstream,
        request: Request,
        headers: list[tuple[str, str]],
        send: Send,
    ) -> Response:
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self.threads, upstream.ask, request, headers)
        names = [(name.lower(), value) for name, value in answer.getheaders()]
        given = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in names
            if name.encode("latin-1") not in _OF_THE_HOP
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": given})
        kept = bytearray()
        while chunk := await loop.run_in_executor(self.threads, answer.read1, _CHUNK):
            if len(kept) < _KEPT:
                kept += chunk
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        seen = tuple(names)
        return Response(answer.status, seen, decoded(bytes(kept), seen))

    def close(self) -> None:
        """Let go of the answers that never end."""
        for upstream in list(self.open):
            upstream.close()
        self.threads.shutdown(wait=True, cancel_futures=True)


class _Upstream:
    """One request to the replica, which another thread may give up.

    Attributes:
        number: in the order in which they began.
        outlasted: a later one was answered before this one.
    """

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self.number, self.outlasted = number, False
        self._connection = http.client.HTTPConnection(*address)
        self._socket: socket.socket | None = None

    def ask(self, request: Request, headers: list[tuple[str, str]]) -> http.client.HTTPResponse:
        """Send the request; the answer, its body not read yet."""
        connection = self._connection
        connection.connect()
        self._socket = connection.sock
        connection.putrequest(
            request.method, request.target, skip_host=True, skip_accept_encoding=True
        )
        for name, value in headers:
            connection.putheader(name, value.encode("latin-1"))
        if request.body is not None or request.method in {"POST", "PUT", "PATCH"}:
            connection.putheader("content-length", str(len(request.body or b"")))
        connection.putheader("connection", "close")
        connection.endheaders(request.body)
        return connection.getresponse()

    def close(self) -> None:
        """Give it up; whoever reads reads the end."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()


async def _body(receive: Receive) -> bytes | None:
    """The whole body of a request; None when it is too large."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return bytes(body)


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode(), "more_body": False})


def _titled(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Header names as people write them."""
    return tuple(("-".join(map(str.capitalize, name.split("-"))), value) for name, value in headers)
