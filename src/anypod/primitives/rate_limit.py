"""Rate limits that hold over all replicas together.

One hit is one command: the store decides on its own clock and answers with the standing of every policy,
so that headers need no second question. What each algorithm bounds is said at `Algorithm`.

Invariants:
    - several policies of one limit are taken all or none, and so are several subjects in one group;
    - a refusal is remembered here until the cost could fit again, and asking again costs no exchange;
      somebody else's refund may be seen that much later, and nothing is admitted that should not be;
    - what is not decided by the store (store down) is marked `degraded` in the decision.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from anypod.commands import Algorithm, Policy, Quota, Take, TakeAll, Taken
from anypod.durations import is_duration, shown
from anypod.errors import ConfigurationError, StoreError
from anypod.flow import Call, Flow, arun, run
from anypod.keys import Key, encode
from anypod.primitives.degraded import LocalQuota, check_policy, degraded
from anypod.primitives.rate import (
    LARGEST_LIMIT,
    LARGEST_LOG,
    LONGEST_PERIOD,
    MOST_RATES,
    SHORTEST_PERIOD,
    describe,
    parse_rates,
)

if TYPE_CHECKING:
    from anypod.stores import Store

REMEMBERED_DENIALS: Final = 16_384  # per limit
REMEMBERED_KEYS: Final = 4_096  # per limit, of up to …
LONGEST_KNOWN: Final = 64  # characters
GROUP: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")

OnUnavailable = Literal["raise", "deny", "allow", "local"]


class Decision(Struct, frozen=True):
    """Whether a hit was admitted, and everything that response headers need.

    A struct rather than a dataclass for the same reason as commands: one is made at every hit.

    Attributes:
        allowed: whether to serve the request.
        policies: the policies that applied, in the order given.
        quotas: how each of them stands, in the same order.
        retry_after: seconds until the cost that was asked for would fit; 0.0 if it was admitted.
        would_deny: the limit is in shadow mode, and would have refused.
        degraded: the store could not be reached, and a policy for that decided.
    """

    allowed: bool
    policies: tuple[Policy, ...]
    quotas: tuple[Quota, ...]
    retry_after: float = 0.0
    would_deny: bool = False
    degraded: bool = False

    @property
    def limiting(self) -> tuple[Policy, Quota]:
        """The policy that matters to the client: the one to wait for longest, or the one nearest to its end."""
        pairs = zip(self.policies, self.quotas, strict=True)
        return max(pairs, key=lambda pair: (pair[1].retry, -pair[1].remaining / pair[0].limit))

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(slots=True)
class _Denials:
    """What was refused, until when (seconds, monotonic), bounded; per key the smallest cost that was."""

    until: dict[str, tuple[float, int, Decision]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, address: str, cost: int, now: float) -> Decision | None:
        found = self.until.get(address)
        if found is None:
            return None
        until, least, decision = found
        if now >= until:
            self.until.pop(address, None)
            return None
        if cost < least:
            return None
        return replace(decision, retry_after=until - now)

    def note(self, address: str, cost: int, decision: Decision, now: float) -> None:
        with self.lock:
            if len(self.until) >= REMEMBERED_DENIALS:
                expired = [key for key, (until, *_) in self.until.items() if until <= now]
                for key in expired or list(self.until)[: REMEMBERED_DENIALS // 8]:
                    self.until.pop(key, None)
            self.until[address] = (now + decision.retry_after, cost, decision)

    def forget(self, address: str) -> None:
        self.until.pop(address, None)


class RateLimit:
    """A limit on a family of subjects, one per key. Made by `State.rate_limit`.

    Args:
        store: where the limit is counted.
        name: names the limit.
        rates: `"100/minute"`, several separated by `;`, or policies.
        algorithm: `"gcra"`, `"fixed window"`, `"sliding counter"` or `"sliding log"`.
        overrides: other rates for some keys, as a mapping or a function that answers None for others.
        shadow: admit everything, and only say what would have been refused.
        unavailable: what a hit does when the store cannot be reached: `"raise"`, `"deny"`, `"allow"`, or
            `"local"`: count here, with this replica's share of the limit.
        replicas: among how many replicas `"local"` divides the limit.
        colocate: the name of a group of limits whose subjects `hit_all` takes from in one command. On a
            Redis cluster all that the group counts stands on one node, so give it no more than one bears.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        rates: str | Sequence[Policy],
        *,
        algorithm: str | Algorithm = Algorithm.GCRA,
        overrides: Mapping[Key, str] | Callable[[Key], str | None] | None = None,
        shadow: bool = False,
        unavailable: OnUnavailable = "raise",
        replicas: int | None = None,
        colocate: str | None = None,
    ) -> None:
        self.name = name
        self.store = store
        self._algorithm = _algorithm(name, algorithm)
        self.policies = self._read(rates)
        if not (overrides is None or isinstance(overrides, Mapping) or callable(overrides)):
            raise ConfigurationError(
                f"rate limit {name!r}: overrides must be a mapping of keys to rates or a function, not {shown(overrides)}"
            )
        self._overrides = overrides.get if isinstance(overrides, Mapping) else overrides
        self._parsed: dict[str, tuple[Policy, ...]] = {}
        if isinstance(overrides, Mapping):
            for text in overrides.values():
                self._override(text)
        self.shadow = shadow
        check_policy("rate limit", name, unavailable, "raise", "deny", "allow", "local")
        if (unavailable == "local") != (replicas is not None):
            raise ConfigurationError(
                f"rate limit {name!r}: unavailable='local' needs replicas=, the number among which the "
                f"limit is divided, and nothing else does"
            )
        group: object = colocate
        if group is not None and not (isinstance(group, str) and GROUP.fullmatch(group)):
            raise ConfigurationError(
                f"rate limit {name!r}: colocate must be 1 to 100 letters, digits, '_', '.' or '-', the same for "
                f"all limits of the group, not {shown(colocate)}"
            )
        self._unavailable: OnUnavailable = unavailable
        self.colocate = colocate
        self._local = None if replicas is None else LocalQuota(name, replicas)
        self._denials = _Denials()
        self._prefix = ""
        self._known: dict[str, str] = {}  # addresses of keys that came lately, without overrides

    def hit(self, key: Key = None, *, cost: int = 1) -> Decision:
        """Take `cost` units from the subject's quota, or be refused.

        Raises:
            ValueError: a cost that is negative, no int, or more than the limit could ever admit.
            StoreUnavailable, OutcomeUnknown: if the limit was made to raise.
        """
        # Spelt out without a flow, and so is its twin: of all calls this is the one that is in the way of
        # every request. What is decided is decided in the methods that both use.
        address, policies = self._known.get(key) if type(key) is str else None, self.policies
        if address is None:
            address, policies = self.subject(key)
        self.check(policies, cost)
        if self._denials.until and (denied := self.denied(address, cost)) is not None:
            return denied
        try:
            taken = self.store.perform(Take(address, policies, cost))
        except StoreError as failure:
            return self.without_store(address, policies, cost, failure)
        if taken.admitted:
            return Decision(True, policies, taken.quotas)
        return self.refused(address, policies, cost, taken)

    async def ahit(self, key: Key = None, *, cost: int = 1) -> Decision:
        """`hit`, awaiting."""
        address, policies = self._known.get(key) if type(key) is str else None, self.policies
        if address is None:
            address, policies = self.subject(key)
        self.check(policies, cost)
        if self._denials.until and (denied := self.denied(address, cost)) is not None:
            return denied
        try:
            taken = await self.store.aperform(Take(address, policies, cost))
        except StoreError as failure:
            return self.without_store(address, policies, cost, failure)
        if taken.admitted:
            return Decision(True, policies, taken.quotas)
        return self.refused(address, policies, cost, taken)

    def peek(self, key: Key = None) -> Decision:
        """How the subject stands, taking nothing: allowed says whether one unit would fit."""
        return run(self.store, self._peek(*self.subject(key)))

    async def apeek(self, key: Key = None) -> Decision:
        """`peek`, awaiting."""
        return await arun(self.store, self._peek(*self.subject(key)))

    def refund(self, key: Key = None, *, cost: int = 1) -> Decision:
        """Give back what an earlier hit took, because the request did not count after all."""
        return run(self.store, self._refund(*self.subject(key), cost))

    async def arefund(self, key: Key = None, *, cost: int = 1) -> Decision:
        """`refund`, awaiting."""
        return await arun(self.store, self._refund(*self.subject(key), cost))

    # --- deciding

    def _read(self, rates: object) -> tuple[Policy, ...]:
        owner = f"rate limit {self.name!r}"
        if isinstance(rates, str):
            policies = parse_rates(rates, self._algorithm, owner)
        elif isinstance(rates, Sequence) and all(type(each) is Policy for each in rates):
            policies = tuple(rates)
        else:
            raise ConfigurationError(
                f"{owner}: rates must be a text such as '100/minute', or a list of policies, not {shown(rates)}"
            )
        if not 0 < len(policies) <= MOST_RATES or len(set(policies)) < len(policies):
            raise ConfigurationError(
                f"{owner}: give at least one rate, at most {MOST_RATES}, and none twice"
            )
        for policy in policies:
            if not isinstance(policy.algorithm, Algorithm):
                raise ConfigurationError(
                    f"{owner}: a policy's algorithm must be an Algorithm, not {shown(policy.algorithm)}"
                )
            units = (policy.limit, policy.burst)
            if not all(type(each) is int and 1 <= each <= LARGEST_LIMIT for each in units) or not (
                is_duration(policy.period) and SHORTEST_PERIOD <= policy.period <= LONGEST_PERIOD
            ):
                raise ConfigurationError(
                    f"{owner}: a policy needs a limit and a burst from 1 to {LARGEST_LIMIT:,}, and a period from "
                    f"{SHORTEST_PERIOD} s to a year, not {shown(policy)}"
                )
            if policy.algorithm is Algorithm.SLIDING_LOG and policy.limit > LARGEST_LOG:
                raise ConfigurationError(
                    f"{owner}: a sliding log remembers each hit, so {LARGEST_LOG:,} is its largest limit, not "
                    f"{policy.limit:,}; gcra and the sliding counter remember a few numbers"
                )
        return policies

    def _override(self, text: str) -> tuple[Policy, ...]:
        if not isinstance(text, str):
            raise ConfigurationError(
                f"rate limit {self.name!r}: an override must be a text such as '100/minute', or None from a "
                f"function, not {shown(text)}"
            )
        if text not in self._parsed:
            if len(self._parsed) >= 1_024:
                self._parsed.clear()
            self._parsed[text] = self._read(text)
        return self._parsed[text]

    def subject(self, key: Key) -> tuple[str, tuple[Policy, ...]]:
        """Where a subject's record is, and its policies."""
        if not self._prefix:
            group = (
                "" if self.colocate is None else f"{{{self.colocate}}}"
            )  # chooses a cluster's slot
            self._prefix = self.store.prefix("rate", self.name) + group
        if self._overrides is None:
            address = self._prefix + encode(key)
            if type(key) is str and len(key) <= LONGEST_KNOWN:
                if len(self._known) >= REMEMBERED_KEYS:
                    self._known.clear()
                self._known[key] = address
            return address, self.policies
        other = self._overrides(key)
        policies = self.policies if other is None else self._override(other)
        return self._prefix + encode(key), policies

    def denied(self, address: str, cost: int) -> Decision | None:
        """A refusal that is remembered and still holds."""
        return self._denials.find(address, cost, self._now())

    def refused(
        self, address: str, policies: tuple[Policy, ...], cost: int, taken: Taken
    ) -> Decision:
        """The decision on a refused cost, which is remembered."""
        decision = self._decision(policies, taken)
        if not decision.allowed:
            self._denials.note(address, cost, decision, self._now())
        return decision

    def _now(self) -> float:
        return time.monotonic() + self.store.driver.clock_offset

    def _peek(self, address: str, policies: tuple[Policy, ...]) -> Flow[Decision]:
        taken: Taken = yield Take(address, policies, 0)
        full = any(quota.remaining < 1 for quota in taken.quotas)
        return Decision(allowed=not full, policies=policies, quotas=taken.quotas)

    def _refund(self, address: str, policies: tuple[Policy, ...], cost: int) -> Flow[Decision]:
        self.check(policies, cost)
        taken: Taken = yield Take(address, policies, -cost)
        self._denials.forget(address)
        return self._decision(policies, taken)

    def check(self, policies: tuple[Policy, ...], cost: int) -> None:
        """Refuse a cost that is none, or that a policy could never admit.

        Raises:
            ValueError: it says which.
        """
        if cost == 1 and type(cost) is int:
            return  # every policy admits one
        if type(cost) is not int or cost < 1:
            raise ValueError(
                f"rate limit {self.name!r}: a cost must be an int from 1 on, not {shown(cost)}; refund() "
                f"gives back"
            )
        for policy in policies:
            most = policy.burst if policy.algorithm is Algorithm.GCRA else policy.limit
            if cost > most:
                raise ValueError(
                    f"rate limit {self.name!r}: a cost of {shown(cost)} can never be admitted by "
                    f"{describe(policy)}, which holds {most} at most"
                )

    def _decision(self, policies: tuple[Policy, ...], taken: Taken) -> Decision:
        retry = 0.0 if taken.admitted else max(quota.retry for quota in taken.quotas)
        return Decision(
            allowed=taken.admitted or self.shadow,
            policies=policies,
            quotas=taken.quotas,
            retry_after=0.0 if self.shadow else retry,
            would_deny=self.shadow and not taken.admitted,
        )

    def not_refunded(self, failure: StoreError) -> None:
        """Note that what a refused request took occupies this limit until time gives it back."""
        degraded(self.store, "rate", self.name, "no refund", failure)

    def without_store(
        self, address: str, policies: tuple[Policy, ...], cost: int, failure: StoreError
    ) -> Decision:
        """The decision while the store is away.

        Raises:
            StoreError: the limit was made to raise.
        """
        if self._unavailable == "raise":
            raise failure
        degraded(self.store, "rate", self.name, self._unavailable, failure)
        if self._local is not None:
            decision = self._decision(policies, self._local.take(address, policies, cost))
            return replace(decision, degraded=True)
        quotas = tuple(Quota(0, math.inf, 0.0) for _ in policies)
        allowed = self._unavailable == "allow" or self.shadow
        return Decision(
            allowed=allowed,
            policies=policies,
            quotas=quotas,
            retry_after=0.0 if allowed else 1.0,
            degraded=True,
        )


def hit_all(*hits: tuple[RateLimit, Key], cost: int = 1) -> tuple[Decision, ...]:
    """Hit several subjects, such as an address and a user; all must admit.

    Limits that are made with the same `colocate=` are asked in one command, which takes from all or none.
    Others are asked one after the other, and when one refuses, what the ones before have taken is given
    back: for a moment a refused request occupies their quota, so another may be refused that would have
    fitted; conservative, and never the other way round. So are limits of which one is in shadow mode.

    Args:
        hits: limits, each with the key of its subject.
        cost: what each of them is to give.

    Returns:
        The decisions as far as it came; the last one says whether the request is allowed.

    Raises:
        TypeError: something is not a pair of a limit and a key.
        ValueError: no limit is named, or a cost is none, or more than a limit could ever admit.
        StoreUnavailable, OutcomeUnknown: if a limit was made to raise.
    """
    return run(_store_of(hits), _hit_all(hits, cost, RateLimit.hit, RateLimit.refund))


async def ahit_all(*hits: tuple[RateLimit, Key], cost: int = 1) -> tuple[Decision, ...]:
    """`hit_all`, awaiting."""
    return await arun(_store_of(hits), _hit_all(hits, cost, RateLimit.ahit, RateLimit.arefund))


Hits: TypeAlias = tuple[tuple[RateLimit, Key], ...]


def _store_of(hits: Hits) -> Store:
    if not hits:
        raise ValueError("hit_all() needs at least one limit, with the key of its subject")
    given: tuple[object, ...] = hits
    for hit in given:
        if not (isinstance(hit, tuple) and len(hit) == 2 and isinstance(hit[0], RateLimit)):
            raise TypeError(
                f"hit_all() takes pairs of a rate limit and a key, such as (limit, 'ada'), not {shown(hit)}"
            )
    return hits[0][0].store


def _hit_all(
    hits: Hits, cost: int, hit: Callable[..., Any], refund: Callable[..., Any]
) -> Flow[tuple[Decision, ...]]:
    subjects = [limit.subject(key) for limit, key in hits]
    groups = {(limit.colocate, limit.store) for limit, _ in hits}
    if (
        len(hits) == len({address for address, _ in subjects}) > 1 == len(groups)
        and hits[0][0].colocate is not None
        and not any(limit.shadow for limit, _ in hits)
    ):
        return (yield from _hit_together(hits, cost, subjects))
    decisions: list[Decision] = []
    for limit, key in hits:
        decision: Decision = yield Call(partial(hit, limit, key, cost=cost))
        decisions.append(decision)
        if not decision.allowed:
            for (earlier, subject), taken in zip(hits, decisions[:-1], strict=False):
                if not taken.degraded:
                    try:
                        yield Call(partial(refund, earlier, subject, cost=cost))
                    except StoreError as failure:  # then it comes back by itself, later
                        earlier.not_refunded(failure)
            break
    return tuple(decisions)


def _hit_together(
    hits: Hits, cost: int, subjects: Sequence[tuple[str, tuple[Policy, ...]]]
) -> Flow[tuple[Decision, ...]]:
    for (limit, _), (_, policies) in zip(hits, subjects, strict=True):
        limit.check(policies, cost)
    for (limit, _), (address, _) in zip(hits, subjects, strict=True):
        if (denied := limit.denied(address, cost)) is not None:
            return (denied,)
    try:
        taken: Taken = yield TakeAll(subjects[0][0], tuple(subjects), cost)
    except StoreError as failure:
        decisions: list[Decision] = []
        for (limit, _), (address, policies) in zip(hits, subjects, strict=True):
            decisions.append(limit.without_store(address, policies, cost, failure))
            if not decisions[-1].allowed:
                break
        return tuple(decisions)
    retry = 0.0 if taken.admitted else max(quota.retry for quota in taken.quotas)
    rest = iter(taken.quotas)
    together: list[Decision] = []
    for (limit, _), (address, policies) in zip(hits, subjects, strict=True):
        quotas = tuple(islice(rest, len(policies)))
        if any(quota.retry for quota in quotas):
            limit.refused(address, policies, cost, Taken(admitted=False, quotas=quotas))
        together.append(Decision(taken.admitted, policies, quotas, retry))
    return tuple(together)


def _algorithm(name: str, algorithm: str | Algorithm) -> Algorithm:
    try:
        return Algorithm(algorithm)
    except (TypeError, ValueError):
        known = ", ".join(repr(each.value) for each in Algorithm)
        raise ConfigurationError(
            f"rate limit {name!r}: there is no algorithm {shown(algorithm)}; known: {known}"
        ) from None
