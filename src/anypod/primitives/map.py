"""A map that every replica sees: what replaces a dict in a module.

Invariants:
    - `update` is a compare-and-swap: the function sees the value that stands, and what it returns is
      written only if that value still stands; otherwise it is called again;
    - a write that carries a fencing token is refused once a larger token has written, so that a holder
      whose lock was taken over cannot undo its successor's work;
    - values are data and come back equal, or decoded into the map's `type`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from anypod.commands import MAX_INTEGER, Get, Page, Put, Scan, Stored, Versioned
from anypod.durations import check_durations, shown
from anypod.errors import Conflict, LeaseLost, RecordError
from anypod.flow import Call, Flow, Sleep, arun, run
from anypod.keys import Key, decode, encode
from anypod.serializer import Serializer, Undecodable

if TYPE_CHECKING:
    from anypod.stores import Store

V = TypeVar("V")
D = TypeVar("D")

ATTEMPTS: Final = 64  # of an update before it gives up
_FIRST_PAUSE: Final = 0.001  # seconds; doubled up to the longest, of which a random part is slept
_LONGEST_PAUSE: Final = 0.1
_VERSIONS: Final = "give the version that entry() or set() gave, or 0 for no value"
_TOKENS: Final = "give hold.token of the lock under which this is written, or leave it out"
LARGEST_PAGE: Final = 10_000  # values
_UNFENCED: Final = 0


class Entry(NamedTuple, Generic[V]):
    """A value and its version, for a later write that expects it unchanged."""

    value: V
    version: int


class Map(Generic[V]):
    """A family of values, one per key. Made by `State.map`.

    Args:
        store: where the values are.
        name: names the map.
        type: what to decode values into; None keeps plain data.
        ttl: seconds that a value lives after it was written; None for ever.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        type: Any = None,  # noqa: A002  # the field's term
        ttl: float | None = None,
    ) -> None:
        if ttl is not None:
            check_durations(f"map {name!r}", ttl=ttl)
        self.name = name
        self._store = store
        self._ttl = ttl
        self._serializer: Serializer[V] = Serializer(type, owner=f"map {name!r}")
        self._prefix = ""

    def get(self, key: Key, default: D | None = None) -> V | D | None:
        """The value at `key`, or the default."""
        return run(self._store, self._get(key, default))

    async def aget(self, key: Key, default: D | None = None) -> V | D | None:
        """`get`, awaiting."""
        return await arun(self._store, self._get(key, default))

    def entry(self, key: Key) -> Entry[V] | None:
        """The value at `key` with its version, or None."""
        return run(self._store, self._entry(key))

    async def aentry(self, key: Key) -> Entry[V] | None:
        """`entry`, awaiting."""
        return await arun(self._store, self._entry(key))

    def set(
        self, key: Key, value: V, *, expect: int | None = None, fence: int | None = None
    ) -> int:
        """Write a value and return its version.

        Args:
            key: where.
            value: plain data, or a value of the map's `type`.
            expect: write only over this version; 0 only if there is no value.
            fence: the fencing token of the lock under which this is written.

        Raises:
            Conflict: another version stands there; nothing was written.
            LeaseLost: a holder with a larger token has written; nothing was written.
            ValueError: a version or token that is none; nothing was written.
        """
        return run(self._store, self._set(key, value, expect, fence))

    async def aset(
        self, key: Key, value: V, *, expect: int | None = None, fence: int | None = None
    ) -> int:
        """`set`, awaiting."""
        return await arun(self._store, self._set(key, value, expect, fence))

    def delete(self, key: Key, *, expect: int | None = None) -> None:
        """Remove the value at `key`, if there is one.

        Raises:
            Conflict: another version than `expect` stands there; nothing was removed.
        """
        run(self._store, self._delete(key, expect))

    async def adelete(self, key: Key, *, expect: int | None = None) -> None:
        """`delete`, awaiting."""
        await arun(self._store, self._delete(key, expect))

    def update(
        self, key: Key, function: Callable[[V | D | None], V], default: D | None = None
    ) -> V:
        """Replace the value by what the function makes of it, atomically, and return that.

        Args:
            key: where.
            function: gets the value that stands (a copy of its own), or the default, and returns the
                new one. It may be called several times and must have no other effect.
            default: what stands for an absent value.

        Raises:
            Conflict: others kept changing the value for 64 attempts; nothing was written.
        """
        return run(self._store, self._update(key, function, default))

    async def aupdate(
        self,
        key: Key,
        function: Callable[[V | D | None], V | Awaitable[V]],
        default: D | None = None,
    ) -> V:
        """`update`, awaiting; the function may be a coroutine function."""
        return await arun(self._store, self._update(key, function, default))

    def items(self, *, page: int = 100) -> Iterator[tuple[Any, V]]:
        """All keys with their values, fetched page by page.

        What is there from the beginning to the end of the walk is met once; what comes or goes
        meanwhile is met or not.

        Args:
            page: about how many to fetch at a time, 10,000 at most.
        """
        self._number("page", page, 1, LARGEST_PAGE, "a walk meets all, in pages")
        return self._items(page)

    def _items(self, page: int) -> Iterator[tuple[Any, V]]:
        after: str | None = ""
        met: dict[str, None] = {}
        while after is not None:
            found = run(self._store, self._scan(after, page))
            yield from self._decoded(found, met)
            after = found.after

    def aitems(self, *, page: int = 100) -> AsyncIterator[tuple[Any, V]]:
        """`items`, awaiting each page."""
        self._number("page", page, 1, LARGEST_PAGE, "a walk meets all, in pages")
        return self._aitems(page)

    async def _aitems(self, page: int) -> AsyncIterator[tuple[Any, V]]:
        after: str | None = ""
        met: dict[str, None] = {}
        while after is not None:
            found = await arun(self._store, self._scan(after, page))
            for item in self._decoded(found, met):
                yield item
            after = found.after

    def _address(self, key: Key) -> str:
        text = encode(key)
        try:
            decode(text)
        except ValueError as failure:
            raise TypeError(
                f"map {self.name!r}: {failure}; a map gives its keys back, so a key must be short and "
                f"without Enum members"
            ) from failure
        return self._begin() + text

    def _begin(self) -> str:
        if not self._prefix:
            self._prefix = self._store.prefix("map", self.name)
        return self._prefix

    def _decode(self, stored: Versioned) -> V:
        try:
            return self._serializer.decode(stored.value)
        except Undecodable as failure:
            raise RecordError(f"map {self.name!r}: a stored value: {failure}") from failure

    def _get(self, key: Key, default: D | None) -> Flow[V | D | None]:
        stored: Versioned | None = yield Get(self._address(key))
        return default if stored is None else self._decode(stored)

    def _entry(self, key: Key) -> Flow[Entry[V] | None]:
        stored: Versioned | None = yield Get(self._address(key))
        return None if stored is None else Entry(self._decode(stored), stored.version)

    def _set(self, key: Key, value: V, expect: int | None, fence: int | None) -> Flow[int]:
        self._number("expect", expect, 0, MAX_INTEGER, _VERSIONS)
        self._number("fence", fence, 1, MAX_INTEGER, _TOKENS)
        encoded = self._serializer.encode(value)
        put = Put(self._address(key), encoded, self._ttl, expect, fence or _UNFENCED)
        stored: Stored = yield put
        standing = 0 if stored.current is None else stored.current.version
        if stored.written:
            return standing
        if expect is not None and expect != standing:
            raise Conflict(
                f"map {self.name!r}: version {standing or 'none'} stands where {expect} was expected; "
                f"read it again, or use update()"
            )
        raise LeaseLost(
            f"map {self.name!r}: a holder with a larger fencing token than {fence} has written; the "
            f"lock was taken over, and this value was not written"
        )

    def _number(self, what: str, number: int | None, least: int, most: int, remedy: str) -> None:
        if number is not None and (type(number) is not int or not least <= number <= most):
            raise ValueError(
                f"map {self.name!r}: {what} must be an int from {least} to {most:,}, not {shown(number)}; "
                f"{remedy}"
            )

    def _delete(self, key: Key, expect: int | None) -> Flow[None]:
        self._number("expect", expect, 0, MAX_INTEGER, _VERSIONS)
        stored: Stored = yield Put(self._address(key), None, None, expect)
        if not stored.written:
            standing = 0 if stored.current is None else stored.current.version
            raise Conflict(
                f"map {self.name!r}: version {standing or 'none'} stands where {expect} was expected; "
                f"nothing was removed"
            )

    def _update(self, key: Key, function: Callable[[Any], Any], default: D | None) -> Flow[V]:
        address = self._address(key)
        current: Versioned | None = yield Get(address)
        for attempt in range(ATTEMPTS):
            old = default if current is None else self._decode(current)
            new: V = yield Call(lambda old=old: function(old))  # type: ignore[misc]
            expect = 0 if current is None else current.version
            stored: Stored = yield Put(address, self._serializer.encode(new), self._ttl, expect)
            if stored.written:
                return new
            current = stored.current
            longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
            yield Sleep(random.random() * longest)
        raise Conflict(
            f"map {self.name!r}: others kept changing this value for {ATTEMPTS} attempts; nothing was "
            f"written. Split what is contended into several keys, or use a counter or a lock"
        )

    def _scan(self, after: str, page: int) -> Flow[Page]:
        found: Page = yield Scan(self._begin(), after, page)
        return found

    def _decoded(self, page: Page, met: dict[str, None]) -> Iterator[tuple[Any, V]]:
        begin = len(self._begin())
        for key, stored in page.items:
            if key not in met:
                met[key] = None
                yield decode(key[begin:]), self._decode(stored)
