"""The guard inside a replica: what it writes outside its disk, whom it reaches for.

An audit hook, installed before the service is imported. Writes elsewhere are recorded and let
through (the service must behave as it does); connections to another machine are refused, because a
replica is replayed and killed. Records go straight to a file, one line each, so that they outlive a
SIGKILL and include what child processes made by fork do.

Not seen: what C libraries open or connect by themselves, and programs that the service runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from anypod.replicas.hosts import is_local

__all__ = ["MADE", "Guard", "made", "move_imports", "patch_hostname"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MOST = 100
MADE = "made: "  # how a record begins that names a file outside which was not there before

# Event → positions of (path, dir_fd) among its arguments.
_PATHS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
}
_HOSTS = {
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}
_ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}
_PROGRAMS = frozenset({"subprocess.Popen", "os.system", "os.posix_spawn", "os.exec", "os.fork"})
# Clients in C that connect and open unseen.
_UNSEEN = (
    "psycopg", "psycopg2", "MySQLdb", "oracledb", "cx_Oracle", "pymssql", "pyodbc", "pylibmc", "ibm_db",
    "duckdb", "lmdb", "plyvel", "rocksdb", "confluent_kafka", "grpc", "pygit2", "zmq",
)  # fmt: skip


class Guard:
    """The audit hook of one replica.

    Args:
        inside: directories in which writing is private, as real paths.
        allow_hosts: hosts that may be reached besides this machine.
        hostname: the name that this replica goes by.
    """

    def __init__(
        self, *, inside: Collection[Path], allow_hosts: Collection[str], hostname: str
    ) -> None:
        self._inside = tuple(str(path) + os.sep for path in (*inside, Path("/dev"), Path("/proc")))
        self._exact = frozenset(str(path) for path in inside)
        self._allowed = frozenset(allow_hosts) | {hostname}
        self._addresses: frozenset[str] | None = None
        self._record_to: int | None = None
        self._recorded: set[str] = set()
        self._asked_others = False

    def install(self, records: Path) -> None:
        """Start to watch. An audit hook cannot be removed again."""
        self.record_to(records)
        sys.addaudithook(self._hook)

    def record_to(self, records: Path) -> None:
        """Write further records to this file; each is written once per file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        if self._record_to is not None:
            os.close(self._record_to)
        self._record_to = os.open(records, flags, 0o600)
        self._file = os.fstat(self._record_to)
        self._recorded = set()

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the records, for those who count open files."""
        return self._record_to

    @property
    def asked_others(self) -> bool:
        """Whether this process may have asked another one for anything, over a socket or by a program."""
        return self._asked_others or any(name in sys.modules for name in _UNSEEN)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(flags, int) and flags & _WRITES:
                self._wrote(path, None)
        elif event in _PATHS:
            for position, directory in _PATHS[event]:
                self._wrote(args[position], None if directory is None else args[directory])
        elif event == "sqlite3.connect":
            self._wrote(_database(args[0]), None)
        elif event in _HOSTS:
            self._asked_others = True
            self._reached(args[_HOSTS[event]])
        elif event in _PROGRAMS:
            self._asked_others = True
        elif event in _ADDRESSES:
            self._asked_others = True
            address = args[_ADDRESSES[event]]
            if isinstance(address, tuple) and address:  # a string is a Unix socket
                self._reached(address[0])

    def _wrote(self, path: Any, directory: int | None) -> None:
        try:
            name = os.fsdecode(path)
        except TypeError:
            return  # an open descriptor: it was judged when it was opened
        if not name:
            return
        if directory is not None and directory >= 0 and not name.startswith(os.sep):
            name = os.path.join(os.path.realpath(f"/proc/self/fd/{directory}"), name)  # noqa: PTH118  # pathlib would raise events of its own
        try:
            parent, last = os.path.split(os.path.abspath(name))  # noqa: PTH100  # as above
            real = os.path.join(os.path.realpath(parent), last)  # noqa: PTH118  # as above
            if os.path.islink(real):  # noqa: PTH114  # as above
                real = os.path.realpath(real)
        except (OSError, ValueError):
            return  # a path that the operation itself is about to refuse
        if not real.startswith(self._inside) and real not in self._exact:
            if not os.path.lexists(real):  # as above
                self._record(f"{MADE}{real}")
            self._record(f"not isolated: {real}")

    def _reached(self, host: Any) -> None:
        if not isinstance(host, (str, bytes)) or is_local(host, self._allowed):
            return
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if name in self._allowed_addresses():
            return
        self._record(f"reached for {name}")
        raise PermissionError(
            f"{name} is not this machine, and a replica under proof reaches no other; "
            f"--allow-host {name} lets it"
        )

    def _allowed_addresses(self) -> frozenset[str]:
        """The addresses of the allowed names: clients resolve a name, then connect to a number."""
        if self._addresses is None:
            self._addresses = frozenset()  # resolving passes through this hook again
            self._addresses = frozenset(
                address for name in self._allowed for address in _resolve(name)
            )
        return self._addresses

    def note(self, line: str) -> None:
        """Write a line of one's own among the records."""
        self._record(line)

    def _record(self, line: str) -> None:
        if line in self._recorded or len(self._recorded) >= _MOST or self._record_to is None:
            return
        if not self._is_ours():
            return
        self._recorded.add(line)
        os.write(self._record_to, line.replace("\n", "\\n").encode("utf-8", "replace") + b"\n")

    def _is_ours(self) -> bool:
        """Whether the descriptor still is the records': servers close what they do not know."""
        try:
            return os.path.samestat(os.fstat(self._record_to or 0), self._file)
        except OSError:
            return False


def made(records: Collection[str]) -> dict[str, None]:
    """The files that records name as made."""
    return {line.removeprefix(MADE): None for line in records if line.startswith(MADE)}


def _resolve(name: str) -> list[str]:
    import socket

    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(name, None)]
    except OSError:
        return []


def _database(name: Any) -> Any:
    """The file that SQLite opens for writing; an empty name stands for none."""
    if not isinstance(name, (str, bytes, os.PathLike)):
        return ""
    text = os.fsdecode(name)
    if text == ":memory:":
        return ""
    if not text.startswith("file:"):
        return text
    path, _, query = text.removeprefix("file:").partition("?")
    options = parse_qs(query)
    if "memory" in options.get("mode", []) or "ro" in options.get("mode", []):
        return ""
    path = unquote(path)
    return "" if path == ":memory:" else path.removeprefix("//localhost").replace("//", "/", 1)


def patch_hostname(hostname: str) -> None:
    """Let this process go by a name of its own, as a pod does."""
    import platform
    import socket

    system = os.uname()
    resolve: Callable[[str], str] = socket.getfqdn

    def getfqdn(name: str = "") -> str:
        return hostname if name in {"", "0.0.0.0", "::", hostname} else resolve(name)  # noqa: S104  # compared, not bound

    socket.gethostname = lambda: hostname
    socket.getfqdn = getfqdn
    platform.node = lambda: hostname
    os.uname = lambda: os.uname_result(
        (system.sysname, hostname, system.release, system.version, system.machine)
    )


def move_imports(root: Path, disk: Path) -> None:
    """Let every import from the project tree come from the copy instead."""

    def moved(path: str) -> str:
        real = Path(path).resolve() if path else root.parent
        if real.is_relative_to(root):
            copy = disk / real.relative_to(root)
            if copy.exists():
                return str(copy)
        return path

    sys.path[:] = [moved(entry) for entry in sys.path if entry]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        if isinstance(paths := getattr(module, "__path__", None), list):
            paths[:] = [moved(entry) for entry in paths]
    for finder in sys.meta_path:  # editable installs map package names to folders
        mapping = getattr(sys.modules.get(getattr(finder, "__module__", "")), "MAPPING", None)
        if isinstance(mapping, dict):
            mapping.update({name: moved(path) for name, path in mapping.items()})
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(moved(entry) for entry in entries)
