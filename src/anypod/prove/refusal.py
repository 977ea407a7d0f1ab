"""A service that does not start where another process of it runs, or was killed.

A lock file, a fixed port, a PID file. A rolling deploy starts the new pod beside the old one, and a
process that is killed removes nothing, so that these are findings, not reasons for which nothing could
be found. They are tried apart from the proof, in worlds of one replica each: one starts alone, others
beside it do not, and one alone does again; or, one starts where a file is not, and none where a killed
one has left that file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anypod.prove import verdict as verdicts
from anypod.prove.acceptance import Accepted, parted
from anypod.prove.baseline import CannotRun
from anypod.prove.events import Cause, Divergence, Told
from anypod.prove.explain import CONFIRMATIONS
from anypod.prove.schedules import Kind
from anypod.replicas import StartFailed, World

__all__ = ["Refusal", "verdict"]

_CLAIMS = {
    Kind.SECOND: "one replica starts, a second one beside it does not: so replicas could not be compared.",
    Kind.RESTART: "one replica starts, none does after it was killed: so replicas could not be compared.",
}
_NOT_TRIED = {Kind.SECOND: "two replicas at a time", Kind.RESTART: "a second start"}
_HINTS = {
    Kind.SECOND: "a deploy starts the new pod before the old one ends, also with replicas: 1. Serve without "
    "it: what only one process may do belongs behind a lock in a store that all pods share, as "
    "state.lock(…), taken where it is done and not when the service starts",
    Kind.RESTART: "a process that is killed, for its memory or with its machine, removes nothing; where the "
    "file outlives it, on a volume or a host, the service stays down. Let what ends with the process "
    "keep others away: a lock on the file, or state.lock(…) in a store that all pods share",
}
_EXPECTED = {Kind.SECOND: "ready, as it is alone", Kind.RESTART: "ready, as without the file"}
_WRITTEN = "not isolated: "
_FRAME = re.compile(r'File "(?P<path>[^"\n]+)", line (?P<line>\d+)')
_LEAST, _TIMES = 2.0, 4  # seconds for a start that hung before, and how much longer than one alone
_LARGEST = 1024  # bytes of a PID or lock file
_FILES = 3  # that are moved out of the way in turn
_START = Told(
    pod=1, incarnation=1, method="start", target="a replica", body="", status=None, answer="ready",
    duplicate=False, lost=False, moved=False, line=1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a replica did not start.

    Attributes:
        opened: a world of one replica, of this number among all, whose start may take so many seconds.
        root: the user's tree.
        done: where the starts are counted.
        timeout: seconds for a start.
        made: files outside the project that replicas have made before.
        warn: hears what becomes of a file outside the project.
    """

    opened: Callable[[int, float], World]
    root: Path
    done: verdicts.Done
    timeout: float
    made: Sequence[str]
    warn: Callable[[str], None]

    def find(self, failed: StartFailed) -> Divergence | None:
        """Whether a replica keeps others from starting, while it runs or after it was killed.

        Args:
            failed: how one did not start.

        Returns:
            The finding; None if it is none of these.

        Raises:
            CannotRun: it was interrupted.
        """
        try:
            try:
                return self._beside(failed)
            except StartFailed as alone:
                return self._after_a_kill(alone)
        except KeyboardInterrupt:
            text = "interrupted while it was looked into why a replica did not start"
            raise CannotRun(text) from None

    def _start(self, world: World) -> None:
        self.done.starts += 1
        world.start(0)

    # --- while another one runs

    def _beside(self, failed: StartFailed) -> Divergence | None:
        """Raises StartFailed if one does not start alone either."""
        written: list[str] = []
        with self.opened(0, self.timeout) as alone:
            began = time.monotonic()
            self._start(alone)
            took = time.monotonic() - began
            for _ in range(CONFIRMATIONS):
                # What has hung once for the whole time is not given that again.
                short = min(self.timeout, max(_LEAST, _TIMES * took))
                with self.opened(1, short if failed.hung else self.timeout) as beside:
                    try:
                        self._start(beside)
                    except StartFailed as again:
                        failed = again
                    else:
                        return None
                    written = _outside(beside.records()) or written
            written = written or _outside(alone.records())
        with self.opened(1, self.timeout) as after:
            self._start(after)
        return self._told(Kind.SECOND, failed, written)

    # --- after it was killed

    def _after_a_kill(self, failed: StartFailed) -> Divergence | None:
        text = _text(failed)
        left = [path for path in map(Path, self.made) if _is_mark(path)]
        left.sort(key=lambda path: str(path) not in text)
        for path in left[:_FILES]:
            if (again := self._without(path)) is not None:
                return self._told(Kind.RESTART, again, [str(path)])
        return None

    def _without(self, path: Path) -> StartFailed | None:
        """How a start fails where this file is, if one succeeds, each time, where it is not.

        It was not there before a replica made it, so it is removed then; else it is put back.
        """
        aside = path.with_name(f"{path.name}.anypod-aside")
        refused: StartFailed | None = None
        try:
            path.rename(aside)
        except OSError:
            return None
        try:
            for _ in range(CONFIRMATIONS):
                with self.opened(0, self.timeout) as first:
                    self._start(first)
                try:
                    with self.opened(0, self.timeout) as again:
                        self._start(again)
                except StartFailed as failed:
                    refused = failed
                else:
                    return None
                path.unlink()
            aside.unlink()
        except (StartFailed, OSError):
            return None
        finally:
            if aside.exists():
                aside.replace(path)
        self.warn(f"removed {path}: a killed replica had left it")
        return refused

    # --- telling it

    def _told(self, kind: Kind, failed: StartFailed, written: list[str]) -> Divergence:
        text = _text(failed)
        said = text.splitlines()[-1].strip() if text else failed.reason
        if failed.hung:
            file = failed.waits_for
            said, written = (
                (f"waits for the lock of {file}", [file]) if file else (failed.reason, [])
            )
        source, line = _line(failed.traceback or failed.log, self.root)
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
        other = replace(_START, pod=2, answer="does not start")
        if kind is Kind.RESTART:
            other = replace(other, pod=1, incarnation=2, moved=True)
        return Divergence(
            route="the start",
            seen_at="the start",
            schedule=kind,
            requests=(_START, other),
            alone=(_START,),
            where="start",
            expected=_EXPECTED[kind],
            got=said,
            cause=cause,
            confirmed=CONFIRMATIONS,
            hint=_HINTS[kind],
        )


def verdict(found: Iterable[Divergence], entries: Sequence[Accepted]) -> dict[str, Any]:
    """What a verdict says when a replica does not start; accepted or not, nothing was compared."""
    every = verdicts.sorted_by_step(found)
    counting, accepted, _ = parted(every, entries)
    kind = every[0].schedule
    return {
        "outcome": verdicts.outcome(counting, accepted),
        "claim": _CLAIMS[kind],
        "divergences": counting,
        "accepted": accepted,
        "not_tried": (_NOT_TRIED[kind], *verdicts.NEVER_TRIED),
        "partial": True,
        "inconclusive": True,
    }


def _outside(records: Iterable[str]) -> list[str]:
    return [line.removeprefix(_WRITTEN) for line in records if line.startswith(_WRITTEN)]


def _is_mark(path: Path) -> bool:
    """Whether a file may be there to say that a process runs: it is small, and no database."""
    try:
        return (
            path.is_file()
            and not path.is_symlink()
            and path.stat().st_size <= _LARGEST
            and not path.read_bytes().startswith(b"SQLite format 3")
        )
    except OSError:
        return False


def _text(failed: StartFailed) -> str:
    return f"{failed.log}\n{failed.traceback}".strip()


def _line(text: str, root: Path) -> tuple[str, int | None]:
    """The last line of the user's code in a traceback; a replica's copy reads as the user's tree."""
    for frame in reversed(list(_FRAME.finditer(text))):
        path = Path(frame["path"])
        _, copied, below = frame["path"].rpartition("/disk/")
        for place in (path, root / below) if copied else (path,):
            if place.is_relative_to(root) and place.is_file():
                return str(place), int(frame["line"])
    return "", None
