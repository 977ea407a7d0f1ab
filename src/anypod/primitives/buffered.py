"""Buffered counters: for page views and the like, where a few lost on a kill are no harm.

Increments are added up in the process and sent when enough have come or some time has passed, at the end
of the process and at SIGTERM. What `kill -9` or a lost node takes with it is what was not sent yet: at
most `size` increments, and none older than `every` seconds plus one exchange; while the store is away, all
that has come since.

Invariants:
    - nothing counts twice: each flush carries an operation id and is repeated under it until the store has
      answered;
    - an increment costs no exchange and takes no lock for longer than an addition;
    - the buffer holds a bounded number of keys; past it, increments are made in the store at once;
    - a forked child begins empty: what its parent has buffered, the parent sends.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import uuid
import weakref
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self

from anypod.commands import MAX_INTEGER
from anypod.durations import check_durations, shown
from anypod.errors import ConfigurationError, Conflict, OutcomeUnknown, StoreError, StoreUnavailable
from anypod.flow import run
from anypod.keys import Key, encode
from anypod.primitives.degraded import degraded

if TYPE_CHECKING:
    from anypod.primitives.counter import Counter

MOST_KEYS: Final = 65_536  # that wait to be sent

LIVE: weakref.WeakSet[BufferedCounter] = weakref.WeakSet()


class BufferedCounter:
    """Counts in the process and sends now and then. Made by `Counter.buffered`.

    Args:
        counter: where to send to.
        every: seconds after which what has come is sent.
        size: increments after which it is sent at once, by whoever makes the last one.
    """

    def __init__(self, counter: Counter, *, every: float = 1.0, size: int = 1_000) -> None:
        owner = f"buffered counter {counter.name!r}"
        check_durations(owner, every=every)
        if type(size) is not int or size < 1:
            raise ConfigurationError(
                f"{owner}: size must be an int from 1 on, not {shown(size)}; 1000 is usual"
            )
        self._counter = counter
        self._every = every
        self._size = size
        self._begin()
        LIVE.add(self)
        _flush_at_the_end()

    def _begin(self) -> None:
        # Reentrant: the handler of SIGTERM flushes, and may have interrupted this very thread in here.
        self._lock = threading.RLock()
        self._sending = threading.RLock()
        self._wake = threading.Event()
        # By address: 1 is not True, and a key that a client chose is not kept in its full length.
        self._sums: dict[str, int] = {}
        self._pending = 0
        self._unsent: list[tuple[str, int, str]] = []
        self._unsent_count = 0
        self._thread: threading.Thread | None = None

    def increment(self, key: Key = None, *, by: int = 1) -> None:
        """Count; the store hears of it later.

        Raises:
            ValueError: a step that is no int within ±(2**53 - 1), or with which what has come would not be.
            StoreError: only while 65,536 other keys wait to be sent: then this one is counted in the store.
        """
        if type(by) is not int or not -MAX_INTEGER <= by <= MAX_INTEGER:
            raise self._too_much(by)
        address = self._counter.address(key)
        with self._lock:
            total = self._sums.get(address, 0) + by
            if not -MAX_INTEGER <= total <= MAX_INTEGER:
                raise self._too_much(by)
            room = address in self._sums or len(self._sums) < MOST_KEYS
            if room:
                self._sums[address] = total
                self._pending += 1
            # While something could not be sent, the thread tries at its own pace.
            full = self._pending >= self._size and not self._unsent
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"anypod-buffered-{self._counter.name}", daemon=True
                )
                self._thread.start()
        if full:
            self._wake.set()
        if not room:
            self._counter.increment(key, by=by)

    def _too_much(self, by: object) -> ValueError:
        return ValueError(
            f"buffered counter {self._counter.name!r}: a step must be an int, and all that has come within "
            f"±(2**53 - 1), not {shown(by)}; flush() sends what has come"
        )

    @property
    def pending(self) -> int:
        """How many increments the store has not heard of."""
        with self._lock:
            return self._pending + self._unsent_count

    def flush(self) -> None:
        """Send what has come.

        Raises:
            StoreError: the store did not answer; nothing is lost, the next flush sends it again. (Where what
                stands at a key is no counter, or is at the end of what one holds, its increments are lost:
                an event each says so, and a log line now and then.)
        """
        with self._sending:
            if self._unsent:  # of an earlier flush; only then what has come since
                self._send()
            with self._lock:
                self._unsent = [
                    (address, by, encode(uuid.uuid4().hex)) for address, by in self._sums.items()
                ]
                self._unsent_count = self._pending
                self._sums, self._pending = {}, 0
            self._send()

    def _send(self) -> None:
        while self._unsent:
            address, by, operation = self._unsent[-1]
            if by:
                try:
                    run(self._counter.store, self._counter.step(address, by, operation))
                except (StoreUnavailable, OutcomeUnknown, Conflict):
                    raise  # kept, and sent again under the same id
                except Exception as failure:  # noqa: BLE001  # what troubles one key must not hold up the others
                    degraded(self._counter.store, "counter", self._counter.name, "drop", failure)
            self._unsent.pop()
        with self._lock:
            self._unsent_count = 0

    def close(self) -> None:
        """Send what has come and stop; increments after this start again."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        """Send every so often; end when a whole period brought nothing."""
        while True:
            self._wake.wait(self._every)
            self._wake.clear()
            try:
                self.flush()
            except StoreError as failure:
                degraded(self._counter.store, "counter", self._counter.name, "keep", failure)
            with self._lock:
                if not self._pending and not self._unsent:
                    self._thread = None
                    return


def _flush_all() -> None:
    for counter in list(LIVE):
        try:
            counter.flush()
        except StoreError:
            continue  # the process ends: what it can lose is documented


def _forget_all() -> None:
    for counter in list(LIVE):
        counter._begin()  # noqa: SLF001  # the same module


os.register_at_fork(after_in_child=_forget_all)

_installed = False


def _flush_at_the_end() -> None:
    """Flush at exit, and at a SIGTERM that nobody else handles (a server's own handler ends in exit)."""
    global _installed  # noqa: PLW0603  # once per process
    if _installed:
        return
    _installed = True
    atexit.register(_flush_all)
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> Any:  # noqa: ARG001
    _flush_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
