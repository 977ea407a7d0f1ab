"""The bounded storage of a local cache: a dict for finding, a queue for deciding what must go.

Eviction is SIEVE (Zhang et al., NSDI'24): a FIFO queue and a hand that walks from the oldest entry to
the newest, spares what was read since it last passed, and evicts the first entry that was not. A hit
therefore moves nothing and takes no lock: it only counts on its own entry.

Invariants:
- `find` may be called by any thread at any time; everything else needs the owner's lock.
- An entry's key, value and owner never change after insertion: a replaced value is a new entry, so a
  reader never sees one write's value with another's deadline.
- `entries` holds at most `maxsize` entries, the very same that are linked in the queue.
- The lock is re-entrant, because a finalizer or a signal handler may use the cache while its own thread
  changes it. They run only at calls, so no call stands between a check and the change that it allows.
"""

import weakref
from collections.abc import Callable, Hashable
from typing import Any


class Owner(weakref.ref[Any]):
    """The instance that an entry belongs to, weakly, and the entry's key: its end is the entry's."""

    __slots__ = ("key",)

    key: Hashable


class Entry:
    """One stored value; `hits` is its statistics and, compared with `swept`, its SIEVE mark."""

    __slots__ = ("deadline", "hits", "key", "newer", "older", "owner", "swept", "value")

    def __init__(
        self,
        key: Hashable,
        value: Any,
        deadline: float,
        owner: Owner | None = None,
    ) -> None:
        self.key = key
        self.value = value
        self.deadline = deadline
        self.owner = owner
        self.hits = 0
        self.swept = 0
        self.older: Entry | None = None
        self.newer: Entry | None = None


class Sieve:
    """At most `maxsize` entries by key."""

    __slots__ = (
        "_hand",
        "_newest",
        "_oldest",
        "entries",
        "evictions",
        "find",
        "maxsize",
        "past_hits",
    )

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.entries: dict[Hashable, Entry] = {}
        self.find: Callable[[Hashable], Entry | None] = self.entries.get
        self.evictions = 0
        self.past_hits = 0
        self._oldest: Entry | None = None
        self._newest: Entry | None = None
        self._hand: Entry | None = None

    def insert(self, entry: Entry, now: float) -> list[Entry]:
        """Store `entry` in place of its key's previous one, evicting another if there is no room.

        Returns the entries that had to go, so that the caller drops them (and runs whatever
        finalizers their values have) after releasing the lock.
        """
        gone = []
        while len(self.entries) >= self.maxsize or entry.key in self.entries:
            if entry.key in self.entries:
                there = self.entries[entry.key]
            else:
                there = self._victim(now)
                self.evictions += 1
            gone.append(there)
            self.remove(there)
        entry.older = self._newest
        if self._newest is None:
            self._oldest = entry
        else:
            self._newest.newer = entry
        self._newest = entry
        self.entries[entry.key] = entry
        return gone

    def remove(self, entry: Entry) -> bool:
        """Take `entry` out if it is still stored; tell whether it was."""
        if entry.older is None and entry is not self._oldest:
            return False
        self.past_hits += entry.hits
        if self._hand is entry:
            self._hand = entry.newer
        if entry.older is None:
            self._oldest = entry.newer
        else:
            entry.older.newer = entry.newer
        if entry.newer is None:
            self._newest = entry.older
        else:
            entry.newer.older = entry.older
        entry.older = entry.newer = None
        del self.entries[entry.key]
        return True

    def clear(self) -> list[Entry]:
        """Empty the storage in place; return what was in it, for the caller to drop unlocked."""
        gone = []
        while self._oldest is not None:
            gone.append(self._oldest)
            self.remove(self._oldest)
        return gone

    def relink(self) -> None:
        """Rebuild the queue from the dict: after a fork another thread may have left it half-linked."""
        self._oldest = self._newest = self._hand = None
        for entry in self.entries.values():
            entry.older, entry.newer = self._newest, None
            if self._newest is None:
                self._oldest = entry
            else:
                self._newest.newer = entry
            self._newest = entry

    def _victim(self, now: float) -> Entry:
        entry = self._hand or self._oldest
        assert entry is not None, "a storage without room has an oldest entry"
        # Bounded by one round: other threads may mark entries as fast as the hand clears them.
        for _ in range(len(self.entries)):
            if entry.hits == entry.swept or entry.deadline <= now:
                break
            entry.swept = entry.hits
            entry = entry.newer or self._oldest
            assert entry is not None, "the queue is circular for the hand"
        self._hand = entry
        return entry
