"""`@cached`: keys by signature and type, methods, what it keeps of the function, what it refuses."""

import asyncio
import functools
import inspect
import pickle
import traceback

import pytest
from tests.primitives.local_probe import Clock

from anypod import ConfigurationError, LocalCache, cached
from anypod.primitives.local import LIVE, ReentrantLoad

pytestmark = pytest.mark.quick


@pytest.fixture
def calls() -> list:
    return []


def test_a_result_is_computed_once_and_again_after_its_ttl():
    clock, calls = Clock(), []

    @cached(ttl=300, clock=clock)
    def rate(currency):
        calls.append(currency)
        return len(calls)

    assert [rate("EUR"), rate("EUR"), rate("USD"), rate("EUR")] == [1, 1, 2, 1]
    clock.now += 300
    assert rate("EUR") == 3


def test_none_is_a_result(calls):
    @cached(ttl=300)
    def nothing(key):
        calls.append(key)

    assert nothing("a") is nothing("a") is None
    assert calls == ["a"]


class TestKeys:
    def test_arguments_are_told_apart_by_type(self, calls):
        @cached(ttl=300)
        def show(value):
            calls.append(value)
            return repr(value)

        values = [1, "1", True, 1.0, b"1", None, (1,), (True,), (1.0,)]
        for _ in range(2):
            assert [show(value) for value in values] == [repr(value) for value in values]
        assert len(calls) == len(values)

    def test_the_same_with_two_arguments(self):
        @cached(ttl=300)
        def show(a, b):
            return repr((a, b))

        values = [1, "1", True, 1.0, None, ("a",), "a"]
        for a in values:
            for b in values:
                assert show(a, b) == show(a, b) == repr((a, b))

    def test_arguments_do_not_run_into_each_other(self):
        @cached(ttl=300)
        def show(*parts):
            return repr(parts)

        for parts in [("a", "b"), ("ab",), (("a", "b"),), ("a:b",), ("a", ("b",)), ()]:
            assert show(*parts) == repr(parts)

    def test_one_call_however_it_is_written(self, calls):
        @cached(ttl=300)
        def find(key, limit=10, *, order="asc"):
            calls.append((key, limit, order))
            return len(calls)

        assert {
            find("a"), find(key="a"), find("a", 10), find("a", limit=10), find(limit=10, key="a"),
            find("a", order="asc"), find("a", 10, order="asc"),
        } == {1}  # fmt: skip
        assert find("a", 11) == 2
        assert find("a", order="desc") == 3

    def test_every_kind_of_parameter(self, calls):
        @cached(ttl=300)
        def f(a, b=2, /, c=3, *rest, d, e=5, **more):
            calls.append(1)
            return (a, b, c, rest, d, e, more)

        assert f(1, d=4) == (1, 2, 3, (), 4, 5, {})
        assert f(1, 2, 3, d=4, e=5) == (1, 2, 3, (), 4, 5, {})
        assert len(calls) == 1
        assert f(1, 2, 3, 9, 8, d=4, z=1, y=2) == (1, 2, 3, (9, 8), 4, 5, {"z": 1, "y": 2})
        assert f(1, 2, 3, 9, 8, d=4, y=2, z=1) == (1, 2, 3, (9, 8), 4, 5, {"z": 1, "y": 2})
        assert len(calls) == 2
        with pytest.raises(TypeError, match="missing"):
            f(1)

    def test_positional_only(self):
        @cached(ttl=300)
        def f(a, b=1, /):
            return a + b

        assert f(1) == f(1, 1) == 2
        with pytest.raises(TypeError):
            f(a=1)

    def test_without_parameters(self, calls):
        @cached(ttl=300)
        def settings():
            calls.append(1)
            return {"a": 1}

        assert settings() is settings()
        assert len(calls) == 1

    def test_names_of_the_generated_code_are_free(self):
        @cached(ttl=300)
        def f(key, entry, self_, type_, call, cache):
            return (key, entry, self_, type_, call, cache)

        assert f(1, 2, 3, 4, 5, 6) == (1, 2, 3, 4, 5, 6)

    def test_a_parameter_named_like_a_builtin_it_uses(self):
        @cached(ttl=300)
        def f(type, id=2):  # noqa: A002  # the point
            return (type, id)

        assert f(1) == f(1) == (1, 2)
        assert f("x", id="y") == ("x", "y")

    def test_a_key_function_decides(self, calls):
        @cached(ttl=300, key=lambda request, day: (request["user"], day))
        def page(request, day):
            calls.append(1)
            return request["user"] + day

        assert page({"user": "ann", "noise": 1}, "mon") == "annmon"
        assert page({"user": "ann", "noise": 2}, day="mon") == "annmon"
        assert len(calls) == 1
        assert page.invalidate({"user": "ann"}, "mon") is True

    def test_an_argument_that_cannot_be_a_key(self):
        @cached(ttl=300)
        def f(items):
            return len(items)

        with pytest.raises(TypeError, match="give @cached a key="):
            f([1, 2])

    def test_defaults_are_the_functions_own_objects(self):
        marker = object()

        @cached(ttl=300)
        def f(a, b=marker):
            return b

        assert f(1) is marker


class TestAsync:
    async def test_results_not_coroutines_are_kept(self, calls):
        @cached(ttl=300)
        async def rate(currency):
            calls.append(currency)
            await asyncio.sleep(0)
            return len(calls)

        assert inspect.iscoroutinefunction(rate)
        assert await asyncio.gather(*(rate("EUR") for _ in range(20))) == [1] * 20
        assert await rate("EUR") == 1
        assert rate.invalidate("EUR") is True
        assert await rate("EUR") == 2

    def test_over_two_event_loops(self, calls):
        @cached(ttl=300)
        async def rate(currency):
            calls.append(currency)
            return len(calls)

        assert [asyncio.run(rate("EUR")) for _ in range(3)] == [1, 1, 1]

    async def test_recursion_over_other_keys(self):
        @cached(ttl=300)
        async def fibonacci(n):
            return n if n < 2 else await fibonacci(n - 1) + await fibonacci(n - 2)

        assert await fibonacci(30) == 832040

    async def test_an_object_with_an_async_call(self):
        class Fetch:
            async def __call__(self, key):
                return [key]

        fetch = cached(ttl=300, name="fetch")(Fetch())
        assert await fetch("a") is await fetch("a")

    async def test_a_function_that_returns_a_coroutine_is_refused(self):
        async def inner():
            return 1

        outer = cached(ttl=300)(lambda: inner())
        with pytest.raises(TypeError, match="awaited once only"):
            outer()


class TestRecursion:
    def test_over_other_keys(self):
        @cached(ttl=300)
        def fibonacci(n):
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

        assert fibonacci(60) == 1548008755920

    def test_over_the_same_key(self):
        @cached(ttl=300)
        def loop(n):
            return loop(n)

        with pytest.raises(ReentrantLoad):
            loop(1)


class TestWhatItKeeps:
    def test_the_functions_face(self):
        @cached(ttl=300)
        def rate(currency: str, day: int = 0) -> float:
            """The rate."""
            return 1.5

        assert rate.__name__ == "rate"
        assert rate.__doc__ == "The rate."
        assert str(inspect.signature(rate)) == "(currency: str, day: int = 0) -> float"
        assert rate.__wrapped__("EUR") == 1.5
        assert isinstance(rate.cache, LocalCache)
        assert rate.cache in LIVE
        assert rate.cache.ttl == 300
        assert rate.cache.name.endswith("test_the_functions_face.<locals>.rate")

    def test_a_module_level_function_can_be_pickled(self):
        assert pickle.loads(pickle.dumps(pickled)) is pickled

    def test_clear_and_a_name(self):
        @cached(ttl=300, name="rates", maxsize=2)
        def rate(currency):
            return object()

        first = rate("EUR")
        rate.clear()
        assert rate("EUR") is not first
        assert rate.cache.name == "rates"
        for number in range(10):
            rate(number)
        assert len(rate.cache) == 2

    def test_what_it_raises_shows_generated_lines(self):
        @cached(ttl=300)
        def fail(key):
            raise LookupError(key)

        with pytest.raises(LookupError) as caught:
            fail("x")
        shown = "".join(traceback.format_exception(caught.value))
        assert "_anypod_load(_anypod_key" in shown

    def test_a_partial(self):
        power = cached(ttl=300, name="square")(functools.partial(pow, exp=2))
        assert power(3) == power(3) == 9


class TestWhatItRefuses:
    @pytest.mark.parametrize("kind", [classmethod, staticmethod, property])
    def test_above_a_descriptor(self, kind):
        with pytest.raises(TypeError, match="put @cached below"):
            cached(ttl=300)(kind(lambda self: 1))

    def test_generators(self):
        def numbers():
            yield 1

        async def anumbers():
            yield 1

        for function in (numbers, anumbers):
            with pytest.raises(TypeError, match="consumed only once"):
                cached(ttl=300)(function)

    def test_what_is_no_function(self):
        with pytest.raises(TypeError, match="needs a function"):
            cached(ttl=300)(42)

    def test_without_a_readable_signature(self):
        with pytest.raises(TypeError, match="cannot read the parameters"):
            cached(ttl=300)(dict.pop if _unreadable(dict.pop) else type)

    def test_a_parameter_in_its_own_namespace(self):
        def f(_anypod_key):
            return 1

        with pytest.raises(TypeError, match="rename the parameter '_anypod_key'"):
            cached(ttl=300)(f)

    def test_no_end(self):
        with pytest.raises(ConfigurationError, match="seconds above 0"):
            cached(ttl=float("inf"))(lambda: 1)


def _unreadable(function) -> bool:
    try:
        inspect.signature(function)
    except ValueError:
        return True
    return False


@cached(ttl=300)
def pickled(key):
    return key
