"""Generated histories: every reply is held against the executable specification.

The model's clock and the store's are set to the same moment and jump together by whole thousands of
seconds, while every duration is a few thousands of seconds and 300 more. So whether a deadline has passed
never depends on how long the check itself takes.

Versions and tokens are the store's to choose. They are compared by renaming: equal ones in the model must
be equal in the store.
"""

# ruff: noqa: D102  # a rule is named after its command, whose docstring is the contract

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable
from typing import Any, Final, Literal

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct, structs

from anypod import commands as c
from anypod.errors import RecordError
from anypod.stores import Store
from anypod.stores.conformance.ground import Ground, align
from anypod.stores.memory import Records
from anypod.stores.specification import ValueRecord, WrongRecord, execute

TOLERANCE: Final = 60.0  # seconds that a history may take, and that durations may differ by

RENAMED: Final = {"version", "token", "lease"}  # the fields that are the store's to choose

durations: Final = st.sampled_from([1_300.0, 2_300.0, 7_300.0, 30_300.0])
lifetimes: Final = st.none() | durations
payloads: Final = st.sampled_from([b"", b"\x00\xff\r\n", b"one", b"two"]) | st.binary(max_size=40)
names: Final = st.sampled_from(["a", "b", "1", "0", "ä☃", "", "sp ace:#{}", "\x00"])
amounts: Final = st.integers(-5, 5) | st.sampled_from([-c.MAX_INTEGER, c.MAX_INTEGER, 2**52])
back: Final = st.integers(
    0, 4
)  # how many tokens ago; one more than there are is a token of nobody's
keys: Final = st.sampled_from(["1", "1", "2", "common"])  # "common" is used by every kind of record

POLICIES: Final = (
    c.Policy(c.Algorithm.GCRA, limit=10, period=1_000.0, burst=5),
    c.Policy(c.Algorithm.GCRA, limit=7, period=10_000.0, burst=7),
    c.Policy(c.Algorithm.FIXED_WINDOW, limit=5, period=10_000.0, burst=5),
    c.Policy(c.Algorithm.SLIDING_COUNTER, limit=7, period=1_000.0, burst=7),
    c.Policy(c.Algorithm.SLIDING_LOG, limit=6, period=2_300.0, burst=6),
)


KINDS: Final = ("value", "counter", "claim", "document", "cache", "limit", "slots")


def about(kind: str) -> Callable[[Any], bool]:
    """A precondition: this history is about this kind of record, among others."""
    return lambda history: kind in history.kinds


class History(RuleBasedStateMachine):
    """One generated history. `ground` is set on a subclass."""

    ground: Ground

    def __init__(self) -> None:
        super().__init__()
        self.store: Store = self.ground.opener()
        self.shared = self.ground.shared(self.store)
        self.prefix = f"ap:conformance:model:{uuid.uuid4().hex}:"
        self.mode = "sync"
        self.kinds: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.tokens: list[int] = [999]  # the model's, in order of appearance; 999 is nobody's
        self.names: dict[int, int] = {
            0: 0,
            999: 999,
        }  # the model's versions and tokens → the store's
        self.records = Records()
        self.now = round(align(self.store) * 1_000_000)  # the model's clock in µs

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.aclose())
        self.loop.close()

    # --- executing and comparing

    def check(self, command: c.Command[Any], field: str = "") -> None:
        """Execute a command on both sides and compare the replies; `field` if a reply is one itself."""
        self.now += 10  # so that two versions are never the same by chance
        self.records.now = self.now
        expected: Any
        try:
            expected = execute(command, self.records, self.now)
        except WrongRecord:
            expected = WrongRecord
        actual = self.execute(self.translated(command))
        self.compare(expected, actual, f"{command!r} ({self.mode})", field)

    def translated(self, command: c.Command[Any]) -> c.Command[Any]:
        """The command with the model's tokens and versions replaced by the store's."""
        changes = {
            field: self.names[value]
            for field in ("token", "expect", "lease")
            if type(value := getattr(command, field, None)) is int
        }
        return structs.replace(command, **changes)

    def execute(self, command: c.Command[Any]) -> Any:
        try:
            if self.mode == "sync":
                return self.store.execute(command)
            if self.mode == "async":
                return self.loop.run_until_complete(self.store.aexecute(command))
        except RecordError:
            return WrongRecord
        (reply,) = self.store.driver.execute_many([command])
        if isinstance(reply, Exception):
            assert self.store.driver.classify(reply) is RecordError, repr(reply)
            return WrongRecord
        return reply

    def compare(self, expected: Any, actual: Any, where: str, field: str = "") -> None:
        if field in RENAMED and type(expected) is int:
            assert type(actual) is int, f"{where}: {field} is {actual!r}, expected an integer"
            self.rename(expected, actual, where)
        elif isinstance(expected, Struct):
            assert type(actual) is type(expected), f"{where}: {actual!r}, expected {expected!r}"
            for name in expected.__struct_fields__:
                self.compare(getattr(expected, name), getattr(actual, name), where, name)
        elif isinstance(expected, tuple) and isinstance(actual, tuple):
            assert len(actual) == len(expected), f"{where}: {actual!r}, expected {expected!r}"
            for one, other in zip(expected, actual, strict=True):
                self.compare(one, other, where, field)
        elif type(expected) is float:
            close = math.isclose(expected, actual, abs_tol=TOLERANCE)
            assert close, f"{where}: {field} is {actual!r}, expected about {expected!r}"
        else:
            same = type(expected) is type(actual) and expected == actual
            assert same, f"{where}: {field} is {actual!r}, expected {expected!r}"

    def rename(self, expected: int, actual: int, where: str) -> None:
        known = self.names.setdefault(expected, actual)
        assert known == actual, f"{where}: version or token {actual}, expected {known}"
        if expected not in self.tokens and expected:
            self.tokens.append(expected)
            assert abs(actual - self.now) < TOLERANCE * 1e6, (
                f"{where}: version or token {actual} is not the store's clock in µs"
            )

    def token(self, back: int) -> int:
        return self.tokens[max(0, len(self.tokens) - 1 - back)]

    def key(self, kind: str, key: str) -> str:
        return f"{self.prefix}{'x' if key == 'common' else kind}:{key}"

    # --- the rules: one per command

    @initialize(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=2))
    def subject(self, kinds: list[str]) -> None:
        self.kinds = kinds

    @rule(mode=st.sampled_from(["sync", "async", "many"]), reopen=st.booleans())
    def way_of_executing(self, mode: str, reopen: bool) -> None:
        self.mode = mode
        if reopen and self.shared:
            offset = self.store.driver.clock_offset
            self.loop.run_until_complete(self.store.aclose())
            self.store = self.ground.opener()
            self.store.driver.clock_offset = offset

    @rule(seconds=st.sampled_from([1_000, 2_000, 10_000, 100_000]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * 1_000_000
        self.store.driver.clock_offset += seconds

    @rule(seconds=st.sampled_from([1_000, 2_000, 10_000]))
    def more_time_passes(self, seconds: int) -> None:
        self.time_passes(seconds)

    @precondition(about("value"))
    @rule(key=keys)
    def get(self, key: str) -> None:
        self.check(c.Get(self.key("value", key)))

    @precondition(about("value"))
    @rule(
        key=keys,
        value=st.none() | payloads,
        ttl=lifetimes,
        expect=st.sampled_from(["anything", "anything", "nothing", "a version"]),
        n=back,
        fence=st.sampled_from([0, 0, 1, 2, 3]),
    )
    def put(
        self, key: str, value: bytes | None, ttl: float | None, expect: str, n: int, fence: int
    ) -> None:
        version = {"anything": None, "nothing": 0, "a version": self.token(n)}[expect]
        self.check(c.Put(self.key("value", key), value, ttl, version, fence))

    @precondition(about("value"))
    @rule(limit=st.integers(1, 3))
    def scan(self, limit: int) -> None:
        prefix = f"{self.prefix}value:"
        self.records.now = self.now
        expected = {
            key: (record.value, self.names[record.version])
            for key, record in self.records.walk(prefix, "", 1_000)
            if isinstance(record, ValueRecord)
        }
        after: str | None = ""
        met: dict[str, tuple[bytes, int]] = {}
        for _ in range(100_000):
            assert after is not None
            page = self.execute(c.Scan(prefix, after, limit))
            met.update({key: (value.value, value.version) for key, value in page.items})
            after = page.after
            if after is None:
                break
        assert met == expected, f"a walk over {prefix!r} met {met!r}, expected {expected!r}"

    @precondition(about("counter"))
    @rule(
        key=keys,
        by=amounts,
        bounds=st.sampled_from([(-c.MAX_INTEGER, c.MAX_INTEGER), (0, 10), (-3, 4)]),
        ttl=lifetimes | st.just("window"),
        window=st.sampled_from([1_000.0, 10_000.0]),
        once=st.sampled_from([None, None, "first", "zwei ☃"]),
        once_ttl=durations,
    )
    def add(
        self,
        key: str,
        by: int,
        bounds: tuple[int, int],
        ttl: float | Literal["window"] | None,
        window: float,
        once: str | None,
        once_ttl: float,
    ) -> None:
        key = self.key("counter", key)
        if ttl == "window":
            self.check(c.Add(key, by, *bounds, None, once, once_ttl, window))
        else:
            self.check(c.Add(key, by, *bounds, ttl, once, once_ttl))

    @precondition(about("counter"))
    @rule(key=keys)
    def total(self, key: str) -> None:
        self.check(c.Total(self.key("counter", key)))

    @precondition(about("claim"))
    @rule(key=keys, fingerprint=names, lease=durations, ttl=durations)
    def claim(self, key: str, fingerprint: str, lease: float, ttl: float) -> None:
        self.check(c.Claim(self.key("claim", key), fingerprint, lease, ttl))

    @precondition(lambda self: about("claim")(self) or about("slots")(self))
    @rule(key=keys, n=back, lease=durations)
    def renew(self, key: str, n: int, lease: float) -> None:
        for kind in {"claim", "slots"} & set(self.kinds):
            self.check(c.Renew(self.key(kind, key), self.token(n), lease))

    @precondition(about("claim"))
    @rule(key=keys, n=back, outcome=payloads, ttl=durations)
    def complete(self, key: str, n: int, outcome: bytes, ttl: float) -> None:
        self.check(c.Complete(self.key("claim", key), self.token(n), outcome, ttl))

    @precondition(about("claim"))
    @rule(key=keys, n=back)
    def abandon(self, key: str, n: int) -> None:
        self.check(c.Abandon(self.key("claim", key), self.token(n)))

    @precondition(about("claim"))
    @rule(key=keys)
    def inspect(self, key: str) -> None:
        self.check(c.Inspect(self.key("claim", key)))

    @precondition(about("document"))
    @rule(key=keys, touch=lifetimes)
    def read_document(self, key: str, touch: float | None) -> None:
        self.check(c.ReadDocument(self.key("document", key), touch))

    @precondition(about("document"))
    @rule(
        key=keys,
        put=st.dictionaries(names, payloads, max_size=3),
        drop=st.lists(names, max_size=2, unique=True),
        existence=st.sampled_from(c.Existence),
        idle=lifetimes,
        absolute=lifetimes,
    )
    def patch_document(
        self,
        key: str,
        put: dict[str, bytes],
        drop: list[str],
        existence: c.Existence,
        idle: float | None,
        absolute: float | None,
    ) -> None:
        key = self.key("document", key)
        self.check(c.PatchDocument(key, put, tuple(drop), existence, idle, absolute))

    @precondition(about("document"))
    @rule(key=keys, keep=durations)
    def end_document(self, key: str, keep: float) -> None:
        self.check(c.EndDocument(self.key("document", key), keep))

    @precondition(about("cache"))
    @rule(
        key=keys,
        schema=st.sampled_from(["s1", "s2"]),
        lease=durations | st.just(0.0),
        early=st.sampled_from([0.0, 10.0, math.inf]),
    )
    def cache_read(self, key: str, schema: str, lease: float, early: float) -> None:
        self.check(c.CacheRead(self.key("cache", key), schema, lease, early))

    @precondition(about("cache"))
    @rule(
        key=keys,
        n=st.none() | back,
        schema=st.sampled_from(["s1", "s2"]),
        payload=payloads,
        soft=durations,
        extra=st.sampled_from([0.0, 1_000.0, 5_000.0]),
        load_seconds=st.sampled_from([0.0, 1e-6, 0.1, 0.30000000000000004, 2.0]),
    )
    def cache_fill(
        self,
        key: str,
        n: int | None,
        schema: str,
        payload: bytes,
        soft: float,
        extra: float,
        load_seconds: float,
    ) -> None:
        lease = None if n is None else self.token(n)
        key = self.key("cache", key)
        self.check(c.CacheFill(key, lease, schema, payload, soft, soft + extra, load_seconds))

    @precondition(about("cache"))
    @rule(key=keys, keep=durations)
    def cache_invalidate(self, key: str, keep: float) -> None:
        self.check(c.CacheInvalidate(self.key("cache", key), keep), "version")

    @precondition(about("cache"))
    @rule(key=keys, keep=durations)
    def cache_version(self, key: str, keep: float) -> None:
        self.check(c.CacheVersion(self.key("cache", key), keep), "version")

    @precondition(about("cache"))
    @rule(key=keys, n=back)
    def cache_release(self, key: str, n: int) -> None:
        self.check(c.CacheRelease(self.key("cache", key), self.token(n)))

    @precondition(about("limit"))
    @rule(
        key=keys,
        policies=st.lists(st.sampled_from(POLICIES), min_size=1, max_size=3, unique=True),
        cost=st.integers(-3, 8),
    )
    def take(self, key: str, policies: list[c.Policy], cost: int) -> None:
        self.check(c.Take(self.key("limit", key), tuple(policies), cost))

    @precondition(about("limit"))
    @rule(
        policies=st.lists(
            st.lists(st.sampled_from(POLICIES), min_size=1, max_size=2, unique=True),
            min_size=1,
            max_size=3,
        ),
        cost=st.integers(-3, 8),
    )
    def take_all(self, policies: list[list[c.Policy]], cost: int) -> None:
        keys = [self.key("limit", f"{{slot}}{number}") for number in range(len(policies))]
        subjects = tuple((key, tuple(each)) for key, each in zip(keys, policies, strict=True))
        self.check(c.TakeAll(keys[0], subjects, cost))

    @precondition(about("limit"))
    @rule(
        number=st.integers(0, 2),
        policy=st.sampled_from(POLICIES),
        cost=st.integers(-3, 8),
    )
    def take_one_of_them(self, number: int, policy: c.Policy, cost: int) -> None:
        self.check(c.Take(self.key("limit", f"{{slot}}{number}"), (policy,), cost))

    @precondition(about("slots"))
    @rule(
        key=keys,
        waiter=names,
        lease=durations,
        patience=durations | st.just(0.0),
        limit=st.integers(1, 3),
    )
    def acquire(self, key: str, waiter: str, lease: float, patience: float, limit: int) -> None:
        self.check(c.Acquire(self.key("slots", key), waiter, lease, patience, limit))

    @precondition(about("slots"))
    @rule(key=keys, n=back)
    def release(self, key: str, n: int) -> None:
        self.check(c.Release(self.key("slots", key), self.token(n)))

    @precondition(about("slots"))
    @rule(key=keys, waiter=names)
    def withdraw(self, key: str, waiter: str) -> None:
        self.check(c.Withdraw(self.key("slots", key), waiter))

    @precondition(about("limit"))
    @rule(message=payloads)
    def publish(self, message: bytes) -> None:
        self.check(c.Publish(self.prefix + "channel", message))


def histories(ground: Ground) -> None:
    """Replies are the specification's, over generated histories."""
    machine = type("GeneratedHistory", (History,), {"ground": ground})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=ground.examples,
            stateful_step_count=60,
            deadline=None,
            database=None,
            derandomize=True,
            print_blob=False,
            phases=[Phase.generate, Phase.shrink] if ground.shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


CHECKS: Final[tuple[Callable[[Ground], None], ...]] = (histories,)
