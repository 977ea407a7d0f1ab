"""What walks over many values tell about each of them.

A walk (`Scan` after `Scan`, until nothing is left) is not atomic and does not claim to be. What it promises
can be said key by key, so that each key can be checked alone: a value that a page holds stood there at some
moment while the page was asked for; and a key that no page of a whole walk holds was absent at some moment
of the walk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.histories.history import UNKNOWN, Operation

from anypod.commands import Get, Scan


def without_walks(operations: Iterable[Operation]) -> list[Operation]:
    """The operations, with each walk in the form of a read of every key that it concerns."""
    found = list(operations)
    scans = [each for each in found if isinstance(each.command, Scan)]
    rest = [each for each in found if not isinstance(each.command, Scan)]
    keys = sorted({each.command.key for each in rest})
    for walk in _walks(scans):
        rest += _told(walk, keys)
    return sorted(rest, key=lambda each: each.called)


def _walks(scans: list[Operation]) -> Iterator[list[Operation]]:
    """The pages of each walk, in order. A caller does one thing after another."""
    open_: dict[tuple[str, str], list[Operation]] = {}
    for scan in scans:
        assert isinstance(scan.command, Scan)
        walker = (scan.caller, scan.command.key)
        if not scan.command.after and walker in open_:
            yield open_.pop(walker)
        open_.setdefault(walker, []).append(scan)
    yield from open_.values()


def _whole(walk: list[Operation]) -> bool:
    """Whether it went from the beginning to the end: each page goes on where the one before said."""
    asked = [page.command.after for page in walk if isinstance(page.command, Scan)]
    return ["", *(page.reply.after for page in walk)] == [*asked, None]


def _told(walk: list[Operation], keys: list[str]) -> Iterator[Operation]:
    met: set[str] = set()
    for page in walk:
        if page.reply is UNKNOWN:
            return  # given up
        for key, value in page.reply.items:
            met.add(key)
            yield Operation(page.caller, Get(key), value, page.called, page.returned)
    if _whole(walk):
        first, last = walk[0], walk[-1]
        prefix = first.command.key
        for key in keys:
            if key.startswith(prefix) and key not in met:
                yield Operation(first.caller, Get(key), None, first.called, last.returned)
