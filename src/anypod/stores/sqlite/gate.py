"""One writer at a time among threads and processes: a `flock` on a file beside the database.

SQLite's own wait for a lock is a back-off that lets one busy process starve the others. Here every
writer takes its turn before it touches the database.

The first command after another process's is several times as expensive as the next ones, because the
processor and SQLite fetch everything anew. So a process that others wait for goes on, command after
command, for a run of `RUN`, and then gives way to whoever has waited longest. For that all processes share
a few numbers: since when the first in line has been waiting, when the run ends, how many commands there
were. They are hints, read and written without a lock; the lock is the gate alone.

Invariants:
    - inside a process one thread at a time stands at the gate;
    - the wait is bounded: the lock is asked for without blocking, because a blocking `flock` cannot be
      given up, and a holder that was stopped would stop everybody for ever;
    - a process that died in line, and hints that are wrong, hold the others up once, for `ABSENT`;
    - a forked child closes its copy of the file: `flock` belongs to the open file, so a child that
      kept it would hold the gate for as long as it lives, also after its parent was killed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time
from typing import Final

# All in ns of the machine's monotonic clock.
RUN: Final = 3_000_000  # for which a process may go on while others wait
AWAKE: Final = 100_000  # awake; a sleeper may lose its processor for longer
FIRST_PAUSE: Final = 20_000  # between two looks of who sleeps, growing …
LONGEST_PAUSE: Final = 300_000  # … to this for the first in line …
BEHIND_PAUSE: Final = 1_000_000  # … and to this for those behind: each look slows the others down
ABSENT: Final = 3_000_000  # after a run has ended: the first in line does not come any more

FEW: Final = 4  # commands that a newcomer sits out awake
EXCLUSIVE: Final = fcntl.LOCK_EX | fcntl.LOCK_NB

# The numbers that are shared.
FIRST_IN_LINE: Final = 0  # since when it has been waiting; 0 is nobody
END_OF_RUN: Final = 1
ENTERED: Final = 2  # commands that there were
HINTS: Final = bytes(3 * 8)


class GateBusy(TimeoutError):
    """Another writer held the gate for the whole time."""


class Gate:
    """The gate of one database. A context manager; not reentrant.

    Args:
        path: the file to lock, which also holds the hints; created if missing, never removed.
        timeout: seconds to wait for a turn.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._turn = threading.Lock()
        self._file: int | None = None
        self._hints = memoryview(bytearray(HINTS)).cast("q")
        self._end = 0  # of this process's latest run
        self._visited = 0  # the end of another's run, in which this process has had a command

    def __enter__(self) -> None:
        turn = self._turn
        left = self._timeout
        if not turn.acquire(False):
            start = time.monotonic()
            if not turn.acquire(timeout=left):
                raise self._busy("another thread of this process")
            left -= time.monotonic() - start
        try:
            file = self._file
            if file is None:
                file = self._open()
            hints = self._hints
            if hints[FIRST_IN_LINE] and time.monotonic_ns() > self._end:
                self._wait(file, left, awake=False)
            else:
                try:
                    fcntl.flock(file, EXCLUSIVE)
                except BlockingIOError:
                    self._wait(file, left, awake=hints[END_OF_RUN] != self._visited)
            hints[ENTERED] += 1
        except BaseException:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)
            turn.release()
            raise

    def __exit__(self, *failure: object) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._turn.release()

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if os.fstat(file).st_size < len(HINTS):
                os.pwrite(file, HINTS, 0)  # a hole would kill who fills it on a full disk
            # A mapping keeps its file open, so it has one of its own, which is never locked.
            own = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._hints = memoryview(mmap.mmap(own, len(HINTS))).cast("q")
            finally:
                os.close(own)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return file

    def _wait(self, file: int, left: float, awake: bool) -> None:
        """Stand in line until the gate is this process's.

        A newcomer stays awake first, because who is inside is usually out at once. One that gets in like
        this during another's run is a visitor, once in that run; everybody else begins a run of its own.

        Args:
            file: the gate's.
            left: seconds to wait.
            awake: whether this is a newcomer.
        """
        hints = self._hints
        now = arrived = time.monotonic_ns()
        before = entered = hints[ENTERED]
        pause = FIRST_PAUSE
        try:
            while now - arrived < left * 1e9:
                first = hints[FIRST_IN_LINE]
                if not first or arrived < first:
                    hints[FIRST_IN_LINE] = first = arrived
                to_go = self._to_go(now)
                awake = awake and now - arrived < AWAKE and hints[ENTERED] - before < FEW
                if awake:
                    look = True
                elif first == arrived and -AWAKE < to_go < AWAKE:
                    look = to_go <= 0
                else:
                    if first == arrived:
                        pause = min(pause, LONGEST_PAUSE)
                        if 0 < to_go - AWAKE // 2 < pause:
                            pause = to_go - AWAKE // 2
                    time.sleep(pause * 1e-9)
                    now = time.monotonic_ns()
                    pause = min(pause * 2, BEHIND_PAUSE)
                    to_go = self._to_go(now)
                    last, entered = entered, hints[ENTERED]
                    idle = last == entered  # whoever has the run does not use it
                    look = to_go < -ABSENT or (first == arrived and (to_go <= 0 or idle))
                if look:
                    try:
                        fcntl.flock(file, EXCLUSIVE)
                        break
                    except BlockingIOError:
                        pass
                now = time.monotonic_ns()
            else:
                raise self._busy("another process")
        finally:
            if hints[FIRST_IN_LINE] == arrived:
                hints[FIRST_IN_LINE] = 0
        if awake and to_go > 0 and hints[END_OF_RUN] != self._end:
            self._visited = hints[END_OF_RUN]
        else:
            hints[FIRST_IN_LINE] = 0  # who waits says so again; who is dead does not
            hints[END_OF_RUN] = self._end = now + RUN

    def _to_go(self, now: int) -> int:
        """The ns that are left of the run; what was noted before the machine last started is no run."""
        to_go = self._hints[END_OF_RUN] - now
        return to_go if to_go <= RUN else -2 * ABSENT

    def end_run(self) -> None:
        """Whoever has the run will not come back soon: let the next one in at once."""
        if self._hints[END_OF_RUN] == self._end:
            self._hints[END_OF_RUN] = self._end = time.monotonic_ns()

    def _busy(self, who: str) -> GateBusy:
        return GateBusy(
            f"{who} kept the gate {self.path} for {self._timeout:g} s: is a process stopped, or the "
            f"disk stuck? `fuser {self.path}` shows who has it open"
        )

    def hold(self, seconds: float) -> bool:
        """Keep this process's other threads out, without locking out other processes."""
        return self._turn.acquire(timeout=seconds)

    def let_go(self) -> None:
        """After `hold`."""
        self._turn.release()

    def shut(self) -> None:
        """Close the file, while nobody is behind the gate; entering opens it again."""
        file, self._file = self._file, None
        self._hints = memoryview(bytearray(HINTS)).cast("q")
        if file is not None:
            os.close(file)

    def forget(self) -> None:
        """In a forked child: close the inherited file and start afresh."""
        self._turn = threading.Lock()
        self._end = self._visited = 0
        self.shut()

    def close(self) -> None:
        """Close the file; entering again opens it again."""
        with self._turn:
            self.shut()
