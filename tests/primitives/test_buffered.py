from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from anypod import ConfigurationError, OutcomeUnknown, State, StoreUnavailable
from anypod.commands import Command


def eventually(condition: Any, what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.005)


def test_nothing_is_sent_before_its_time_and_everything_by_flush(state: State) -> None:
    hits = state.counter("hits")
    views = hits.buffered(every=3_600.0)
    for _ in range(10):
        views.increment("page")
    views.increment("other", by=5)
    views.increment(1)
    views.increment(True)
    assert hits.value("page") == 0
    assert views.pending == 13
    views.flush()
    assert (hits.value(1), hits.value(True)) == (1, 1)
    assert (hits.value("page"), hits.value("other"), views.pending) == (10, 5, 0)


def test_a_full_buffer_is_sent_at_once(state: State) -> None:
    hits = state.counter("hits")
    views = hits.buffered(every=3_600.0, size=5)
    for _ in range(5):
        views.increment()
    eventually(lambda: hits.value() == 5, "a full buffer is sent")


def test_time_sends_it_too(state: State) -> None:
    hits = state.counter("hits")
    views = hits.buffered(every=0.05)
    views.increment()
    eventually(lambda: hits.value() == 1, "a buffer is sent after its time")
    eventually(lambda: views._thread is None, "the thread ends when nothing comes")
    views.increment()
    eventually(lambda: hits.value() == 2, "and starts again")


def test_threads_lose_nothing(state: State) -> None:
    hits = state.counter("hits")
    with hits.buffered(every=0.01, size=50) as views:
        threads = [
            threading.Thread(target=lambda: [views.increment() for _ in range(500)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert hits.value() == 2_000


@pytest.mark.parametrize("failure", [OutcomeUnknown, StoreUnavailable])
def test_a_lost_reply_counts_once(
    state: State, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    hits = state.counter("hits")
    views = hits.buffered(every=3_600.0)
    views.increment(by=3)
    execute = state.store.perform

    def lossy(command: Command[Any]) -> Any:
        if failure is OutcomeUnknown:
            execute(command)
        raise failure("the reply is lost")

    monkeypatch.setattr(state.store, "perform", lossy)
    for _ in range(3):
        with pytest.raises(failure):
            views.flush()
    assert views.pending == 1
    monkeypatch.setattr(state.store, "perform", execute)
    views.increment()
    views.flush()
    assert hits.value() == 4


PROGRAM = """
    import os, signal, sys, time
    from anypod import State

    views = State(sys.argv[1], namespace="t").counter("hits").buffered(every=3600.0)
    if sys.argv[2] == "fork":
        views.increment(by=10)
        if os.fork() == 0:
            views.increment()
            views.flush()
            os._exit(0)
        os.wait()
    else:
        views.increment(by=10)
    if sys.argv[2] == "term":
        print("ready", flush=True)
        time.sleep(60)  # until SIGTERM ends it
"""


@pytest.mark.parametrize(("end", "counted"), [("exit", 10), ("term", 10), ("fork", 11)])
def test_the_end_of_a_process_sends(tmp_path: Path, end: str, counted: int) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), url, end], stdout=subprocess.PIPE
    )
    with program:
        assert program.stdout is not None
        if end == "term":
            assert program.stdout.readline() == b"ready\n"
            os.kill(program.pid, signal.SIGTERM)
        code = program.wait(60)
    assert code == (-signal.SIGTERM if end == "term" else 0)
    with State(url, namespace="t") as state:
        assert state.counter("hits").value() == counted


def test_bad_options_are_refused(state: State) -> None:
    for options in ({"every": 0.0}, {"size": 0}, {"size": 1.5}, {"every": float("nan")}):
        with pytest.raises(ConfigurationError, match="buffered counter 'hits'"):
            state.counter("hits").buffered(**options)  # type: ignore[arg-type]
