"""Whether anything below a directory may have changed since it was looked at.

On Linux the kernel keeps count (inotify), for writes by C libraries and child processes too; elsewhere,
and when the system has no watches left, the answer is always yes: looking is never wrong, only slower.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Watch"]

_MODIFY, _ATTRIB, _CLOSE_WRITE = 0x2, 0x4, 0x8
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
# A write through a memory map is no event, but the file was opened for it: its close is one.
_ANY = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_OPEN = 0x20  # of a directory too
_IGNORED = 0x8000
_EVENTS = 1 << 16
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows

Directory = tuple[Path, int]


class Watch:
    """Watches the directories that it is told of; `close` gives the kernel's part back.

    A directory is its path and its inode: one that is removed or renamed and made anew is another.

    Args:
        opens: take it for a change when a file is opened, also to be read only.
    """

    def __init__(self, *, opens: bool = False) -> None:
        self._events = _ANY | _OPEN if opens else _ANY
        self._watched: dict[Directory, int] = {}
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

    def cover(self, directories: Iterable[Directory]) -> None:
        """Watch these directories and no others.

        One that is new to the watch may have changed unseen: the next answer is yes.
        """
        if self._descriptor < 0:
            return
        present = set(directories)
        for gone in self._watched.keys() - present:
            self._libc.inotify_rm_watch(self._descriptor, self._watched.pop(gone))
        new = present - self._watched.keys()
        self._unsure = self._unsure or bool(new)
        for directory in new:
            path = os.fsencode(directory[0])
            number = self._libc.inotify_add_watch(self._descriptor, path, self._events)
            if number < 0:
                self.close()  # no watches left, or the directory is gone again
                return
            self._watched[directory] = number

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
                events = os.read(self._descriptor, _EVENTS)
            except BlockingIOError:
                return found
            position = 0
            while position < len(events):
                number, mask, _, length = _EVENT.unpack_from(events, position)
                position += _EVENT.size + length
                found = True
                if mask & _IGNORED:  # the kernel dropped this watch together with the directory
                    self._watched = {
                        path: kept for path, kept in self._watched.items() if kept != number
                    }

    def close(self) -> None:
        """Watch no longer; every answer is yes from now on."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._watched.clear()
