"""One connection to the server: commands out, replies in, on libpq's pipeline.

A link does no waiting. `send` queues a command, `flush` says whether bytes are left to send, `receive`
takes in what has arrived and returns what is finished. The blocking pool and the event loop's lanes
both drive it.

Invariants:
    - every command has a synchronization point of its own and is therefore a transaction of its own:
      one command's error touches no other, and its reply is final only once that point has answered;
    - an error that the server reports means that the transaction was rolled back; a connection that
      breaks before the point has answered means that nobody knows (`Unanswered`); what was never
      handed to libpq in full did not execute (`Unsent`);
    - a statement is prepared along with its first execution, not in an exchange of its own.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import ReferenceType, ref

import psycopg
from psycopg import errors, pq

from anypod.stores.postgres.binary import Function, Row

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

Outcome: TypeAlias = Row | psycopg.Error

# What tells that this session does not keep prepared statements, as behind a transaction pooler:
# no such statement, a statement that somebody else has prepared.
NOT_KEPT: Final = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# After these the next command is better off on another connection: a primary that was demoted, a server
# that goes down.
_LEAVE: Final = (errors.ReadOnlySqlTransaction, errors.OperatorIntervention)


class Unsent(psycopg.OperationalError):
    """The command did not reach the server in full: it did not execute."""


class Unanswered(psycopg.OperationalError):
    """The command was sent and its outcome did not come back."""


class CutOff(Unanswered):
    """The connection broke before the outcome came back: the server was there, and may be again."""


class _Flight:
    """A command under way."""

    __slots__ = ("error", "function", "prepares", "reply")

    def __init__(self, function: Function, *, prepares: bool) -> None:
        self.function = function
        self.prepares = prepares  # whether its statement is still being prepared
        self.reply: PGresult | None = None
        self.error: psycopg.Error | None = None


class Link:
    """A connection in pipeline mode, for one user at a time.

    Args:
        connection: an open psycopg connection, which the link takes over; it is not used otherwise.
        prepare: whether this session keeps prepared statements.
    """

    def __init__(self, connection: psycopg.BaseConnection[Any], *, prepare: bool) -> None:
        self.connection = connection  # kept, because it closes the session when it goes
        self.pgconn: PGconn = connection.pgconn
        self.socket = self.pgconn.socket
        self.prepare = prepare
        self.poll = select.poll()
        self.poll.register(self.socket, select.POLLIN)
        self.broken = False  # no longer usable
        self.retired = False  # usable to the end of what is under way
        self._prepared: set[bytes] = set()
        self._flights: deque[_Flight] = deque()
        self.pgconn.nonblocking = 1
        self.pgconn.notice_handler = _noticing(ref(self))
        self.pgconn.enter_pipeline_mode()

    @property
    def busy(self) -> bool:
        """Whether a command is under way."""
        return bool(self._flights)

    def send(self, function: Function, parameters: list[bytes | None]) -> None:
        """Queue one command.

        Raises:
            Unsent: the connection is no longer there.
        """
        pgconn = self.pgconn
        formats = function.formats
        prepares = False
        try:
            if not self.prepare:
                pgconn.send_query_params(function.statement, parameters, None, formats, 1)
            else:
                if function.name not in self._prepared:
                    prepares = True
                    pgconn.send_prepare(function.name, function.statement)
                    self._prepared.add(function.name)
                pgconn.send_query_prepared(function.name, parameters, formats, 1)
            pgconn.pipeline_sync()
        except psycopg.OperationalError as failure:
            self.broken = True
            raise Unsent(str(failure)) from failure
        self._flights.append(_Flight(function, prepares=prepares))

    def flush(self) -> bool:
        """Send what the socket takes; whether bytes are left.

        Raises:
            Unsent: the connection broke before everything was sent.
        """
        try:
            return bool(self.pgconn.flush())
        except psycopg.OperationalError as failure:
            self.broken = True
            raise Unsent(str(failure)) from failure

    def receive(self) -> list[Outcome]:
        """Take in what has arrived; the outcomes of the commands that are finished, in order.

        Never raises: where the connection broke, every command under way has an `Unanswered`.
        """
        pgconn = self.pgconn
        done: list[Outcome] = []
        lost = ""
        ended = False
        try:
            pgconn.consume_input()
        except psycopg.OperationalError as failure:
            lost = str(failure)  # what came before the end may still be read
        while not pgconn.is_busy() and self._flights:
            result = pgconn.get_result()
            if result is not None:
                self._take(result, done)
            elif ended:
                break
            ended = result is None  # one None ends a statement, two say that there is no more
        if lost or self.broken or pgconn.status == pq.ConnStatus.BAD:
            done += self.abort(lost or "the connection was lost")
        return done

    def _take(self, result: PGresult, done: list[Outcome]) -> None:
        flight = self._flights[0]
        status = result.status
        if status == pq.ExecStatus.TUPLES_OK:
            flight.reply = result
        elif status == pq.ExecStatus.PIPELINE_SYNC:
            self._flights.popleft()
            done.append(_outcome(flight))
        elif status == pq.ExecStatus.FATAL_ERROR:
            failure = errors.error_from_result(result)
            if failure.sqlstate is None or failure.diag.severity_nonlocalized in {"FATAL", "PANIC"}:
                # The session is gone; whether a commit came before, it does not say.
                self.broken = True
                flight.error = CutOff(str(failure))
            elif flight.error is None:
                flight.error = failure
                if flight.prepares:
                    self._prepared.discard(flight.function.name)
                if isinstance(failure, NOT_KEPT):
                    self.prepare = False
                elif isinstance(failure, _LEAVE):
                    self.retired = True
        elif status == pq.ExecStatus.COMMAND_OK:
            flight.prepares = False

    def abort(self, reason: str, kind: type[Unanswered] = CutOff) -> list[Outcome]:
        """Give the connection up: an outcome for every command that was under way."""
        self.broken = True
        lost: list[Outcome] = []
        for flight in self._flights:
            known = isinstance(flight.error, Unanswered)
            lost.append(flight.error if known and flight.error else kind(reason))
        self._flights.clear()
        return lost

    def alive(self) -> bool:
        """Whether the server is still there, as far as the socket of an idle connection knows."""
        for _ in range(4):  # a notice, a parameter's new value, then the end
            if self.broken or not self.poll.poll(0):
                return not self.broken
            self.receive()
        return False

    def close(self) -> None:
        """End the session."""
        self.broken = True
        self.pgconn.finish()


def _noticing(link: ReferenceType[Link]) -> Callable[[PGresult], None]:
    """Make a farewell that comes while nothing is under way, which libpq calls a notice, the end."""

    def notice(message: PGresult) -> None:
        severity = message.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        if severity in {b"FATAL", b"PANIC"} and (ended := link()) is not None:
            ended.broken = True  # the end of the stream may take its time

    return notice


def _outcome(flight: _Flight) -> Outcome:
    if flight.error is not None:
        return flight.error
    reply = flight.reply
    if reply is None or reply.ntuples != 1:
        return errors.InternalError(f"{flight.function.name.decode()} answered no row")
    return flight.function.unpack(reply.get_value(0, 0))


def repeatable(failure: psycopg.Error) -> bool:
    """Whether the same command may be sent again: it was rolled back, for reasons that pass."""
    return isinstance(failure, (*NOT_KEPT, errors.SerializationFailure, errors.DeadlockDetected))
