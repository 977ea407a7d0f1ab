"""What is Redis' and Valkey's own: scripts, users, replicas, full memory, pipelines, silence."""

from __future__ import annotations

import asyncio
import http.server
import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
import redis
from tests.servers import Server, free_port, redis_executable, start_redis, wait_until

from anypod.commands import Add, Existence, Get, PatchDocument, Put, ReadDocument, Total
from anypod.errors import ConfigurationError, OutcomeUnknown, RecordError, StoreUnavailable
from anypod.stores import Store, open_store
from anypod.stores.redis import channel
from anypod.testing import Fault, FaultProxy

KEY = "ap:t:counter:hits:sx"


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with open_store(redis_url) as store:
        yield store


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers with options of their own."""
    servers = []

    def start(*options: str) -> Server:
        servers.append(start_redis(redis_executable(), *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy


# --- scripts


def test_a_forgotten_script_is_sent_again_and_executes_once(
    store: Store, client: redis.Redis
) -> None:
    assert store.execute(Add(KEY)).value == 1
    client.script_flush()
    assert store.execute(Add(KEY)).value == 2
    client.script_flush()
    added, _, again = store.driver.execute_many([Add(KEY), Total(KEY), Add(KEY)])
    assert {added.value, again.value} == {3, 4}
    assert store.execute(Total(KEY)) == 4

    async def work() -> None:
        client.script_flush()
        await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(10)))
        assert await store.aexecute(Total(KEY)) == 14
        await store.aclose()

    asyncio.run(work())


def test_the_engines_expiry_follows_the_deadline(store: Store, client: redis.Redis) -> None:
    store.execute(Put("ap:t:map:m:sx", b"x", ttl=100.0))
    left = client.pttl("ap:t:map:m:sx")
    assert 100_000 < left <= 101_000
    store.driver.clock_offset += 101
    assert store.execute(Get("ap:t:map:m:sx")) is None, "the deadline in the record decides"
    assert client.exists("ap:t:map:m:sx")
    store.execute(Put("ap:t:map:m:sx", b"x"))
    assert client.pttl("ap:t:map:m:sx") == -1


def test_records_of_others(store: Store, client: redis.Redis) -> None:
    client.rpush(KEY, "theirs")
    with pytest.raises(RecordError, match="another program keeps something else"):
        store.execute(Add(KEY))
    client.set("ap:t:map:m:sx", b"\x07from the future")
    with pytest.raises(RecordError, match="format 7, written by a newer anypod"):
        store.execute(Get("ap:t:map:m:sx"))
    assert client.get("ap:t:map:m:sx") == b"\x07from the future"


# --- who may


def test_users_and_passwords(start: Callable[..., Server]) -> None:
    server = start("--requirepass", "s3cret", "--user", "shop", "on", ">pa55", "~ap:*", "+@all")
    address = f"127.0.0.1:{server.port}"
    for good in (f"redis://:s3cret@{address}", f"redis://shop:pa55@{address}/0"):
        with open_store(good) as store:
            store.execute(Add(KEY))
            assert "s3cret" not in repr(store)
            assert "pa55" not in repr(store)
    for bad in (f"redis://{address}", f"redis://:wrong@{address}", f"redis://shop:wrong@{address}"):
        with open_store(bad) as store, pytest.raises(StoreUnavailable) as caught:
            store.execute(Add(KEY))
        assert "wrong" not in str(caught.value)
    with (
        open_store(f"redis://shop:pa55@{address}") as store,
        pytest.raises(StoreUnavailable, match="lacks a right"),
    ):
        store.execute(Add("other:key"))


def test_a_server_that_is_something_else() -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    web = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=web.serve_forever)
    thread.start()
    try:
        url = f"redis://:hidden@127.0.0.1:{web.server_port}?timeout=0.3"
        with open_store(url) as store:
            with pytest.raises(StoreUnavailable) as caught:
                store.execute(Add(KEY))
            assert "hidden" not in str(caught.value)

            async def work() -> None:
                with pytest.raises(StoreUnavailable):
                    await store.aexecute(Add(KEY))
                await store.aclose()

            asyncio.run(work())
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def test_nobody_listens() -> None:
    with (
        open_store(f"redis://127.0.0.1:{free_port()}") as store,
        pytest.raises(StoreUnavailable, match="refused"),
    ):
        store.execute(Add(KEY))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://127.0.0.1?tiemout=1", "did you mean timeout"),
        ("redis://127.0.0.1?timeout=fast", "must be seconds"),
        ("redis://127.0.0.1?protocol=4", "must be one of 2, 3"),
        ("redis://127.0.0.1:port", "cannot be read"),
        ("redsi://127.0.0.1", "did you mean rediss?://"),
    ],
)
def test_a_url_that_cannot_work(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_store(url)


# --- a server that cannot


def test_a_replica_is_told_from_a_primary(start: Callable[..., Server]) -> None:
    primary = start("--repl-diskless-sync-delay", "0")
    replica = start("--replicaof", "127.0.0.1", str(primary.port))
    with redis.Redis(port=replica.port) as client:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "replication")
    with open_store(f"redis://127.0.0.1:{replica.port}") as store:
        with pytest.raises(StoreUnavailable, match="is a replica and cannot write"):
            store.execute(Add(KEY))
        assert store.execute(Total(KEY)) == 0


def test_a_full_memory_writes_nothing(start: Callable[..., Server]) -> None:
    server = start("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    with open_store(f"redis://127.0.0.1:{server.port}") as store:
        store.execute(Add(KEY))
        with pytest.raises(StoreUnavailable, match="memory is full"):
            for number in range(200):
                store.execute(Put(f"ap:t:map:m:s{number}", b"x" * 100_000))
        with pytest.raises(StoreUnavailable, match="memory is full"):
            store.execute(Add(KEY, once="neither the step nor its id"))
        assert store.execute(Total(KEY)) == 1


def test_silence_is_bounded(start: Callable[..., Server]) -> None:
    server = start()
    with open_store(f"redis://127.0.0.1:{server.port}?timeout=1") as store:
        store.execute(Add(KEY))
        server.pause()
        with pytest.raises(OutcomeUnknown, match=r"no reply came within 1 s"):
            store.execute(Add(KEY))

        async def work() -> None:
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await store.aexecute(Add(KEY))  # a new connection whose greeting is not answered
            server.resume()
            await store.aexecute(Add(KEY))
            server.pause()
            replies = await asyncio.gather(
                *(store.aexecute(Add(KEY)) for _ in range(3)), return_exceptions=True
            )
            assert [type(reply) for reply in replies] == [OutcomeUnknown] * 3
            server.resume()
            assert (await store.aexecute(Add(KEY))).value >= 3
            await store.aclose()

        asyncio.run(work())


# --- one connection for all tasks of a loop


def test_commands_of_one_tick_leave_together(proxy: FaultProxy, redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.aexecute(Add(KEY))
        before = proxy.exchanges
        replies = await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(50)))
        assert [reply.value for reply in replies] == list(range(2, 52))
        assert proxy.exchanges - before == 1
        assert proxy.connections == 1
        await store.aclose()

    with open_store(proxy.url(redis_url)) as store:
        asyncio.run(work(store))


def test_waiting_requests_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MOST_WAITING", 20)

    async def work() -> None:
        replies = await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(500)))
        assert sorted(reply.value for reply in replies) == list(range(1, 501))
        await store.aclose()

    asyncio.run(work())


def test_large_requests_wait_for_the_kernel(store: Store) -> None:
    async def work() -> None:
        keys = [f"ap:t:map:m:s{number}" for number in range(12)]
        await asyncio.gather(*(store.aexecute(Put(key, b"x" * 2_000_000)) for key in keys))
        found = await asyncio.gather(*(store.aexecute(Get(key)) for key in keys))
        assert all(value is not None and len(value.value) == 2_000_000 for value in found)
        await store.aclose()

    asyncio.run(work())


def test_a_lost_connection_tells_only_those_it_concerns(proxy: FaultProxy, redis_url: str) -> None:
    async def work(store: Store) -> None:
        await store.aexecute(Add(KEY))
        proxy.inject(Fault.BEFORE_REPLY)
        first = asyncio.ensure_future(store.aexecute(Add(KEY)))
        with pytest.raises(OutcomeUnknown):
            await first
        assert (await store.aexecute(Add(KEY))).value == 3, "the unknown one had been executed"
        await store.aclose()

    with open_store(proxy.url(redis_url)) as store:
        asyncio.run(work(store))


def test_what_only_reads_is_asked_again(proxy: FaultProxy, redis_url: str) -> None:
    with open_store(proxy.url(redis_url)) as store:
        store.execute(Add(KEY))
        store.execute(Total(KEY))
        proxy.inject(Fault.BEFORE_REPLY)
        assert store.execute(Total(KEY)) == 1


def test_odd_names_survive_lua(store: Store) -> None:
    key = "ap:t:session:s:sx"
    fields = {str(number): b"%d" % number for number in range(1, 30)}  # looks like an array to Lua
    store.execute(PatchDocument(key, fields, existence=Existence.NEW))
    store.execute(PatchDocument(key, {}, drop=tuple(fields)))
    document = store.execute(ReadDocument(key))
    assert document is not None
    assert document.fields == {}
    store.execute(PatchDocument(key, fields))
    document = store.execute(ReadDocument(key))
    assert document is not None
    assert document.fields == fields


# --- the transport


def test_tls(redis_server: Server, redis_url: str, tmp_path: Path) -> None:
    certificate, key = certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with TLSProxy(context, redis_server.port) as proxy:
        good = f"rediss://localhost:{proxy.port}?ssl_ca_certs={certificate}"
        with open_store(good) as store:
            for number in range(1, 5):
                assert store.execute(Add(KEY)).value == number

            async def work() -> None:
                for _ in range(3):
                    await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(10)))
                assert await store.aexecute(Total(KEY)) == 34
                await store.aclose()

            asyncio.run(work())
            assert proxy.connections == 2, "TLS connections are used again"
        bad = f"rediss://localhost:{proxy.port}"
        with open_store(bad) as store, pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            store.execute(Add(KEY))


class TLSProxy:
    """Speaks TLS to clients and plain TCP to a server, because the servers from wheels have no TLS."""

    def __init__(self, context: ssl.SSLContext, upstream: int) -> None:
        self._context = context
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            if not self._upstream:
                plain.close()
                return
            try:
                client = self._context.wrap_socket(plain, server_side=True)
            except (ssl.SSLError, OSError):
                plain.close()
                continue
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._upstream))
            thread = threading.Thread(target=self._relay, args=(client, server))
            thread.start()
            self._threads.append(thread)

    def _relay(self, client: ssl.SSLSocket, server: socket.socket) -> None:
        with client, server:
            while True:
                readable = (
                    [client] if client.pending() else select.select([client, server], [], [])[0]
                )
                source, sink = (client, server) if client in readable else (server, client)
                data = source.recv(65536)
                if not data:
                    return
                sink.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._upstream = 0
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()


def certificates(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    openssl = shutil.which("openssl") or pytest.skip("no openssl to make a certificate with")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
