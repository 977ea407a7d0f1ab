"""The driver of one server, found by its address or through Sentinel. The invariants stand in the package."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

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
from anypod.stores.driver import Capability, Driver
from anypod.stores.notices import Subscription
from anypod.stores.redis.codec import CODECS, Codec, request
from anypod.stores.redis.faults import READABLE, NotReplicated, ReplyLost
from anypod.stores.redis.node import Node
from anypod.stores.redis.waiting import ChannelSubscription, came, mailbox_request

R = TypeVar("R")

READERS: Final = frozenset({Get, Inspect, Scan, Total})  # which change nothing, ever
MOST_ATTEMPTS: Final = 4  # at one command whose attempts did not execute

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
        node: the server.
        moves: whether a new connection may find another server (Sentinel): then one that says that
            it is a replica is left.
        replicas: how many replicas must have a write before it is acknowledged.
        wait: seconds to wait for them.
    """

    name = "redis"
    capabilities = Capability.SHARED | Capability.NETWORKED
    errors: tuple[type[Exception], ...] = (redis.RedisError, hiredis.HiredisError, OSError)

    def __init__(
        self, node: Node, *, moves: bool = False, replicas: int = 0, wait: float = 0.5
    ) -> None:
        self.clock_offset = 0.0
        self._node = node
        self._exchange = node.links.exchange
        self._moves = moves
        self._replicas = replicas
        self._patience = wait if replicas else 0.0
        self._wait = [request("WAIT", replicas, round(wait * 1000))] if replicas else []
        forks.watch(self)

    def execute(self, command: Command[R]) -> R:
        """Execute one command in one exchange."""
        codec = CODECS[type(command)]
        payload = codec.encode(command, round(self.clock_offset * 1_000_000))
        if self._wait and type(command) not in READERS:
            return self._executed_widely(codec, payload)  # type: ignore[no-any-return]
        try:
            reply = self._exchange(payload)
        except ReplyLost:
            if type(command) not in READERS:
                raise
            reply = self._exchange(payload)
        if isinstance(reply, hiredis.ReplyError):
            for _ in range(MOST_ATTEMPTS):
                again = self._requests_after(reply, codec, payload)
                reply = self._node.exchange(again)[-1]
                if not isinstance(reply, hiredis.ReplyError):
                    break
        return answer(codec, reply)  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command; those of one tick leave together."""
        codec = CODECS[type(command)]
        payload = codec.encode(command, round(self.clock_offset * 1_000_000))
        if self._wait and type(command) not in READERS:
            return await self._aexecuted_widely(codec, payload)  # type: ignore[no-any-return]
        channel = self._node.channel()
        try:
            reply = await channel.exchange(payload)
        except ReplyLost:
            if type(command) not in READERS:
                raise
            reply = await channel.exchange(payload)
        if isinstance(reply, hiredis.ReplyError):
            for _ in range(MOST_ATTEMPTS):
                again = self._requests_after(reply, codec, payload)
                if self._moves and demoted(reply):
                    await self._node.aclose()
                reply = (await self._node.aexchange(again))[-1]
                if not isinstance(reply, hiredis.ReplyError):
                    break
        return answer(codec, reply)  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one pipeline."""
        offset = round(self.clock_offset * 1_000_000)
        codecs = [CODECS[type(command)] for command in commands]
        payloads = [
            codec.encode(command, offset) for codec, command in zip(codecs, commands, strict=True)
        ]
        return carried_out(self._node, codecs, payloads, self._wait, self._patience)

    def _requests_after(
        self, reply: hiredis.ReplyError, codec: Codec, payload: bytes
    ) -> list[bytes]:
        """What to send after an error which says that nothing was executed; or raise it."""
        if unknown_script(reply):
            return [codec.script.load, payload]
        if self._moves and demoted(reply):
            self._node.close()  # the next connection asks a sentinel
            return [payload]
        raise reply

    # --- writes that replicas must have

    def _executed_widely(self, codec: Codec, payload: bytes) -> Any:
        requests = [payload, *self._wait]
        for _ in range(MOST_ATTEMPTS):
            *_, reply, count = self._node.exchange(requests, self._patience)
            if not isinstance(reply, hiredis.ReplyError):
                break
            requests = [*self._requests_after(reply, codec, payload), *self._wait]
        return self._confirmed(answer(codec, reply), count)

    async def _aexecuted_widely(self, codec: Codec, payload: bytes) -> Any:
        requests = [payload, *self._wait]
        for _ in range(MOST_ATTEMPTS):
            *_, reply, count = await self._node.aexchange(requests, self._patience)
            if not isinstance(reply, hiredis.ReplyError):
                break
            requests = [*self._requests_after(reply, codec, payload), *self._wait]
        return self._confirmed(answer(codec, reply), count)

    def _confirmed(self, reply: Any, count: Any) -> Any:
        if isinstance(count, Exception):
            raise count
        if count < self._replicas:
            raise NotReplicated(
                f"it executed, but only {count} of {self._replicas} replicas had it after "
                f"{self._patience:g} s: a failover now would undo it"
            )
        return reply

    # --- notifications

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, waiting on a connection of its own."""
        requests = [mailbox_request(mailbox, seconds)]
        return came(self._node.lanes.exchange(requests, max(0.0, seconds))[0])

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        requests = [mailbox_request(mailbox, seconds)]
        return came((await self._node.lanes.aexchange(requests, max(0.0, seconds)))[0])

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel, on a connection of its own."""
        return ChannelSubscription(self._node.dial, channel, self._node.timeout)

    def ask(self, payload: bytes) -> Any:
        """The reply to a request of the doctor's; a server's error is returned, not raised."""
        return self._exchange(payload)

    def uncovered(self) -> int:
        """How many slots of a cluster nobody has; one server has them all."""
        return 0

    def bind(self, connection: object) -> Driver:
        """Redis takes part in nobody's transaction.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(
            f"Redis cannot take part in a transaction of {type(connection).__qualname__}; keep what must "
            f"commit together in one database: postgresql:// or sqlite://"
        )

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
        self._node.forget()

    def close(self) -> None:
        """Close the blocking connections."""
        self._node.close()

    async def aclose(self) -> None:
        """Close this event loop's connections, and the blocking ones."""
        await self._node.aclose()


def carried_out(
    node: Node,
    codecs: Sequence[Codec],
    payloads: Sequence[bytes],
    wait: Sequence[bytes] = (),
    patience: float = 0.0,
) -> list[Any]:
    """Replies, or errors in their places, of commands that go to one server in one pipeline."""
    if not payloads:
        return []
    replies = node.exchange([*payloads, *wait], patience)[: len(payloads)]
    strangers = [place for place, reply in enumerate(replies) if unknown_script(reply)]
    if strangers:
        scripts = {codecs[place].script.load for place in strangers}
        again = [*scripts, *(payloads[place] for place in strangers), *wait]
        answers = node.exchange(again, patience)[len(scripts) :]
        for place, reply in zip(strangers, answers, strict=False):
            replies[place] = reply
    return [
        reply if isinstance(reply, Exception) else codec.decode(reply)
        for codec, reply in zip(codecs, replies, strict=True)
    ]


def unknown_script(reply: Any) -> bool:
    """The server does not know the script, so it has not run it."""
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def demoted(reply: hiredis.ReplyError) -> bool:
    """The server has become a replica, so it has written nothing."""
    return str(reply).startswith("READONLY")


def answer(codec: Codec, reply: Any) -> Any:
    """The reply as a value; an error is raised."""
    if isinstance(reply, Exception):
        raise reply
    return codec.decode(reply)
