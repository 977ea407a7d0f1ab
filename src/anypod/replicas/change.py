"""What the probe reports: a state that changed and the line that did it, a cache that declares itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Change", "Constant", "DeclaredCache", "State", "Write"]


class State(NamedTuple):
    """A piece of process-local state by its name, which is the same in every replica.

    The fields are those of a `Change`.
    """

    kind: str
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """A piece of process-local state that a request changed, as fingerprints before and after saw it.

    Attributes:
        kind: "global", "class attribute", "closure", "default" (a mutable default argument or an
            attribute of a function), "cache" (an `lru_cache`), "file" or "database".
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

    @property
    def state(self) -> State:
        """What changed."""
        return State(self.kind, self.module, self.name)


@dataclass(frozen=True, slots=True)
class Write:
    """A line of the service's own code that changed a state.

    Attributes:
        state: what it changed.
        file: in the user's own tree.
        line: 1-based.
    """

    state: State
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A text or number that a process holds, or a file that its import made.

    Two processes' digests are alike if the values are. The value itself is not told: it may be a secret.
    """

    state: State
    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class DeclaredCache:
    """A local cache of anypod that is alive in a replica: it may answer `ttl` seconds late."""

    name: str
    ttl: float
