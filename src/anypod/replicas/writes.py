"""Finds the line of the service's own code that changes a state, while requests are served.

A trace function looks at the state after each line of the service's own functions, and blames the line
that ran last when the look differs. So every way to write is seen alike: an assignment, a method of a
C type, `+=`, slots, a file that is written when it is closed. It makes a service ten to a hundred times
slower, and is on only for the few requests of a reduced difference. Work of a library counts for the
line that called it; what no line of the service's own leads to has none.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from anypod.replicas.change import State
from anypod.replicas.digest import Digests
from anypod.replicas.roots import Place, Roots
from anypod.replicas.transplant import bound

__all__ = ["Writes"]

_TOPS = {"~/": "home", "$TMPDIR/": "tmp"}
_COMPANIONS = ("", "-wal", "-journal")  # of a SQLite database

_Line = tuple[str, int]


class Writes:
    """Watches some states of a replica that is about to serve.

    Args:
        roots: of the service.
        disk: the replica's copy of the tree.
        root: the user's tree.
        states: which ones.
    """

    def __init__(self, roots: Roots, *, disk: Path, root: Path, states: Collection[State]) -> None:
        self._roots = roots
        self._digests = Digests(roots.is_own_class)
        self._disk, self._root = str(disk), str(root)
        self._own: dict[CodeType, bool] = {}
        self._thread = threading.local()
        self._looks = {state: self._look_at(state, disk) for state in states}
        self._seen = {state: look() for state, look in self._looks.items()}
        self._found: dict[State, _Line] = {}

    def install(self) -> None:
        """Trace this thread and all that it starts."""
        threading.settrace(self._called)
        sys.settrace(self._called)

    def found(self) -> list[dict[str, Any]]:
        """The last line that changed each state since this was asked last."""
        self._look(None)
        found, self._found = self._found, {}
        return [
            {"state": list(state), "file": self._told(file), "line": line}
            for state, (file, line) in found.items()
        ]

    def _told(self, file: str) -> str:
        return self._root + file[len(self._disk) :] if file.startswith(self._disk) else file

    # --- looking

    def _look_at(self, state: State, disk: Path) -> Callable[[], object]:
        if state.kind in {"file", "database"}:
            paths = [f"{_path(state.name, disk)}{end}" for end in _COMPANIONS]
            return lambda: [_stat(path) for path in paths]
        known: list[Place] = []

        def look() -> object:
            if not known:
                known.extend(place for place in self._roots.places() if place.state == state)
                if not known:
                    return None
            place = known[0]
            try:
                value = place.value if place.holder is None else bound(place)
            except (LookupError, AttributeError, ValueError):
                return None  # it has been removed
            if state.kind == "cache":
                return value.cache_info()[1::2]  # misses, entries
            return self._digests.of(value)

        return look

    def _look(self, blamed: _Line | None) -> None:
        """Look at everything; what changed was changed by this line."""
        for state, look in self._looks.items():
            try:
                seen = look()
            except RuntimeError:
                continue  # a container changes under our hands
            if seen != self._seen[state]:
                self._seen[state] = seen
                if blamed is not None:
                    self._found[state] = blamed

    # --- tracing

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002  # a trace function
        code = frame.f_code
        own = self._own.get(code)
        if own is None:
            own = self._own[code] = self._is_own(frame)
        if not own:
            return None
        self._step((code.co_filename, frame.f_lineno))
        return self._traced

    def _traced(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002  # as above
        if event == "line":
            self._step((frame.f_code.co_filename, frame.f_lineno))
        elif event == "return":
            self._step(self._caller(frame))
        return self._traced

    def _step(self, line: _Line | None) -> None:
        """The thread comes to a line: what changed since the one before was that one's work."""
        self._look(getattr(self._thread, "line", None))
        self._thread.line = line

    def _caller(self, frame: FrameType) -> _Line | None:
        """The nearest line of the service's own that waits for this frame."""
        above = frame.f_back
        while above is not None:
            if self._own.get(above.f_code):
                return above.f_code.co_filename, above.f_lineno
            above = above.f_back
        return None

    def _is_own(self, frame: FrameType) -> bool:
        return frame.f_code.co_filename.startswith(self._disk + os.sep) or self._roots.is_own(
            str(frame.f_globals.get("__name__", ""))
        )


def _path(name: str, disk: Path) -> Path:
    """Where a file is that a change names."""
    for prefix, top in _TOPS.items():
        if name.startswith(prefix):
            return disk.parent / top / name.removeprefix(prefix)
    return disk / name


def _stat(path: str) -> tuple[int, ...] | None:
    try:
        info = os.stat(path)  # noqa: PTH116  # called for every line
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino
