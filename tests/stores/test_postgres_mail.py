"""The connection that hears notifications, when those who wait for it give up."""

from __future__ import annotations

import asyncio
import gc
import itertools
import types
import warnings
from collections.abc import Coroutine, Generator
from typing import Any

import pytest

from anypod.stores.postgres.mail import LoopListener


@types.coroutine
def cancelled_at(place: int, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, None]:
    """Run a coroutine up to its suspension of this number, and cancel it there."""
    for _ in range(place - 1):
        yield coroutine.send(None)
    coroutine.send(None)
    suspended = coroutine.throw(asyncio.CancelledError())
    while True:
        yield suspended
        suspended = coroutine.send(None)


async def nothing() -> bool:
    return False


def test_a_waiter_cancelled_at_any_step_leaves_no_connection_open(postgres_url: str) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        for place in itertools.count(1):
            listener = LoopListener(postgres_url, loop)
            waiting = listener.receive("box", loop.time() + 60, nothing)
            with pytest.raises(asyncio.CancelledError):
                await cancelled_at(place, waiting)
            listens = listener.connection is not None
            listener.close()
            if listens:
                assert place > 2  # to connect and to listen take a suspension each, at least
                return

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(scenario())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
