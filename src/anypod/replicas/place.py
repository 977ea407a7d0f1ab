"""One path for the copies of all pods, as in production, by a mount namespace for each.

A path that a service puts into a signed cookie or a shared database means the same to every pod there. So
a pod's processes see their slot's directory at a place that all slots of a world name alike; the tool,
outside, sees each slot's own. Needs Linux, and the right to mount or user namespaces. Without, each pod
sees its slot where it is. A file cannot be renamed out of the place, as out of any mount.

Run as `python place.py SLOT PROGRAM ARGUMENT…`, it becomes that program there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path

__all__ = ["enter", "leave"]

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_BIND, _RECURSIVE, _PRIVATE = 0x1000, 0x4000, 0x40000
_DETACH = 2
_CAPABILITIES = 0x20080522  # version 3: two words of each set


def enter(slot: Path) -> Path:
    """See a slot's directory, from now on, at the place that all slots of its world have in common.

    For a process that has one thread and began in that directory. Its working directory and its
    environment follow.

    Args:
        slot: the slot's directory.

    Returns:
        The place; the slot's directory itself where that cannot be.
    """
    place = slot.parent / "pod"
    if not sys.platform.startswith("linux") or not _mounted(slot, place):
        return slot
    for name, value in os.environ.items():
        if str(slot) in value:
            os.environ[name] = value.replace(f"{slot}/", f"{place}/")
    os.chdir(place / Path.cwd().relative_to(slot))
    return place


def leave(place: Path) -> None:
    """See the place empty again, so that it can be removed; nothing where `enter` did nothing."""
    if place.name == "pod":
        _use_capabilities(True)
        _libc().umount2(os.fsencode(place), _DETACH)


def _mounted(slot: Path, place: Path) -> bool:
    try:
        place.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):
                _mount(slot, place, _NEW_MOUNTS)
                return True
        if not _would_mount(slot, place):
            return False
        _mount(slot, place, _NEW_MOUNTS | _NEW_USER)
    except OSError:
        return False
    # Capabilities of the new namespace would open files that are closed to the user.
    return _use_capabilities(False)


def _would_mount(slot: Path, place: Path) -> bool:
    """Whether a child can do it: a user namespace without the right to mount could not be left again."""
    pid = os.fork()
    if pid == 0:
        try:
            _mount(slot, place, _NEW_MOUNTS | _NEW_USER)
        except BaseException:  # noqa: BLE001  # the child of a fork must not return
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def _mount(slot: Path, place: Path, namespaces: int) -> None:
    user, group = os.geteuid(), os.getegid()
    libc = _libc()
    _check(libc.unshare(namespaces))
    if namespaces & _NEW_USER:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _check(libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None))
    _check(libc.mount(os.fsencode(slot), os.fsencode(place), None, _BIND, None))


def _use_capabilities(on: bool) -> bool:
    """Make all permitted capabilities of this thread effective, or none; root's stay as they are."""
    if os.geteuid() == 0:
        return True
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and their upper halves
    libc = _libc()
    if libc.capget(header, sets):
        return False
    for word in (0, 3):
        sets[word] = sets[word + 1] if on else 0
    return bool(libc.capset(header, sets) == 0)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = (
        *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p),
    )
    return libc


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    enter(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # the shell itself
