"""`postgresql://`: many machines, and commands that can commit with the application's own transaction.

A command is one call of a versioned function (`v1/`), which locks the key, reads the clock, then
decides. Options of the URL: `timeout`, `connections`, `prepare=auto|on|off`, `migrate=on|off`,
`synchronous=server|on|off`, `listen_url`; every other option is libpq's (`sslmode`, `sslrootcert`, …).

What "acknowledged" means: with the server's `synchronous_commit` on, a reply survives the server's crash;
with it off the last commits (a fraction of a second) may be lost with the server, never the order of what
stays. Cached values are in an unlogged table: a crash forgets them, and forgetting is safe.
"""

from __future__ import annotations

import psycopg

from anypod.errors import StoreUnavailable
from anypod.stores.postgres import schema
from anypod.stores.postgres.address import Address, parse
from anypod.stores.postgres.driver import PostgresDriver
from anypod.stores.postgres.schema import Migration

__all__ = ["Address", "Migration", "PostgresDriver", "migrate", "open_driver"]


def open_driver(url: str) -> PostgresDriver:
    """Open a PostgreSQL store; nothing is connected yet.

    Raises:
        ConfigurationError: the URL cannot be an address.
    """
    return PostgresDriver(parse(url))


def migrate(url: str) -> Migration:
    """Bring the schema to this anypod's version. Idempotent, and safe from every replica at once.

    Raises:
        ConfigurationError: the schema is of a newer anypod, or this role may not create it.
        StoreUnavailable: the server could not be reached, or refused.
    """
    address = parse(url)
    try:
        with psycopg.Connection.connect(address.conninfo, autocommit=True) as connection:
            return schema.migrate(connection, address)
    except psycopg.errors.InsufficientPrivilege as failure:
        raise schema.may_not_create(address, failure) from failure
    except psycopg.Error as failure:
        raise StoreUnavailable(f"migration of {address.place}: {failure}") from failure
