"""What type checkers see of the local layer. `test_typing.py` runs mypy over this file; it is never run.

Not here: `@classmethod` over `@cached`, which works but which mypy does not bind (nor does it over
`functools.lru_cache`).
"""

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from anypod import LocalCache, cached


@cached(ttl=300)
def rate(currency: str, day: int = 0, *, strict: bool = False) -> float:
    return 1.5


@cached(ttl=300, maxsize=10, name="people")
async def person(number: int) -> dict[str, str]:
    return {}


class Prices:
    @cached(ttl=300)
    def price(self, item: str) -> int:
        return 1

    @cached(ttl=300)
    async def aprice(self, item: str) -> int:
        return 1

    @staticmethod
    @cached(ttl=300)
    def twice(value: int) -> list[int]:
        return []


def functions() -> None:
    assert_type(rate("EUR"), float)
    assert_type(rate("EUR", 1, strict=True), float)
    assert_type(rate.invalidate("EUR", day=1), bool)
    assert_type(rate.cache, LocalCache)
    assert_type(rate.__wrapped__("EUR"), float)
    rate.clear()
    rate(1)  # type: ignore[arg-type]
    rate("EUR", strict="no")  # type: ignore[arg-type]
    rate()  # type: ignore[call-arg]
    rate.invalidate(1)  # type: ignore[arg-type]


async def coroutines() -> None:
    await assert_type(person(1), Coroutine[Any, Any, dict[str, str]])
    assert_type(await person(1), dict[str, str])
    assert_type(person.invalidate(1), bool)
    await person("1")  # type: ignore[arg-type]


async def methods(prices: Prices) -> None:
    assert_type(prices.price("a"), int)
    assert_type(await prices.aprice("a"), int)
    assert_type(Prices.twice(1), list[int])
    assert_type(Prices.price.invalidate(prices, "a"), bool)
    prices.price(1)  # type: ignore[arg-type]
    prices.price.invalidate("a")  # type: ignore[attr-defined]
    bound: Callable[[str], int] = prices.price
    assert_type(bound("a"), int)


async def by_hand() -> None:
    cache = LocalCache("rates", ttl=300.0)

    async def fetch() -> float:
        return 1.5

    assert_type(cache.get_or_load("EUR", lambda: 1.5), float)
    assert_type(await cache.aget_or_load("EUR", fetch), float)
    assert_type(cache.invalidate("EUR"), bool)
    cache.put([], 1)  # type: ignore[arg-type]
