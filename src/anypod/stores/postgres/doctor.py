"""What only PostgreSQL can say about itself: durability, role, schema, pooler, dead rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import dict_row

from anypod.stores.doctor import Finding, Statistics, error, fine, warning

if TYPE_CHECKING:
    from anypod.stores.postgres.driver import PostgresDriver

FEW_CONNECTIONS: Final = 0.9  # of max_connections
REAP_BATCH: Final = 1_000  # rows

_ABOUT: Final = """
SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit, pg_is_in_recovery() AS standby,
       current_setting('max_connections')::int AS connections_allowed,
       (SELECT count(*) FROM pg_stat_activity)::int AS connections,
       pg_backend_pid() AS pid,
       has_schema_privilege('anypod', 'USAGE') AS usable
"""
_TABLES: Final = """
SELECT relname AS name, n_live_tup AS live, n_dead_tup AS dead, pg_total_relation_size(relid) AS bytes
FROM pg_stat_user_tables WHERE schemaname = 'anypod' ORDER BY relname
"""


def _connect(driver: PostgresDriver) -> psycopg.Connection[dict[str, Any]]:
    return psycopg.Connection.connect(
        driver.address.conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None
    )


def examine(driver: PostgresDriver) -> Iterator[Finding]:
    """Everything that can be said about the server."""
    try:
        with _connect(driver) as connection:
            about = connection.execute(_ABOUT).fetchone()
            tables = connection.execute(_TABLES).fetchall()
            session = connection.info.backend_pid
    except psycopg.Error as failure:
        yield error(f"cannot be asked about itself: {failure}", "see docs/stores.md for the rights")
        return
    assert about is not None
    yield fine(f"PostgreSQL {about['version']}")
    if about["standby"]:
        yield error("this is a standby, which cannot write", "give anypod the primary's address")
    if about["fsync"] == "off":
        yield error("fsync is off: a power loss may destroy the database", "turn it on")
    if about["synchronous_commit"] == "off":
        yield warning(
            "synchronous_commit is off: a crash of the server may lose the last half second, fencing "
            "tokens included",
            "SET synchronous_commit = on for this role, or accept it",
        )
    if about["pid"] != session:
        yield warning(
            "a transaction-pooling proxy stands in between: LISTEN does not work through it",
            "add listen_url= with the server's own address",
        )
    used, allowed = about["connections"], about["connections_allowed"]
    if used > FEW_CONNECTIONS * allowed:
        yield warning(
            f"{used} of {allowed} connections are taken",
            "raise max_connections, use a pooler, or lower connections= in the URLs",
        )
    for table in tables:
        if table["dead"] > 10_000 and table["dead"] > 4 * table["live"]:
            yield warning(
                f"anypod.{table['name']} has {table['dead']} dead rows for {table['live']} live ones",
                "see why autovacuum does not keep up",
            )


def statistics(driver: PostgresDriver) -> Statistics:
    """Numbers about the server."""
    with _connect(driver) as connection:
        about = connection.execute(_ABOUT).fetchone()
        tables = connection.execute(_TABLES).fetchall()
    assert about is not None
    numbers: Statistics = {
        "server_version": about["version"],
        "connections": about["connections"],
        "max_connections": about["connections_allowed"],
    }
    for table in tables:
        for what in ("live", "dead", "bytes"):
            numbers[f"{table['name']}_{what}"] = table[what]
    return numbers


def reap(driver: PostgresDriver) -> int:
    """Delete what has expired, in small batches."""
    gone = 0
    while batch := driver.reap(REAP_BATCH):
        gone += batch
    return gone
