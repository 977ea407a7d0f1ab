"""Exactly once: an operation whose effects and whose outcome are one transaction of the application's.

    with engine.connect() as connection:
        with orders.within(connection).claim(key, fingerprint) as attempt:
            if not attempt.replayed:
                connection.execute(insert(...))
                attempt.complete({"id": 7})
        return attempt.outcome

The order of events, and why a kill between any two of them is harmless:

    1. the claim is granted in the store: others see at once that somebody is at work;
    2. the transaction begins and inserts a row (family, key) into `anypod_operations`: whoever comes at
       the same time, because a lease ran out, waits for that row, and gives up after `lock_timeout`;
    3. the handler does its work on the same connection;
    4. `complete` writes the outcome into the row;
    5. COMMIT: work, row and outcome become true together, or not at all;
    6. the claim in the store is completed. If that never happens, the next claim finds the row.

The row is the authority: a holder that lost its lease but commits first is the one that counts, and its
successor answers with that outcome. A row without an outcome is never executed again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from anypod.commands import Abandon, Claimed, ClaimStatus, Complete
from anypod.durations import check_durations, check_spans
from anypod.errors import ConfigurationError, Conflict, InFlight, KeyReused, StoreError
from anypod.flow import Call, Flow, arun, run
from anypod.keys import Key
from anypod.primitives.heartbeat import Heartbeat
from anypod.primitives.idempotency import Attempt
from anypod.primitives.transaction import Transaction, Trouble, transaction_of

if TYPE_CHECKING:
    from anypod.primitives.idempotency import Idempotency

TABLE: Final = """\
CREATE TABLE IF NOT EXISTS anypod_operations (
    operation VARCHAR(600) PRIMARY KEY,
    fingerprint VARCHAR(200) NOT NULL,
    token BIGINT NOT NULL,
    outcome {bytes},
    made {moment} NOT NULL DEFAULT CURRENT_TIMESTAMP
)"""
INSERT: Final = (
    "INSERT INTO anypod_operations (operation, fingerprint, token) VALUES (?, ?, ?) "
    "ON CONFLICT (operation) DO NOTHING RETURNING token"
)
SELECT: Final = "SELECT fingerprint, outcome FROM anypod_operations WHERE operation = ?"
UPDATE: Final = "UPDATE anypod_operations SET outcome = ? WHERE operation = ?"
PURGE: Final = {
    "postgresql": "DELETE FROM anypod_operations WHERE made <= "
    "CURRENT_TIMESTAMP - make_interval(secs => CAST(? AS double precision)) RETURNING 1",
    "sqlite": "DELETE FROM anypod_operations WHERE made <= "
    "datetime('now', '-' || ? || ' seconds') RETURNING 1",
}
TIMEOUT: Final = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', ?, true)"
LONGEST_LOCK: Final = 86_400.0  # seconds; PostgreSQL counts them as ms in 32 bits
LOOKS: Final = 5  # at a row that serialization keeps from sight


def table(dialect: str) -> str:
    """The statement that makes the table, for a migration. `dialect`: "postgresql" or "sqlite"."""
    kinds = {"postgresql": ("BYTEA", "TIMESTAMPTZ"), "sqlite": ("BLOB", "TIMESTAMP")}
    if dialect not in kinds:
        raise ConfigurationError(f"dialect must be postgresql or sqlite, not {dialect!r}")
    payload, moment = kinds[dialect]
    return TABLE.format(bytes=payload, moment=moment)


def purge(connection: Any, older_than: float) -> int:
    """Delete the rows of operations that were begun long ago, in a transaction of its own.

    The row is what makes an operation happen once: keep it for as long as a client, a queue or a person may
    repeat it, and at least for the family's `ttl`.

    Args:
        connection: one that `Idempotency.within` takes, blocking, without an open transaction; Django's
            inside `atomic`.
        older_than: seconds, by the database's clock.

    Returns:
        How many rows were deleted.
    """
    check_spans("purge()", older_than=older_than)
    transaction = transaction_of(connection)
    transaction.begin()
    try:
        rows = transaction.execute(PURGE[transaction.dialect], (f"{older_than:f}",))
    except BaseException:
        transaction.rollback()
        raise
    transaction.commit(lambda: None)
    return len(rows)


class Within:
    """Claims whose work and outcome are one transaction. Made by `Idempotency.within`.

    Args:
        family: the family of operations.
        connection: the application's connection, of psycopg, sqlite3, SQLAlchemy or Django.
        lock_timeout: seconds to wait for another transaction on the same key (PostgreSQL; SQLite waits
            as long as its connection is set to).
    """

    def __init__(self, family: Idempotency, connection: Any, *, lock_timeout: float = 2.0) -> None:
        owner = f"idempotency {family.name!r}"
        check_durations(owner, lock_timeout=lock_timeout)
        if lock_timeout > LONGEST_LOCK:
            raise ConfigurationError(
                f"{owner}: lock_timeout must be at most {LONGEST_LOCK:.0f} s, not {lock_timeout!r}; 2.0 is usual"
            )
        self.family = family
        self.transaction: Transaction = transaction_of(connection)
        self._lock_timeout = lock_timeout

    @contextmanager
    def claim(
        self, key: Key, fingerprint: str = "", *, wait: float = 0.0
    ) -> Iterator[TransactionalAttempt]:
        """Carry out an operation exactly once; the block's end commits.

        An exception that leaves the block rolls everything back, the claim included: nothing has
        happened, and a repetition executes. Arguments and errors are those of `Idempotency.claim`.
        """
        store = self.family.store
        attempt = run(store, self._open(key, fingerprint, wait))
        if attempt.replayed:
            yield attempt
            return
        with Heartbeat(store, attempt.address, attempt.token, self.family.lease):
            try:
                yield attempt
                if not attempt.settled:
                    attempt.complete(None)
            except BaseException as failure:
                run(store, self._undo(attempt, failure))
                raise
            run(store, self._commit(attempt))

    @asynccontextmanager
    async def aclaim(
        self, key: Key, fingerprint: str = "", *, wait: float = 0.0
    ) -> AsyncIterator[TransactionalAttempt]:
        """`claim` as an asynchronous context manager, for an asynchronous connection."""
        store = self.family.store
        attempt = await arun(store, self._open(key, fingerprint, wait))
        if attempt.replayed:
            yield attempt
            return
        async with Heartbeat(store, attempt.address, attempt.token, self.family.lease):
            try:
                yield attempt
                if not attempt.settled:
                    await attempt.acomplete(None)
            except BaseException as failure:
                await arun(store, self._undo(attempt, failure))
                raise
            await arun(store, self._acommit(attempt))

    def _open(self, key: Key, fingerprint: str, wait: float) -> Flow[TransactionalAttempt]:
        address = self.family.address(key)
        claimed: Claimed = yield from self.family.claim_flow(address, fingerprint, wait)
        attempt = TransactionalAttempt(self, address, claimed)
        if claimed.status is ClaimStatus.COMPLETE:
            attempt.replay(claimed.outcome or b"")
            return attempt
        for _ in range(LOOKS):
            try:
                row = yield from self._insert(attempt, fingerprint)
            except BaseException as failure:
                yield Call(self.transaction.rollback)
                trouble = self.transaction.trouble(failure)
                if trouble is Trouble.SERIALIZATION and self.transaction.restarts:
                    continue  # what this transaction cannot see, a new one can
                yield Abandon(attempt.address, attempt.token)
                if trouble is Trouble.LOCKED:
                    raise self._in_flight() from failure
                raise
            if row is None:
                return attempt
            yield Call(self.transaction.leave)
            yield from self._settle_from_row(attempt, fingerprint, row)
            return attempt
        yield Abandon(attempt.address, attempt.token)
        raise Conflict(
            f"idempotency {self.family.name!r}: {LOOKS} transactions in a row could not be serialized with "
            f"others on this key; nothing was done, a retry is safe"
        )

    def _insert(
        self, attempt: TransactionalAttempt, fingerprint: str
    ) -> Flow[tuple[str, bytes | None] | None]:
        """Begin and insert the row; None if that went well, else the row that stands there."""
        transaction = self.transaction
        yield Call(transaction.begin)
        before: list[tuple[str, str]] = []
        if transaction.dialect == "postgresql":
            milliseconds = f"{self._lock_timeout * 1000:.0f}ms"
            before = yield Call(partial(transaction.execute, TIMEOUT, (milliseconds,)))
        values = (attempt.address, fingerprint, attempt.token)
        inserted = yield Call(partial(transaction.execute, INSERT, values))
        if before:
            yield Call(partial(transaction.execute, TIMEOUT, (before[0][0],)))
        if inserted:
            return None
        rows = yield Call(partial(transaction.execute, SELECT, (attempt.address,)))
        if not rows:
            return fingerprint, None  # purged this very moment: as if in flight
        return rows[0][0], None if rows[0][1] is None else bytes(rows[0][1])

    def _settle_from_row(
        self, attempt: TransactionalAttempt, fingerprint: str, row: tuple[str, bytes | None]
    ) -> Flow[None]:
        recorded, outcome = row
        if recorded != fingerprint:
            yield Abandon(attempt.address, attempt.token)
            raise KeyReused(
                f"idempotency {self.family.name!r}: this key belongs to an operation with other "
                f"arguments; a new operation needs a new key"
            )
        if outcome is None:
            yield Abandon(attempt.address, attempt.token)
            raise self._in_flight()
        yield Complete(attempt.address, attempt.token, outcome, self.family.ttl)
        attempt.replay(outcome)

    def _undo(self, attempt: TransactionalAttempt, failure: BaseException) -> Flow[None]:
        yield Call(self.transaction.rollback)
        if isinstance(failure, Exception):
            try:
                yield Abandon(attempt.address, attempt.token)
            except StoreError:
                return  # the lease runs out by itself

    def _commit(self, attempt: TransactionalAttempt) -> Flow[None]:
        if attempt.abandoned:
            yield from self._undo(attempt, Exception())
            return
        store = self.family.store
        yield from self._committing(attempt, lambda: run(store, self._finish(attempt)))

    def _acommit(self, attempt: TransactionalAttempt) -> Flow[None]:
        if attempt.abandoned:
            yield from self._undo(attempt, Exception())
            return
        store = self.family.store
        yield from self._committing(attempt, lambda: arun(store, self._finish(attempt)))

    def _committing(self, attempt: TransactionalAttempt, then: Any) -> Flow[None]:
        try:
            yield Call(partial(self.transaction.commit, then))
        except Exception as failure:
            if self.transaction.trouble(failure) is not None:
                yield from self._undo(
                    attempt, failure
                )  # the database refused: nothing has happened
            raise

    def _finish(self, attempt: TransactionalAttempt) -> Flow[None]:
        """Tell the store. The row has decided already, so nothing that goes wrong here matters."""
        try:
            yield Complete(attempt.address, attempt.token, attempt.stored, self.family.ttl)
        except StoreError:
            return

    def _in_flight(self) -> InFlight:
        return InFlight(
            self._lock_timeout,
            f"idempotency {self.family.name!r}: another transaction is carrying out this operation; try "
            f"again in {self._lock_timeout:g} s",
        )


class TransactionalAttempt(Attempt):
    """One caller's hold on an operation, whose outcome goes into the caller's transaction.

    Attributes:
        abandoned: the block's end will roll back.
        stored: the outcome as it is kept.
    """

    def __init__(self, within: Within, address: str, claimed: Claimed) -> None:
        super().__init__(within.family, address, claimed.token, claimed.attempt)
        self.abandoned = False
        self.stored = b""
        self._transaction = within.transaction

    def _complete(self, stored: bytes, ttl: float | None) -> Flow[None]:  # noqa: ARG002  # rows are purged by age
        self._settle()
        yield Call(partial(self._transaction.execute, UPDATE, (stored, self.address)))
        self.stored = stored

    def _abandon(self) -> Flow[None]:
        self._settle()
        self.abandoned = True
        yield from ()
