"""Plays a schedule: sends its deliveries, one at a time, to the replicas of one world.

Every run begins with a world as it was right after import. Replicas start when a delivery first needs
them. Each client has a cookie jar of its own, lives through the whole run, and takes exactly one
answer per step: of a request delivered twice the first, unless that was lost.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from anypod.prove.client import Client
from anypod.prove.model import Exchange, NoResponse, Request, Response, Trace
from anypod.prove.schedules import Delivery, Schedule
from anypod.prove.workload import MissingValue, Workload, render
from anypod.replicas import Change, Constant, Replica, State, World

QUIET_POLLS = 4
LOG_LINES = 25


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache with a time to live that the reading replica holds."""

    name: str
    ttl: float


@dataclass(frozen=True, slots=True)
class Played:
    """One run of a schedule.

    Attributes:
        trace: every exchange, duplicates included.
        skipped: steps that could not be sent, because a value they need was not answered, and why.
        caches: anypod's local caches on the replica that answered the last delivery, if probed.
        escapes: writes outside the copies and hosts reached for.
        died: pods whose process ended by itself.
        copied: the states that were copied.
        unlike: texts and numbers that are others in the source's process than in the reader's.
        log: the end of what the last replica printed, if probed.
        unreached: the application's routes that no request reached, if asked for and known.
    """

    trace: Trace
    skipped: Mapping[int, str]
    caches: tuple[Cache, ...] = ()
    escapes: tuple[str, ...] = ()
    died: tuple[str, ...] = ()
    log: str = ""
    copied: frozenset[State] = frozenset()
    unlike: tuple[Constant, ...] = ()
    unreached: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """States to copy into the replica of the last delivery, right before it, or to compare.

    Attributes:
        states: which ones.
        source: slot and life of the process that they come from.
        but: copy a few others of that process too, and none of these.
        compares: copy nothing, and say which texts and numbers are not the same in both.
    """

    states: frozenset[State]
    source: tuple[int, int]
    but: frozenset[State] = frozenset()
    compares: bool = False


class Stopped(Exception):
    """The proof was interrupted, or its budget ended, between two requests."""


class Clock:
    """When to stop: asked between requests, never during one."""

    def stop(self) -> bool:
        """Whether no further request should be sent."""
        return False


@dataclass(slots=True)
class _Stage:
    """The replicas of one run, by the life that its deliveries name."""

    world: World
    moves: bool
    rolls: bool
    trace: Collection[State] = ()
    copy: Copy | None = None
    alive: dict[int, tuple[int, Replica]] = field(default_factory=dict)
    numbers: dict[tuple[int, int], int] = field(default_factory=dict)
    incarnations: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    escapes: dict[str, None] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    doubted: set[int] = field(default_factory=set)
    taken: dict[State, str] = field(default_factory=dict)
    constants: tuple[Constant, ...] = ()
    unlike: tuple[Constant, ...] = ()

    def replica(self, slot: int, life: int) -> Replica:
        """The process for this slot and life, started if it is not there."""
        current = self.alive.get(slot)
        if current is not None and current[0] == life:
            if slot not in self.doubted or current[1].alive():
                return current[1]
            self._note_death(slot, life)
        elif self.moves and self.alive:
            for other, (_, replica) in list(self.alive.items()):
                self._leave(other)
                replica.kill()
                del self.alive[other]
        elif current is not None:
            self._leave(slot)
            if self.rolls:
                current[1].terminate()
        self._number(slot, life)
        self.doubted.discard(slot)
        started = self.world.start(slot, trace=self.trace)
        self.alive[slot] = (life, started)
        return started

    def _leave(self, slot: int) -> None:
        """A process is about to end: keep what is still asked of it."""
        life, replica = self.alive[slot]
        self._note_escapes(replica)
        if self.copy is not None and self.copy.source == (slot, life):
            self._take(replica, self.copy)

    def _take(self, source: Replica, copy: Copy) -> None:
        if copy.compares:
            self.constants = source.constants()
        else:
            self.taken = source.take(copy.states, copy.but)

    def copied(self, reader: Replica) -> frozenset[State]:
        """Copy what is to be copied into the reader's process; which states now are as the source's."""
        if self.copy is None:
            return frozenset()
        slot, life = self.copy.source
        current = self.alive.get(slot)
        if current is not None and current[0] == life:
            self._take(current[1], self.copy)
        if self.copy.compares:
            here = {constant.state: constant.digest for constant in reader.constants()}
            self.unlike = tuple(
                c for c in self.constants if here.get(c.state, c.digest) != c.digest
            )
        return reader.give(self.taken)

    def number(self, slot: int, life: int) -> tuple[int, int]:
        """Pod and incarnation as people count them."""
        if self.rolls:
            return self.incarnations[slot, life]
        number = self.numbers[slot, life]
        return (1, number) if self.moves else (number, 1)

    def _number(self, slot: int, life: int) -> None:
        if (slot, life) in self.numbers:
            return
        self.numbers[slot, life] = len(self.numbers) + 1
        pods = list(dict.fromkeys(known for known, _ in self.numbers))
        earlier = sum(known == slot for known, _ in self.numbers)
        self.incarnations[slot, life] = (pods.index(slot) + 1, earlier)

    def _note_escapes(self, replica: Replica) -> None:
        for escape in replica.escapes():
            self.escapes.setdefault(escape)

    def _note_death(self, slot: int, life: int) -> None:
        self.died.append(f"pod {self.numbers[slot, life]} ended by itself")

    def finish(self) -> None:
        for slot, (life, replica) in self.alive.items():
            self._note_escapes(replica)
            if slot in self.doubted and not replica.alive():
                self._note_death(slot, life)


def play(
    world: World,
    workload: Workload,
    schedule: Schedule,
    *,
    timeout: float,
    clock: Clock | None = None,
    age: Mapping[int, float] | None = None,
    probe: bool = False,
    trace: Collection[State] = (),
    copy: Copy | None = None,
    routes: bool = False,
) -> Played:
    """Send a schedule to a world that is reset first.

    Args:
        world: whose slots the deliveries name.
        workload: whose steps the deliveries name.
        schedule: what to send where.
        timeout: seconds that one request may take.
        clock: asked between requests whether to stop.
        age: seconds by which to move the clocks of the local caches of a delivery's replica right
            before it, by position.
        probe: ask each replica after each request what it changed, and wait until it has come to
            rest. It takes longer than most requests do, so only evidence is probed.
        trace: states whose writes are traced to their lines, which takes much longer still.
        copy: states to copy from one process to another before the last delivery.
        routes: ask the last replica for routes of the application that no request reached.

    Raises:
        Stopped: the clock said so.
        StartFailed: a replica did not start.
    """
    world.reset()
    stage = _Stage(world, schedule.moves, schedule.rolls, trace, copy)
    clients: dict[str, Client] = {}
    originals: dict[int, tuple[Request, Client]] = {}
    record = _Record(workload, stage, timeout, probe or bool(trace))
    copied: frozenset[State] = frozenset()
    skipped: dict[int, str] = {}
    last: Replica | None = None
    waiting: _Prepared | None = None  # sent together with what follows
    twice = {delivery.step for delivery in schedule.deliveries if delivery.duplicate}
    for position, delivery in enumerate(schedule.deliveries):
        if clock is not None and clock.stop():
            raise Stopped
        if waiting is not None and not delivery.overlaps:
            record.send(None, waiting)  # what was to come at the same moment could not be sent
            waiting = None
        step = workload.steps[delivery.step]
        if delivery.step in skipped:
            continue
        client = clients.setdefault(step.client, Client())
        if delivery.duplicate:
            if delivery.step not in originals:
                continue
            request, sender = originals[delivery.step]
        else:
            try:
                request, sender = render(step, workload, record.responses), client
            except MissingValue as missing:
                skipped[delivery.step] = str(missing)
                continue
            if delivery.step in twice:
                originals[delivery.step] = (request, client.fork())
        replica = last = stage.replica(delivery.slot, delivery.life)
        if age and position in age:
            replica.advance(age[position])
        if copy is not None and position == len(schedule.deliveries) - 1:
            copied = stage.copied(replica)
        prepared = _Prepared(delivery, request, sender, client, replica)
        if _is_overlapped(schedule.deliveries, position):
            waiting = prepared
            continue
        record.send(waiting, prepared)
        waiting = None
    if waiting is not None:
        record.send(None, waiting)
    caches: tuple[Cache, ...] = ()
    log = ""
    if last is not None and probe:
        caches = tuple(Cache(cache.name, cache.ttl) for cache in last.caches())
        log = "\n".join(last.log.strip().splitlines()[-LOG_LINES:])
    unreached = record.unreached(last) if routes else None
    stage.finish()
    return Played(
        Trace(tuple(record.exchanges)),
        skipped,
        caches,
        tuple(stage.escapes),
        tuple(stage.died),
        log,
        copied,
        stage.unlike,
        unreached,
    )


def _was_lost(delivery: Delivery, exchanges: Sequence[Exchange]) -> bool:
    return any(e.lost and e.step.index == delivery.step for e in exchanges)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A delivery that is ready to be sent."""

    delivery: Delivery
    request: Request
    sender: Client
    client: Client
    replica: Replica


def _is_overlapped(deliveries: Sequence[Delivery], position: int) -> bool:
    return position + 1 < len(deliveries) and deliveries[position + 1].overlaps


@dataclass(slots=True)
class _Record:
    """What has been exchanged in one run, and the answers that later requests take values from."""

    workload: Workload
    stage: _Stage
    timeout: float
    probe: bool
    responses: dict[str, Response] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)

    def send(self, before: _Prepared | None, prepared: _Prepared) -> None:
        """Send one delivery, or two at the same moment, from a thread each."""
        if before is None:
            self._add(prepared, _deliver(prepared, self.timeout, self.exchanges))
            return
        start = threading.Barrier(2)

        def send(one: _Prepared) -> Response | NoResponse:
            start.wait()
            return _deliver(one, self.timeout, self.exchanges)

        with ThreadPoolExecutor(1, thread_name_prefix="overlap") as other:
            first = other.submit(send, before)
            second = send(prepared)
        self._add(before, first.result())
        self._add(prepared, second)

    def unreached(self, replica: Replica | None) -> tuple[str, ...] | None:
        """The application's routes that nothing of this run has reached."""
        sent = [(e.request.method, e.request.target) for e in self.exchanges]
        return None if replica is None else replica.unreached(sent)

    def _add(self, one: _Prepared, response: Response | NoResponse) -> None:
        delivery = one.delivery
        if isinstance(response, NoResponse):
            self.stage.doubted.add(delivery.slot)
        step = self.workload.steps[delivery.step]
        takes = not delivery.lost and (
            not delivery.duplicate or _was_lost(delivery, self.exchanges)
        )
        if takes and step.name is not None:
            if isinstance(response, Response):
                self.responses[step.name] = response
            else:
                self.responses.pop(step.name, None)
        pod, incarnation = self.stage.number(delivery.slot, delivery.life)
        self.exchanges.append(
            Exchange(
                step,
                pod,
                incarnation,
                one.request,
                response,
                changes=_settled(one.replica) if self.probe else (),
                duplicate=delivery.duplicate,
                lost=delivery.lost,
                overlaps=delivery.overlaps,
                writes=one.replica.writes() if self.stage.trace else (),
            )
        )


def _deliver(
    prepared: _Prepared, timeout: float, exchanges: Sequence[Exchange]
) -> Response | NoResponse:
    delivery, request = prepared.delivery, prepared.request
    sender, client, replica = prepared.sender, prepared.client, prepared.replica
    if delivery.lost:
        return client.send_lost(request, replica.address, timeout=timeout)
    if not delivery.duplicate:
        return sender.send(request, replica.address, timeout=timeout)
    if _was_lost(delivery, exchanges):
        # Nothing was taken from the first answer, so the jar still is what it was.
        return client.send(request, replica.address, timeout=timeout)
    return sender.send(request, replica.address, timeout=timeout, store_cookies=False)


def _settled(replica: Replica) -> tuple[Change, ...]:
    """What the request changed, once nothing changes any more.

    Work that a handler leaves behind shows in the next poll; what never comes to rest is cut off.
    """
    changes: list[Change] = []
    for _ in range(QUIET_POLLS):
        more = replica.changes()
        changes += more
        if not more:
            break
    return _merged(changes)


def _merged(changes: Sequence[Change]) -> tuple[Change, ...]:
    """One change per state: the first value before, the last one after."""
    merged: dict[tuple[str, str, str], Change] = {}
    for change in changes:
        key = (change.kind, change.module, change.name)
        earlier = merged.get(key)
        if earlier is not None:
            change = Change(  # noqa: PLW2901  # the merged change takes the later one's place
                change.kind,
                change.name,
                change.module,
                change.file,
                earlier.before,
                change.after,
            )
        merged[key] = change
    return tuple(merged.values())
