"""The driver of one server, found by its address or through Sentinel. The invariants stand in the package."""

from __future__ import annotations

import re
import time
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
from anypod.stores.redis.course import LATER, Course, Exchange, Leave, arun, pauses, run, word
from anypod.stores.redis.faults import READABLE, NotReplicated, ReplyLost
from anypod.stores.redis.node import Node
from anypod.stores.redis.waiting import ChannelSubscription, came, mailbox_request

R = TypeVar("R")

READERS: Final = frozenset({Get, Inspect, Scan, Total})  # which change nothing, ever
MOST_LOADS: Final = 4  # of one script for one command
DEMOTED: Final = ("READONLY", "UNBLOCKED")  # a server that has become a replica
AWAY: Final = ("LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN")  # counts as being out of reach

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
        self.replicas = replicas
        self._patience = wait if replicas else 0.0
        self._wait = [request("WAIT", replicas, round(wait * 1000))] if replicas else []
        forks.watch(self)

    def execute(self, command: Command[R]) -> R:
        """Execute one command in one exchange."""
        codec = CODECS[type(command)]
        payload = codec.encode(command, round(self.clock_offset * 1_000_000))
        reads = type(command) in READERS
        said: Any = None
        if reads or not self._wait:
            try:
                said = self._exchange(payload)
            except (ReplyLost, hiredis.ReplyError) as failure:
                said = failure
            else:
                if not isinstance(said, hiredis.ReplyError):
                    return codec.decode(said)  # type: ignore[no-any-return]
        return run(self._course(payload, codec, reads, self._limit(), said))  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command; those of one tick leave together."""
        codec = CODECS[type(command)]
        payload = codec.encode(command, round(self.clock_offset * 1_000_000))
        reads = type(command) in READERS
        said: Any = None
        if reads or not self._wait:
            try:
                said = await self._node.channel().exchange(payload)
            except (ReplyLost, hiredis.ReplyError) as failure:
                said = failure
            else:
                if not isinstance(said, hiredis.ReplyError):
                    return codec.decode(said)  # type: ignore[no-any-return]
        return await arun(self._course(payload, codec, reads, self._limit(), said))  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one pipeline; what the server refused for now is repeated one by one."""
        until = self._limit()
        replies = self._pipelined(self._node, commands)
        for place, command in enumerate(commands):
            if self._for_now(replies[place]):
                codec, reads = CODECS[type(command)], type(command) in READERS
                payload = codec.encode(command, round(self.clock_offset * 1_000_000))
                course = self._course(payload, codec, reads, until, replies[place])
                replies[place] = self._outcome(course)
        return replies

    def _limit(self) -> float:
        """Until when a command may be repeated, on the monotonic clock."""
        return time.monotonic() + self._node.timeout

    def _for_now(self, reply: Any) -> bool:
        """Whether an error says that nothing was executed, and that this may be different soon."""
        said = word(reply)
        return said == "NOSCRIPT" or said in LATER or (self._moves and said == "READONLY")

    def _course(
        self, payload: bytes, codec: Codec, reads: bool, until: float, said: Any = None
    ) -> Course:
        """Turn after turn until the server has executed, and its reply; its last refusal is raised.

        Args:
            payload: the request.
            codec: has the script, should the server not know it.
            reads: whether the command changes nothing, so that it may be asked again.
            until: when to give up, on the monotonic clock.
            said: what a first exchange said, if there was one.
        """
        wait, patience = ([], 0.0) if reads else (self._wait, self._patience)
        lost = False
        unknown = 0  # times that the server did not know the script
        front: list[bytes] = []
        later = pauses(until)
        while True:
            if said is None:
                try:
                    replies = yield Exchange(self._node, [*front, payload, *wait], patience)
                    said = replies[len(front)]
                    if wait and not isinstance(said, Exception):
                        said = self._confirmed(said, replies[-1])
                except (ReplyLost, hiredis.ReplyError) as failure:
                    said = failure
            if not isinstance(said, Exception):
                return codec.decode(said)
            front = []
            if isinstance(said, ReplyLost):
                if lost or not reads:
                    raise said
                lost = True
            elif unknown_script(said) and unknown < MOST_LOADS:
                unknown += 1
                front = [codec.script.load]
            elif self._for_now(said):
                pause = next(later, None)
                if pause is None:
                    raise said
                yield pause
                if word(said) == "READONLY":
                    yield Leave(self._node)  # the next connection asks a sentinel
            else:
                raise said
            said = None

    def _outcome(self, course: Course) -> Any:
        """What a course comes to; its failure is returned, not raised."""
        try:
            return run(course)
        except self.errors as failure:
            return failure

    # --- several commands in one exchange

    def _pipelined(self, node: Node, commands: Sequence[Command[Any]]) -> list[Any]:
        """Replies, or errors in their places, of commands that go to one server together."""
        if not commands:
            return []
        offset = round(self.clock_offset * 1_000_000)
        codecs = [CODECS[type(command)] for command in commands]
        payloads = [
            codec.encode(command, offset) for codec, command in zip(codecs, commands, strict=True)
        ]
        writes = [type(command) not in READERS for command in commands]
        replies = self._together(node, payloads, writes)
        strangers = [place for place, reply in enumerate(replies) if unknown_script(reply)]
        if strangers:
            scripts = list({codecs[place].script.load for place in strangers})
            answers = self._together(
                node,
                [*scripts, *(payloads[place] for place in strangers)],
                [*(False for _ in scripts), *(writes[place] for place in strangers)],
            )
            for place, reply in zip(strangers, answers[len(scripts) :], strict=True):
                replies[place] = reply
        return [
            reply if isinstance(reply, Exception) else codec.decode(reply)
            for codec, reply in zip(codecs, replies, strict=True)
        ]

    def _together(self, node: Node, payloads: Sequence[bytes], writes: Sequence[bool]) -> list[Any]:
        wait, patience = (self._wait, self._patience) if any(writes) else ([], 0.0)
        try:
            replies = node.exchange([*payloads, *wait], patience)
        except ReplyLost as lost:
            return [lost for _ in payloads]
        if not wait:
            return replies
        *replies, count = replies
        return [
            self._confirmed(reply, count) if write and not isinstance(reply, Exception) else reply
            for reply, write in zip(replies, writes, strict=True)
        ]

    def _confirmed(self, reply: Any, count: Any) -> Any:
        """The reply to a write, or what stands in its place because too few replicas have it."""
        if isinstance(count, ReplyLost):
            return count
        if isinstance(count, Exception):
            return NotReplicated(f"it executed, but who has it besides could not be asked: {count}")
        if count < self.replicas:
            return NotReplicated(
                f"it executed, but only {count} of {self.replicas} replicas had it after "
                f"{self._patience:g} s: a failover now would undo it"
            )
        return reply

    # --- notifications

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, waiting on a connection of its own.

        A wait that is cut off ends without one, and the waiter looks again by itself.
        """
        requests = [mailbox_request(mailbox, seconds)]
        try:
            reply = self._node.lanes.exchange(requests, max(0.0, seconds))[0]
        except ReplyLost:
            return False
        if self._moves and word(reply) in DEMOTED:
            self._node.close()
        return came(reply)

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        requests = [mailbox_request(mailbox, seconds)]
        try:
            reply = (await self._node.lanes.aexchange(requests, max(0.0, seconds)))[0]
        except ReplyLost:
            return False
        if self._moves and word(reply) in DEMOTED:
            await self._node.aclose()
        return came(reply)

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel, on a connection of its own."""
        return ChannelSubscription(self._node.dial, channel, self._node.timeout)

    def members(self) -> list[tuple[str, Node]]:
        """The servers that have records, by name; one that is alone needs none."""
        return [("", self._node)]

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
            _OURS.search(str(failure)) or word(failure) == "WRONGTYPE"
        ):
            return RecordError
        return StoreUnavailable

    def answered(self, failure: Exception) -> bool:
        """Whether the error is the server's own word, and not that nobody is served for now."""
        return isinstance(failure, hiredis.ReplyError) and word(failure) not in AWAY

    def advice(self, failure: Exception) -> str:
        """What the server's error means, in words."""
        text = str(failure)
        if found := _OURS.search(text):
            what, first, second = found.groups()
            if what == "FORMAT":
                return f"the record has format {first}, written by a newer anypod; upgrade this process"
            return f"a {_KINDS.get(first, first)} stands where a {_KINDS.get(second, second)} was asked for"
        if word(failure) == "WRONGTYPE":
            return (
                "another program keeps something else under this key; use a namespace of your own"
            )
        if isinstance(failure, hiredis.ProtocolError):
            return "what answers there does not speak the Redis protocol"
        return READABLE.get(word(failure), "")

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


def unknown_script(reply: Any) -> bool:
    """The server does not know the script, so it has not run it."""
    return word(reply) == "NOSCRIPT"
