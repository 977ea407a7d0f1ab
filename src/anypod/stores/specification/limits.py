"""Rate limits: one subject, several policies, all or nothing.

Each rule works on whole microseconds, so that every store gives the same answer to the bit. The one
exception is the estimate of the sliding counter, which is the same chain of IEEE doubles everywhere.

Sources: GCRA is ITU-T I.371's virtual scheduling algorithm, with the theoretical arrival time as its only
state. The sliding counter weighs the window before by the part of it that is still in view.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from anypod.commands import Algorithm, Policy, Publish, Quota, Take, Taken
from anypod.stores.specification.records import Rules, Table, TakeRecord, load, micros

NEVER: Final = math.inf


def policy_name(policy: Policy) -> str:
    """Under which name the state of a policy is kept."""
    return f"{policy.algorithm.value}:{policy.limit}:{micros(policy.period)}:{policy.burst}"


@lru_cache(maxsize=4_096)
def emission(policy: Policy) -> int:
    """Microseconds per unit under GCRA, rounded up: the limit is never exceeded by rounding."""
    return -(-micros(policy.period) // policy.limit)


# Each function takes a policy's state and a cost and answers (admitted, new state, remaining, µs until all
# capacity is back, µs until the cost would fit), the last three after what was admitted.
_Answer = tuple[bool, list[int], int, int, float]


def _gcra(policy: Policy, state: list[int], cost: int, now: int) -> _Answer:
    unit = emission(policy)
    capacity = policy.burst * unit
    arrival = max(state[0] if state else 0, now)
    after = max(arrival + cost * unit, now)
    admitted = after - now <= capacity or cost <= 0
    stands = after if admitted else arrival
    retry: float = 0
    if not admitted:
        retry = NEVER if cost > policy.burst else after - capacity - now
    return admitted, [stands], max(0, capacity - (stands - now)) // unit, stands - now, retry


def _fixed_window(policy: Policy, state: list[int], cost: int, now: int) -> _Answer:
    period = micros(policy.period)
    window = max(now // period, state[0] if state else 0)
    count = state[1] if state and state[0] == window else 0
    left = (window + 1) * period - now
    admitted = count + cost <= policy.limit or cost <= 0
    if admitted:
        count = max(0, count + cost)
    retry: float = 0
    if not admitted:
        retry = NEVER if cost > policy.limit else left
    return admitted, [window, count], max(0, policy.limit - count), left if count else 0, retry


def _sliding_counter(policy: Policy, state: list[int], cost: int, now: int) -> _Answer:
    period = micros(policy.period)
    window = max(now // period, state[0] if state else 0)
    count = state[1] if state and state[0] == window else 0
    before = 0
    if state:
        before = state[2] if state[0] == window else state[1] if state[0] == window - 1 else 0
    gone = max(0, now - window * period)
    estimate = count + before * ((period - gone) / period)
    admitted = estimate + cost <= policy.limit or cost <= 0
    retry: float = 0
    if admitted:
        taken = max(0, count + cost)
        estimate += taken - count
        count = taken
    elif cost > policy.limit:
        retry = NEVER
    elif count + cost <= policy.limit:
        retry = math.ceil(period * (1 - (policy.limit - count - cost) / before)) - gone
    else:
        retry = period - gone
        if count > policy.limit - cost:
            retry += math.ceil(period * (1 - (policy.limit - cost) / count))
    reset = 2 * period - gone if count else period - gone if before else 0
    remaining = max(0, math.floor(policy.limit - estimate))
    return admitted, [window, count, before], remaining, reset, max(0, retry)


def _sliding_log(policy: Policy, state: list[int], cost: int, now: int) -> _Answer:
    period = micros(policy.period)
    log = [
        (state[index], state[index + 1])
        for index in range(0, len(state), 2)
        if state[index] > now - period
    ]
    used = sum(taken for _, taken in log)
    admitted = used + cost <= policy.limit or cost <= 0
    retry: float = 0
    if admitted:
        if cost > 0:
            log.append((now, cost))
        back = -cost
        while back > 0 and log:  # what is given back is what was taken last
            moment, taken = log.pop()
            if taken > back:
                log.append((moment, taken - back))
            back -= taken
        used = sum(taken for _, taken in log)
    elif cost > policy.limit:
        retry = NEVER
    else:
        free = policy.limit - used
        for moment, taken in log:
            free += taken
            if free >= cost:
                retry = moment + period - now
                break
    flat = [number for entry in log for number in entry]
    reset = log[-1][0] + period - now if log else 0
    return admitted, flat, max(0, policy.limit - used), reset, retry


_ALGORITHMS: Final = {
    Algorithm.GCRA: _gcra,
    Algorithm.FIXED_WINDOW: _fixed_window,
    Algorithm.SLIDING_COUNTER: _sliding_counter,
    Algorithm.SLIDING_LOG: _sliding_log,
}


@lru_cache(maxsize=4_096)
def _counting(policy: Policy) -> tuple[str, Callable[[Policy, list[int], int, int], _Answer]]:
    """The name under which a policy's state is kept, and how it counts."""
    return policy_name(policy), _ALGORITHMS[policy.algorithm]


def _take(command: Take, table: Table, now: int) -> Taken:
    record = load(table, command.key, TakeRecord)
    states = {} if record is None else record.policies
    cost = command.cost
    admitted, longest = True, 0
    answers: list[_Answer] = []
    kept: dict[str, list[int]] = {}
    for policy in command.policies:
        name, count = _counting(policy)
        answer = count(policy, states.get(name, []), cost, now)
        answers.append(answer)
        admitted = admitted and answer[0]
        kept[name] = answer[1]
        longest = max(longest, answer[3])
    if not admitted:
        # Nothing is taken anywhere; each policy says how it stands, and those that refused, until when.
        quotas = []
        for policy, refused in zip(command.policies, answers, strict=True):
            name, count = _counting(policy)
            stands = count(policy, states.get(name, []), 0, now)
            quotas.append(Quota(stands[2], stands[3] / 1e6, refused[4] / 1e6))
        return Taken(admitted=False, quotas=tuple(quotas))
    if cost != 0:
        if longest > 0:
            table.save(command.key, TakeRecord(kept, now + longest))
        elif record is not None:
            table.remove(command.key)
    return Taken(
        admitted=True,
        quotas=tuple([Quota(answer[2], answer[3] / 1e6, 0.0) for answer in answers]),
    )


def _publish(command: Publish, table: Table, now: int) -> None:  # noqa: ARG001
    table.publish(command.key, command.message)


RULES: Final[Rules] = {Take: _take, Publish: _publish}
