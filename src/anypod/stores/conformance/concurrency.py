"""Many at once: threads, processes, event loops. Whatever the order, the bounds are exact."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import chain
from typing import Final

from anypod import commands as c
from anypod.stores import Store
from anypod.stores.conformance.ground import (
    PATIENCE,
    Ground,
    align,
    fresh,
    in_processes,
    in_threads,
)

THREADS: Final = 6
PROCESSES: Final = 3
STEPS: Final = 40


def _additions(store: Store, key: str, steps: int = STEPS) -> list[int]:
    return [store.execute(c.Add(key)).value for _ in range(steps)]


def threads_count_exactly(ground: Ground) -> None:
    """N increments from many threads give N different values, 1 to N."""
    key = fresh("counter")
    with ground.store() as store:
        values = in_threads([lambda: _additions(store, key)] * THREADS)
    assert sorted(chain(*values)) == list(range(1, THREADS * STEPS + 1))
    assert all(mine == sorted(mine) for mine in values), "one thread saw the counter go back"


def processes_count_exactly(ground: Ground) -> None:
    """N increments from many processes give N different values, 1 to N."""
    with ground.store() as store:
        if not ground.shared(store):
            return

    key = fresh("counter")

    def work() -> list[int]:
        with ground.store() as store:
            return _additions(store, key)

    values = in_processes([work] * PROCESSES)
    assert sorted(chain(*values)) == list(range(1, PROCESSES * STEPS + 1))


def an_operation_id_counts_once(ground: Ground) -> None:
    """Threads that repeat one operation add once, and all hear the same."""
    key = fresh("counter")
    with ground.store() as store:
        command = c.Add(key, by=3, once="the same")
        replies = in_threads([lambda: store.execute(command)] * THREADS)
        assert set(replies) == {c.Added(3, c.AddOutcome.ADDED)}
        assert store.execute(c.Total(key)) == 3


def a_ceiling_is_never_passed(ground: Ground) -> None:
    """Exactly as many steps are made as fit, and the refused ones are told the truth."""
    key = fresh("counter")
    with ground.store() as store:

        def work() -> list[c.Added]:
            return [store.execute(c.Add(key, ceiling=50)) for _ in range(STEPS)]

        replies = list(chain(*in_threads([work] * THREADS)))
    added = [reply.value for reply in replies if reply.outcome is c.AddOutcome.ADDED]
    assert sorted(added) == list(range(1, 51))
    refused = [reply.value for reply in replies if reply.outcome is c.AddOutcome.REFUSED]
    assert refused == [50] * len(refused), "a refusal told a value that did not stand"


def compare_and_swap_loses_nothing(ground: Ground) -> None:
    """Read, change, write over the same version, again on conflict: nothing is overwritten."""
    key = fresh("value")
    with ground.store() as store:

        def work() -> list[int]:
            mine = []
            for _ in range(STEPS // 4):
                current = store.execute(c.Get(key))
                while True:
                    value = int(current.value) + 1 if current else 1
                    expect = current.version if current else 0
                    reply = store.execute(c.Put(key, str(value).encode(), expect=expect))
                    if reply.written:
                        break
                    current = reply.current
                mine.append(value)
            return mine

        values = in_threads([work] * THREADS)
    assert sorted(chain(*values)) == list(range(1, THREADS * (STEPS // 4) + 1))


def one_claim_is_granted(ground: Ground) -> None:
    """Of many who claim at once, one is granted; tokens grow from holder to holder."""
    key = fresh("claim")
    last = 0
    with ground.store() as store:
        for _ in range(5):
            replies = in_threads([lambda: store.execute(c.Claim(key, "f", 60, 60))] * THREADS)
            granted = [reply for reply in replies if reply.status is c.ClaimStatus.GRANTED]
            assert len(granted) == 1, f"{len(granted)} of {THREADS} were granted one claim"
            assert granted[0].token > last
            last = granted[0].token
            assert store.execute(c.Abandon(key, last))


def a_tag_has_one_version(ground: Ground) -> None:
    """Who asks for a tag's version at once hears the same one, until an invalidation, and no one goes back."""
    key = fresh("tag")
    last = 0
    with ground.store() as store:
        for _ in range(5):
            heard = set(in_threads([lambda: store.execute(c.CacheVersion(key, 60))] * THREADS))
            assert len(heard) == 1, f"one tag had the versions {sorted(heard)}"
            assert heard.pop() >= last
            last = max(in_threads([lambda: store.execute(c.CacheInvalidate(key))] * THREADS))


def slots_are_never_overbooked(ground: Ground) -> None:
    """No more slots are held at once than there are, and each gets a token of its own."""
    key = fresh("slots")
    with ground.store() as store:

        def ask(number: int) -> c.Acquired:
            return store.execute(c.Acquire(key, f"w{number}", 600, patience=600, limit=2))

        work = [lambda n=number: ask(n) for number in range(THREADS)]
        replies = in_threads(work)
        tokens = [reply.token for reply in replies if reply.token is not None]
        assert len(tokens) == 2, f"{len(tokens)} hold 2 slots"
        assert len(set(tokens)) == 2
        places = sorted(reply.position for reply in replies if reply.token is None)
        assert places == list(range(1, THREADS - 1)), f"queued at {places}"
        assert store.execute(c.Release(key, tokens[0]))
        served = [number for number in range(THREADS) if ask(number).token not in (None, tokens[1])]
        first = next(number for number, reply in enumerate(replies) if reply.position == 1)
        assert served == [first], f"after {replies!r} the slot went to {served}"


def a_limit_is_shared(ground: Ground) -> None:
    """What many threads are admitted together is what one would be, for every policy."""
    with ground.store() as store:
        align(store)
        for algorithm in c.Algorithm:
            take = c.Take(fresh("limit"), (c.Policy(algorithm, 20, 10_000.0, 20),))

            def work(take: c.Take = take) -> int:
                return sum(store.execute(take).admitted for _ in range(10))

            admitted = sum(in_threads([work] * THREADS))
            assert admitted == 20, f"{algorithm} admitted {admitted} of 20"


def patches_of_one_document_all_stay(ground: Ground) -> None:
    """Different fields that are set at once all stand afterwards."""
    key = fresh("document")
    with ground.store() as store:

        def work(number: int) -> None:
            for step in range(10):
                field = {f"{number}.{step}": b"x"}
                store.execute(c.PatchDocument(key, field, existence=c.Existence.EITHER))

        in_threads([lambda n=number: work(n) for number in range(THREADS)])  # type: ignore[misc]
        document = store.execute(c.ReadDocument(key))
    assert document is not None
    assert len(document.fields) == THREADS * 10


def event_loops_count_exactly(ground: Ground) -> None:
    """Tasks of several event loops, in several threads, get distinct replies."""
    key = fresh("counter")
    done = threading.Barrier(3)
    with ground.store() as store:

        async def work() -> list[int]:
            try:
                replies = await asyncio.gather(*(store.aexecute(c.Add(key)) for _ in range(100)))
                await asyncio.to_thread(done.wait, PATIENCE)
            finally:
                await store.aclose()
            return [reply.value for reply in replies]

        values = in_threads([lambda: asyncio.run(work())] * 3)
    assert sorted(chain(*values)) == list(range(1, 301))


def a_cancelled_task_harms_no_other(ground: Ground) -> None:
    """Neighbours of a cancelled command get their own replies, and later commands too."""
    cancelled, key = fresh("counter"), fresh("counter")

    async def work(store: Store) -> None:
        await store.aexecute(c.Add(key, 0))  # what an engine prepares at first may cost the order
        for _ in range(5):
            first = asyncio.ensure_future(store.aexecute(c.Add(cancelled)))
            others = [asyncio.ensure_future(store.aexecute(c.Add(key))) for _ in range(20)]
            await asyncio.sleep(0)
            first.cancel()
            values = [(await other).value for other in others]
            assert values == sorted(values), "replies came in another order than requests"
            assert len(set(values)) == 20
        assert await store.aexecute(c.Total(key)) == 100
        await store.aclose()

    with ground.store() as store:
        asyncio.run(work(store))


def one_failed_command_harms_no_other(ground: Ground) -> None:
    """In a group, a command that fails leaves its neighbours alone."""
    key, other = fresh("counter"), fresh("value")
    with ground.store() as store:
        store.execute(c.Put(other, b"a value"))
        replies = store.driver.execute_many([c.Add(key), c.Add(other), c.Add(key), c.Get(other)])
        assert isinstance(replies[1], Exception)
        assert [replies[0].value, replies[2].value, replies[3].value] == [1, 2, b"a value"]


CHECKS: Final[tuple[Callable[[Ground], None], ...]] = (
    threads_count_exactly,
    processes_count_exactly,
    an_operation_id_counts_once,
    a_ceiling_is_never_passed,
    compare_and_swap_loses_nothing,
    one_claim_is_granted,
    a_tag_has_one_version,
    slots_are_never_overbooked,
    a_limit_is_shared,
    patches_of_one_document_all_stay,
    event_loops_count_exactly,
    a_cancelled_task_harms_no_other,
    one_failed_command_harms_no_other,
)
