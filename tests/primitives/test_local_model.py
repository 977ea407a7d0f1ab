"""The local layer against a dict with times: whatever is done, it never serves what the dict would not."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.primitives.local_probe import Clock

from anypod import LocalCache

pytestmark = pytest.mark.quick

KEYS = st.sampled_from([1, "1", True, 1.0, ("a", 1), ("a", True), None, "b", "c", "d"])
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 4.0, 9.5, 10.0, 25.0])


class LocalModel(RuleBasedStateMachine):
    """Keys are paired with their type in the model, deadlines are absolute in its own time."""

    @initialize(maxsize=st.integers(1, 6))
    def begin(self, maxsize):
        self.clock = Clock()
        self.offset = 0.0
        self.maxsize = maxsize
        self.cache = LocalCache("model", ttl=10.0, maxsize=maxsize, clock=self.clock)
        self.model = {}
        self.serial = 0

    def now(self):
        return self.clock.now + self.offset

    def fresh(self):
        self.serial += 1
        return self.serial

    @staticmethod
    def typed(key):
        return (type(key), tuple(map(type, key)) if isinstance(key, tuple) else None, key)

    @rule(key=KEYS, ttl=st.sampled_from([None, 0.5, 10.0]))
    def put(self, key, ttl):
        value = self.fresh()
        self.cache.put(key, value, ttl=ttl)
        self.model[self.typed(key)] = (value, self.now() + (10.0 if ttl is None else ttl))
        assert self.cache.get(key) == value

    @rule(key=KEYS)
    def get(self, key):
        got = self.cache.get(key)
        value, deadline = self.model.get(self.typed(key), (None, 0))
        if got is not None:
            assert got == value
            assert self.now() < deadline
        else:
            assert self.now() >= deadline or self.cache.stats().evictions

    @rule(key=KEYS, seconds=SECONDS)
    def load(self, key, seconds):
        began, value = self.now(), self.fresh()
        ran = []

        def loader():
            ran.append(1)
            self.clock.now += seconds
            return value

        got = self.cache.get_or_load(key, loader)
        if ran:
            _, deadline = self.model.get(self.typed(key), (None, 0))
            assert began >= deadline or self.cache.stats().evictions
            assert got == value
            self.model[self.typed(key)] = (value, began + 10.0)
        else:
            assert got == self.model[self.typed(key)][0]
            assert self.now() < self.model[self.typed(key)][1]

    @rule(key=KEYS)
    def load_with_invalidation_inside(self, key):
        ran = []

        def loader():
            ran.append(1)
            self.cache.invalidate(key)
            return -1

        self.cache.get_or_load(key, loader)
        if ran:
            self.model.pop(self.typed(key), None)
            assert self.cache.get(key) is None

    @rule(key=KEYS)
    def invalidate(self, key):
        self.cache.invalidate(key)
        self.model.pop(self.typed(key), None)
        assert self.cache.get(key) is None

    @rule()
    def clear(self):
        self.cache.clear()
        self.model.clear()
        assert len(self.cache) == 0

    @rule(seconds=SECONDS)
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(seconds=SECONDS)
    def advance(self, seconds):
        self.cache.advance(seconds)
        self.offset += seconds

    @rule()
    def fork(self):
        self.cache.relink()

    @invariant()
    def the_queue_holds_what_the_dict_holds(self):
        if not hasattr(self, "cache"):
            return
        sieve = self.cache._sieve
        linked, entry = [], sieve._oldest
        while entry is not None:
            linked.append(entry)
            assert entry.newer is None or entry.newer.older is entry
            entry = entry.newer
        assert (linked[-1] if linked else None) is sieve._newest
        assert {id(e) for e in linked} == {id(e) for e in sieve.entries.values()}
        assert len(linked) == len(sieve.entries) <= self.maxsize
        assert sieve._hand is None or sieve._hand in linked
        assert all(sieve.entries[e.key] is e for e in linked)


TestLocalModel = LocalModel.TestCase
TestLocalModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
