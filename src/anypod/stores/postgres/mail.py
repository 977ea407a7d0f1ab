"""Waiting for notifications, on a connection of its own.

Every mailbox is announced on one PostgreSQL channel, by name; what it holds is in the table, so that a
notification that came early is found and one that is lost costs no more than a look. Threads share one
listening connection: one of those who wait reads it for all, and hands the reading on when it leaves.
An event loop has one too.

Invariants:
    - a waiter looks into its mailbox after the connection listens and after each announcement, so that
      nothing falls between;
    - a connection that breaks makes every waiter look again, on a new one;
    - nothing runs in the background: no thread, no task; where nobody waits, nobody reads.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg

ANNOUNCED: Final = "anypod_mail"
GLANCE: Final = 0.25  # seconds between two looks where a pooler stands between us and LISTEN


class ThreadListener:
    """The listening connection of a process's threads.

    Args:
        conninfo: libpq's connection string, of a direct connection.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._changed = threading.Condition()
        self._connecting = threading.Lock()
        self._reading = False
        self._waiting: Counter[str] = Counter()
        self._news: Counter[str] = Counter()  # announcements of the boxes that somebody waits for
        self.connection: psycopg.Connection[Any] | None = None

    def receive(self, box: str, end: float, take: Callable[[], bool]) -> bool:
        """Take something out of the box before `end` (monotonic); False if nothing came.

        Raises:
            psycopg.OperationalError: the server cannot be reached.
        """
        with self._changed:
            self._waiting[box] += 1
        try:
            while True:
                connection = self._listening()
                with self._changed:
                    seen = self._news[box]
                if take():
                    return True
                if time.monotonic() >= end:
                    return False
                self._wait(connection, box, seen, end)
        finally:
            with self._changed:
                self._waiting[box] -= 1
                if not self._waiting[box]:
                    del self._waiting[box], self._news[box]

    def _listening(self) -> psycopg.Connection[Any]:
        with self._connecting:
            if self.connection is None or self.connection.closed:
                connection = psycopg.Connection.connect(self._conninfo, autocommit=True)
                try:
                    connection.execute(f"LISTEN {ANNOUNCED}")
                except BaseException:
                    connection.close()
                    raise
                self.connection = connection
            return self.connection

    def _wait(self, connection: psycopg.Connection[Any], box: str, seen: int, end: float) -> None:
        """Return once there may be news, or at the end."""
        while True:
            with self._changed:
                left = end - time.monotonic()
                if left <= 0 or self._news[box] != seen or connection is not self.connection:
                    return
                if self._reading:
                    self._changed.wait(left)
                    continue
                self._reading = True
            lost = True
            boxes: list[str] = []
            try:
                boxes = [note.payload for note in connection.notifies(timeout=left, stop_after=1)]
                lost = False
            except psycopg.Error:
                pass  # everybody looks again, and whoever connects anew hears what is wrong
            finally:
                with self._changed:
                    self._reading = False
                    if lost:
                        connection.close()
                        boxes = list(self._waiting)
                    for announced in boxes:
                        if announced in self._waiting:
                            self._news[announced] += 1
                    self._changed.notify_all()

    def drain(self) -> None:
        """End the session unless somebody waits."""
        with self._changed:
            if not self._waiting:
                self.close()

    def close(self) -> None:
        """End the session; who waits looks once more, on a new one."""
        if self.connection is not None:
            self.connection.close()


class LoopListener:
    """The listening connection of one event loop.

    Args:
        conninfo: libpq's connection string, of a direct connection.
        loop: the loop that runs this.
    """

    def __init__(self, conninfo: str, loop: asyncio.AbstractEventLoop) -> None:
        self._conninfo = conninfo
        self._loop = loop
        self._connecting = asyncio.Lock()
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._socket: int | None = None
        self.connection: psycopg.AsyncConnection[Any] | None = None

    async def receive(self, box: str, end: float, take: Callable[[], Awaitable[bool]]) -> bool:
        """Take something out of the box before `end` (the loop's clock); False if nothing came.

        Raises:
            psycopg.OperationalError: the server cannot be reached.
        """
        while True:
            await self._listen()
            waiter = self._loop.create_future()
            self._waiters.setdefault(box, set()).add(waiter)
            try:
                if await take():
                    return True
                left = end - self._loop.time()
                if left <= 0:
                    return False
                await asyncio.wait({waiter}, timeout=left)
            finally:
                waiters = self._waiters[box]
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[box]

    async def _listen(self) -> None:
        async with self._connecting:
            if self.connection is not None and not self.connection.closed:
                return
            connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
            try:
                await connection.execute(f"LISTEN {ANNOUNCED}")
            except BaseException:  # whoever waits for this may be cancelled here
                connection.pgconn.finish()
                raise
            self.connection = connection
            self._socket = connection.pgconn.socket
            self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        connection = self.connection
        assert connection is not None
        try:
            connection.pgconn.consume_input()
        except psycopg.OperationalError:
            self.close()
            self._wake(list(self._waiters))
            return
        while (note := connection.pgconn.notifies()) is not None:
            self._wake([note.extra.decode()])

    def _wake(self, boxes: list[str]) -> None:
        for box in boxes:
            for waiter in self._waiters.get(box, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def close(self) -> None:
        """End the session, from the loop's own thread or after the loop has ended."""
        if self._socket is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._socket = None
        if self.connection is not None:
            self.connection.pgconn.finish()
