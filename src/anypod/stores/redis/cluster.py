"""A cluster: which node has a key's slot, and what to do when it is another one by now.

Invariants:
    - a command goes to the node that owns its slot; what a node answers instead of executing (MOVED, ASK,
      TRYAGAIN, NOSCRIPT) is followed, a bounded number of times, because nothing was executed;
    - a node that cannot be reached did not execute: the map is asked for again, and if the slot has a new
      owner the command goes there;
    - a reply that was lost stays lost, here as anywhere.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import hiredis
import redis
from msgspec import structs
from redis.crc import key_slot

from anypod.commands import Command, Page, Scan
from anypod.stores.notices import Subscription
from anypod.stores.redis.codec import CODECS, Codec, request
from anypod.stores.redis.dialling import Address, Dialler, dialling
from anypod.stores.redis.driver import READERS, RedisDriver, answer, carried_out, unknown_script
from anypod.stores.redis.faults import NotSent, ReplyLost
from anypod.stores.redis.links import Link
from anypod.stores.redis.node import Node
from anypod.stores.redis.waiting import ChannelSubscription, box_of, came, mailbox_request

R = TypeVar("R")

SLOTS: Final = 16_384
MOST_TURNS: Final = 16  # answers that say "elsewhere" or "later" to one command
FIRST_PAUSE: Final = 0.01  # seconds after TRYAGAIN, doubled each time
ASKING: Final = request("ASKING")
UNREACHED: Final = (NotSent, redis.RedisError, ConnectionRefusedError)
ELSEWHERE: Final = ("MOVED", "ASK", "TRYAGAIN", "NOSCRIPT", "CLUSTERDOWN", "LOADING", "MASTERDOWN")


@dataclass(frozen=True, slots=True)
class Exchange:
    """Ask a node."""

    node: Node
    requests: list[bytes]
    patience: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, because the node asked for it."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the cluster who owns what."""


Turn = Exchange | Pause | Look
Course = Generator[Turn, Any, Any]


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
            known = [*self._nodes, *self._seeds]
            random.shuffle(known)
            said: list[str] = []
            for address in known:
                try:
                    self._owners = self._told_by(address)
                except (redis.RedisError, hiredis.HiredisError, OSError) as failure:
                    said.append(f"{address[0]}:{address[1]}: {failure}")
                else:
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
            owners[first : last + 1] = [(host, primary[1])] * (last + 1 - first)
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

    def _course(
        self, slot: int, requests: list[bytes], codec: Codec | None, *, reads: bool
    ) -> Course:
        """Turn after turn until a node has executed, and its reply; an error of the server's is raised."""
        wait = [] if reads else self._wait
        patience = 0.0 if reads else self._patience
        node = self._map.owner(slot)
        front: list[bytes] = []
        looked = lost = False
        for turn in range(MOST_TURNS):
            if node is None:
                yield Look()
                node = self._map.owner(slot)
                if node is None:
                    raise NotSent(f"no node of the cluster has slot {slot}")
            try:
                replies = yield Exchange(node, [*front, *requests, *wait], patience)
            except ReplyLost:
                if not reads or lost:
                    raise
                lost, node = True, None
                continue
            except UNREACHED:
                if looked:
                    raise
                looked, node = True, None
                continue
            reply = replies[len(front)]
            front = []
            if not isinstance(reply, hiredis.ReplyError):
                if wait:
                    self._confirmed(None, replies[-1])
                return reply
            word, *rest = str(reply).split()
            if word == "MOVED":
                self._map.moved(slot, _address(rest[1], node))
                node = self._map.owner(slot)
            elif word == "ASK":
                node, front = self._map.node(_address(rest[1], node)), [ASKING]
            elif unknown_script(reply) and codec is not None:
                # ASKING is for the next request alone, so the script goes first.
                front = [codec.script.load, *([ASKING] if front else [])]
            elif word == "TRYAGAIN":
                yield Pause(FIRST_PAUSE * 2 ** min(turn, 5))
            else:
                raise reply
        raise reply

    def _run(self, course: Course) -> Any:
        try:
            turn = next(course)
            while True:
                try:
                    if isinstance(turn, Exchange):
                        reply: Any = turn.node.exchange(turn.requests, turn.patience)
                        _raise_lost(reply)
                    elif isinstance(turn, Pause):
                        reply = None
                        time.sleep(turn.seconds)
                    else:
                        reply = None
                        self._map.refresh()
                except Exception as failure:  # noqa: BLE001  # the course decides what it means
                    turn = course.throw(failure)
                else:
                    turn = course.send(reply)
        except StopIteration as end:
            return end.value

    async def _arun(self, course: Course) -> Any:
        try:
            turn = next(course)
            while True:
                try:
                    if isinstance(turn, Exchange):
                        reply: Any = await turn.node.aexchange(turn.requests, turn.patience)
                    elif isinstance(turn, Pause):
                        reply = None
                        await asyncio.sleep(turn.seconds)
                    else:
                        reply = None
                        await asyncio.to_thread(self._map.refresh)
                except Exception as failure:  # noqa: BLE001  # the course decides what it means
                    turn = course.throw(failure)
                else:
                    turn = course.send(reply)
        except StopIteration as end:
            return end.value

    def _course_of(self, command: Command[Any]) -> Course:
        codec = CODECS[type(command)]
        payload = codec.encode(command, round(self.clock_offset * 1_000_000))
        reads = type(command) in READERS
        return self._course(key_slot(command.key.encode()), [payload], codec, reads=reads)

    # --- the driver

    def execute(self, command: Command[R]) -> R:
        """Execute one command on the node that has its slot."""
        if type(command) is Scan:
            return cast(R, self._scan(command))
        reply = self._run(self._course_of(command))
        return CODECS[type(command)].decode(reply)  # type: ignore[no-any-return]

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command; those of one tick and one node leave together."""
        if type(command) is Scan:
            page: Any = await asyncio.to_thread(self._scan, command)
            return page  # type: ignore[no-any-return]
        reply = await self._arun(self._course_of(command))
        return CODECS[type(command)].decode(reply)  # type: ignore[no-any-return]

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands in one pipeline per node; what is elsewhere by now follows one by one."""
        offset = round(self.clock_offset * 1_000_000)
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
            codecs = [CODECS[type(commands[place])] for place in places]
            payloads = [
                codec.encode(commands[place], offset)
                for codec, place in zip(codecs, places, strict=True)
            ]
            try:
                answers = carried_out(node, codecs, payloads, self._wait, self._patience)
            except UNREACHED:
                singly += places  # nothing was sent: each looks for the new owner
                continue
            for place, reply in zip(places, answers, strict=True):
                replies[place] = reply
                elsewhere = isinstance(reply, hiredis.ReplyError)
                if elsewhere and str(reply).startswith(ELSEWHERE):
                    singly.append(place)
        for place in singly:
            try:
                replies[place] = self.execute(commands[place])
            except self.errors as failure:
                replies[place] = failure
        return replies

    def _scan(self, command: Scan) -> Page:
        """One page of one node; the cursor says which node comes next."""
        if not self._map.primaries():
            self._map.refresh()
        where, _, cursor = command.after.rpartition("|")
        host, _, port = where.rpartition(":")
        here = (host, int(port)) if where else self._map.primaries()[0]
        codec = CODECS[Scan]
        payload = codec.encode(
            structs.replace(command, after=cursor or "0"), round(self.clock_offset * 1_000_000)
        )
        reply = self._map.node(here).exchange([payload])[0]
        if unknown_script(reply):
            reply = self._map.node(here).exchange([codec.script.load, payload])[1]
        page: Page = answer(codec, reply)
        if page.after is not None:
            return structs.replace(page, after=f"{here[0]}:{here[1]}|{page.after}")
        later = [address for address in self._map.primaries() if address > here]
        return structs.replace(page, after=f"{later[0][0]}:{later[0][1]}|0" if later else None)

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take a notification out of a mailbox, on the node of its slot."""
        node = self._run(self._whose(mailbox))
        requests = [mailbox_request(mailbox, seconds)]
        return _came_here(node.lanes.exchange(requests, max(0.0, seconds))[0])

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        node = await self._arun(self._whose(mailbox))
        requests = [mailbox_request(mailbox, seconds)]
        return _came_here((await node.lanes.aexchange(requests, max(0.0, seconds)))[0])

    def _whose(self, mailbox: str) -> Course:
        """The node that has a mailbox: found out by a command that cannot mislead."""
        slot = key_slot(box_of(mailbox).encode())
        yield from self._course(slot, [request("EXISTS", box_of(mailbox))], None, reads=True)
        owner = self._map.owner(slot)
        assert owner is not None
        return owner

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel on some node: a cluster passes messages on to all."""
        return ChannelSubscription(self._dial_any, channel, self._dialler.timeout)

    def _dial_any(self) -> Any:
        self._map.refresh()
        return self._dialler.dial(random.choice(self._map.primaries()))

    def ask(self, payload: bytes) -> Any:
        """The reply of one node to a request of the doctor's."""
        if not self._map.primaries():
            self._map.refresh()
        return self._map.node(self._map.primaries()[0]).exchange([payload])[0]

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


def _raise_lost(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyLost):
            raise reply


def _came_here(reply: Any) -> bool:
    """A slot that moves while somebody waits there ends the wait; the waiter looks again by itself."""
    if isinstance(reply, hiredis.ReplyError) and str(reply).startswith((*ELSEWHERE, "UNBLOCKED")):
        return False
    return came(reply)


def _address(text: str, asked: Node) -> Address:
    """`host:port` of a redirection; without a host it is the one that was asked."""
    host, _, port = text.rpartition(":")
    if not host:
        host = str(getattr(asked.dial(), "host", ""))
    return host, int(port)
