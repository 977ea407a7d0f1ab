"""One connection per event loop, shared by all of its tasks.

Invariants:
    - the requests of one tick leave in one write, and replies come back in their order;
    - a waiter that is cancelled is skipped when its reply comes, and harms no other;
    - what waits for replies is bounded: past `MOST_WAITING` a caller waits for room;
    - when the connection is lost, a request that was written may have executed (`ReplyLost`), and one
      that was not is written to the next connection, or did not execute.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import hiredis

from anypod.stores.redis.faults import NotSent, ReplyLost
from anypod.stores.redis.links import MISSING, PING

MOST_WAITING: Final = 10_000  # requests without a reply
LARGEST_WRITE: Final = 1024 * 1024  # bytes handed to the transport at once


class Channel(asyncio.Protocol):
    """The connection of one event loop.

    Args:
        dial: makes a connection of redis.asyncio, connected and authenticated.
        timeout: seconds without any reply, while one is due, after which the connection is given up.
    """

    def __init__(self, dial: Callable[[], Awaitable[Any]], timeout: float) -> None:
        self._dial = dial
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._sent: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None
        self._dialled: Any = None
        self._connecting: asyncio.Task[None] | None = None
        self._reader = hiredis.Reader(notEnoughData=MISSING)
        self._flushing = False
        self._paused = False
        self._progress = 0.0  # when the last reply came, or the first request left
        self._watch: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()

    async def exchange(self, payload: bytes) -> Any:
        """Send a request and return its reply; a server's error is returned, not raised.

        Raises:
            NotSent: it did not execute.
            ReplyLost: it may have executed.
            redis.RedisError: connecting failed, so it did not execute.
        """
        while len(self._sent) + len(self._unsent) >= MOST_WAITING:
            self._room.clear()
            await self._room.wait()
        waiter = self._loop.create_future()
        self._unsent.append((payload, waiter))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return await waiter

    def _flush(self) -> None:
        self._flushing = False
        if self._paused:
            return
        if self._transport is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
            return
        while self._unsent and not self._paused:
            pieces: list[bytes] = []
            size = 0
            if not self._sent:
                self._progress = self._loop.time()
            while self._unsent and size < LARGEST_WRITE:
                payload, waiter = self._unsent.popleft()
                if waiter.done():
                    continue  # cancelled before it left
                pieces.append(payload)
                size += len(payload)
                self._sent.append(waiter)
            if pieces:
                self._transport.write(b"".join(pieces))
        if self._sent and self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)

    async def _connect(self) -> None:
        try:
            dialled = await self._dial()
            # redis-py has no other way to hand over its stream.
            transport = dialled._writer.transport  # noqa: SLF001
            self._reader = hiredis.Reader(notEnoughData=MISSING)
            transport.set_protocol(self)
        except Exception as failure:  # noqa: BLE001  # whoever waits for the connection raises it
            self._connecting = None
            self._fail(self._unsent_waiters(), failure)
            return
        except asyncio.CancelledError:
            self._connecting = None
            self._fail(self._unsent_waiters(), NotSent("the store was closed"))
            raise
        self._connecting = None
        self._dialled = dialled
        self._transport = cast(asyncio.Transport, transport)
        self._paused = False
        greeting = self._loop.create_future()
        greeting.add_done_callback(self._greeted)
        self._unsent.appendleft((PING, greeting))
        self._flush()

    def _greeted(self, greeting: asyncio.Future[Any]) -> None:
        if greeting.cancelled() or greeting.exception() is not None:
            return  # the connection was lost, and everybody was told
        if isinstance(greeting.result(), hiredis.ReplyError):
            self._lose(greeting.result())

    def _unsent_waiters(self) -> list[asyncio.Future[Any]]:
        waiters = [waiter for _, waiter in self._unsent]
        self._unsent.clear()
        return waiters

    def _fail(self, waiters: list[asyncio.Future[Any]], failure: Exception) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(failure)
        self._room.set()

    # --- what the transport calls

    def data_received(self, data: bytes) -> None:
        """Give replies to those who wait for them, in order."""
        reader = self._reader
        reader.feed(data)
        sent = self._sent
        try:
            while (reply := reader.gets()) is not MISSING:
                if not sent:
                    self._lose(ReplyLost("the server said something that nobody asked for"))
                    return
                waiter = sent.popleft()
                if not waiter.done():
                    waiter.set_result(reply)
        except hiredis.ProtocolError as failure:
            self._lose(failure)
            return
        self._progress = self._loop.time()
        if not self._room.is_set() and len(sent) < MOST_WAITING // 2:
            self._room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those whose requests were written; the others get another connection."""
        if self._transport is not None:
            detail = f" ({exc})" if exc else ""
            self._lose(ReplyLost(f"the request left, and the server closed the connection{detail}"))

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write what has come meanwhile."""
        self._paused = False
        if self._unsent:
            self._flush()

    def eof_received(self) -> bool:
        """Half-closed is closed: no reply can be trusted to come."""
        return False

    # --- giving up

    def _look(self) -> None:
        self._watch = None
        if not self._sent:
            return
        left = self._progress + self._timeout - self._loop.time()
        if left <= 0:
            self._lose(ReplyLost(f"the request left, and no reply came within {self._timeout:g} s"))
        else:
            self._watch = self._loop.call_later(left, self._look)

    def _lose(self, failure: Exception) -> None:
        transport, self._transport = self._transport, None
        sent = list(self._sent)
        self._sent.clear()
        self._paused = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if transport is not None:
            transport.abort()
        if self._dialled is not None:
            self._dialled._writer = None  # noqa: SLF001  # its stream is closed; it would warn that not
            self._dialled = None
        self._fail(sent, failure)
        if self._unsent:
            self._flush()

    async def aclose(self) -> None:
        """Close the connection; what is under way is told."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._fail(self._unsent_waiters(), NotSent("the store was closed"))
        self._lose(ReplyLost("the store was closed before the reply came"))
