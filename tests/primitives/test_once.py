"""The decorator for plain functions and for consumers of queues."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from anypod import ConfigurationError, InFlight, KeyReused, State
from anypod.errors import EarlierFailure, LeaseLost

from .conftest import advance


@dataclass(frozen=True)
class Message:
    id: str
    amount: int = 1


def test_a_redelivered_message_is_carried_out_once(state: State) -> None:
    orders = state.idempotency("orders")
    done: list[str] = []

    @orders.once(key=lambda message: message.id)
    def place(message: Message) -> dict[str, int]:
        """Place an order."""
        done.append(message.id)
        return {"number": len(done)}

    assert place(Message("a")) == {"number": 1}
    assert place(Message("b")) == {"number": 2}
    assert place(Message("a")) == {"number": 1}
    assert done == ["a", "b"]
    assert place.__name__ == "place"
    assert place.__doc__ == "Place an order."
    assert not inspect.iscoroutinefunction(place)


def test_the_awaiting_form(state: State) -> None:
    orders = state.idempotency("orders")
    done: list[str] = []

    @orders.once(key=lambda message: message.id)
    async def place(message: Message) -> int:
        await asyncio.sleep(0)
        done.append(message.id)
        return len(done)

    async def scenario() -> None:
        assert [await place(Message("a")), await place(Message("a"))] == [1, 1]
        assert await place(message=Message("b")) == 2
        await state.aclose()

    assert inspect.iscoroutinefunction(place)
    asyncio.run(scenario())
    assert done == ["a", "b"]


def test_the_same_key_with_another_fingerprint_is_refused(state: State) -> None:
    orders = state.idempotency("orders")

    @orders.once(key=lambda message: message.id, fingerprint=lambda message: (message.amount,))
    def pay(message: Message) -> int:
        return message.amount

    assert pay(Message("a", 5)) == 5
    with pytest.raises(KeyReused):
        pay(Message("a", 6))


def test_a_redelivery_meanwhile_is_told_that_it_is_in_flight(state: State) -> None:
    orders = state.idempotency("orders")
    refused: list[float] = []

    @orders.once(key=lambda message: message.id)
    def place(message: Message) -> str:
        with pytest.raises(InFlight) as refusal:
            place(message)
        refused.append(refusal.value.retry_after)
        return "done"

    assert place(Message("a")) == "done"
    assert len(refused) == 1


def test_failures_are_kept_or_retried_as_the_family_says(state: State) -> None:
    kept, retried = state.idempotency("kept"), state.idempotency("retried", failures="retry")
    calls: list[str] = []

    def divide(name: str) -> float:
        calls.append(name)
        return 1 / (0 if len(calls) < 3 else 1)

    once, again = kept.once(key=lambda name: name)(divide), retried.once(key=lambda name: name)
    with pytest.raises(ZeroDivisionError):
        once("a")
    with pytest.raises(EarlierFailure):
        once("a")
    with pytest.raises(ZeroDivisionError):
        again(divide)("a")
    assert again(divide)("a") == 1.0
    assert calls == ["a"] * 3


def test_the_attempt_is_at_hand_inside(state: State) -> None:
    orders, mails = state.idempotency("orders"), state.idempotency("mails")
    keys: list[str] = []

    @mails.once(key=lambda to: to)
    def mail(to: str) -> None:
        keys.append(orders.attempt.downstream_key("mail"))

    @orders.once(key=lambda message: message.id)
    def place(message: Message) -> str:
        keys.append(orders.attempt.downstream_key("charge"))
        mail("ada")
        if message.amount == 0:
            orders.attempt.abandon()
        return "placed"

    assert place(Message("a", 0)) == "placed"
    assert place(Message("a")) == "placed"
    assert keys[0] == keys[2], "the same for the same operation, whichever attempt"
    assert len(set(keys)) == 2
    with pytest.raises(RuntimeError, match="'orders': no attempt here"):
        _ = orders.attempt


def test_the_lease_of_a_consumer_that_hangs_runs_out(state: State) -> None:
    orders = state.idempotency("orders", lease=30.0)
    numbers: list[int] = []

    @orders.once(key=lambda name: name)
    def place(name: str) -> int:
        numbers.append(orders.attempt.number)
        if len(numbers) == 1:
            advance(state, 31.0)
            assert place(name) == 2
        return len(numbers)

    with pytest.raises(LeaseLost):
        place("a")
    assert place("a") == 2
    assert numbers == [1, 2]


def test_what_cannot_be_carried_out_once_is_refused(state: State) -> None:
    orders = state.idempotency("orders")
    with pytest.raises(ConfigurationError, match="key= must be a function"):
        orders.once(key="id")  # type: ignore[arg-type]

    def numbers(name: str) -> Iterator[int]:
        yield 1

    async def anumbers(name: str) -> AsyncIterator[int]:
        yield 1

    for function in (numbers, anumbers):
        with pytest.raises(ConfigurationError, match="is a generator"):
            orders.once(key=lambda name: name)(function)

    @orders.once(key=lambda message: None)
    def place(message: Message) -> None:
        pytest.fail("carried out")

    with pytest.raises(ValueError, match="the key is None"):
        place(Message("a"))


def test_an_outcome_that_is_no_data_is_an_error_once_and_for_all(state: State) -> None:
    orders = state.idempotency("orders")

    @orders.once(key=lambda name: name)
    def place(name: str) -> object:
        return object()

    with pytest.raises(TypeError):
        place("a")
    with pytest.raises(EarlierFailure, match="TypeError"):
        place("a")
