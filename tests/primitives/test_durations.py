"""What cannot be an argument is refused at the call, before anything was sent, by an error that names the
primitive, the argument and the remedy. What is true of the engines themselves stands in `test_bad_input.py`.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from anypod import ConfigurationError, LocalCache, State
from anypod.observe import Event
from anypod.primitives.within import purge

pytestmark = pytest.mark.quick

NO_DURATION = [
    math.nan,
    math.inf,
    -math.inf,
    -1.0,
    -1,
    True,
    "5",
    b"5",
    [5],
    timedelta(seconds=5),
    10**5_000,
    1e300,
]

NO_WAIT = [value for value in NO_DURATION if value != math.inf]  # which is one

Make = Callable[[State, Any], object]

# Where a duration is a promise that the primitive is made with: above 0.
OPTIONS: dict[str, tuple[str, Make]] = {
    "counter ttl": ("counter 'it': ttl", lambda s, v: s.counter("it", ttl=v)),
    "counter window": ("counter 'it': window", lambda s, v: s.counter("it", window=v)),
    "buffered every": (
        "buffered counter 'it': every",
        lambda s, v: s.counter("it").buffered(every=v),
    ),
    "map ttl": ("map 'it': ttl", lambda s, v: s.map("it", ttl=v)),
    "lock lease": ("lock 'it': lease", lambda s, v: s.lock("it", lease=v)),
    "slots lease": ("lock 'it': lease", lambda s, v: s.slots("it", 2, lease=v)),
    "session idle": ("session 'it': idle", lambda s, v: s.session("it", idle=v)),
    "session absolute": ("session 'it': absolute", lambda s, v: s.session("it", absolute=v)),
    "session grace": ("session 'it': grace", lambda s, v: s.session("it", grace=v)),
    "idempotency lease": ("idempotency 'it': lease", lambda s, v: s.idempotency("it", lease=v)),
    "idempotency ttl": ("idempotency 'it': ttl", lambda s, v: s.idempotency("it", ttl=v)),
    "within lock_timeout": (
        "idempotency 'it': lock_timeout",
        lambda s, v: s.idempotency("it").within(sqlite3.connect(":memory:"), lock_timeout=v),
    ),
    "cache ttl": ("cache 'it': ttl", lambda s, v: s.cache("it", ttl=v)),
    "cache lease": ("cache 'it': lease", lambda s, v: s.cache("it", ttl=1.0, lease=v)),
    "local cache ttl": ("cache 'it': ttl", lambda s, v: LocalCache("it", ttl=v)),
}

# Where 0 says something: no wait, nothing stale.
FROM_ZERO: dict[str, tuple[str, Make]] = {
    "cache stale": ("cache 'it': stale", lambda s, v: s.cache("it", ttl=1.0, stale=v)),
    "cache wait": ("cache 'it': wait", lambda s, v: s.cache("it", ttl=1.0, wait=v)),
    "once wait": (
        "idempotency 'it': wait",
        lambda s, v: s.idempotency("it").once(key=str, wait=v),
    ),
    "purge": (r"purge\(\): older_than", lambda s, v: purge(sqlite3.connect(":memory:"), v)),
}


def enter(block: Any) -> None:
    with block:
        raise AssertionError("entered")


def aenter(block: Any) -> None:
    async def entered() -> None:
        async with block:
            raise AssertionError("entered")

    asyncio.run(asyncio.wait_for(entered(), 60.0))


def complete(state: State, ttl: Any) -> None:
    with state.idempotency("it").claim(uuid.uuid4()) as attempt:
        try:
            attempt.complete("done", ttl=ttl)
        finally:
            assert not attempt.settled, "the caller may still complete it"
            attempt.complete("done")


# Waits of a call: 0 does not wait.
WAITS: dict[str, tuple[str, Make]] = {
    "lock": ("lock 'it': wait", lambda s, v: enter(s.lock("it").acquire(wait=v))),
    "lock, awaiting": ("lock 'it': wait", lambda s, v: aenter(s.lock("it").aacquire(wait=v))),
    "slots": ("lock 'it': wait", lambda s, v: enter(s.slots("it", 1).acquire(wait=v))),
    "claim": (
        "idempotency 'it': wait",
        lambda s, v: enter(s.idempotency("it").claim("key", wait=v)),
    ),
    "claim, awaiting": (
        "idempotency 'it': wait",
        lambda s, v: aenter(s.idempotency("it").aclaim("key", wait=v)),
    ),
}
LIVES: dict[str, tuple[str, Make]] = {
    "complete": ("idempotency 'it': ttl", complete),
    "cache put": ("cache 'it': ttl", lambda s, v: s.cache("it", ttl=1.0).put("key", 1, ttl=v)),
    "cache load": (
        "cache 'it': ttl",
        lambda s, v: s.cache("it", ttl=1.0).get_or_load("key", lambda: 1, ttl=v),
    ),
    "local cache put": (
        "cache 'it': ttl",
        lambda s, v: LocalCache("it", ttl=1.0).put("key", 1, ttl=v),
    ),
}


@pytest.fixture
def state() -> Iterator[State]:
    with State("memory://", namespace="") as state:
        yield state


@pytest.mark.parametrize("what", OPTIONS)
def test_an_option_that_is_no_duration(state: State, what: str) -> None:
    names, make = OPTIONS[what]
    for value in [*NO_DURATION, 0, 0.0]:
        with pytest.raises(ConfigurationError, match=f"^{names}.*seconds.*; ") as refusal:
            make(state, value)
        assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("what", FROM_ZERO)
def test_an_option_that_may_be_zero_but_is_no_duration(state: State, what: str) -> None:
    names, make = FROM_ZERO[what]
    for value in NO_DURATION:
        with pytest.raises(ConfigurationError, match=f"^{names}.*seconds.*; "):
            make(state, value)


@pytest.mark.parametrize("what", WAITS)
def test_a_wait_that_is_no_duration(state: State, what: str) -> None:
    """NaN used to wait for ever."""
    names, call = WAITS[what]
    told: list[Event] = []
    state.observe(told.append)
    for value in NO_WAIT:
        with pytest.raises(ValueError, match=f"^{names}.*seconds.*; "):
            call(state, value)
    assert told == [], "nothing was sent"


@pytest.mark.parametrize("what", LIVES)
def test_a_life_that_is_no_duration(state: State, what: str) -> None:
    """`complete(ttl=-1)` used to forget the outcome at once."""
    names, call = LIVES[what]
    for value in [*NO_DURATION, 0, 0.0]:
        with pytest.raises(ValueError, match=f"^{names} must be seconds.*; "):
            call(state, value)


def test_what_is_a_duration_passes(state: State) -> None:
    for seconds in (1, 0.5, 36_600 * 86_400):
        for names, make in OPTIONS.values():
            if not names.endswith("lock_timeout"):
                make(state, seconds)
    with state.lock("it").acquire(wait=0), state.slots("other", 1).acquire(wait=3):
        pass
    with state.idempotency("it").claim("key", wait=0) as attempt:
        attempt.complete(1, ttl=5)


# --- idempotency


@pytest.mark.parametrize("key", [None, "", b"", ()], ids=repr)
def test_a_claim_without_a_key(state: State, key: Any) -> None:
    """All requests without a key used to be one and the same operation."""
    orders = state.idempotency("it")
    for call in (
        lambda: enter(orders.claim(key)),
        lambda: aenter(orders.aclaim(key)),
        lambda: orders.explain(key),
        lambda: orders.once(key=lambda: key)(lambda: 1)(),
        lambda: enter(orders.within(sqlite3.connect(":memory:")).claim(key)),
    ):
        with pytest.raises(ValueError, match=r"^idempotency 'it': .*key.*;.*one and the same"):
            call()


@pytest.mark.parametrize("fingerprint", [7, None, b"x", ["a"], True], ids=repr)
def test_a_fingerprint_that_is_no_text(state: State, fingerprint: Any) -> None:
    orders = state.idempotency("it")
    for call in (
        lambda: enter(orders.claim("key", fingerprint)),
        lambda: aenter(orders.aclaim("key", fingerprint)),
        lambda: enter(orders.within(sqlite3.connect(":memory:")).claim("key", fingerprint)),
    ):
        with pytest.raises(TypeError, match=r"^idempotency 'it': a fingerprint must be a str"):
            call()


# --- map


@pytest.mark.parametrize("fence", [0, -1, 1.0, True, "1", math.nan, 2**53], ids=repr)
def test_a_fence_that_is_no_token(state: State, fence: Any) -> None:
    """0 used to write as if no lock had been held."""
    prices = state.map("it")
    for call in (
        lambda: prices.set("pen", 1, fence=fence),
        lambda: asyncio.run(prices.aset("pen", 1, fence=fence)),
    ):
        with pytest.raises(
            ValueError, match=r"^map 'it': fence must be an int from 1 to.*hold\.token"
        ):
            call()
    assert prices.get("pen") is None


@pytest.mark.parametrize("expect", [-1, 1.0, True, "1", math.nan], ids=repr)
def test_an_expectation_that_is_no_version(state: State, expect: Any) -> None:
    prices = state.map("it")
    for call in (
        lambda: prices.set("pen", 1, expect=expect),
        lambda: prices.delete("pen", expect=expect),
    ):
        with pytest.raises(ValueError, match=r"^map 'it': expect must be"):
            call()


@pytest.mark.parametrize("page", [0, -1, 1.0, True, "1", 10**9], ids=repr)
def test_a_page_that_is_none(state: State, page: Any) -> None:
    prices = state.map("it")
    with pytest.raises(ValueError, match=r"^map 'it': page must be an int from 1 to"):
        prices.items(page=page)
    with pytest.raises(ValueError, match=r"^map 'it': page must be an int from 1 to"):
        prices.aitems(page=page)


# --- sessions


@pytest.mark.parametrize("token", [7, b"token", 1.5, ["a"], {}], ids=repr)
def test_a_token_that_is_no_text_opens_nothing(state: State, token: Any) -> None:
    sessions = state.session("it")
    assert sessions.load(token) is None
    assert asyncio.run(sessions.aload(token)) is None


# --- values


def test_values_name_their_primitive(state: State) -> None:
    prices, orders, sessions = state.map("it"), state.idempotency("it"), state.session("it")
    data = state.cache("it", ttl=1.0)
    session = sessions.create()
    session["x"] = {1, 2}

    def completed(value: Any) -> None:
        with orders.claim("key") as attempt:
            attempt.complete(value)

    for call, names in (
        (lambda: prices.set("pen", {1, 2}), "map 'it'"),
        (lambda: prices.update("pen", lambda _: (1, 2)), "map 'it'"),
        (lambda: completed({1, 2}), "idempotency 'it'"),
        (session.save, "session 'it': field 'x'"),
        (lambda: sessions.create(x=(1,)), "session 'it': field 'x'"),
        (lambda: data.put("key", (1, 2)), "cache 'it'"),
    ):
        with pytest.raises(TypeError, match=f"^{names}"):
            call()
    with pytest.raises(ValueError, match=r"^map 'it': .*over the limit"):
        prices.set("pen", "x" * 9_000_000)


def test_a_value_of_another_type_is_not_written(state: State) -> None:
    """It used to be written, and every read of it failed."""
    prices, orders = state.map("it", type=int), state.idempotency("typed", type=int)
    for write in (
        lambda: prices.set("pen", "free"),  # type: ignore[arg-type]
        lambda: prices.update("pen", lambda _: "free"),  # type: ignore[arg-type,return-value]
        lambda: asyncio.run(prices.aset("pen", "free")),  # type: ignore[arg-type]
    ):
        with pytest.raises(
            TypeError, match=r"^map 'it' holds <class 'int'>, and this value is not"
        ):
            write()
    assert prices.get("pen") is None
    with (
        pytest.raises(TypeError, match=r"^idempotency 'typed' holds <class 'int'>"),
        orders.claim("key") as attempt,
    ):
        attempt.complete("free")
    with orders.claim("none") as attempt:
        attempt.complete(None)  # a block that gives nothing, whatever the type is
