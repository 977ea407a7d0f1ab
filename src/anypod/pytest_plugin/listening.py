"""Listens to test clients: what they send, hop by hop, becomes a recording.

Each client library is heard at the one method through which every request of it passes. The tests see
no difference: bodies are read and put back, streams are passed on chunk by chunk. What a test changes
without a request (a fixture, a session that it forges) is not heard; the replay names where that shows.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakKeyDictionary

import pytest

from anypod.prove.client import decoded
from anypod.prove.model import Request, Response
from anypod.prove.recording import Pending, Recording, Written
from anypod.prove.workload_fill import is_loopback

__all__ = ["Listening"]

_KEPT = 4 << 20  # bytes of an answer that are searched for values
_TEST_HOSTS = frozenset({"testserver", "test"})
_UNSAFE = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_CSRF = "anypod" * 5 + "00"  # 32 letters and digits, as Django's tokens have; no secret

Headers = Iterable[tuple[str, str]]


@dataclass(slots=True)
class _Hearing:
    """An answer that is on its way to a test, which may never read it.

    Attributes:
        thread: of the test's code that waits for it; 0 when that awaits, where others may go first.
    """

    listening: Listening
    pending: Pending | None
    status: int
    headers: tuple[tuple[str, str], ...]
    thread: int
    body: bytearray = field(default_factory=bytearray)
    over: bool = False

    def hear(self, chunk: bytes) -> bytes:
        """Note a chunk, and pass it on."""
        if len(self.body) < _KEPT:
            self.body += chunk
        return chunk

    def end(self) -> None:
        """Give what was heard to the recording, once."""
        if not self.over:
            self.over = True
            body = decoded(bytes(self.body), self.headers)
            self.listening.end(self.pending, Response(self.status, self.headers, body))
            self.body.clear()


class Listening:
    """The plugin of one recording.

    Args:
        path: of the workload.
    """

    def __init__(self, path: Path) -> None:
        self._recording = Recording(path, "Recorded by `pytest --anypod-record`.")
        self._clients: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._names: set[str] = set()
        self._hearing: list[_Hearing] = []
        self._lock = threading.RLock()
        self._undo: list[Callable[[], None]] = []
        self._unheard: list[str] = []
        self._written: Written | str = ""

    # --- pytest's side

    def pytest_sessionstart(self) -> None:
        """Listen to every library that is installed."""
        for name, listen in (
            ("werkzeug.test", self._werkzeug),
            ("httpx", self._httpx),
            ("httpx2", self._httpx),
            ("starlette.testclient", self._starlette),
            ("django.test.client", self._django),
        ):
            if importlib.util.find_spec(name.partition(".")[0]) is not None:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # they are for whoever imports it
                        module = importlib.import_module(name)
                except (ImportError, RuntimeError):
                    continue  # installed without what its test client needs: no test uses it
                try:
                    listen(module)
                except (AttributeError, KeyError):
                    self._unheard.append(name)
        if not self._undo:
            raise pytest.UsageError(
                "--anypod-record hears werkzeug, httpx, Starlette and Django: none is there"
            )

    def pytest_runtest_logfinish(self) -> None:
        """What the test has not read of its answers, nobody will."""
        self._settle(everything=True)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Listen no longer, and write."""
        for undo in reversed(self._undo):
            undo()
        self._settle(everything=True)
        try:
            self._written = self._recording.write()
        except OSError as failed:
            self._written = f"cannot write {self._recording.path}: {failed.strerror or failed}"
            session.exitstatus = session.exitstatus or pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was recorded."""
        terminalreporter.section("anypod")
        if isinstance(self._written, str):
            terminalreporter.write_line(self._written, red=True)
            return
        for name in self._unheard:
            terminalreporter.write_line(f"note  {name} is of a version that is not heard")
        for note in self._written.notes:
            terminalreporter.write_line(f"note  {note}")
        if self._written.path is None:
            terminalreporter.write_line("no test sent a request through a client that is heard")
            return
        path = self._written.path
        with contextlib.suppress(ValueError):
            path = path.relative_to(Path.cwd())
        terminalreporter.write_line(f"{path}: {self._written.told}")
        terminalreporter.write_line(f"next: anypod prove APP --workload {path}")

    # --- the libraries' side

    def _replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        original = owner.__dict__[name]
        replacement = functools.wraps(original)(make(original))
        setattr(owner, name, replacement)
        self._undo.append(lambda: setattr(owner, name, original))

    def _begin(
        self,
        client: Any,
        request: Request,
        more: Headers = (),
    ) -> Pending | None:
        """Note a request; `more` are headers that a server needs and the test client does not."""
        with self._lock:
            self._settle()
            if client not in self._clients:
                self._clients[client] = f"client{len(self._names) + 1}"
                self._names.add(self._clients[client])
            kept = tuple(
                (name, value)
                for name, value in request.headers
                if not (name.lower() == "host" and value.partition(":")[0] in _TEST_HOSTS)
            )
            return self._recording.begin(
                Request(request.method, request.target or "/", kept, request.body or None),
                client=self._clients[client],
                more=tuple(more),
            )

    def _heard(
        self, pending: Pending | None, status: int, headers: Headers, *, awaited: bool = False
    ) -> _Hearing:
        lower = tuple((name.lower(), value) for name, value in headers)
        hearing = _Hearing(self, pending, status, lower, 0 if awaited else threading.get_ident())
        with self._lock:
            self._hearing.append(hearing)
        return hearing

    def _settle(self, *, everything: bool = False) -> None:
        """Who sends the next request has read what it wanted of the answers so far."""
        with self._lock:
            here = threading.get_ident()
            for hearing in self._hearing:
                if everything or hearing.thread == here:
                    hearing.end()
            self._hearing = [hearing for hearing in self._hearing if not hearing.over]

    def end(self, pending: Pending | None, response: Response) -> None:
        """Note an answer."""
        if pending is not None:
            with self._lock:
                self._recording.end(pending, response)

    @contextlib.contextmanager
    def _failing(self, pending: Pending | None) -> Iterator[None]:
        """If the application raises, the client lets the test see it: a server answers 500."""
        try:
            yield
        except Exception:
            self.end(pending, Response(500))
            raise

    def _werkzeug(self, module: Any) -> None:
        add_cookies = module.Client._add_cookies_to_wsgi  # noqa: SLF001  # the original calls it too

        def make(original: Any) -> Any:
            def run_wsgi_app(client: Any, environ: dict[str, Any], buffered: bool = False) -> Any:
                body = _taken(environ)
                sent = environ.copy()
                add_cookies(client, sent)
                pending = self._begin(client, _of_environ(sent, body))
                with self._failing(pending):
                    chunks, status, headers = original(client, environ, buffered=buffered)
                hearing = self._heard(pending, int(status.split(" ", 1)[0]), headers.items())
                return _Chunks(chunks, hearing, headers), status, headers

            return run_wsgi_app

        self._replace(module.Client, "run_wsgi_app", make)

    def _httpx(self, module: Any) -> None:
        stream = _tee(module)
        for name in ("WSGITransport", "HTTPTransport"):
            self._replace(getattr(module, name), "handle_request", self._sync(stream))
        for name in ("ASGITransport", "AsyncHTTPTransport"):
            self._replace(getattr(module, name), "handle_async_request", self._async(stream))

    def _starlette(self, module: Any) -> None:
        stream = _tee(module.httpx)
        self._replace(module._TestClientTransport, "handle_request", self._sync(stream))  # noqa: SLF001  # its one transport

    def _sync(self, tee: Any) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def handle_request(transport: Any, request: Any) -> Any:
                if not self._is_ours(transport, request):
                    return original(transport, request)
                pending = self._begin(transport, _of_httpx(request, request.read()))
                with self._failing(pending):
                    response = original(transport, request)
                headers = response.headers.multi_items()
                response.stream = tee(
                    response.stream, self._heard(pending, response.status_code, headers)
                )
                return response

            return handle_request

        return make

    def _async(self, tee: Any) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            async def handle_async_request(transport: Any, request: Any) -> Any:
                if not self._is_ours(transport, request):
                    return await original(transport, request)
                pending = self._begin(transport, _of_httpx(request, await request.aread()))
                with self._failing(pending):
                    response = await original(transport, request)
                headers = response.headers.multi_items()
                hearing = self._heard(pending, response.status_code, headers, awaited=True)
                response.stream = tee(response.stream, hearing)
                return response

            return handle_async_request

        return make

    def _is_ours(self, transport: Any, request: Any) -> bool:
        """Whether a request goes to the service: to an application, or to this machine."""
        if "HTTPTransport" in type(transport).__name__:
            return is_loopback(request.url.netloc.decode("ascii", "replace"))
        if request.url.scheme not in {"http", "https"}:
            self._recording.leave_out_websocket(request.url.path)
            return False
        return True

    def _django(self, module: Any) -> None:
        def make(original: Any) -> Any:
            def request(client: Any, **given: Any) -> Any:
                body = _taken(given)
                environ = client._base_environ(**given)  # noqa: SLF001  # the original does so too
                heard = _of_environ(environ, body)
                pending = self._begin(client, heard, _csrf(client, heard))
                with self._failing(pending):
                    response = original(client, **given)
                self._of_django(pending, response)
                return response

            return request

        def make_async(original: Any) -> Any:
            async def request(client: Any, **given: Any) -> Any:
                body = _taken(given, "_body_file")
                scope = client._base_scope(**given)  # noqa: SLF001  # the original does so too
                target = str(scope["path"])
                if query := scope.get("query_string"):
                    target += "?" + (query if isinstance(query, str) else query.decode("latin-1"))
                headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]]
                heard = Request(str(scope["method"]), target, tuple(headers), body)
                pending = self._begin(client, heard, _csrf(client, heard))
                with self._failing(pending):
                    response = await original(client, **given)
                self._of_django(pending, response)
                return response

            return request

        self._replace(module.Client, "request", make)
        self._replace(module.AsyncClient, "request", make_async)

    def _of_django(self, pending: Pending | None, response: Any) -> None:
        cookies = [("set-cookie", morsel.OutputString()) for morsel in response.cookies.values()]
        hearing = self._heard(pending, response.status_code, [*response.items(), *cookies])
        if not response.streaming:
            hearing.hear(response.content)
        hearing.end()


class _Chunks:
    """What a WSGI application answers, heard while it is read.

    An answer that tells its length is heard at once: the test may read it after its next request.
    """

    def __init__(self, chunks: Iterable[bytes], hearing: _Hearing, headers: Any) -> None:
        self._chunks = chunks
        self._hearing = hearing
        self._read: list[bytes] = []
        length = headers.get("content-length", "")
        if isinstance(chunks, (list, tuple)) or (length.isdecimal() and int(length) <= _KEPT):
            self._read = [hearing.hear(chunk) for chunk in chunks]
            hearing.end()

    def __iter__(self) -> Iterator[bytes]:
        yield from self._read
        for chunk in self._chunks:
            yield self._hearing.hear(chunk)
        self._hearing.end()

    def close(self) -> None:
        self._hearing.end()
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()


def _tee(httpx: Any) -> Any:
    """A class of streams that are heard while they are read, blocking or not."""

    class Tee(httpx.SyncByteStream, httpx.AsyncByteStream):  # type: ignore[misc,unused-ignore]  # of a module that may not be there
        def __init__(self, stream: Any, hearing: _Hearing) -> None:
            self._stream = stream
            self._hearing = hearing

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._stream:
                yield self._hearing.hear(chunk)
            self._hearing.end()

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._stream:
                yield self._hearing.hear(chunk)
            self._hearing.end()

        def close(self) -> None:
            self._hearing.end()
            self._stream.close()

        async def aclose(self) -> None:
            self._hearing.end()
            await self._stream.aclose()

    return Tee


def _taken(environ: dict[str, Any], name: str = "wsgi.input") -> bytes:
    """The body of a request, which is put back."""
    stream = environ.get(name)
    if stream is None:
        return b""
    length = environ.get("CONTENT_LENGTH")
    if hasattr(stream, "getvalue"):
        return bytes(stream.getvalue())
    body = bytes(stream.read() if not length else stream.read(int(length)))
    if type(stream).__module__.startswith("django."):
        environ[name] = type(stream)(body)
    else:
        environ[name] = io.BytesIO(body)
    return body


def _of_environ(environ: dict[str, Any], body: bytes) -> Request:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    target = quote(path.encode("latin-1"), safe="/!$&'()*+,;=:@~")
    if environ.get("QUERY_STRING"):
        target += "?" + environ["QUERY_STRING"]
    headers = [
        (name.removeprefix("HTTP_").replace("_", "-").title(), str(value))
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name == "CONTENT_TYPE" and value)
    ]
    return Request(str(environ["REQUEST_METHOD"]), target, tuple(headers), body)


def _of_httpx(request: Any, body: bytes) -> Request:
    headers = tuple((name.title(), value) for name, value in request.headers.multi_items())
    return Request(request.method, request.url.raw_path.decode("ascii"), headers, body)


def _csrf(client: Any, request: Request) -> Headers:
    """What a form would have sent: Django's test clients switch the check for it off."""
    settings = importlib.import_module("django.conf").settings
    if (
        request.method not in _UNSAFE
        or client.handler.enforce_csrf_checks
        or not any("CsrfViewMiddleware" in name for name in settings.MIDDLEWARE)
    ):
        return ()
    header = str(settings.CSRF_HEADER_NAME).removeprefix("HTTP_").replace("_", "-").title()
    return (header, _CSRF), ("Cookie", f"{settings.CSRF_COOKIE_NAME}={_CSRF}")
