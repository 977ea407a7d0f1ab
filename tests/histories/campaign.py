"""Campaigns: worker processes on one real store, and what is done to them meanwhile.

A plan says after how many commands what happens to whom; it follows from its seed. What the processes do
follows from the seed as well; how the machine interleaves them does not.

Invariants:
    - a step of a plan happens after a number of commands, not at a time;
    - a killed worker is followed by another, so that as many work at the end as at the beginning;
    - a stopped worker stays stopped for longer than every lease.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from tests.histories.history import Clock, History, read_history
from tests.histories.worker import STOP, Board, Orders, Worker
from tests.histories.workload import LEASE
from tests.servers import die_with_parent, wait_until

from anypod import State
from anypod.stores import Driver, Store
from anypod.testing import Fault, FaultProxy

EPOCH = 1_200  # commands; then the work moves on to other keys
PATIENCE = 120.0  # seconds without which a step of the plan counts as a hang
WORKER = Path(__file__).parent / "worker.py"


class Harm(Enum):
    """What may happen to a campaign."""

    KILL = "SIGKILL a worker, and start another"
    STOP = "SIGSTOP a worker for longer than every lease"
    CUT = "close every connection"
    LOSE = "break exchanges in the way that the detail names"


@dataclass(frozen=True, slots=True)
class Step:
    """After so many commands, harm this worker, or the network in the way named."""

    after: int
    harm: Harm
    worker: int = 0
    fault: str = ""


def plan(seed: int, operations: int, workers: int, *, network: bool) -> tuple[Step, ...]:
    """What happens in a campaign: follows from the arguments and from nothing else.

    Args:
        seed: of the campaign.
        operations: how long it is.
        workers: how many processes there are.
        network: whether there is a network that can fail.
    """
    chance = random.Random(f"plan {seed}")
    harms = [Harm.KILL, Harm.STOP]
    if network:
        harms += [Harm.CUT, Harm.LOSE, Harm.LOSE, Harm.LOSE]
    steps = []
    after = chance.randrange(50, 150)
    while after < operations:
        harm = harms[len(steps)] if len(steps) < len(harms) else chance.choice(harms)
        fault = chance.choice([each.name for each in Fault]) if harm is Harm.LOSE else ""
        steps.append(Step(after, harm, chance.randrange(workers), fault))
        after += chance.randrange(200, 600)
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Campaign:
    """One run on one store.

    Attributes:
        url: the store.
        folder: where the history goes.
        seed: what happens, and what the callers do.
        operations: how many commands end before the campaign does.
        workers: processes; 0 works inside this one, without harm (a store in memory).
        threads: in each of them.
        tasks: on an event loop in each of them.
        driver: what executes the commands inside this process, instead of the URL's.
        happened: the steps of the plan that were carried out.
    """

    url: str
    folder: Path
    seed: int
    operations: int
    workers: int = 3
    threads: int = 2
    tasks: int = 4
    driver: Driver | None = None
    happened: list[Step] = field(default_factory=list)

    @property
    def network(self) -> bool:
        return not self.url.startswith(("sqlite", "memory"))

    def run(self) -> History:
        """Run it to its end and read what happened."""
        self.folder.mkdir(parents=True, exist_ok=True)
        board = Board(self.folder / "board")
        orders = Orders(
            url=self.url,
            namespace=uuid.UUID(int=random.Random(self.seed).getrandbits(128)).hex,
            folder=str(self.folder),
            name="",
            place=0,
            seed="",
            offset=Clock().offset,
            threads=self.threads,
            tasks=self.tasks,
        )
        try:
            if self.workers:
                with self._reached(orders) as (reached, proxy):
                    self._drive(board, reached, proxy)
            else:
                self._work_here(board, named(orders, "here", 1, self.seed))
        finally:
            board.close()
        return read_history(self.folder)

    @contextmanager
    def _reached(self, orders: Orders) -> Iterator[tuple[Orders, FaultProxy | None]]:
        """The orders with the proxy's address in front of a server."""
        if not self.network:
            yield orders, None
            return
        parts = urlsplit(self.url)
        with FaultProxy(parts.hostname or "", parts.port or 0) as proxy:
            through = proxy.url(self.url)
            url = f"{through}{'&' if parts.query else '?'}timeout=0.5"
            yield msgspec.structs.replace(orders, url=url), proxy

    def _work_here(self, board: Board, orders: Orders) -> None:
        state = State(self.url, namespace=orders.namespace)
        if self.driver is not None:
            state.store = Store(self.driver, url=self.url, namespace=orders.namespace)
        with eager_threads(), ThreadPoolExecutor(1) as pool:
            work = pool.submit(Worker(orders, state).run)

            def check() -> None:
                if work.done():
                    work.result()

            try:
                _steer(board, self.operations, check)
            finally:
                board[0] = STOP
            work.result(PATIENCE)

    def _drive(self, board: Board, orders: Orders, proxy: FaultProxy | None) -> None:
        crew = _Crew(orders, board, self.seed, self.workers)
        try:
            for step in plan(self.seed, self.operations, self.workers, network=proxy is not None):
                crew.reach(step.after)
                self._harm(step, crew, proxy)
                self.happened.append(step)
            crew.reach(self.operations)
            crew.finish()
        finally:
            crew.end()

    def _harm(self, step: Step, crew: _Crew, proxy: FaultProxy | None) -> None:
        if step.harm is Harm.KILL:
            crew.kill(step.worker)
        elif step.harm is Harm.STOP:
            crew.pause(step.worker)
        elif proxy is not None and step.harm is Harm.CUT:
            proxy.cut()
        elif proxy is not None:
            proxy.inject(Fault[step.fault], times=3)


def named(orders: Orders, name: str, place: int, seed: int) -> Orders:
    """The orders for one worker."""
    return msgspec.structs.replace(orders, name=name, place=place, seed=f"{seed} {name}")


@contextmanager
def eager_threads() -> Iterator[None]:
    """Let the threads of this process take turns often, so that they meet."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _steer(board: Board, operations: int, check: Callable[[], None]) -> None:
    """Let the epochs pass until so many commands have ended."""

    def there() -> bool:
        check()
        ended = board.ended()
        if board[0] != STOP:
            board[0] = ended // EPOCH
        return ended >= operations

    wait_until(there, f"{operations} commands", PATIENCE)


class _Crew:
    """The worker processes of a campaign."""

    def __init__(self, orders: Orders, board: Board, seed: int, workers: int) -> None:
        self._orders = orders
        self._board = board
        self._seed = seed
        self._started = 0
        self._log = Path(orders.folder) / "errors"
        self._processes = [self._start(worker) for worker in range(workers)]

    def _start(self, worker: int) -> subprocess.Popen[bytes]:
        self._started += 1
        name = f"w{worker}.{self._started}"
        orders = named(self._orders, name, self._started, self._seed)
        with self._log.open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, str(WORKER), msgspec.json.encode(orders).decode()],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                preexec_fn=die_with_parent,
            )

    def reach(self, operations: int) -> None:
        """Wait until so many commands have ended, and let the epochs pass."""

        _steer(self._board, operations, self.check)

    def check(self) -> None:
        """Fail if a worker has ended by itself."""
        for process in self._processes:
            if process.poll() is not None:
                report = self._log.read_text(errors="replace")
                raise AssertionError(f"worker {process.args!r} ended:\n{report}")

    def kill(self, worker: int) -> None:
        process = self._processes[worker]
        process.kill()
        process.wait()
        self._processes[worker] = self._start(worker)

    def pause(self, worker: int) -> None:
        process = self._processes[worker]
        process.send_signal(signal.SIGSTOP)
        over = time.monotonic() + 2 * LEASE
        wait_until(lambda: time.monotonic() > over, "the end of the pause", PATIENCE)
        process.send_signal(signal.SIGCONT)

    def finish(self) -> None:
        """Tell the workers to stop, and wait until they have."""
        self._board[0] = STOP
        for process in self._processes:
            assert process.wait(PATIENCE) == 0, self._log.read_text(errors="replace")

    def end(self) -> None:
        """End whatever is left."""
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                process.wait()
