"""`@cached` on methods: what counts as the key, whose cache it is."""

import gc
import weakref
from dataclasses import dataclass

import pytest

from anypod import cached

pytestmark = pytest.mark.quick


@pytest.fixture
def calls() -> list:
    return []


class TestMethods:
    def make(self):
        class Prices:
            def __init__(self, base):
                self.base = base

            def __eq__(self, other):
                return isinstance(other, Prices)  # all are equal, and none may be mixed up

            def __hash__(self):
                return 1

            @cached(ttl=300)
            def price(self, item):
                return (self.base, item)

        return Prices

    def test_instances_are_not_mixed_even_if_equal(self):
        kind = self.make()
        one, two = kind(1), kind(2)
        for _ in range(2):
            assert one.price("a") == (1, "a")
            assert two.price("a") == (2, "a")
        assert one.price(item="a") == (1, "a")
        assert kind.price.cache.stats().loads == 2

    def test_the_cache_keeps_no_instance_alive(self):
        # fastapi-cache#295: self in the key; lru_cache on a method leaks every instance.
        kind = self.make()
        one = kind(1)
        one.price("a")
        seen = weakref.ref(one)
        del one
        gc.collect()
        assert seen() is None

    def test_a_new_instance_in_an_old_ones_place_sees_nothing_of_it(self):
        class Slot:
            __slots__ = ("__weakref__", "value")

            @cached(ttl=300)
            def get(self):
                return self.value

        reused = 0
        last = None
        for number in range(200):
            slot = Slot()
            slot.value = number
            reused += id(slot) == last
            last = id(slot)
            assert slot.get() == number
            del slot
        assert reused, "the interpreter never reused an address; the test says nothing"

    def test_what_an_instance_left_goes_with_it(self):
        class Thing:
            @cached(ttl=300)
            def parts(self, number):
                return [number]

        one, two = Thing(), Thing()
        for number in range(3):
            one.parts(number), two.parts(number)
        assert len(Thing.parts.cache) == 6
        del one
        gc.collect()
        assert len(Thing.parts.cache) == 3
        assert two.parts(1) is two.parts(1)
        assert Thing.parts.cache.stats().loads == 6

    def test_in_a_circle_of_garbage_that_still_uses_it(self):
        class Thing:
            def __init__(self):
                self.me = self
                self.number = next(numbers)

            def __del__(self):
                assert self.get() == self.number

            @cached(ttl=300)
            def get(self):
                return self.number

        numbers = iter(range(1000))
        for _ in range(200):
            thing = Thing()
            assert thing.get() == thing.number
            del thing
            gc.collect(0)
        gc.collect()
        assert len(Thing.get.cache) == 0

    def test_the_instances_do_not_keep_the_cache_alive(self):
        def make():
            class Thing:
                @cached(ttl=300)
                def get(self):
                    return 1

            return Thing()

        thing = make()
        assert thing.get() == 1
        seen = weakref.ref(type(thing).get.cache)
        del thing
        gc.collect()
        assert seen() is None

    def test_methods_without_other_parameters(self):
        class Thing:
            @cached(ttl=300)
            def parts(self):
                return [self]

        thing = Thing()
        assert thing.parts() is thing.parts()
        assert Thing().parts()[0] is not thing

    def test_invalidate_names_the_instance(self):
        kind = self.make()
        one, two = kind(1), kind(2)
        one.price("a"), two.price("a")
        one.base = two.base = 3
        assert kind.price.invalidate(one, "a") is True
        assert one.price("a") == (3, "a")
        assert two.price("a") == (2, "a")
        with pytest.raises(TypeError, match=r"Class\.method\.invalidate\(instance"):
            kind.price.invalidate("a", "a")

    def test_classmethods_and_subclasses(self):
        class Base:
            @classmethod
            @cached(ttl=300)
            def name(cls):
                return cls.__name__

        class Derived(Base):
            pass

        assert (Base.name(), Derived.name(), Base.name(), Derived.name()) == (
            "Base", "Derived", "Base", "Derived",
        )  # fmt: skip

    def test_staticmethods(self):
        class Tools:
            @staticmethod
            @cached(ttl=300)
            def twice(value):
                return [value, value]

        assert Tools.twice(1) is Tools.twice(1)

    def test_slots_without_weakref_are_refused_with_advice(self):
        class Bare:
            __slots__ = ()

            @cached(ttl=300)
            def get(self):
                return 1

        with pytest.raises(TypeError, match="__weakref__"):
            Bare().get()

    def test_a_key_shares_between_equal_instances(self, calls):
        @dataclass(frozen=True)
        class Account:
            number: int

            @cached(ttl=300, key=lambda self: self.number)
            def balance(self):
                calls.append(self.number)
                return self.number * 100

        assert Account(1).balance() == Account(1).balance() == 100
        assert calls == [1]

    def test_a_function_whose_first_parameter_is_called_self(self):
        @cached(ttl=300)
        def plain(self):
            return repr(self)

        assert plain(1) == "1"
        assert plain("1") == "'1'"

    async def test_async_methods(self):
        class Prices:
            def __init__(self, base):
                self.base = base

            @cached(ttl=300)
            async def price(self, item):
                return [self.base, item]

        one, two = Prices(1), Prices(2)
        assert await one.price("a") is await one.price("a")
        assert await two.price("a") == [2, "a"]
