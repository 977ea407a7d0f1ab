"""Commands inside the caller's transaction: they commit with it, or not at all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.servers import wait_until

from anypod import commands as c
from anypod.errors import ConfigurationError, Conflict, RecordError, StoreUnavailable
from anypod.stores import Store, open_store
from anypod.stores.conformance.ground import Child, fresh
from anypod.stores.postgres import PostgresDriver


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with open_store(postgres_url) as store:
        yield store


@pytest.fixture
def driver(store: Store) -> PostgresDriver:
    assert isinstance(store.driver, PostgresDriver)
    return store.driver


def bound(driver: PostgresDriver, connection: object) -> Store:
    return Store(driver.bind(connection), url="postgresql://bound")


def commands(key: str) -> list[c.Command[object]]:
    """One of each kind, whose replies are the same whenever nothing was there before."""
    policy = c.Policy(c.Algorithm.SLIDING_LOG, 5, 60.0, 5)
    return [
        c.Add(f"{key}:n", by=5),
        c.Add(f"{key}:n", by=5, once="once ☃"),
        c.Total(f"{key}:n"),
        c.Put(f"{key}:v", b"\x00\xff", expect=7),
        c.Get(f"{key}:v"),
        c.Scan(f"{key}:v"),
        c.Claim(f"{key}:c", "print", 60.0, 60.0),
        c.PatchDocument(f"{key}:d", {"ä\0": b"\0", "b": b""}, existence=c.Existence.NEW),
        c.ReadDocument(f"{key}:d"),
        c.CacheRead(f"{key}:k", "s", 0.0),
        c.CacheFill(f"{key}:k", 5, "s", b"x", 1.0, 2.0),
        c.CacheVersion(f"{key}:tag", 60.0),
        c.Take(f"{key}:t", (policy,), 2),
        c.Acquire(f"{key}:s", "w", 60.0),
        c.Withdraw(f"{key}:s", "nobody"),
        c.EndDocument(f"{key}:d", 60.0),
        c.Publish(f"{key}:p", b"\0message"),
    ]


def shape(reply: object) -> str:
    """A reply without versions and tokens, which are the clock's."""
    if type(reply) is int and reply > c.MAX_INTEGER // 100:
        return "version"
    text = repr(reply)
    for field in ("version", "token"):
        parts = text.split(f"{field}=")
        text = f"{field}=".join([parts[0], *(part.lstrip("0123456789") for part in parts[1:])])
    return text


def test_every_command_answers_in_a_transaction_as_it_does_alone(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    alone = [shape(store.execute(command)) for command in commands("alone")]
    with psycopg.connect(postgres_url) as connection:
        inside = bound(driver, connection)
        replies = [shape(inside.execute(command)) for command in commands("inside")]
    assert replies == [reply.replace("alone", "inside") for reply in alone]


def test_a_rollback_undoes_and_a_commit_keeps(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    key = fresh()
    with psycopg.connect(postgres_url) as connection:
        inside = bound(driver, connection)
        assert inside.execute(c.Add(key)).value == 1
        connection.rollback()
        assert store.execute(c.Total(key)) == 0
        assert inside.execute(c.Add(key)).value == 1
        assert inside.execute(c.Add(key)).value == 2
        connection.commit()
    assert store.execute(c.Total(key)) == 2


def test_without_a_transaction_it_refuses(driver: PostgresDriver, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        inside = bound(driver, connection)
        with pytest.raises(ConfigurationError, match="needs an open transaction"):
            inside.execute(c.Add("k"))
        with connection.transaction():
            assert inside.execute(c.Add(fresh())).value == 1


def test_the_first_command_of_all_may_be_one_in_a_transaction(
    new_postgres_url: Callable[[], str],
) -> None:
    url = new_postgres_url()

    async def work() -> None:
        with open_store(new_postgres_url()) as other:
            address = other.url
            async with await psycopg.AsyncConnection.connect(address) as connection:
                inside = Store(other.driver.bind(connection), url="bound")  # type: ignore[attr-defined]
                assert (await inside.aexecute(c.Add("k"))).value == 1

    with open_store(url) as store, psycopg.connect(url) as connection:
        inside = Store(store.driver.bind(connection), url="bound")  # type: ignore[attr-defined]
        assert inside.execute(c.Add("k")).value == 1
    asyncio.run(work())


def test_a_record_of_another_kind_leaves_the_transaction_usable(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    key = fresh()
    store.execute(c.Put(key, b"value"))
    with psycopg.connect(postgres_url) as connection:
        inside = bound(driver, connection)
        with pytest.raises(RecordError):
            inside.execute(c.Add(key))
        assert inside.execute(c.Add(key + "2")).value == 1


def test_who_waits_for_a_transaction_decides_on_what_it_left(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    """Refusal, value and clock are those after the wait, not those before."""
    key = fresh("counter")
    store.execute(c.Add(key, by=8, ceiling=10))
    with psycopg.connect(postgres_url) as connection:
        inside = bound(driver, connection)
        assert inside.execute(c.Add(key, by=2, ceiling=10)).value == 10
        waiting = Child(lambda: store.execute(c.Add(key, by=1, ceiling=10)))
        claim = fresh("claim")
        inside.execute(c.Claim(claim, "f", 60.0, 60.0))
        claiming = Child(lambda: store.execute(c.Claim(claim, "f", 60.0, 60.0)))
        _until_waiting(postgres_url, 2)
        connection.commit()
    assert waiting.result() == c.Added(10, c.AddOutcome.REFUSED)
    assert claiming.result().status is c.ClaimStatus.IN_FLIGHT


def test_the_clock_is_read_after_the_lock(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    key = fresh("value")
    with psycopg.connect(postgres_url) as connection:
        bound(driver, connection).execute(c.Put(key, b"held"))
        waiting = Child(lambda: store.execute(c.Put(key, b"waited")))
        _until_waiting(postgres_url, 1)
        row = connection.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        ).fetchone()
        connection.commit()
    assert row is not None
    assert waiting.result().current.version >= row[0], "the version is older than the lock"


def test_a_wait_for_a_transaction_has_an_end_and_a_known_outcome(
    driver: PostgresDriver, store: Store, postgres_url: str
) -> None:
    key = fresh()
    with (
        psycopg.connect(postgres_url) as connection,
        open_store(postgres_url + "?timeout=0.3") as other,
    ):
        other.execute(c.Total(key))
        bound(driver, connection).execute(c.Add(key))
        for refused in (
            lambda: other.execute(c.Add(key)),
            lambda: asyncio.run(_once(other, c.Add(key))),
        ):
            with pytest.raises(StoreUnavailable, match="another transaction held this record"):
                refused()
        connection.commit()
        assert other.execute(c.Add(key)).value == 2


def test_a_command_on_several_keys_waits_no_longer_than_others(
    driver: PostgresDriver, store: Store, postgres_url: str
) -> None:
    """It waits for one lock after the other, and all that has an end that the client still sees."""
    policy = c.Policy(c.Algorithm.FIXED_WINDOW, 5, 60.0, 5)
    one, two = sorted(fresh() for _ in range(2))
    take = c.TakeAll(one, ((one, (policy,)), (two, (policy,))))
    with (
        psycopg.connect(postgres_url) as first,
        psycopg.connect(postgres_url) as second,
        psycopg.connect(postgres_url, autocommit=True) as watch,
        open_store(postgres_url + "?timeout=2") as other,
    ):
        other.execute(c.Total(one))
        bound(driver, first).execute(c.Take(one, (policy,)))
        bound(driver, second).execute(c.Take(two, (policy,)))

        def attempt() -> str:
            try:
                return repr(other.execute(take))
            except StoreUnavailable as refused:
                return str(refused)

        waiting = Child(attempt)

        def has_waited() -> bool:
            row = watch.execute(
                "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
                " AND waitstart < clock_timestamp() - interval '1 second'"
            ).fetchone()
            return row is not None

        wait_until(has_waited, "a second of waiting for the first lock")
        first.commit()
        assert "another transaction held this record" in waiting.result()
        second.commit()
        assert other.execute(take).admitted


async def _once(store: Store, command: c.Command[object]) -> object:
    try:
        return await store.aexecute(command)
    finally:
        await store.aclose()


def test_the_callers_own_lock_timeout_stays(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    key = fresh()
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url) as connection:
        bound(driver, holder).execute(c.Add(key))
        connection.execute("SET LOCAL lock_timeout = '50ms'")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            bound(driver, connection).execute(c.Add(key))
        connection.rollback()
        holder.commit()
        connection.execute("SET LOCAL lock_timeout = '9s'")
        assert bound(driver, connection).execute(c.Add(key)).value == 2
        assert connection.execute("SHOW lock_timeout").fetchone() == ("9s",)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_that_is_too_old_is_a_conflict_and_no_wrong_answer(
    level: str, store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    for first in (c.Put("k", b"old"), None):
        key = fresh("value")
        if first is not None:
            store.execute(c.Put(key, b"old"))
        with psycopg.connect(postgres_url) as connection:
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")  # type: ignore[arg-type]
            connection.execute("SELECT 1 FROM anypod.record LIMIT 1")  # the snapshot is taken here
            store.execute(c.Put(key, b"new"))
            with pytest.raises(Conflict, match="run the whole transaction again"):
                bound(driver, connection).execute(c.Put(key, b"mine"))
            connection.rollback()
        found = store.execute(c.Get(key))
        assert found is not None
        assert found.value == b"new"


def test_a_server_that_defaults_to_serializable_changes_nothing(
    new_postgres_url: Callable[[], str],
) -> None:
    url = new_postgres_url()
    database = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"  # type: ignore[arg-type]
        )
    with open_store(url) as store:
        children = [
            Child(lambda: [store.execute(c.Add("k")).value for _ in range(40)]) for _ in range(3)
        ]
        values = sorted(value for child in children for value in child.result())
    assert values == list(range(1, 121))


def _until_waiting(url: str, count: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:

        def waiting() -> bool:
            row = connection.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
            ).fetchone()
            assert row is not None
            return bool(row[0] >= count)

        wait_until(waiting, f"{count} sessions that wait for the lock")


# --- other people's connections


def test_a_sqlalchemy_session(store: Store, driver: PostgresDriver, postgres_url: str) -> None:
    key = fresh()
    engine = sa.create_engine(postgres_url.replace("postgresql", "postgresql+psycopg", 1))
    with Session(engine) as session:
        inside = bound(driver, session)
        assert inside.execute(c.Add(key)).value == 1
        session.rollback()
        assert inside.execute(c.Add(key)).value == 1
        document = c.PatchDocument(key + "d", {"a": b"1"}, existence=c.Existence.NEW)
        assert inside.execute(document).outcome is c.PatchOutcome.PATCHED
        session.commit()
    with engine.connect() as connection:
        assert bound(driver, connection).execute(c.Total(key)) == 1
    engine.dispose()
    assert store.execute(c.Total(key)) == 1


def test_a_sqlalchemy_engine_without_transactions_is_refused(
    driver: PostgresDriver, postgres_url: str
) -> None:
    engine = sa.create_engine(
        postgres_url.replace("postgresql", "postgresql+psycopg", 1), isolation_level="AUTOCOMMIT"
    )
    with (
        engine.connect() as connection,
        pytest.raises(ConfigurationError, match="needs an open transaction"),
    ):
        bound(driver, connection).execute(c.Add("k"))
    engine.dispose()


def test_an_error_inside_sqlalchemy_is_told_as_what_it_is(
    store: Store, driver: PostgresDriver, postgres_url: str
) -> None:
    key = fresh()
    engine = sa.create_engine(postgres_url.replace("postgresql", "postgresql+psycopg", 1))
    with psycopg.connect(postgres_url) as holder, Session(engine) as session:
        bound(driver, holder).execute(c.Add(key))
        session.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
        with pytest.raises(StoreUnavailable, match="another transaction held this record"):
            bound(driver, session).execute(c.Add(key))
    engine.dispose()


def test_async_connections(store: Store, driver: PostgresDriver, postgres_url: str) -> None:
    key = fresh()

    async def work() -> None:
        connection = await psycopg.AsyncConnection.connect(postgres_url)
        async with connection:
            assert (await bound(driver, connection).aexecute(c.Add(key))).value == 1
            with pytest.raises(ConfigurationError, match="this connection is async"):
                bound(driver, connection).execute(c.Add(key))

    asyncio.run(work())
    assert store.execute(c.Total(key)) == 1


def test_async_sqlalchemy(store: Store, driver: PostgresDriver, postgres_url: str) -> None:
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    key = fresh()

    async def work() -> None:
        engine = create_async_engine(postgres_url.replace("postgresql", "postgresql+psycopg", 1))
        async with AsyncSession(engine) as session:
            assert (await bound(driver, session).aexecute(c.Add(key))).value == 1
            await session.rollback()
            assert (await bound(driver, session).aexecute(c.Add(key))).value == 1
            await session.commit()
        async with engine.connect() as connection:
            assert await bound(driver, connection).aexecute(c.Total(key)) == 1
        await engine.dispose()

    asyncio.run(work())
    assert store.execute(c.Total(key)) == 1


DJANGO = """
import sys
from urllib.parse import urlsplit
from django.conf import settings

parts = urlsplit(sys.argv[1])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "HOST": parts.hostname, "PORT": parts.port,
    "USER": parts.username, "NAME": parts.path[1:],
}})
import django
django.setup()
import psycopg
from django.db import connection, transaction
from anypod import commands as c
from anypod.errors import ConfigurationError, StoreUnavailable
from anypod.stores import Store, open_store

key = sys.argv[2]
with open_store(sys.argv[1]) as store:
    inside = Store(store.driver.bind(connection), url="postgresql://bound")
    try:
        inside.execute(c.Add(key))
    except ConfigurationError as refused:
        assert "needs an open transaction" in str(refused), refused
    else:
        raise AssertionError("a command stood alone")
    try:
        with transaction.atomic():
            assert inside.execute(c.Add(key)).value == 1
            raise KeyError
    except KeyError:
        assert store.execute(c.Total(key)) == 0
    with transaction.atomic():
        assert inside.execute(c.Add(key)).value == 1
        document = c.PatchDocument(key + "d", {"a": b"1"}, existence=c.Existence.NEW)
        assert inside.execute(document).outcome is c.PatchOutcome.PATCHED
    assert store.execute(c.Total(key)) == 1
    with psycopg.connect(sys.argv[1]) as holder:
        Store(store.driver.bind(holder), url="postgresql://bound").execute(c.Add(key))
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL lock_timeout = '50ms'")
                inside.execute(c.Add(key))
        except StoreUnavailable as refused:
            assert "another transaction held this record" in str(refused), refused
        else:
            raise AssertionError("a command passed a lock")
connection.close()
"""


def test_django_inside_atomic(postgres_url: str) -> None:
    pytest.importorskip("django")
    arguments = [sys.executable, "-W", "error", "-c", DJANGO, postgres_url, fresh()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_no_connection_is_refused(driver: PostgresDriver) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot run commands on a builtins\.str"):
        driver.bind("postgresql://host/db")
