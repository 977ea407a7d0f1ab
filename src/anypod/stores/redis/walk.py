"""A walk over the values of a cluster, whose slots may move meanwhile.

Each node has a cursor of its own, and a key whose slot moves from a node that was not asked yet to one that was
would never be met. So a walk keeps account of slots, not of nodes: a slot is done when the node that has it was
asked from beginning to end while it had it. One that it gave away meanwhile is looked for where it went.

    fresh   slots that nobody was asked for
    given   slots that a node was asked for, which gave them away meanwhile: their keys are downstream

Invariants:
    - keys move from the owner of a slot to the node that imports it; owners are asked first, importers only
      for what was given;
    - a node whose epoch changed meanwhile may have lost a slot and got it back: it is asked again;
    - the cursor holds all of this, so that a walk may go on in another process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import hiredis
import redis
from msgspec import structs

from anypod.commands import Page, Scan
from anypod.stores.redis.codec import CODECS, request
from anypod.stores.redis.course import LATER, Course, Exchange, Look, pauses, word
from anypod.stores.redis.dialling import Address
from anypod.stores.redis.faults import NotSent

if TYPE_CHECKING:
    from anypod.stores.redis.cluster import SlotMap

ALL: Final = (1 << 16_384) - 1  # a set of slots is an integer, a slot one of its bits
MOST_VAIN: Final = 16  # times that a node was asked in vain, because its slots had moved
ASKING: Final = request("ASKING")
NODES: Final = request("CLUSTER", "NODES")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node says about itself."""

    epoch: int
    owned: int
    importing: int
    migrating: int
    targets: dict[int, tuple[str, Address]]  # a migrating slot → who imports it


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a walk has come, and whom it asks now."""

    fresh: int = ALL
    given: int = 0
    vain: int = 0
    host: str = ""
    port: int = 0
    epoch: int = 0  # of the node that is asked, when it was first asked
    had: int = 0  # slots that it was to be asked for
    leaving: int = 0  # those of them that it was giving away
    cursor: str = ""

    @classmethod
    def read(cls, text: str) -> Walk:
        """The walk of a page's `after`."""
        if not text:
            return cls()
        parts = text.split("|", 8)
        numbers = [int(part, 16) for part in parts[:7]]
        fresh, given, vain, port, epoch, had, leaving = numbers
        return cls(fresh, given, vain, parts[7], port, epoch, had, leaving, parts[8])

    def written(self) -> str:
        """The `after` of a page."""
        numbers = (
            *(self.fresh, self.given, self.vain, self.port, self.epoch, self.had, self.leaving),
        )
        return "|".join([*(f"{number:x}" for number in numbers), self.host, self.cursor])

    def left(self) -> int:
        """The slots that are not done."""
        return self.fresh | self.given

    def begun(self, standing: Standing) -> Walk:
        """The node that is asked says what it has, before it is asked."""
        had = (standing.owned & self.left()) | (standing.importing & self.given)
        return replace(
            self, epoch=standing.epoch, had=had, leaving=had & standing.migrating, cursor="0"
        )

    def ended(self, standing: Standing) -> Walk:
        """The node has been asked to the end, and says what it has now."""
        if standing.epoch != self.epoch:
            return Walk(self.fresh, self.given, self.vain + 1)
        kept = self.had & (standing.owned | (standing.importing & self.given))
        kept &= ~(self.leaving | standing.migrating)
        return Walk(
            fresh=self.fresh & ~self.had,
            given=(self.given | self.had) & ~kept,
            vain=self.vain if kept else self.vain + 1,
        )


def page(command: Scan, offset: int, slots: SlotMap, until: float) -> Course:
    """One page, of one node.

    Raises:
        NotSent: a slot has no owner, or the slots move faster than a walk can follow.
    """
    walk = Walk.read(command.after)
    codec = CODECS[Scan]
    later = pauses(until)
    load: list[bytes] = []
    while True:
        if walk.vain > MOST_VAIN:
            raise NotSent(
                "the cluster's slots move faster than a walk can follow; walk again later"
            )
        if not walk.host:
            host, port = yield from _next(walk, slots, until)
            walk = replace(walk, host=host, port=port)
        step = structs.replace(command, after=walk.cursor)
        # What a node imports it shows to those who ask for it by name: ASKING is that word.
        front = [*load, ASKING] if walk.cursor else [NODES, *load, ASKING]
        try:
            replies = yield Exchange(
                slots.node((walk.host, walk.port)), [*front, codec.encode(step, offset), NODES]
            )
            said: Any = next((one for one in replies if isinstance(one, Exception)), replies[-2])
        except (redis.RedisError, hiredis.ReplyError, OSError) as failure:
            said = failure
        if not isinstance(said, Exception):
            if not walk.cursor:
                walk = walk.begun(_standing(replies[0]))
            if walk.had:
                break
            said = NotSent("a slot of the cluster is between two nodes")
        if word(said) == "NOSCRIPT" and not load:
            load = [codec.script.load]
            continue
        if isinstance(said, hiredis.ReplyError) and word(said) not in LATER:
            raise said
        pause = next(later, None)
        if pause is None:
            raise said
        yield pause
        yield Look(slots.refresh)
        walk = Walk(walk.fresh, walk.given, walk.vain)
    found: Page = codec.decode(said)
    if found.after is not None:
        return structs.replace(found, after=replace(walk, cursor=found.after).written())
    walk = walk.ended(_standing(replies[-1]))
    return structs.replace(found, after=walk.written() if walk.left() else None)


def _next(walk: Walk, slots: SlotMap, until: float) -> Course:
    """The address of whoever is to be asked next."""
    wanted = walk.fresh or walk.given
    slot = (wanted & -wanted).bit_length() - 1
    later = pauses(until)
    if walk.vain or not walk.fresh:
        yield Look(slots.refresh)
    while (owner := slots.owner(slot)) is None:
        yield Look(slots.refresh)
        if slots.owner(slot) is None:
            pause = next(later, None)
            if pause is None:
                raise NotSent(f"no node of the cluster has slot {slot}")
            yield pause
    address = slots.address(slot)
    if walk.fresh:
        return address
    said = (yield Exchange(owner, [NODES]))[0]
    if isinstance(said, Exception):
        raise said
    name, place = _standing(said).targets.get(slot, ("", address))
    return slots.names.get(name, place)


def _standing(reply: bytes) -> Standing:
    """A node's own line in its list of all nodes, and the addresses of those that it gives slots to."""
    places: dict[str, Address] = {}
    own: list[str] = []
    for line in reply.decode().splitlines():
        fields = line.split(" ")
        host, _, port = fields[1].partition("@")[0].rpartition(":")
        places[fields[0]] = (host, int(port))
        if "myself" in fields[2].split(","):
            own = fields
    owned = importing = migrating = 0
    targets: dict[int, tuple[str, Address]] = {}
    for text in own[8:]:
        if not text.startswith("["):
            first, _, last = text.partition("-")
            owned |= _range(int(first), int(last or first))
            continue
        number, direction, name = text[1:-1].split("-", 2)
        if direction == "<":
            importing |= 1 << int(number)
        else:
            migrating |= 1 << int(number)
            targets[int(number)] = (name, places.get(name, ("", 0)))
    return Standing(int(own[6]), owned, importing, migrating, targets)


def _range(first: int, last: int) -> int:
    return ((1 << (last + 1 - first)) - 1) << first
