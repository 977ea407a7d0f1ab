"""Rate limits: one subject or several, several policies, all or nothing.

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

from anypod.commands import Algorithm, Policy, Publish, Quota, Take, TakeAll, Taken
from anypod.stores.specification.records import Rules, Table, TakeRecord, load, micros

NEVER: Final = math.inf


def policy_name(policy: Policy) -> str:
    """Under which name the state of a policy is kept."""
    return f"{policy.algorithm.value}:{policy.limit}:{micros(policy.period)}:{policy.burst}"


def emission(policy: Policy) -> int:
    """Microseconds per unit under GCRA, rounded up: the limit is never exceeded by rounding."""
    return -(-micros(policy.period) // policy.limit)


# What a policy makes of its state and a cost: (admitted, new state, remaining, µs until all capacity is back,
# µs until the cost would fit), the last three after what was admitted.
_Answer = tuple[bool, list[int], int, int, float]
_Count = Callable[[list[int], int, int], _Answer]


def _gcra(policy: Policy) -> _Count:
    unit = emission(policy)
    capacity = policy.burst * unit

    def count(state: list[int], cost: int, now: int) -> _Answer:
        arrival = state[0] if state and state[0] > now else now
        after = arrival + cost * unit
        if after < now:
            after = now
        if after - now <= capacity or cost <= 0:
            left = capacity - after + now
            return True, [after], left // unit if left > 0 else 0, after - now, 0
        retry = NEVER if cost > policy.burst else after - capacity - now
        left = capacity - arrival + now
        return False, [arrival], left // unit if left > 0 else 0, arrival - now, retry

    return count


def _fixed_window(policy: Policy) -> _Count:
    period, limit = micros(policy.period), policy.limit

    def count(state: list[int], cost: int, now: int) -> _Answer:
        window, used = now // period, 0
        if state and state[0] >= window:
            window, used = state
        left = (window + 1) * period - now
        if used + cost <= limit or cost <= 0:
            used = max(0, used + cost)
            return True, [window, used], limit - used if used < limit else 0, left if used else 0, 0
        retry = NEVER if cost > limit else left
        return False, [window, used], max(0, limit - used), left if used else 0, retry

    return count


def _sliding_counter(policy: Policy) -> _Count:
    period, limit = micros(policy.period), policy.limit

    def count(state: list[int], cost: int, now: int) -> _Answer:
        window = max(now // period, state[0] if state else 0)
        used = state[1] if state and state[0] == window else 0
        before = 0
        if state:
            before = state[2] if state[0] == window else state[1] if state[0] == window - 1 else 0
        gone = max(0, now - window * period)
        estimate = used + before * ((period - gone) / period)
        admitted = estimate + cost <= limit or cost <= 0
        retry: float = 0
        if admitted:
            taken = max(0, used + cost)
            estimate += taken - used
            used = taken
        elif cost > limit:
            retry = NEVER
        elif used + cost <= limit:
            retry = math.ceil(period * (1 - (limit - used - cost) / before)) - gone
        else:
            retry = period - gone
            if used > limit - cost:
                retry += math.ceil(period * (1 - (limit - cost) / used))
        reset = 2 * period - gone if used else period - gone if before else 0
        remaining = max(0, math.floor(limit - estimate))
        return admitted, [window, used, before], remaining, reset, max(0, retry)

    return count


def _sliding_log(policy: Policy) -> _Count:
    period, limit = micros(policy.period), policy.limit

    def count(state: list[int], cost: int, now: int) -> _Answer:
        log = [
            (state[index], state[index + 1])
            for index in range(0, len(state), 2)
            if state[index] > now - period
        ]
        used = sum(taken for _, taken in log)
        admitted = used + cost <= limit or cost <= 0
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
        elif cost > limit:
            retry = NEVER
        else:
            free = limit - used
            for moment, taken in log:
                free += taken
                if free >= cost:
                    retry = moment + period - now
                    break
        flat = [number for entry in log for number in entry]
        reset = log[-1][0] + period - now if log else 0
        return admitted, flat, max(0, limit - used), reset, retry

    return count


_ALGORITHMS: Final = {
    Algorithm.GCRA: _gcra,
    Algorithm.FIXED_WINDOW: _fixed_window,
    Algorithm.SLIDING_COUNTER: _sliding_counter,
    Algorithm.SLIDING_LOG: _sliding_log,
}
_NOTHING: Final[list[int]] = []


@lru_cache(maxsize=4_096)
def _counting(policy: Policy) -> tuple[str, _Count]:
    """The name under which a policy's state is kept, and how it counts."""
    return policy_name(policy), _ALGORITHMS[policy.algorithm](policy)


def _take(command: Take, table: Table, now: int) -> Taken:
    if len(command.policies) > 1:
        return _together(((command.key, command.policies),), command.cost, table, now)
    # As below, for the commonest case.
    record = table.load(command.key)
    if record is not None and type(record) is not TakeRecord:
        record = load(table, command.key, TakeRecord)  # says what is wrong
    cost = command.cost
    name, count = _counting(command.policies[0])
    state = _NOTHING if record is None else record.policies.get(name, _NOTHING)
    admitted, after, remaining, reset, retry = count(state, cost, now)
    if not admitted:
        _, _, remaining, reset, _ = count(state, 0, now)
    elif cost != 0:
        if reset > 0:
            table.save(command.key, TakeRecord({name: after}, now + reset))
        elif record is not None:
            table.remove(command.key)
    return Taken(admitted, (Quota(remaining, reset / 1e6, retry / 1e6),))


def _take_all(command: TakeAll, table: Table, now: int) -> Taken:
    return _together(command.subjects, command.cost, table, now)


def _together(
    subjects: tuple[tuple[str, tuple[Policy, ...]], ...], cost: int, table: Table, now: int
) -> Taken:
    records = [load(table, key, TakeRecord) for key, _ in subjects]

    def ask(units: int) -> list[list[tuple[str, _Answer]]]:
        asked = []
        for (_, policies), record in zip(subjects, records, strict=True):
            states = {} if record is None else record.policies
            counting = [_counting(policy) for policy in policies]
            asked.append(
                [(name, count(states.get(name, _NOTHING), units, now)) for name, count in counting]
            )
        return asked

    answers = ask(cost)
    asked = [answer for each in answers for _, answer in each]
    if not all(answer[0] for answer in asked):
        # Nothing is taken anywhere; each policy says how it stands, and those that refused, until when.
        standing = [answer for each in ask(0) for _, answer in each]
        quotas = tuple(
            Quota(stands[2], stands[3] / 1e6, refused[4] / 1e6)
            for stands, refused in zip(standing, asked, strict=True)
        )
        return Taken(admitted=False, quotas=quotas)
    if cost != 0:
        for (key, _), record, each in zip(subjects, records, answers, strict=True):
            longest = max(answer[3] for _, answer in each)
            if longest > 0:
                kept = {name: answer[1] for name, answer in each}
                table.save(key, TakeRecord(kept, now + longest))
            elif record is not None:
                table.remove(key)
    return Taken(
        admitted=True,
        quotas=tuple(Quota(answer[2], answer[3] / 1e6, 0.0) for answer in asked),
    )


def _publish(command: Publish, table: Table, now: int) -> None:  # noqa: ARG001
    table.publish(command.key, command.message)


RULES: Final[Rules] = {Take: _take, TakeAll: _take_all, Publish: _publish}
