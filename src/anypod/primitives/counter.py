"""Counters that every replica sees: N increments on M replicas return N distinct values.

Invariants:
    - an increment is one `Add`: nobody reads, computes and writes;
    - a refusal at the floor or ceiling is decided in the store and changes nothing;
    - with `once=`, a repeated increment counts once and gets the first answer again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from anypod.commands import MAX_INTEGER, Add, Added, AddOutcome, Total
from anypod.durations import check_durations, shown
from anypod.errors import ConfigurationError, KeyReused, LimitReached
from anypod.flow import Flow, arun, run
from anypod.keys import Key, encode, names_nothing
from anypod.primitives.buffered import BufferedCounter

if TYPE_CHECKING:
    from anypod.stores import Store


SHORTEST_WINDOW: Final = 0.001  # seconds


class Counter:
    """A family of counters, one per key. Made by `State.counter`.

    Args:
        store: where the counters are.
        name: names the family: 1 to 100 letters, digits, `_`, `.` or `-`.
        floor: the smallest value; a step below is refused.
        ceiling: the largest value; a step above is refused.
        ttl: seconds that a counter lives from its first increment on; None for ever.
        window: seconds after which a counter begins at 0 again, instead of `ttl`. Windows lie end to end
            and begin with the store's epoch, so a window of 3600 is the hour, the same for every replica.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        floor: int = -MAX_INTEGER,
        ceiling: int = MAX_INTEGER,
        ttl: float | None = None,
        window: float | None = None,
    ) -> None:
        if not (
            type(floor) is type(ceiling) is int and -MAX_INTEGER <= floor <= ceiling <= MAX_INTEGER
        ):
            raise ConfigurationError(
                f"counter {name!r}: floor {shown(floor)} and ceiling {shown(ceiling)} must be ints, in order and within "
                f"±(2**53 - 1)"
            )
        if ttl is not None:
            check_durations(f"counter {name!r}", ttl=ttl)
        if window is not None:
            check_durations(f"counter {name!r}", window=window)
        if window is not None and window < SHORTEST_WINDOW:
            raise ConfigurationError(
                f"counter {name!r}: window must be seconds from {SHORTEST_WINDOW} on, not {window!r}"
            )
        if ttl is not None and window is not None:
            raise ConfigurationError(
                f"counter {name!r}: ttl={ttl!r} and window={window!r} exclude each other: a ttl begins with "
                f"the first increment, a window with the clock"
            )
        self.name = name
        self.store = store
        self._floor = floor
        self._ceiling = ceiling
        self._ttl = ttl
        self._window = window
        self._prefix = ""

    def increment(self, key: Key = None, *, by: int = 1, once: Key = None) -> int:
        """Add `by` and return the new value.

        Args:
            key: which counter of the family.
            by: the step; negative counts down.
            once: an id of this operation; within 24 hours a second call with it adds nothing and
                returns what the first one did.

        Raises:
            LimitReached: the step would leave the floor or ceiling; nothing changed.
            KeyReused: `once` belongs to an increment by another step.
            ValueError: the step is no int within ±(2**53 - 1), or `once` is empty; nothing was added.
            StoreUnavailable: nothing was added.
            OutcomeUnknown: it may have been added; only with `once` is repeating safe.
        """
        return run(self.store, self._increment(key, by, once))

    async def aincrement(self, key: Key = None, *, by: int = 1, once: Key = None) -> int:
        """`increment`, awaiting."""
        return await arun(self.store, self._increment(key, by, once))

    def value(self, key: Key = None) -> int:
        """The current value, 0 for a counter that was never incremented or has run out."""
        return run(self.store, self._value(key))

    async def avalue(self, key: Key = None) -> int:
        """`value`, awaiting."""
        return await arun(self.store, self._value(key))

    def buffered(self, *, every: float = 1.0, size: int = 1_000) -> BufferedCounter:
        """The same counters, counted in the process and sent now and then; see `BufferedCounter`.

        Raises:
            ConfigurationError: the counter has a floor or a ceiling, which refuses at once or not at all.
        """
        if (self._floor, self._ceiling) != (-MAX_INTEGER, MAX_INTEGER):
            raise ConfigurationError(
                f"counter {self.name!r} has a floor or a ceiling, so it cannot be buffered: a step would be "
                f"refused after its caller has gone on; count in the store, or without bounds"
            )
        return BufferedCounter(self, every=every, size=size)

    def address(self, key: Key) -> str:
        """Where a counter is."""
        if not self._prefix:
            self._prefix = self.store.prefix("counter", self.name)
        return self._prefix + encode(key)

    def _increment(self, key: Key, by: int, once: Key) -> Flow[int]:
        if type(by) is not int or not -MAX_INTEGER <= by <= MAX_INTEGER:
            raise ValueError(
                f"counter {self.name!r}: a step must be an int within ±(2**53 - 1), not {shown(by)}"
            )
        if once is not None and names_nothing(once):
            raise ValueError(
                f"counter {self.name!r}: once is {shown(once)}; give each operation an id of its own: all that "
                f"have none would be one and the same, and only the first would count"
            )
        operation = None if once is None else encode(once)
        return (yield from self.step(self.address(key), by, operation))

    def step(self, address: str, by: int, operation: str | None) -> Flow[int]:
        """Add to the counter that is there, once under an encoded id of the operation."""
        added: Added = yield Add(
            address,
            by,
            self._floor,
            self._ceiling,
            self._ttl,
            operation,
            window=self._window,
        )
        if added.outcome is AddOutcome.ADDED:
            return added.value
        if added.outcome is AddOutcome.REUSED:
            raise KeyReused(
                f"counter {self.name!r}: this once= id belongs to an increment by another step; "
                f"give each operation an id of its own"
            )
        limit = f"floor {self._floor}" if by < 0 else f"ceiling {self._ceiling}"
        raise LimitReached(
            added.value,
            f"counter {self.name!r} stands at {added.value}: a step of {by} would pass its {limit}",
        )

    def _value(self, key: Key) -> Flow[int]:
        total: int = yield Total(self.address(key))
        return total
