"""What a primitive does when its store cannot be reached, and how it says so.

A degraded decision is marked in the decision itself, counted, and logged, the last at most once in ten
seconds per primitive and policy: an outage writes a line that is read, not a million that are not.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from anypod.commands import Algorithm, Policy, Quota, Taken
from anypod.errors import ConfigurationError
from anypod.observe import Event

if TYPE_CHECKING:
    from anypod.stores import Store

logger = logging.getLogger("anypod")

RaiseOrDeny: TypeAlias = Literal["raise", "deny"]
"""The policies of what must not happen twice or at the same time: allowing it would break the promise."""

LOG_EVERY: Final = 10.0  # seconds, per primitive and policy
MOST_SUBJECTS: Final = 65_536  # of a local quota; the oldest go first

_WORDS: Final = {"rate": "rate limit"}

_lock = threading.Lock()
_logged: dict[tuple[str, str], tuple[float, int]] = {}


def degraded(store: Store, kind: str, name: str, policy: str, failure: Exception) -> None:
    """Note a decision that was made without the store: an event each time, a log line now and then.

    Args:
        store: that could not be reached.
        kind: of the primitive, as events call it: the one in its keys.
        name: the primitive's.
        policy: that decided.
        failure: what the store said.
    """
    store.emit(Event(kind, name, "", 0.0, type(failure).__name__, degraded=policy))
    what = f"{_WORDS.get(kind, kind)} {name!r}"
    now = time.monotonic()
    with _lock:
        last, silent = _logged.get((what, policy), (-LOG_EVERY, 0))
        if now - last < LOG_EVERY:
            _logged[what, policy] = (last, silent + 1)
            return
        _logged[what, policy] = (now, 0)
    more = f" ({silent} more since the last line)" if silent else ""
    logger.warning("%s is degraded to %r%s: %s", what, policy, more, failure)


def check_policy(primitive: str, name: str, policy: str, *known: str) -> None:
    """Refuse a policy that the primitive cannot keep its promise under.

    Raises:
        ConfigurationError: it is none of the known ones.
    """
    if policy not in known:
        words = f"{', '.join(known[:-1])} or {known[-1]}"
        raise ConfigurationError(
            f"{primitive} {name!r}: unavailable must be {words}, not {policy!r}"
        )


class LocalQuota:
    """This replica's share of a limit, counted here while the store is away.

    A token bucket per policy: `limit / replicas` per period, at least one, and as much at once. All
    replicas together admit no more than the limit if the number of replicas is right.
    """

    def __init__(self, name: str, replicas: int) -> None:
        if type(replicas) is not int or replicas < 1:
            raise ConfigurationError(
                f"rate limit {name!r}: replicas must be an int from 1 on, not {replicas!r}"
            )
        self._replicas = replicas
        self._lock = threading.Lock()
        self._arrivals: dict[tuple[str, Policy], float] = {}

    def take(self, address: str, policies: tuple[Policy, ...], cost: int) -> Taken:
        """Take from this replica's share, all policies or none."""
        now = time.monotonic()
        with self._lock:
            after = []
            admitted = True
            quotas = []
            for policy in policies:
                share = max(1, policy.limit // self._replicas)
                held = policy.burst if policy.algorithm is Algorithm.GCRA else policy.limit
                burst = max(1, held // self._replicas)
                unit = policy.period / share
                arrival = max(self._arrivals.get((address, policy), now), now)
                then = arrival + cost * unit
                fits = then - now <= burst * unit + 1e-9
                admitted = admitted and fits
                after.append(then)
                left = int((burst * unit - (arrival - now)) / unit)
                quotas.append(
                    Quota(left, arrival - now, 0.0 if fits else then - burst * unit - now)
                )
            if admitted:
                for policy, then in zip(policies, after, strict=True):
                    self._arrivals[address, policy] = then
                while len(self._arrivals) > MOST_SUBJECTS:
                    del self._arrivals[next(iter(self._arrivals))]
        return Taken(admitted, tuple(quotas))
