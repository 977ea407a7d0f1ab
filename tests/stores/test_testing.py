"""`anypod.testing`: the clock, a store of one's own, a network that fails where it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.servers import wait_until

from anypod.commands import (
    MAX_INTEGER,
    Acquire,
    Add,
    CacheFill,
    Claim,
    Command,
    Get,
    Put,
    Take,
    Total,
)
from anypod.stores import Store, open_store
from anypod.stores.conformance import CHECKS, Ground, verify
from anypod.stores.conformance.ground import in_processes
from anypod.stores.memory import MemoryDriver
from anypod.testing import Fault, FaultProxy, advance, temporary_store


def test_advance_moves_the_clock_of_a_store_or_a_state() -> None:
    with temporary_store() as store:
        store.execute(Put("k", b"v", ttl=60))
        advance(store, 59)
        assert store.execute(Get("k")) is not None
        advance(SimpleNamespace(store=store), 2)
        assert store.execute(Get("k")) is None
        with pytest.raises(ValueError, match="forward only"):
            advance(store, -1)


def test_a_temporary_store_is_shared_and_then_gone() -> None:
    with temporary_store(namespace="mine") as first, temporary_store() as second:
        assert first.prefix("counter", "c") == "ap:mine:counter:c:"
        assert in_processes([lambda: first.execute(Add("k")).value] * 2)
        assert first.execute(Total("k")) == 2
        assert second.execute(Total("k")) == 0


def test_verify_is_one_call() -> None:
    store = open_store("memory://")
    verify(lambda: store, examples=2)


BUGS: dict[str, Callable[[Command[Any]], Command[Any]]] = {
    "a ttl is forgotten": lambda c: replace(c, ttl=None) if type(c) is Put else c,
    "an operation id is forgotten": lambda c: replace(c, once=None) if type(c) is Add else c,
    "a ceiling is forgotten": lambda c: replace(c, ceiling=MAX_INTEGER) if type(c) is Add else c,
    "versions are not compared": lambda c: replace(c, expect=None) if type(c) is Put else c,
    "every fingerprint fits": lambda c: replace(c, fingerprint="") if type(c) is Claim else c,
    "a lease is not asked for": lambda c: replace(c, lease=None) if type(c) is CacheFill else c,
    "the queue is forgotten": lambda c: replace(c, patience=0.0) if type(c) is Acquire else c,
    "costs are halved": lambda c: replace(c, cost=c.cost // 2) if type(c) is Take else c,
}


@pytest.mark.parametrize("bug", BUGS)
def test_verify_finds_a_driver_with_a_bug(bug: str) -> None:
    class Buggy(MemoryDriver):
        def execute(self, command: Command[Any]) -> Any:
            return super().execute(BUGS[bug](command))

    store = Store(Buggy(), url="buggy://")
    ground = Ground(lambda: store, examples=4_000, shrink=False)
    with pytest.raises(AssertionError):
        for check in CHECKS:
            check(ground)


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that answers each line with the same line."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ = True

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            if not open_:
                connection.close()
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        # Faults cut connections, which is this server's everyday.
        file = connection.makefile("rwb", buffering=0)
        with suppress(ConnectionError), connection, file as lines:
            for line in lines:
                lines.write(line)

    thread = threading.Thread(target=serve)
    thread.start()
    port: int = listener.getsockname()[1]
    yield port
    open_ = False
    socket.create_connection(("127.0.0.1", port)).close()
    thread.join()
    listener.close()


def test_the_proxy_counts_exchanges_and_breaks_the_next(echo: int) -> None:
    with FaultProxy("127.0.0.1", echo) as proxy:
        assert (
            proxy.url("redis://user:pw@host:1/0?x=1")
            == f"redis://user:pw@127.0.0.1:{proxy.port}/0?x=1"
        )
        with socket.create_connection((proxy.host, proxy.port)) as client:
            for count in (1, 2, 3):
                client.sendall(b"hello\n")
                assert client.recv(100) == b"hello\n"
                assert proxy.exchanges == count
        heard = {}
        for fault in Fault:
            proxy.inject(fault, delay=0.01)
            limit = 0.2 if fault is Fault.SILENCE else 30
            with socket.create_connection((proxy.host, proxy.port), timeout=limit) as client:
                client.sendall(b"hello\n")
                try:
                    heard[fault] = client.recv(100)
                except TimeoutError:
                    heard[fault] = b"silence"
        assert heard == {
            **dict.fromkeys(Fault, b""),
            Fault.INSIDE_REPLY: b"hel",
            Fault.SILENCE: b"silence",
            **dict.fromkeys((Fault.LATE_REQUEST, Fault.LATE_REPLY), b"hello\n"),
        }


def test_a_late_request_arrives_although_its_client_has_gone() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy("127.0.0.1", listener.getsockname()[1]) as proxy,
    ):
        proxy.inject(Fault.LATE_REQUEST, delay=0.05)
        with socket.create_connection((proxy.host, proxy.port)) as client:
            client.sendall(b"hello\n")
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b"hello\n"
            assert proxy.late == 1, "the server has not answered yet"
            server.sendall(b"done\n")
            assert server.recv(100) == b""
        wait_until(lambda: proxy.late == 0, "the end of what was late")


def test_a_late_exchange_ends_with_its_connection(echo: int) -> None:
    with FaultProxy("127.0.0.1", echo) as proxy:
        for fault in (Fault.LATE_REQUEST, Fault.LATE_REPLY):
            proxy.inject(fault, delay=3_600)
            with socket.create_connection((proxy.host, proxy.port), timeout=30) as client:
                client.sendall(b"hello\n")
                wait_until(lambda: proxy.late, "the late exchange")
                proxy.cut()
                assert client.recv(100) == b""
        proxy.inject(Fault.BEFORE_REPLY)
        proxy.heal()
        with socket.create_connection((proxy.host, proxy.port), timeout=30) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"


def test_the_proxy_refuses_and_allows_again(echo: int) -> None:
    with FaultProxy("127.0.0.1", echo) as proxy:
        with socket.create_connection((proxy.host, proxy.port)) as client:
            client.sendall(b"hello\n")
            assert client.recv(100)
            proxy.refuse()
            assert client.recv(100) == b""
            assert proxy.connections == 0
        refused = socket.create_connection((proxy.host, proxy.port))
        with refused, pytest.raises(ConnectionResetError):
            refused.recv(100)
        proxy.allow()
        with socket.create_connection((proxy.host, proxy.port)) as client:
            client.sendall(b"hello\n")
            assert client.recv(100)


def test_the_proxy_refuses_what_is_just_connecting_too(
    echo: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    starting, refusing = threading.Event(), threading.Event()

    def slowly(thread: threading.Thread) -> None:
        if thread.name == "fault proxy pair":
            starting.set()
            refusing.wait(10)
        start(thread)

    with FaultProxy("127.0.0.1", echo) as proxy:
        monkeypatch.setattr(threading.Thread, "start", slowly)
        with socket.create_connection((proxy.host, proxy.port)) as client:
            assert starting.wait(10)
            threading.Timer(0.05, refusing.set).start()  # most likely while `refuse` is under way
            proxy.refuse()
            client.settimeout(10)
            with suppress(ConnectionError):
                assert client.recv(1) == b""
        assert proxy.connections == 0
