"""Facts of unchanged files, kept between runs in one file.

An entry is valid while the file's size and modification time are what they were. A cache of another version, of
another Python or one that is damaged is ignored and replaced; it is never trusted for anything but speed.
"""

from __future__ import annotations

import marshal
import os
import sys
from typing import Any

from anypod.check.facts import FACTS_VERSION

_MAGIC = (b"anypod facts", FACTS_VERSION, sys.version_info[:3])


class FactCache:
    """The cache in `directory`, or none."""

    def __init__(self, directory: str | None) -> None:
        self.file = f"{directory}/check" if directory else None
        self._here = os.getcwd()  # noqa: PTH109  # pathlib costs a tenth of the start
        self._directory = directory
        self._known: dict[str, tuple[int, int, bytes]] = {}
        self._asked: dict[str, tuple[int, int] | None] = {}
        self._changed = False
        if self.file is not None:
            self._read(self.file)

    def _read(self, path: str) -> None:
        try:
            with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
                magic, known = marshal.loads(file.read())  # marshal builds data only  # noqa: S302  # our own facts, never foreign input
        except (OSError, ValueError, EOFError, TypeError):
            return
        if magic == _MAGIC and isinstance(known, dict):
            self._known = known

    def get(self, path: str) -> tuple[Any, ...] | None:
        """The facts of a file, when it has not changed."""
        if self.file is None:
            return None
        path = self._absolute(path)
        # Taken before the file is read: one that is written meanwhile is read again the next time.
        status = self._asked[path] = _status(path)
        entry = self._known.get(path)
        if entry is None or status != entry[:2]:
            return None
        try:
            facts: tuple[Any, ...] = marshal.loads(entry[2])  # noqa: S302  # our own facts, never foreign input
        except (ValueError, EOFError, TypeError):
            return None
        return facts

    def put(self, path: str, raw: bytes) -> None:
        """Remember the facts of a file as it was when it was asked for."""
        if self.file is None:
            return
        path = self._absolute(path)
        status = self._asked.get(path)
        if status is not None:
            self._known[path] = (*status, raw)
            self._changed = True

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._here}/{path}"

    def write(self) -> None:
        """Store what is new; files that are gone are forgotten."""
        if self.file is None or not self._changed:
            return
        assert self._directory is not None
        kept = {path: entry for path, entry in self._known.items() if _status(path) is not None}
        temporary = f"{self.file}.{os.getpid()}"
        try:
            os.makedirs(self._directory, exist_ok=True)  # noqa: PTH103  # pathlib costs a tenth of the start
            ignore = f"{self._directory}/.gitignore"
            if not os.path.exists(ignore):  # noqa: PTH110  # pathlib costs a tenth of the start
                with open(ignore, "w", encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
                    file.write("*\n")
            with open(temporary, "wb") as raw:  # noqa: PTH123  # pathlib costs a tenth of the start
                raw.write(marshal.dumps((_MAGIC, kept)))
            os.replace(temporary, self.file)  # noqa: PTH105  # pathlib costs a tenth of the start
        except OSError:
            # A read-only checkout is checked all the same, only slower.
            return


def _status(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  # pathlib costs a tenth of the start
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
