"""A whole history against the models: each key for itself, and what lock holders knew."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.histories.checker import Model, Result, Verdict, check
from tests.histories.claims import ClaimModel
from tests.histories.documents import DocumentModel
from tests.histories.history import History, Holding, Operation
from tests.histories.slots import SlotsModel
from tests.histories.values import CounterModel, MapModel
from tests.histories.walks import without_walks

MODELS: Final[dict[str, Model]] = {
    "counter": CounterModel(),
    "map": MapModel(),
    "lock": SlotsModel(),
    "idempotency": ClaimModel(),
    "session": DocumentModel(),
}


def kind_of(key: str) -> str:
    """Which primitive a key belongs to: its third part."""
    return key.split(":")[2]


@dataclass(frozen=True, slots=True)
class Report:
    """What a history was found to be.

    Attributes:
        checked: operations by primitive, without those of the undecided keys.
        unknown: how many of them have an unknown outcome.
        overlapping: how many were called while another on the same key had not returned.
        keys: how many histories that was.
        holdings: how many stretches of holding a lock were compared.
        steps: how many moves the searches tried.
        violations: what is wrong, in words; empty is the aim.
        undecided: keys whose search passed its bound; nothing is claimed of them.
    """

    checked: dict[str, int]
    unknown: int
    overlapping: int
    keys: int
    holdings: int
    steps: int
    violations: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def operations(self) -> int:
        return sum(self.checked.values())


def verify(history: History, *, seconds: float = 60.0) -> Report:
    """Check each key of a history against the model of its primitive.

    Args:
        history: what happened.
        seconds: for each key, after which it is undecided.
    """
    checked: Tally[str] = Tally()
    steps = 0
    violations: list[str] = []
    undecided: list[str] = []
    keys = History(tuple(without_walks(history.operations))).by_key()
    for key, operations in keys.items():
        kind = kind_of(key)
        result: Result = check(MODELS[kind], operations, seconds=seconds)
        steps += result.steps
        if result.verdict is Verdict.UNDECIDED:
            undecided.append(f"{key}: {result}")
            continue
        checked[kind] += len(operations)
        if result.verdict is Verdict.VIOLATED:
            violations.append(f"{key}: {result}")
    violations += overlaps(history.holdings)
    return Report(
        dict(sorted(checked.items())),
        history.unknown,
        sum(_overlapping(operations) for operations in keys.values()),
        len(keys),
        len(history.holdings),
        steps,
        tuple(violations),
        tuple(undecided),
    )


def _overlapping(operations: list[Operation]) -> int:
    open_until, count = 0, 0
    for operation in operations:
        count += operation.called < open_until
        if operation.returned is not None:
            open_until = max(open_until, operation.returned)
    return count


def overlaps(holdings: tuple[Holding, ...]) -> list[str]:
    """Where two were sure of the same lock at once, or a later token was held earlier.

    What is compared is what holders may rely on: that the hold's own check passed.
    """
    found = []
    locks: dict[str, list[Holding]] = {}
    for holding in holdings:
        locks.setdefault(holding.key, []).append(holding)
    for key, stretches in locks.items():
        stretches.sort(key=lambda holding: holding.token)
        for first, second in pairwise(stretches):
            if first.checked > second.since:
                found.append(f"{key}: {first} and {second} overlap, or tokens are out of order")
    return found
