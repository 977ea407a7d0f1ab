"""A hit in the local cache, beside the other caches that Python has."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from anypod import LocalCache, cached
from benchmarks.harness import Contest, Faster, Side, Skipped, coroutine, statement

try:
    import cachebox
    import cachetools
    import theine
except ModuleNotFoundError as missing:
    raise Skipped(f"peer {missing.name} is not installed (requirements/dev.txt)") from missing

BARS = {"cachebox": Faster(2.0), "cachetools + RLock": Faster(4.0)}

Decorator = Callable[[Callable[..., Any]], Any]


def decorators() -> dict[str, Decorator]:
    """A decorator of each kind, with a cache of its own at each use."""
    return {
        "anypod": cached(ttl=3600),
        "cachebox": lambda f: cachebox.cached(cachebox.TTLCache(1024, 3600))(f),
        "cachetools + RLock": lambda f: cachetools.cached(
            cachetools.TTLCache(1024, 3600), lock=threading.RLock()
        )(f),
        "theine": lambda f: theine.Memoize(1024, timedelta(hours=1))(f),
        "lru_cache (no TTL)": functools.lru_cache(maxsize=1024, typed=True),
    }


def hit(function: Callable[..., Any], call: str, **names: Any) -> dict[str, Side]:
    """The sides of a decorated function that is called with the same arguments again and again."""
    sides = {}
    for name, decorate in decorators().items():
        wrapped = decorate(function)
        sides[name] = statement(call, f=wrapped, **names)
        sides[name](10)
    return sides


def contest(what: str, sides: dict[str, Side], bars: dict[str, Faster]) -> Contest:
    ours = sides.pop("anypod")
    return Contest(what, ours, sides, bars)


def one(key: Any) -> Any:
    return key


def two(first: Any, second: Any) -> Any:
    return (first, second)


def three(key: Any, limit: int = 10, order: str = "asc") -> Any:
    return (key, limit, order)


class Prices:
    def price(self, item: str) -> str:
        return item


def methods() -> dict[str, Side]:
    sides: dict[str, Side] = {}
    for name, decorate in decorators().items():
        kind = type("Decorated", (), {"price": decorate(Prices.price)})
        sides[name] = statement("o.price('EUR')", o=kind())
        sides[name](10)
    return sides


def awaited(loop: asyncio.AbstractEventLoop) -> dict[str, Side]:
    async def rate(currency: str) -> str:
        return currency

    wrapped = {
        "anypod": cached(ttl=3600)(rate),
        "cachebox": cachebox.cached(cachebox.TTLCache(1024, 3600))(rate),
        "theine": theine.Memoize(1024, timedelta(hours=1))(rate),
    }
    sides = {}
    for name, function in wrapped.items():
        sides[name] = coroutine(loop, "await f('EUR')", f=function)
        sides[name](10)
    return sides


def gets() -> dict[str, Side]:
    ours = LocalCache("bench", ttl=3600)
    box = cachebox.TTLCache(1024, 3600)
    tools = cachetools.TTLCache(1024, 3600)
    the = theine.Cache(1024)
    ours.put("EUR", 1)
    box["EUR"] = 1
    tools["EUR"] = 1
    the.set("EUR", 1, ttl=timedelta(hours=1))
    lock = threading.RLock()
    return {
        "anypod": statement("c.get('EUR')", c=ours),
        "cachebox": statement("c.get('EUR')", c=box),
        "cachetools + RLock": statement("\nwith lock:\n    c.get('EUR')", c=tools, lock=lock),
        "theine": statement("c.get('EUR')", c=the),
        "dict.get (no TTL, no bound)": statement("c.get('EUR')", c={"EUR": 1}),
    }


def misses() -> dict[str, Side]:
    """A cache that is always full: every call loads, stores and evicts."""
    sides = {}
    for name, decorate in decorators().items():
        state = iter(range(10**12))
        sides[name] = statement("f(next(state))", f=decorate(one), state=state)
        sides[name](2048)
    return sides


def crowded(threads: int) -> dict[str, Side]:
    """Hits of several threads on one key; the time is per operation of all of them together."""
    sides: dict[str, Side] = {}
    for name, decorate in decorators().items():
        function = decorate(one)
        function("EUR")

        def run(number: int, function: Callable[[str], Any] = function) -> float:
            each = max(1, number // threads)
            work = statement("f('EUR')", f=function)
            running = [threading.Thread(target=work, args=(each,)) for _ in range(threads)]
            began = time.process_time()
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            return time.process_time() - began

        sides[name] = run
    return sides


def contests() -> Iterator[Contest]:
    """Decorated hits first: they have the bars."""
    yield contest("decorated hit: f('EUR')", hit(one, "f('EUR')"), BARS)
    yield contest("decorated hit: f(7)", hit(one, "f(7)"), BARS)
    yield contest("decorated hit: f('EUR', 7)", hit(two, "f('EUR', 7)"), BARS)
    yield contest("decorated hit: f('EUR', limit=5)", hit(three, "f('EUR', limit=5)"), BARS)
    yield contest("decorated hit: o.method('EUR')", methods(), {"cachetools + RLock": Faster(4.0)})
    loop = asyncio.new_event_loop()
    try:
        yield contest("decorated hit: await f('EUR')", awaited(loop), {"cachebox": Faster(2.0)})
    finally:
        loop.close()
    yield contest("decorated hit: f('EUR'), 8 threads", crowded(8), BARS)
    yield contest("cache.get('EUR')", gets(), {})
    yield contest("decorated miss, full: load, store, evict", misses(), {})
