"""What cannot work is refused where it is given, and the message names the primitive and the argument."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from anypod import ConfigurationError, State
from anypod.commands import MAX_INTEGER, Put
from anypod.errors import LimitReached, StoreUnavailable
from anypod.observe import Event
from anypod.primitives import buffered, degraded
from anypod.primitives.rate_limit import ahit_all, hit_all

from .test_buffered import eventually

pytestmark = pytest.mark.quick


@pytest.fixture
def state() -> Iterator[State]:
    with State("memory://") as state:
        yield state


def test_an_outcome_that_would_be_forgotten_at_once_is_not_taken(state: State) -> None:
    orders = state.idempotency("orders")
    with orders.claim("a") as attempt:
        for ttl in (-1, 0, math.nan):
            with pytest.raises(ValueError, match="idempotency 'orders': ttl must"):
                attempt.complete("placed", ttl=ttl)
        attempt.complete("placed")
    with orders.claim("a") as again:
        assert again.outcome == "placed"


def test_rates(state: State) -> None:
    for rates, message in (
        ("9" * 5_000 + "/minute", "1,000 characters at most, not 5,007"),
        ("9" * 900 + "/minute", "character 1"),
        (100, "rate limit 'api': rates must be"),
        (["100/minute"], "rate limit 'api': rates must be"),
        ("x/minute", "rate limit 'api', character 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            state.rate_limit("api", rates)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a sliding log remembers each hit"):
        state.rate_limit("api", "20000/hour", algorithm="sliding log")


def test_a_refund_that_fails_does_not_hide_the_refusal(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    degraded._logged.clear()
    told: list[Event] = []
    state.observe(told.append)
    wide, narrow = state.rate_limit("wide", "9/hour"), state.rate_limit("narrow", "1/hour")
    assert narrow.hit("ada").allowed
    execute = state.store.perform
    seen: list[str] = []

    def failing(command: Any) -> Any:
        seen.append(command.key)
        if "narrow" not in command.key and any("narrow" in key for key in seen):
            raise StoreUnavailable("gone")
        return execute(command)

    monkeypatch.setattr(type(state.store), "perform", lambda _, command: failing(command))
    decisions = hit_all((wide, "ada"), (narrow, "ada"))
    assert [each.allowed for each in decisions] == [True, False]
    assert len(seen) == 3
    assert "rate limit 'wide' is degraded to 'no refund'" in caplog.text
    assert [(each.name, each.outcome) for each in told if each.degraded] == [
        ("wide", "StoreUnavailable")
    ]


def test_what_is_of_another_kind(state: State) -> None:
    for message, make in (
        ("counter name 7 must be", lambda: state.counter(7).value()),  # type: ignore[arg-type]
        ("lock name None must be", lambda: state.lock(None).acquire().__enter__()),  # type: ignore[arg-type]
        ("lock 'x': limit must be", lambda: state.slots("x", 10**5_000)),
        ("'x': colocate must be", lambda: state.rate_limit("x", "1/m", colocate=7)),  # type: ignore[arg-type]
        ("'x': overrides must be", lambda: state.rate_limit("x", "1/m", overrides=["a"])),  # type: ignore[arg-type]
        ("cache 'x': schema must be", lambda: state.cache("x", ttl=1, schema=7)),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make()


# --- buffered counters


def test_a_bounded_counter_is_not_buffered(state: State) -> None:
    for bounds in ({"floor": 0}, {"ceiling": 9}):
        with pytest.raises(ConfigurationError, match="counter 'views' has a floor or a ceiling"):
            state.counter("views", **bounds).buffered()


def test_a_bad_step_is_the_callers(state: State) -> None:
    views = state.counter("views")
    buffer = views.buffered(every=3600.0)
    for step in (1.5, True, "1", MAX_INTEGER + 1):
        with pytest.raises(ValueError, match="buffered counter 'views': a step must"):
            buffer.increment("a", by=step)  # type: ignore[arg-type]
    buffer.increment("a", by=MAX_INTEGER)
    with pytest.raises(ValueError, match="all that has come"):
        buffer.increment("a")
    buffer.flush()
    assert views.value("a") == MAX_INTEGER


def test_a_key_that_cannot_be_counted_costs_the_others_nothing(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    views = state.counter("views")
    buffer = views.buffered(every=3600.0)
    state.store.execute(Put(state.store.prefix("counter", "views") + "sa", b"no counter"))
    views.increment("full", by=MAX_INTEGER)
    degraded._logged.clear()
    told: list[Event] = []
    state.observe(told.append)
    for key in ("a", "full", "b"):
        buffer.increment(key)
    buffer.flush()
    assert views.value("b") == 1
    assert caplog.text.count("counter 'views' is degraded to 'drop'") == 1, "a line, not one each"
    assert sorted(each.outcome for each in told if each.degraded == "drop") == [
        "LimitReached",
        "RecordError",
    ]
    with pytest.raises(LimitReached):
        views.increment("full")


def test_a_buffer_is_bounded(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "MOST_KEYS", 2)
    views = state.counter("views")
    buffer = views.buffered(every=3600.0)
    for key in ("a", "b", "a", "c"):
        buffer.increment(key)
    assert views.value("c") == 1
    assert buffer.pending == 3
    buffer.flush()
    assert [views.value(key) for key in "abc"] == [2, 1, 1]
    assert not [thread for thread in threading.enumerate() if not thread.is_alive()]


def test_a_thread_outlives_whatever_fails(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    views = state.counter("views")
    buffer = views.buffered(every=0.01)
    execute = state.store.perform

    def broken(command: Any) -> Any:
        if command.key.endswith("sa"):
            raise RuntimeError("a bug of a driver")
        return execute(command)

    monkeypatch.setattr(state.store, "perform", broken)
    for key in ("a", "b"):
        buffer.increment(key)
    eventually(lambda: views.value("b") == 1, "what fails for one key holds up no other")
    buffer.increment("b")
    eventually(lambda: views.value("b") == 2, "the thread goes on")


def test_an_outage_wakes_nobody_at_each_increment(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = state.counter("views")
    buffer = views.buffered(every=3600.0, size=2)
    sent: list[object] = []

    def away(command: Any) -> Any:
        sent.append(command)
        raise StoreUnavailable("away")

    monkeypatch.setattr(state.store, "perform", away)
    buffer.increment()
    with pytest.raises(StoreUnavailable):
        buffer.flush()
    for _ in range(100):
        buffer.increment()
    assert not buffer._wake.is_set()
    assert len(sent) == 1
    assert buffer.pending == 101


def test_a_signal_that_interrupts_an_increment_can_flush(state: State) -> None:
    """The handler of SIGTERM runs in the thread that it interrupts, whatever that holds."""
    views = state.counter("views")
    buffer = views.buffered(every=3600.0)
    buffer.increment()
    with buffer._lock, buffer._sending:
        buffer.flush()
    assert views.value() == 1


def test_several_subjects_are_pairs(state: State) -> None:
    limit = state.rate_limit("api", "5/minute")
    for wrong in (
        ("a",),
        (limit, "ada"),
        ((limit,),),
        ((limit, "ada", 1),),
        (("ada", limit),),
        (5,),
    ):
        with pytest.raises(TypeError, match=r"pairs of a rate limit and a key, .* not "):
            hit_all(*wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"pairs of a rate limit and a key, .* not "):
            asyncio.run(ahit_all(*wrong))  # type: ignore[arg-type]
    assert limit.peek("ada").quotas[0].remaining == 5, "nothing was taken"


@pytest.mark.parametrize("wrong", ["nonsense", 5, list["Nowhere"]], ids=str)  # type: ignore[name-defined]  # noqa: F821
def test_a_type_that_is_none_is_refused_by_name(state: State, wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=r"map 'it': type must be something to decode into, .* not "
    ):
        state.map("it", type=wrong)
    with pytest.raises(TypeError, match="cache 'it': type must"):
        state.cache("it", ttl=60.0, type=wrong)
    with pytest.raises(TypeError, match="idempotency 'it': type must"):
        state.idempotency("it", type=wrong)


def test_what_asks_in_a_users_sessions_is_a_session(state: State) -> None:
    sessions = state.session()
    mine = sessions.create(user="ada")
    with pytest.raises(TypeError, match="session 'session': give a Session that asks, not 'x'"):
        sessions.revoke("ada", keep="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="session 'session': give a Session that asks, not 'x'"):
        sessions.sessions("ada", current="x")  # type: ignore[arg-type]
    assert sessions.load(mine.id) is not None, "nothing was ended"


@pytest.mark.parametrize(
    "ask",
    [
        lambda sessions: sessions.sessions(None),
        lambda sessions: sessions.end(None, "a handle"),
        lambda sessions: sessions.revoke(None),
        lambda sessions: sessions.erase(None),
        lambda sessions: asyncio.run(sessions.arevoke(None)),
    ],
)
def test_nobody_has_no_sessions_to_end(state: State, ask: Any) -> None:
    sessions = state.session("web")
    anonymous = sessions.create(cart=[])
    with pytest.raises(ValueError, match="session 'web': the user is None"):
        ask(sessions)
    assert sessions.load(anonymous.id) is not None


@pytest.mark.parametrize("once", ["", b"", ()])
def test_an_operation_without_an_id_is_not_counted_once(state: State, once: Any) -> None:
    hits = state.counter("hits")
    with pytest.raises(ValueError, match=r"counter 'hits': once is .*; give each operation an id"):
        hits.increment(once=once)
    assert hits.value() == 0


def test_an_observer_can_be_called(state: State) -> None:
    with pytest.raises(TypeError, match="an observer is called with each event, and 5 cannot be"):
        state.observe(5)  # type: ignore[arg-type]
