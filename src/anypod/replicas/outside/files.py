"""Files, folders and SQLite databases outside the project.

What is kept lies beside what it is of, under the same name with `.anypod-kept` behind it. A SQLite database
is copied by its own online backup, in both directions: whoever has it open sees a transaction, not a torn file.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from anypod.replicas.disk import Disk
from anypod.replicas.errors import CannotReset
from anypod.replicas.tree import MAX_BYTES, MAX_FILES, remove_tree

__all__ = ["at"]

KEPT = ".anypod-kept"
_MAGIC = b"SQLite format 3\x00"
_WAIT = 10.0  # seconds for another connection's transaction
_ENDINGS = frozenset({".db", ".sqlite", ".sqlite3"})
_COMPANIONS = ("-wal", "-shm", "-journal")


def at(text: str, root: Path, *, copied: bool) -> File | Folder:
    """The state that a path or a `sqlite:///` URL names.

    Args:
        text: as the user wrote it.
        root: the project tree.
        copied: whether replicas run in copies of the tree.

    Raises:
        CannotReset: it is not outside, or not a thing that can be put back.
    """
    database = re.match(r"sqlite(?:\+\w+)?://", text, re.IGNORECASE)
    name = re.sub(r"^(?:sqlite(?:\+\w+)?|file)://", "", text, flags=re.IGNORECASE)
    if database:
        if not name.startswith("/") or name == "/":
            raise CannotReset(f"--reset {text}: expected sqlite:///PATH, or sqlite:////PATH from /")
        name = name[1:].partition("?")[0]
    path = Path(name).expanduser()
    path = (path if path.is_absolute() else Path.cwd() / path).resolve()
    _check(text, path, root.resolve(), copied=copied)
    if path.is_dir():
        if database:
            raise CannotReset(f"--reset {text}: {path} is a folder, not a database")
        return Folder(path)
    if database or _is_database(path) or (not path.exists() and path.suffix in _ENDINGS):
        return Database(path)
    return File(path)


def _check(text: str, path: Path, root: Path, *, copied: bool) -> None:
    precious = (root, Path.home(), Path(tempfile.gettempdir()).resolve())
    if any(other.is_relative_to(path) for other in precious):
        raise CannotReset(
            f"--reset {text}: {path} holds more than a service's state; name a folder of its own"
        )
    if copied and path.is_relative_to(root):
        raise CannotReset(
            f"--reset {text}: it is inside the project, of which every replica has a copy that is put back "
            "anyway; --shared makes it a volume, which is put back too"
        )
    kept = path.with_name(path.name + KEPT)
    if kept.exists():
        raise CannotReset(
            f"--reset {text}: {kept} is there: a proof that was killed has kept the state in it. Move it to "
            f"{path} to have that state again, or remove it"
        )


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, shutil.Error) as failed:
        reason = getattr(failed, "strerror", None) or failed
        raise CannotReset(f"--reset {path}: {reason}") from failed


class File:
    """A file, or the place of one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = path.with_name(path.name + KEPT)
        self._was_there = False

    def keep(self) -> None:
        """Keep what it holds."""
        with _failing(self.path):
            self._was_there = self.path.exists()
            if self._was_there:
                self._copy(self.path, self._kept)

    def put_back(self) -> None:
        """Make it hold that again, in place: somebody may have it open."""
        with _failing(self.path):
            if self._was_there:
                self._copy(self._kept, self.path)
            else:
                self._remove()

    def let_go(self) -> None:
        """Put it back a last time."""
        self.put_back()
        with _failing(self.path):
            self._kept.unlink(missing_ok=True)

    def _copy(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, target)
        shutil.copystat(source, target)

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Database(File):
    """A SQLite database, which may not be there yet."""

    def _copy(self, source: Path, target: Path) -> None:
        with (
            closing(sqlite3.connect(source, timeout=_WAIT)) as one,
            closing(sqlite3.connect(target, timeout=_WAIT)) as other,
        ):
            one.backup(other)

    def _remove(self) -> None:
        for end in ("", *_COMPANIONS):
            self.path.with_name(self.path.name + end).unlink(missing_ok=True)


class Folder:
    """A folder with all that is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = path.with_name(path.name + KEPT)
        self._disk = Disk(path, origin=None, stash=self._kept)

    def keep(self) -> None:
        """Keep a copy of it."""
        with _failing(self.path):
            size = 0
            for number, file in enumerate(self.path.rglob("*"), 1):
                size += file.lstat().st_size
                if size > MAX_BYTES or number > MAX_FILES:
                    raise CannotReset(
                        f"--reset {self.path}: it holds more than {MAX_BYTES >> 20} MiB or {MAX_FILES:,} files; "
                        "name the part of it that the service writes to"
                    )
            self._disk.capture()

    def put_back(self) -> None:
        """Put back what differs."""
        with _failing(self.path):
            self.path.mkdir(exist_ok=True)
            self._disk.restore()

    def let_go(self) -> None:
        """Put it back a last time."""
        self.put_back()
        self._disk.close()
        remove_tree(self._kept)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
