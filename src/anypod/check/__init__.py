"""`anypod check`: finds, without importing the code, state that breaks with a second replica.

    sources → extract → facts → project → resolver → reach → analysis → rules → findings

Facts of a file depend on that file alone (and are cached); everything after them looks at the whole program.
Nothing here imports anything but the standard library, and little of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anypod.check.config import Config
    from anypod.check.engine import check_paths, check_sources
    from anypod.check.model import Finding, Problem, Result, Route, Site, Step

__all__ = [
    "Config",
    "Finding",
    "Problem",
    "Result",
    "Route",
    "Site",
    "Step",
    "check_paths",
    "check_sources",
]

_PLACES = {"check_paths": "engine", "check_sources": "engine", "Config": "config"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES.get(name, 'model')}"), name)
