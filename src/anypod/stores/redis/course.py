"""The course of a command, turn after turn, for threads and event loops alike.

A server that refuses to execute says so: the script is unknown, the data is still being loaded, the slot is
elsewhere. Such a command is repeated, because nothing was executed, for as long as one exchange may take.

Invariants:
    - a course repeats a command only after a refusal, or after an exchange that did not happen;
    - how long it goes on is bounded by a time, and how often it is sent elsewhere by a number.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import hiredis

from anypod.stores.redis.faults import ReplyLost
from anypod.stores.redis.node import Node

FIRST_PAUSE: Final = 0.01  # seconds after a refusal, doubled each time …
LONGEST_PAUSE: Final = 0.32
LATER: Final = ("LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")  # may pass by itself
# How Redis 6.2 tells what a command inside a script was told; later versions give it as it is.
IN_SCRIPT: Final = re.compile(r"ERR Error running script .*@user_script: ?\d+: -?([A-Z]+) ")


@dataclass(frozen=True, slots=True)
class Exchange:
    """Ask a node; the answer is a list of replies, errors of the server among them."""

    node: Node
    requests: list[bytes]
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, because the server refused for now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the cluster who owns what."""

    refresh: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Leave:
    """Close the connections to a server, so that the next one finds another."""

    node: Node


Course: TypeAlias = Generator[Exchange | Pause | Look | Leave, Any, Any]


def run(course: Course) -> Any:
    """Carry out a course, blocking."""
    try:
        turn = next(course)
        while True:
            reply: Any = None
            try:
                if isinstance(turn, Exchange):
                    reply = turn.node.exchange(turn.requests, turn.patience)
                    _raise_lost(reply)
                elif isinstance(turn, Pause):
                    time.sleep(turn.seconds)
                elif isinstance(turn, Leave):
                    turn.node.close()
                else:
                    turn.refresh()
            except Exception as failure:  # noqa: BLE001  # the course decides what it means
                turn = course.throw(failure)
            else:
                turn = course.send(reply)
    except StopIteration as end:
        return end.value


async def arun(course: Course) -> Any:
    """Carry out a course, awaiting."""
    try:
        turn = next(course)
        while True:
            reply: Any = None
            try:
                if isinstance(turn, Exchange):
                    reply = await turn.node.aexchange(turn.requests, turn.patience)
                elif isinstance(turn, Pause):
                    await asyncio.sleep(turn.seconds)
                elif isinstance(turn, Leave):
                    await turn.node.aclose()
                else:
                    await asyncio.to_thread(turn.refresh)
            except Exception as failure:  # noqa: BLE001  # the course decides what it means
                turn = course.throw(failure)
            else:
                turn = course.send(reply)
    except StopIteration as end:
        return end.value


def pauses(until: float) -> Iterator[Pause]:
    """Longer and longer pauses, until a moment of `time.monotonic()`."""
    pause = FIRST_PAUSE
    while (left := until - time.monotonic()) > 0:
        yield Pause(min(pause, left))
        pause = min(pause * 2, LONGEST_PAUSE)


def word(reply: Any) -> str:
    """The first word of a server's error, by which it is known; empty for any other reply."""
    if not isinstance(reply, hiredis.ReplyError):
        return ""
    text = str(reply)
    wrapped = IN_SCRIPT.match(text)
    return wrapped[1] if wrapped else text.split(" ", 1)[0]


def _raise_lost(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyLost):
            raise reply
