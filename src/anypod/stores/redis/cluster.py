"""A cluster: which node has a key's slot, and what to do when it is another one by now.

Invariants:
    - a command goes to the node that owns its slot; what a node answers instead of executing (MOVED, ASK,
      TRYAGAIN, NOSCRIPT) is followed, a bounded number of times, because nothing was executed;
    - a node that cannot be reached did not execute: the map is asked for again, and if the slot has a new
      owner the command goes there;
    - a reply that was lost stays lost, here as anywhere.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import hiredis
import redis
from redis.crc import key_slot

from anypod.commands import Command, Scan
from anypod.stores.notices import Subscription
from anypod.stores.redis.codec import CODECS, Codec, request
from anypod.stores.redis.course import (
    LATER,
    Course,
    Exchange,
    Look,
    arun,
    pauses,
    run,
    word,
)
from anypod.stores.redis.dialling import Address, Dialler, dialling
from anypod.stores.redis.driver import READERS, RedisDriver
from anypod.stores.redis.faults import NotSent, ReplyLost
from anypod.stores.redis.links import Link
from anypod.stores.redis.node import Node
from anypod.stores.redis.waiting import ChannelSubscription, box_of, came, mailbox_request
from anypod.stores.redis.walk import ASKING, page

R = TypeVar("R")

SLOTS: Final = 16_384
MOST_TURNS: Final = 16  # answers that say "elsewhere" to one command …
QUICK_TURNS: Final = 4  # … and after so many, nodes are given time to agree
UNREACHED: Final = (NotSent, redis.RedisError, ConnectionRefusedError)
ELSEWHERE: Final = ("MOVED", "ASK", "NOSCRIPT")  # another request will be executed
NOT_NOW: Final = ("READONLY", *LATER)  # this one may be, soon


class SlotMap:
    """Who owns which slot, as far as this process knows.

    Args:
        dialler: makes connections.
        seeds: some nodes, to ask first.
    """

    def __init__(self, dialler: Dialler, seeds: Sequence[Address]) -> None:
        self._dialler = dialler
        self._seeds = list(seeds)
        self._owners: list[Address | None] = [None] * SLOTS
        self._nodes: dict[Address, Node] = {}
        self.names: dict[str, Address] = {}  # a node's identity → where it is
        self.told: Address = seeds[0]  # who has answered last
        self._asked = 0  # how often the cluster was asked
        self.forget()

    def forget(self) -> None:
        """In a forked child: new connections, and a new lock."""
        self._lock = threading.Lock()
        for node in self._nodes.values():
            node.forget()

    def node(self, address: Address) -> Node:
        """The node at an address."""
        found = self._nodes.get(address)
        if found is None:
            with self._lock:
                found = self._nodes.setdefault(
                    address, Node(*dialling(self._dialler, address), self._dialler.timeout)
                )
        return found

    def owner(self, slot: int) -> Node | None:
        """The node that has a slot, if one is known to."""
        address = self._owners[slot]
        return None if address is None else self.node(address)

    def address(self, slot: int) -> Address | None:
        """Where the owner of a slot is."""
        return self._owners[slot]

    def moved(self, slot: int, address: Address) -> None:
        """A node has said who has this slot now."""
        self._owners[slot] = address

    def primaries(self) -> list[Address]:
        """All nodes that have slots, sorted."""
        return sorted({address for address in self._owners if address is not None})

    def uncovered(self) -> int:
        """How many slots nobody has."""
        return self._owners.count(None)

    def refresh(self) -> None:
        """Ask the cluster who owns what; whoever comes while somebody asks is content with that.

        Raises:
            NotSent: no node answers.
        """
        asked = self._asked
        with self._lock:
            if self._asked != asked:
                return
            self._asked += 1
            known = list({*self.primaries(), *self._seeds})
            random.shuffle(known)
            said: list[str] = []
            for address in known:
                try:
                    self._owners = self._told_by(address)
                except (redis.RedisError, hiredis.HiredisError, OSError) as failure:
                    said.append(f"{address[0]}:{address[1]}: {failure}")
                else:
                    self.told = address
                    return
        raise NotSent("no node of the cluster answers: " + "; ".join(dict.fromkeys(said)))

    def _told_by(self, address: Address) -> list[Address | None]:
        link = Link(self._dialler.dial(address), self._dialler.timeout)
        try:
            reply = link.exchange(request("CLUSTER", "SLOTS"))
        finally:
            link.close()
        if isinstance(reply, Exception):
            raise reply
        owners: list[Address | None] = [None] * SLOTS
        for first, last, primary, *_ in reply:
            host = (primary[0] or b"").decode() or address[0]
            owner = (host, primary[1])
            owners[first : last + 1] = [owner] * (last + 1 - first)
            self.names[primary[2].decode()] = owner
        return owners

    def nodes(self) -> list[Node]:
        """All nodes that were used."""
        return list(self._nodes.values())


class ClusterDriver(RedisDriver):
    """Records on a cluster.

    Args:
        dialler: makes connections.
        seeds: some nodes, to ask first.
        replicas: how many replicas must have a write before it is acknowledged.
        wait: seconds to wait for them.
    """

    def __init__(
        self, dialler: Dialler, seeds: Sequence[Address], *, replicas: int = 0, wait: float = 0.5
    ) -> None:
        super().__init__(
            Node(*dialling(dialler, seeds[0]), dialler.timeout), replicas=replicas, wait=wait
        )
        self._map = SlotMap(dialler, seeds)
        self._dialler = dialler

    # --- the course of a command

    def _keyed(
        self, key: str, request_: bytes, codec: Codec | None, reads: bool, until: float
    ) -> Course:
        """Turn after turn until the node that has a key's slot has executed, and its raw reply."""
        slot = key_slot(key.encode())
        wait, patience = ([], 0.0) if reads else (self._wait, self._patience)
        node = self._map.owner(slot)
        front: list[bytes] = []
        failed: set[type] = set()
        turns = 0
        later = pauses(until)
        while True:
            if node is None:
                yield Look(self._map.refresh)
                node = self._map.owner(slot)
            said: Any = NotSent(f"no node of the cluster has slot {slot}")
            if node is not None:
                try:
                    replies = yield Exchange(node, [*front, request_, *wait], patience)
                    said = replies[len(front)]
                    if wait and not isinstance(said, Exception):
                        said = self._confirmed(said, replies[-1])
                except hiredis.ReplyError as refusal:
                    said = refusal
                except (ReplyLost, *UNREACHED) as failure:
                    kind = ReplyLost if isinstance(failure, ReplyLost) else NotSent
                    if kind in failed or (kind is ReplyLost and not reads):
                        raise
                    failed.add(kind)
                    node, front = None, []
                    continue
            if not isinstance(said, Exception):
                return said
            known = word(said)
            if node is not None and known in ELSEWHERE and turns < MOST_TURNS:
                turns += 1
                node, front = self._instead(said, slot, node, codec, asking=ASKING in front)
                pause = next(later, None) if turns > QUICK_TURNS else None
            elif known in NOT_NOW or node is None:
                # Only TRYAGAIN says that the owner is the same as before.
                node, front = (self._map.owner(slot) if known == "TRYAGAIN" else None), []
                pause = next(later, None)
                if pause is None:
                    raise said
            else:
                raise said
            if pause is not None:
                yield pause

    def _instead(
        self, said: Exception, slot: int, node: Node, codec: Codec | None, *, asking: bool
    ) -> tuple[Node, list[bytes]]:
        """Whom to ask next, and what to say first."""
        if word(said) == "NOSCRIPT" and codec is not None:
            # ASKING is for the next request alone, so the script goes first.
            return node, [codec.script.load, *([ASKING] if asking else [])]
        address = _address(str(said).split()[2], node)
        if word(said) == "ASK":
            return self._map.node(address), [ASKING]
        self._map.moved(slot, address)
        return self._map.node(address), []

    def _course_of(self, command: Command[Any], until: float) -> Course:
        codec = CODECS[type(command)]
        offset = round(self.clock_offset * 1_000_000)
        if type(command) is Scan:
            return (yield from page(command, offset, self._map, until))
        payload = codec.encode(command, offset)
        reads = type(command) in READERS
        return codec.decode((yield from self._keyed(command.key, payload, codec, reads, until)))

    # --- the driver

    def execute(self, command: Command[R]) -> R:
        """Execute one command on the node that has its slot."""
        return run(self._course_of(command, self._limit()))  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command; those of one tick and one node leave together."""
        return await arun(self._course_of(command, self._limit()))  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one pipeline per node; what is elsewhere by now follows one by one."""
        until = self._limit()
        replies: list[Any] = [None] * len(commands)
        by_node: dict[Node, list[int]] = {}
        singly: list[int] = []
        for place, command in enumerate(commands):
            node = self._map.owner(key_slot(command.key.encode()))
            if node is None or type(command) is Scan:
                singly.append(place)
            else:
                by_node.setdefault(node, []).append(place)
        for node, places in by_node.items():
            try:
                answers = self._pipelined(node, [commands[place] for place in places])
            except UNREACHED:
                singly += places  # nothing was sent: each looks for the new owner
                continue
            for place, reply in zip(places, answers, strict=True):
                replies[place] = reply
                if word(reply) in (*ELSEWHERE, *NOT_NOW):
                    singly.append(place)
        for place in singly:
            replies[place] = self._outcome(self._course_of(commands[place], until))
        return replies

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, on the node of its slot."""
        node = run(self._whose(mailbox))
        try:
            reply = node.lanes.exchange([mailbox_request(mailbox, seconds)], max(0.0, seconds))[0]
        except ReplyLost:
            return False  # the waiter looks again by itself
        return came(reply)

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        node = await arun(self._whose(mailbox))
        requests = [mailbox_request(mailbox, seconds)]
        try:
            reply = (await node.lanes.aexchange(requests, max(0.0, seconds)))[0]
        except ReplyLost:
            return False
        return came(reply)

    def _whose(self, mailbox: str) -> Course:
        """The node that has a mailbox: found out by a command that cannot mislead."""
        box = box_of(mailbox)
        yield from self._keyed(box, request("EXISTS", box), None, reads=True, until=self._limit())
        owner = self._map.owner(key_slot(box.encode()))
        assert owner is not None
        return owner

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel on some node: a cluster passes messages on to all."""
        return ChannelSubscription(self._dial_any, channel, self._dialler.timeout)

    def _dial_any(self) -> Any:
        self._map.refresh()
        return self._dialler.dial(self._map.told)

    def members(self) -> list[tuple[str, Node]]:
        """The primaries, by their addresses."""
        self._map.refresh()
        return [
            (f"{host}:{port}", self._map.node((host, port))) for host, port in self._map.primaries()
        ]

    def uncovered(self) -> int:
        """How many slots nobody has."""
        self._map.refresh()
        return self._map.uncovered()

    def after_fork(self) -> None:
        """In a forked child: drop the parent's connections without a word on them."""
        super().after_fork()
        self._map.forget()

    def close(self) -> None:
        """Close the blocking connections."""
        for node in self._map.nodes():
            node.close()

    async def aclose(self) -> None:
        """Close this event loop's connections, and the blocking ones."""
        for node in self._map.nodes():
            await node.aclose()


def _address(text: str, asked: Node) -> Address:
    """`host:port` of a redirection; without a host it is the one that was asked."""
    host, _, port = text.rpartition(":")
    if not host:
        host = str(getattr(asked.dial(), "host", ""))
    return host, int(port)
