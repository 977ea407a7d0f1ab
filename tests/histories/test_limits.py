"""Rate limits of eight callers whose clocks are an hour apart: the bounds hold, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.histories.bounds import JUDGES, Span, spans
from tests.histories.limited import Errand, Hit, Hits, carry_out
from tests.servers import die_with_parent, wait_until

from anypod import State

CALLERS = 8
HOUR = 3_600.0
LIMIT = 20
PERIOD = 0.3  # seconds
STORES = ("memory", "sqlite", "redis", "valkey", "postgres")
ALGORITHMS = pytest.mark.parametrize("algorithm", sorted(JUDGES))

Call = Callable[[Hits], list[Hit]]


class Caller:
    """A process whose clock is wrong."""

    def __init__(self, errand: Errand) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).parent / "limited.py"),
                msgspec.json.encode(errand).decode(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )

    def __call__(self, hits: Hits) -> list[Hit]:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(hits) + b"\n")
        self.process.stdin.flush()
        return msgspec.json.decode(self.line(), type=list[Hit])

    def line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the caller died; its traceback is above"
        return line

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture(scope="module", params=STORES)
def callers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Call]]:
    """Eight callers of one store; those of a store in memory are threads and share its clock."""
    store = request.param
    namespace = uuid.uuid4().hex
    if store == "memory":
        with State("memory://", namespace=namespace) as state:
            yield [lambda hits: carry_out(state, hits, time)] * CALLERS
        return
    if store == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('limits')}/state.db"
    elif store == "postgres":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"{store}://127.0.0.1:{request.getfixturevalue(f'{store}_server').port}/0"
    shifts = [HOUR * (number - CALLERS // 2) for number in range(CALLERS)]
    processes = [Caller(Errand(url, namespace, shift)) for shift in shifts]
    try:
        for process in processes:
            assert process.line() == b"ready\n"
        yield list(processes)
    finally:
        for process in processes:
            process.end()


def together(callers: list[Call], hits: Hits) -> list[list[Hit]]:
    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(lambda call: call(hits), callers))


def judged(algorithm: str, hits: list[list[Hit]]) -> tuple[list[Span], list[str]]:
    offset = (time.time_ns() - time.monotonic_ns()) // 1_000
    seen = [
        span
        for mine in hits
        for span in spans([(hit.sent, hit.answered, hit.admitted) for hit in mine], offset)
    ]
    return seen, list(JUDGES[algorithm](seen, LIMIT, round(PERIOD * 1e6)))


@ALGORITHMS
def test_exactly_the_limit_is_admitted(callers: list[Call], algorithm: str) -> None:
    # A period that is long enough not to end, nor its window, during the test.
    period = next(each for each in (100_000.0, 130_003.0) if each - time.time() % each > HOUR)
    hits = Hits(algorithm, 50, period, uuid.uuid4().hex, count=20)
    done = together(callers, hits)
    assert sum(hit.admitted for mine in done for hit in mine) == 50


@ALGORITHMS
def test_the_bound_holds_and_nobody_is_refused_for_nothing(
    callers: list[Call], algorithm: str
) -> None:
    key = uuid.uuid4().hex
    first = together(callers, Hits(algorithm, LIMIT, PERIOD, key, seconds=3 * PERIOD))
    # Nobody comes for two periods. All that was not used is there again, up to the limit.
    over = time.monotonic() + 2 * PERIOD + 0.1
    wait_until(lambda: time.monotonic() > over, "two quiet periods")
    second = together(callers, Hits(algorithm, LIMIT, PERIOD, key, count=5))
    assert sum(hit.admitted for mine in second for hit in mine) >= LIMIT
    seen, wrong = judged(algorithm, [a + b for a, b in zip(first, second, strict=True)])
    assert not wrong, f"{len(wrong)} of {len(seen)}: {wrong[:5]}"
    admitted = sum(span.admitted for span in seen)
    assert 2 * LIMIT <= admitted < len(seen), "nothing was refused, so nothing was tested"


@pytest.mark.quick
@ALGORITHMS
def test_the_judges_see_too_much_and_too_little(algorithm: str) -> None:
    def hits(moments: list[int], *, admitted: bool = True) -> list[Span]:
        return [Span(moment, moment + 10, admitted) for moment in moments]

    def wrong(seen: list[Span]) -> list[Any]:
        return list(JUDGES[algorithm](seen, 3, 1_000_000))

    start = 50_000_000
    fair = hits([start, start + 100, start + 200])
    late = hits([start + 300], admitted=False)
    assert not wrong([*fair, *late])
    assert wrong([*fair, *hits([start + 300])]), "four of three"
    assert wrong([*fair[:2], *late]), "refused after two of three"
    assert wrong([*fair, *hits([start + 5_000_000], admitted=False)]), "refused after a long time"
