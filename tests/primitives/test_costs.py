"""What the pages say a call costs: one command is one exchange, on every store (the conformance suite counts)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anypod import State
from anypod.primitives.rate_limit import hit_all

pytestmark = pytest.mark.quick


class Till:
    """Counts commands."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.commands: list[str] = []
        state.observe(lambda event: self.commands.append(event.command))

    def __call__(self, call: Callable[[], Any]) -> int:
        self.commands.clear()
        call()
        return len(self.commands)


@pytest.fixture
def till() -> Iterator[Till]:
    with State("memory://", namespace="") as state:
        yield Till(state)


def test_counters(till: Till) -> None:
    hits = till.state.counter("hits", ceiling=10, window=60.0)
    assert till(hits.increment) == 1
    assert till(lambda: hits.increment(once="a")) == 1
    assert till(lambda: hits.increment(once="a")) == 1
    assert till(hits.value) == 1


def test_maps(till: Till) -> None:
    prices = till.state.map("prices")
    assert till(lambda: prices.set("pen", 1)) == 1
    assert till(lambda: prices.get("pen")) == 1
    assert till(lambda: prices.entry("pen")) == 1
    assert till(lambda: prices.update("pen", lambda price: price + 1)) == 2
    assert till(lambda: list(prices.items())) == 1
    assert till(lambda: prices.delete("pen")) == 1


def test_rate_limits(till: Till) -> None:
    limit = till.state.rate_limit("api", "2/hour; 5/day")
    other = till.state.rate_limit("other", "100/hour")
    assert [till(lambda: limit.hit("ip")) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert till(lambda: limit.peek("ip")) == 1
    assert till(lambda: limit.refund("ip")) == 1
    assert till(lambda: hit_all((other, "ip"), (limit, "ip"))) == 2
    assert till(lambda: hit_all((other, "ip"), (limit, "ip"))) == 3  # the second refuses
    assert till(lambda: hit_all((other, "ip"), (limit, "ip"))) == 2  # … and still does


def test_locks(till: Till) -> None:
    jobs = till.state.lock("jobs")

    def use() -> None:
        with jobs.acquire():
            pass

    assert till(use) == 2


def test_idempotency(till: Till) -> None:
    orders = till.state.idempotency("orders")
    call = orders.once(key=lambda number: number)(lambda number: number)
    assert till(lambda: call(1)) == 2
    assert till(lambda: call(1)) == 1
    assert till(lambda: orders.explain(1)) == 1


def test_sessions(till: Till) -> None:
    sessions = till.state.session()
    numbers = itertools.count()

    def change() -> None:
        session = sessions.load(token)
        assert session is not None
        session["n"] = next(numbers)
        session.save()

    def read() -> None:
        session = sessions.load(token)
        assert session is not None
        session.save()

    assert till(lambda: sessions.create(n=1)) == 1
    session = sessions.create(user=7, n=1)
    token = session.id
    assert till(lambda: sessions.create(user=7)) == 2
    assert till(read) == 1
    assert till(change) == 2
    assert till(lambda: sessions.load("A" * 66)) == 0
    assert till(session.rotate) == 3
    assert till(session.rotate) == 4
    assert till(lambda: sessions.sessions(7)) == 1 + 2
    assert till(session.end) == 3
    other = sessions.create(user=7)
    assert till(lambda: sessions.end(7, other.handle)) == 3
    assert till(lambda: sessions.revoke(7)) == 2 + 1
    assert till(lambda: sessions.erase(7)) <= 3


def test_buffered(till: Till) -> None:
    views = till.state.counter("views").buffered(every=3_600.0)
    assert till(lambda: [views.increment(key) for key in "aabbb"]) == 0
    assert till(views.flush) == 2
