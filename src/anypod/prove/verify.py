"""Tries a suspected state: with a copy of it the difference must go, without it the difference must stay.

A difference and a state that changed are only correlated. So the reduced schedule is played again, and
right before the request whose answer differs the state is copied, from the process that had changed it
into the one that answers. Verified is a cause whose copy makes every answer right, while a copy of
other state from the same process, what else had changed and more, leaves the difference as it was.

Where no single state does it, all that the process had changed are copied, and those are left out again
that are not needed (cf. Zeller, "Isolating Cause-Effect Chains from Computer Programs", FSE 2002).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from anypod.prove.cause import Suspected
from anypod.prove.events import Cause
from anypod.prove.player import Copy, Played, Stopped
from anypod.prove.schedules import Schedule
from anypod.replicas import Change, Constant, State

SINGLE = 4  # suspects that are tried alone
MOST = 8  # states that are copied together

_KEY_WORDS = re.compile(r"secret|key|salt|sign|pepper|nonce|token", re.IGNORECASE)

Process = tuple[int, int]  # slot and life


class Outcome(Enum):
    """How a replay came out: the difference is there, all is right, or something else differs."""

    DIFFERS = "differs"
    RIGHT = "right"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Replayed:
    """One more run of a reduced schedule."""

    outcome: Outcome
    played: Played


class Replay(Protocol):
    """Plays the reduced schedule once more.

    Raises:
        Stopped: there is no time left.
    """

    def __call__(self, copy: Copy | None = None, trace: Collection[State] = ()) -> Replayed:
        """Copy states before the last request, or trace their writes."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Tries the states suspected of one reduced difference.

    Attributes:
        replay: plays it once more.
        schedule: that is played.
    """

    replay: Replay
    schedule: Schedule

    def cause(self, suspects: Sequence[Suspected]) -> Cause | None:
        """The cause, verified if it can be, with the line that wrote it; None without a suspect.

        Args:
            suspects: the likeliest first.
        """
        if not suspects:
            return self._drawn(self._unlike())
        chosen, verified = suspects[0], False
        together: tuple[str, ...] = ()
        try:
            found = self._sufficient(suspects)
            if found is None:
                known = {one.change.state for one in suspects}
                unlike = [one for one in self._unlike() if one.change.state not in known]
                if (drawn := self._drawn(unlike)) is not None:
                    return drawn
                # A database that one pod has changed, say, and a key that each of them has drawn.
                suspects = [*suspects[:SINGLE], *unlike]
                found = self._sufficient(suspects, alone=False) if unlike else None
            if found is not None:
                (chosen, *others), source = found
                together = tuple(other.change.name for other in others)
                states = frozenset(one.change.state for one in (chosen, *others))
                verified = self._is_needed(states, source, suspects)
            return replace(self._written(chosen), verified=verified, together=together)
        except Stopped:
            return replace(chosen.named(), verified=verified, together=together)

    # --- copying

    def _sufficient(
        self, suspects: Sequence[Suspected], *, alone: bool = True
    ) -> tuple[Sequence[Suspected], Process] | None:
        """The fewest suspects whose copy makes all answers right, and where they were copied from.

        Args:
            suspects: the likeliest first.
            alone: whether one of them may be enough.
        """
        for suspect in suspects[: SINGLE if alone else 0]:
            for source in self._sources(suspect):
                if self._heals([suspect], source):
                    return [suspect], source
        for source in dict.fromkeys(
            source for suspect in suspects for source in self._sources(suspect)
        ):
            group = [suspect for suspect in suspects if source in self._sources(suspect)][:MOST]
            if len(group) > 1 and self._heals(group, source):
                for suspect in reversed(group):
                    fewer = [other for other in group if other is not suspect]
                    if fewer and self._heals(fewer, source):
                        group = fewer
                return group, source
        return None

    def _sources(self, suspect: Suspected) -> Iterator[Process]:
        """The processes whose state the reader should have had, the likeliest first."""
        here = self._process(-1)
        if not suspect.is_kept:
            yield self._process(suspect.position)
            return
        # The reader kept an old copy: right is what a process has that the later requests reached.
        others = [
            self._process(position)
            for position in range(len(self.schedule.deliveries) - 2, -1, -1)
            if self._process(position) != here
        ]
        yield from dict.fromkeys(others)

    def _process(self, position: int) -> Process:
        delivery = self.schedule.deliveries[position]
        return delivery.slot, delivery.life

    def _heals(self, suspects: Sequence[Suspected], source: Process) -> bool:
        states = frozenset(suspect.change.state for suspect in suspects)
        replayed = self.replay(copy=Copy(states, source))
        return replayed.outcome is Outcome.RIGHT and replayed.played.copied == states

    def _is_needed(
        self, cause: frozenset[State], source: Process, suspects: Sequence[Suspected]
    ) -> bool:
        """Whether the difference stays when other state is copied: the negative control."""
        others = frozenset(suspect.change.state for suspect in suspects) - cause
        return self.replay(copy=Copy(others, source, but=cause)).outcome is Outcome.DIFFERS

    # --- what no request changed

    def _unlike(self) -> list[Suspected]:
        """What the pods have had from their start and not alike: databases, likely keys, and the others."""
        here = self._process(-1)
        others = [
            at for at in range(len(self.schedule.deliveries) - 1) if self._process(at) != here
        ]
        if not others:
            return []
        try:
            copy = Copy(frozenset(), self._process(others[-1]), compares=True)
            played = self.replay(copy=copy).played
            writer, reader = (played.trace.exchanges[at] for at in (others[-1], -1))
        except (Stopped, IndexError):
            return []
        return [
            Suspected(_drawn_as(constant), others[-1], writer, reader)
            for constant in sorted(played.unlike, key=_is_unlikely)
        ]

    def _drawn(self, unlike: Sequence[Suspected]) -> Cause | None:
        """A value or a file that each process made for itself at import, if that alone is the cause."""
        try:
            found = self._sufficient(unlike) if unlike else None
            if found is None:
                return None
            (chosen, *rest), source = found
            states = frozenset(one.change.state for one in (chosen, *rest))
            if not self._is_needed(states, source, unlike):
                return None
        except Stopped:
            return None
        together = tuple(one.change.name for one in rest)
        return replace(chosen.named(), verified=True, together=together, drawn=True)

    # --- the line

    def _written(self, suspect: Suspected) -> Cause:
        """The cause with the line that wrote it, as far as one of the service's own did."""
        named = suspect.named()
        state = suspect.change.state
        exchanges = self.replay(trace=(state,)).played.trace.exchanges
        earlier = [*exchanges[suspect.position : suspect.position + 1], *exchanges[:-1]]
        for exchange in earlier:
            for write in exchange.writes:
                if write.state == state:
                    return replace(named, written_in=write.file, written_at=write.line)
        return named


def _is_unlikely(constant: Constant) -> int:
    """How late it is tried: first databases, then what the name says is a key, then the others."""
    if constant.state.kind == "database":
        return 0
    return 1 if _KEY_WORDS.search(constant.state.name) else 2


def _drawn_as(constant: Constant) -> Change:
    state = constant.state
    own = "a value of its own"  # which may be a secret
    return Change(state.kind, state.name, state.module, constant.file, own, own)
