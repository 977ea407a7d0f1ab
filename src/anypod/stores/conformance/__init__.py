"""The contract of a store, as checks that know no engine.

    from anypod.stores import Store
    from anypod.stores.conformance import verify

    verify(lambda: Store(MyDriver(...), url="mine://"))

`verify` runs every check that applies to the capabilities which the driver declares; `CHECKS` lists them,
for a test runner that reports them one by one. Hypothesis must be installed.

    model         replies against the executable specification, over generated histories in which the clock
                  jumps, the store is reopened, and the ways to execute alternate
    concurrency   threads, processes, event loops: distinct replies, exact bounds, one winner
    life          fork, reopening, the store's own clock
    faults        connections cut at every point of an exchange, for networked drivers (`verify_faults`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import anypod.stores.conformance.concurrency as concurrency
import anypod.stores.conformance.life as life
import anypod.stores.conformance.model as model
from anypod.stores.conformance.faults import verify_faults
from anypod.stores.conformance.ground import Ground, Opener

__all__ = ["CHECKS", "Check", "Ground", "Opener", "verify", "verify_faults"]

Check: TypeAlias = Callable[[Ground], None]

CHECKS: Final[tuple[Check, ...]] = (*model.CHECKS, *concurrency.CHECKS, *life.CHECKS)


def verify(opener: Opener, *, examples: int = 50) -> None:
    """Hold a driver against the whole contract, except faults of the network.

    Args:
        opener: opens the store; each call gives another store on the same records, unless the driver
            keeps them in the process alone. The records need not be empty.
        examples: how many histories to generate.

    Raises:
        AssertionError: the driver breaks the contract; the message says how.
    """
    ground = Ground(opener, examples=examples)
    for check in CHECKS:
        check(ground)
