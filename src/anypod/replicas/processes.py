"""Ending processes together with everything that they started, and the ends of their logs."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

__all__ = ["descendants", "kill_group", "tail", "waits_for"]

_TAIL = 64 << 10  # bytes of a log that are kept


def descendants(pid: int) -> list[int]:
    """The children of a process and theirs, where the system lists them (Linux)."""
    found: list[int] = []
    pending = [pid]
    while pending:
        parent = pending.pop()
        for task in _tasks(parent):
            try:
                children = [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue  # the thread ended meanwhile
            found.extend(children)
            pending.extend(children)
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


_WAITING = re.compile(r"^\d+: -> .* (?P<pid>\d+) [0-9a-f]+:[0-9a-f]+:(?P<inode>\d+) ", re.MULTILINE)


def waits_for(pid: int) -> str:
    """The file whose lock a process, or one of its descendants, waits for; empty if none (Linux)."""
    try:
        waiting = {
            int(lock["pid"]): int(lock["inode"])
            for lock in _WAITING.finditer(Path("/proc/locks").read_text())
        }
        for one in (pid, *descendants(pid)):
            for opened in Path(f"/proc/{one}/fd").iterdir() if one in waiting else ():
                if opened.stat().st_ino == waiting[one]:
                    return str(opened.readlink())
    except OSError:
        return ""  # another system, or the process ended meanwhile
    return ""


def kill_group(leader: int) -> None:
    """SIGKILL a process, its group, and those of its descendants that left the group."""
    strays = descendants(leader)
    for kill, pid in ((os.killpg, leader), *((os.kill, stray) for stray in strays)):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # it was faster, or it is a zombie


def tail(path: Path) -> str:
    """The end of a text file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
