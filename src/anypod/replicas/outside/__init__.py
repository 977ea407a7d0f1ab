"""State outside the project that a proof puts back: databases, key spaces, files that the user named.

`--reset URL-or-PATH` names one. What it holds when the first run begins, after `--setup` and the service's
imports, is kept; each run begins with that, and so does whoever uses it once the proof has ended. Invariants:

- only what was named is touched: that database, that number, the keys with that prefix, that file;
- a database on another machine is refused unless its host was allowed;
- a password is told nowhere;
- what was kept by a proof that was killed is never overwritten: the next one refuses, and says where it is.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from anypod.replicas.errors import CannotReset, RemoteHost
from anypod.replicas.hosts import is_local

__all__ = ["Kept", "Outside", "is_state", "told"]

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = re.compile(r"([?&](?:[a-z]*password|sslkey)=)[^&]*", re.IGNORECASE)


class Kept(Protocol):
    """One state outside."""

    def keep(self) -> None:
        """Keep what is there now."""

    def put_back(self) -> None:
        """Make it again what was kept, whoever is connected."""

    def let_go(self) -> None:
        """Put it back a last time, and leave nothing of ours behind."""


def is_state(text: str) -> bool:
    """Whether the value of `--reset` names a state; else it is a command.

    A state is a URL, the path of a file or folder that is there and no program, or the whole path of one
    that the service is still to make: nothing could be run there.
    """
    if _URL.match(text):
        return True
    path = Path(text)
    try:
        there = path.exists() or _may_come(path)
    except (OSError, ValueError):
        return False  # too long for a path
    return there and shutil.which(text) is None


def _may_come(path: Path) -> bool:
    return path.is_absolute() and path.parent.is_dir() and shlex.quote(str(path)) == str(path)


def told(text: str) -> str:
    """A URL without its password, for people."""
    scheme = _URL.match(text)
    if scheme is None:
        return text
    rest = text[scheme.end() :]
    # A password may hold a '/' or an '@' that should have been encoded: all up to the last '@' is hidden.
    account, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = account.partition(":")
        rest = f"{user}{':•••' if colon else ''}@{place}"
    return scheme[0] + _SECRET.sub(r"\1•••", rest)


class Outside:
    """All that `--reset` names; a context manager that puts it back a last time.

    Args:
        states: URLs and paths.
        root: the project tree.
        copied: whether replicas run in copies of the tree, so that nothing in it is outside.
        allow_hosts: hosts besides this machine whose databases may be reset.

    Raises:
        CannotReset: a state cannot be understood, or what it needs is not installed.
        RemoteHost: a database is on another machine.
    """

    def __init__(
        self,
        states: Sequence[str] = (),
        *,
        root: Path,
        copied: bool = True,
        allow_hosts: Collection[str] = (),
    ) -> None:
        self._kept = [_made(text, root, allow_hosts, copied=copied) for text in states]
        self._holding: list[Kept] = []
        self._paths = tuple(
            path for kept in self._kept if (path := getattr(kept, "path", None)) is not None
        )

    def __bool__(self) -> bool:
        return bool(self._kept)

    def covers(self, path: Path) -> bool:
        """Whether a file is put back, as one that was named, in one, or the journal of one."""
        return any(
            path.is_relative_to(named) or str(path).startswith(f"{named}-") for named in self._paths
        )

    def put_back(self) -> None:
        """Begin a run: keep what is there, the first time, and put that back from then on.

        Raises:
            CannotReset: a database is not there, or refuses.
        """
        for kept in self._kept:
            if kept in self._holding:
                kept.put_back()
            else:
                kept.keep()
                self._holding.append(kept)

    def close(self) -> None:
        """Leave everything as it was.

        Raises:
            CannotReset: that failed; the message says where the state is. The others are put back.
        """
        failed: CannotReset | None = None
        with _undisturbed():
            while self._holding:
                try:
                    self._holding.pop().let_go()
                except CannotReset as failure:
                    failed = failed or failure
        if failed is not None:
            raise failed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let nobody's impatience end what puts back; every part of it ends by itself within seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _made(text: str, root: Path, allow_hosts: Collection[str], *, copied: bool) -> Kept:
    url = _URL.match(text)
    scheme = url[1].lower().partition("+")[0] if url else ""
    place = text[url.end() :].partition("?")[0] if url else ""
    if scheme not in {"", "sqlite", "file"} and "@" in place.partition("/")[2]:
        raise CannotReset(
            f"--reset {told(text)}: a '/' or an '@' in a name or a password is percent-encoded (%2F, %40)"
        )
    match scheme:
        case "postgresql" | "postgres":
            from anypod.replicas.outside.postgres import Postgres

            database = Postgres(text)
            _check_hosts(text, database.hosts, allow_hosts)
            return database
        case "redis" | "rediss" | "valkey" | "valkeys":
            from anypod.replicas.outside.redis import Keys

            keys = Keys(text)
            _check_hosts(text, keys.hosts, allow_hosts)
            return keys
        case "mysql" | "mariadb":
            from anypod.replicas.outside.mysql import MySQL

            tables = MySQL(text)
            _check_hosts(text, tables.hosts, allow_hosts)
            return tables
        case "" | "sqlite" | "file":
            from anypod.replicas.outside.files import at

            return at(text, root, copied=copied)
        case _:
            raise CannotReset(
                f"--reset {told(text)}: {scheme}:// is not known; expected sqlite:///, postgresql://, mysql://, redis://, "
                "a file, a folder, or a command that puts it back"
            )


def _check_hosts(text: str, hosts: Sequence[str], allow_hosts: Collection[str]) -> None:
    for host in hosts:
        if not host.startswith("/") and not is_local(host, allow_hosts):  # a path is a Unix socket
            raise RemoteHost(
                f"--reset {told(text)}: {host} is not this machine: a proof throws away what it holds, again "
                f"and again. Name a database on localhost, or pass --allow-host {host} if losing its data is "
                "fine."
            )
