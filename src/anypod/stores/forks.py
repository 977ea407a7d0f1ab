"""What must be put in order when a process forks: connections, locks and threads.

Invariants:
    - a driver is told in the child, before anything else can use it there;
    - a driver whose engine cannot bear a fork while it is open is told before, in the parent;
    - a driver that nobody uses any more is not kept alive by being watched.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something that holds what a child must not share."""

    def after_fork(self) -> None:
        """Called in the child: let go of what is the parent's, without disturbing the parent."""


class Quiescent(Forkable, Protocol):
    """Something that must be at rest while the process forks."""

    def before_fork(self) -> None:
        """Called in the parent, before: come to rest, in a bounded time."""

    def after_fork_in_parent(self) -> None:
        """Called in the parent, afterwards: go on."""


_watched: WeakSet[Forkable] = WeakSet()
_quiescent: WeakSet[Quiescent] = WeakSet()


def watch(forkable: Forkable) -> None:
    """Tell this object when the process was forked."""
    _watched.add(forkable)


def quiet(quiescent: Quiescent) -> None:
    """Bring this object to rest around each fork, and tell it in the child."""
    _quiescent.add(quiescent)
    _watched.add(quiescent)


def immortalize(*things: object) -> None:
    """Keep these from ever being finalized in this process: their finalizers would hurt the parent."""
    import ctypes

    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _before() -> None:
    for quiescent in tuple(_quiescent):
        quiescent.before_fork()


def _in_parent() -> None:
    for quiescent in tuple(_quiescent):
        quiescent.after_fork_in_parent()


def _in_child() -> None:
    for forkable in tuple(_watched):
        forkable.after_fork()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
