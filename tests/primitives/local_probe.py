"""What the tests of the local layer share: a clock, a bounded poll, a look at who waits."""

import threading
import time
from collections.abc import Callable, Hashable

from anypod import LocalCache


class Clock:
    """Monotonic seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.001)


def callers(cache: LocalCache, key: Hashable) -> int:
    """How many callers share the flight of a (typed) key."""
    flight = cache._flights._flights.get(key)
    return 0 if flight is None else flight.callers


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """Run `work(i)` in threads at once; its results or exceptions in order."""
    results: list[object] = [None] * count

    def run(index: int) -> None:
        try:
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a caller hangs"
    return results
