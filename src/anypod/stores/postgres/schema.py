"""The schema in the database: its versions, how it gets from one to the next, and who may use it.

Invariants:
    - a migration is one transaction under one lock: of replicas that start at once, one does the work and
      the others find it done; a step that fails leaves nothing behind;
    - steps only add. The functions of version N stay until no replica that calls them can be running,
      so that old replicas go on working while new ones start; `oldest` in the schema's own table says
      how far back that holds;
    - a schema whose `oldest` is newer than what this anypod knows is refused, and never touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from anypod.errors import ConfigurationError
from anypod.stores.postgres.address import Address

MINIMUM_SERVER: Final = 140_000
_LOCK: Final = 7_020_661_748  # the migration's advisory lock


@dataclass(frozen=True, slots=True)
class Step:
    """One version of the schema.

    Attributes:
        version: what the schema is after this step.
        sql: the statements that bring it there from the version before.
        oldest: the oldest version whose callers still work afterwards.
    """

    version: int
    sql: str
    oldest: int


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration did: the schema's version before (0: none) and after."""

    before: int
    after: int

    def __str__(self) -> str:
        if self.before == self.after:
            return f"schema version {self.after} already"
        return f"schema version {self.after}, was {self.before or 'absent'}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says about itself at the first connection.

    Attributes:
        version: the schema's version, 0 if there is none.
        oldest: the oldest version whose callers it still serves.
        pooled: whether a proxy stands in between, which may give each transaction another session.
        durable: whether an acknowledged commit is on disk.
        fresh: whether a statement sees what was committed before it, as READ COMMITTED does.
    """

    version: int
    oldest: int
    pooled: bool
    durable: bool
    fresh: bool


# The files of each version, in order, and the oldest version whose callers still work after it.
_VERSIONS: Final = (
    (
        "tables entry values counters claims channels slots limits documents cache garbage",
        1,
    ),
    ("counters cache limits", 1),
)


def steps() -> tuple[Step, ...]:
    """Every version of the schema, in order."""
    return tuple(
        Step(version, _sql(version, names.split()), oldest)
        for version, (names, oldest) in enumerate(_VERSIONS, 1)
    )


def _sql(version: int, names: Sequence[str]) -> str:
    folder = resources.files(__package__) / f"v{version}"
    return "\n".join((folder / f"{name}.sql").read_text("utf-8") for name in names)


_FACTS: Final = """
    SELECT current_setting('server_version_num')::int, pg_backend_pid(),
        current_setting('synchronous_commit') <> 'off' AND current_setting('fsync') = 'on',
        (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = 'anypod') IS NOT NULL,
        (SELECT c.oid FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'anypod' AND c.relname = 'schema_version') IS NOT NULL,
        current_setting('default_transaction_isolation') IN ('read committed', 'read uncommitted')
"""
# For a session of our own, where the database defaults to something else: who waited for a lock must see
# what its holder did. Behind a pooler a session is nobody's own, and a conflict is tried again instead.
READ_COMMITTED: Final = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"
_VERSION: Final = "SELECT version, oldest FROM anypod.schema_version"


def facts(connection: psycopg.Connection[Any], address: Address) -> Facts:
    """Ask the server what one must know before the first command.

    Raises:
        ConfigurationError: it is too old, or its schema is out of this role's reach.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_FACTS).fetchone()
        assert row is not None
        server, pid, durable, _, there, fresh = row
        if server < MINIMUM_SERVER:
            raise ConfigurationError(
                f"{address.place} runs PostgreSQL {server // 10000}; anypod needs 14 or newer"
            )
        version = oldest = 0
        if there:
            try:
                found = cursor.execute(_VERSION).fetchone()
            except errors.InsufficientPrivilege as failure:
                raise missing_rights(address, failure) from failure
            if found is not None:
                version, oldest = found
    # A proxy hands out process numbers of its own, because sessions are not its clients' to keep.
    return Facts(version, oldest, pid != connection.info.backend_pid, durable, fresh)


def prepare(connection: psycopg.Connection[Any], address: Address) -> Facts:
    """See that the schema serves this version of anypod; create or update it if that is allowed.

    Raises:
        ConfigurationError: it does not, and what to do about it.
    """
    known = steps()[-1].version
    found = facts(connection, address)
    if found.version < known and address.migrate:
        try:
            migrate(connection, address)
        except errors.InsufficientPrivilege as failure:
            raise _not_migrated(address, found.version, known, str(failure)) from failure
        found = facts(connection, address)
    if found.version < known:
        raise _not_migrated(address, found.version, known, "the URL says migrate=off")
    if found.oldest > known:
        raise _newer(address, found.version, known)
    return found


def migrate(
    connection: psycopg.Connection[Any],
    address: Address,
    plan: tuple[Step, ...] | None = None,
) -> Migration:
    """Bring the schema to the newest version of the plan (by default: all that this anypod knows).

    Raises:
        ConfigurationError: the schema is of a newer anypod, or something else of its name is there.
        psycopg.Error: the server refused a statement; nothing was changed.
    """
    plan = steps() if plan is None else plan
    with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
        # Whatever the database's default: after the lock one must see what its last holder did.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        row = cursor.execute(_FACTS).fetchone()
        assert row is not None
        before = 0
        if row[4]:
            found = cursor.execute(_VERSION).fetchone()
            before = 0 if found is None else found[0]
        else:
            if not row[3]:
                cursor.execute("CREATE SCHEMA anypod")
            cursor.execute(
                "CREATE TABLE anypod.schema_version ("
                " one boolean PRIMARY KEY DEFAULT true CHECK (one),"
                " version integer NOT NULL, oldest integer NOT NULL,"
                " changed timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
        if before > plan[-1].version:
            raise _newer(address, before, plan[-1].version)
        for step in plan:
            if step.version > before:
                cursor.execute(step.sql.encode())
        if before < plan[-1].version:
            cursor.execute(
                "INSERT INTO anypod.schema_version (version, oldest) VALUES (%s, %s)"
                " ON CONFLICT (one) DO UPDATE SET version = excluded.version,"
                " oldest = excluded.oldest, changed = clock_timestamp()",
                (plan[-1].version, plan[-1].oldest),
            )
    return Migration(before, plan[-1].version)


def missing_rights(address: Address, failure: psycopg.Error) -> ConfigurationError:
    """What to tell someone whose role may not use the schema."""
    return ConfigurationError(
        f"{address.place}: {_first_line(failure)}; let the owner run: GRANT USAGE ON SCHEMA anypod TO "
        f"the_role; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA anypod TO the_role"
    )


def may_not_create(address: Address, failure: psycopg.Error) -> ConfigurationError:
    """What to tell someone whose role may not create or change the schema."""
    return ConfigurationError(
        f"{address.place}: {_first_line(failure)}; migrate as the owner of schema anypod, or let the "
        f"database's owner run: GRANT CREATE ON DATABASE the_database TO the_role"
    )


def missing_functions(address: Address, failure: psycopg.Error) -> ConfigurationError:
    """What to tell someone whose database has no schema, or no longer has it."""
    return ConfigurationError(
        f"{address.place}: {_first_line(failure)}; run: anypod store migrate {address.cli_url}"
    )


def _not_migrated(address: Address, found: int, known: int, reason: str) -> ConfigurationError:
    state = f"has schema version {found}" if found else "has no anypod schema"
    return ConfigurationError(
        f"{address.place} {state}, version {known} is needed, and it was not made here: "
        f"{reason.splitlines()[0]}; run, as a role that may create it: "
        f"anypod store migrate {address.cli_url}"
    )


def _newer(address: Address, found: int, known: int) -> ConfigurationError:
    return ConfigurationError(
        f"{address.place} has schema version {found} of a newer anypod, this one knows {known}; "
        f"upgrade anypod here; nothing was changed"
    )


def _first_line(failure: BaseException) -> str:
    return str(failure).partition("\n")[0]
