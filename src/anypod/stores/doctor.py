"""What is wrong with a store, in plain words, and what to do about it.

Each engine's own `doctor` module looks where only it can; what every store must be able to do is tried here,
on scratch records that run out by themselves.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Any, Final

from anypod import commands as c
from anypod.errors import StoreError
from anypod.stores import Store

Statistics = dict[str, int | float | str | None]

SCRATCH_TTL: Final = 10.0  # seconds
SKEW: Final = 1.0  # seconds between the store's clock and this machine's that are worth a word


class Level(Enum):
    """How bad a finding is."""

    ERROR = "error"  # a promise is broken, or will be
    WARNING = "warning"  # a promise is weaker than one may think
    FINE = "fine"  # looked at, nothing to say


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: how bad it is.
        what: what was found, with its value.
        remedy: what to do; empty if nothing.
    """

    level: Level
    what: str
    remedy: str = ""


def error(what: str, remedy: str) -> Finding:
    """A broken promise."""
    return Finding(Level.ERROR, what, remedy)


def warning(what: str, remedy: str) -> Finding:
    """A weaker promise."""
    return Finding(Level.WARNING, what, remedy)


def fine(what: str) -> Finding:
    """Nothing to say."""
    return Finding(Level.FINE, what)


def ping(store: Store) -> float:
    """Seconds that one read takes, connected.

    Raises:
        StoreError: it failed.
    """
    store.execute(c.Total(_scratch("ping")))
    began = time.perf_counter()
    store.execute(c.Total(_scratch("ping")))
    return time.perf_counter() - began


def examine(store: Store) -> Iterator[Finding]:
    """Everything that can be said about a store; ends early if it cannot be reached."""
    try:
        seconds = ping(store)
    except StoreError as failure:
        yield error(str(failure), "until this works nothing else can be looked at")
        return
    yield fine(f"answers in {seconds * 1000:.2g} ms")
    yield from _abilities(store)
    engine = _engine(store)
    if engine is not None:
        yield from engine.examine(store.driver)


def statistics(store: Store) -> Statistics:
    """Numbers about a store, by name.

    Raises:
        StoreError: it could not be asked.
    """
    ping(store)
    engine = _engine(store)
    return {} if engine is None else engine.statistics(store.driver)


def reap(store: Store) -> int | None:
    """Delete what has expired and return how many records went; None if the engine does it by itself.

    Raises:
        StoreError: it failed.
    """
    ping(store)
    engine = _engine(store)
    if engine is None:
        return None
    reaped: int | None = engine.reap(store.driver)
    return reaped


def _engine(store: Store) -> Any:
    home = type(store.driver).__module__.split(".")
    if home[:2] != ["anypod", "stores"] or len(home) < 3 or home[2] == "memory":
        return None
    return import_module(f"anypod.stores.{home[2]}.doctor")


def _scratch(kind: str) -> str:
    return f"ap::doctor:{kind}:s{uuid.uuid4().hex}"


def _abilities(store: Store) -> Iterator[Finding]:
    """What every store must be able to do, tried."""
    value = c.Put(_scratch("value"), b"x", ttl=SCRATCH_TTL)
    attempts: dict[str, Callable[[], object]] = {
        "write": lambda: store.execute(value),
        "run every kind of command": lambda: store.execute(
            c.Take(_scratch("limit"), (c.Policy(c.Algorithm.GCRA, 1, SCRATCH_TTL, 1),))
        ),
        "wait for a notification": lambda: store.receive(_scratch("box") + "#doctor", 0.0),
        "publish": lambda: store.execute(c.Publish(_scratch("channel"), b"")),
        "listen": lambda: store.driver.listen(_scratch("channel")).close(),
    }
    failures: tuple[type[Exception], ...] = (StoreError, *store.driver.errors)
    for what, attempt in attempts.items():
        try:
            attempt()
        except failures as failure:
            yield error(f"cannot {what}: {failure}", "give this user the right, see docs/stores.md")
    try:
        written = store.execute(c.Put(_scratch("clock"), b"", ttl=SCRATCH_TTL)).current
    except StoreError:
        return
    if written is not None:
        yield from skewed(written.version / 1e6)


def skewed(shown: float) -> Iterator[Finding]:
    """What to say about a clock of the store's that shows this many seconds since 1970."""
    skew = shown - time.time()
    if abs(skew) > SKEW:
        yield warning(
            f"its clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
            "anypod uses the store's alone; logs and certificates will disagree: run an NTP client",
        )
