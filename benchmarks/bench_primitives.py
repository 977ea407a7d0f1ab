"""Rate limits, locks, idempotent calls and sessions on a real Redis, beside the libraries that do the same."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from anypod import State
from benchmarks.bench_counter import cpu_clock, exchanges, redis_server
from benchmarks.harness import Contest, Fact, Faster, Side, Skipped, Within, statement

try:
    import flask
    import hiredis
    import limits
    import limits.storage
    import limits.strategies
    import redis
    import redis_lock
    import throttled
    from flask_session.redis import RedisSessionInterface
    from throttled.constants import RateLimiterType

except ModuleNotFoundError as missing:
    raise Skipped(f"{missing.name} is not installed (requirements/dev.txt)") from missing

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aws_lambda_powertools.utilities.idempotency import (
            IdempotencyConfig,
            idempotent_function,
        )
        from aws_lambda_powertools.utilities.idempotency.persistence.redis import (
            RedisCachePersistenceLayer,
        )
except ModuleNotFoundError:  # its idempotency utility imports boto3, whatever it stores in
    RedisCachePersistenceLayer = None

PLENTY = 1_000_000  # hits per second: all are admitted


def contests() -> Iterator[Contest | Fact]:
    """Each primitive in turn, on one server."""
    with redis_server() as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        clock = cpu_clock(server)
        with State(url) as state, redis.Redis.from_url(url) as client:
            made = _Sides(clock)
            yield from rate_limits(state, client, url, made)
            yield from locks(state, client, made)
            yield from idempotency(state, client, made)
            yield from sessions(state, client, server.port, made)
    yield from in_memory(_Sides(time.process_time))


class _Sides:
    """Makes sides that are warm and measured by one clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def __call__(self, code: str, **names: Any) -> Side:
        side = statement(code, clock=self._clock, **names)
        side(50)
        return side


def rate_limits(
    state: State, client: redis.Redis[Any], url: str, made: _Sides
) -> Iterator[Contest | Fact]:
    """Hits that are admitted, and one that is denied for as long as the benchmark takes."""
    ours = state.rate_limit("api", f"{PLENTY}/second")
    fixed = state.rate_limit("fixed", f"{PLENTY}/second", algorithm="fixed window")
    storage = limits.storage.RedisStorage(url)
    theirs = limits.strategies.FixedWindowRateLimiter(storage)
    item = limits.RateLimitItemPerSecond(PLENTY)
    gcra = throttled.Throttled(
        using=RateLimiterType.GCRA.value,
        quota=throttled.per_sec(PLENTY, burst=PLENTY),
        store=throttled.RedisStore(server=url),
    )

    def hit_with_statistics() -> None:
        theirs.hit(item, "ip")
        theirs.get_window_stats(item, "ip")

    yield Fact("exchanges per hit, statistics included", exchanges(client, ours.hit), 1)
    yield Fact(
        "exchanges per hit with statistics: limits", exchanges(client, hit_with_statistics), 3
    )
    yield Contest(
        "rate limit hit with its statistics",
        made("limit.hit('ip')", limit=ours),
        {
            "limits hit + get_window_stats": made("hit()", hit=hit_with_statistics),
            "throttled-py GCRA": made("gcra.limit('ip')", gcra=gcra),
            "limits hit alone": made("hit(item, 'ip')", hit=theirs.hit, item=item),
        },
        {"limits hit + get_window_stats": Faster(2.5), "throttled-py GCRA": Faster(1.3)},
    )
    yield Contest(
        "rate limit hit, fixed window",
        made("limit.hit('ip')", limit=fixed),
        {"limits hit alone": made("hit(item, 'ip')", hit=theirs.hit, item=item)},
    )
    once = state.rate_limit("once", "1/day")
    day = limits.RateLimitItemPerDay(1)
    once.hit("ip")
    assert not once.hit("ip")
    theirs.hit(day, "ip")
    assert not theirs.hit(day, "ip")
    yield Fact("exchanges per denied hit", exchanges(client, lambda: once.hit("ip")), 0)
    yield Contest(
        "denied hit while the denial holds",
        made("limit.hit('ip')", limit=once),
        {"limits": made("hit(day, 'ip')", hit=theirs.hit, day=day)},
        {"limits": Faster(20.0)},
    )


def locks(state: State, client: redis.Redis[Any], made: _Sides) -> Iterator[Contest | Fact]:
    """Nobody else wants it."""
    lock = state.lock("jobs")

    def ours() -> None:
        with lock.acquire("x"):
            pass

    def theirs() -> None:
        with client.lock("jobs", timeout=30):
            pass

    def other() -> None:
        with redis_lock.Lock(client, "other jobs", expire=30):
            pass

    yield Fact("exchanges per acquire + release", exchanges(client, ours), 2)
    yield Contest(
        "lock acquire + release, nobody waits",
        made("use()", use=ours),
        {
            "redis-py Lock": made("use()", use=theirs),
            "python-redis-lock": made("use()", use=other),
        },
        {"redis-py Lock": Faster(1.15)},
    )


class _Context:
    """What the peer asks for the time that is left to its caller."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


def idempotency(state: State, client: redis.Redis[Any], made: _Sides) -> Iterator[Contest | Fact]:
    """A function that returns a small result, called with new keys and with one key."""
    orders = state.idempotency("orders")

    @orders.once(key=lambda order: order["id"])
    def ours(order: dict[str, Any]) -> dict[str, Any]:
        return {"status": "placed", "id": order["id"]}

    new = itertools.count()
    yield Fact(
        "exchanges per call, new key", exchanges(client, lambda: ours({"id": f"n{next(new)}"})), 2
    )
    yield Fact("exchanges per call, replay", exchanges(client, lambda: ours({"id": "again"})), 1)
    if RedisCachePersistenceLayer is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = RedisCachePersistenceLayer(client=client)

    config = IdempotencyConfig(event_key_jmespath="id")
    config.register_lambda_context(_Context())

    @idempotent_function(data_keyword_argument="order", persistence_store=layer, config=config)
    def theirs(order: dict[str, Any]) -> dict[str, Any]:
        return {"status": "placed", "id": order["id"]}

    theirs(order={"id": "again"})
    for what, identity, bar in (
        ("idempotent call, new key", "f'k{next(new)}'", 1.8),
        ("idempotent call, replay", "'again'", 4.0),
    ):
        yield Contest(
            what,
            made(f"call(order={{'id': {identity}}})", call=ours, new=itertools.count(10**6)),
            {
                "Powertools": made(
                    f"call(order={{'id': {identity}}})", call=theirs, new=itertools.count(10**7)
                )
            },
            {"Powertools": Faster(bar)},
        )


def least_session(client: redis.Redis[Any], port: int) -> Callable[[], None]:
    """What any library pays for a session that is loaded and changed atomically: two scripts, and no more.

    One socket that nobody looks after, requests that were put together beforehand, scripts that know
    neither deadlines nor fields, and nothing read from the replies.
    """
    client.set("least", b"x" * 200)
    load = client.script_load("return redis.call('GET', KEYS[1])")
    save = client.script_load(
        "redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])"
    )
    requests = [
        hiredis.pack_command(("EVALSHA", load, "1", "least")),
        hiredis.pack_command(("EVALSHA", save, "1", "least", b"x" * 200, "1800000")),
    ]
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = hiredis.Reader()

    def both() -> None:
        for request in requests:
            sock.sendall(request)
            reader.feed(sock.recv(65536))
            reader.gets()

    return both


def sessions(
    state: State, client: redis.Redis[Any], port: int, made: _Sides
) -> Iterator[Contest | Fact]:
    """A request that changes one field of a session, and one that only reads."""
    ours = state.session()
    fields = {"name": "ada", "cart": ["pen", "ink"], "seen": 0, "theme": "dark"}
    token = ours.create(user="ada", **fields).id
    app = flask.Flask("peer")
    app.secret_key = secrets.token_bytes(32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interface = RedisSessionInterface(app, client)
    theirs: Any = interface
    life = timedelta(days=1)
    theirs._upsert_session(life, dict(fields), "session:a")
    seen = itertools.count(1)

    def change() -> None:
        session = ours.load(token)
        assert session is not None
        session["seen"] = next(seen)
        session.save()

    def their_change() -> None:
        session = theirs._retrieve_session_data("session:a")
        session["seen"] = next(seen)
        theirs._upsert_session(life, session, "session:a")

    def read() -> None:
        session = ours.load(token)
        assert session is not None
        assert session["name"] == "ada"
        session.save()

    def their_read() -> None:  # its interface writes at the end of each request that has a session
        session = theirs._retrieve_session_data("session:a")
        assert session["name"] == "ada"
        theirs._upsert_session(life, session, "session:a")

    yield Fact("exchanges per session load + change + save", exchanges(client, change), 2)
    yield Fact("exchanges per session that is only read", exchanges(client, read), 1)
    yield Contest(
        "session load + change + save",
        made("call()", call=change),
        {
            "Flask-Session's store calls": made("call()", call=their_change),
            "no library: two least scripts": made("call()", call=least_session(client, port)),
        },
        {"Flask-Session's store calls": Faster(2.0)},
    )
    yield Contest(
        "session that is only read",
        made("call()", call=read),
        {"Flask-Session's store calls": made("call()", call=their_read)},
    )


def in_memory(made: _Sides) -> Iterator[Contest | Fact]:
    """The same hit without a server."""
    with contextlib.closing(State("memory://")) as state:
        ours = state.rate_limit("api", f"{PLENTY}/second")
        fixed = state.rate_limit("fixed", f"{PLENTY}/second", algorithm="fixed window")
        theirs = limits.strategies.FixedWindowRateLimiter(limits.storage.MemoryStorage())
        item = limits.RateLimitItemPerSecond(PLENTY)
        peer = {"limits fixed window": made("hit(item, 'ip')", hit=theirs.hit, item=item)}
        bars = {"limits fixed window": Within(1.0)}
        yield Contest("rate limit hit in memory", made("l.hit('ip')", l=ours), peer, bars)
        yield Contest(
            "rate limit hit in memory, fixed window", made("l.hit('ip')", l=fixed), peer, bars
        )
