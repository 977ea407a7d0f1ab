"""What tests of services on anypod need: the store's clock, a store of their own, a faulty network.

    from anypod.testing import advance

    def test_sessions_run_out(state):
        ...
        advance(state, 3600)        # no sleeping: the store's clock is moved

Invariants:
    - nothing here is used outside tests, and a store that was never advanced runs on the real time;
    - a fault is injected at a point of an exchange, not at a time, so that a test of it is repeatable.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Protocol, Self
from urllib.parse import urlsplit

from anypod.stores import Store, open_store

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Fault", "FaultProxy", "advance", "temporary_store"]

CHUNK: Final = 1024 * 1024


class HasStore(Protocol):
    """A `State`, or whatever else keeps its store under this name."""

    @property
    def store(self) -> Store:
        """The store."""


def advance(where: Store | HasStore, seconds: float) -> None:
    """Move the clock of a store forward, for this process.

    Deadlines, leases and windows are compared with this clock. Another process, and another store that
    was opened at the same place, keep their own time.

    Args:
        where: a store or a `State`.
        seconds: how far; a clock does not go back.

    Raises:
        ValueError: `seconds` is negative.
    """
    if seconds < 0:
        raise ValueError(f"a store's clock goes forward only, not by {seconds!r} seconds")
    store = where if isinstance(where, Store) else where.store
    store.driver.clock_offset += seconds


@contextmanager
def temporary_store(*, namespace: str = "") -> Iterator[Store]:
    """A store in a fresh SQLite file, shared with forked processes, gone afterwards."""
    with TemporaryDirectory(prefix="anypod-store-") as folder:
        url = f"sqlite:///{Path(folder) / 'store.db'}"
        with open_store(url, namespace=namespace) as store:
            yield store


class Fault(Enum):
    """Where in an exchange the network fails."""

    BEFORE_REQUEST = "the connection closes before the server has seen anything of the request"
    INSIDE_REQUEST = "the connection closes when the server has seen half of the request"
    AFTER_REQUEST = "the connection closes as soon as the request has been passed on"
    BEFORE_REPLY = "the server has replied, and the connection closes before the reply is passed on"
    INSIDE_REPLY = "the connection closes when half of the reply has been passed on"
    HALF_CLOSE = "the server's side ends the stream instead of the reply, without closing"
    SILENCE = "the server has replied, and neither this reply nor any later one comes"
    LATE_REQUEST = "the request reaches the server late, also when the client has given up by then"
    LATE_REPLY = "the server has replied, and the reply is passed on late"


class FaultProxy:
    """A TCP proxy on a free loopback port that counts exchanges and fails on request.

    An exchange begins with the client's first bytes after a reply (or after connecting) and ends with
    the reply's. Whatever a client pipelines before a reply is one exchange.

    Args:
        host: of the server.
        port: of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host: str = "127.0.0.1"
        self.port: int = self._listener.getsockname()[1]
        self.exchanges = 0
        self._faults: deque[tuple[Fault, float]] = deque()
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._refusing = False
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="fault proxy", daemon=True)
        self._thread.start()

    def url(self, url: str) -> str:
        """The same URL with the proxy's address in the place of the server's."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user[0]}{user[1]}{self.host}:{self.port}").geturl()

    def inject(self, fault: Fault, times: int = 1, *, delay: float = 0.1) -> None:
        """Let the next exchanges fail like this.

        Args:
            fault: where.
            times: how many exchanges.
            delay: seconds that `LATE_REQUEST` and `LATE_REPLY` hold back.
        """
        with self._lock:
            self._faults.extend([(fault, delay)] * times)

    def heal(self) -> None:
        """Forget the faults that were injected and have not happened."""
        with self._lock:
            self._faults.clear()

    def refuse(self) -> None:
        """Close every connection and every one that is opened, until `allow`."""
        self._refusing = True
        self.cut()

    def allow(self) -> None:
        """Pass connections on again."""
        self._refusing = False

    def cut(self) -> None:
        """Close every connection that is open now."""
        with self._lock:
            pairs = tuple(self._pairs)
        for pair in pairs:
            pair.close()
        for pair in pairs:
            pair.thread.join()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._pairs)

    @property
    def late(self) -> int:
        """How many late exchanges are not over: a request that is on its way may still execute."""
        with self._lock:
            return sum(pair.late for pair in self._pairs)

    def _accept(self) -> None:
        while True:
            readable, _, _ = select.select([self._listener, self._stopped], [], [])
            if self._stopped in readable:
                return
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._upstream, timeout=10)
            except OSError:
                _reset(client)
                continue
            pair = _Pair(self, client, server)
            # Looked at behind the lock of `cut`: no connection slips in between the two.
            with self._lock:
                refusing = self._refusing
                if not refusing:
                    self._pairs.add(pair)
                    pair.thread.start()
            if refusing:
                server.close()
                _reset(client)

    def begin(self) -> tuple[Fault | None, float]:
        """An exchange begins: count it, and tell how it is to fail."""
        with self._lock:
            self.exchanges += 1
            return self._faults.popleft() if self._faults else (None, 0.0)

    def ended(self, pair: _Pair) -> None:
        """A connection has ended."""
        with self._lock:
            self._pairs.discard(pair)

    def close(self) -> None:
        """Close every connection and the port."""
        self._stop.close()
        self._thread.join()
        self.refuse()
        self._listener.close()
        self._stopped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, server: socket.socket) -> None:
        for side in (client, server):
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._proxy = proxy
        self._client = client
        self._server = server
        self._waiting = False  # between a request and its reply
        self._fault: Fault | None = None
        self._delay = 0.0  # seconds, of a late exchange
        self.late = False  # a late exchange is under way
        self._closing = threading.Event()
        self._silent = False  # a stream loses its end, never a piece out of its middle
        self.thread = threading.Thread(target=self._run, name="fault proxy pair", daemon=True)

    def _run(self) -> None:
        try:
            # A peer that closes or resets ends the pair.
            with contextlib.suppress(OSError):
                while self._pump():
                    pass
        finally:
            self._client.close()
            self._server.close()
            self._proxy.ended(self)

    def _pump(self) -> bool:
        readable, _, _ = select.select([self._client, self._server], [], [])
        if self._client in readable:
            data = self._received()
            if not data and self.late and self._waiting:
                self._server.recv(CHUNK)  # what arrived late is carried out nevertheless
            return bool(data) and self._request(data)
        data = self._server.recv(CHUNK)
        return bool(data) and self._reply(data)

    def _received(self) -> bytes:
        """What the client says; nothing when it has closed or reset the connection."""
        try:
            return self._client.recv(CHUNK)
        except ConnectionError:
            return b""

    def _request(self, data: bytes) -> bool:
        if not self._waiting:
            self._waiting = True
            self._fault, self._delay = self._proxy.begin()
            self.late = self.late or self._fault in (Fault.LATE_REQUEST, Fault.LATE_REPLY)
            if self._fault is Fault.LATE_REQUEST and self._closing.wait(self._delay):
                return False
        if self._fault is Fault.BEFORE_REQUEST:
            return False
        if self._fault is Fault.INSIDE_REQUEST:
            self._server.sendall(data[: len(data) // 2])
            return False
        self._server.sendall(data)
        return self._fault is not Fault.AFTER_REQUEST

    def _reply(self, data: bytes) -> bool:
        self._waiting = False
        if self._fault is Fault.BEFORE_REPLY:
            return False
        if self._fault is Fault.INSIDE_REPLY:
            self._client.sendall(data[: max(1, len(data) // 2)])
            return False
        if self._fault is Fault.HALF_CLOSE:
            self._client.shutdown(socket.SHUT_WR)
        late = self.late and self._fault is Fault.LATE_REPLY
        if late and self._closing.wait(self._delay):
            return False
        self._silent = self._silent or self._fault in (Fault.HALF_CLOSE, Fault.SILENCE)
        if not self._silent:
            self._client.sendall(data)
        # What the client has said meanwhile, its farewell too, is still to be passed on.
        self.late = self.late and bool(select.select([self._client], [], [], 0)[0])
        return True

    def close(self) -> None:
        """End the connection from another thread."""
        self._closing.set()
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    """Close so that the peer is told at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
