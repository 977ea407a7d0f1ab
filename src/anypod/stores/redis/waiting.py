"""Waiting on Redis: for a notification in a mailbox, and for the messages of a channel.

Invariants:
    - whoever waits has a connection of its own, so that it holds nobody up;
    - a wait that is given up closes its connection: what the server hands over later reaches nobody
      else;
    - a subscription that was cut off, or hears nothing for `HEARTBEAT` and then no answer to a PING, is
      made again, and its listener is told of the gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

import hiredis
import redis

from anypod.stores import forks
from anypod.stores.notices import GAP, Notice
from anypod.stores.redis.channel import Channel
from anypod.stores.redis.codec import Part, request
from anypod.stores.redis.faults import NotSent
from anypod.stores.redis.links import PING, Dialled, Link

HEARTBEAT: Final = (
    5.0  # seconds of silence after which a subscription asks whether the server lives
)
MOST_IDLE: Final = 8  # connections kept for the next wait
SHORTEST_WAIT: Final = 0.001  # seconds; the server reads 0 as for ever
FIRST_PAUSE: Final = 0.05  # seconds between attempts to subscribe again …
LONGEST_PAUSE: Final = 1.0

FAILURES: Final = (redis.RedisError, hiredis.HiredisError, OSError)


def _request(mailbox: str, seconds: float) -> bytes:
    key, _, waiter = mailbox.partition("#")
    box = f"{{{key}}}#{waiter}"
    parts: tuple[Part, ...] = ("LPOP", box)
    if seconds > 0:
        parts = ("BLPOP", box, f"{max(seconds, SHORTEST_WAIT):.3f}")
    return request(*parts)


def _came(reply: Any) -> bool:
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply is not None


class Mailboxes:
    """The mailboxes of one server.

    Args:
        dial: makes an unconnected blocking connection of redis-py.
        adial: makes a connected asynchronous one.
        timeout: seconds for what is not waiting.
    """

    def __init__(
        self, dial: Callable[[], Dialled], adial: Callable[[], Awaitable[Any]], timeout: float
    ) -> None:
        self._dial = dial
        self._adial = adial
        self._timeout = timeout
        self._idle: list[Link] = []
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Channel]]
        self._channels = WeakKeyDictionary()

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, or wait for one."""
        payload = _request(mailbox, seconds)
        while True:
            try:
                link, known = self._idle.pop(), True
            except IndexError:
                link, known = Link(self._dial(), self._timeout), False
            try:
                came = self._ask(link, known, payload, max(0.0, seconds))
            except NotSent:
                link.close()
                if not known:
                    raise
            except BaseException:
                link.close()
                raise
            else:
                if len(self._idle) < MOST_IDLE:
                    self._idle.append(link)
                else:
                    link.close()
                return came

    def _ask(self, link: Link, known: bool, payload: bytes, seconds: float) -> bool:
        if known and not link.alive():
            raise NotSent("the server had closed it")
        link.bound(self._timeout + seconds)
        return _came(link.exchange(payload))

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        idle = self._channels.setdefault(asyncio.get_running_loop(), [])
        channel = idle.pop() if idle else Channel(self._adial, self._timeout)
        channel.timeout = self._timeout + max(0.0, seconds)
        try:
            came = _came(await channel.exchange(_request(mailbox, seconds)))
        except BaseException:
            await channel.aclose()
            raise
        if len(idle) < MOST_IDLE:
            idle.append(channel)
        else:
            await channel.aclose()
        return came

    def forget(self) -> None:
        """In a forked child: drop the parent's connections without a word on them."""
        self.close()
        forks.immortalize(*(one for idle in self._channels.values() for one in idle))
        self._channels = WeakKeyDictionary()

    def close(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    async def aclose(self) -> None:
        """Close this event loop's idle connections."""
        for channel in self._channels.pop(asyncio.get_running_loop(), ()):
            await channel.aclose()


class ChannelSubscription:
    """A listener to one channel.

    Args:
        dial: makes an unconnected blocking connection of redis-py.
        channel: which.
        timeout: seconds for what is not waiting.
    """

    def __init__(self, dial: Callable[[], Dialled], channel: str, timeout: float) -> None:
        self._dial = dial
        self._channel = channel
        self._timeout = timeout
        self._pause = FIRST_PAUSE
        self._heard = 0.0
        self._asked = False  # a PING is under way
        self._link: Link | None = self._subscribed()
        forks.watch(self)

    def _subscribed(self) -> Link:
        link = Link(self._dial(), self._timeout)
        try:
            _came(link.exchange(request("SUBSCRIBE", self._channel)))
        except BaseException:
            link.close()
            raise
        self._heard = time.monotonic()
        self._asked = False
        self._pause = FIRST_PAUSE
        return link

    def get(self, seconds: float) -> Notice | None:
        """The next message, or None if none came in time."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if self._link is None:
                if self._again(max(0.0, left)):
                    return GAP
            else:
                try:
                    message = self._next(self._link, max(0.0, left))
                except FAILURES:
                    self._drop()
                    continue
                if message is not None:
                    return message
            if time.monotonic() >= end:
                return None

    def _again(self, left: float) -> bool:
        try:
            self._link = self._subscribed()
        except FAILURES:
            time.sleep(min(left, self._pause))
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            return False
        return True

    def _next(self, link: Link, left: float) -> bytes | None:
        """What is said within `left`, or until the server must be asked whether it lives."""
        silent = time.monotonic() - self._heard
        if self._asked and silent > HEARTBEAT + self._timeout:
            raise NotSent("the server has not answered a PING")
        if not self._asked and silent > HEARTBEAT:
            link.send(PING)
            self._asked = True
        limit = HEARTBEAT + self._timeout if self._asked else HEARTBEAT
        if not link.readable(min(left, max(0.01, limit - silent))):
            return None
        said = link.receive()
        self._heard = time.monotonic()
        self._asked = False
        if isinstance(said, list) and said[0] == b"message":
            return bytes(said[2])
        return None

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def after_fork(self) -> None:
        """In a forked child: the connection is the parent's; subscribe again, after a gap."""
        self._drop()

    def close(self) -> None:
        """Listen no more."""
        self._drop()
