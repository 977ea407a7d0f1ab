"""One worker thread that executes what event loops ask for, in groups.

Invariants:
    - whatever is queued when the worker is free is one group, at most `LARGEST_GROUP` commands;
    - each waiter gets the reply to its own command; a waiter that was cancelled is skipped and harms
      no other;
    - the queue is bounded: past `LONGEST_QUEUE` commands a caller waits its turn to queue;
    - the thread starts with the first command, is not inherited by a forked child, and ends with
      `close`, after what is queued.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from anypod.commands import Command

LARGEST_GROUP: Final = 512
LONGEST_QUEUE: Final = 8192

Waiter: TypeAlias = "asyncio.Future[Any]"


class GroupWorker:
    """Executes commands for event loops, in groups.

    Args:
        execute_many: executes a group; a failed command's error stands in the place of its reply.
        name: the thread's.
    """

    def __init__(
        self, execute_many: Callable[[Sequence[Command[Any]]], list[Any]], name: str
    ) -> None:
        self._execute_many = execute_many
        self._name = name
        self.forget()

    def forget(self) -> None:
        """Start without thread and queue: at first, and in a forked child."""
        self._queue: deque[tuple[Command[Any], Waiter]] = deque()
        self._wake = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    async def submit(self, command: Command[Any]) -> Any:
        """Queue one command and wait for its reply."""
        while len(self._queue) >= LONGEST_QUEUE:  # noqa: ASYNC110  # several loops share the queue
            await asyncio.sleep(0.001)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        with self._wake:
            if self._thread is None:
                self._start()
            self._queue.append((command, waiter))
            self._wake.notify()
        return await waiter

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._queue:
                    if self._thread is not threading.current_thread():
                        return  # closed; a later command has started another one, if any
                    self._wake.wait()
                size = min(len(self._queue), LARGEST_GROUP)
                group = [self._queue.popleft() for _ in range(size)]
            self._carry_out([(command, waiter) for command, waiter in group if not waiter.done()])

    def _carry_out(self, group: list[tuple[Command[Any], Waiter]]) -> None:
        if not group:
            return
        replies: list[Any]
        try:
            replies = self._execute_many([command for command, _ in group])
        except Exception as failure:  # noqa: BLE001  # each waiter raises it; the thread must go on
            replies = [failure] * len(group)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Any]]] = {}
        for (_, waiter), reply in zip(group, replies, strict=True):
            by_loop.setdefault(waiter.get_loop(), []).append((waiter, reply))
        for loop, answers in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, answers)
            except RuntimeError:
                continue  # the loop was closed: nobody waits there any more

    def close(self) -> None:
        """Let the worker finish what is queued, and end it."""
        with self._wake:
            thread, self._thread = self._thread, None
            self._wake.notify_all()
        if thread is not None:
            thread.join()


def _deliver(answers: list[tuple[Waiter, Any]]) -> None:
    for waiter, reply in answers:
        if waiter.done():
            continue  # cancelled meanwhile
        if isinstance(reply, BaseException):
            waiter.set_exception(reply)
        else:
            waiter.set_result(reply)
