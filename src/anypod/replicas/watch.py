"""Whether anything below a directory may have changed since it was looked at.

On Linux the kernel keeps count (inotify), for writes by C libraries and child processes too; elsewhere,
and when the system has no watches left, the answer is always yes: looking is never wrong, only slower.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Watch"]

_MODIFY, _ATTRIB, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x40, 0x80, 0x100, 0x200
_ANY = _MODIFY | _ATTRIB | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_EVENTS = 1 << 16


class Watch:
    """Watches the directories that it is told of; `close` gives the kernel's part back."""

    def __init__(self) -> None:
        self._watched: dict[Path, int] = {}
        self._descriptor = -1
        self._unsure = True
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def begin(self) -> None:
        """Forget what has happened so far: somebody is about to look."""
        if self._descriptor >= 0:
            self._read()
            self._unsure = False

    def cover(self, directories: Iterable[Path]) -> None:
        """Watch these directories and no others.

        One that is new to the watch may have changed unseen: the next answer is yes.
        """
        if self._descriptor < 0:
            return
        present = set(directories)
        for gone in self._watched.keys() - present:
            del self._watched[gone]  # the kernel dropped its watch with the directory
        new = present - self._watched.keys()
        self._unsure = self._unsure or bool(new)
        for path in new:
            number = self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _ANY)
            if number < 0:
                self.close()  # no watches left, or the directory is gone again
                return
            self._watched[path] = number

    def may_have_changed(self) -> bool:
        """Whether to look again."""
        if self._descriptor < 0:
            return True
        self._unsure = self._read() or self._unsure
        return self._unsure

    def _read(self) -> bool:
        """Take the events that are there; whether there were any."""
        found = False
        while True:
            try:
                if not os.read(self._descriptor, _EVENTS):
                    return found
            except BlockingIOError:
                return found
            found = True

    def close(self) -> None:
        """Watch no longer; every answer is yes from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._watched.clear()
