"""A failover loses what its replica had not received, as documented, and nothing else.

A primary and a replica, real servers, while callers work. At some moment the replica stops receiving; what is
acknowledged from then on is at risk. Then the primary is killed and the replica takes its place. The history
must be linearizable when each command at risk may have happened or not. Tokens and versions are larger after
the failover than any before it, also than those that were lost: that is what fencing rests on.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.histories.history import UNKNOWN, Clock, History, Operation, read_history
from tests.histories.verification import overlaps, verify
from tests.histories.worker import STOP, Board, Orders, Worker
from tests.servers import Server, redis_executable, start_redis, valkey_executable, wait_until

from anypod import State
from anypod.commands import Acquired, Claimed, Get, Patched, ReadDocument, Scan, Stored, Total
from anypod.errors import OutcomeUnknown, StoreUnavailable
from anypod.testing import FaultProxy

BEFORE = 1_500  # commands; then the replica stops receiving
AT_RISK = 40  # more; then the primary dies
AFTER = 1_500  # more
PROBES = 10


@dataclass(slots=True)
class Pair:
    """A primary, its replica, and the two lines that can break."""

    primary: Server
    replica: Server
    replication: FaultProxy
    clients: FaultProxy
    namespace: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.clients.port}/0?timeout=0.5"

    def stop_replication(self) -> None:
        """Wait until the replica has what the primary has now, and let it receive no more."""
        with _client(self.primary) as primary, _client(self.replica) as replica:
            there = primary.info("replication")["master_repl_offset"]
            wait_until(
                lambda: replica.info("replication")["slave_repl_offset"] >= there, "replication"
            )
        self.replication.refuse()

    def fail_over(self) -> None:
        """The primary dies, the replica takes its place, and clients find it under the old address."""
        self.clients.refuse()
        self.primary.kill()
        with _client(self.replica) as replica:
            replica.execute_command("REPLICAOF", "NO", "ONE")
        self.clients._upstream = ("127.0.0.1", self.replica.port)
        self.clients.allow()


@contextlib.contextmanager
def _client(server: Server) -> Iterator[Any]:
    with redis.Redis(port=server.port) as client:
        yield client


@pytest.fixture(params=["redis", "valkey"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    program = redis_executable() if request.param == "redis" else valkey_executable()
    with contextlib.ExitStack() as stack:
        primary = start_redis(program, "--repl-diskless-sync-delay", "0")
        stack.callback(primary.stop)
        replication = stack.enter_context(FaultProxy("127.0.0.1", primary.port))
        replica = start_redis(program, "--replicaof", "127.0.0.1", str(replication.port))
        stack.callback(replica.stop)
        clients = stack.enter_context(FaultProxy("127.0.0.1", primary.port))
        with _client(replica) as client:
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up", "the replica"
            )
        yield Pair(primary, replica, replication, clients)


def test_what_was_at_risk_may_be_lost_and_nothing_else(pair: Pair, tmp_path: Path) -> None:
    clock, board = Clock(), Board(tmp_path / "board")
    orders = Orders(
        url=pair.url,
        namespace=pair.namespace,
        folder=str(tmp_path),
        name="w",
        place=1,
        seed=pair.namespace,
        offset=clock.offset,
        threads=3,
        tasks=3,
    )
    with State(pair.url, namespace=pair.namespace) as state, ThreadPoolExecutor(1) as pool:
        probe = state.counter("probe")
        work = pool.submit(Worker(orders).run)

        def reach(commands: int) -> None:
            def there() -> bool:
                if work.done():
                    work.result()
                return board.ended() >= commands

            wait_until(there, f"{commands} commands")

        try:
            reach(BEFORE)
            kept = [probe.increment() for _ in range(PROBES)]
            at_risk = clock.now()
            pair.stop_replication()
            lost = [probe.increment() for _ in range(PROBES)]
            reach(board.ended() + AT_RISK)
            pair.fail_over()
            over = clock.now()
            reach(board.ended() + AFTER)
            wait_until(lambda: _value(probe) is not None, "the new primary")
            assert _value(probe) == kept[-1] < lost[-1], "only what was at risk is lost"
        finally:
            board[0] = STOP
            work.result(60)
    history = read_history(tmp_path)
    assert_nothing_else_is_lost(history, at_risk, over)
    assert_tokens_keep_their_order(history.operations, over)


def _value(counter: Any) -> int | None:
    try:
        return int(counter.value())
    except (StoreUnavailable, OutcomeUnknown):  # a connection to the one before
        return None


def assert_nothing_else_is_lost(history: History, at_risk: int, over: int) -> None:
    """Between the two moments, a command that was acknowledged may have happened or not."""
    operations = []
    risked = 0
    for each in history.operations:
        if each.called < over and (each.returned is None or each.returned >= at_risk):
            risked += each.reply is not UNKNOWN
            if not isinstance(each.command, Get | Total | ReadDocument | Scan):
                operations.append(each if each.reply is UNKNOWN else each.revoked())
        else:
            operations.append(each)
    assert risked >= AT_RISK
    report = verify(History(tuple(operations)))
    assert not report.violations, "\n".join(report.violations)
    assert not report.undecided, "\n".join(report.undecided)
    # Who held a lock when the primary died may have lost it: its token tells, not its deadline.
    for one_primary in (
        tuple(each for each in history.holdings if each.checked < over),
        tuple(each for each in history.holdings if each.since > over),
    ):
        assert one_primary
        assert not overlaps(one_primary)


def assert_tokens_keep_their_order(operations: tuple[Operation, ...], over: int) -> None:
    before: dict[str, int] = {}
    compared = 0
    for each in operations:
        number = _number(each.reply)
        if number and each.called < over:
            before[each.command.key] = max(before.get(each.command.key, 0), number)
    for each in operations:
        number = _number(each.reply)
        if number and each.called >= over and each.command.key in before:
            assert number > before[each.command.key], f"{each} follows {before[each.command.key]}"
            compared += 1
    assert compared >= 50


def _number(reply: Any) -> int:
    """The token or version that a command has made."""
    if isinstance(reply, Acquired | Claimed):
        return reply.token or 0
    if isinstance(reply, Patched):
        return reply.version
    if isinstance(reply, Stored) and reply.written and reply.current is not None:
        return reply.current.version
    return 0
