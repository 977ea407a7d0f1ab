"""What a `functools.lru_cache` holds, which only the garbage collector shows."""

from __future__ import annotations

import functools
import gc
from typing import Any

__all__ = ["CACHED", "entries", "made"]

CACHED = type(functools.lru_cache(lambda: None))


def entries(wrapper: Any) -> dict[Any, Any]:
    """What it holds, by its own keys.

    Raises:
        LookupError: it does not show it.
    """
    size = wrapper.cache_info().currsize
    if not size:
        return {}
    parts = gc.get_referents(wrapper)
    caches = [
        part
        for part in parts
        if type(part) is dict and part is not vars(wrapper) and len(part) == size
    ]
    if len(caches) != 1:
        raise LookupError("its content is not to be seen")
    (cache,) = caches
    if wrapper.cache_parameters()["maxsize"] is None:
        return dict(cache)
    # A bounded one keeps links. After its type it shows the key, the result and the type of each.
    flat = parts[1 : next(at for at, part in enumerate(parts) if part is cache)]
    found = dict(zip(flat[0::3], flat[1::3], strict=False))
    if found.keys() != cache.keys():
        raise LookupError("its content is not to be seen")
    return found


def made(wrapper: Any) -> Any:
    """What a function without arguments made once and keeps; None if this is something else."""
    if wrapper.cache_info().currsize != 1:
        return None
    try:
        return entries(wrapper).get(())
    except LookupError:
        return None
