"""The flights of a shared cache: a load and its exchanges with the store, shared by this process's callers.

Who leads a flight runs a whole flow in it: the load, the fill, or the wait for another replica's. Those who
join get its answer and must judge whether it is new enough for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from anypod.flow import Flow, arun, run
from anypod.primitives.local_flight import SingleFlight

if TYPE_CHECKING:
    from anypod.stores import Store


class Answer(Struct, frozen=True):
    """What a flight brings.

    Attributes:
        payload: the value, encoded.
        mark: what it was loaded under.
        shared: whether it is also for those who joined later than its own look into the store, if they
            saw the same mark.
    """

    payload: bytes
    mark: str
    shared: bool


class Fly(Protocol):
    """`Flights.fly` or `Flights.afly`."""

    def __call__(
        self, address: str, flow: Callable[[], Flow[Answer]], displace: bool
    ) -> tuple[Answer, bool] | Awaitable[tuple[Answer, bool]]:
        """Run `flow()` in a flight; tell whether this caller led it."""


class Flights(SingleFlight):
    """The flights of one shared cache.

    Args:
        store: where the flows run.
        name: the cache's, for messages.
    """

    __slots__ = ("_store",)

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(name)
        self._store = store

    def fly(
        self, address: str, flow: Callable[[], Flow[Answer]], displace: bool
    ) -> tuple[Answer, bool]:
        """Run `flow()` in a flight, or join the one that is on its way; tell whether this caller led it."""
        led = False

        def lead() -> Answer:
            nonlocal led
            led = True
            return run(self._store, flow())

        return self.run(address, lead, displace=displace), led

    async def afly(
        self, address: str, flow: Callable[[], Flow[Answer]], displace: bool
    ) -> tuple[Answer, bool]:
        """`fly`, awaiting."""
        led = False

        async def lead() -> Answer:
            nonlocal led
            led = True
            return await arun(self._store, flow())

        return await self.arun(address, lead, displace=displace), led

    def dismiss(self, address: str) -> None:
        """Let nobody join the flight that is on its way."""
        with self.lock:
            self.detach(address)
