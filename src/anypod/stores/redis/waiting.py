"""Waiting on Redis: for a notification in a mailbox, and for the messages of a channel.

Invariants:
    - whoever waits has a connection of its own, so that it holds nobody up;
    - a subscription that was cut off, or hears nothing for `HEARTBEAT` and then no answer to a PING, is
      made again, and its listener is told of the gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import hiredis
import redis

from anypod.stores import forks
from anypod.stores.notices import GAP, Notice
from anypod.stores.redis.codec import Part, request
from anypod.stores.redis.faults import NotSent
from anypod.stores.redis.links import PING, Dialled, Link

HEARTBEAT: Final = (
    5.0  # seconds of silence after which a subscription asks whether the server lives
)
SHORTEST_WAIT: Final = 0.001  # seconds; the server reads 0 as for ever
FIRST_PAUSE: Final = 0.05  # seconds between attempts to subscribe again …
LONGEST_PAUSE: Final = 1.0

ENDED: Final = (
    *("UNBLOCKED", "READONLY", "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN"),
)
FAILURES: Final = (redis.RedisError, hiredis.HiredisError, OSError)


def mailbox_request(mailbox: str, seconds: float) -> bytes:
    """The request that takes a notification out of a mailbox, or waits for one."""
    parts: tuple[Part, ...] = ("LPOP", box_of(mailbox))
    if seconds > 0:
        parts = ("BLPOP", box_of(mailbox), f"{max(seconds, SHORTEST_WAIT):.3f}")
    return request(*parts)


def box_of(mailbox: str) -> str:
    """The key of a mailbox, in the slot of the record that it belongs to."""
    key, _, waiter = mailbox.partition("#")
    return f"{{{key}}}#{waiter}"


def came(reply: Any) -> bool:
    """Whether there was a notification.

    A server that is demoted, or a slot that moves, while somebody waits there ends the wait: the waiter
    looks again by itself.
    """
    if isinstance(reply, hiredis.ReplyError):
        if str(reply).startswith(ENDED):
            return False
        raise reply
    return reply is not None


def _granted(reply: Any) -> None:
    if isinstance(reply, hiredis.ReplyError):
        raise reply


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
            _granted(link.exchange(request("SUBSCRIBE", self._channel)))
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
