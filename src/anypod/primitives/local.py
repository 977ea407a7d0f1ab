"""The local layer: values that one process may keep for a stated time, the `lru_cache` replacement.

    rates = LocalCache("rates", ttl=300.0)
    rate = rates.get_or_load("EUR", lambda: fetch_rate("EUR"))

    @cached(ttl=300.0)
    def rate_of(currency: str) -> float: ...

Another replica has its own: what it holds may be older by up to `ttl`. That is the promise a local cache
makes, and it is declared here, where `anypod prove` reads it (`LIVE`).

Invariants:
- Never older than `ttl`: the time counts from the *start* of the load, on the monotonic clock.
- Never more than `maxsize` entries; what must go is chosen by SIEVE.
- A hit takes no lock. Everything that changes the entries holds the lock of the flights, so that an
  invalidation and the landing of a load that began before it cannot pass each other.
- A value is dropped after the lock is released: its finalizer may use the cache.
- None is a value.
"""

from __future__ import annotations

import math
import os
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar, cast

from anypod.durations import check_durations, is_duration, is_number, shown
from anypod.errors import ConfigurationError
from anypod.primitives.local_flight import Berth, Landed, ReentrantLoad, SingleFlight
from anypod.primitives.local_key import typed_key
from anypod.primitives.local_sieve import Entry, Owner, Sieve
from anypod.primitives.local_wrapper import Cached, wrap

__all__ = ["LIVE", "Cached", "LocalCache", "ReentrantLoad", "Stats", "cached"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LIVE: Final[weakref.WeakSet[LocalCache]] = weakref.WeakSet()
"""Every local cache of this process, the decorators' included."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a cache has done so far. Counted without a lock: under threads a few may be missing."""

    hits: int
    misses: int
    loads: int
    evictions: int
    size: int
    maxsize: int


class LocalCache:
    """A bounded cache in this process whose entries expire.

    Args:
        name: for people and reports.
        ttl: seconds after which a value is no longer served; how stale another replica may be.
        maxsize: the most entries it holds.
        jitter: 0 to below 1; shortens each entry's time by a random part of up to this, so that what
            was loaded together does not expire together.
        clock: monotonic seconds; tests pass their own.

    Raises:
        ConfigurationError: a `ttl`, `maxsize` or `jitter` out of range.
    """

    __slots__ = (
        "__weakref__", "_flights", "_loads", "_misses", "_offset", "_orphaned", "_sieve",
        "clock", "find", "jitter", "maxsize", "name", "ttl",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        *,
        ttl: float,
        maxsize: int = 1024,
        jitter: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_durations(f"cache {name!r}", ttl=ttl)
        if type(maxsize) is not int or maxsize < 1:
            raise ConfigurationError(
                f"cache {name!r}: maxsize must be an int, at least 1, not {shown(maxsize)}"
            )
        if not (is_number(jitter) and 0 <= jitter < 1):
            raise ConfigurationError(
                f"cache {name!r}: jitter must be from 0 to below 1, not {shown(jitter)}; 0 adds none"
            )
        self.name = name
        self.ttl = float(ttl)
        self.maxsize = maxsize
        self.jitter = jitter
        self.clock = clock
        self._sieve = Sieve(maxsize)
        self.find: Callable[[Hashable], Entry | None] = (
            self._sieve.find
        )  # by typed key, fresh or not
        self._flights = SingleFlight(name)
        self._orphaned = _orphaned(weakref.ref(self))
        self._offset = 0.0
        self._misses = 0
        self._loads = 0
        LIVE.add(self)

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value at `key` if it is here and fresh, else `default`."""
        entry = self.find(key if type(key) is str else typed_key(key))
        if entry is not None and self.clock() < entry.deadline:
            entry.hits += 1
            return entry.value
        self._misses += 1
        if entry is not None:
            with self._flights.lock:
                self._sieve.remove(entry)
        return default

    def put(self, key: Hashable, value: Any, *, ttl: float | None = None) -> None:
        """Keep `value` at `key`; a load of it that is under way is not kept.

        Args:
            key: what to find it by.
            value: what to keep; it is not copied.
            ttl: seconds, at most the cache's own, which is its default.

        Raises:
            ValueError: a `ttl` that is not positive, or longer than the cache declares.
        """
        if ttl is None:
            ttl = self._lifetime()
        elif not (is_duration(ttl) and ttl <= self.ttl):
            raise ValueError(
                f"cache {self.name!r}: ttl must be seconds above 0 and at most the {self.ttl:g} s that the "
                f"cache declares, not {shown(ttl)}; declare more, or keep it for less"
            )
        stored = typed_key(key)
        now = self.clock()
        entry = Entry(stored, value, now + ttl)
        with self._flights.lock:
            self._flights.detach(stored)
            gone = self._sieve.insert(entry, now)
        del gone  # outside the lock

    def get_or_load(self, key: Hashable, loader: Callable[[], T]) -> T:
        """The value at `key`, loaded by at most one caller of this process at a time.

        Args:
            key: what to find it by.
            loader: called without arguments on a miss; what it raises reaches every waiting caller
                and is not kept.

        Raises:
            ReentrantLoad: the loader asks for the same key again.
        """
        stored = key if type(key) is str else typed_key(key)
        entry = self.find(stored)
        if entry is not None and self.clock() < entry.deadline:
            entry.hits += 1
            return cast(T, entry.value)
        return self.load(stored, loader)

    async def aget_or_load(self, key: Hashable, loader: Callable[[], Awaitable[T]]) -> T:
        """The same for a loader that is awaited; it runs in a task of its own.

        A cancelled caller leaves; the load goes on for the others and is cancelled with the last one.
        Callers of `get_or_load` in other threads, and tasks of other event loops, share the flight.
        """
        stored = key if type(key) is str else typed_key(key)
        entry = self.find(stored)
        if entry is not None and self.clock() < entry.deadline:
            entry.hits += 1
            return cast(T, entry.value)
        return await self.aload(stored, loader)

    def invalidate(self, key: Hashable) -> bool:
        """Forget `key`; a load of it that began before is not kept. Tell whether it was here."""
        return self.forget(typed_key(key))

    def clear(self) -> None:
        """Forget everything; no load that began before is kept."""
        with self._flights.lock:
            self._flights.detach_all()
            gone = self._sieve.clear()
        del gone  # outside the lock

    def stats(self) -> Stats:
        """What the cache has done so far."""
        with self._flights.lock:
            entries = self._sieve.entries
            return Stats(
                hits=self._sieve.past_hits + sum(entry.hits for entry in entries.values()),
                misses=self._misses,
                loads=self._loads,
                evictions=self._sieve.evictions,
                size=len(entries),
                maxsize=self.maxsize,
            )

    def advance(self, seconds: float) -> None:
        """Move this cache's clock forward, and no other's: for tests and for `anypod prove`.

        Raises:
            ValueError: a negative number of seconds; what has expired does not come back.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(
                f"cache {self.name!r}: advance({seconds!r}) must be a number of seconds ≥ 0"
            )
        with self._flights.lock:
            # Shifting the deadlines instead of the clock keeps the hit path free of an addition.
            self._offset += seconds
            for entry in self._sieve.entries.values():
                entry.deadline -= seconds

    def __len__(self) -> int:
        return len(self._sieve.entries)

    def __repr__(self) -> str:
        return (
            f"LocalCache({self.name!r}, ttl={self.ttl:g}, maxsize={self.maxsize}) with {len(self)}"
        )

    # --- for the decorator and the shared layer: keys are typed already ---------------------------

    def load(
        self,
        stored: Hashable,
        loader: Callable[[], T],
        owner: Owner | None = None,
    ) -> T:
        """What a miss of the typed key `stored` does; `owner` is whose it is."""
        self._misses += 1
        return self._flights.run(stored, loader, self._berth(stored, owner))

    async def aload(
        self,
        stored: Hashable,
        loader: Callable[[], Awaitable[T]],
        owner: Owner | None = None,
    ) -> T:
        """What a miss of the typed key `stored` does, awaiting."""
        self._misses += 1
        return await self._flights.arun(stored, loader, self._berth(stored, owner))

    def forget(self, stored: Hashable) -> bool:
        """`invalidate` for a typed key."""
        with self._flights.lock:
            self._flights.detach(stored)
            entry = self._sieve.find(stored)
            return entry is not None and self._sieve.remove(entry)

    def owner(self, instance: object, stored: Hashable) -> Owner:
        """Tie the entry of `stored` to an instance: it goes when the instance does.

        Its key holds the instance's address, which another may have the moment the instance is gone;
        the callback runs before that.

        Raises:
            TypeError: the instance's class allows no weak references.
        """
        owner = Owner(instance, self._orphaned)
        owner.key = stored
        return owner

    def disown(self, owner: Owner) -> None:
        """Forget the entry that belonged to an instance which is gone."""
        with self._flights.lock:
            entry = self._sieve.find(owner.key)
            if entry is not None and entry.owner is owner:
                self._sieve.remove(entry)

    def relink(self) -> None:
        """Be whole again in a forked child, where a change of another thread may have stopped halfway."""
        self._sieve.relink()

    def _lifetime(self) -> float:
        return self.ttl if not self.jitter else self.ttl * (1.0 - self.jitter * random.random())

    def _berth(self, stored: Hashable, owner: Owner | None) -> Berth:
        started = self.clock() + self._offset

        def find() -> Landed | None:
            entry = self._sieve.find(stored)
            if entry is None or self.clock() >= entry.deadline:
                self._loads += 1
                return None
            entry.hits += 1
            return Landed(entry.value)

        def keep(value: Any) -> object:
            now = self.clock()
            deadline = started - self._offset + self._lifetime()
            if now >= deadline:
                return None
            return self._sieve.insert(Entry(stored, value, deadline, owner), now)

        return Berth(find, keep)


def _orphaned(cache: weakref.ref[LocalCache]) -> Callable[[Owner], None]:
    """What happens when an instance that has entries is gone. Must not keep the cache alive."""

    def forget(owner: Owner) -> None:
        living = cache()
        if living is not None:
            living.disown(owner)

    return forget


def cached(
    *,
    ttl: float,
    maxsize: int = 1024,
    name: str | None = None,
    key: Callable[..., Hashable] | None = None,
    jitter: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Callable[P, R]], Cached[P, R]]:
    """Cache a function's results, sync or async, by its arguments.

    Arguments are bound to the signature first: `f(1)`, `f(a=1)` and `f(1, b=<its default>)` are one
    call. They are told apart by type and value: `f(1)`, `f("1")`, `f(True)` and `f(1.0)` are four.

    On a method, results belong to the instance, found by its identity and never by `==`; it is held
    weakly, so that the cache keeps no instance alive and a new one never sees what an old one left.
    To share results between equal instances, give a `key`.

    Args:
        ttl: seconds after which a result is no longer served.
        maxsize: the most results it holds, over all arguments and instances.
        name: for people and reports; the function's qualified name by default.
        key: computes the key from the same arguments instead; must be cheap and hashable.
        jitter: as in `LocalCache`.
        clock: as in `LocalCache`.

    Raises:
        TypeError: on something whose results cannot be shared, such as a generator function.
        ConfigurationError: a `ttl`, `maxsize` or `jitter` out of range.
    """

    def decorate(function: Callable[P, R]) -> Cached[P, R]:
        module = getattr(function, "__module__", "")
        qualified = getattr(function, "__qualname__", repr(function))
        cache = LocalCache(
            name or f"{module}.{qualified}",
            ttl=ttl,
            maxsize=maxsize,
            jitter=jitter,
            clock=clock,
        )
        return wrap(function, cache, key)

    return decorate


def _after_fork() -> None:
    for cache in list(LIVE):
        cache.relink()


os.register_at_fork(after_in_child=_after_fork)
