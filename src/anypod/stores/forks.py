"""What a driver must forget in a forked child: connections, locks and threads of its parent.

Invariants:
    - a driver is told in the child, before anything else can use it there;
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


_watched: WeakSet[Forkable] = WeakSet()


def watch(forkable: Forkable) -> None:
    """Tell this object when the process was forked."""
    _watched.add(forkable)


def immortalize(*things: object) -> None:
    """Keep these from ever being finalized in this process: their finalizers would hurt the parent."""
    import ctypes

    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _in_child() -> None:
    for forkable in tuple(_watched):
        forkable.after_fork()


os.register_at_fork(after_in_child=_in_child)
