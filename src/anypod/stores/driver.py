"""What an engine implements so that anypod can keep its records there.

A driver executes commands; it validates nothing, names nothing and wraps nothing. Its client's errors
leave it raw; `Store` asks `classify` what they mean and wraps them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Flag, auto
from typing import Any, Protocol, TypeVar

from anypod.commands import Command
from anypod.errors import StoreError
from anypod.stores.notices import Subscription

R = TypeVar("R")


class Capability(Flag):
    """What a store can promise beyond executing commands."""

    NONE = 0
    SHARED = auto()  # other processes on this machine see the same records
    NETWORKED = auto()  # other machines do too
    DURABLE_FENCING = auto()  # an acknowledged token survives the store's own crash


class Driver(Protocol):
    """One open engine. Thread-safe, usable from any event loop, and from a forked child."""

    name: str
    capabilities: Capability
    errors: tuple[type[Exception], ...]  # what `execute` may raise, for `Store` to wrap
    clock_offset: float  # seconds added to the store's clock; tests alone set it

    def execute(self, command: Command[R]) -> R:
        """Execute one command, in one exchange."""

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command, in one exchange, without blocking the event loop."""

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands that need not be atomic together, in as few exchanges as the engine allows.

        Replies come in the order of the commands; one command's error stands in its place as an
        exception and touches no other.
        """

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take one notification out of a mailbox, waiting up to `seconds` for it; False if none came.

        A notification that came before the call is found by it; one that nobody takes is forgotten
        after a minute. Waits on a connection of its own, so that it holds nobody up.
        """

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""

    def listen(self, channel: str) -> Subscription:
        """Listen to a channel, on a connection of its own; in force when this returns."""

    def bind(self, connection: object) -> Driver:
        """A driver whose commands are part of the transaction that is open on the caller's connection.

        Raises:
            ConfigurationError: this engine cannot take part in a transaction on it.
        """

    def classify(self, failure: Exception) -> type[StoreError]:
        """Say what a raised error means: `StoreUnavailable`, `OutcomeUnknown` or `RecordError`."""

    def answered(self, failure: Exception) -> bool:
        """Whether the engine was reached, and the error is its own word."""

    def advice(self, failure: Exception) -> str:
        """What a raised error means in plain words and what to do next, empty if it says so itself."""

    def close(self) -> None:
        """Give up connections and files. Executing afterwards is an error."""

    async def aclose(self) -> None:
        """Like `close`, for connections that belong to an event loop."""
