"""Wakes processes that wait for something to appear in the database, without busy polling.

Each waiting process keeps a named pipe in the folder `DATABASE-wake`; who has committed something that
others wait for writes one byte into each of them. The byte says "look", nothing more.

Invariants:
    - what is waited for is in the database; a byte that is lost delays it by at most `HEARTBEAT`;
    - ringing never blocks, and removes the pipes of processes that have died: a pipe has its name only
      while somebody reads it or after, so that one which is being made is not taken for a dead one's;
    - a forked child has a pipe of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import select
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

HEARTBEAT: Final = 1.0  # seconds until a waiter looks by itself
_UNREAD: Final = "new-"  # before the name of a pipe that its process has not opened yet


class Bell:
    """The bell of one database.

    Args:
        folder: where the pipes are; made when somebody first waits.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self.forget()

    def forget(self) -> None:
        """Start without a thread and a pipe: at first, and in a forked child."""
        self._rung = threading.Condition(threading.Lock())
        self._rings = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._thread: threading.Thread | None = None
        self._pipe: Path | None = None

    # --- waiting

    def wait_for(self, look: Callable[[], T | None], seconds: float) -> T | None:
        """Look until there is something, or the time is up."""
        end = time.monotonic() + seconds
        self._listen()
        while True:
            seen = self._rings
            found = look()
            left = end - time.monotonic()
            if found is not None or left <= 0:
                return found
            with self._rung:
                self._rung.wait_for(lambda seen=seen: self._rings != seen, min(left, HEARTBEAT))  # type: ignore[misc]

    async def await_for(self, look: Callable[[], Awaitable[T | None]], seconds: float) -> T | None:
        """`wait_for`, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self._listen()
        while True:
            waiter: asyncio.Future[None] = loop.create_future()
            with self._rung:
                self._waiters.add(waiter)
            try:
                found = await look()
                left = end - loop.time()
                if found is not None or left <= 0:
                    return found
                await asyncio.wait({waiter}, timeout=min(left, HEARTBEAT))
            finally:
                with self._rung:
                    self._waiters.discard(waiter)
                waiter.cancel()

    def _listen(self) -> None:
        with self._rung:
            if self._thread is not None:
                return
            self._folder.mkdir(exist_ok=True)
            name = f"{os.getpid()}.{secrets.token_hex(4)}"
            unread = self._folder / (_UNREAD + name)
            os.mkfifo(unread)
            # Open for writing too, so that the pipe never ends while others come and go.
            file = os.open(unread, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            self._pipe = unread.rename(self._folder / name)
            self._thread = threading.Thread(
                target=self._run, args=(file,), name="anypod-sqlite-bell", daemon=True
            )
            self._thread.start()

    def _run(self, file: int) -> None:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        me = threading.current_thread()
        while self._thread is me:
            if poll.poll(HEARTBEAT * 1000):
                with contextlib.suppress(BlockingIOError):
                    os.read(file, 65536)
            with self._rung:
                self._rings += 1
                self._rung.notify_all()
                waiters = tuple(self._waiters)
            for waiter in waiters:
                with contextlib.suppress(RuntimeError):  # its loop was closed
                    waiter.get_loop().call_soon_threadsafe(_wake, waiter)
        os.close(file)

    # --- ringing

    def ring(self) -> None:
        """Make every waiting process look; what cannot be rung is not, for the heartbeat is there."""
        try:
            pipes = list(self._folder.iterdir())
        except OSError:
            return  # nobody has ever waited, or not where this process may look
        for pipe in pipes:
            if pipe.name.startswith(_UNREAD):
                continue
            try:
                file = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as failure:
                if failure.errno == errno.ENXIO:  # nobody reads: its process is gone
                    with contextlib.suppress(OSError):
                        pipe.unlink(missing_ok=True)
                continue
            try:
                os.write(file, b"!")
            except OSError:
                pass  # full of bytes that say the same, or its process has just gone
            finally:
                os.close(file)

    def close(self) -> None:
        """Wait no more."""
        with self._rung:
            thread, self._thread = self._thread, None
            pipe, self._pipe = self._pipe, None
        if thread is None or pipe is None:
            return
        with contextlib.suppress(OSError):
            file = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(file, b"!")
            os.close(file)
        thread.join()
        pipe.unlink(missing_ok=True)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
