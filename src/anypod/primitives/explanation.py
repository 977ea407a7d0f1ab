"""What has become of an operation, for people and for those who must decide whether to repeat it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from anypod.commands import Claimed, ClaimStatus
from anypod.errors import EarlierFailure, NotReplayable


class Fate(Enum):
    """What an operation has come to."""

    UNKNOWN = (
        "unknown"  # never asked for, given up as if it had not been, or forgotten after its ttl
    )
    IN_FLIGHT = "in flight"  # somebody is at work under a lease
    IN_DOUBT = (
        "in doubt"  # a holder's lease ran out and it left no outcome: it was killed, or it hangs
    )
    COMPLETE = "complete"  # done; the outcome is kept
    FAILED = "failed"  # it failed, and the failure is kept as its outcome
    SEALED = "sealed"  # done; the outcome was not kept


@dataclass(frozen=True, slots=True)
class Explanation:
    """The fate of an operation; as a string, a sentence that also says what a repetition would get.

    Attributes:
        fate: what it has come to.
        attempts: how often it was begun; more than once says that an earlier holder vanished.
        token: the fencing token of the last attempt.
        lease_left: seconds until the holder is taken for dead, while in flight.
        outcome: what a complete operation gave.
        failure: what a failed one says.
    """

    fate: Fate
    attempts: int = 0
    token: int = 0
    lease_left: float = 0.0
    outcome: Any = None
    failure: str = ""

    def __str__(self) -> str:
        begun = f"begun {self.attempts} time{'' if self.attempts == 1 else 's'}"
        return {
            Fate.UNKNOWN: "unknown: a call with this key is carried out",
            Fate.IN_FLIGHT: f"in flight, {begun}: a call with this key is refused for {self.lease_left:.1f} s "
            f"at most, or waits",
            Fate.IN_DOUBT: f"in doubt, {begun}: the last holder gave no sign of life; a call with this key is "
            f"carried out again",
            Fate.COMPLETE: f"complete, {begun}: a call with this key gets the outcome",
            Fate.FAILED: f"failed, {begun}: a call with this key gets EarlierFailure; {self.failure}",
            Fate.SEALED: f"complete, {begun}, outcome not kept: a call with this key gets NotReplayable",
        }[self.fate]


def explanation(claimed: Claimed | None, decoded: Callable[[bytes], Any]) -> Explanation:
    """What the store's look at a claim means.

    Args:
        claimed: the reply to `Inspect`.
        decoded: reads a stored outcome.

    Raises:
        RecordError: the stored outcome cannot be read.
    """
    if claimed is None:
        return Explanation(Fate.UNKNOWN)
    attempts, token = claimed.attempt, claimed.token
    if claimed.status is ClaimStatus.IN_FLIGHT:
        fate = Fate.IN_FLIGHT if claimed.wait > 0 else Fate.IN_DOUBT
        return Explanation(fate, attempts, token, claimed.wait)
    try:
        return Explanation(Fate.COMPLETE, attempts, token, outcome=decoded(claimed.outcome or b""))
    except EarlierFailure as failure:
        return Explanation(Fate.FAILED, attempts, token, failure=str(failure))
    except NotReplayable:
        return Explanation(Fate.SEALED, attempts, token)
