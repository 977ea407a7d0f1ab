"""Connections that break at every point of an exchange, for drivers with a network in between.

For each command of the vocabulary and each fault: what was acknowledged is there, what was refused did not
happen, what is unknown happened once or not at all, and the store is usable afterwards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from anypod import commands as c
from anypod.errors import OutcomeUnknown, StoreError, StoreUnavailable
from anypod.stores import Store
from anypod.stores.conformance.ground import Opener, fresh, in_threads
from anypod.testing import Fault, FaultProxy

Token: TypeAlias = int  # whatever the last step of a preparation answered

LONG: Final = 3_600.0
POLICY: Final = c.Policy(c.Algorithm.GCRA, limit=10, period=36_000.0, burst=10)

EXECUTED: Final = {
    *(Fault.BEFORE_REPLY, Fault.INSIDE_REPLY, Fault.HALF_CLOSE, Fault.SILENCE, Fault.LATE_REPLY)
}
NOT_EXECUTED: Final = {Fault.BEFORE_REQUEST, Fault.INSIDE_REQUEST}
OVERDUE: Final = (Fault.SILENCE, Fault.LATE_REQUEST, Fault.LATE_REPLY)  # past the time limits
SHORT_DELAY: Final = 0.01  # seconds, within every time limit
LONG_DELAY: Final = 1.5  # past them
PATIENCE: Final = 60.0  # seconds until what is late is over


def _no_preparation(store: Store, key: str) -> Token:  # noqa: ARG001
    return 0


@dataclass(frozen=True, slots=True)
class Case:
    """One command, what is there before it, and how to see whether it happened."""

    command: Callable[[str, Token], c.Command[Any]]
    probe: Callable[[Store, str], Any]
    prepare: Callable[[Store, str], Token] = field(default=_no_preparation)


def _value(store: Store, key: str) -> Any:
    found = store.execute(c.Get(key))
    return found and found.value


def _total(store: Store, key: str) -> Any:
    return store.execute(c.Total(key))


def _claim_state(store: Store, key: str) -> Any:
    found = store.execute(c.Claim(key, "f", LONG, LONG))
    return found.status, found.attempt, found.outcome, found.wait > 1.5 * LONG


def _document(store: Store, key: str) -> Any:
    while True:
        found = store.execute(c.ReadDocument(key))
        outcome = store.execute(c.PatchDocument(key, {"probe": b""})).outcome
        # The server may still execute a command whose reply was lost: between the two questions too.
        if (found is None) == (outcome is not c.PatchOutcome.PATCHED):
            return found and found.fields, outcome


def _cached(store: Store, key: str) -> Any:
    found = store.execute(c.CacheRead(key, "s", 0.0))
    return found.payload, found.lease_left > 0


def _version(store: Store, key: str) -> Any:
    return store.execute(c.CacheRead(key, "s", 0.0)).version > 0


def _limit(store: Store, key: str) -> Any:
    return [quota.remaining for quota in store.execute(c.Take(key, (POLICY,), 0)).quotas]


def _slots(store: Store, key: str) -> Any:
    waited = store.execute(c.Withdraw(key, "second"))
    return waited, store.execute(c.Acquire(key, "probe", LONG, limit=99)).held


def _put(store: Store, key: str) -> Token:
    store.execute(c.Put(key, b"before"))
    return 0


def _claim(store: Store, key: str) -> Token:
    return store.execute(c.Claim(key, "f", LONG, LONG)).token


def _create(store: Store, key: str) -> Token:
    fields = {"a": b"1"}
    store.execute(c.PatchDocument(key, fields, existence=c.Existence.NEW, idle=10, absolute=LONG))
    return 0


def _lease(store: Store, key: str) -> Token:
    lease = store.execute(c.CacheRead(key, "s", LONG)).lease
    assert lease is not None
    return lease


def _fill(store: Store, key: str) -> Token:
    store.execute(c.CacheFill(key, None, "s", b"before", LONG, LONG))
    return 0


def _hold(store: Store, key: str) -> Token:
    token = store.execute(c.Acquire(key, "first", LONG)).token
    assert token is not None
    return token


def _queue(store: Store, key: str) -> Token:
    token = _hold(store, key)
    store.execute(c.Acquire(key, "second", LONG, patience=LONG))
    return token


CASES: Final = (
    Case(lambda k, _: c.Get(k), _value, _put),
    Case(lambda k, _: c.Put(k, b"after"), _value, _put),
    Case(lambda k, _: c.Put(k, None), _value, _put),
    Case(lambda k, _: c.Scan(k), _value, _put),
    Case(lambda k, _: c.Add(k), _total),
    Case(lambda k, _: c.Add(k, ceiling=5, ttl=LONG), _total),
    Case(lambda k, _: c.Add(k, once="o"), _total),
    Case(lambda k, _: c.Total(k), _total),
    Case(lambda k, _: c.Claim(k, "f", LONG, LONG), _claim_state),
    Case(lambda k, t: c.Renew(k, t, 2 * LONG), _claim_state, _claim),
    Case(lambda k, t: c.Complete(k, t, b"done", LONG), _claim_state, _claim),
    Case(c.Abandon, _claim_state, _claim),
    Case(lambda k, _: c.Inspect(k), _claim_state, _claim),
    Case(lambda k, _: c.ReadDocument(k), _document, _create),
    Case(lambda k, _: c.ReadDocument(k, touch=LONG), _document, _create),
    Case(lambda k, _: c.PatchDocument(k, {"b": b"2"}, ("a",)), _document, _create),
    Case(lambda k, _: c.EndDocument(k, LONG), _document, _create),
    Case(lambda k, _: c.CacheRead(k, "s", LONG), _cached),
    Case(lambda k, _: c.CacheRead(k, "s", 0.0), _cached, _fill),
    Case(lambda k, t: c.CacheFill(k, t, "s", b"new", LONG, LONG), _cached, _lease),
    Case(lambda k, _: c.CacheInvalidate(k), _cached, _fill),
    Case(lambda k, _: c.CacheVersion(k, LONG), _version),
    Case(c.CacheRelease, _cached, _lease),
    Case(lambda k, _: c.Take(k, (POLICY,), 3), _limit),
    Case(lambda k, _: c.TakeAll(k, ((k, (POLICY,)), (f"{{{k}}}", (POLICY,))), 3), _limit),
    Case(lambda k, _: c.Acquire(k, "first", LONG), _slots),
    Case(lambda k, _: c.Acquire(k, "second", LONG, patience=LONG), _slots, _hold),
    Case(c.Release, _slots, _queue),
    Case(lambda k, _: c.Withdraw(k, "second"), _slots, _queue),
    Case(lambda k, _: c.Publish(k, b"message"), _value),
)


def verify_faults(
    direct: Opener, through: Callable[[FaultProxy], Store], upstream: tuple[str, int]
) -> None:
    """Hold a networked driver against its promises about exchanges that fail.

    Args:
        direct: opens the store without a proxy.
        through: opens it through this one, with time limits of about a second.
        upstream: host and port of the server.

    Raises:
        AssertionError: the driver breaks a promise; the message says which, on which command.
    """
    with FaultProxy(*upstream) as proxy, direct() as truth, asyncio.Runner() as runner:
        store = through(proxy)
        crew = [through(proxy) for _ in CASES]
        try:
            for case in CASES:
                _count(case, store, truth, proxy, runner)
                for fault in Fault:
                    if fault is not Fault.SILENCE:
                        _fail(case, fault, store, truth, proxy, None)
                        _fail(case, fault, store, truth, proxy, runner)
            for fault in OVERDUE:
                _overdue(fault, crew, truth, proxy)
                _overdue_together(fault, store, truth, proxy, runner)
            _recover(store, proxy, runner)
        finally:
            for one in crew:
                one.close()
            runner.run(store.aclose())


def _run(store: Store, command: c.Command[Any], runner: asyncio.Runner | None) -> Any:
    return store.execute(command) if runner is None else runner.run(store.aexecute(command))


def _attempt(store: Store, command: c.Command[Any], runner: asyncio.Runner | None = None) -> Any:
    """The reply, or what the store said about a failure."""
    try:
        return _run(store, command, runner)
    except StoreError as failure:
        return failure


def _count(
    case: Case, store: Store, truth: Store, proxy: FaultProxy, runner: asyncio.Runner
) -> None:
    """A command is one exchange, once its script or statement is known."""
    for way in (None, runner):
        key = fresh("warm")
        _run(store, case.command(key, case.prepare(truth, key)), way)
        key = fresh("counted")
        command = case.command(key, case.prepare(truth, key))
        before = proxy.exchanges
        _run(store, command, way)
        count = proxy.exchanges - before
        assert count == 1, f"{command!r} took {count} exchanges"


class _Trial:
    """A case that is about to fail: the states before it and after it, and its command."""

    def __init__(self, case: Case, truth: Store) -> None:
        undone, done, self._key = (fresh("fault") for _ in range(3))
        case.prepare(truth, undone)
        truth.execute(case.command(done, case.prepare(truth, done)))
        self._case = case
        self._truth = truth
        self._before = case.probe(truth, undone)
        self._after = case.probe(truth, done)
        self.command = case.command(self._key, case.prepare(truth, self._key))

    def judge(self, fault: Fault, reply: Any, way: str, *, alone: bool = True) -> None:
        """Hold what was said against what is there.

        Args:
            fault: what happened to the exchange.
            reply: what was said.
            way: for people.
            alone: whether the exchange was this command's alone, so that its fate is the command's.
        """
        if isinstance(reply, OutcomeUnknown):
            allowed = [self._before, self._after]
            if alone and fault in EXECUTED:
                allowed = [self._after]
            elif alone and fault in NOT_EXECUTED:
                allowed = [self._before]
        elif isinstance(reply, StoreUnavailable):
            allowed = [self._before]
        else:
            allowed = [self._after]
        found = self._case.probe(self._truth, self._key)
        assert found in allowed, (
            f"{self.command!r} ({way}): {fault.value}: {reply!r}, and then {found!r} instead of {allowed!r}"
        )


def _fail(
    case: Case,
    fault: Fault,
    store: Store,
    truth: Store,
    proxy: FaultProxy,
    runner: asyncio.Runner | None,
) -> None:
    trial = _Trial(case, truth)
    way = "sync" if runner is None else "async"
    _run(store, c.Total(fresh("warm")), runner)
    proxy.inject(fault, delay=SHORT_DELAY)
    trial.judge(fault, _attempt(store, trial.command, runner), way)
    _wait_until_usable(store, runner, f"{trial.command!r} ({way}): {fault.value}")


def _overdue(fault: Fault, crew: list[Store], truth: Store, proxy: FaultProxy) -> None:
    """Nothing comes within the time limits: all cases at once, each on a connection of its own."""
    trials = [_Trial(case, truth) for case in CASES]
    for store in crew:
        store.execute(c.Total(fresh("warm")))
    proxy.inject(fault, len(trials), delay=LONG_DELAY)
    commands = [trial.command for trial in trials]
    replies = in_threads([partial(_attempt, *one) for one in zip(crew, commands, strict=True)])
    _settle(proxy, None)
    for trial, reply in zip(trials, replies, strict=True):
        trial.judge(fault, reply, "sync")
    assert [store.execute(c.Total(fresh("usable"))) for store in crew] == [0] * len(crew)


def _overdue_together(
    fault: Fault, store: Store, truth: Store, proxy: FaultProxy, runner: asyncio.Runner
) -> None:
    """Nothing comes within the time limits: all cases at once, as one event loop's tasks."""
    trials = [_Trial(case, truth) for case in CASES]

    async def attempts() -> list[Any]:
        return await asyncio.gather(
            *(store.aexecute(trial.command) for trial in trials), return_exceptions=True
        )

    runner.run(store.aexecute(c.Total(fresh("warm"))))
    proxy.inject(fault, len(trials), delay=LONG_DELAY)
    replies = runner.run(attempts())
    _settle(proxy, runner)
    for trial, reply in zip(trials, replies, strict=True):
        trial.judge(fault, reply, "async", alone=False)
    _wait_until_usable(store, runner, fault.value)


def _wait_until_usable(store: Store, runner: asyncio.Runner | None, after: str) -> None:
    """Failures may have made the store careful for a while, and a busy machine may be late to connect."""
    end = time.monotonic() + PATIENCE
    while (reply := _attempt(store, c.Total(fresh("usable")), runner)) != 0:
        assert time.monotonic() < end, f"{after}: unusable afterwards: {reply!r}"
        _run_for(0.02, runner)


def _run_for(seconds: float, runner: asyncio.Runner | None) -> None:
    """Between two looks: a connection is closed by its own event loop."""
    if runner is None:
        time.sleep(seconds)
    else:
        runner.run(asyncio.sleep(seconds))


def _settle(proxy: FaultProxy, runner: asyncio.Runner | None) -> None:
    """Wait until what is late has happened."""
    proxy.heal()
    end = time.monotonic() + PATIENCE
    while proxy.late:
        assert time.monotonic() < end, "a late exchange never ended"
        _run_for(0.005, runner)


def _recover(store: Store, proxy: FaultProxy, runner: asyncio.Runner) -> None:
    """A store that went away and came back is used again by itself."""
    for way in (None, runner):
        key = fresh("counter")
        _run(store, c.Add(key), way)
        proxy.cut()  # between two commands: noticed before the connection is used
        assert _run(store, c.Add(key), way).value == 2
        proxy.refuse()
        for _ in range(3):
            try:
                _run(store, c.Add(key), way)
            except StoreUnavailable:
                continue
            raise AssertionError("a command was answered while the store was away")
        proxy.allow()
        assert _run(store, c.Add(key), way).value == 3, "a refused command was executed"
