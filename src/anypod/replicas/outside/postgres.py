"""A PostgreSQL database, kept as a template.

The database is renamed, so that it stays what it is, and every run gets a clone of it under its name. At the
end the clone goes and the database has its name again. Connections to a clone that ends are ended.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anypod.replicas.errors import CannotReset
from anypod.replicas.outside import told

__all__ = ["Postgres"]

try:
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict
except ImportError:  # the extra is not installed
    psycopg = None  # type: ignore[assignment]

_PREFIX = "anypod_kept_"
_LONGEST = 63  # bytes of a name
_OF_THE_SERVER = frozenset({"postgres", "template0", "template1"})
_LISTS = frozenset({"search_path", "session_preload_libraries", "temp_tablespaces"})
_CONNECT = 5  # seconds
_WAIT = 10.0  # seconds for connections to end
_POLL = 0.02


class Postgres:
    """One database of a server.

    Args:
        url: postgresql://USER:PASSWORD@HOST:PORT/DATABASE; what is missing comes from PGHOST and its like.

    Raises:
        CannotReset: it names no database, or psycopg is not installed.
    """

    def __init__(self, url: str) -> None:
        self._told = told(url)
        if psycopg is None:
            raise self._cannot("psycopg is not installed: pip install 'anypod[postgres]'") from None
        plain = re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql://", url, flags=re.IGNORECASE)
        try:
            self._info: dict[str, Any] = conninfo_to_dict(plain)
        except psycopg.Error:  # its text may hold the password
            raise self._cannot("expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None
        if not re.fullmatch(r"[\d,]*", str(self._info.get("port") or "")):
            raise self._cannot("expected a number as its port") from None
        self._name = str(self._info.pop("dbname", "") or "")
        if not self._name or self._name in _OF_THE_SERVER:
            raise self._cannot(
                "expected the name of the service's own database after the host: "
                "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
            )
        hosts = [self._info.get("host"), self._info.get("hostaddr")]
        if not any(hosts):
            hosts = [os.environ.get("PGHOST"), os.environ.get("PGHOSTADDR")]
        self.hosts = [host for item in hosts if item for host in str(item).split(",")]
        self._keeper = _PREFIX + self._name
        if len(self._keeper.encode()) > _LONGEST:
            self._keeper = _PREFIX + hashlib.sha256(self._name.encode()).hexdigest()[:32]
        self._owner = ""
        self._settings: list[str] = []

    def keep(self) -> None:
        """Rename the database, and clone it under its name."""
        with self._server() as server:
            if self._is_there(server, self._keeper):
                raise self._cannot(
                    f'a proof that was killed has kept the state in the database "{self._keeper}". To have it '
                    f'again: DROP DATABASE "{self._name}"; ALTER DATABASE "{self._keeper}" RENAME TO '
                    f'"{self._name}"; else drop that one'
                )
            row = server.execute(
                "SELECT pg_get_userbyid(datdba), oid FROM pg_database WHERE datname = %s",
                [self._name],
            ).fetchone()
            if row is None:
                raise self._cannot(
                    f'the server has no database "{self._name}"; create it, or let --setup CMD do it'
                )
            self._owner = row[0]
            found = server.execute(
                "SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = %s AND setrole = 0",
                [row[1]],
            ).fetchone()
            self._settings = list(found[0]) if found else []
            self._rename(server, self._name, self._keeper)
            try:
                self._clone(server)
            except psycopg.Error:
                self._drop(server)
                self._rename(server, self._keeper, self._name)
                raise

    def put_back(self) -> None:
        """End the clone with its connections, and make another one."""
        with self._server() as server:
            self._drop(server)
            self._clone(server)

    def let_go(self) -> None:
        """End the clone, and give the database its name again."""
        with self._server() as server:
            self._drop(server)
            self._rename(server, self._keeper, self._name)

    def _is_there(self, server: psycopg.Connection[Any], name: str) -> bool:
        asked = server.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        return asked.fetchone() is not None

    def _clone(self, server: psycopg.Connection[Any]) -> None:
        names = [sql.Identifier(name) for name in (self._name, self._keeper, self._owner)]
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(*names)
        self._alone(server, self._keeper, statement)
        for setting in self._settings:  # they are not part of a template
            name, _, value = setting.partition("=")
            parameter = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
            written: sql.Composable = sql.SQL("TO {}").format(sql.Literal(value))
            if name in _LISTS:  # a literal would be one item
                server.execute("SELECT set_config(%s, %s, false)", [name, value])
                written = sql.SQL("FROM CURRENT")
            server.execute(
                sql.SQL("ALTER DATABASE {} SET {} {}").format(names[0], parameter, written)
            )

    def _drop(self, server: psycopg.Connection[Any]) -> None:
        self._alone(
            server,
            self._name,
            sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(self._name)),
        )

    def _rename(self, server: psycopg.Connection[Any], old: str, new: str) -> None:
        self._alone(
            server,
            old,
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                sql.Identifier(old), sql.Identifier(new)
            ),
        )

    def _alone(self, server: psycopg.Connection[Any], name: str, statement: sql.Composed) -> None:
        """Execute what needs a database without connections; whoever comes back meanwhile is ended again."""
        end = time.monotonic() + _WAIT
        while True:
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )
            try:
                server.execute(statement)
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > end:
                    raise
                time.sleep(_POLL)
            else:
                return

    @contextmanager
    def _server(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection beside the database."""
        try:
            with psycopg.connect(
                **{"connect_timeout": _CONNECT, **self._info, "dbname": "postgres"}, autocommit=True
            ) as server:
                yield server
        except psycopg.errors.InsufficientPrivilege as refused:
            raise self._cannot(
                f"{_line(refused)}; it needs a user who owns the database and may create others (CREATEDB)"
            ) from refused
        except psycopg.Error as failed:
            raise self._cannot(_line(failed)) from failed

    def _cannot(self, why: str) -> CannotReset:
        return CannotReset(f"--reset {self._told}: {why}")


def _line(error: psycopg.Error) -> str:
    return str(error.diag.message_primary or error).strip().partition("\n")[0]
