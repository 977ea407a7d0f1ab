"""Listening to a channel: messages in order, or the word that some may be missing.

A message is one or more notifications of one transaction, which PostgreSQL delivers in order and without
others between; each says which part of how many it is, because a notification holds less than 8,000 bytes.

Invariants:
    - the subscription is in force when it has been made: LISTEN has been committed;
    - a connection that breaks, or does not answer when it has been silent for `HEARTBEAT`, is replaced,
      and its listener is told of the gap;
    - a forked child listens again on a connection of its own, after a gap.
"""

from __future__ import annotations

import base64
import binascii
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import psycopg

from anypod.stores import forks
from anypod.stores.notices import GAP, Notice
from anypod.stores.postgres.link import Unanswered

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

HEARTBEAT: Final = 5.0  # seconds of silence after which the server is asked whether it lives
FIRST_PAUSE: Final = (
    0.05  # seconds between two attempts to connect again, doubled up to the longest
)
LONGEST_PAUSE: Final = 1.0


class ChannelSubscription:
    """A listener to one channel.

    Args:
        connect: opens a direct connection.
        channel: the name to LISTEN to.
        timeout: seconds for what is not waiting.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        channel: str,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._timeout = timeout
        self._pause = FIRST_PAUSE
        self._heard = 0.0
        self._asked = False  # whether it lives
        self._parts: list[str] = []
        self._connection: psycopg.Connection[Any] | None = self._listening()
        forks.watch(self)

    def _listening(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            connection.execute(f"LISTEN {self._channel}".encode())
        except BaseException:
            connection.close()
            raise
        self._heard = time.monotonic()
        self._asked = False
        self._parts.clear()
        self._pause = FIRST_PAUSE
        return connection

    def get(self, seconds: float) -> Notice | None:
        """The next message, or None if none came in time; `GAP` where some may have been missed."""
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            if self._connection is None:
                if self._again(left):
                    return GAP
            else:
                try:
                    notice = self._next(self._connection.pgconn, left)
                except psycopg.Error:
                    self._drop()
                    continue
                if notice is not None:
                    return notice
            if time.monotonic() >= end:
                return None

    def _again(self, left: float) -> bool:
        try:
            self._connection = self._listening()
        except psycopg.Error:
            time.sleep(min(left, self._pause))
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            return False
        return True

    def _next(self, pgconn: PGconn, left: float) -> Notice | None:
        """What is said within `left`, or until the server must be asked whether it lives."""
        while (note := pgconn.notifies()) is not None:
            if (notice := self._assembled(note.extra.decode())) is not None:
                return notice
        silent = time.monotonic() - self._heard
        if self._asked and silent > HEARTBEAT + self._timeout:
            raise Unanswered("the server has not answered a SELECT")
        if not self._asked and silent > HEARTBEAT:
            pgconn.send_query(b"SELECT 1")
            self._asked = True
        limit = HEARTBEAT + self._timeout if self._asked else HEARTBEAT
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        if poll.poll(min(left, max(0.01, limit - silent)) * 1000):
            pgconn.consume_input()
            self._heard = time.monotonic()
            while self._asked and not pgconn.is_busy():
                self._asked = pgconn.get_result() is not None
        return None

    def _assembled(self, payload: str) -> Notice | None:
        """The message, if this is its last part."""
        _, part, parts, text = payload.split(".")
        if int(part) != len(self._parts) + 1:
            self._parts.clear()
            return GAP
        self._parts.append(text)
        if part != parts:
            return None
        whole = "".join(self._parts)
        self._parts.clear()
        try:
            return base64.b64decode(whole, validate=True)
        except binascii.Error:
            return GAP

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def after_fork(self) -> None:
        """In a forked child: the connection is the parent's; listen again, after a gap."""
        if self._connection is not None:
            forks.immortalize(self._connection)
        self._connection = None

    def close(self) -> None:
        """Listen no more."""
        self._drop()
