"""One caller of rate limits whose clock is wrong, as a process.

    python limited.py '{"url": …}'      the fields of `Errand`

It shifts every clock that Python code reads before anything of anypod is imported, except on SQLite: there
the machine's clock is the store's, and only what the limit itself reads is shifted. It reads one `Hits` a
line from its input and answers each with a line: the list of its `Hit`s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

PAUSE = 0.004  # seconds after a denial: it is remembered and costs nothing, so leave others the CPU


class Errand(msgspec.Struct, frozen=True):
    """What a caller is told once."""

    url: str
    namespace: str
    shift: float  # seconds by which its clocks are wrong


class Hits(msgspec.Struct, frozen=True):
    """What a caller is told to do: so many hits, or hits for so many seconds."""

    algorithm: str
    limit: int
    period: float
    key: str
    count: int = 0
    seconds: float = 0.0


class Hit(msgspec.Struct, frozen=True, array_like=True):
    """One hit: when it was sent and answered (µs, the machine's monotonic clock), and the answer."""

    sent: int
    answered: int
    admitted: bool


def shift_clocks(seconds: float) -> Any:
    """Make every clock wrong by this much, and return a view of the module with the right ones."""
    right = SimpleNamespace(**{name: getattr(time, name) for name in dir(time)})

    def shifted(clock: Callable[[], Any], by: Any) -> Callable[[], Any]:
        return lambda: clock() + by

    for name in ("time", "monotonic", "perf_counter"):
        setattr(time, name, shifted(getattr(right, name), seconds))
        setattr(time, f"{name}_ns", shifted(getattr(right, f"{name}_ns"), int(seconds * 1e9)))
    return right


def carry_out(state: Any, hits: Hits, clock: Any) -> list[Hit]:
    """Hit a limit as told. `clock` is a module with the right clocks."""
    from anypod.commands import Algorithm, Policy

    policy = Policy(Algorithm(hits.algorithm), hits.limit, hits.period, hits.limit)
    limit = state.rate_limit("limit", [policy], algorithm=hits.algorithm)
    done: list[Hit] = []
    end = clock.monotonic() + hits.seconds
    while len(done) < hits.count or clock.monotonic() < end:
        sent = clock.monotonic_ns() // 1_000
        admitted = limit.hit(hits.key).allowed
        done.append(Hit(sent, clock.monotonic_ns() // 1_000, admitted))
        if not admitted and not hits.count:
            clock.sleep(PAUSE)
    return done


def main(errand: Errand) -> None:
    clock = shift_clocks(errand.shift)
    from anypod import State

    state = State(errand.url, namespace=errand.namespace)
    if errand.url.startswith("sqlite"):
        from anypod.stores.sqlite import driver

        driver.time = clock
    state.ping()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        done = carry_out(state, msgspec.json.decode(line, type=Hits), clock)
        sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
        sys.stdout.flush()
    state.close()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent.parent))
    main(msgspec.json.decode(sys.argv[1], type=Errand))
