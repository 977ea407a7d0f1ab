"""How to prove: what the command line says, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anypod.prove.acceptance import Accepted
from anypod.prove.schedules import TRIED, Kind


@dataclass(frozen=True, slots=True)
class Options:
    """How to prove.

    Attributes:
        replicas: how many pods.
        budget: seconds after which no further schedule is played.
        random: use what is left of the budget for schedules drawn at random.
        seed: of these, and of the choice among equally good routings.
        shared: paths inside the project that are volumes, not a pod's disk.
        allow_hosts: hosts besides this machine that the service may reach.
        strict_retry: a write that cannot be repeated is a divergence whoever sends it.
        timeout: seconds that one request may take.
        start_timeout: seconds that one start may take.
        schedules: what to try.
        accepted: differences that do not count, with their reasons.
    """

    replicas: int = 3
    budget: float = 60.0
    random: bool = False
    seed: int = 0
    shared: tuple[Path, ...] = ()
    allow_hosts: frozenset[str] = frozenset()
    strict_retry: bool = False
    timeout: float = 10.0
    start_timeout: float = 30.0
    schedules: frozenset[Kind] = frozenset(TRIED)
    accepted: tuple[Accepted, ...] = ()


def usual_budget(requests: int) -> float:
    """The budget for a workload when none is named, in seconds.

    Five hundred requests are to be done with in five minutes, explanations and all. In the first minute
    of so many little but the retries may come to its end.
    """
    return min(240.0, max(Options().budget, 0.4 * requests))
