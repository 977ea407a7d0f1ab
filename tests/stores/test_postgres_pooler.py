"""Behind a transaction pooler: each transaction may meet another session.

The pooler here does to a client what PgBouncer's transaction mode does: it answers the client's startup
itself, with a process number of its own, lends a server's session from the first message to the
ReadyForQuery outside a transaction, and then takes the next session in turn. It passes no notifications
on, and refuses startup options that would change a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.servers import wait_until

from anypod import commands as c
from anypod.errors import ConfigurationError, StoreUnavailable
from anypod.stores import Store, open_store
from anypod.stores.conformance import CHECKS, Check, Ground
from anypod.stores.conformance.ground import fresh
from anypod.stores.postgres import PostgresDriver

SESSIONS = 3
READY, SYNC, QUERY, TERMINATE = b"Z", b"S", b"Q", b"X"
NOTIFICATION = b"A"
UNTOUCHED = {"user", "database", "application_name", "client_encoding", "extra_float_digits"}


class _Peer:
    """A socket that messages of the protocol are read from."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._stream = connection.makefile("rb")

    def message(self) -> tuple[bytes, bytes]:
        """A message's type and the whole of its bytes; an empty type at the end."""
        kind = self._stream.read(1)
        size = self._stream.read(4)
        if len(kind + size) < 5:
            return b"", b""
        return kind, kind + size + self._stream.read(struct.unpack("!I", size)[0] - 4)

    def startup(self) -> bytes:
        """The parameters of a startup message, without those that ask for encryption."""
        while True:
            (size,) = struct.unpack("!I", self._stream.read(4))
            body = self._stream.read(size - 4)
            if struct.unpack("!I", body[:4])[0] >> 16 == 3:
                return body[4:]
            self.socket.sendall(b"N")

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


class Pooler:
    """A transaction pooler on a free loopback port."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url)
        self._raw = [psycopg.connect(url, autocommit=True) for _ in range(SESSIONS)]
        self._peers: deque[_Peer] = deque()
        for session in self._raw:
            server = socket.socket(fileno=os.dup(session.fileno()))
            server.setblocking(True)
            self._peers.append(_Peer(server))
        self._returned = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._clients: set[_Peer] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}{self.address.path}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Peer(connection)
            self._clients.add(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: _Peer) -> None:
        try:
            self._greet(client)
            while self._transaction(client):
                pass
        except (OSError, struct.error):
            pass  # the client went away
        finally:
            self._clients.discard(client)
            client.close()

    def _greet(self, client: _Peer) -> None:
        names = client.startup().split(b"\0")[:-2:2]
        refused = {name.decode() for name in names} - UNTOUCHED
        if refused:
            text = f"unsupported startup parameter: {sorted(refused)}"
            body = b"SFATAL\0VFATAL\0C08P01\0M" + text.encode() + b"\0\0"
            client.socket.sendall(b"E" + struct.pack("!I", len(body) + 4) + body)
            raise OSError(text)
        client.socket.sendall(b"R" + struct.pack("!II", 8, 0))
        for name in ("server_version", "server_encoding", "client_encoding", "TimeZone"):
            value = self._raw[0].info.parameter_status(name) or ""
            body = f"{name}\0{value}\0".encode()
            client.socket.sendall(b"S" + struct.pack("!I", len(body) + 4) + body)
        client.socket.sendall(b"K" + struct.pack("!III", 12, 7, 7))
        client.socket.sendall(READY + struct.pack("!I", 5) + b"I")

    def _transaction(self, client: _Peer) -> bool:
        """Lend the next session until it is outside a transaction again."""
        kind, data = client.message()
        if kind in (b"", TERMINATE):
            return False
        with self._returned:
            while not self._peers:
                self._returned.wait()
            server = self._peers.popleft()
        try:
            while True:
                while kind not in (SYNC, QUERY):
                    server.socket.sendall(data)
                    kind, data = client.message()
                    if not kind:
                        data = SYNC + struct.pack("!I", 4)  # nobody is left: end what was begun
                        server.socket.sendall(data)
                        self._answers(server, None)
                        return False
                server.socket.sendall(data)
                if self._answers(server, client):
                    return True
                kind, data = client.message()
        finally:
            with self._returned:
                self._peers.append(server)
                self._returned.notify()

    def _answers(self, server: _Peer, client: _Peer | None) -> bool:
        """Pass answers on; whether the session is outside a transaction afterwards."""
        while True:
            kind, data = server.message()
            if kind != NOTIFICATION and client is not None:
                client.socket.sendall(data)
            if kind == READY:
                return data[-1:] == b"I"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in tuple(self._clients):
            with contextlib.suppress(OSError):  # it has just gone by itself
                client.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for peer in self._peers:
            peer.close()
        for session in self._raw:
            session.close()


@pytest.fixture(scope="module")
def pooler(new_postgres_url: Callable[[], str]) -> Iterator[Pooler]:
    pooler = Pooler(new_postgres_url())
    yield pooler
    pooler.close()


def driver_of(store: Store) -> PostgresDriver:
    assert isinstance(store.driver, PostgresDriver)
    return store.driver


def listens(check: Check) -> bool:
    return check.__name__ == "listeners_hear_what_is_published"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "check", [check for check in CHECKS if not listens(check)], ids=lambda check: check.__name__
)
def test_conformance_without_preparing(check: Check, pooler: Pooler) -> None:
    check(Ground(lambda: open_store(pooler.url), examples=10))


def test_the_pooler_is_found_out(pooler: Pooler) -> None:
    with open_store(pooler.url) as store:
        assert store.execute(c.Add(fresh())).value == 1
        assert driver_of(store).look().pooled
        assert not driver_of(store)._pool._idle[0].link.prepare


def test_prepared_statements_that_are_not_kept_are_given_up(pooler: Pooler) -> None:
    with open_store(pooler.url + "?prepare=on") as store:
        key = fresh()
        for number in range(1, 20):
            assert store.execute(c.Add(key)).value == number
        replies = store.driver.execute_many([c.Add(key)] * 10)
        assert sorted(reply.value for reply in replies) == list(range(20, 30))

        async def loop() -> list[int]:
            added = await asyncio.gather(*(store.aexecute(c.Add(key)) for _ in range(20)))
            await store.aclose()
            return sorted(reply.value for reply in added)

        assert asyncio.run(loop()) == list(range(30, 50))


def test_a_setting_of_its_own_is_what_a_pooler_refuses(pooler: Pooler) -> None:
    with (
        open_store(pooler.url + "?synchronous=on") as store,
        pytest.raises(StoreUnavailable, match=r"unsupported startup parameter.*options"),
    ):
        store.execute(c.Add(fresh()))


def test_without_a_direct_connection_a_waiter_looks_again_and_again(pooler: Pooler) -> None:
    key = fresh("slots")
    with open_store(pooler.url) as store:
        held = store.execute(c.Acquire(key, "first", 60.0)).token
        assert held is not None
        store.execute(c.Acquire(key, "second", 60.0, patience=60.0))
        thread = threading.Thread(target=lambda: store.execute(c.Release(key, held)))
        thread.start()
        assert store.receive(c.mailbox(key, "second"), 60.0)
        thread.join()


def test_listening_asks_for_a_direct_connection_and_uses_it(pooler: Pooler) -> None:
    with (
        open_store(pooler.url) as store,
        pytest.raises(ConfigurationError, match="listen_url=postgresql://"),
    ):
        store.driver.listen("channel")
    direct = f"postgresql://127.0.0.1:{pooler.address.port}"
    with open_store(f"{pooler.url}?listen_url={direct}") as store:
        channel = fresh("channel")
        listener = store.driver.listen(channel)
        store.execute(c.Publish(channel, b"heard"))
        assert listener.get(60.0) == b"heard"
        listener.close()
        key = fresh("slots")
        held = store.execute(c.Acquire(key, "first", 60.0)).token
        assert held is not None
        store.execute(c.Acquire(key, "second", 60.0, patience=60.0))
        thread = threading.Thread(target=lambda: store.execute(c.Release(key, held)))
        thread.start()
        assert store.receive(c.mailbox(key, "second"), 60.0)
        thread.join()


def test_no_session_of_the_pooler_is_changed(pooler: Pooler) -> None:
    """A lock that had to wait sets its time limit for its own transaction alone."""
    key = fresh()
    with open_store(pooler.url) as store:
        url = f"postgresql://postgres@127.0.0.1:{pooler.address.port}{pooler.address.path}"
        with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watch:
            Store(driver_of(store).bind(holder), url="bound").execute(c.Add(key))
            waiting = threading.Thread(target=lambda: store.execute(c.Add(key)))
            waiting.start()

            def blocked() -> bool:
                row = watch.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
                return row != (0,)

            wait_until(blocked, "a session that waits for the lock")
            holder.commit()
            waiting.join()
        with psycopg.connect(pooler.url, autocommit=True, prepare_threshold=None) as connection:
            found = {
                connection.execute("SHOW lock_timeout").fetchone() for _ in range(2 * SESSIONS)
            }
    assert found == {("0",)}
