"""The schema: made once whoever comes first, moved on under running replicas, never taken from a newer one."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from anypod import commands as c
from anypod.errors import ConfigurationError
from anypod.stores import Store, open_store
from anypod.stores.conformance.faults import CASES
from anypod.stores.conformance.ground import in_processes
from anypod.stores.postgres import Migration, PostgresDriver, migrate
from anypod.stores.postgres import schema as schemas
from anypod.stores.postgres.address import OWN, parse
from anypod.stores.postgres.doctor import examine, statistics

NewUrl = Callable[[], str]

NEWEST = schemas.steps()[-1].version


@pytest.fixture
def url(new_postgres_url: NewUrl) -> str:
    return new_postgres_url()


@pytest.fixture
def stranger(url: str) -> Iterator[str]:
    """The URL of a role that may connect, and nothing more."""
    name = f"r{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hidden-word'")  # type: ignore[arg-type]
        yield _as(url, f"{name}:hidden-word")
        connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")  # type: ignore[arg-type]


def _as(url: str, user: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.hostname}:{parts.port}"))


def test_migration_is_idempotent(url: str) -> None:
    assert migrate(url) == Migration(before=0, after=NEWEST)
    assert migrate(url) == Migration(before=NEWEST, after=NEWEST)
    assert str(Migration(before=0, after=1)) == "schema version 1, was absent"
    assert str(Migration(before=1, after=1)) == "schema version 1 already"


def test_replicas_that_start_at_once_agree(url: str) -> None:
    migrations = in_processes([lambda: migrate(url)] * 4)
    assert sorted(one.before for one in migrations) == [0, NEWEST, NEWEST, NEWEST]


def test_the_first_command_makes_the_schema_whoever_is_first(url: str) -> None:
    def first() -> int:
        with open_store(url) as store:
            return store.execute(c.Add("first")).value

    assert sorted(in_processes([first] * 4)) == [1, 2, 3, 4]


def test_a_schema_of_the_first_version_is_brought_up_and_its_callers_go_on(url: str) -> None:
    first = schemas.steps()[:1]
    with psycopg.connect(url, autocommit=True) as connection:
        schemas.migrate(connection, parse(url), first)
        with (
            open_store(f"{url}?migrate=off") as early,
            pytest.raises(ConfigurationError, match="has schema version 1, version 2 is needed"),
        ):
            early.execute(c.Add("k"))
        connection.execute("SELECT * FROM anypod.add_v1('k', 1, -9, 9, NULL, NULL, 0, 1000)")
        with open_store(url) as new:
            assert new.execute(c.Add("k")).value == 2
            assert new.execute(c.CacheVersion("tag", 60))
        value = connection.execute(
            "SELECT value FROM anypod.add_v1('k', 1, -9, 9, NULL, NULL, 0, 1000)"
        ).fetchone()
        assert value == (3,)
        # What an old replica asks at its start.
        assert schemas.facts(connection, parse(url)).oldest == 1


def test_an_old_replica_goes_on_while_the_schema_moves(url: str) -> None:
    plan = (
        *schemas.steps(),
        schemas.Step(
            NEWEST + 1,
            "ALTER TABLE anypod.record ADD COLUMN origin text NOT NULL DEFAULT '';"
            "ALTER TABLE anypod.cache ADD COLUMN origin text NOT NULL DEFAULT '';"
            "CREATE FUNCTION anypod.total_v9(p_key text) RETURNS bigint LANGUAGE sql AS "
            "'SELECT number FROM anypod.record WHERE key = p_key'",
            oldest=1,
        ),
    )
    with open_store(url) as old:
        assert old.execute(c.Add("k")).value == 1
        old.execute(c.CacheFill("cached", None, "s", b"x", 60, 60))
        with psycopg.connect(url, autocommit=True) as connection:
            moved = schemas.migrate(connection, parse(url), plan)
        assert moved == Migration(before=NEWEST, after=NEWEST + 1)
        assert old.execute(c.Add("k")).value == 2
        assert old.execute(c.CacheRead("cached", "s", 1)).payload == b"x"
        assert old.execute(c.PatchDocument("d", {"a": b"1"}, existence=c.Existence.NEW)).version
    with open_store(url) as started_later:  # an old replica that is restarted during the roll-out
        assert started_later.execute(c.Add("k")).value == 3
    with psycopg.connect(url, autocommit=True) as connection:
        again = schemas.migrate(connection, parse(url), plan)
        assert again == Migration(before=NEWEST + 1, after=NEWEST + 1)


def test_a_schema_that_this_version_cannot_use_is_refused_and_left_alone(url: str) -> None:
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE anypod.schema_version SET version = 9, oldest = 8")
        with pytest.raises(ConfigurationError, match=r"version 9 of a newer anypod.*upgrade"):
            migrate(url)
        with (
            open_store(url) as store,
            pytest.raises(ConfigurationError, match=r"version 9 of a newer anypod.*upgrade"),
        ):
            store.execute(c.Add("k"))
        found = connection.execute("SELECT version, oldest FROM anypod.schema_version").fetchall()
    assert found == [(9, 8)]


def test_a_step_that_fails_leaves_nothing_behind(url: str) -> None:
    broken = schemas.Step(NEWEST + 1, "CREATE TABLE anypod.half (); SELECT 1 / 0", oldest=1)
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            schemas.migrate(connection, parse(url), (*schemas.steps(), broken))
        found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'anypod'").fetchall()
    assert not found


def test_migrate_off_asks_for_the_command(url: str) -> None:
    with (
        open_store(f"{url}?migrate=off") as store,
        pytest.raises(
            ConfigurationError, match=r"has no anypod schema.*anypod store migrate postg"
        ),
    ):
        store.execute(c.Add("k"))
    migrate(url)
    with open_store(f"{url}?migrate=off") as store:
        assert store.execute(c.Add("k")).value == 1


def test_a_role_that_may_not_create_the_schema_is_told_who_should(stranger: str) -> None:
    with open_store(stranger) as store, pytest.raises(ConfigurationError) as told:
        store.execute(c.Add("k"))
    assert "anypod store migrate postgresql://127.0.0.1" in str(told.value)
    assert "permission denied" in str(told.value)
    with pytest.raises(ConfigurationError, match="GRANT CREATE ON DATABASE") as directly:
        migrate(stranger)
    for failure in (told.value, directly.value):
        assert "hidden-word" not in str(failure)


def test_a_role_without_rights_on_the_schema_is_told_which(url: str, stranger: str) -> None:
    migrate(url)
    with open_store(stranger) as store, pytest.raises(ConfigurationError, match="GRANT USAGE"):
        store.execute(c.Add("k"))
    role = urlsplit(stranger).username
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA anypod TO {role}")  # type: ignore[arg-type]
        connection.execute(f"GRANT SELECT ON anypod.schema_version TO {role}")  # type: ignore[arg-type]
        with open_store(stranger) as store, pytest.raises(ConfigurationError, match="GRANT"):
            store.execute(c.Add("k"))
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA anypod TO "  # type: ignore[arg-type]
            + str(role)
        )
        with open_store(stranger) as store:
            assert store.execute(c.Add("k")).value == 1


def test_the_rights_of_the_documentation_are_enough_and_none_too_many(url: str) -> None:
    database = url.rpartition("/")[2]
    owner, service = (f"r{secrets.token_hex(6)}" for _ in range(2))
    create, *grants = [
        line.replace("shop_owner", owner).replace("shop_service", service).rstrip(";")
        for line in _block("sql").splitlines()
        if not line.startswith("--")
    ]
    with psycopg.connect(url, autocommit=True) as connection:

        def run(statement: str) -> None:
            connection.execute(statement)  # type: ignore[arg-type]

        for role in (owner, service):
            run(f"CREATE ROLE {role} LOGIN")
        run(
            f"REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE TEMP ON DATABASE {database} FROM PUBLIC"
        )
        with pytest.raises(ConfigurationError, match="GRANT CREATE ON DATABASE"):
            migrate(_as(url, owner))
        run(create.replace("DATABASE shop", f"DATABASE {database}"))
        assert migrate(_as(url, owner)) == Migration(before=0, after=NEWEST)
        run(f"REVOKE CREATE ON DATABASE {database} FROM {owner}")
        assert migrate(_as(url, owner)) == Migration(before=NEWEST, after=NEWEST)
        with psycopg.connect(_as(url, owner), autocommit=True) as own:
            for number, missing in enumerate(grants):
                for grant in grants[:number]:
                    own.execute(grant)  # type: ignore[arg-type]
                with (
                    open_store(_as(url, service)) as store,
                    pytest.raises(ConfigurationError) as no,
                ):
                    store.execute(c.Add("k"))
                assert "GRANT" in str(no.value), f"without {missing!r}"
            own.execute(grants[-1])  # type: ignore[arg-type]
        with open_store(_as(url, service)) as store:
            _everything(store)
        run(f"DROP OWNED BY {owner}, {service} CASCADE; DROP ROLE {owner}, {service}")


def _everything(store: Store) -> None:
    """Each command, and whatever else a store does."""
    for place, case in enumerate(CASES):
        key = f"key{place}"
        store.execute(case.command(key, case.prepare(store, key)))
    listener = store.driver.listen("channel")
    store.execute(c.Publish("channel", b"heard"))
    assert listener.get(60.0) == b"heard"
    listener.close()
    assert not store.receive("mailbox", 0.0)
    assert isinstance(store.driver, PostgresDriver)
    assert store.driver.reap() >= 0
    assert not [finding for finding in examine(store.driver) if "cannot be asked" in finding.what]
    assert statistics(store.driver)["record_live"] >= 0


def _block(language: str) -> str:
    """The one block of this language in the documentation of stores."""
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    _, _, rest = text.partition(f"```{language}\n")
    return rest.partition("```")[0]


def test_every_option_is_documented_with_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    _, _, section = text.partition("\n## PostgreSQL\n")
    rows = re.findall(
        r"^\| `(\w+)` \| .* \| (?:`(\w+)` )?\|$", section.partition("\n## ")[0], re.MULTILINE
    )
    documented = dict(rows)
    known = {
        name: default[0] if isinstance(default, tuple) else f"{default:g}" if default else ""
        for name, default in OWN.items()
    }
    assert documented == known


def test_old_replicas_go_on_while_the_schema_is_brought_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one command of theirs fails, however many are under way."""
    everything = schemas.steps()
    monkeypatch.setattr(schemas, "steps", lambda: everything[:1])
    begun, done = threading.Barrier(5), threading.Event()
    with open_store(url) as old:
        assert old.execute(c.Add("k", once="0")).value == 1
        assert schemas.steps()[-1].version == 1

        def work() -> int:
            begun.wait(60)
            count = 0
            while not done.is_set() or count < 50:
                # Under an id: a plain Add is a call of the second version.
                old.execute(c.Add("k", once=secrets.token_hex(8)))
                old.execute(c.CacheFill("c", None, "s", b"x", 60.0, 60.0))
                old.execute(c.Claim("claim", "f", 60.0, 60.0))
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work) for _ in range(4)]
            with psycopg.connect(url, autocommit=True) as connection:
                begun.wait(60)
                try:
                    moved = schemas.migrate(connection, parse(url), everything)
                finally:
                    done.set()
            counted = sum(one.result(60) for one in working)
        assert moved == Migration(before=1, after=NEWEST)
        assert old.execute(c.Total("k")) == counted + 1


def test_cached_values_and_mail_are_unlogged_and_nothing_else(url: str) -> None:
    migrate(url)
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'anypod'::regnamespace"
            " AND relkind = 'r' AND relpersistence = 'u' ORDER BY relname"
        ).fetchall()
    assert found == [("cache",), ("mail",)]


def test_a_schema_that_vanishes_is_told_and_made_again_at_the_next_start(url: str) -> None:
    with open_store(url) as store:
        store.execute(c.Add("k"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA anypod CASCADE")
        with pytest.raises(ConfigurationError, match="anypod store migrate"):
            store.execute(c.Add("k"))
        migrate(url)
        assert store.execute(c.Add("k")).value == 1
