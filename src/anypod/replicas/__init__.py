"""replicas: N copies of the user's real service as processes, each on a disk of its own.

A `World` is a set of slots over shared volumes. A slot is a place where a replica can run: it has
imported the application once, on its own copy of the project tree with its own HOME and TMPDIR, and
every replica that starts there descends from that import, or, where a fork would share what a fresh
process would not (open sockets, open databases, threads), from a new one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Change"]


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of process-local state that a request changed, as fingerprints before and after saw it.

    Attributes:
        kind: "global", "class attribute", "closure", "cache" (an `lru_cache`), "file" or "database".
        name: how the code calls it: `request_count`, `Store.items`, `sessions`; a path for files.
        module: the module that holds it, empty for files.
        file: the source file of that module, in the user's own tree (not in the replica's copy).
        before: a short rendering of the value before, for people.
        after: … and after.
    """

    kind: str
    name: str
    module: str
    file: str
    before: str
    after: str
