"""Connections of one event loop: commands that are issued in one tick leave together.

A lane is a connection with commands under way; a tick's commands are dealt out over the lanes that are
idle, and what does not fit waits for the first that becomes so.

Invariants:
    - one command's outcome, error or cancelled waiter touches no other;
    - who is cancelled before the command left withdraws it; afterwards the reply is dropped;
    - a lane that makes no progress for the timeout is given up: what it carried is `Unanswered`; what
      has not left within the timeout is `Unsent`;
    - everything here happens in the event loop's own thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg

from anypod.errors import AnypodError
from anypod.stores.postgres.address import Address
from anypod.stores.postgres.binary import Function
from anypod.stores.postgres.link import Link, Outcome, Unanswered, Unsent

AT_ONCE: Final = 32  # commands under way on one lane: who is behind a waiting one waits with it
FEW: Final = 2  # lanes that are opened as soon as there is work; in a few, commands travel together
STALL: Final = 0.01  # seconds without any progress after which one more lane is opened
LONGEST_QUEUE: Final = 10_000  # commands that wait for a lane

_Request = tuple[Function, list[bytes | None], "asyncio.Future[Outcome]", float]


class _Lane:
    """One link in its event loop."""

    def __init__(self, link: Link, owner: Lanes) -> None:
        self.link = link
        self._owner = owner
        self._loop = owner.loop
        self._waiters: deque[asyncio.Future[Outcome]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.progress = 0.0
        self._writing = False
        self._watched = True
        self._loop.add_reader(link.socket, self._readable)

    @property
    def idle(self) -> bool:
        return not self._waiters

    def carry(self, requests: list[_Request]) -> None:
        """Send these commands."""
        self.progress = self._loop.time()
        for place, (function, parameters, waiter, _) in enumerate(requests):
            try:
                self.link.send(function, parameters)
            except Unsent as failure:
                for _, _, unsent, _ in requests[place:]:
                    _settle(unsent, failure)
                break
            self._waiters.append(waiter)
        if self.link.broken:
            self._finish(self.link.abort("the connection was lost"))
            return
        if self._timer is None:
            self._timer = self._loop.call_later(self._owner.timeout, self._check)
        self._flush()

    def _flush(self) -> None:
        try:
            left = self.link.flush()
        except Unsent as failure:
            self._finish(self.link.abort(str(failure)))
            return
        if left and not self._writing:
            self._loop.add_writer(self.link.socket, self._flush)
        elif self._writing and not left:
            self._loop.remove_writer(self.link.socket)
        self._writing = left

    def _readable(self) -> None:
        self._finish(self.link.receive())
        if self._writing and not self.link.broken:
            self._flush()

    def _finish(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            _settle(self._waiters.popleft(), outcome)
        if outcomes:
            self.progress = self._loop.time()
        link = self.link
        if link.broken or (link.retired and self.idle):
            self.close()
            self._owner.lost(self)
        elif self.idle:
            self._owner.dispatch()

    def _check(self) -> None:
        """Give up if nothing has come back for the timeout."""
        self._timer = None
        if self.idle:
            return
        due = self.progress + self._owner.timeout
        if self._loop.time() >= due:
            self._finish(self.link.abort("no reply within the timeout", Unanswered))
        else:
            self._timer = self._loop.call_at(due, self._check)

    def close(self) -> None:
        """End the session; what is under way has no answer."""
        if self._watched and not self._loop.is_closed():
            self._loop.remove_reader(self.link.socket)
            if self._writing:
                self._loop.remove_writer(self.link.socket)
        self._watched = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lost = self.link.abort("the store was closed")
        self.link.close()
        if not self._loop.is_closed():
            for outcome in lost:
                _settle(self._waiters.popleft(), outcome)


class Lanes:
    """The lanes of one event loop.

    Args:
        connect: opens a link.
        address: how many lanes there may be, and the timeout.
        loop: the loop that runs this.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Link]],
        address: Address,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.timeout = address.timeout
        self._connect = connect
        self._size = address.connections
        self._lanes: list[_Lane] = []
        self._queue: deque[_Request] = deque()
        self._opening: asyncio.Task[None] | None = None
        self._dispatching = False
        self._sweep: asyncio.TimerHandle | None = None
        self._growth: asyncio.TimerHandle | None = None
        self.closed = False

    async def carry_out(
        self, function: Function, parameters: list[bytes | None], deadline: float
    ) -> Outcome:
        """The outcome of one command.

        Args:
            function: what to call.
            parameters: with these values.
            deadline: on the loop's clock; a command that has not left by then is `Unsent`.

        Raises:
            ConfigurationError: the schema is missing, or this role may not use it.
        """
        if self.closed or len(self._queue) >= LONGEST_QUEUE:
            return Unsent(
                "the store was closed"
                if self.closed
                else f"{LONGEST_QUEUE:,} commands are waiting for a connection already"
            )
        waiter: asyncio.Future[Outcome] = self.loop.create_future()
        self._queue.append((function, parameters, waiter, deadline))
        if not self._dispatching:
            self._dispatching = True
            self.loop.call_soon(self.dispatch)
        return await waiter

    def dispatch(self) -> None:
        """Deal what waits out over the lanes that are idle, and see to more of them if it is more."""
        self._dispatching = False
        idle = [lane for lane in self._lanes if lane.idle]
        while self._queue and idle:
            lane = idle.pop()
            if not lane.idle:  # a lane that broke has dealt its commands out meanwhile
                continue
            if not lane.link.alive():
                lane.close()
                self._lanes.remove(lane)
                continue
            requests = self._due(min(AT_ONCE, -(-len(self._queue) // (len(idle) + 1))))
            if requests:
                lane.carry(requests)
        if not self._queue or self.closed:
            return
        if len(self._lanes) < FEW:
            self._open_one()
        elif self._growth is None:
            self._growth = self.loop.call_later(STALL, self._grow)
        if self._sweep is None:
            self._sweep = self.loop.call_at(self._queue[0][3], self._sweep_queue)

    def _open_one(self) -> None:
        if self._opening is None and len(self._lanes) < self._size:
            self._opening = self.loop.create_task(self._open())

    def _grow(self) -> None:
        """Open one more lane if those that there are all wait for something."""
        self._growth = None
        if not self._queue or self.closed or len(self._lanes) >= self._size:
            return
        now = self.loop.time()
        if all(lane.progress < now - STALL for lane in self._lanes):
            self._open_one()
        self._growth = self.loop.call_later(STALL, self._grow)

    def lost(self, lane: _Lane) -> None:
        """A lane has ended."""
        if lane in self._lanes:
            self._lanes.remove(lane)
        if self._queue:
            self.dispatch()

    def _due(self, most: int) -> list[_Request]:
        """The next commands that somebody still waits for."""
        now = self.loop.time()
        requests: list[_Request] = []
        while self._queue and len(requests) < most:
            request = self._queue.popleft()
            if request[3] <= now:
                _settle(request[2], _late(self._size))
            elif not request[2].done():
                requests.append(request)
        return requests

    def _sweep_queue(self) -> None:
        """Tell those who waited too long; deadlines come in the order of the queue, but for repeats."""
        self._sweep = None
        now = self.loop.time()
        while self._queue and (self._queue[0][3] <= now or self._queue[0][2].done()):
            _settle(self._queue.popleft()[2], _late(self._size))
        if self._queue:
            self._sweep = self.loop.call_at(self._queue[0][3], self._sweep_queue)

    async def _open(self) -> None:
        """Open one more lane; if there is none at all, those who wait hear why."""
        try:
            link = await self._connect()
        except (psycopg.Error, AnypodError) as failure:
            if not self._lanes:
                while self._queue:
                    waiter = self._queue.popleft()[2]
                    if isinstance(failure, psycopg.Error):
                        _settle(waiter, failure)
                    elif not waiter.done():
                        waiter.set_exception(failure)
        else:
            if self.closed:
                link.close()
            else:
                self._lanes.append(_Lane(link, self))
        finally:
            self._opening = None
        self.dispatch()

    def links(self) -> list[Link]:
        """The links that are open."""
        return [lane.link for lane in self._lanes]

    def close(self) -> None:
        """End every session; from the loop's own thread, or after the loop has ended."""
        self.closed = True
        gone = self.loop.is_closed()
        for timer in (self._sweep, self._growth):
            if timer is not None:
                timer.cancel()
        self._sweep = self._growth = None
        if self._opening is not None and not gone:
            self._opening.cancel()
        for lane in tuple(self._lanes):
            lane.close()
        self._lanes.clear()
        while self._queue and not gone:
            _settle(self._queue.popleft()[2], Unsent("the store was closed"))


def _settle(waiter: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not waiter.done():
        waiter.set_result(outcome)


def _late(size: int) -> Unsent:
    return Unsent(
        f"all {size} connections were busy for the whole timeout; raise connections= in the store URL, "
        f"or look for what holds them"
    )
