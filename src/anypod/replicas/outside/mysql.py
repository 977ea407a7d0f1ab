"""A MySQL or MariaDB database, kept as a copy beside it.

A database of these servers has no template and no other name. So its tables are copied to a database beside it, and
each run gets back those that differ: their definitions, their rows, and where they count on from. Triggers do not
run meanwhile. Connections to the database are ended, since a transaction that is left open would be waited for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from anypod.replicas.errors import CannotReset
from anypod.replicas.outside import told

__all__ = ["MySQL"]

try:
    import pymysql  # type: ignore[import-untyped,unused-ignore]
except ImportError:  # the extra is not installed
    pymysql = None

_PREFIX = "anypod_kept_"
_DONE = "anypod_kept"  # the table that says that the copy is complete
_LONGEST = 64  # characters of a name
_LARGEST = 256 << 20  # bytes of rows
_OF_THE_SERVER = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
_PORT = 3306
_CONNECT = 5  # seconds
_WAIT = 10  # seconds for a lock that somebody holds
_COUNTS_ON = re.compile(r"(?<=\) ENGINE=)(\S+) AUTO_INCREMENT=(\d+)")
_NO_SUCH_THREAD = 1094
_NOT_ALLOWED = frozenset({1044, 1045, 1142, 1227, 1370, 1419})
_EXPECTED = "expected mysql://USER:PASSWORD@HOST:PORT/DATABASE"


@dataclass(frozen=True, slots=True)
class _Table:
    """What a table is besides its rows."""

    made: str  # the statement that makes it, without where it counts on from
    next: int | None  # what AUTO_INCREMENT gives next
    columns: tuple[str, ...]  # those that are not computed
    triggers: tuple[tuple[str, str, str], ...]  # name, sql_mode, the statement that makes it


class MySQL:
    """One database of a server.

    Args:
        url: mysql://USER:PASSWORD@HOST:PORT/DATABASE, or with `?unix_socket=PATH`.

    Raises:
        CannotReset: it names no database, or PyMySQL is not installed.
    """

    def __init__(self, url: str) -> None:
        self._told = told(url)
        if pymysql is None:
            raise self._cannot("PyMySQL is not installed: pip install 'anypod[mysql]'") from None
        try:
            parts = urlsplit(url)
            port = parts.port or _PORT
        except ValueError:  # its text may hold the password
            raise self._cannot(f"{_EXPECTED}, with a number as its port") from None
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        options.pop("charset", None)  # the service's own
        socket = options.pop("unix_socket", None)
        if options:
            raise self._cannot("no option but unix_socket and charset is known")
        self._name = unquote(parts.path.removeprefix("/"))
        if not self._name or "/" in self._name or self._name.lower() in _OF_THE_SERVER:
            raise self._cannot(
                f"expected the name of the service's own database after the host: {_EXPECTED[9:]}"
            )
        host = parts.hostname or "localhost"
        self.hosts = [socket or host]
        self._account: dict[str, Any] = {
            "host": host,
            "port": port,
            "unix_socket": socket,
            "user": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password or ""),
        }
        self._keeper = _PREFIX + self._name
        if len(self._keeper) > _LONGEST:
            self._keeper = _PREFIX + hashlib.sha256(self._name.encode()).hexdigest()[:32]
        self._tables: dict[str, _Table] = {}
        self._views: dict[str, str] = {}

    def keep(self) -> None:
        """Copy the tables beside the database."""
        with self._server() as server:
            if not server.names(
                "SELECT schema_name FROM information_schema.schemata WHERE schema_name = %s",
                self._name,
            ):
                raise self._cannot(
                    f'the server has no database "{self._name}"; create it, or let --setup CMD do it'
                )
            if _DONE in server.tables(self._keeper):
                raise self._cannot(
                    f'a proof that was killed has kept the state in the database "{self._keeper}". To have it again: '
                    f"mysqldump --ignore-table={self._keeper}.{_DONE} {self._keeper} | mysql {self._name}; "
                    f"then drop that one"
                )
            self._check(server)
            server.do(
                f"DROP DATABASE IF EXISTS {_quoted(self._keeper)}"
            )  # a copy that was not completed
            server.do(f"CREATE DATABASE {_quoted(self._keeper)}")
            self._tables = {
                name: server.table(self._name, name) for name in server.tables(self._name)
            }
            for name, table in self._tables.items():
                here, there = self._place(name)
                server.do(f"CREATE TABLE {there} LIKE {here}")
                server.copy(here, there, table.columns)
            server.do(f"CREATE TABLE {_quoted(self._keeper)}.{_DONE} (id INT)")

    def put_back(self) -> None:
        """End whoever is connected, and make the tables again what was kept."""
        with self._server() as server:
            self._put_back(server)

    def let_go(self) -> None:
        """Put the tables back, and drop the copy."""
        with self._server() as server:
            self._put_back(server)
            server.do(f"DROP DATABASE {_quoted(self._keeper)}")

    def _put_back(self, server: _Server) -> None:
        server.end_others(self._name)
        server.do(f"USE {_quoted(self._name)}")
        views = server.views(self._name)
        for name in views:
            if views[name] != self._views.get(name):
                server.do(f"DROP VIEW {_quoted(name)}")
        present = server.tables(self._name)
        for name in present:
            if name not in self._tables:
                server.do(f"DROP TABLE {_quoted(name)}")
        for name, kept in self._tables.items():
            here, there = self._place(name)
            now = server.table(self._name, name) if name in present else None
            if now is not None and now.made == kept.made:
                if now == kept and server.alike(here, there):
                    continue
                for trigger, _, _ in now.triggers:
                    server.do(f"DROP TRIGGER {_quoted(trigger)}")
                server.do(f"DELETE FROM {here}")  # noqa: S608  # quoted
            else:
                server.do(f"DROP TABLE IF EXISTS {here}")  # and its triggers
                server.do(kept.made)
            server.copy(there, here, kept.columns)
            if kept.next is not None or (now is not None and now.next is not None):
                server.do(f"ALTER TABLE {here} AUTO_INCREMENT = {kept.next or 1}")
            for _, mode, made in kept.triggers:
                server.do("SET SESSION sql_mode = %s", mode)
                server.do(made)
            server.settle()
        for name, made in self._views.items():
            if views.get(name) != made:
                server.do(made)

    def _check(self, server: _Server) -> None:
        """Refuse what a copy of rows would not keep."""
        self._views = server.views(self._name)
        kinds = server.rows(
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = %s "
            "AND table_type NOT IN ('BASE TABLE', 'VIEW', 'SYSTEM VIEW')",
            self._name,
        )
        if kinds:
            name, kind = kinds[0]
            raise self._cannot(
                f'"{name}" is a {kind.lower()}, which is not put back by name; let a command do it, such as '
                "--reset 'mysql < kept.sql' with what mysqldump has written"
            )
        [[size]] = server.rows(
            "SELECT COALESCE(SUM(data_length), 0) FROM information_schema.tables WHERE table_schema = %s",
            self._name,
        )
        if size > _LARGEST:
            raise self._cannot(
                f"it holds {size / (1 << 20):,.0f} MiB, and at most {_LARGEST >> 20} are copied; name a smaller one"
            )

    def _place(self, name: str) -> tuple[str, str]:
        """A table in the database, and its copy."""
        return tuple(
            f"{_quoted(database)}.{_quoted(name)}" for database in (self._name, self._keeper)
        )  # type: ignore[return-value]

    @contextmanager
    def _server(self) -> Iterator[_Server]:
        """A connection beside the database."""
        try:
            with closing(
                pymysql.connect(
                    **self._account, charset="utf8mb4", connect_timeout=_CONNECT, autocommit=True
                )
            ) as connection:
                server = _Server(connection)
                server.settle()
                yield server
        except pymysql.Error as failed:
            line = _line(failed)
            if failed.args and failed.args[0] in _NOT_ALLOWED:
                line += "; it needs a user who may create databases, and all in this one"
            raise self._cannot(line) from failed
        except (
            RuntimeError
        ) as failed:  # the account's way to log in needs a package that is not there
            raise self._cannot(str(failed)) from failed

    def _cannot(self, why: str) -> CannotReset:
        return CannotReset(f"--reset {self._told}: {why}")


class _Server:
    """Statements on one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def settle(self) -> None:
        """The session's own ways, whatever the server's are."""
        self.do(
            f"SET SESSION lock_wait_timeout = {_WAIT}, SESSION innodb_lock_wait_timeout = {_WAIT}"
        )
        self.do("SET SESSION foreign_key_checks = 0, SESSION unique_checks = 0")
        self.do("SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'")

    def do(self, statement: str, *values: object) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)

    def rows(self, query: str, *values: object) -> Sequence[Sequence[Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query, values or None)
            found: Sequence[Sequence[Any]] = cursor.fetchall()
            return found

    def names(self, query: str, *values: object) -> list[str]:
        return [row[0] for row in self.rows(query, *values)]

    def tables(self, database: str) -> list[str]:
        return self.names(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_type = 'BASE TABLE' "
            "ORDER BY table_name",
            database,
        )

    def views(self, database: str) -> dict[str, str]:
        """The statements that make them, by name."""
        names = self.names(
            "SELECT table_name FROM information_schema.views WHERE table_schema = %s", database
        )
        place = _quoted(database)
        return {
            name: self.rows(f"SHOW CREATE VIEW {place}.{_quoted(name)}")[0][1] for name in names
        }

    def table(self, database: str, name: str) -> _Table:
        """What a table is now."""
        made = self.rows(f"SHOW CREATE TABLE {_quoted(database)}.{_quoted(name)}")[0][1]
        counts = _COUNTS_ON.search(made)
        columns = self.names(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = %s AND table_name = %s "
            "AND COALESCE(generation_expression, '') = '' ORDER BY ordinal_position",
            database, name,
        )  # fmt: skip
        triggers = self.names(
            "SELECT trigger_name FROM information_schema.triggers WHERE event_object_schema = %s "
            "AND event_object_table = %s ORDER BY action_timing, event_manipulation, action_order",
            database, name,
        )  # fmt: skip
        texts = [
            self.rows(f"SHOW CREATE TRIGGER {_quoted(database)}.{_quoted(trigger)}")[0]
            for trigger in triggers
        ]
        return _Table(
            _COUNTS_ON.sub(r"\1", made),
            int(counts[2]) if counts else None,
            tuple(columns),
            tuple((text[0], text[1], text[2]) for text in texts),
        )

    def copy(self, source: str, target: str, columns: Sequence[str]) -> None:
        """All rows of one table to another that is empty."""
        names = ", ".join(map(_quoted, columns))
        self.do(f"INSERT INTO {target} ({names}) SELECT {names} FROM {source}")  # noqa: S608  # quoted

    def alike(self, one: str, other: str) -> bool:
        """Whether two tables of one definition hold the same rows, by a sum over each row's checksum."""
        (_, here), (_, there) = self.rows(f"CHECKSUM TABLE {one}, {other} EXTENDED")
        return bool(here == there)

    def end_others(self, database: str) -> None:
        """End the connections to a database."""
        for number in self.names(
            "SELECT id FROM information_schema.processlist WHERE db = %s AND id <> CONNECTION_ID()",
            database,
        ):
            try:
                self.do(f"KILL {int(number)}")
            except pymysql.Error as failed:
                if failed.args[0] != _NO_SUCH_THREAD:
                    raise


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _line(error: Any) -> str:
    text = error.args[1] if len(error.args) > 1 else error
    return str(text).strip().partition("\n")[0]
