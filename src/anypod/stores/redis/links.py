"""Blocking connections: redis-py connects and authenticates, the bytes are ours.

Invariants:
    - nothing is sent twice: a request that did not leave whole may be sent again on a fresh
      connection, a request without a reply never is;
    - a connection is used by one thread at a time, and looked at before it is used again: one that the
      server has closed, or that says something nobody asked for, is thrown away;
    - a connection with an unanswered request is closed, so that no reply can reach a later request.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import hiredis

from anypod.stores.redis.codec import request
from anypod.stores.redis.faults import NotSent, ReplyLost

MOST_IDLE: Final = 32  # connections kept for the next request
CHUNK: Final = 65536  # bytes
MISSING: Final = object()  # hiredis' word for "not all here yet"
PING: Final = request("PING")


class Dialled(Protocol):
    """A connection of redis-py."""

    def connect(self) -> None:
        """Connect, authenticate, select the database."""


class Link:
    """One connected socket.

    Args:
        dialled: a connection of redis-py; its socket is taken over.
        timeout: seconds for a whole exchange.
    """

    __slots__ = ("_buffer", "_poll", "_reader", "_secure", "_sock", "_timeout", "_view")

    def __init__(self, dialled: Dialled, timeout: float) -> None:
        dialled.connect()
        sock: socket.socket = dialled._sock  # type: ignore[attr-defined]  # noqa: SLF001  # redis-py has no other way to hand over its socket
        dialled._sock = None  # type: ignore[attr-defined]  # noqa: SLF001  # … nor to let go of it
        self._sock = sock
        self._timeout = timeout
        self._secure = isinstance(sock, ssl.SSLSocket)
        self._reader = hiredis.Reader(notEnoughData=MISSING)
        self._buffer = bytearray(CHUNK)
        self._view = memoryview(self._buffer)
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self.bound(timeout)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def bound(self, timeout: float) -> None:
        """Give every exchange from now on this many seconds."""
        self._timeout = timeout
        if self._secure:
            self._sock.settimeout(timeout)
            return
        # The kernel's own time limits save a system call per operation.
        self._sock.settimeout(None)
        seconds = struct.pack("@ll", int(timeout), int(timeout % 1 * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)

    def _greet(self) -> None:
        try:
            reply = self.exchange(PING)
        except (hiredis.ProtocolError, ReplyLost) as failure:
            raise NotSent(
                f"this is not a Redis server, or it does not answer: {failure}"
            ) from failure
        if isinstance(reply, hiredis.ReplyError):
            raise reply

    def alive(self) -> bool:
        """Whether nothing has happened on the connection since its last reply."""
        if not self._poll.poll(0):
            return True
        if not self._secure:
            return False
        # TLS has messages of its own; only data or an end would be for us.
        self._sock.settimeout(0)
        try:
            self._sock.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):
            self._sock.settimeout(self._timeout)
            return True
        except OSError:
            pass
        return False

    def readable(self, seconds: float) -> bool:
        """Wait for something to read; of what was read already, nothing may be left."""
        if self._reader.has_data():
            return True
        if self._secure and self._sock.pending():  # type: ignore[attr-defined]
            return True
        return bool(self._poll.poll(seconds * 1000))

    def send(self, payload: bytes) -> None:
        """Send a request.

        Raises:
            NotSent: not all of it left.
        """
        try:
            self._sock.sendall(payload)
        except OSError as failure:
            raise NotSent(
                f"the connection failed before the request had left: {failure}"
            ) from failure

    def receive(self) -> Any:
        """The next reply; a server's error is returned, not raised.

        Raises:
            ReplyLost: none came in time.
        """
        reader = self._reader
        reply = reader.gets()
        if reply is not MISSING:
            return reply
        end = 0.0
        while True:
            try:
                size = self._sock.recv_into(self._buffer)
            except OSError as failure:
                what = f"within {self._timeout:g} s" if _timed_out(failure) else f"({failure})"
                raise ReplyLost(f"the request left, and no reply came {what}") from failure
            if not size:
                raise ReplyLost("the request left, and the server closed the connection")
            reader.feed(self._view[:size])  # type: ignore[arg-type]  # any buffer will do
            reply = reader.gets()
            if reply is not MISSING:
                return reply
            if not end:
                end = time.monotonic() + self._timeout
            elif time.monotonic() > end:
                raise ReplyLost(
                    f"the request left, and no whole reply came within {self._timeout:g} s"
                )

    def exchange(self, payload: bytes) -> Any:
        """Send a request and return its reply; a server's error is returned, not raised."""
        self.send(payload)
        return self.receive()

    def close(self) -> None:
        """Close the socket; a parent process that also has it keeps its connection."""
        self._sock.close()


def _timed_out(failure: OSError) -> bool:
    return isinstance(failure, (TimeoutError, BlockingIOError))


class Idle:
    """Connections that wait for their next use.

    Args:
        most: how many are kept.
    """

    __slots__ = ("_most", "lot")

    def __init__(self, most: int) -> None:
        self._most = most
        self.lot: list[Link] = []

    def take(self) -> Link | None:
        """One that is alive, if there is one."""
        while True:
            try:
                link = self.lot.pop()
            except IndexError:
                return None
            if link.alive():
                return link
            link.close()

    def give(self, link: Link, lot: list[Link]) -> None:
        """Keep a connection that was taken, or made, while `lot` was the lot.

        What was in use while the lot was closed is closed now.
        """
        if len(lot) < self._most:
            lot.append(link)
        else:
            link.close()
        if lot is not self.lot:  # looked at after the append: one of the two sees the other
            _close(lot)

    def close(self) -> None:
        """Close what waits. In a forked child too: the parent keeps its own."""
        lot, self.lot = self.lot, []
        _close(lot)


def _close(lot: list[Link]) -> None:
    while True:
        try:
            link = lot.pop()
        except IndexError:
            return
        link.close()


class Links:
    """The idle connections of one server, and new ones when there is none.

    Args:
        dial: makes an unconnected connection of redis-py.
        timeout: seconds for a whole exchange.
    """

    def __init__(self, dial: Callable[[], Dialled], timeout: float) -> None:
        self._dial = dial
        self._timeout = timeout
        self._idle = Idle(MOST_IDLE)

    def exchange(self, payload: bytes) -> Any:
        """Send a request and return its reply; a server's error is returned, not raised.

        Raises:
            NotSent: it did not execute.
            ReplyLost: it may have executed.
            redis.RedisError: connecting failed, so it did not execute.
        """
        idle = self._idle
        lot = idle.lot
        link = idle.take()
        if link is not None:
            try:
                reply = link.exchange(payload)
            except NotSent:
                link.close()  # the server had closed it an instant ago
            except BaseException:
                link.close()
                raise
            else:
                idle.give(link, lot)
                return reply
        link = Link(self._dial(), self._timeout)
        try:
            reply = link.exchange(payload)
        except BaseException:
            link.close()
            raise
        idle.give(link, lot)
        return reply

    def pipeline(self, payloads: Sequence[bytes]) -> list[Any]:
        """Send requests together; each reply, or what became of the request, in its place."""
        lot = self._idle.lot
        link = self._idle.take() or Link(self._dial(), self._timeout)
        replies: list[Any] = []
        try:
            link.send(b"".join(payloads))
            for _ in payloads:
                replies.append(link.receive())  # noqa: PERF401  # what has come is kept
        except (NotSent, ReplyLost, hiredis.ProtocolError) as failure:
            link.close()
            # What left in part may have executed in part.
            lost = ReplyLost(str(failure))
            return [*replies, *(lost for _ in range(len(payloads) - len(replies)))]
        except BaseException:
            link.close()
            raise
        self._idle.give(link, lot)
        return replies

    def close(self) -> None:
        """Close the idle connections, and those in use when they are given back."""
        self._idle.close()
