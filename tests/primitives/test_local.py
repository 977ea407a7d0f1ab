"""The local layer: time, bounds, keys, statistics, what it refuses."""

import gc
import math
import os
import random
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import pytest
from tests.primitives.local_probe import Clock

from anypod import ConfigurationError, LocalCache
from anypod.primitives.local import LIVE, ReentrantLoad
from anypod.primitives.local_key import typed_key

pytestmark = pytest.mark.quick


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> LocalCache:
    return LocalCache("rates", ttl=300.0, maxsize=4, clock=clock)


class TestTime:
    def test_a_value_is_served_until_its_ttl_and_not_at_it(self, cache, clock):
        cache.put("EUR", 1)
        clock.now += 299.999
        assert cache.get("EUR") == 1
        clock.now += 0.001
        assert cache.get("EUR") is None

    def test_an_expired_value_is_let_go(self, cache, clock):
        cache.put("EUR", 1)
        clock.now += 300
        assert cache.get("EUR", "gone") == "gone"
        assert len(cache) == 0

    def test_the_time_counts_from_the_start_of_the_load(self, cache, clock):
        def slow() -> int:
            clock.now += 200
            return 1

        assert cache.get_or_load("EUR", slow) == 1
        clock.now += 99
        assert cache.get("EUR") == 1
        clock.now += 1
        assert cache.get("EUR") is None

    def test_a_load_longer_than_the_ttl_answers_and_is_not_kept(self, cache, clock):
        def slower() -> int:
            clock.now += 300
            return 1

        assert cache.get_or_load("EUR", slower) == 1
        assert len(cache) == 0

    def test_advance_moves_this_cache_alone(self, cache, clock):
        other = LocalCache("other", ttl=300.0, clock=clock)
        cache.put("EUR", 1)
        other.put("EUR", 1)
        cache.advance(300)
        assert cache.get("EUR") is None
        assert other.get("EUR") == 1

    def test_advance_during_a_load_ages_its_value_too(self, cache):
        def load() -> int:
            cache.advance(200)
            return 1

        cache.get_or_load("EUR", load)
        cache.advance(100)
        assert cache.get("EUR") is None

    def test_what_is_put_after_an_advance_lives_its_full_time(self, cache):
        cache.advance(1_000_000)
        cache.put("EUR", 1)
        cache.advance(299)
        assert cache.get("EUR") == 1
        cache.advance(1)
        assert cache.get("EUR") is None

    def test_what_is_loaded_after_an_advance_lives_its_full_time(self, cache):
        cache.advance(1_000_000)
        cache.get_or_load("EUR", lambda: 1)
        cache.advance(299)
        assert cache.get("EUR") == 1
        cache.advance(1)
        assert cache.get("EUR") is None

    @pytest.mark.parametrize("seconds", [-1, math.inf, math.nan])
    def test_time_does_not_run_backwards(self, cache, seconds):
        with pytest.raises(ValueError, match="≥ 0"):
            cache.advance(seconds)

    def test_jitter_only_shortens(self, clock):
        random.seed(7)
        cache = LocalCache("rates", ttl=100.0, jitter=0.5, maxsize=1000, clock=clock)
        for number in range(1000):
            cache.put(number, number)
        clock.now += 49.9
        assert sum(cache.get(number) is not None for number in range(1000)) == 1000
        clock.now += 25.1
        assert 300 < sum(cache.get(number) is not None for number in range(1000)) < 700
        clock.now += 25.1
        assert sum(cache.get(number) is not None for number in range(1000)) == 0

    def test_an_entry_may_live_shorter_but_not_longer_than_declared(self, cache, clock):
        cache.put("EUR", 1, ttl=10)
        clock.now += 10
        assert cache.get("EUR") is None
        for ttl in (300.1, 0, -1, math.nan):
            with pytest.raises(ValueError, match="at most the 300 s"):
                cache.put("EUR", 1, ttl=ttl)


class TestBounds:
    def test_it_never_holds_more_than_maxsize(self, cache):
        for number in range(100):
            cache.put(number, number)
            assert len(cache) <= 4
        assert cache.stats().evictions == 96

    def test_one_entry_is_enough(self, clock):
        cache = LocalCache("one", ttl=1, maxsize=1, clock=clock)
        for number in range(3):
            cache.put(number, number)
            assert cache.get(number) == number
        assert len(cache) == 1

    def test_what_is_read_survives_what_is_not(self, cache):
        for number in range(4):
            cache.put(number, number)
        cache.get(0)
        cache.get(2)
        cache.put(4, 4)
        cache.put(5, 5)
        assert [n for n in range(6) if cache.get(n) is not None] == [0, 2, 4, 5]

    def test_the_hand_goes_on_where_it_stopped(self, cache):
        # SIEVE's difference from CLOCK and from FIFO with a second chance: survivors keep their place.
        for number in range(4):
            cache.put(number, number)
        for number in (0, 1, 3):
            cache.get(number)
        cache.put(4, 4)  # the hand clears 0 and 1, evicts 2, rests before 3
        cache.put(5, 5)  # clears 3, evicts 4: new and unread
        assert [n for n in range(6) if cache.get(n) is not None] == [0, 1, 3, 5]

    def test_what_has_expired_goes_before_what_was_read(self, cache, clock):
        cache.put("a", 1)
        cache.put("short", 1, ttl=1)
        cache.put("b", 1)
        cache.put("c", 1)
        for name in ("a", "short", "b", "c"):
            assert cache.get(name) == 1
        clock.now += 1
        cache.put("d", 1)
        assert [n for n in "abcd" if cache.get(n)] == ["a", "b", "c", "d"]

    def test_replacing_a_value_evicts_nothing(self, cache):
        for number in range(4):
            cache.put(number, number)
        for _ in range(10):
            cache.put(3, "new")
        assert [cache.get(n) for n in range(4)] == [0, 1, 2, "new"]
        assert cache.stats().evictions == 0

    def test_a_scan_does_not_flush_what_is_in_use(self, clock):
        cache = LocalCache("scan", ttl=1000, maxsize=100, clock=clock)
        for _ in range(2):
            for number in range(50):
                cache.get_or_load(number, lambda n=number: n)
        for number in range(1000, 1200):
            cache.put(number, number)
        assert sum(cache.get(number) is not None for number in range(50)) == 50

    @pytest.mark.parametrize("maxsize", [0, -1])
    def test_a_cache_of_nothing_is_refused(self, maxsize):
        with pytest.raises(ConfigurationError, match="at least 1"):
            LocalCache("none", ttl=1, maxsize=maxsize)

    @pytest.mark.parametrize("ttl", [0, -1, math.inf, math.nan])
    def test_a_cache_without_an_end_is_refused(self, ttl):
        with pytest.raises(ConfigurationError, match="seconds above 0"):
            LocalCache("for ever", ttl=ttl)

    @pytest.mark.parametrize("jitter", [-0.1, 1.0, math.nan])
    def test_jitter_out_of_range_is_refused(self, jitter):
        with pytest.raises(ConfigurationError, match="jitter"):
            LocalCache("jittery", ttl=1, jitter=jitter)


@dataclass(frozen=True)
class Money:
    amount: int


class TestKeys:
    DISTINCT = (
        1, "1", True, 1.0, b"1", Decimal(1), None, "None", (), (1,), ("1",), (True,), (1.0,),
        ((1,),), ((True,),), ("a:b", "c"), ("a", "b:c"), ("a", "b"), "a:b", ("a", ("b",)),
        frozenset({1}), frozenset({True}), Money(1), UUID(int=1), (bool, True), int, (int, 1),
    )  # fmt: skip

    def test_keys_that_python_calls_equal_do_not_meet(self, clock):
        # cashews and theine serve 1 for "1"; cashews joins ["a", "b"] to "a:b"; lru_cache serves 1 for True.
        cache = LocalCache("keys", ttl=1, clock=clock)
        for number, key in enumerate(self.DISTINCT):
            cache.put(key, number)
        assert [cache.get(key) for key in self.DISTINCT] == list(range(len(self.DISTINCT)))

    def test_equal_keys_of_one_type_meet(self):
        assert typed_key(("a", 1.5, Money(2))) == typed_key(("a", 1.5, Money(2)))
        assert typed_key(frozenset({1.0, "x"})) == typed_key(frozenset({"x", 1.0}))

    def test_str_subclasses_are_not_str(self):
        class Name(str):
            __slots__ = ()

        assert typed_key(Name("a")) != typed_key("a")

    @pytest.mark.parametrize("key", [[], {}, ([],), {"a"}, (1, {"b": 2})])
    def test_what_cannot_be_hashed_is_refused_with_advice(self, cache, key):
        for use in (cache.get, cache.invalidate, lambda k: cache.put(k, 1)):
            with pytest.raises(TypeError, match="immutable value"):
                use(key)

    def test_two_objects_that_print_alike_do_not_meet(self, cache):
        # The key of apache/superset#26023 was a repr, and one user got another's data.
        class User:
            def __repr__(self) -> str:
                return "<User>"

        one, other = User(), User()
        cache.put(one, "one's data")
        assert cache.get(other) is None


class TestValues:
    def test_none_is_a_value(self, cache):
        loads = []
        for _ in range(3):
            assert cache.get_or_load("nothing", lambda: loads.append(1)) is None
        assert loads == [1]
        assert cache.get("nothing", "default") is None

    def test_an_exception_is_raised_and_not_kept(self, cache):
        def fail() -> int:
            raise LookupError("no such currency")

        with pytest.raises(LookupError):
            cache.get_or_load("XXX", fail)
        assert cache.get_or_load("XXX", lambda: 2) == 2

    def test_a_coroutine_is_not_kept(self, cache):
        async def load() -> int:
            return 1

        with pytest.raises(TypeError, match="awaited once only"):
            cache.get_or_load("EUR", load)
        assert len(cache) == 0

    def test_a_load_that_asks_for_itself_is_an_error_not_a_deadlock(self, cache):
        # cachebox#54 hung here.
        def load() -> int:
            return cache.get_or_load("EUR", load)

        with pytest.raises(ReentrantLoad, match="'EUR'"):
            cache.get_or_load("EUR", load)

    def test_a_load_may_ask_for_other_keys(self, cache):
        def depth(n: int) -> int:
            return 0 if n == 0 else 1 + cache.get_or_load(n - 1, lambda: depth(n - 1))

        assert cache.get_or_load(3, lambda: depth(3)) == 3

    def test_a_value_that_uses_the_cache_when_it_dies_blocks_nothing(self, cache):
        died = []

        class Farewell:
            def __del__(self) -> None:
                cache.put("last", "words")
                cache.invalidate("other")
                died.append(1)

        for drop in (
            lambda: cache.put("x", 1),
            lambda: cache.invalidate("x"),
            cache.clear,
            lambda: [cache.put(n, n) for n in range(10)],
        ):
            died.clear()
            cache.put("x", Farewell())
            drop()
            assert died
            assert len(cache) <= 4

    def test_garbage_that_uses_the_cache_while_its_lock_is_held_blocks_nothing(self, cache):
        done = []

        class Cycle:
            def __del__(self) -> None:
                cache.invalidate("x")
                cache.put("y", 1)
                done.append(1)

        def collect_inside() -> None:
            with cache._flights.lock:
                knot = Cycle()
                knot.itself = knot
                del knot
                gc.collect()

        thread = threading.Thread(target=collect_inside, daemon=True)
        thread.start()
        thread.join(20)
        assert done == [1]


class TestInvalidation:
    def test_invalidate_tells_whether_there_was_something(self, cache):
        cache.put("EUR", 1)
        assert cache.invalidate("EUR") is True
        assert cache.invalidate("EUR") is False
        assert cache.get("EUR") is None

    def test_clear_empties_in_place(self, cache):
        for number in range(4):
            cache.put(number, number)
        cache.clear()
        assert len(cache) == 0
        for number in range(8):
            cache.put(number, number)
        assert len(cache) == 4

    @pytest.mark.parametrize("forget", [lambda c: c.invalidate("EUR"), lambda c: c.clear()])
    def test_a_load_that_began_before_is_not_kept(self, cache, forget):
        def load() -> str:
            forget(cache)  # the write that the load did not see
            return "old"

        assert cache.get_or_load("EUR", load) == "old"
        assert cache.get_or_load("EUR", lambda: "new") == "new"

    def test_a_put_during_a_load_wins(self, cache):
        def load() -> str:
            cache.put("EUR", "new")
            return "old"

        assert cache.get_or_load("EUR", load) == "old"
        assert cache.get("EUR") == "new"

    def test_clear_leaves_nothing_that_strikes_later(self, cache, clock):
        # aiocache's clear() left timers which then deleted a later value of the same key.
        cache.put("EUR", "old")
        clock.now += 200
        cache.clear()
        cache.put("EUR", "new")
        clock.now += 299
        assert cache.get("EUR") == "new"


class TestReports:
    def test_stats_count_hits_misses_loads(self, cache):
        cache.get_or_load("a", lambda: 1)
        cache.get_or_load("a", lambda: 1)
        cache.get("a")
        cache.get("b")
        cache.put("a", 2)
        stats = cache.stats()
        assert (stats.hits, stats.misses, stats.loads, stats.size) == (2, 2, 1, 1)

    def test_every_cache_declares_itself_while_it_lives(self, clock):
        cache = LocalCache("declared", ttl=12.5, clock=clock)
        assert cache in LIVE
        assert (cache.name, cache.ttl) == ("declared", 12.5)
        seen = weakref.ref(cache)
        del cache
        gc.collect()
        assert seen() is None

    def test_a_repr_shows_no_values(self, cache):
        cache.put("secret", "password")
        assert repr(cache) == "LocalCache('rates', ttl=300, maxsize=4) with 1"


def test_a_forked_child_has_values_and_no_flights():
    program = """
import os, threading
from anypod import ConfigurationError, LocalCache
cache = LocalCache("x", ttl=1000)
cache.put("warm", 1)
started, finish = threading.Event(), threading.Event()
def slow():
    started.set()
    finish.wait()
    return "parent's"
thread = threading.Thread(target=lambda: cache.get_or_load("cold", slow))
thread.start()
started.wait()
lock_held = cache._flights.lock
lock_held.acquire()
child = os.fork()
if child == 0:
    ok = cache.get("warm") == 1 and cache.get_or_load("cold", lambda: "child's") == "child's"
    cache.put("more", 2); cache.clear()
    os._exit(0 if ok else 1)
lock_held.release()
finish.set()
thread.join()
assert cache.get("cold") == "parent's"
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, env=os.environ, check=False)
    assert done.returncode == 0


def test_importing_it_loads_nothing_that_is_not_needed():
    program = "import sys; import anypod.primitives.local; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
