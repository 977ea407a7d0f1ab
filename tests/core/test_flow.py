from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anypod import State
from anypod.commands import Add, Added, Put, Total
from anypod.errors import RecordError, StoreUnavailable
from anypod.flow import Call, Flow, Grant, Sleep, Together, arun, run
from anypod.observe import Event

pytestmark = pytest.mark.quick


@pytest.fixture
def store() -> Any:
    with State("memory://", namespace="") as state:
        yield state.store


def both(store: Any, flow: Any) -> tuple[Any, Any]:
    async def awaited() -> Any:
        return await arun(store, flow())

    return run(store, flow()), asyncio.run(awaited())


def test_replies_come_back_to_the_yield(store: Any) -> None:
    def flow() -> Flow[int]:
        added: Added = yield Add("key")
        yield Sleep(0.0)
        doubled: int = yield Call(lambda: added.value * 2)
        return doubled

    assert both(store, flow) == (2, 4)


def test_commands_together_are_answered_in_order(store: Any) -> None:
    def flow() -> Flow[list[int]]:
        added: list[Added] = yield Together([Add("one"), Add("two", by=5), Add("one")])
        return [reply.value for reply in added]

    assert both(store, flow) == ([1, 5, 2], [3, 10, 4])


def test_one_that_fails_among_several_is_raised_and_the_others_are_executed(store: Any) -> None:
    store.execute(Put("value", b""))

    def flow() -> Flow[int]:
        try:
            yield Together([Add("value"), Add("counter")])
        except RecordError:
            total: int = yield Total("counter")
            return total
        return 0

    assert both(store, flow) == (1, 2)


def test_each_of_several_commands_is_observed(store: Any) -> None:
    events: list[Event] = []
    store.observe(events.append)

    def flow() -> Flow[None]:
        yield Together([Add("ap::counter:one:n"), Add("ap::counter:two:n")])

    both(store, flow)
    assert [event.name for event in events] == ["one", "two", "one", "two"]


def test_the_async_runner_awaits_what_a_call_returns(store: Any) -> None:
    async def load() -> str:
        return "loaded"

    def flow() -> Flow[str]:
        loaded: str = yield Call(load)
        return loaded

    assert asyncio.run(arun(store, flow())) == "loaded"


def test_failures_are_thrown_at_the_yield(store: Any) -> None:
    def flow() -> Flow[str]:
        try:
            yield Call(lambda: 1 / 0)
        except ZeroDivisionError:
            added: Added = yield Add("after")
            return f"caught, {added.value}"
        return "not caught"

    assert both(store, flow) == ("caught, 1", "caught, 2")


def test_what_a_flow_raises_leaves_the_runner(store: Any) -> None:
    def flow() -> Flow[None]:
        yield Sleep(0.0)
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        run(store, flow())
    with pytest.raises(KeyError, match="here"):
        asyncio.run(arun(store, flow()))


def test_a_cancelled_flow_carries_out_its_clean_up(store: Any) -> None:
    def flow() -> Flow[None]:
        try:
            yield Sleep(3600.0)
        finally:
            yield Add("cleaned")

    async def scenario() -> None:
        task = asyncio.create_task(arun(store, flow()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert store.execute(Add("cleaned")).value == 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_grant_is_answered_before_a_cancellation_goes_on(
    store: Any, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    perform = store.aperform
    log: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield Grant(Add("granted"))
        finally:
            log.append("clean-up")
            yield Add("cleaned")

    async def scenario() -> None:
        sent, answer = asyncio.Event(), asyncio.Event()

        async def slow(command: Add) -> Any:
            if command.key == "granted":
                sent.set()
                await answer.wait()
                log.append("answer")
                if fails:
                    raise StoreUnavailable("gone")
            return await perform(command)

        monkeypatch.setattr(store, "aperform", slow)
        task = asyncio.create_task(arun(store, flow()))
        await sent.wait()
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert log == []
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert log == ["answer", "clean-up"]
    assert store.execute(Total("granted")) == (0 if fails else 1)
    assert run(store, flow()) is None


def test_a_stop_iteration_of_the_user_is_an_error_not_an_end(store: Any) -> None:
    def flow() -> Flow[str]:
        yield Call(lambda: next(iter(())))
        return "not here"

    with pytest.raises(RuntimeError):
        run(store, flow())
