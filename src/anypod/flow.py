"""The only place where sync and async meet.

A primitive is written once, as a generator: it yields steps and receives their replies. `run` drives
it blocking, `arun` awaiting. Neither knows what a step is for.

Invariants:
    - one yielded command is one atomic step of the store; nothing is atomic across two yields, nor
      across the commands that are yielded `Together`;
    - a failed step is thrown into the generator at its yield, so that `try` there works as usual;
    - a cancelled `arun` is a failed step like any other: the generator sees the cancellation at its
      yield, and the steps of its clean-up are executed before it goes on its way.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from anypod.commands import Command

if TYPE_CHECKING:
    from anypod.stores import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Together:
    """Execute several commands in as few exchanges as the store allows; together they are not atomic.

    The reply is the list of their replies, in order. If one fails, that failure is thrown; the others execute or not.
    """

    commands: Sequence[Command[Any]]


@dataclass(frozen=True, slots=True)
class Grant:
    """Execute a command that may give something away, and know that it has executed before a cancellation goes on.

    Otherwise what the flow does about it might overtake the command on another connection.
    """

    command: Command[Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait for this many seconds on the process's own clock."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a notification in a mailbox of the store, for this many seconds at most.

    The reply says whether one came.
    """

    mailbox: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Call the user's function; the async runner awaits the result if it is awaitable."""

    function: Callable[[], Any]


Step: TypeAlias = Command[Any] | Together | Grant | Wait | Sleep | Call
Flow: TypeAlias = Generator[Step, Any, T]


def run(store: Store, flow: Flow[T]) -> T:
    """Drive a flow to its end, blocking, and return its value."""
    try:
        step = next(flow)
        while True:
            try:
                if isinstance(step, Command):
                    reply = store.perform(step)
                elif isinstance(step, Together):
                    reply = store.execute_many(step.commands)
                elif isinstance(step, Grant):
                    reply = store.perform(step.command)
                elif isinstance(step, Wait):
                    reply = store.receive(step.mailbox, step.seconds)
                elif isinstance(step, Sleep):
                    reply = time.sleep(step.seconds)  # type: ignore[func-returns-value]
                else:
                    reply = step.function()
            except BaseException as failure:  # noqa: BLE001  # the flow decides what a failure means
                step = flow.throw(failure)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        flow.close()


async def arun(store: Store, flow: Flow[T]) -> T:
    """Drive a flow to its end, awaiting, and return its value."""
    try:
        step = next(flow)
        while True:
            try:
                if isinstance(step, Command):
                    reply = await store.aperform(step)
                elif isinstance(step, Together):
                    reply = await store.aexecute_many(step.commands)
                elif isinstance(step, Grant):
                    reply = await _answered(store.aperform(step.command))
                elif isinstance(step, Wait):
                    reply = await store.areceive(step.mailbox, step.seconds)
                elif isinstance(step, Sleep):
                    reply = await asyncio.sleep(step.seconds)  # type: ignore[func-returns-value]
                else:
                    reply = step.function()
                    if inspect.isawaitable(reply):
                        reply = await _awaited(reply)
            except BaseException as failure:  # noqa: BLE001  # the flow decides what a failure means
                step = flow.throw(failure)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        flow.close()


async def _answered(execution: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(execution)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody else hears of it
        raise


async def _awaited(value: Awaitable[T]) -> T:
    return await value
