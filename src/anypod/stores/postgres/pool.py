"""Connections for threads: taken, used for one command or one batch, given back.

psycopg's own pool is not used: its worker threads do not survive a fork, and it costs more per command
than the command's own work here.

Invariants:
    - a connection is used by one thread at a time, and the most recently used one first;
    - one that has something to read while idle is looked at before it is used: a server that went away
      is noticed before anything is sent to it;
    - never more than `size` are open; who waits for one waits until the deadline of its command;
    - taking and giving back an idle connection takes no lock.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from anypod.stores.postgres.binary import Function
from anypod.stores.postgres.link import Link, Outcome, Unanswered, Unsent

_READ: Final = select.POLLIN
_BOTH: Final = select.POLLIN | select.POLLOUT
_NO_REPLY: Final = "no reply within the timeout"
Parameters: TypeAlias = list[bytes | None]

AT_ONCE: Final = 64  # commands of a batch under way on one connection


class PooledLink:
    """A link and the blocking waits on its socket."""

    __slots__ = ("link", "used")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.used = False  # whether it has idled, and may have died meanwhile

    def exchange(self, function: Function, parameters: Parameters, deadline: float) -> Outcome:
        """Send one command and wait for its outcome.

        Raises:
            Unsent: the connection was gone, or the deadline passed, before the command was complete.
        """
        link = self.link
        link.send(function, parameters)
        while True:
            unsent = link.flush()
            if not self._wait(_BOTH if unsent else _READ, deadline):
                (lost,) = link.abort(_NO_REPLY, Unanswered)
                if unsent:
                    raise Unsent("the server did not take the command within the timeout")
                return lost
            done = link.receive()
            if done:
                return done[0]

    def exchange_many(
        self, requests: Sequence[tuple[Function, Parameters]], timeout: float
    ) -> list[Outcome]:
        """Send commands, `AT_ONCE` of them under way, and wait for all their outcomes.

        Args:
            requests: the commands.
            timeout: seconds without any outcome after which the server is given up.
        """
        link = self.link
        deadline = time.monotonic() + timeout
        waiting = deque(requests)
        under_way = 0
        outcomes: list[Outcome] = []
        while under_way or waiting:
            try:
                while waiting and under_way < AT_ONCE:
                    link.send(*waiting[0])
                    waiting.popleft()
                    under_way += 1
                unsent = link.flush()
            except Unsent as failure:
                outcomes += link.abort(str(failure))
                break
            if self._wait(_BOTH if unsent else _READ, deadline):
                done = link.receive()
            else:
                done = link.abort(_NO_REPLY, Unanswered)
            if done:
                deadline = time.monotonic() + timeout
            outcomes += done
            under_way -= len(done)
            if link.broken:
                break
        return outcomes + [
            Unsent("the connection was lost before this command was sent") for _ in waiting
        ]

    def _wait(self, events: int, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        link = self.link
        if events == _READ:
            return bool(link.poll.poll(left * 1000))
        link.poll.modify(link.socket, events)
        try:
            return bool(link.poll.poll(left * 1000))
        finally:
            link.poll.modify(link.socket, _READ)


class Pool:
    """At most `size` connections.

    Args:
        connect: opens one within so many seconds.
        size: the most that are open at a time.
    """

    def __init__(self, connect: Callable[[float], Link], size: int) -> None:
        self._connect = connect
        self._size = size
        self._idle: deque[PooledLink] = deque()
        self._open: set[PooledLink] = set()
        self._opening = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._closings = 0

    def take(self, deadline: float) -> PooledLink:
        """An idle connection, or a new one.

        Raises:
            Unsent: none came free before the deadline.
            psycopg.OperationalError: a new one could not be opened.
        """
        while True:
            try:
                pooled = self._idle.pop()
            except IndexError:
                waited = self._wait(deadline)
                if waited is None:
                    return self._opened(deadline)
                pooled = waited
            if pooled.link.alive():
                pooled.used = True
                return pooled
            self.discard(pooled)

    def give(self, pooled: PooledLink) -> None:
        """Take back a connection that nothing is under way on."""
        link = pooled.link
        if link.broken or link.retired or link.busy:
            self.discard(pooled)
            return
        self._idle.append(pooled)
        if link.retired:  # meanwhile, by `close`: one of the two sees the other
            self.drain()
        if self._waiting:  # read after the append: who waits looks again after it said so
            with self._changed:
                self._changed.notify()

    def discard(self, pooled: PooledLink) -> None:
        """Close a connection and let another be opened in its place."""
        pooled.link.close()
        with self._changed:
            self._open.discard(pooled)
            self._changed.notify()

    def links(self) -> list[Link]:
        """The links that are open: after a fork they are the parent's."""
        return [pooled.link for pooled in self._open]

    def _wait(self, deadline: float) -> PooledLink | None:
        """An idle connection once there is one; None if a place for a new one was reserved."""
        with self._changed:
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        try:
                            return self._idle.pop()
                        except IndexError:  # another thread was faster
                            continue
                    if self._reserve():
                        return None
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        raise Unsent(
                            f"all {self._size} connections were busy for the whole timeout; raise "
                            f"connections= in the store URL, or look for what holds them"
                        )
            finally:
                self._waiting -= 1

    def _reserve(self) -> bool:
        if len(self._open) + self._opening >= self._size:
            return False
        self._opening += 1
        return True

    def _opened(self, deadline: float) -> PooledLink:
        closings = self._closings
        try:
            pooled = PooledLink(self._connect(max(0.0, deadline - time.monotonic())))
        except BaseException:
            with self._changed:
                self._opening -= 1
                self._changed.notify()
            raise
        with self._changed:
            self._opening -= 1
            self._open.add(pooled)
            if closings != self._closings:
                pooled.link.retired = True
        return pooled

    def drain(self) -> None:
        """Close what is idle."""
        while True:
            try:
                self.discard(self._idle.pop())
            except IndexError:
                return

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is given back. Who asks then gets others."""
        with self._changed:
            self._closings += 1
            for pooled in self._open:
                pooled.link.retired = True
        self.drain()
