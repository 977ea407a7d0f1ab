"""anypod: a Python web service that answers the same from any pod.

    from anypod import State

    state = State.from_env()
    hits = state.counter("hits")
    hits.increment()          # 1, 2, 3 … on whichever replica this runs

Importing this loads no framework, no database client, and nothing at all until a name is used: the
checker lives in the same package and must start as fast as Python does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anypod.errors import (
        AnypodError,
        ConfigurationError,
        InFlight,
        KeyReused,
        LimitReached,
        OutcomeUnknown,
        SessionEnded,
        StoreError,
        StoreUnavailable,
    )
    from anypod.primitives.local import LocalCache, cached
    from anypod.state import State

__all__ = [
    "AnypodError",
    "ConfigurationError",
    "InFlight",
    "KeyReused",
    "LimitReached",
    "LocalCache",
    "OutcomeUnknown",
    "SessionEnded",
    "State",
    "StoreError",
    "StoreUnavailable",
    "cached",
]

_HOMES: Final = {
    "LocalCache": "anypod.primitives.local",
    "State": "anypod.state",
    "cached": "anypod.primitives.local",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'anypod' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "anypod.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
