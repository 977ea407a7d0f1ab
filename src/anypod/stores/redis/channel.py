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
import select
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hiredis

from anypod.stores.redis.faults import NotSent, ReplyLost
from anypod.stores.redis.links import MISSING, PING

MOST_WAITING: Final = 10_000  # requests without a reply
LARGEST_WRITE: Final = 1024 * 1024  # bytes handed to the transport at once


class _Wire(asyncio.Protocol):
    """One connected transport, whose replies go to the channel for as long as it is the channel's."""

    def __init__(self, channel: Channel, dialled: Any) -> None:
        self._channel = channel
        self._dialled = dialled
        self._reader = hiredis.Reader(notEnoughData=MISSING)
        self.paused = False
        # redis-py has no other way to hand over its stream.
        self._transport = cast(asyncio.Transport, dialled._writer.transport)  # noqa: SLF001
        self._transport.set_protocol(self)

        sock = self._transport.get_extra_info("socket")
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self.secure = self._transport.get_extra_info("ssl_object") is not None

    def stirred(self) -> bool:
        """Whether something has arrived that the loop has not seen yet: of an idle wire, its end."""
        return bool(self._poll.poll(0))

    def write(self, payload: bytes) -> None:
        """Hand bytes to the transport."""
        self._transport.write(payload)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
        self._dialled._writer = None  # noqa: SLF001  # its stream is closed; it would warn that not

    def data_received(self, data: bytes) -> None:
        """Give replies to those who wait for them, in order."""
        gets, replied = self._reader.gets, self._channel.replied
        self._reader.feed(data)
        try:
            while (reply := gets()) is not MISSING:
                if not replied(reply):
                    unasked = ReplyLost("the server said something that nobody asked for")
                    self._channel.lost(self, unasked)
                    return
        except hiredis.ProtocolError as failure:
            self._channel.lost(self, failure)
            return
        self._channel.progressed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed."""
        detail = f" ({exc})" if exc else ""
        failure = ReplyLost(f"the request left, and the server closed the connection{detail}")
        self._channel.lost(self, failure)

    def pause_writing(self) -> None:
        """The kernel takes no more for now."""
        self.paused = True

    def resume_writing(self) -> None:
        """The kernel takes more again."""
        self.paused = False
        self._channel.resumed()

    def eof_received(self) -> bool:
        """Half-closed is closed: no reply can be trusted to come."""
        self.connection_lost(None)
        return False


class Channel:
    """The connection of one event loop.

    Args:
        dial: makes a connection of redis.asyncio, connected and authenticated.
        timeout: seconds without any reply, while one is due, after which the connection is given up.
    """

    def __init__(self, dial: Callable[[], Awaitable[Any]], timeout: float) -> None:
        self._dial = dial
        self.timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._sent: deque[asyncio.Future[Any]] = deque()
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flushing = False
        self._deferred = 0
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
        return await self._queued(payload)

    async def pipeline(self, payloads: Sequence[bytes]) -> list[Any]:
        """Send requests together, nobody else's between them, and return their replies.

        Raises:
            NotSent, ReplyLost, redis.RedisError: what `exchange` says, of the first that failed.
        """
        while len(self._sent) + len(self._unsent) >= MOST_WAITING:
            self._room.clear()
            await self._room.wait()
        return await asyncio.gather(*map(self._queued, payloads))

    def _queued(self, payload: bytes) -> asyncio.Future[Any]:
        waiter = self._loop.create_future()
        self._unsent.append((payload, waiter))
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return waiter

    def _flush(self) -> None:
        self._flushing = False
        if self._connecting is not None:
            return
        wire = self._wire
        if wire is None:
            self._connecting = self._loop.create_task(self._connect())
            return
        if not self._sent and wire.stirred() and not self._settled(wire):
            return
        while self._unsent and not wire.paused:
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
                wire.write(b"".join(pieces))
        if self._sent and self._watch is None:
            self._watch = self._loop.call_later(self.timeout, self._look)
        self._make_room()

    def _settled(self, wire: _Wire) -> bool:
        """Deal with an idle wire on which something has happened; True if it may be used now."""
        if not wire.secure:
            self._lose(
                ReplyLost("the server closed the connection")
            )  # nobody has waited for a reply
            return False
        if (
            self._deferred < 2
        ):  # TLS has messages of its own: let the loop read them, or the end, first
            self._deferred += 1
            self._flushing = True
            self._loop.call_soon(self._flush)
            return False
        self._deferred = 0
        return True

    async def _connect(self) -> None:
        failure: Exception
        try:
            wire = await self._greeted()
        except asyncio.CancelledError:
            self._fail(self._unsent_waiters(), NotSent("the store was closed"))
            raise
        except (ReplyLost, hiredis.ProtocolError) as lost:
            failure = NotSent(f"this is not a Redis server, or it does not answer: {lost}")
        except Exception as refused:  # noqa: BLE001  # whoever waits for the connection raises it
            failure = refused
        else:
            self._connecting = None
            self._wire = wire
            self._flush()
            return
        self._connecting = None
        self._fail(self._unsent_waiters(), failure)

    async def _greeted(self) -> _Wire:
        """A connection that has answered a first PING, so that nothing is risked on a stranger."""
        wire = _Wire(self, await self._dial())
        greeting = self._loop.create_future()
        self._sent.append(greeting)
        self._wire = wire
        wire.write(PING)
        try:
            async with asyncio.timeout(self.timeout):
                reply = await greeting
        except TimeoutError:
            self._wire = None
            wire.abort()
            raise ReplyLost(f"no reply within {self.timeout:g} s") from None
        finally:
            self._sent.clear()
        if isinstance(reply, hiredis.ReplyError):
            self._wire = None
            wire.abort()
            raise reply
        return wire

    def _unsent_waiters(self) -> list[asyncio.Future[Any]]:
        waiters = [waiter for _, waiter in self._unsent]
        self._unsent.clear()
        return waiters

    def _fail(self, waiters: list[asyncio.Future[Any]], failure: Exception) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(failure)
        self._room.set()

    # --- what the wire tells

    def replied(self, reply: Any) -> bool:
        """Give a reply to the one who has waited longest; False if nobody waits."""
        if not self._sent:
            return False
        waiter = self._sent.popleft()
        if not waiter.done():
            waiter.set_result(reply)
        return True

    def progressed(self) -> None:
        """Replies came."""
        self._progress = self._loop.time()
        self._make_room()

    def _make_room(self) -> None:
        """Let those go on who wait for room, once half of what may wait has gone."""
        if not self._room.is_set() and len(self._sent) + len(self._unsent) <= MOST_WAITING // 2:
            self._room.set()

    def resumed(self) -> None:
        """The kernel takes more: write what has come meanwhile."""
        if self._unsent:
            self._flush()

    def lost(self, wire: _Wire, failure: Exception) -> None:
        """Tell those whose requests were written; the others get another connection."""
        if wire is self._wire:
            self._lose(failure)

    # --- giving up

    def _look(self) -> None:
        self._watch = None
        if not self._sent:
            return
        left = self._progress + self.timeout - self._loop.time()
        if left <= 0:
            self._lose(ReplyLost(f"the request left, and no reply came within {self.timeout:g} s"))
        else:
            self._watch = self._loop.call_later(left, self._look)

    def _lose(self, failure: Exception) -> None:
        wire, self._wire = self._wire, None
        sent = list(self._sent)
        self._sent.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if wire is not None:
            wire.abort()
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
