"""A driver that writes down what it is asked and what it answers.

It stands between the store and the real driver, so that real primitives make the history: what is recorded
is what they sent, heartbeats and all.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.histories.history import Clock, Notebook

from anypod.commands import Command
from anypod.errors import OutcomeUnknown
from anypod.stores.driver import Driver


class RecordingDriver:
    """Records every command that is executed alone.

    Args:
        driver: what executes them.
        notebook: where they are written down.
        clock: the stamps.
        process: names this process in the history.
        count: told how many commands have ended here.
    """

    def __init__(
        self,
        driver: Driver,
        notebook: Notebook,
        clock: Clock,
        process: str,
        count: Callable[[int], None] = lambda ended: None,
    ) -> None:
        self.errors = driver.errors
        self.clock = clock
        self.notebook = notebook
        self._driver = driver
        self._process = process
        self._numbers = itertools.count(1)
        self._ended = itertools.count(1)
        self._count = count

    def execute(self, command: Command[Any]) -> Any:
        number = self._call(command, threading.current_thread().name)
        time.sleep(0)  # let others in, so that calls overlap
        try:
            reply = self._driver.execute(command)
        except self.errors as failure:
            self._fail(number, failure)
            raise
        self._return(number, reply)
        return reply

    async def aexecute(self, command: Command[Any]) -> Any:
        task = asyncio.current_task()
        number = self._call(command, "" if task is None else task.get_name())
        try:
            reply = await self._driver.aexecute(command)
        except self.errors as failure:
            self._fail(number, failure)
            raise
        self._return(number, reply)
        return reply

    def _call(self, command: Command[Any], caller: str) -> int:
        number = next(self._numbers)
        self.notebook.called(self.clock.now(), number, f"{self._process} {caller}", command)
        return number

    def _return(self, number: int, reply: Any) -> None:
        self.notebook.returned(self.clock.now(), number, reply)
        self._count(next(self._ended))

    def _fail(self, number: int, failure: Exception) -> None:
        executed = self._driver.classify(failure) is OutcomeUnknown
        self.notebook.failed(self.clock.now(), number, executed=executed)

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        raise NotImplementedError("a history has no groups: the workload must not send any")

    def __getattr__(self, name: str) -> Any:
        """Whatever else a driver can do, the real one does: waiting, and telling what errors mean."""
        return getattr(self._driver, name)
