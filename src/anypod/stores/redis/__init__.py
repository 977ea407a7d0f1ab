"""`redis://` and `valkey://`: records on a server that many machines share.

Invariants:
    - a command is one script on one cluster slot, run by its SHA in one exchange; a server that does
      not know the script has not run it, so it is sent again with the script in front;
    - what only reads may be asked again after a lost reply; nothing else ever is;
    - the client library connects, authenticates and retries nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakKeyDictionary

import hiredis
import redis

from anypod.commands import Command, Get, Inspect, Scan, Total
from anypod.errors import (
    ConfigurationError,
    OutcomeUnknown,
    RecordError,
    StoreError,
    StoreUnavailable,
)
from anypod.stores import forks
from anypod.stores.address import options
from anypod.stores.driver import Capability
from anypod.stores.notices import Subscription
from anypod.stores.redis.channel import Channel
from anypod.stores.redis.codec import CODECS, Codec
from anypod.stores.redis.faults import READABLE, ReplyLost
from anypod.stores.redis.links import Links
from anypod.stores.redis.waiting import ChannelSubscription, Mailboxes

R = TypeVar("R")

READERS: Final = frozenset({Get, Scan, Total, Inspect})

OPTIONS: Final = {
    "timeout": 2.0,  # for a whole exchange
    "connect_timeout": 1.0,
    "protocol": ("2", "3"),
    "ssl_ca_certs": "",
    "ssl_certfile": "",
    "ssl_keyfile": "",
    "ssl_cert_reqs": ("required", "none"),
    "ssl_check_hostname": ("true", "false"),
}

SCHEMES: Final = {
    "redis": "redis",
    "rediss": "rediss",
    "redis+unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}

_OURS: Final = re.compile(r"ANYPOD-(FORMAT|KIND) ?(\S*) ?(\S*)")
_KINDS: Final = {
    "v": "value",
    "n": "counter",
    "o": "operation",
    "c": "claim",
    "d": "document",
    "k": "cached value",
    "t": "rate limit",
    "s": "set of slots",
}


class RedisDriver:
    """Records on one Redis or Valkey server.

    Args:
        dial: makes an unconnected blocking connection of redis-py.
        adial: makes a connected asynchronous one.
        timeout: seconds for a whole exchange.
    """

    name = "redis"
    capabilities = Capability.SHARED | Capability.NETWORKED
    errors: tuple[type[Exception], ...] = (redis.RedisError, hiredis.HiredisError, OSError)

    def __init__(
        self, dial: Callable[[], Any], adial: Callable[[], Awaitable[Any]], *, timeout: float
    ) -> None:
        self.clock_offset = 0.0
        self._adial = adial
        self._timeout = timeout
        self._dial = dial
        self._links = Links(dial, timeout)
        self._mailboxes = Mailboxes(dial, adial, timeout)
        self._exchange = self._links.exchange
        self._channels: WeakKeyDictionary[asyncio.AbstractEventLoop, Channel] = WeakKeyDictionary()
        forks.watch(self)

    def execute(self, command: Command[R]) -> R:
        """Execute one command in one exchange."""
        codec = CODECS[type(command)]
        offset = round(self.clock_offset * 1_000_000)
        payload = codec.encode(command, offset)
        try:
            reply = self._exchange(payload)
        except ReplyLost:
            if type(command) not in READERS:
                raise
            reply = self._exchange(payload)
        if isinstance(reply, hiredis.ReplyError):
            if not _unknown_script(reply):
                raise reply
            _, reply = self._links.pipeline([codec.script.load, payload])
        return _answer(codec, reply)  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command; those of one tick leave together."""
        codec = CODECS[type(command)]
        payload = codec.encode(command, round(self.clock_offset * 1_000_000))
        channel = self._channel()
        try:
            reply = await channel.exchange(payload)
        except ReplyLost:
            if type(command) not in READERS:
                raise
            reply = await channel.exchange(payload)
        if isinstance(reply, hiredis.ReplyError):
            if not _unknown_script(reply):
                raise reply
            _, reply = await asyncio.gather(
                channel.exchange(codec.script.load), channel.exchange(payload)
            )
        return _answer(codec, reply)  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one pipeline."""
        if not commands:
            return []
        codecs = [CODECS[type(command)] for command in commands]
        offset = round(self.clock_offset * 1_000_000)
        payloads = [
            codec.encode(command, offset) for codec, command in zip(codecs, commands, strict=True)
        ]
        replies = self._links.pipeline(payloads)
        strangers = [place for place, reply in enumerate(replies) if _unknown_script(reply)]
        if strangers:
            scripts = {codecs[place].script.load for place in strangers}
            again = [*scripts, *(payloads[place] for place in strangers)]
            answers = self._links.pipeline(again)[len(scripts) :]
            for place, reply in zip(strangers, answers, strict=True):
                replies[place] = reply
        return [
            reply if isinstance(reply, Exception) else codec.decode(reply)
            for codec, reply in zip(codecs, replies, strict=True)
        ]

    def _channel(self) -> Channel:
        loop = asyncio.get_running_loop()
        try:
            return self._channels[loop]
        except KeyError:
            channel = self._channels[loop] = Channel(self._adial, self._timeout)
            return channel

    # --- notifications

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, waiting on a connection of its own."""
        return self._mailboxes.receive(mailbox, seconds)

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        return await self._mailboxes.areceive(mailbox, seconds)

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel, on a connection of its own."""
        return ChannelSubscription(self._dial, channel, self._timeout)

    def ask(self, payload: bytes) -> Any:
        """The reply to a request of the doctor's; a server's error is returned, not raised."""
        return self._links.exchange(payload)

    # --- errors

    def classify(self, failure: Exception) -> type[StoreError]:
        """Only a lost reply leaves the outcome open."""
        if isinstance(failure, ReplyLost):
            return OutcomeUnknown
        if isinstance(failure, hiredis.ReplyError) and (
            _OURS.search(str(failure)) or str(failure).startswith("WRONGTYPE")
        ):
            return RecordError
        return StoreUnavailable

    def answered(self, failure: Exception) -> bool:
        """Whether the error is the server's own word."""
        return isinstance(failure, hiredis.ReplyError)

    def advice(self, failure: Exception) -> str:
        """What the server's error means, in words."""
        text = str(failure)
        if found := _OURS.search(text):
            what, first, second = found.groups()
            if what == "FORMAT":
                return f"the record has format {first}, written by a newer anypod; upgrade this process"
            return f"a {_KINDS.get(first, first)} stands where a {_KINDS.get(second, second)} was asked for"
        if text.startswith("WRONGTYPE"):
            return (
                "another program keeps something else under this key; use a namespace of your own"
            )
        if isinstance(failure, hiredis.ProtocolError):
            return "what answers there does not speak the Redis protocol"
        return READABLE.get(text.split(" ", 1)[0], "")

    # --- life

    def after_fork(self) -> None:
        """In a forked child: drop the parent's connections without a word on them."""
        self._links.close()
        forks.immortalize(*self._channels.values())
        self._channels = WeakKeyDictionary()
        self._mailboxes.forget()

    def close(self) -> None:
        """Close the blocking connections."""
        self._links.close()
        self._mailboxes.close()

    async def aclose(self) -> None:
        """Close this event loop's connection, and the blocking ones."""
        channel = self._channels.pop(asyncio.get_running_loop(), None)
        if channel is not None:
            await channel.aclose()
        await self._mailboxes.aclose()
        self.close()


def _unknown_script(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _answer(codec: Codec, reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return codec.decode(reply)


def open_driver(url: str) -> RedisDriver:
    """Open `redis://[user:password@]host[:port][/db]`, `rediss://…` or `redis+unix:///socket?db=0`.

    Nothing is opened before the first command, so that a process may fork in between.

    Raises:
        ConfigurationError: an unknown option, or a URL that the client cannot read.
    """
    settings = options(url, {**OPTIONS, **({"db": 0} if "unix://" in url else {})})
    address = _client_url(url)
    common: dict[str, Any] = {
        "protocol": int(settings["protocol"]),
        "socket_timeout": settings["timeout"],
        "socket_connect_timeout": settings["connect_timeout"],
        "health_check_interval": 0,
        "driver_info": None,
    }
    try:
        pool = redis.ConnectionPool.from_url(address, **common)
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, redis.RedisError, TypeError) as failure:
        raise ConfigurationError(f"a Redis URL that cannot be read: {failure}") from failure

    def dial() -> Any:
        return pool.connection_class(**pool.connection_kwargs)

    async def adial() -> Any:
        import redis.asyncio

        apool = redis.asyncio.ConnectionPool.from_url(address, **common)
        connection: Any = apool.connection_class(**apool.connection_kwargs)
        await connection.connect()
        return connection

    return RedisDriver(dial, adial, timeout=settings["timeout"])


def _client_url(url: str) -> str:
    """The URL as redis-py understands it: its own scheme, and only its own options."""
    parts = urlsplit(url)
    kept = [
        (name, value)
        for name, value in parse_qsl(parts.query)
        if name.startswith("ssl_") or name == "db"
    ]
    scheme = SCHEMES[parts.scheme.lower()]
    return f"{scheme}://{parts.netloc}{parts.path}?{urlencode(kept)}"
