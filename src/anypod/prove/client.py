"""One user of the service: an HTTP/1.1 client that speaks to a replica directly and keeps its cookies.

What a browser would do, it does; what would hide a replica, it does not:

- every request is a connection of its own, so nothing ties a client to a pod;
- redirects are answers, not instructions;
- the Host header is `localhost` whatever the port, unless the request names one: absolute URLs in
  answers and the cookies' domain then do not tell replicas apart;
- loopback counts as secure, so `Secure` and `__Host-` cookies come back;
- the timeout bounds the whole exchange, also one that trickles.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import http.client
import io
import socket
import time
import urllib.request
import zlib
from email.message import Message
from http.cookiejar import Cookie, CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, cast

from anypod.prove.model import NoResponse, Request, Response

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from 3.12 on

MAX_ANSWER = 32 * 1024 * 1024  # bytes of one body, also after decompression

STREAMS = ("text/event-stream", "multipart/x-mixed-replace")  # answers that often have no end
STREAM = "its answer, a stream, had not ended"

_HOST = "localhost"
_CHUNK = 64 * 1024
_SETS = frozenset({"set-cookie", "set-cookie2"})
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "cookie"})


class _BrowserPolicy(DefaultCookiePolicy):
    """Netscape cookies as browsers take them, with loopback as a secure context."""

    def __init__(self) -> None:
        super().__init__(secure_protocols=("https", "wss", "http"))

    def set_ok_domain(self, cookie: Cookie, request: urllib.request.Request) -> bool:
        return _is_own_domain(cookie, request) or super().set_ok_domain(cookie, request)

    def set_ok_name(self, cookie: Cookie, request: urllib.request.Request) -> bool:
        if cookie.name.startswith("__Host-") and not (
            cookie.secure and cookie.path == "/" and not cookie.domain_specified
        ):
            return False
        if cookie.name.startswith("__Secure-") and not cookie.secure:
            return False
        return super().set_ok_name(cookie, request)

    def return_ok_domain(self, cookie: Cookie, request: urllib.request.Request) -> bool:
        return _is_own_domain(cookie, request) or super().return_ok_domain(cookie, request)

    def domain_return_ok(self, domain: str, request: urllib.request.Request) -> bool:
        own = domain.lstrip(".") == (request.host or "").partition(":")[0]
        return own or super().domain_return_ok(domain, request)


def _is_own_domain(cookie: Cookie, request: urllib.request.Request) -> bool:
    """`Domain=localhost` has no dot, which the standard policy refuses and browsers do not."""
    return cookie.domain.lstrip(".") == (request.host or "").partition(":")[0]


class _Answer:
    """What `CookieJar.extract_cookies` wants to see of a response."""

    def __init__(self, headers: tuple[tuple[str, str], ...]) -> None:
        self._message = Message()
        for name, value in headers:
            if name in _SETS:
                self._message.add_header(name, value)

    def info(self) -> Message:
        return self._message


class _Incoming(io.RawIOBase):
    """The bytes of an answer, until a moment on the monotonic clock."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


class _Bounded:
    """What `HTTPConnection` needs of a socket, with one deadline for all that is received."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = connected, deadline
        self.sendall = connected.sendall

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._socket, self._deadline))

    def close(self) -> None:
        """Nothing: the connection closes before its answer is read, the exchange closes the socket."""


class Client:
    """One user with a cookie jar; not thread-safe."""

    def __init__(self) -> None:
        self._jar = CookieJar(_BrowserPolicy())

    def send(
        self,
        request: Request,
        address: tuple[str, int],
        *,
        timeout: float,
        store_cookies: bool = True,
    ) -> Response | NoResponse:
        """Deliver a request to a replica and wait for its answer.

        Args:
            request: what to send; the jar's cookies are added to it.
            address: host and port of the replica.
            timeout: seconds for the whole exchange.
            store_cookies: whether the jar takes the answer's cookies.

        Returns:
            The answer, its body without content encoding, or why there is none.
        """
        answer = _exchange(request, address, _host(request), self._cookies(request), timeout)
        if store_cookies and isinstance(answer, Response):
            self.take(request, answer)
        return answer

    def take(self, request: Request, response: Response) -> None:
        """Take the cookies of an answer into the jar."""
        if not any(name in _SETS for name, _ in response.headers):
            return
        # The jar asks for `info()` and nothing else.
        answer = cast("http.client.HTTPResponse", _Answer(response.headers))
        self._jar.extract_cookies(answer, _as_the_jar_sees_it(request))

    def would_send(self, request: Request) -> dict[str, str]:
        """The cookies that the jar adds to a request, by name."""
        pairs = (pair.partition("=") for pair in self._kept(request).split("; "))
        return {name: value for name, _, value in pairs if name}

    def send_lost(
        self, request: Request, address: tuple[str, int], *, timeout: float
    ) -> Response | NoResponse:
        """Deliver a request whose answer gets lost on its way back.

        The replica finishes its work; the jar stays as it was. What is returned is evidence for the
        trace, not something that the client has seen.

        Args:
            request: what to send.
            address: host and port of the replica.
            timeout: seconds for the whole exchange.
        """
        return self.send(request, address, timeout=timeout, store_cookies=False)

    def fork(self) -> Client:
        """A client with the same cookies, from now on independent."""
        twin = Client()
        for cookie in self._jar:
            twin._jar.set_cookie(copy.copy(cookie))  # its own class
        return twin

    def cookies(self) -> dict[str, str]:
        """The cookies held, by name."""
        return {cookie.name: cookie.value or "" for cookie in self._jar}

    def _kept(self, request: Request) -> str:
        """What the jar adds to a request, as a Cookie header; most jars are empty."""
        if not len(self._jar):
            return ""
        url = _as_the_jar_sees_it(request)
        self._jar.add_cookie_header(url)
        return url.get_header("Cookie") or ""

    def _cookies(self, request: Request) -> str:
        """The Cookie header: the request's own cookies win over the jar's."""
        kept = self._kept(request)
        written = "; ".join(v for n, v in request.headers if n.lower() == "cookie")
        if not written:
            return kept
        names = {pair.partition("=")[0].strip() for pair in written.split(";")}
        others = [pair for pair in kept.split("; ") if pair and pair.partition("=")[0] not in names]
        return "; ".join([written, *others])


def _host(request: Request) -> str:
    return next((v for n, v in request.headers if n.lower() == "host"), _HOST)


def _as_the_jar_sees_it(request: Request) -> urllib.request.Request:
    """A request that is never opened, as cookie jars want it."""
    url = f"http://{_host(request)}{request.target}"
    return urllib.request.Request(url, method=request.method)


def _exchange(
    request: Request, address: tuple[str, int], host: str, cookies: str, timeout: float
) -> Response | NoResponse:
    deadline = time.monotonic() + timeout
    late = NoResponse(f"no answer within {timeout:g} s")
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    received = 0
    answer: http.client.HTTPResponse | None = None
    stack = contextlib.ExitStack()
    try:
        connected = stack.enter_context(socket.create_connection(address, timeout))
        connection.sock = _Bounded(connected, deadline)
        _send(connection, request, host, cookies)
        answer = connection.getresponse()
        body = bytearray()
        while True:
            chunk = answer.read1(_CHUNK)
            if not chunk:
                break
            body += chunk
            received = len(body)
            if received > MAX_ANSWER:
                return NoResponse(f"answered more than {MAX_ANSWER} bytes")
        if answer.length:  # read1 does not complain about a body that ends early
            return NoResponse(f"closed the connection in its answer, after {received} bytes")
    except TimeoutError:
        kind = "" if answer is None else (answer.getheader("content-type") or "").lower()
        return NoResponse(f"{STREAM} after {timeout:g} s") if kind.startswith(STREAMS) else late
    except http.client.RemoteDisconnected:
        return NoResponse("closed the connection without an answer")
    except http.client.IncompleteRead:
        return NoResponse(f"closed the connection in its answer, after {received} bytes")
    except http.client.HTTPException as garbled:
        return NoResponse(f"answered something that is not HTTP: {garbled!r}")
    except ConnectionRefusedError:
        return NoResponse("refused the connection")
    except ConnectionError:
        return NoResponse("closed the connection without an answer")
    except OSError as failed:
        return NoResponse(f"could not be reached: {failed.strerror or failed}")
    finally:
        connection.close()
        stack.close()
    headers = tuple((name.lower(), value) for name, value in answer.getheaders())
    return Response(answer.status, headers, decoded(bytes(body), headers))


def _send(
    connection: http.client.HTTPConnection, request: Request, host: str, cookies: str
) -> None:
    connection.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host)
    given = {name.lower() for name, _ in request.headers}
    for name, value in (("User-Agent", "anypod-prove"), ("Accept", "*/*")):
        if name.lower() not in given:
            connection.putheader(name, value)
    for name, value in request.headers:
        if name.lower() not in _FRAMING:
            connection.putheader(name, value.encode())
    if cookies:
        connection.putheader("Cookie", cookies.encode())
    if request.body is not None or request.method in ("POST", "PUT", "PATCH"):
        connection.putheader("Content-Length", str(len(request.body or b"")))
    connection.putheader("Connection", "close")
    try:
        connection.endheaders(request.body)
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses a body may answer before it has read all of it.
        return


def decoded(body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The body without gzip or deflate; one that does not decode stays as it came."""
    coding = next(
        (value.lower().strip() for name, value in headers if name == "content-encoding"), ""
    )
    try:
        if coding in ("gzip", "x-gzip"):
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
                return stream.read(MAX_ANSWER)
        if coding == "deflate":
            return zlib.decompressobj().decompress(body, MAX_ANSWER)
    except (OSError, EOFError, zlib.error):
        return body
    return body
