"""A cache that every replica shares: what one invalidates, no replica serves again.

    data = state.cache("data", ttl=300.0)
    item = data.get_or_load(item_id, lambda: database.fetch(item_id))
    ...
    database.update(item_id, ...)
    data.invalidate(item_id)          # after the write is committed

A value is fresh for `ttl` seconds and, for `stale` seconds more, served while somebody loads it again
or while loading fails. The right to load is a lease in the store: one replica loads, the others wait,
and an invalidation voids the lease, so that a load which began before cannot be stored after it
(leases: Nishtala et al., NSDI'13). Shortly before its end a value is loaded again by one reader in
advance (XFetch: Vattani, Chierichetti, Lowenstein, VLDB 2015).

Invariants:
    - a call that begins after `invalidate` or `put` returned, on any replica, does not get the value
      from before: every call reads the store itself, and a caller who waits for another's load takes
      its value only if the store accepted it, which it does only if nothing intervened;
    - a hit costs one exchange, also with tags (`tags.py`), a miss two and the load;
    - callers get values of their own, decoded from the stored form, also the one who loaded;
    - what cannot be decoded is a miss and is replaced;
    - a failed invalidation raises; nothing else has to fail when the store does (`unavailable`).
"""

from __future__ import annotations

import inspect
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast, overload

from msgspec import Struct

from anypod.commands import (
    CacheFill,
    CacheInvalidate,
    CacheRead,
    CacheRelease,
    CacheReply,
    Filled,
)
from anypod.durations import check_durations, check_spans, check_ttl, is_number, shown
from anypod.errors import ConfigurationError, RecordError, StoreError
from anypod.flow import Call, Flow, Sleep, arun, run
from anypod.keys import Key, encode
from anypod.primitives.cache_flight import Answer, Flights, Fly
from anypod.primitives.degraded import degraded
from anypod.primitives.tags import Addresses, Tags
from anypod.serializer import Serializer, Undecodable

if TYPE_CHECKING:
    from anypod.stores import Store

T = TypeVar("T")
D = TypeVar("D")

_log: Final = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.01  # seconds between two looks at a load elsewhere: doubled each time
_LONGEST_PAUSE: Final = 0.25
_LOG_EVERY: Final = 10.0  # seconds between two log lines about the same trouble


class _Want(Struct, frozen=True):
    """What a caller wants.

    Attributes:
        address: where the value is.
        tags: where the counters of its tags are.
        loader: what loads it.
        life: seconds for which it is fresh then.
        patience: until when to wait for others, on this process's monotonic clock.
    """

    address: str
    tags: Addresses
    loader: Callable[[], Any] | None
    life: float
    patience: float


class Cache(Generic[T]):
    """Values that all replicas share for a while. Made by `State.cache`.

    Args:
        store: where the values are.
        name: names the cache: 1 to 100 letters, digits, `_`, `.` or `-`.
        ttl: seconds for which a value is fresh.
        stale: seconds after that for which it is still served while it is being loaded again, or when
            loading fails.
        type: what to decode values into; None keeps plain data.
        schema: change it when the meaning of the values changes: a deploy then reads none of the old.
        lease: seconds that a load may take; one that takes longer is answered but not stored if
            another began meanwhile.
        wait: seconds to wait for a load elsewhere before loading alone.
        beta: how eagerly a value is loaded again before its end, in multiples of its load time; 0 never.
        jitter: 0 to below 1; shortens each value's `ttl` by a random part of up to this.
        unavailable: what a read does without the store: "allow" loads without it, and says so in the log;
            "raise" raises.

    Raises:
        ConfigurationError: an option out of range.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        ttl: float,
        stale: float = 0.0,
        type: Any = None,  # noqa: A002  # the field's term
        schema: str = "",
        lease: float = 10.0,
        wait: float = 5.0,
        beta: float = 1.0,
        jitter: float = 0.0,
        unavailable: Literal["allow", "raise"] = "allow",
    ) -> None:
        check_durations(f"cache {name!r}", ttl=ttl, lease=lease)
        if not isinstance(schema, str):
            raise ConfigurationError(f"cache {name!r}: schema must be a str, not {shown(schema)}")
        check_spans(f"cache {name!r}", stale=stale, wait=wait)
        if not (is_number(beta) and 0 <= beta < math.inf):
            raise ConfigurationError(
                f"cache {name!r}: beta must be a number from 0 on, not {shown(beta)}; 0 never loads early"
            )
        if not (is_number(jitter) and 0 <= jitter < 1):
            raise ConfigurationError(
                f"cache {name!r}: jitter must be from 0 to below 1, not {shown(jitter)}; 0 adds none"
            )
        if unavailable not in ("allow", "raise"):
            raise ConfigurationError(
                f"cache {name!r}: unavailable must be 'allow' or 'raise', not {unavailable!r}"
            )
        self.name = name
        self.ttl = float(ttl)
        self.stale = float(stale)
        self.lease = lease
        self.wait = wait
        self.beta = beta
        self.jitter = jitter
        self.unavailable = unavailable
        self.schema = schema
        self._store = store
        self._type = type
        self._serializer: Serializer[T] = Serializer(type, owner=f"cache {name!r}")
        self._flights = Flights(store, name)
        self._tags = Tags(store, name, schema)
        self._prefix = ""
        self._logged = -math.inf

    @overload
    def get(self, key: Key, *, tags: Iterable[Key] = ()) -> T | None: ...
    @overload
    def get(self, key: Key, default: D, *, tags: Iterable[Key] = ()) -> T | D: ...
    def get(self, key: Key, default: D | None = None, *, tags: Iterable[Key] = ()) -> T | D | None:
        """The value at `key` while it is fresh, else `default`. Loads nothing.

        Args:
            key: what to find it by.
            default: what to answer where there is none.
            tags: those that it was stored with, in any order.

        Raises:
            StoreError: only with `unavailable="raise"`.
        """
        return run(self._store, self._get(key, default, tags))

    @overload
    async def aget(self, key: Key, *, tags: Iterable[Key] = ()) -> T | None: ...
    @overload
    async def aget(self, key: Key, default: D, *, tags: Iterable[Key] = ()) -> T | D: ...
    async def aget(
        self, key: Key, default: D | None = None, *, tags: Iterable[Key] = ()
    ) -> T | D | None:
        """`get`, awaiting."""
        return await arun(self._store, self._get(key, default, tags))

    def get_or_load(
        self,
        key: Key,
        loader: Callable[[], T],
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
    ) -> T:
        """The value at `key`, loaded by one caller on one replica if it is not there.

        Args:
            key: what to find it by.
            loader: called without arguments when this caller has to load; what it raises reaches
                everybody who waits for it in this process, and nothing is stored, unless an old value
                may still be served.
            ttl: seconds for which a value loaded now is fresh, instead of the cache's own.
            tags: what else forgets the value (`invalidate_tag`), at most 16; the same ones wherever
                this key is read or stored.

        Raises:
            ReentrantLoad: the loader asks for the same key again.
            TypeError: the loaded value would not come back equal, or is not of the cache's type.
            StoreError: only with `unavailable="raise"`.
        """
        want = self._want(key, loader, ttl, tags)
        return run(self._store, self._get_or_load(want, self._flights.fly))

    async def aget_or_load(
        self,
        key: Key,
        loader: Callable[[], Awaitable[T] | T],
        *,
        ttl: float | None = None,
        tags: Iterable[Key] = (),
    ) -> T:
        """`get_or_load`, awaiting; a cancelled caller harms no other who waits for the same load."""
        want = self._want(key, loader, ttl, tags)
        return await arun(self._store, self._get_or_load(want, self._flights.afly))

    def put(
        self, key: Key, value: T, *, ttl: float | None = None, tags: Iterable[Key] = ()
    ) -> None:
        """Store `value`, whatever stands there; a load that began before is not stored any more.

        Args:
            key: what to find it by.
            value: what to store.
            ttl: seconds for which it is fresh, instead of the cache's own.
            tags: as for `get_or_load`; one that was invalidated before this call does not touch the value.

        Raises:
            TypeError: the value would not come back equal, or is not of the cache's type.
            StoreError: it was not stored, or nobody knows; see its class.
        """
        run(self._store, self._put(key, value, ttl, tags))

    async def aput(
        self, key: Key, value: T, *, ttl: float | None = None, tags: Iterable[Key] = ()
    ) -> None:
        """`put`, awaiting."""
        await arun(self._store, self._put(key, value, ttl, tags))

    def invalidate(self, key: Key) -> None:
        """Forget the value at `key` on every replica, and void every load of it that has begun.

        Call it after the write that it is for was committed.

        Raises:
            StoreError: the old value may still be served until its `ttl` is over; invalidate again.
        """
        run(self._store, self._invalidate(key))

    async def ainvalidate(self, key: Key) -> None:
        """`invalidate`, awaiting."""
        await arun(self._store, self._invalidate(key))

    def invalidate_tag(self, tag: Key) -> None:
        """Forget every value that was stored with this tag, on every replica, and whatever is being loaded.

        One command, however many they are. Call it after the write that it is for was committed.

        Raises:
            StoreError: the old values may still be served until their `ttl` is over; invalidate again.
        """
        run(self._store, self._invalidate_tag(tag))

    async def ainvalidate_tag(self, tag: Key) -> None:
        """`invalidate_tag`, awaiting."""
        await arun(self._store, self._invalidate_tag(tag))

    def __repr__(self) -> str:
        return f"Cache({self.name!r}, ttl={self.ttl:g}, stale={self.stale:g})"

    # --- flows ------------------------------------------------------------------------------------

    def _get(self, key: Key, default: D | None, tags: Iterable[Key]) -> Flow[T | D | None]:
        want = self._want(key, None, None, tags)
        reply, _ = yield from self._look(want, lease=0.0, early=0.0)
        if reply is None or reply.payload is None or reply.stale:
            return default
        try:
            return self._serializer.decode(reply.payload)
        except Undecodable:
            return default

    def _get_or_load(self, want: _Want, fly: Fly) -> Flow[T]:
        mended = False
        while True:
            reply, mark = yield from self._look(want, lease=self.lease, early=self._early())
            if reply is not None and reply.payload is not None and reply.lease is None:
                answer = Answer(reply.payload, mark, shared=False)
            else:
                flow, displace = self._flight(want, reply, mark)
                answer, led = yield Call(partial(fly, want.address, flow, displace))
                if not led and not (answer.shared and answer.mark == mark):
                    # It may be older than this call: look again, for as long as there is patience.
                    if time.monotonic() < want.patience:
                        continue
                    answer = yield from self._load_alone(want, mark, shared=False)
            try:
                return self._serializer.decode(answer.payload)
            except Undecodable as failure:
                if mended:
                    raise RecordError(
                        f"cache {self.name!r}: another replica stores what this one cannot decode "
                        f"({failure}); give the new version of the values another schema="
                    ) from failure
                mended = True
                yield CacheInvalidate(want.address, self._memory)

    def _flight(
        self, want: _Want, reply: CacheReply | None, mark: str
    ) -> tuple[Callable[[], Flow[Answer]], bool]:
        """What to do after a look that brought no value to serve, and whether to lead in any case."""
        if reply is None:
            return partial(self._load_alone, want, mark, shared=True), False
        if reply.lease is not None:
            return partial(self._load, want, mark, reply.lease, reply.payload), True
        return partial(self._wait, want, mark, reply.lease_left), False

    def _load(self, want: _Want, mark: str, lease: int, old: bytes | None) -> Flow[Answer]:
        """Load and store under the lease; `old` is what may still be served."""
        began = time.monotonic()
        try:
            payload = yield from self._loaded(want.loader)
        except Exception as failure:
            if old is not None:
                # The lease stands until it runs out: so long nobody tries again, and all serve this.
                self._say(
                    "loading failed (%s: %s); serving the old value",
                    type(failure).__name__,
                    failure,
                )
                return Answer(old, mark, shared=False)
            yield from self._release(want.address, lease)
            raise
        except GeneratorExit:
            raise
        except BaseException:
            yield from self._release(want.address, lease)
            raise
        took = time.monotonic() - began
        life = want.life
        fill = CacheFill(want.address, lease, mark, payload, life, life + self.stale, took)
        try:
            filled: Filled = yield fill
        except StoreError as failure:
            if self.unavailable == "raise":
                raise
            self._say("a loaded value could not be stored: %s", failure)
            return Answer(payload, mark, shared=False)
        if not filled.accepted and took > self.lease:
            self._say("a load took %.1f s, longer than its lease of %.1f s", took, self.lease)
        return Answer(payload, mark, shared=filled.accepted)

    def _load_alone(self, want: _Want, mark: str, *, shared: bool) -> Flow[Answer]:
        """Load without storing: the store cannot be reached, or somebody else takes too long."""
        payload = yield from self._loaded(want.loader)
        return Answer(payload, mark, shared)

    def _wait(self, want: _Want, mark: str, left: float) -> Flow[Answer]:
        """Wait for the value that somebody else loads, on another replica or just before us here."""
        pause = _FIRST_PAUSE
        while True:
            rest = want.patience - time.monotonic()
            if rest <= 0:
                return (yield from self._load_alone(want, mark, shared=False))
            yield Sleep(min(pause, rest, max(left, 0.001)))
            pause = min(pause * 2, _LONGEST_PAUSE)
            reply, mark = yield from self._look(want, lease=self.lease, early=0.0)
            if reply is None:
                return (yield from self._load_alone(want, mark, shared=True))
            if reply.lease is not None:
                return (yield from self._load(want, mark, reply.lease, reply.payload))
            if reply.payload is not None:
                return Answer(reply.payload, mark, shared=False)
            left = reply.lease_left

    def _put(self, key: Key, value: T, ttl: float | None, tags: Iterable[Key]) -> Flow[None]:
        want = self._want(key, None, ttl, tags)
        life, payload, mark = want.life, self._encoded(value), self.schema
        self._flights.dismiss(want.address)
        if want.tags:
            mark = yield from self._tags.mark(want.tags, self._needed(want))
        yield CacheFill(want.address, None, mark, payload, life, life + self.stale)
        self._flights.dismiss(want.address)

    def _invalidate(self, key: Key) -> Flow[None]:
        address = self._address(key)
        # Before, so that nobody joins a load that the command is about to void; after, because one may
        # have begun in between.
        self._flights.dismiss(address)
        yield CacheInvalidate(address, self._memory)
        self._flights.dismiss(address)

    def _invalidate_tag(self, tag: Key) -> Flow[None]:
        # A load under way keeps its mark, under which nobody looks for its value any more.
        yield CacheInvalidate(self._tags.address(tag), self._memory)

    # --- steps ------------------------------------------------------------------------------------

    def _look(
        self, want: _Want, *, lease: float, early: float
    ) -> Flow[tuple[CacheReply | None, str]]:
        """Look into the store: the reply, or None if it cannot tell; and the mark of a value loaded now."""
        mark = self.schema
        try:
            if want.tags:
                peek = partial(CacheRead, want.address, lease=0.0)
                mark, reply = yield from self._tags.look(want.tags, self._needed(want), peek)
                if reply is not None and (
                    not lease
                    or (reply.payload is not None and early * reply.load_seconds < reply.soft_left)
                ):
                    return reply, mark
            return (yield CacheRead(want.address, mark, lease, early)), mark
        except RecordError as failure:
            self._say("a record cannot be read and is left as it is: %s", failure)
        except StoreError as failure:
            if self.unavailable == "raise":
                raise
            degraded(self._store, "cache", self.name, self.unavailable, failure)
        return None, mark

    def _release(self, address: str, lease: int) -> Flow[None]:
        try:
            yield CacheRelease(address, lease)
        except StoreError as failure:  # it runs out by itself
            self._say("a lease could not be given back: %s", failure)

    def _loaded(self, loader: Callable[[], Any] | None) -> Flow[bytes]:
        assert loader is not None
        value: Any = yield Call(loader)
        if inspect.iscoroutine(value):
            value.close()
            raise TypeError(
                f"cache {self.name!r}: the loader returned a coroutine; use aget_or_load for it"
            )
        return self._encoded(cast(T, value))

    def _encoded(self, value: T) -> bytes:
        payload = self._serializer.encode(value)
        if self._type is not None:
            try:
                self._serializer.decode(payload)
            except Undecodable as failure:
                raise TypeError(
                    f"cache {self.name!r} holds {self._type!r}, and this value is not one: {failure}"
                ) from failure
        return payload

    # --- odds and ends ----------------------------------------------------------------------------

    def _address(self, key: Key) -> str:
        if not self._prefix:
            self._prefix = self._store.prefix("cache", self.name)
        return self._prefix + encode(key)

    def _want(
        self,
        key: Key,
        loader: Callable[[], Any] | None,
        ttl: float | None,
        tags: Iterable[Key],
    ) -> _Want:
        found = self._tags.addresses(tags) if tags else ()
        patience = time.monotonic() + self.wait
        return _Want(self._address(key), found, loader, self._life(ttl), patience)

    def _needed(self, want: _Want) -> float:
        """Seconds for which the versions of tags must be remembered: as long as what is loaded now."""
        return want.life + self.stale + self.lease

    def _life(self, ttl: float | None) -> float:
        if ttl is None:
            ttl = self.ttl
        else:
            check_ttl(f"cache {self.name!r}", ttl)
        return ttl if not self.jitter else ttl * (1.0 - self.jitter * random.random())

    def _early(self) -> float:
        return -self.beta * math.log(1.0 - random.random()) if self.beta else 0.0

    @property
    def _memory(self) -> float:
        """Seconds for which an invalidation is remembered: longer than any lease given before it."""
        return max(60.0, 2 * self.lease)

    def _say(self, message: str, *details: object) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY:
            self._logged = now
            _log.warning("cache %r: " + message, self.name, *details)
