"""Reads files in several processes: plain forks and pipes, results in order, nothing pickled.

`multiprocessing` costs more to import than a small project to check. A child that dies gives its files back to
the parent, which reads them itself.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable, Sequence
from typing import Any


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_processes(work: Callable[[str], Any], items: Sequence[str], processes: int) -> list[Any]:
    """`[work(item) for item in items]`, shared among processes; results must be marshallable."""
    if not hasattr(os, "fork"):
        return [work(item) for item in items]
    shares = _shares(items, processes)
    children = [_start(work, items, share) for share in shares[1:]]
    results: dict[int, Any] = {index: work(items[index]) for index in shares[0]}
    for pid, reader, share in children:
        with os.fdopen(reader, "rb") as pipe:
            raw = pipe.read()
        os.waitpid(pid, 0)
        try:
            results.update(marshal.loads(raw))  # written by our own child  # noqa: S302  # our own facts, never foreign input
        except (EOFError, ValueError, TypeError):
            results.update({index: work(items[index]) for index in share})
    return [results[index] for index in range(len(items))]


def _shares(items: Sequence[str], processes: int) -> list[list[int]]:
    """Indices dealt out by size, largest first, so that no process is left alone with a big file."""
    sized = sorted(range(len(items)), key=lambda i: _size(items[i]), reverse=True)
    return [sized[start::processes] for start in range(processes)]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # pathlib costs a tenth of the start
    except OSError:
        return 0


def _start(
    work: Callable[[str], Any], items: Sequence[str], share: list[int]
) -> tuple[int, int, list[int]]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader, share
    status = 1
    try:
        os.close(reader)
        results = {index: work(items[index]) for index in share}
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(marshal.dumps(results))
        status = 0
    finally:
        # The child leaves without running the parent's exit handlers.
        os._exit(status)
