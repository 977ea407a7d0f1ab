"""One writer at a time among threads and processes: a `flock` on a file beside the database.

SQLite's own wait for a lock is a back-off that lets one busy process starve the others. Here every
writer takes its turn before it touches the database.

Invariants:
    - inside a process one thread at a time stands at the gate;
    - the wait is bounded: the lock is asked for without blocking, because a blocking `flock` cannot be
      given up, and a holder that was stopped would stop everybody for ever;
    - a forked child closes its copy of the file: `flock` belongs to the open file, so a child that
      kept it would hold the gate for as long as it lives, also after its parent was killed.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from typing import Final

FIRST_PAUSE: Final = 20e-6  # seconds between two looks at a gate that somebody else holds …
LONGEST_PAUSE: Final = 50e-6  # … which is about four commits
PATIENT_AFTER: Final = 0.25  # seconds after which looking so often is no use any more
PATIENT_PAUSE: Final = 1e-3


class GateBusy(TimeoutError):
    """Another writer held the gate for the whole time."""


class Gate:
    """The gate of one database. A context manager; not reentrant.

    Args:
        path: the file to lock; created if missing, never written to, never removed.
        timeout: seconds to wait for a turn.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._turn = threading.Lock()
        self._file: int | None = None

    def __enter__(self) -> None:
        turn = self._turn
        if not turn.acquire(blocking=False):
            start = time.monotonic()
            if not turn.acquire(timeout=self._timeout):
                raise self._busy("another thread of this process")
            left = self._timeout - (time.monotonic() - start)
        else:
            left = self._timeout
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._wait(self._file, left)
        except BaseException:
            turn.release()
            raise

    def __exit__(self, *failure: object) -> None:
        assert self._file is not None
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._turn.release()

    def _wait(self, file: int, left: float) -> None:
        start = time.monotonic()
        pause = FIRST_PAUSE
        while True:
            time.sleep(pause)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = time.monotonic() - start
                if waited >= left:
                    raise self._busy("another process") from None
                pause = min(pause * 1.5, LONGEST_PAUSE) if waited < PATIENT_AFTER else PATIENT_PAUSE
            else:
                return

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
        if file is not None:
            os.close(file)

    def forget(self) -> None:
        """In a forked child: close the inherited file and start afresh."""
        self._turn = threading.Lock()
        self.shut()

    def close(self) -> None:
        """Close the file; entering again opens it again."""
        with self._turn:
            self.shut()
