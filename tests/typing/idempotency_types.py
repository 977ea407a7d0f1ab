"""What type checkers see of `once`. `test_typing.py` runs mypy over this file; it is never run."""

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from anypod import State
from anypod.primitives.explanation import Explanation
from anypod.primitives.idempotency import Attempt

orders = State("memory://").idempotency("orders")


@orders.once(key=lambda number: number)
def place(number: int, *, gift: bool = False) -> dict[str, int]:
    assert_type(orders.attempt, Attempt)
    return {"number": number}


@orders.once(key=lambda number: number, fingerprint=lambda number: ("a", number), wait=1.0)
async def aplace(number: int) -> str:
    return str(number)


class Shop:
    @orders.once(key=lambda self, number: number)
    def place(self, number: int) -> int:
        return number


def blocking(shop: Shop) -> None:
    assert_type(place(1, gift=True), dict[str, int])
    place("1")  # type: ignore[arg-type]
    place()  # type: ignore[call-arg]
    consumer: Callable[[int], dict[str, int]] = place
    consumer(1)
    assert_type(shop.place(1), int)
    assert_type(orders.explain("key"), Explanation)


async def awaiting() -> None:
    await assert_type(aplace(1), Coroutine[Any, Any, str])
    assert_type(await aplace(1), str)
    await aplace("1")  # type: ignore[arg-type]
    assert_type(await orders.aexplain("key"), Explanation)
