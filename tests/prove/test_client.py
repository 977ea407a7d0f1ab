"""The client on real sockets: cookies as a browser has them, answers as they come, silence by its reason."""

import gzip
import http.server
import socket
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest

from anypod.prove import client as client_module
from anypod.prove.client import Client
from anypod.prove.model import NoResponse, Request, Response

pytestmark = pytest.mark.quick

SECONDS = 5.0


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers that a test needs by path; what was received is kept on the server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        received = (self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
        self.server.received.append(received)  # type: ignore[attr-defined]
        name = self.path.partition("?")[0].strip("/")
        status, headers, body = ANSWERS.get(name, (200, (), b"hello"))
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        if not any(key == "Transfer-Encoding" for key, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815  # the base class's names


Answer = tuple[int, tuple[tuple[str, str], ...], bytes]
PLAIN = b"plain " * 100
ANSWERS: dict[str, Answer] = {
    "login": (
        200,
        (
            ("Set-Cookie", "sid=one; Path=/; HttpOnly; Secure"),
            ("Set-Cookie", "__Host-t=2; Secure; Path=/"),
        ),
        b"",
    ),
    "bad-host-cookie": (
        200,
        (("Set-Cookie", "__Host-x=1; Path=/"), ("Set-Cookie", "__Secure-y=1")),
        b"",
    ),
    "domain": (
        200,
        (
            ("Set-Cookie", "d=1; Domain=localhost; Path=/"),
            ("Set-Cookie", "foreign=1; Domain=example.com"),
        ),
        b"",
    ),
    "scoped": (200, (("Set-Cookie", "p=1; Path=/scoped"),), b""),
    "logout": (200, (("Set-Cookie", "sid=; Max-Age=0; Path=/"),), b""),
    "moved": (302, (("Location", "/elsewhere"),), b""),
    "gzip": (200, (("Content-Encoding", "gzip"),), gzip.compress(PLAIN)),
    "deflate": (200, (("Content-Encoding", "deflate"),), zlib.compress(PLAIN)),
    "not-gzip": (200, (("Content-Encoding", "gzip"),), b"plain"),
    "chunked": (200, (("Transfer-Encoding", "chunked"),), b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"),
    "empty": (204, (), b""),
    "twice": (200, (("X-A", "1"), ("X-A", "2"), ("X-Ü".encode().decode("latin-1"), "3")), b""),
}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    received: list[tuple[str, str, dict[str, str], bytes]]

    @property
    def at(self) -> tuple[str, int]:
        return ("127.0.0.1", self.server_address[1])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.received = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[socket.socket], None]], tuple[str, int]]]:
    """Start a server that treats its one connection as the given function does."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def start(treat: Callable[[socket.socket], None]) -> tuple[str, int]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                treat(connection)

        threads.append(threading.Thread(target=accept))
        threads[-1].start()
        return listener.getsockname()  # type: ignore[no-any-return]

    yield start
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


def get(client: Client, server: Server, target: str, *headers: tuple[str, str]) -> Response:
    answer = client.send(Request("GET", target, headers), server.at, timeout=SECONDS)
    assert isinstance(answer, Response)
    return answer


def sent_cookies(server: Server) -> set[str]:
    return set(filter(None, server.received[-1][2].get("Cookie", "").split("; ")))


def test_secure_cookies_come_back_over_loopback(server: Server) -> None:
    client = Client()
    get(client, server, "/login")
    get(client, server, "/x")
    assert sent_cookies(server) == {"sid=one", "__Host-t=2"}
    get(client, server, "/logout")
    get(client, server, "/x")
    assert sent_cookies(server) == {"__Host-t=2"}


def test_cookies_do_not_depend_on_the_port(server: Server) -> None:
    client = Client()
    get(client, server, "/login")
    with Server(("127.0.0.1", 0), Handler) as other:
        other.received = []
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        get(client, other, "/x")
        other.shutdown()
        thread.join()
    assert "sid=one" in sent_cookies(other)


def test_cookies_that_a_browser_refuses_are_refused(server: Server) -> None:
    client = Client()
    get(client, server, "/bad-host-cookie")
    assert client.cookies() == {}
    get(client, server, "/domain")
    assert client.cookies() == {"d": "1"}
    get(client, server, "/scoped")
    get(client, server, "/x")
    assert sent_cookies(server) == {"d=1"}
    get(client, server, "/scoped/below")
    assert sent_cookies(server) == {"d=1", "p=1"}


def test_a_cookie_that_the_request_names_wins(server: Server) -> None:
    client = Client()
    get(client, server, "/login")
    get(client, server, "/x", ("Cookie", "sid=mine; other=1"))
    assert sent_cookies(server) == {"sid=mine", "other=1", "__Host-t=2"}


def test_a_lost_answer_leaves_the_jar_alone(server: Server) -> None:
    client = Client()
    answer = client.send_lost(Request("GET", "/login"), server.at, timeout=SECONDS)
    assert isinstance(answer, Response)
    assert client.cookies() == {}
    client.send(Request("GET", "/login"), server.at, timeout=SECONDS, store_cookies=False)
    assert client.cookies() == {}
    get(client, server, "/login")
    assert client.cookies() == {"sid": "one", "__Host-t": "2"}


def test_a_fork_has_the_same_cookies_and_a_life_of_its_own(server: Server) -> None:
    client = Client()
    get(client, server, "/login")
    twin = client.fork()
    get(twin, server, "/logout")
    assert client.cookies() == {"sid": "one", "__Host-t": "2"}
    assert twin.cookies() == {"__Host-t": "2"}


def test_a_request_is_sent_as_written(server: Server) -> None:
    headers = (
        ("X-Name", "Zoë"),
        ("Content-Type", "text/plain"),
        ("Content-Length", "999"),
        ("accept", "text/html"),
    )
    request = Request("POST", "/a%20b?c=d&e", headers, "ü".encode())
    assert isinstance(Client().send(request, server.at, timeout=SECONDS), Response)
    method, path, received, body = server.received[0]
    assert (method, path, body) == ("POST", "/a%20b?c=d&e", "ü".encode())
    assert received["Host"] == "localhost"
    assert received["X-Name"].encode("latin-1").decode() == "Zoë"
    assert received["Content-Length"] == "2"
    assert "Accept" not in received
    assert received["accept"] == "text/html"
    get(Client(), server, "/x", ("Host", "shop.example"))
    assert server.received[-1][2]["Host"] == "shop.example"
    Client().send(Request("POST", "/x"), server.at, timeout=SECONDS)
    assert server.received[-1][2]["Content-Length"] == "0"


def test_answers_are_taken_as_they_come(server: Server) -> None:
    client = Client()
    moved = get(client, server, "/moved")
    assert (moved.status, moved.header("Location")) == (302, "/elsewhere")
    assert get(client, server, "/gzip").body == PLAIN
    assert get(client, server, "/deflate").body == PLAIN
    assert get(client, server, "/not-gzip").body == b"plain"
    assert get(client, server, "/chunked").body == b"hello!"
    assert get(client, server, "/empty").status == 204
    twice = get(client, server, "/twice")
    assert [value for name, value in twice.headers if name == "x-a"] == ["1", "2"]
    head = client.send(Request("HEAD", "/x"), server.at, timeout=SECONDS)
    assert isinstance(head, Response)
    assert head.body == b""


def silence(
    address: tuple[str, int], timeout: float = SECONDS, *, body: bytes | None = None
) -> str:
    answer = Client().send(Request("POST", "/", (), body), address, timeout=timeout)
    assert isinstance(answer, NoResponse)
    return answer.reason


Raw = Callable[[Callable[[socket.socket], None]], tuple[str, int]]


def test_silence_is_told_by_its_reason(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = unused.getsockname()
    assert silence(nobody) == "refused the connection"
    assert silence(raw(lambda _: None)) == "closed the connection without an answer"
    assert silence(raw(lambda s: s.sendall(b"SSH-2.0\r\n"))).startswith(
        "answered something that is not HTTP"
    )
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"
    assert (
        silence(raw(lambda s: s.sendall(short)))
        == "closed the connection in its answer, after 3 bytes"
    )
    cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc"
    assert silence(raw(lambda s: s.sendall(cut))).startswith("closed the connection in its answer")
    monkeypatch.setattr(client_module, "MAX_ANSWER", 1000)
    long = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2000
    assert silence(raw(lambda s: s.sendall(long))) == "answered more than 1000 bytes"


def test_the_timeout_bounds_an_answer_that_trickles(raw: Raw) -> None:
    done = threading.Event()

    def nothing(_: socket.socket) -> None:
        done.wait(30)

    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while not done.wait(0.01):
            try:
                connection.sendall(b"data: 1\n\n")
            except OSError:
                return

    def trickle_head(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not done.wait(0.01):
            try:
                connection.sendall(b"x")
            except OSError:
                return

    try:
        assert silence(raw(trickle_head), 0.2) == "no answer within 0.2 s"
        assert silence(raw(nothing), 0.2) == "no answer within 0.2 s"
        assert silence(raw(trickle), 0.2) == "its answer, a stream, had not ended after 0.2 s"
    finally:
        done.set()


def test_an_answer_that_comes_before_the_body_was_read_is_taken(raw: Raw) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 20):
            pass

    answer = Client().send(Request("POST", "/", (), b"x" * (4 << 20)), raw(refuse), timeout=SECONDS)
    assert isinstance(answer, Response)
    assert answer.status == 413
