"""What a PostgreSQL store does when the server, the network or the URL is not as one would wish."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests import servers
from tests.servers import free_port, wait_until

from anypod import commands as c
from anypod.errors import ConfigurationError, OutcomeUnknown, StoreError, StoreUnavailable
from anypod.stores import Capability, Store, open_store
from anypod.stores.conformance.ground import Child, fresh, in_threads
from anypod.stores.postgres import PostgresDriver, open_driver

SECRET = "s3cret-w0rd"


# --- the URL


def driver_of(store: Store) -> PostgresDriver:
    assert isinstance(store.driver, PostgresDriver)
    return store.driver


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with open_store(postgres_url) as store:
        yield store


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?timout=3", "did you mean timeout"),
        ("?sslmod=require", "did you mean sslmode"),
        ("?frobnicate=1", "neither anypod's nor libpq's"),
        ("?timeout=0", "above 0"),
        ("?timeout=nan", "above 0"),
        ("?prepare=maybe", "auto, on, off"),
        ("?connections=0", "1 or more"),
        (f"?password={SECRET}", "write it before the @"),
        (f"?listen_url=postgresql://u:{SECRET}@h/d", "write it before the @"),
        ("?timeout=1&timeout=2", "stands twice"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused(options: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        open_driver(f"postgresql://user:{SECRET}@host/db{options}")
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{SECRET}%zz@host/db",
        f"postgresql://user:{SECRET}@host:port/db",
        f"postgresql://user:{SECRET}@[::1/db",
        f"postgresql://user:{SECRET}/and-more@host/db",
    ],
)
def test_a_url_that_cannot_be_read_keeps_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_driver(url)
    assert SECRET not in f"{refused.value!r}{refused.value.__cause__!r}"


def test_the_password_is_shown_nowhere(postgres_url: str) -> None:
    with open_store(postgres_url.replace("postgres@", f"postgres:{SECRET}@", 1)) as store:
        assert store.execute(c.Add(fresh())).value == 1
        driver = driver_of(store)
        shown = f"{store!r} {driver!r} {driver.address!r} {vars(driver)!r}"
    with (
        open_store(f"postgresql://postgres:{SECRET}@127.0.0.1:{free_port()}/db") as away,
        pytest.raises(StoreUnavailable) as refused,
    ):
        away.execute(c.Add("k"))
    assert SECRET not in shown
    assert SECRET not in str(refused.value)


# --- the server


def test_a_server_that_is_not_postgresql_is_said_to_be_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def http() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=http, daemon=True)
        thread.start()
        for mode in ("prefer", "disable"):
            with (
                open_store(f"postgresql://127.0.0.1:{port}/db?sslmode={mode}") as store,
                pytest.raises(StoreUnavailable, match="is not PostgreSQL"),
            ):
                store.execute(c.Add("k"))


def test_nobody_there_a_wrong_database_and_a_wrong_user_are_told(postgres_url: str) -> None:
    nowhere = f"postgresql://127.0.0.1:{servers.free_port()}/db"
    database = postgres_url.rpartition("/")[0] + "/absent"
    user = postgres_url.replace("postgres@", f"absent:{SECRET}@", 1)
    for url, said in (
        (nowhere, "Connection refused"),
        (database, 'database "absent" does not exist'),
        (user, 'role "absent" does not exist'),
    ):
        with open_store(url) as store:
            with pytest.raises(StoreUnavailable, match=said) as told:
                store.execute(c.Add("k"))
            with pytest.raises(StoreUnavailable, match=said):
                asyncio.run(_finally_closed(store, store.aexecute(c.Add("k"))))
        assert SECRET not in str(told.value)


async def _finally_closed(store: Store, work: Any) -> Any:
    try:
        return await work
    finally:
        await store.aclose()


def test_sessions_that_the_server_ended_are_noticed_before_use(
    store: Store, postgres_url: str
) -> None:
    key = fresh()

    async def loop() -> None:
        assert (await store.aexecute(c.Add(key))).value == 2
        _end_sessions(postgres_url)
        assert (await store.aexecute(c.Add(key))).value == 3
        await store.aclose()

    assert store.execute(c.Add(key)).value == 1
    asyncio.run(loop())
    in_threads([lambda: store.execute(c.Total(key))] * 4)
    _end_sessions(postgres_url)
    assert store.execute(c.Add(key)).value == 4


def test_under_sessions_that_end_at_random_nothing_is_lost_or_done_twice(
    new_postgres_url: Callable[[], str],
) -> None:
    url = new_postgres_url()
    key = fresh()
    acknowledged: list[int] = []
    unknown: list[StoreError] = []

    def sync(store: Store) -> None:
        for _ in range(150):
            try:
                acknowledged.append(store.execute(c.Add(key)).value)
            except OutcomeUnknown as failure:
                unknown.append(failure)

    async def one(store: Store) -> None:
        for _ in range(30):
            try:
                acknowledged.append((await store.aexecute(c.Add(key))).value)
            except OutcomeUnknown as failure:
                unknown.append(failure)

    async def many(store: Store) -> None:
        await asyncio.gather(*(one(store) for _ in range(15)))
        await store.aclose()

    with open_store(url) as store, psycopg.connect(url, autocommit=True) as connection:
        store.execute(c.Total(key))
        work: list[Callable[[], Any]] = [lambda: sync(store)] * 3
        work.append(lambda: asyncio.run(many(store)))
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            connection.execute(
                "SELECT pg_terminate_backend(pid), pg_sleep(0.02) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " ORDER BY random() LIMIT 1"
            )
        total = store.execute(c.Total(key))
    assert len(acknowledged) + len(unknown) == 900, "some command ended otherwise"
    assert len(set(acknowledged)) == len(acknowledged), "a value was given twice"
    assert len(acknowledged) <= total <= len(acknowledged) + len(unknown)


def _end_sessions(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        def alone() -> bool:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            ).fetchone()
            return row == (1,)

        wait_until(alone, "the end of the sessions")


def test_statements_that_a_session_forgot_are_no_failure(store: Store) -> None:
    key = fresh()
    assert store.execute(c.Add(key)).value == 1
    link = driver_of(store)._pool._idle[0].link
    link.pgconn.exit_pipeline_mode()
    link.pgconn.exec_(b"DISCARD ALL")
    link.pgconn.enter_pipeline_mode()
    assert store.execute(c.Add(key)).value == 2
    assert store.execute(c.Add(key)).value == 3


def test_many_commands_wait_for_no_reply_in_between(store: Store) -> None:
    """One exchange, as far as the client goes: all commands are under way before the first reply."""
    driver = driver_of(store)
    key = fresh()
    batch: list[c.Command[Any]] = [c.Add(key), c.Put(key + "v", b"x"), c.Total(key)] * 10
    driver.execute_many(batch)
    (link,) = driver._pool.links()
    session = link.pgconn.backend_pid
    replies: list[Any] = []
    batches = threading.Thread(target=lambda: replies.extend(driver.execute_many(batch)))
    os.kill(session, signal.SIGSTOP)
    try:
        batches.start()
        wait_until(lambda: len(link._flights) == len(batch), "every command being under way")
    finally:
        os.kill(session, signal.SIGCONT)
    batches.join()
    assert [reply.value for reply in replies[::3]] == list(range(11, 21))
    large = [c.Put(f"{key}{number}", b"x" * 300_000) for number in range(100)]
    assert all(reply.written for reply in driver.execute_many(large))


def test_no_more_connections_than_allowed(new_postgres_url: Callable[[], str]) -> None:
    url = new_postgres_url()
    with open_store(url + "?connections=2") as store:
        key = fresh()
        values = in_threads([lambda: store.execute(c.Add(key)).value] * 12)
        assert sorted(values) == list(range(1, 13))
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'anypod'"
            ).fetchone()
    assert row is not None
    assert 1 <= row[0] <= 2


def test_when_all_connections_are_busy_the_wait_ends_and_says_why(postgres_url: str) -> None:
    key = fresh()
    with (
        open_store(postgres_url + "?connections=1&timeout=0.3") as store,
        psycopg.connect(postgres_url) as holder,
    ):
        store.execute(c.Total(key))
        pool = driver_of(store)._pool
        held = pool.take(float("inf"))
        with pytest.raises(StoreUnavailable, match=r"all 1 connections were busy.*connections="):
            store.execute(c.Total(key))
        pool.give(held)
        Store(store.driver.bind(holder), url="bound").execute(c.Add(key))  # type: ignore[attr-defined]

        async def loop() -> list[Any]:
            waiting = [asyncio.ensure_future(store.aexecute(c.Add(key))) for _ in range(3)]
            try:
                return await asyncio.gather(*waiting, return_exceptions=True)
            finally:
                await store.aclose()

        replies = asyncio.run(loop())
        assert all(isinstance(reply, StoreUnavailable) for reply in replies), replies
        holder.commit()
        assert store.execute(c.Total(key)) == 1


def test_commands_that_wait_for_a_lock_do_not_hold_up_an_event_loop(
    new_postgres_url: Callable[[], str],
) -> None:
    url = new_postgres_url()
    held = [fresh() for _ in range(3)]

    async def work(store: Store, commit: Callable[[], None]) -> None:
        waiting = []
        for number, key in enumerate(held, 1):
            waiting.append(asyncio.ensure_future(store.aexecute(c.Add(key))))
            await asyncio.to_thread(_until_waiting, url, number)
        assert (await store.aexecute(c.Add(fresh()))).value == 1
        assert not any(one.done() for one in waiting)
        commit()
        assert [(await one).value for one in waiting] == [2] * 3
        await store.aclose()

    with open_store(url + "?timeout=60") as store, psycopg.connect(url) as holder:
        for key in held:
            Store(driver_of(store).bind(holder), url="bound").execute(c.Add(key))
        asyncio.run(work(store, holder.commit))


def _until_waiting(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:

        def waiting() -> bool:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
            ).fetchone()
            return row == (count,)

        wait_until(waiting, f"{count} sessions that wait for a lock")


def test_commands_on_several_rows_do_not_deadlock(store: Store) -> None:
    """Additions with operation ids touch two rows each; in any order, from any side."""
    keys = [fresh() for _ in range(3)]

    def work(number: int) -> None:
        for step in range(30):
            ordered = keys if (number + step) % 2 else keys[::-1]
            for key in ordered:
                store.execute(c.Add(key, once=f"{number}.{step}"))

    in_threads([lambda n=n: work(n) for n in range(5)])  # type: ignore[misc]
    assert [store.execute(c.Total(key)) for key in keys] == [150] * 3


def test_commands_on_several_keys_do_not_deadlock(store: Store) -> None:
    """Whatever the order in which they name their keys, and whatever else happens there, reaping included."""
    policy = c.Policy(c.Algorithm.FIXED_WINDOW, c.MAX_INTEGER, 1e6, 1)
    keys = [fresh() for _ in range(4)]
    driver = driver_of(store)

    def work(number: int) -> None:
        for step in range(20):
            turn = (number + step) % 4
            ordered = [*keys[turn:], *keys[:turn]][:: 1 if step % 2 else -1]
            subjects = tuple((key, (policy,)) for key in ordered)
            assert store.execute(c.TakeAll(ordered[0], subjects)).admitted
            store.execute(c.Take(ordered[-1], (policy,)))
            store.execute(c.Put(ordered[0] + "v", b"x", ttl=1e-6))
            driver.reap(5)

    in_threads([lambda n=n: work(n) for n in range(5)])  # type: ignore[misc]
    taken = sum(
        c.MAX_INTEGER - store.execute(c.Take(key, (policy,), 0)).quotas[0].remaining for key in keys
    )
    assert taken == 5 * 20 * (4 + 1)


def test_what_has_expired_is_reaped_in_batches(new_postgres_url: Callable[[], str]) -> None:
    url = new_postgres_url()
    with open_store(url) as store, psycopg.connect(url, autocommit=True) as connection:
        driver = driver_of(store)
        for number in range(30):
            store.execute(c.Put(f"v{number}", b"x", ttl=10.0))
            store.execute(c.CacheFill(f"c{number}", None, "s", b"x", 5.0, 10.0))
        store.execute(c.Put("stays", b"x"))
        assert driver.reap() == 0
        driver.clock_offset = 11.0
        assert driver.reap(20) == 40
        with connection.transaction():
            connection.execute("SELECT * FROM anypod.record WHERE key LIKE 'v%' FOR UPDATE")
            assert driver.reap(20) == 10, "waited for, or took, rows that are in use"
        assert driver.reap(20) == 10
        assert store.execute(c.Get("stays")) is not None
        for number in range(30):
            store.execute(c.Put(f"v{number}", b"x", ttl=10.0))
        driver.clock_offset = 22.0
        for _ in range(500):
            store.execute(c.Add("n"))
        rows = connection.execute("SELECT key FROM anypod.record ORDER BY key").fetchall()
    assert rows == [("n",), ("stays",)], "commands do not reap as they go"


def test_an_event_loop_reaps_as_well(new_postgres_url: Callable[[], str]) -> None:
    url = new_postgres_url()

    async def work(store: Store) -> None:
        await store.aexecute(c.Put("v", b"x", ttl=10.0))
        store.driver.clock_offset = 11.0
        await asyncio.gather(*(store.aexecute(c.Add("n")) for _ in range(500)))
        await asyncio.gather(*driver_of(store)._reaping)
        await store.aclose()

    with open_store(url) as store, psycopg.connect(url, autocommit=True) as connection:
        asyncio.run(work(store))
        assert connection.execute("SELECT key FROM anypod.record").fetchall() == [("n",)]


# --- waiting


def test_a_notification_comes_with_the_commit_and_not_before(
    store: Store, postgres_url: str
) -> None:
    key = fresh("slots")
    held = store.execute(c.Acquire(key, "first", 600.0)).token
    assert held is not None
    store.execute(c.Acquire(key, "second", 600.0, patience=600.0))
    box = c.mailbox(key, "second")
    with psycopg.connect(postgres_url) as connection:
        inside = Store(driver_of(store).bind(connection), url="bound")
        assert inside.execute(c.Release(key, held))
        assert not store.receive(box, 0.05)
        connection.rollback()
        assert not store.receive(box, 0.05)
        assert inside.execute(c.Release(key, held))
        waiting = Child(lambda: store.receive(box, 60.0))
        connection.commit()
    assert waiting.result()
    assert not store.receive(box, 0.0)


def test_waiters_share_one_connection_and_survive_its_end(
    new_postgres_url: Callable[[], str],
) -> None:
    url = new_postgres_url()
    with open_store(url) as store:
        keys = [fresh("slots") for _ in range(6)]
        tokens = {}
        for key in keys:
            tokens[key] = store.execute(c.Acquire(key, "first", 600.0)).token
            store.execute(c.Acquire(key, "second", 600.0, patience=600.0))
        with psycopg.connect(url, autocommit=True) as connection:

            def listening() -> int:
                row = connection.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                ).fetchone()
                assert row is not None
                return int(row[0])

            def release() -> None:
                wait_until(lambda: listening() == 1, "one listening session")
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
                )
                for key in keys:
                    assert store.execute(c.Release(key, tokens[key] or 0))

            waits = [
                lambda k=key: store.receive(c.mailbox(k, "second"), 60.0)  # type: ignore[misc]
                for key in keys
            ]
            came = in_threads([*waits, release])
            assert came[:-1] == [True] * 6
            assert listening() <= 1


def test_a_listener_is_told_of_a_gap(store: Store, postgres_url: str) -> None:
    channel = fresh("channel")
    listener = driver_of(store).listen(channel)
    long = bytes(range(256)) * 200
    store.execute(c.Publish(channel, long))
    assert listener.get(60.0) == long
    _end_sessions(postgres_url)
    store.execute(c.Publish(channel, b"lost"))
    assert repr(listener.get(60.0)) == "<Gap.GAP: 'messages may have been missed'>"
    store.execute(c.Publish(channel, b"heard"))
    assert listener.get(60.0) == b"heard"
    listener.close()


# --- durability


def test_a_server_that_acknowledges_too_early_promises_no_durable_fencing(
    store: Store, postgres_url: str
) -> None:
    assert Capability.DURABLE_FENCING in store.driver.capabilities  # as far as is known
    store.execute(c.Total("k"))
    assert (
        Capability.DURABLE_FENCING not in store.driver.capabilities
    )  # these tests run without fsync
    with open_store(postgres_url + "?synchronous=off") as hasty:
        assert Capability.DURABLE_FENCING not in hasty.driver.capabilities
