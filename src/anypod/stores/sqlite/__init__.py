"""`sqlite:///path.db`: one file for all processes of one machine.

A command is the specification, executed on a table inside one short transaction. Plain additions, the
commonest command, are a single statement.

Invariants:
    - writers pass the gate (`gate.py`) one at a time and never meet SQLite's own wait;
    - what only reads does not pass the gate; a command that turns out to write starts over behind it;
    - asynchronous commands are executed by one worker thread, which commits what is queued as one
      group: a savepoint keeps one command's failure from its neighbours, replies leave after COMMIT, and
      a COMMIT that fails fails them all;
    - the file is closed around a fork, because SQLite's bookkeeping of locks must not be copied into a
      child; a child has connections and a gate of its own;
    - the write-ahead log stays bounded: who has written `CHECKPOINT_EVERY` bytes carries it over, and past
      `WAL_CAP` writers wait a moment for readers, so that it can be emptied;
    - what follows a COMMIT (the log, what has expired, the bell) never fails the command.

What "acknowledged" means: with `synchronous=normal` (the default) a reply survives the death of every
process, and a power loss may take the last commits with it, never the file; with `synchronous=full` it
survives a power loss too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from anypod.errors import ConfigurationError
from anypod.stores.address import options
from anypod.stores.sqlite.driver import SQLiteDriver

__all__ = ["SQLiteDriver", "file_system", "open_driver"]

OPTIONS: Final = {"synchronous": ("normal", "full"), "timeout": 5.0}

NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "glusterfs", "fuse.sshfs"}
    | {"fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.ceph", "gpfs", "beegfs"}
)


def open_driver(url: str) -> SQLiteDriver:
    """Open `sqlite:///relative.db` or `sqlite:////absolute.db`; options `synchronous`, `timeout`.

    Nothing is opened before the first command, so that a process may fork in between.

    Raises:
        ConfigurationError: no file is named, its folder does not exist, or it is on a network.
    """
    parts = urlsplit(url)
    settings = options(url, OPTIONS)
    name = unquote(parts.path)[1:]
    if parts.netloc or not name:
        raise ConfigurationError(
            f"{url!r} must name a file: sqlite:///relative.db or sqlite:////absolute/path.db"
        )
    path = Path(name).absolute()
    if path.is_dir():
        raise ConfigurationError(f"{url!r} names a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigurationError(
            f"{url!r}: the folder {path.parent} does not exist; create it first"
        )
    kind = file_system(path.parent)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{url!r} is on a network file system ({kind}), where SQLite's shared memory does not "
            f"work: use a local disk, or redis:// or postgresql:// to share between machines"
        )
    return SQLiteDriver(str(path), **settings)


def file_system(folder: Path, mounts: str = "/proc/self/mounts") -> str:
    """The type of the file system that a folder is on, empty if the system does not say."""
    try:
        table = Path(mounts).read_text(errors="replace")
    except OSError:
        return ""
    real = os.path.realpath(folder)
    best, kind = "", ""
    for line in table.splitlines():
        _, point, type_, *_ = line.split(" ")
        point = point.encode().decode("unicode_escape")  # a space is written \040
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, type_
    return kind
