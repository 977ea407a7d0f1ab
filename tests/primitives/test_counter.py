from __future__ import annotations

import asyncio
import threading
from collections import Counter as Multiset

import pytest

from anypod import ConfigurationError, KeyReused, LimitReached, State

from .conftest import advance


def test_increments_and_reads(state: State) -> None:
    hits = state.counter("hits")
    assert hits.value() == 0
    assert [hits.increment(), hits.increment(by=4), hits.increment(by=-2)] == [1, 5, 3]
    assert hits.value() == 3


def test_keys_and_names_do_not_meet(state: State) -> None:
    hits, misses = state.counter("hits"), state.counter("misses")
    for counter in (hits, misses):
        for key in (None, 1, "1", True, ("a:b", "c"), ("a", "b:c")):
            assert counter.increment(key) == 1


def test_the_async_twin_sees_the_same_counter(state: State) -> None:
    hits = state.counter("hits")
    hits.increment()

    async def scenario() -> tuple[int, int]:
        value = await hits.aincrement(by=2)
        read = await hits.avalue()
        await state.aclose()
        return value, read

    assert asyncio.run(scenario()) == (3, 3)


def test_floor_and_ceiling_refuse_and_change_nothing(state: State) -> None:
    seats = state.counter("seats", floor=0, ceiling=2)
    seats.increment(by=2)
    with pytest.raises(LimitReached, match="ceiling 2") as refusal:
        seats.increment()
    assert refusal.value.value == 2
    with pytest.raises(LimitReached, match="floor 0"):
        seats.increment(by=-3)
    assert seats.value() == 2


def test_once_counts_once_and_answers_the_same_again(state: State) -> None:
    hits = state.counter("hits")
    assert hits.increment(once="request-1") == 1
    hits.increment()
    assert hits.increment(once="request-1") == 1
    assert hits.value() == 2
    with pytest.raises(KeyReused, match="another step"):
        hits.increment(by=2, once="request-1")
    assert hits.value() == 2


def test_once_repeats_a_refusal_too(state: State) -> None:
    seats = state.counter("seats", ceiling=1)
    seats.increment()
    with pytest.raises(LimitReached):
        seats.increment(once="late")
    seats.increment(by=-1)
    with pytest.raises(LimitReached):
        seats.increment(once="late")
    assert seats.value() == 0


def test_once_is_forgotten_after_a_day(state: State) -> None:
    hits = state.counter("hits")
    hits.increment(once="x")
    advance(state, 86_399.0)
    assert hits.increment(once="x") == 1
    advance(state, 2.0)
    assert hits.increment(once="x") == 2


def test_ttl_counts_from_the_first_increment(state: State) -> None:
    window = state.counter("window", ttl=60.0)
    window.increment()
    advance(state, 59.0)
    assert window.increment() == 2
    advance(state, 2.0)
    assert window.value() == 0
    assert window.increment() == 1


def test_a_window_begins_with_the_stores_clock(state: State) -> None:
    hits = state.counter("hits", window=3_600.0, ceiling=3)
    to_the_border(state, 3_600.0)
    advance(state, 600.0)
    assert [hits.increment(), hits.increment(by=2)] == [1, 3]
    with pytest.raises(LimitReached):
        hits.increment()
    advance(state, 2_900.0)
    assert hits.value() == 3  # the first increment was 48 minutes ago, and the hour is not over
    advance(state, 200.0)
    assert hits.value() == 0
    assert hits.increment(by=2) == 2
    advance(state, 3_500.0)
    assert hits.increment() == 1  # an hour of its own, though less than an hour has passed


def test_a_window_and_once(state: State) -> None:
    hits = state.counter("hits", window=3_600.0)
    to_the_border(state, 3_600.0)
    assert [hits.increment(once="a"), hits.increment(once="a"), hits.increment()] == [1, 1, 2]
    advance(state, 3_600.0)
    assert hits.increment(once="a") == 1  # the answer of the hour before, and nothing is added
    assert hits.value() == 0


def to_the_border(state: State, window: float) -> None:
    """Move the store's clock to just after the beginning of a window."""
    now = state.map("clock").set("now", 1) / 1e6  # a version is the store's clock
    advance(state, window - now % window + 1.0)


def test_threads_get_distinct_values(state: State) -> None:
    hits = state.counter("hits")
    seen: Multiset[int] = Multiset()
    lock = threading.Lock()

    def work() -> None:
        values = [hits.increment() for _ in range(50)]
        with lock:
            seen.update(values)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == Multiset(range(1, 401))


@pytest.mark.parametrize("by", [1.0, True, "1", 2**53, None])
def test_a_step_that_is_no_step_is_refused(state: State, by: object) -> None:
    with pytest.raises(ValueError, match="a step must be an int"):
        state.counter("hits").increment(by=by)  # type: ignore[arg-type]


def test_the_largest_integer_is_a_ceiling(state: State) -> None:
    top = state.counter("top")
    assert top.increment(by=2**53 - 1) == 2**53 - 1
    with pytest.raises(LimitReached):
        top.increment()
    assert top.increment(by=-(2**53 - 1)) == 0


def test_bad_options_are_refused() -> None:
    with State("memory://", namespace="") as state:
        with pytest.raises(ConfigurationError, match="in order"):
            state.counter("c", floor=2, ceiling=1)
        for ttl in (0, -1, float("nan"), float("inf")):
            with pytest.raises(ConfigurationError, match="ttl must be seconds above 0"):
                state.counter("c", ttl=ttl)
        for window in (0, -1, 0.0001, float("nan"), float("inf")):
            with pytest.raises(ConfigurationError, match="window must be seconds"):
                state.counter("c", window=window)
        with pytest.raises(ConfigurationError, match="exclude each other"):
            state.counter("c", window=60.0, ttl=60.0)
        with pytest.raises(ConfigurationError, match="belongs into the key"):
            state.counter("user:7").increment()
        with pytest.raises(TypeError, match="a key must be"):
            state.counter("c").increment(1.5)
