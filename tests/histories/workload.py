"""What the callers of a history do: real primitives, on few keys, all at once.

A scenario is written once, as a generator of steps on the primitives; threads run it with the blocking
methods and tasks with their asynchronous twins. Which scenario, which key and which argument come next is
drawn from a seed.

Invariants:
    - keys belong to an epoch, and epochs pass, so that the history of one key stays short;
    - what a caller is refused (a limit, a conflict, a lock that others hold, a store that is away) is part
      of the work; anything else ends the worker with a traceback.
"""

from __future__ import annotations

import hashlib
import random
from base64 import urlsafe_b64encode
from collections.abc import Generator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.histories.history import Clock, Holding, Notebook

from anypod import State
from anypod.commands import Acquire, Claim, ClaimStatus, Complete, Put, Release, mailbox
from anypod.errors import AnypodError, ConfigurationError, RecordError
from anypod.primitives.session import Session
from anypod.serializer import Serializer

LEASE = 0.3  # seconds; a pause of a process is longer than this
SHORT_LEASE = 0.02  # seconds; of those who stay away for longer
WINDOW = 0.07  # seconds
SLOTS = 2
WAIT = 0.4  # seconds that a caller waits for a lock or for somebody's outcome
FOREVER = 86_400.0
PACKED = Serializer[str]().encode("zombie")


@dataclass(frozen=True, slots=True)
class Do:
    """Call a method of a primitive, or its twin."""

    target: Any
    method: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    enters: bool = False  # it is a context manager, and stays entered to the end of the scenario
    walks: bool = False  # it is an iterator, and is walked to its end


Scenario: TypeAlias = Generator[Do, Any, None]


def do(target: Any, method: str, *arguments: Any, **options: Any) -> Do:
    return Do(target, method, arguments, tuple(options.items()))


def enter(target: Any, method: str, *arguments: Any, **options: Any) -> Do:
    return Do(target, method, arguments, tuple(options.items()), enters=True)


def walk(target: Any, method: str, *arguments: Any, **options: Any) -> Do:
    return Do(target, method, arguments, tuple(options.items()), walks=True)


class Primitives:
    """The primitives of one process, on a store that records."""

    def __init__(self, state: State, notebook: Notebook, clock: Clock) -> None:
        self.state = state
        self.store = state.store
        self.counter = state.counter("plain")
        self.bounded = state.counter("bounded", floor=0, ceiling=5)
        self.windowed = state.counter("windowed", window=WINDOW)
        self.map = state.map("plain")
        self.guarded = state.map("guarded")
        self.lock = state.lock("lock", lease=LEASE)
        self.slots = state.slots("slots", SLOTS, lease=LEASE)
        self.slots_used = state.counter("used")
        # Redis walks over all that it holds, whoever put it there.
        self.page = 1_000 if state.store.driver.name in ("redis", "valkey") else 2
        self.claims = state.idempotency("claims", lease=LEASE, ttl=FOREVER)
        self.sessions = state.session("session", idle=FOREVER, absolute=FOREVER, grace=3_600.0)
        self.notebook = notebook
        self.clock = clock


class Caller:
    """One thread's or task's way through the work.

    Args:
        primitives: of its process.
        seed: decides what it does.
    """

    def __init__(self, primitives: Primitives, seed: str) -> None:
        self._primitives = primitives
        self._random = random.Random(seed)
        self._seed = seed
        self._number = 0

    def scenario(self, epoch: int) -> Scenario:
        """The next thing to do, on the keys of the epoch."""
        self._number += 1
        chosen = self._random.choice(
            (
                self._count,
                self._count_once,
                self._bounded,
                self._windowed,
                self._write,
                self._update,
                self._walk,
                self._locked,
                self._slot,
                self._claimed,
                self._session,
                self._session,
                self._zombie_holder,
                self._zombie_claimant,
            )
        )
        return chosen((epoch, self._random.choice((0, 0, 0, 1))))

    def _count(self, key: tuple[int, int]) -> Scenario:
        yield do(self._primitives.counter, "increment", key, by=self._random.choice((1, 1, 2, -1)))
        yield do(self._primitives.counter, "value", key)

    def _count_once(self, key: tuple[int, int]) -> Scenario:
        once = self._random.randrange(6)  # others use it too, and some with another step
        by = self._random.choice((1, 1, 1, 2))
        yield do(self._primitives.counter, "increment", ("once", *key), by=by, once=once)

    def _bounded(self, key: tuple[int, int]) -> Scenario:
        yield do(self._primitives.bounded, "increment", key, by=self._random.choice((1, 1, -1)))

    def _windowed(self, key: tuple[int, int]) -> Scenario:
        for _ in range(1 + self._random.randrange(3)):
            yield do(self._primitives.windowed, "increment", key)
        yield do(self._primitives.windowed, "value", key)

    def _walk(self, key: tuple[int, int]) -> Scenario:
        """Walk over a few values while others come and go."""
        values = self._primitives.state.map(f"walked-{key[0]}")
        for _ in range(self._random.randrange(4)):
            which = self._random.randrange(6)
            if self._random.randrange(3):
                yield do(values, "set", which, f"{self._seed} {self._number}")
            else:
                yield do(values, "delete", which)
        yield walk(values, "items", page=self._primitives.page)

    def _slot(self, key: tuple[int, int]) -> Scenario:
        wait = self._random.choice((0.0, WAIT))
        hold = yield enter(self._primitives.slots, "acquire", key, wait=wait)
        for _ in range(self._random.randrange(6)):
            hold.check()
            yield do(self._primitives.slots_used, "increment", key)

    def _write(self, key: tuple[int, int]) -> Scenario:
        values = self._primitives.map
        what = self._random.randrange(4)
        if what == 0:
            yield do(values, "set", key, f"{self._seed} {self._number}")
            yield do(values, "get", key)
            return
        entry = yield do(values, "entry", key)
        expect = 0 if entry is None else entry.version
        if what == 1 and entry is not None:
            yield do(values, "delete", key, expect=expect)
        else:
            yield do(values, "set", key, f"{self._seed} {self._number}", expect=expect)

    def _update(self, key: tuple[int, int]) -> Scenario:
        yield do(self._primitives.map, "update", ("sum", *key), lambda old: (old or 0) + 1)

    def _locked(self, key: tuple[int, int]) -> Scenario:
        hold = yield enter(self._primitives.lock, "acquire", key, wait=WAIT)
        self._sure(hold, None)
        since = self._primitives.clock.now()
        yield do(self._primitives.guarded, "set", key, f"{self._number}", fence=hold.token)
        for _ in range(self._random.randrange(4)):
            self._sure(hold, since)
            yield do(self._primitives.guarded, "entry", key)
        self._sure(hold, since)

    def _sure(self, hold: Any, since: int | None) -> None:
        """Note that the holder is sure of its lock; raises `LeaseLost` if it is not."""
        now = self._primitives.clock.now()
        hold.check()
        if since is not None:
            holding = Holding(hold._address, hold.token, since, now)
            self._primitives.notebook.held(holding)

    def _claimed(self, key: tuple[int, int]) -> Scenario:
        operation = (*key, self._random.randrange(6))
        fingerprint = self._random.choice(("same", "same", "same", "other"))
        wait = self._random.choice((0.0, WAIT))
        attempt = yield enter(self._primitives.claims, "claim", operation, fingerprint, wait=wait)
        if attempt.replayed:
            return
        yield do(self._primitives.map, "set", ("work", *operation), attempt.token)
        if self._random.randrange(4):
            yield do(attempt, "complete", attempt.token)
        else:
            yield do(attempt, "abandon")

    def _zombie_holder(self, key: tuple[int, int]) -> Scenario:
        """Hold the lock past its lease without a sign of life, and write and release all the same."""
        store, lock, guarded = (
            self._primitives.store,
            self._primitives.lock._address(key),
            self._primitives.guarded._address(key),
        )
        waiter = f"{self._seed} {self._number}"
        asked = yield do(store, "execute", Acquire(lock, waiter, SHORT_LEASE))
        if asked.token is None:
            return
        yield do(store, "receive", mailbox(lock, waiter), 1.5 * SHORT_LEASE)
        yield do(store, "execute", Put(guarded, PACKED, fence=asked.token))
        yield do(store, "execute", Release(lock, asked.token))

    def _zombie_claimant(self, key: tuple[int, int]) -> Scenario:
        """Carry an operation out past the lease, and complete it all the same."""
        store = self._primitives.store
        claim = self._primitives.claims.address((*key, self._random.randrange(4)))
        asked = yield do(store, "execute", Claim(claim, "same", SHORT_LEASE, FOREVER))
        if asked.status is not ClaimStatus.GRANTED:
            return
        yield do(store, "receive", mailbox(claim, self._seed), 1.5 * SHORT_LEASE)
        yield do(store, "execute", Complete(claim, asked.token, b"v" + PACKED, FOREVER))

    def _session(self, key: tuple[int, int]) -> Scenario:
        token = self._token(key)
        session = yield do(self._primitives.sessions, "load", token)
        if session is None:
            session = Session(self._primitives.sessions, token, fields={}, known=False)
        what = self._random.randrange(12)
        if what == 0 and session.saved:
            yield do(session, "end")
            return
        field = f"field{self._random.randrange(3)}"
        if what < 3 and field in session:
            del session[field]
        else:
            session[field] = [self._seed, self._number]
        yield do(session, "save")

    def _token(self, key: tuple[int, int]) -> str:
        """A token that all callers know. Real ones are random; that is not what is tested here."""
        digest = hashlib.sha512(repr((*key, self._random.randrange(2))).encode()).digest()
        text = urlsafe_b64encode(digest).decode()
        return f"{text[:22]}.{text[22:65]}"


def run_blocking(scenario: Scenario) -> None:
    """Run a scenario with the blocking methods."""
    with ExitStack() as stack:
        reply: Any = None
        while True:
            try:
                step = scenario.send(reply)
            except StopIteration:
                return
            call = getattr(step.target, step.method)
            reply = call(*step.arguments, **dict(step.options))
            if step.enters:
                reply = stack.enter_context(reply)
            elif step.walks:
                reply = list(reply)


async def run_awaiting(scenario: Scenario) -> None:
    """Run a scenario with the asynchronous twins."""
    async with AsyncExitStack() as stack:
        reply: Any = None
        while True:
            try:
                step = scenario.send(reply)
            except StopIteration:
                return
            call = getattr(step.target, f"a{step.method}")
            reply = call(*step.arguments, **dict(step.options))
            if step.walks:
                reply = [each async for each in reply]
            else:
                reply = await (stack.enter_async_context(reply) if step.enters else reply)


def tolerable(failure: AnypodError) -> bool:
    """Whether a caller goes on after this."""
    return not isinstance(failure, ConfigurationError | RecordError)
