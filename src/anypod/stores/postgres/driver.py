"""The driver: commands as function calls over pooled connections, blocking and awaiting.

Invariants:
    - one command is one statement, one transaction, one exchange; a statement that failed for reasons
      that pass, or that was never sent, is sent again, and nothing else ever is;
    - one deadline covers a command from the wait for a connection to its reply; the server gives up a
      lock earlier than the client gives up the server, so that a wait for a lock has a known outcome;
    - the schema is looked at when the first connection is opened, not when the store is;
    - a forked child uses none of its parent's connections, and does not end them either;
    - every few hundred commands one reaps a batch of what has expired, after its reply.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors

from anypod.commands import CacheRead, CacheVersion, Command, Get, Inspect, ReadDocument, Total
from anypod.errors import (
    ConfigurationError,
    Conflict,
    OutcomeUnknown,
    RecordError,
    StoreError,
    StoreUnavailable,
)
from anypod.stores import forks
from anypod.stores.driver import Capability
from anypod.stores.postgres import schema
from anypod.stores.postgres.address import Address
from anypod.stores.postgres.binary import Function, Values
from anypod.stores.postgres.bound import BoundDriver
from anypod.stores.postgres.calls import Call, answer, call_for, micros
from anypod.stores.postgres.channels import ChannelSubscription
from anypod.stores.postgres.lanes import Lanes
from anypod.stores.postgres.link import NOT_KEPT, CutOff, Link, Unanswered, Unsent, repeatable
from anypod.stores.postgres.mail import GLANCE, LoopListener, ThreadListener
from anypod.stores.postgres.names import channel_name, mail_box
from anypod.stores.postgres.pool import Pool
from anypod.stores.specification import WrongRecord

R = TypeVar("R")

log = logging.getLogger("anypod.stores.postgres")

ATTEMPTS: Final = 4  # to send one command that no connection has taken
REAP_EVERY: Final = 500  # commands that may leave something behind
REAP_BATCH: Final = 200

# That seldom write.
_READS: Final = frozenset({Get, Total, Inspect, ReadDocument, CacheRead, CacheVersion})
_TAKE_MAIL: Final = Function("take_mail_v1", "text, bigint", "boolean")
_REAP: Final = Function("reap_v1", "integer, bigint", "bigint")
_MISSING: Final = (errors.UndefinedFunction, errors.UndefinedTable, errors.InvalidSchemaName)

_ADVICE: Final[tuple[tuple[tuple[type[Exception], ...], str], ...]] = (
    (
        (errors.LockNotAvailable,),
        "another transaction held this record for longer than the timeout; keep those short",
    ),
    (
        (errors.ReadOnlySqlTransaction,),
        "this server is a standby; name all of them in the URL (host1,host2) to find the primary",
    ),
    ((errors.DiskFull,), "the server's disk is full"),
    (
        (errors.TooManyConnections, errors.ConfigurationLimitExceeded),
        "lower connections= in the store URL, or put a pooler in front",
    ),
    (
        (errors.SerializationFailure, errors.DeadlockDetected),
        "others kept changing what this transaction had read; run the whole transaction again",
    ),
)


class PostgresDriver:
    """Records in one schema of a PostgreSQL database."""

    name = "postgresql"
    errors: tuple[type[Exception], ...] = (psycopg.Error, WrongRecord)

    def __init__(self, address: Address) -> None:
        self.clock_offset = 0.0
        self.address = address
        self.capabilities = Capability.SHARED | Capability.NETWORKED
        if address.synchronous:
            self.capabilities |= Capability.DURABLE_FENCING
        self._facts: schema.Facts | None = None
        self._keeps = True  # sessions keep prepared statements, as far as is known
        self._commands = 0
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._first = threading.Lock()
        self._pool = Pool(self._connect, self.address.connections)
        self._lanes: dict[asyncio.AbstractEventLoop, Lanes] = {}
        self._listener = ThreadListener(self.address.listen)
        self._listeners: dict[asyncio.AbstractEventLoop, LoopListener] = {}
        self._reaping: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"PostgresDriver({self.address.place!r})"

    # --- what a command becomes

    def call(self, command: Command[Any]) -> tuple[Call, Values]:
        """The function call that carries out a command now, and its values."""
        call = call_for(command)
        offset = micros(self.clock_offset) if self.clock_offset else 0
        return call, call.values(command, offset, self.address.lock_wait)

    def execute(self, command: Command[R]) -> R:
        """Execute one command, in one exchange."""
        call, values = self.call(command)
        outcome = self._carry_out(call.function, call.function.pack(values))
        if self._due(command):
            self._reap_some()
        return answer(call, command, outcome)  # type: ignore[no-any-return]

    def _carry_out(self, function: Function, parameters: list[bytes | None]) -> Any:
        deadline = time.monotonic() + self.address.timeout
        attempt = 0
        while True:
            attempt += 1
            pool = self._pool
            pooled = pool.take(deadline)
            try:
                outcome = pooled.exchange(function, parameters, deadline)
            except Unsent:
                # A connection from the pool may have died at this very moment; a new one has no excuse.
                if not pooled.used or attempt >= ATTEMPTS or time.monotonic() >= deadline:
                    raise
                continue
            finally:
                pool.give(pooled)
            if not isinstance(outcome, psycopg.Error):
                return outcome
            self._learn(outcome)
            if not repeatable(outcome) or time.monotonic() >= deadline:
                self.explain(outcome)
                raise outcome

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands as one pipeline; each is a transaction of its own."""
        if not commands:
            return []
        calls = [self.call(command) for command in commands]
        requests = [(call.function, call.function.pack(values)) for call, values in calls]
        pool = self._pool
        pooled = pool.take(time.monotonic() + self.address.timeout)
        try:
            outcomes = pooled.exchange_many(requests, self.address.timeout)
        finally:
            pool.give(pooled)
        replies: list[Any] = []
        for command, (call, _), request, outcome in zip(
            commands, calls, requests, outcomes, strict=True
        ):
            try:
                if isinstance(outcome, Unsent) or (
                    isinstance(outcome, psycopg.Error) and repeatable(outcome)
                ):
                    outcome = self._carry_out(*request)  # noqa: PLW2901  # it did not execute
                if isinstance(outcome, psycopg.Error):
                    self.explain(outcome)
                    replies.append(outcome)
                else:
                    replies.append(answer(call, command, outcome))
            except self.errors as failure:
                replies.append(failure)
        return replies

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command, in one exchange, without blocking the event loop."""
        call, values = self.call(command)
        parameters = call.function.pack(values)
        lanes = self._lanes_here()
        outcome = await self._acarry_out(lanes, call.function, parameters)
        if self._due(command):
            task = lanes.loop.create_task(self._areap_some(lanes))
            self._reaping.add(task)
            task.add_done_callback(self._reaping.discard)
        return answer(call, command, outcome)  # type: ignore[no-any-return]

    async def _acarry_out(
        self, lanes: Lanes, function: Function, parameters: list[bytes | None]
    ) -> Any:
        deadline = lanes.loop.time() + self.address.timeout
        attempt = 0
        while True:
            attempt += 1
            outcome = await lanes.carry_out(function, parameters, deadline)
            if not isinstance(outcome, psycopg.Error):
                return outcome
            self._learn(outcome)
            again = repeatable(outcome) or (isinstance(outcome, Unsent) and attempt < ATTEMPTS)
            if not again or lanes.loop.time() >= deadline:
                self.explain(outcome)
                raise outcome

    def _learn(self, failure: psycopg.Error) -> None:
        """Stop preparing statements where they turn out not to be kept."""
        if isinstance(failure, NOT_KEPT) and self._keeps:
            self._keeps = False
            log.info("%s does not keep prepared statements; going on without", self.address.place)

    # --- connections

    def _connect(self, limit: float) -> Link:
        """Open a connection for threads; the first one looks at the schema."""
        try:
            connection = psycopg.Connection.connect(
                self.address.conninfo,
                autocommit=True,
                connect_timeout=_whole(min(limit, self.address.connect_timeout)),
            )
        except psycopg.OperationalError as failure:
            raise _clearer(failure, self.address) from failure
        try:
            found = self._look(connection)
            if not (found.fresh or found.pooled):
                connection.execute(schema.READ_COMMITTED)
            return Link(connection, prepare=self._prepares(found))
        except BaseException:
            connection.close()
            raise

    def _look(self, connection: psycopg.Connection[Any]) -> schema.Facts:
        with self._first:
            if self._facts is None:
                self._facts = schema.prepare(connection, self.address)
                if not self._facts.durable and Capability.DURABLE_FENCING in self.capabilities:
                    self.capabilities &= ~Capability.DURABLE_FENCING
                    log.info(
                        "%s acknowledges before it is on disk (synchronous_commit or fsync is off): "
                        "the last commands may be lost with the server",
                        self.address.place,
                    )
            return self._facts

    def _prepares(self, found: schema.Facts) -> bool:
        if self.address.prepare is None:
            return self._keeps and not found.pooled
        return self._keeps and self.address.prepare

    def look(self) -> schema.Facts:
        """Open one connection if none was opened yet, and say what the server is like."""
        if self._facts is None:
            pool = self._pool
            pool.give(pool.take(time.monotonic() + self.address.timeout))
        if self._facts is None:  # the connection was one from before the schema vanished
            self._connect(self.address.timeout).close()
        assert self._facts is not None
        return self._facts

    async def alook(self) -> schema.Facts:
        """`look`, without blocking the event loop."""
        return await asyncio.to_thread(self.look) if self._facts is None else self._facts

    async def _aconnect(self) -> Link:
        """Open a connection for the running event loop."""
        found = await self.alook()
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.address.conninfo,
                autocommit=True,
                connect_timeout=_whole(min(self.address.timeout, self.address.connect_timeout)),
            )
        except psycopg.OperationalError as failure:
            raise _clearer(failure, self.address) from failure
        try:
            if not (found.fresh or found.pooled):
                await connection.execute(schema.READ_COMMITTED)
            return Link(connection, prepare=self._prepares(found))
        except BaseException:
            await connection.close()
            raise

    def _lanes_here(self) -> Lanes:
        loop = asyncio.get_running_loop()
        lanes = self._lanes.get(loop)
        if lanes is None:
            for other in [other for other in self._lanes if other.is_closed()]:
                self._leave(other)
            lanes = self._lanes[loop] = Lanes(self._aconnect, self.address, loop)
        return lanes

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections as they are, and begin anew."""
        inherited = [link.connection for link in self._pool.links()]
        for lanes in self._lanes.values():
            inherited += [link.connection for link in lanes.links()]
        forks.immortalize(*inherited, self._listener.connection)
        forks.immortalize(*(listener.connection for listener in self._listeners.values()))
        self._begin()

    # --- notifications

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Take one notification out of a mailbox, waiting up to `seconds` for it; False if none came."""
        box = mail_box(mailbox)
        end = time.monotonic() + seconds

        def take() -> bool:
            parameters = _TAKE_MAIL.pack([box, micros(self.clock_offset)])
            return bool(self._carry_out(_TAKE_MAIL, parameters)[1])

        if self._listens(self.look()):
            return take() if seconds <= 0 else self._listener.receive(box, end, take)
        while not take():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(GLANCE, left))
        return True

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        box = mail_box(mailbox)
        lanes = self._lanes_here()
        loop = lanes.loop
        end = loop.time() + seconds

        async def take() -> bool:
            parameters = _TAKE_MAIL.pack([box, micros(self.clock_offset)])
            return bool((await self._acarry_out(lanes, _TAKE_MAIL, parameters))[1])

        found = await self.alook()
        if self._listens(found):
            listener = self._listeners.get(loop)
            if listener is None:
                listener = self._listeners[loop] = LoopListener(self.address.listen, loop)
            return await take() if seconds <= 0 else await listener.receive(box, end, take)
        while not await take():
            left = end - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(GLANCE, left))
        return True

    def listen(self, channel: str) -> ChannelSubscription:
        """Listen to a channel, on a connection of its own; in force when this returns.

        Raises:
            ConfigurationError: a pooler stands in between, and the URL has no `listen_url`.
            psycopg.Error: the server cannot be reached.
        """
        if not self._listens(self.look()):
            raise ConfigurationError(
                f"{self.address.place} is behind a pooler, which passes no notifications on; name the "
                f"server itself in the store URL: listen_url=postgresql://host:5432"
            )
        return ChannelSubscription(
            lambda: psycopg.Connection.connect(self.address.listen, autocommit=True),
            channel_name(channel),
            self.address.timeout,
        )

    def _listens(self, found: schema.Facts) -> bool:
        """Whether LISTEN reaches the server's own session."""
        return not found.pooled or self.address.direct

    # --- garbage

    def _due(self, command: Command[Any]) -> bool:
        """Whether it is this command's turn to reap."""
        if type(command) in _READS:
            return False
        self._commands += 1
        if self._commands < REAP_EVERY:
            return False
        self._commands = 0
        return True

    def _reap_some(self) -> None:
        try:
            self.reap(REAP_BATCH)
        except psycopg.Error as failure:
            log.warning("%s: could not reap what has expired: %s", self.address.place, failure)

    async def _areap_some(self, lanes: Lanes) -> None:
        parameters = _REAP.pack([REAP_BATCH, micros(self.clock_offset)])
        try:
            await self._acarry_out(lanes, _REAP, parameters)
        except psycopg.Error as failure:
            if lanes.closed:
                return
            log.warning("%s: could not reap what has expired: %s", self.address.place, failure)

    def reap(self, limit: int = 1000) -> int:
        """Delete at most `limit` expired rows of each table; how many went.

        Raises:
            psycopg.Error: the server did not answer, or refused.
        """
        parameters = _REAP.pack([limit, micros(self.clock_offset)])
        return int(self._carry_out(_REAP, parameters)[1])

    # --- the rest of the contract

    def bind(self, connection: object) -> BoundDriver:
        """A driver that runs its commands inside the transaction that is open on `connection`.

        Args:
            connection: a psycopg connection (blocking or async), a SQLAlchemy Session or Connection
                (or async kin) on psycopg, or Django's connection inside `atomic`, to this database.

        Raises:
            ConfigurationError: it is none of these.
        """
        return BoundDriver(connection, self)

    def explain(self, failure: psycopg.Error) -> None:
        """Raise what a person can act on, if this error of the server asks for one.

        Raises:
            ConfigurationError: the schema is missing, or out of this role's reach.
        """
        if isinstance(failure, _MISSING):
            self._facts = None
            raise schema.missing_functions(self.address, failure) from failure
        if isinstance(failure, errors.InsufficientPrivilege):
            raise schema.missing_rights(self.address, failure) from failure

    def classify(self, failure: Exception) -> type[StoreError]:
        """What a raised error means: an error of the server's own has rolled its command back."""
        if isinstance(failure, WrongRecord):
            return RecordError
        if isinstance(failure, Unanswered):
            return OutcomeUnknown
        if isinstance(failure, errors.SerializationFailure | errors.DeadlockDetected):
            return Conflict
        return StoreUnavailable

    def answered(self, failure: Exception) -> bool:
        """Whether the error is the server's own word, or the end of a connection that it had accepted.

        One broken connection fails every command that was under way on it, which says nothing about
        the next connection.
        """
        if isinstance(failure, psycopg.Error) and failure.sqlstate is None:
            return isinstance(failure, CutOff)
        return True

    def advice(self, failure: Exception) -> str:
        """What a raised error means in plain words and what to do next, empty if it says so itself."""
        for kinds, advice in _ADVICE:
            if isinstance(failure, kinds):
                return advice
        return ""

    def close(self) -> None:
        """Close the connections of threads, and those of event loops that have ended or not."""
        self._pool.close()
        self._listener.close()
        for loop in tuple(self._lanes):
            self._leave(loop)

    async def aclose(self) -> None:
        """Close what belongs to this event loop, and what idles; other loops and threads go on."""
        loop = asyncio.get_running_loop()
        if (lanes := self._lanes.pop(loop, None)) is not None:
            lanes.close()
        if (listener := self._listeners.pop(loop, None)) is not None:
            listener.close()
        self._pool.drain()
        self._listener.drain()

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what belongs to an event loop, from wherever this is called."""
        lanes, listener = self._lanes.pop(loop, None), self._listeners.pop(loop, None)
        for owned in (lanes, listener):
            if owned is None:
                continue
            if loop.is_running():
                loop.call_soon_threadsafe(owned.close)
            else:
                owned.close()


def _whole(seconds: float) -> int:
    """Libpq counts whole seconds, and no fewer than two."""
    return max(2, round(seconds))


def _clearer(failure: psycopg.OperationalError, address: Address) -> psycopg.OperationalError:
    text = str(failure)
    if "expected authentication request" in text or "invalid response to SSL" in text:
        return Unsent(f"what answers at {address.place} is not PostgreSQL: {text}")
    return failure
