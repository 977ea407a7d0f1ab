"""What is Redis' and Valkey's own: scripts, users, replicas, full memory, pipelines, silence."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from tests.servers import Server, free_port, redis_executable, start_redis, wait_until
from tests.stores.relays import Relay, certificates

from anypod.commands import (
    Add,
    Existence,
    Get,
    PatchDocument,
    Publish,
    Put,
    ReadDocument,
    Scan,
    Total,
)
from anypod.errors import ConfigurationError, RecordError, StoreUnavailable
from anypod.stores import Store, open_store
from anypod.stores.conformance.faults import CASES
from anypod.stores.conformance.ground import fresh
from anypod.testing import Fault, FaultProxy

KEY = "ap:t:counter:hits:sx"


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with open_store(redis_url) as store:
        yield store


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


RIGHTS = "+@read +@write +@scripting +@connection +@pubsub +time"  # docs/stores.md promises these
PLACES = "~ap:* ~{ap:* &ap:*"


def test_the_rights_that_a_user_needs(start: Callable[..., Server]) -> None:
    server = start("--user", *f"shop on >pa55 {PLACES} {RIGHTS}".split())

    def opener() -> Store:
        return open_store(f"redis://shop:pa55@127.0.0.1:{server.port}", namespace="t")

    with opener() as store:
        for case in CASES:
            store.execute(case.command(key := fresh(), case.prepare(store, key)))
        assert store.receive("ap:t:lock:l:sx#me", 0.0) is False
        listener = store.driver.listen("ap:t:channel:c:")
        store.execute(Publish("ap:t:channel:c:", b"heard"))
        assert listener.get(30) == b"heard"
        listener.close()


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


def errors(client: redis.Redis, known: str) -> int:
    """How often a server has answered with an error."""
    counted = client.info("errorstats").get(f"errorstat_{known}", {"count": 0})
    return int(counted["count"])


def test_a_server_that_still_loads_its_data_is_waited_for(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    before = start("--dir", str(tmp_path), "--rdbcompression", "no")
    with redis.Redis(port=before.port) as client:
        client.mset({f"other:{number}": b"x" * 1_000 for number in range(3_000)})
        client.save()
    before.kill()
    slowly = ("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    server = start("--dir", str(tmp_path), *slowly)
    with open_store(f"redis://127.0.0.1:{server.port}?timeout=0.2") as store:
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="still loading its data"):
                store.execute(Add(KEY))
        with pytest.raises(StoreUnavailable, match="not tried"):  # nobody waits for it any more
            store.execute(Add(KEY))

    async def work(store: Store) -> int:
        added = await store.aexecute(Add(KEY))
        await store.aclose()
        return added.value

    url = f"redis://127.0.0.1:{server.port}?timeout=60"
    with (
        ThreadPoolExecutor(2) as pool,
        redis.Redis(port=server.port) as client,
        open_store(url) as store,
        open_store(url) as other,
    ):
        told = errors(client, "LOADING")
        threaded = pool.submit(store.execute, Add(KEY))
        wait_until(lambda: errors(client, "LOADING") > told, "a refusal")
        looped = pool.submit(asyncio.run, work(other))
        wait_until(lambda: errors(client, "LOADING") > told + 4, "more of them")
        client.config_set("key-load-delay", 0)
        assert {threaded.result(60).value, looped.result(60)} == {1, 2}


def test_a_server_that_is_busy_with_a_script(start: Callable[..., Server]) -> None:
    server = start("--lua-time-limit", "20")
    with (
        ThreadPoolExecutor(1) as pool,
        redis.Redis(port=server.port, retry=None) as client,
        redis.Redis(port=server.port) as victim,
        open_store(f"redis://127.0.0.1:{server.port}?timeout=0.3") as store,
    ):
        store.execute(Add(KEY))
        endless = pool.submit(victim.eval, "while true do end", 0)
        wait_until(lambda: _busy(client), "the script that does not end")
        with pytest.raises(StoreUnavailable, match="busy with somebody's script"):
            store.execute(Add(KEY))
        client.script_kill()
        with pytest.raises(redis.ResponseError):
            endless.result(30)
        assert store.execute(Add(KEY)).value == 2


def _busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as failure:
        return str(failure).startswith("BUSY")
    return False


def test_a_walk_begins_again_when_the_server_was_started_again(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    keys = {f"ap:t:map:walk:s{number}" for number in range(300)}
    server = start("--dir", str(tmp_path))
    met: set[str] = set()
    with open_store(f"redis://127.0.0.1:{server.port}") as store:
        for key in keys:
            store.execute(Put(key, b"x"))
        after: str | None = ""
        while after is not None and len(met) < 150:
            page = store.execute(Scan("ap:t:map:walk:", after, 10))
            met.update(key for key, _ in page.items)
            after = page.after
        with redis.Redis(port=server.port) as client:
            client.save()
        server.kill()
        again = start_redis(redis_executable(), "--dir", str(tmp_path), port=server.port)
        try:
            while after is not None:
                page = store.execute(Scan("ap:t:map:walk:", after, 10))
                met.update(key for key, _ in page.items)
                after = page.after
        finally:
            again.stop()
    assert met == keys


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
    context, certificate = certificates(tmp_path)
    with Relay(redis_server.port, context=context) as relay:
        good = f"rediss://localhost:{relay.port}?ssl_ca_certs={certificate}"
        with open_store(good) as store:
            for number in range(1, 5):
                assert store.execute(Add(KEY)).value == number

            async def work() -> None:
                for _ in range(3):
                    await asyncio.gather(*(store.aexecute(Add(KEY)) for _ in range(10)))
                assert await store.aexecute(Total(KEY)) == 34
                await store.aclose()

            asyncio.run(work())
            assert relay.connections == 2, "TLS connections are used again"
        bad = f"rediss://localhost:{relay.port}"
        with open_store(bad) as store, pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            store.execute(Add(KEY))
