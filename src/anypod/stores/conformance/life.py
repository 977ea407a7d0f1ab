"""The life of a store: forked, reopened, told the wrong time, given extreme values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from anypod import commands as c
from anypod.errors import RecordError, StoreError
from anypod.stores import Capability, Store
from anypod.stores.conformance.ground import (
    PATIENCE,
    Child,
    Ground,
    fresh,
    in_threads,
    store_clock,
)

LONG: Final = 3_600.0  # seconds: does not run out while a check runs


def records_outlive_the_store(ground: Ground) -> None:
    """What was acknowledged is there when the store is opened again."""
    key = fresh("value")
    with ground.store() as store:
        if not ground.shared(store):
            return
        written = store.execute(c.Put(key, b"kept"))
    with ground.store() as store:
        assert store.execute(c.Get(key)) == written.current


def a_closed_store_opens_again(ground: Ground) -> None:
    """What uses a store after it was closed, in a thread or a task, gets connections anew."""
    key = fresh("counter")
    with ground.store() as store:
        assert store.execute(c.Add(key)).value == 1
        for expected in (2, 4, 6):
            store.close()
            assert store.execute(c.Add(key)).value == expected

            async def work() -> int:
                await store.aclose()
                reply = await store.aexecute(c.Add(key))
                await store.aclose()
                return reply.value

            assert asyncio.run(work()) == expected + 1


def a_forked_child_uses_the_same_store(ground: Ground) -> None:
    """Parent and child go on with one store object, at the same time, each on its own connection."""
    key = fresh("counter")
    with ground.store() as store:
        if not ground.shared(store):
            return
        store.execute(c.Add(key))
        in_threads([lambda: store.execute(c.Add(key))] * 3)

        def work() -> list[int]:
            own = [store.execute(c.Add(key)).value for _ in range(30)]

            async def more() -> list[int]:
                replies = await asyncio.gather(*(store.aexecute(c.Add(key)) for _ in range(30)))
                await store.aclose()
                return [reply.value for reply in replies]

            return own + asyncio.run(more())

        children = [Child(work) for _ in range(2)]
        mine = [store.execute(c.Add(key)).value for _ in range(30)]
        values = mine + [value for child in children for value in child.result()]
        values += [store.execute(c.Add(key)).value for _ in range(10)]
    assert sorted(values) == list(range(5, 5 + len(values))), "parent and child shared a connection"


def a_fork_inside_an_event_loop(ground: Ground) -> None:
    """A child that is forked while commands are under way harms none of them."""
    key = fresh("counter")

    async def work() -> list[int]:
        replies = [(await store.aexecute(c.Add(key))).value]
        for _ in range(5):
            under_way = [asyncio.ensure_future(store.aexecute(c.Add(key))) for _ in range(50)]
            await asyncio.sleep(0)
            child = Child(lambda: store.execute(c.Add(key)).value)
            replies += [(await one).value for one in under_way]
            replies.append(await asyncio.to_thread(child.result))
        await store.aclose()
        return replies

    with ground.store() as store:
        if not ground.shared(store):
            return
        assert sorted(asyncio.run(work())) == list(range(1, 257))


def the_clock_is_the_stores(ground: Ground) -> None:
    """A client whose clock is an hour ahead writes no later version and expires nothing."""
    key = fresh("value")
    with ground.store() as store:
        if Capability.NETWORKED not in store.driver.capabilities:
            return
        store.execute(c.Put(key, b"x", ttl=600.0))
        before = store_clock(store)
        with _an_hour_ahead():
            assert abs(store_clock(store) - before) < 600, "the client's clock reached the store"
            assert store.execute(c.Get(key)) is not None


@contextmanager
def _an_hour_ahead() -> Iterator[None]:
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + 3_600
    time.time_ns = lambda: real_ns() + 3_600_000_000_000
    try:
        yield
    finally:
        time.time, time.time_ns = real, real_ns


def values_come_back_as_they_were(ground: Ground) -> None:
    """Empty, binary and large values, odd names, and the largest integers are exact."""
    with ground.store() as store:
        for value in (b"", bytes(range(256)), b"\r\n$-1\r\n", b"x" * 3_000_000):
            key = fresh("value")
            store.execute(c.Put(key, value))
            found = store.execute(c.Get(key))
            assert found is not None
            assert found.value == value, f"a value of {len(value)} bytes came back changed"
        key = fresh("document")
        fields = {
            "": b"",
            "1": b"one",
            "ä☃𝄞": b"\xff",
            "a b\r\n": b"",
            "long" * 200: b"x" * 100_000,
        }
        store.execute(c.PatchDocument(key, fields, existence=c.Existence.NEW))
        document = store.execute(c.ReadDocument(key))
        assert document is not None
        assert document.fields == fields
        for edge in (c.MAX_INTEGER, -c.MAX_INTEGER):
            key, step = fresh("counter"), 1 if edge > 0 else -1
            assert store.execute(c.Add(key, edge - step)).value == edge - step
            assert store.execute(c.Add(key, step)).value == edge
            assert store.execute(c.Add(key, step)) == c.Added(edge, c.AddOutcome.REFUSED)
            assert store.execute(c.Add(key, edge)) == c.Added(edge, c.AddOutcome.REFUSED)
            assert store.execute(c.Total(key)) == edge


def keys_are_exact(ground: Ground) -> None:
    """Keys that look alike are different, and none is a pattern."""
    base = fresh("keys")
    alike = [base + end for end in ("", "*", "?", "[a]", "%", "_", "A", "a", "a ", "\\", "'", '"')]
    with ground.store() as store:
        for number, key in enumerate(alike):
            store.execute(c.Put(key, str(number).encode()))
        for number, key in enumerate(alike):
            found = store.execute(c.Get(key))
            assert found is not None
            assert found.value == str(number).encode(), f"{key!r} met another key"
        after: str | None = ""
        met: set[str] = set()
        while after is not None:
            page = store.execute(c.Scan(base + "*", after))
            met.update(key for key, _ in page.items)
            after = page.after
        assert met == {base + "*"}, f"a prefix was read as a pattern: {met!r}"


def a_record_of_another_kind_is_an_error(ground: Ground) -> None:
    """A command on a record of another kind fails by name and changes nothing."""
    key = fresh("value")
    with ground.store() as store:
        written = store.execute(c.Put(key, b"value"))
        others: tuple[c.Command[Any], ...] = (
            c.Add(key),
            c.Claim(key, "f", 1, 1),
            c.EndDocument(key, 1),
        )
        for command in others:
            failure = _failure(store, command)
            assert isinstance(failure, RecordError), f"{command!r} on a value: {failure!r}"
            assert type(command).__name__ in str(failure)
        assert store.execute(c.Get(key)) == written.current


def _failure(store: Store, command: c.Command[Any]) -> Any:
    """The error of a command, or else its reply."""
    try:
        return store.execute(command)
    except StoreError as failure:
        return failure


def a_slot_that_falls_free_is_announced(ground: Ground) -> None:
    """The first in the queue is told, once, whether it waits already or comes later to look."""
    key = fresh("slots")
    box = c.mailbox(key, "second")
    with ground.store() as store:
        held = store.execute(c.Acquire(key, "first", LONG)).token
        assert held is not None
        store.execute(c.Acquire(key, "second", LONG, patience=LONG))
        assert not store.receive(box, 0.0), "told before anything happened"
        assert not store.receive(box, 0.05)
        told, _ = in_threads(
            [lambda: store.receive(box, PATIENCE), lambda: store.execute(c.Release(key, held))]
        )
        assert told, "nobody told the waiter"
        token = store.execute(c.Acquire(key, "second", LONG)).token
        assert token is not None
        store.execute(c.Acquire(key, "third", LONG, patience=LONG))
        store.execute(c.Release(key, token))
        late = c.mailbox(key, "third")

        async def work() -> None:
            assert await store.areceive(late, 0.05), "told before it looked, and the word was lost"
            assert not await store.areceive(late, 0.05), "told twice"
            waiting = asyncio.ensure_future(store.areceive(box, PATIENCE))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await store.aexecute(c.Get(fresh("value"))) is None
            await store.aclose()

        asyncio.run(work())


def a_waiter_in_another_process_is_told(ground: Ground) -> None:
    """A slot given back here wakes a process that waits for it."""
    key = fresh("slots")
    with ground.store() as store:
        if not ground.shared(store):
            return
        held = store.execute(c.Acquire(key, "first", LONG)).token
        assert held is not None
        store.execute(c.Acquire(key, "second", LONG, patience=LONG))

        def work() -> bool:
            with ground.store() as other:
                return other.receive(c.mailbox(key, "second"), PATIENCE)

        child = Child(work)
        store.execute(c.Release(key, held))
        assert child.result()


def listeners_hear_what_is_published(ground: Ground) -> None:
    """Every listener gets every message of its channel, in order, from when it began to listen."""
    channel, other = fresh("channel"), fresh("channel")
    with ground.store() as store:
        store.execute(c.Publish(channel, b"before anybody listened"))
        listeners = [store.driver.listen(channel) for _ in range(2)]
        for number in range(20):
            store.execute(c.Publish(channel, b"%d" % number))
            store.execute(c.Publish(other, b"not for them"))
        for listener in listeners:
            heard = [listener.get(PATIENCE) for _ in range(20)]
            assert heard == [b"%d" % number for number in range(20)]
            assert listener.get(0.05) is None
        said, _ = in_threads(
            [
                lambda: listeners[0].get(PATIENCE),
                lambda: store.execute(c.Publish(channel, b"\x00\xff")),
            ]
        )
        assert said == b"\x00\xff"
        for listener in listeners:
            listener.close()


CHECKS: Final[tuple[Callable[[Ground], None], ...]] = (
    records_outlive_the_store,
    a_closed_store_opens_again,
    a_forked_child_uses_the_same_store,
    a_fork_inside_an_event_loop,
    the_clock_is_the_stores,
    values_come_back_as_they_were,
    keys_are_exact,
    a_record_of_another_kind_is_an_error,
    a_slot_that_falls_free_is_announced,
    a_waiter_in_another_process_is_told,
    listeners_hear_what_is_published,
)
