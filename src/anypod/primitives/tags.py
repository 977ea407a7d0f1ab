"""Tags of cached values: invalidating one forgets every value that was stored under it, however many.

A tag is a counter in the store, in a slot of its own. A value is stored under a *mark*, which is made of the
cache's schema and of the versions that its tags had before it was loaded, and it is found only under the mark
that they make now. So an invalidation is one command, whatever was stored, and nothing has to be listed.

Invariants:
    - the versions are read before the load begins: what was loaded while a tag was invalidated is stored
      under a mark that nobody asks for any more;
    - a counter that the store has forgotten comes back as a version that it never had (`CacheVersion`): a
      value that is dead never comes back to life;
    - the versions of all tags are asked for in one exchange, and so is the value, under the mark that was
      the last one seen; only if that is not the mark any more is the value asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from anypod.commands import CacheRead, CacheReply, CacheVersion
from anypod.flow import Flow, Together
from anypod.keys import Key, encode

if TYPE_CHECKING:
    from anypod.stores import Store

MOST_TAGS: Final = 16  # of one value: each is a command at every read
MOST_MARKS: Final = 4096  # last marks that a process remembers, per cache

Addresses = tuple[str, ...]


class Tags:
    """The tags of one cache.

    Args:
        store: where the counters are.
        name: the cache's.
        schema: the cache's; part of every mark.
    """

    def __init__(self, store: Store, name: str, schema: str) -> None:
        self._store = store
        self._name = name
        self._schema = schema
        self._prefix = ""
        # The last one seen of each set of tags.
        self._marks: dict[Addresses, str] = {}  # anypod: ignore[POD102] compared at every look

    def address(self, tag: Key) -> str:
        """Where a tag's counter is."""
        if not self._prefix:
            self._prefix = self._store.prefix("cache-tag", self._name)
        return self._prefix + encode(tag)

    def addresses(self, tags: Iterable[Key]) -> Addresses:
        """Where the counters of these tags are, in an order that does not depend on theirs.

        Raises:
            TypeError: one string instead of several tags, or a tag that cannot be a key.
            ValueError: more than `MOST_TAGS`.
        """
        if isinstance(tags, str | bytes):
            raise TypeError(f"tags must be several: write tags=({tags!r},)")
        found = tuple(sorted({self.address(tag) for tag in tags}))
        if len(found) > MOST_TAGS:
            raise ValueError(
                f"cache {self._name!r}: a value may have {MOST_TAGS} tags, not {len(found)}"
            )
        return found

    def mark(self, tags: Addresses, keep: float) -> Flow[str]:
        """What a value that is loaded from now on is stored under.

        Args:
            tags: where their counters are.
            keep: seconds for which the versions are needed.
        """
        versions: list[int] = yield Together([CacheVersion(tag, keep) for tag in tags])
        return self._marked(tags, versions)

    def look(
        self, tags: Addresses, keep: float, read: Callable[[str], CacheRead]
    ) -> Flow[tuple[str, CacheReply | None]]:
        """The mark, and what `read(mark)` finds if this process has seen that mark before; in one exchange."""
        last = self._marks.get(tags)
        commands = [CacheVersion(tag, keep) for tag in tags]
        if last is None:
            versions: list[int] = yield Together(commands)
            return self._marked(tags, versions), None
        *versions, reply = yield Together([*commands, read(last)])
        mark = self._marked(tags, versions)
        return mark, reply if mark == last else None

    def _marked(self, tags: Addresses, versions: list[int]) -> str:
        text = "\n".join(f"{tag} {version}" for tag, version in zip(tags, versions, strict=True))
        mark = f"{self._schema}#{blake2b(text.encode(), digest_size=16).hexdigest()}"
        if len(self._marks) >= MOST_MARKS:
            self._marks.clear()
        self._marks[tags] = mark
        return mark
