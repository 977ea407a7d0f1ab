"""One process of a history: threads and tasks that use one store until they are told to stop.

    python worker.py '{"url": …}'     the fields of `Orders`

The board is a small file that all processes of a history map into memory: the epoch that the parent
announces (-1: stop), and how many commands each worker has ended.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.histories.history import Clock, Notebook
from tests.histories.recorder import RecordingDriver
from tests.histories.workload import Caller, Primitives, run_awaiting, run_blocking, tolerable

from anypod import State
from anypod.errors import AnypodError
from anypod.stores import Store

STOP = -1
PLACES = 512  # of the board
_NUMBER = struct.Struct("=q")


class Board:
    """Numbers that processes share: place 0 is the epoch, the others are the workers'."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(PLACES * _NUMBER.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def __getitem__(self, place: int) -> int:
        return int(_NUMBER.unpack_from(self._memory, place * _NUMBER.size)[0])

    def __setitem__(self, place: int, number: int) -> None:
        _NUMBER.pack_into(self._memory, place * _NUMBER.size, number)

    def ended(self) -> int:
        """How many commands have ended in all workers."""
        return sum(self[place] for place in range(1, PLACES))

    def close(self) -> None:
        self._memory.close()


class Orders(msgspec.Struct, frozen=True):
    """What a worker is told."""

    url: str
    namespace: str
    folder: str
    name: str  # of this process in the history; a process that comes after a killed one has its own
    place: int  # on the board
    seed: str
    offset: int  # of the clock
    threads: int
    tasks: int


class Worker:
    """The threads and the event loop of one process.

    Args:
        orders: what to do.
        state: a store that is open already; None opens the one of the orders' URL.
    """

    def __init__(self, orders: Orders, state: State | None = None) -> None:
        folder = Path(orders.folder)
        self._orders = orders
        self._board = Board(folder / "board")
        self._notebook = Notebook(folder / f"{orders.name}.jsonl")
        self._state = state or State(orders.url, namespace=orders.namespace)
        clock = Clock(orders.offset)
        driver = RecordingDriver(
            self._state.store.driver, self._notebook, clock, orders.name, self._count
        )
        self._state.store = Store(driver, url=orders.url, namespace=orders.namespace)
        self._primitives = Primitives(self._state, self._notebook, clock)
        self._failures: list[BaseException] = []

    def run(self) -> None:
        """Work until the board says stop; raise what went wrong."""
        threads = [
            threading.Thread(target=self._guarded, args=(self._thread, number), name=f"t{number}")
            for number in range(self._orders.threads)
        ]
        if self._orders.tasks:
            threads.append(threading.Thread(target=self._guarded, args=(self._loop,), name="loop"))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._state.close()
        self._notebook.close()
        self._board.close()
        if self._failures:
            raise self._failures[0]

    def _count(self, ended: int) -> None:
        self._board[self._orders.place] = ended

    def _caller(self, name: str) -> Caller:
        return Caller(self._primitives, f"{self._orders.seed} {name}")

    def _guarded(self, target: Callable[..., None], *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as failure:  # noqa: BLE001  # raised again in `run`
            self._failures.append(failure)
            self._board[0] = STOP

    def _thread(self, number: int) -> None:
        caller = self._caller(f"thread {number}")
        while (epoch := self._board[0]) != STOP:
            try:
                run_blocking(caller.scenario(epoch))
            except AnypodError as failure:
                if not tolerable(failure):
                    raise

    def _loop(self) -> None:
        asyncio.run(self._tasks())

    async def _tasks(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._orders.tasks):
                    group.create_task(self._task(number), name=f"a{number}")
        finally:
            await self._state.store.aclose()

    async def _task(self, number: int) -> None:
        caller = self._caller(f"task {number}")
        while (epoch := self._board[0]) != STOP:
            try:
                await run_awaiting(caller.scenario(epoch))
            except AnypodError as failure:
                if not tolerable(failure):
                    raise
            await asyncio.sleep(0)  # memory never yields by itself


if __name__ == "__main__":
    Worker(msgspec.json.decode(sys.argv[1], type=Orders)).run()
