"""One server: connections that are shared, and connections that are lent to those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from anypod.stores import forks
from anypod.stores.redis.channel import Channel
from anypod.stores.redis.faults import NotSent, ReplyLost
from anypod.stores.redis.links import Dialled, Idle, Link, Links

MOST_IDLE: Final = 8  # lent connections kept for the next wait


class Lanes:
    """Connections that are lent for one exchange that makes the server wait.

    A wait that is given up closes its connection: what the server hands over later reaches nobody else.

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
        self._idle = Idle(MOST_IDLE)
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Channel]]
        self._channels = WeakKeyDictionary()

    def exchange(self, payloads: Sequence[bytes], patience: float) -> list[Any]:
        """Send requests together, wait for their replies `patience` longer than usual."""
        while True:
            lot = self._idle.lot
            known = self._idle.take()
            link = known or Link(self._dial(), self._timeout)
            try:
                replies = self._ask(link, payloads, patience)
            except NotSent:
                link.close()
                if not known:
                    raise
            except BaseException:
                link.close()
                raise
            else:
                self._idle.give(link, lot)
                return replies

    def _ask(self, link: Link, payloads: Sequence[bytes], patience: float) -> list[Any]:
        link.bound(self._timeout + patience)
        try:
            link.send(b"".join(payloads))
        except NotSent as failure:
            if len(payloads) > 1:  # the first of them may have left whole
                raise ReplyLost(str(failure)) from failure
            raise
        return [link.receive() for _ in payloads]

    async def aexchange(self, payloads: Sequence[bytes], patience: float) -> list[Any]:
        """`exchange`, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        idle = self._channels.setdefault(loop, [])
        channel = idle.pop() if idle else Channel(self._adial, self._timeout)
        channel.timeout = self._timeout + patience
        try:
            replies = await channel.pipeline(payloads)
        except BaseException:
            await channel.aclose()
            raise
        if len(idle) < MOST_IDLE and self._channels.get(loop) is idle:  # nobody closed it meanwhile
            idle.append(channel)
        else:
            await channel.aclose()
        return replies

    def forget(self) -> None:
        """In a forked child: drop the parent's connections without a word on them."""
        self.close()
        forks.immortalize(*(one for idle in self._channels.values() for one in idle))
        self._channels = WeakKeyDictionary()

    def close(self) -> None:
        """Close the idle connections, and those in use when they are given back."""
        self._idle.close()

    async def aclose(self) -> None:
        """Close this event loop's idle connections."""
        for channel in self._channels.pop(asyncio.get_running_loop(), ()):
            await channel.aclose()


class Node:
    """One server.

    Args:
        dial: makes an unconnected blocking connection of redis-py.
        adial: makes a connected asynchronous one.
        timeout: seconds for a whole exchange.
    """

    def __init__(
        self, dial: Callable[[], Dialled], adial: Callable[[], Awaitable[Any]], timeout: float
    ) -> None:
        self.dial = dial
        self.timeout = timeout
        self.links = Links(dial, timeout)
        self.lanes = Lanes(dial, adial, timeout)
        self._adial = adial
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, Channel] = WeakKeyDictionary()

    def exchange(self, payloads: Sequence[bytes], patience: float = 0.0) -> list[Any]:
        """Send requests together and return their replies; errors of the server are returned.

        Raises:
            NotSent, redis.RedisError: nothing was executed.
            ReplyLost: some may have executed.
        """
        if patience:
            return self.lanes.exchange(payloads, patience)
        if len(payloads) == 1:
            return [self.links.exchange(payloads[0])]
        return self.links.pipeline(payloads)

    async def aexchange(self, payloads: Sequence[bytes], patience: float = 0.0) -> list[Any]:
        """`exchange`, without blocking the event loop."""
        if patience:
            return await self.lanes.aexchange(payloads, patience)
        channel = self.channel()
        if len(payloads) == 1:
            return [await channel.exchange(payloads[0])]
        return await channel.pipeline(payloads)

    def channel(self) -> Channel:
        """The connection that the running event loop's tasks share."""
        loop = asyncio.get_running_loop()
        try:
            return self._channels[loop]
        except KeyError:
            channel = self._channels[loop] = Channel(self._adial, self.timeout)
            return channel

    def forget(self) -> None:
        """In a forked child: drop the parent's connections without a word on them."""
        self.links.close()
        self.lanes.forget()
        forks.immortalize(*self._channels.values())
        self._channels = WeakKeyDictionary()

    def close(self) -> None:
        """Close the blocking connections."""
        self.links.close()
        self.lanes.close()

    async def aclose(self) -> None:
        """Close this event loop's connections, and the blocking ones."""
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.aclose()
        await self.lanes.aclose()
        self.close()
