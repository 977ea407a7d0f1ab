"""A service that runs once on a machine: a second process does not start while the first one lives.

A lock file, a fixed port, a PID file. A rolling deploy starts the new pod beside the old one, so that
this is a finding, not a reason for which nothing could be found. It is tried apart from the proof, in
worlds of one replica each: one starts alone, others beside it do not, and one alone does again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from anypod.prove import verdict as verdicts
from anypod.prove.acceptance import Accepted, parted
from anypod.prove.baseline import CannotRun
from anypod.prove.events import Cause, Divergence, Outcome, Told
from anypod.prove.explain import CONFIRMATIONS
from anypod.prove.schedules import Kind
from anypod.replicas import StartFailed, World

__all__ = ["find", "verdict"]

_CLAIM = "one replica starts, a second one beside it does not: so replicas could not be compared."
HINT = (
    "a deploy starts the new pod before the old one ends, also with replicas: 1. Serve without it: what only "
    "one process may do belongs behind a lock in a store that all pods share, as state.lock(…), taken where it "
    "is done and not when the service starts"
)
_WRITTEN = "not isolated: "
_FRAME = re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+)')
_START = Told(
    pod=1, incarnation=1, method="start", target="a replica", body="", status=None, answer="ready",
    duplicate=False, lost=False, moved=False, line=1,
)  # fmt: skip


def find(opened: Callable[[int], World], root: Path, done: verdicts.Done) -> Divergence | None:
    """Whether a replica keeps others from starting.

    Args:
        opened: a world of one replica, of this number among all.
        root: the user's tree.
        done: where the starts are counted.

    Returns:
        The finding; None if one does not start alone either, or others do start beside it.

    Raises:
        CannotRun: it was interrupted.
    """
    failures: list[StartFailed] = []
    written: list[str] = []
    try:
        with opened(0) as alone:
            _start(alone, done)
            for _ in range(CONFIRMATIONS):
                with opened(1) as beside:
                    try:
                        _start(beside, done)
                    except StartFailed as failed:
                        failures.append(failed)
                    else:
                        return None
                    written = _outside(beside) or written
            written = written or _outside(alone)
        with opened(1) as after:
            _start(after, done)
    except StartFailed:
        return None
    except KeyboardInterrupt:
        text = "interrupted while it was looked into why a replica did not start"
        raise CannotRun(text) from None
    return _told(failures[-1], written, root)


def _start(world: World, done: verdicts.Done) -> None:
    done.starts += 1
    world.start(0)


def verdict(found: Iterable[Divergence], entries: Sequence[Accepted]) -> dict[str, Any]:
    """What a verdict says when a second replica does not start; accepted or not, nothing was compared."""
    counting, accepted, _ = parted(verdicts.sorted_by_step(found), entries)
    return {
        "outcome": Outcome.DIFFERENT if counting else Outcome.ACCEPTED,
        "claim": _CLAIM,
        "divergences": counting,
        "accepted": accepted,
        "not_tried": ("two replicas at a time", *verdicts.NEVER_TRIED),
        "partial": True,
        "inconclusive": True,
    }


def _outside(world: World) -> list[str]:
    return [r.removeprefix(_WRITTEN) for r in world.records() if r.startswith(_WRITTEN)]


def _told(failed: StartFailed, written: list[str], root: Path) -> Divergence:
    text = f"{failed.log}\n{failed.traceback}".strip()
    said = text.splitlines()[-1].strip() if text else failed.reason
    source, line = _line(failed.traceback or failed.log, root)
    named = [path for path in written if path in text] or written[-1:]
    cause: Cause | None = None
    if named or source:
        cause = Cause(
            "file" if named else "start",
            named[-1] if named else said,
            "",
            named[-1] if named else source,
            None if named else line,
            1,
            2,
            "",
            "",
            written_in=source,
            written_at=line,
        )
    return Divergence(
        route="the start",
        seen_at="the start",
        schedule=Kind.SECOND,
        requests=(_START, replace(_START, pod=2, answer="does not start")),
        alone=(_START,),
        where="start",
        expected="ready, as it is alone",
        got=said,
        cause=cause,
        confirmed=CONFIRMATIONS,
        hint=HINT,
    )


def _line(text: str, root: Path) -> tuple[str, int | None]:
    """The last line of the user's code in a traceback; a replica's copy reads as the user's tree."""
    for frame in reversed(list(_FRAME.finditer(text))):
        path = Path(frame["path"])
        _, copied, below = frame["path"].rpartition("/disk/")
        for place in (path, root / below) if copied else (path,):
            if place.is_relative_to(root) and place.is_file():
                return str(place), int(frame["line"])
    return "", None
