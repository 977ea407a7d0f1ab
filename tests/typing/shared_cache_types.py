"""What type checkers see of the shared cache. `test_typing.py` runs mypy over this file; it is never run."""

from typing import Any, assert_type

from anypod import State
from anypod.primitives.cache import Cache


async def untyped(state: State) -> None:
    cache = state.cache("data", ttl=300.0)
    assert_type(cache, Cache[Any])
    cache.put("a", 1)
    cache.invalidate(("a", 1))
    await cache.ainvalidate("a")


async def typed(cache: Cache[int]) -> None:
    async def load() -> int:
        return 1

    assert_type(cache.get("a"), int | None)
    assert_type(cache.get("a", "none"), int | str)
    assert_type(await cache.aget("a", "none"), int | str)
    assert_type(cache.get_or_load("a", lambda: 1), int)
    assert_type(await cache.aget_or_load("a", load), int)
    assert_type(await cache.aget("a"), int | None)
    cache.put("a", "1")  # type: ignore[arg-type]
    cache.get_or_load("a", lambda: "1")  # type: ignore[arg-type, return-value]
