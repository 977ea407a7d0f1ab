"""Differences that somebody has accepted, each with the reason, kept in a file beside the code.

A difference is known again by its route, by what showed it (a retry, an overlap, the process identity,
or the routing), and by the state behind it; where no state was found, by the place in the answer. Line
numbers, values and pods may change. An entry without a reason is refused: what nobody can justify
is not accepted. An entry that no difference needs any more is told, so that the file only shrinks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anypod.errors import AnypodError
from anypod.prove.events import Divergence
from anypod.prove.schedules import STARTS, Kind
from anypod.prove.whole import write_whole

FORMAT = 1
TODO = "TODO: say why this is acceptable"


class AcceptanceError(AnypodError):
    """The file of accepted differences cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One accepted difference.

    Attributes:
        route: that is blamed.
        shown_by: "retry", "overlap", "process identity", "second replica",
            "start after a kill" or "replicas".
        state: `module name` of the state behind it, empty if none was found.
        where: the place in the answer, for a difference without a known state.
        reason: why it is acceptable.
    """

    route: str
    shown_by: str
    state: str
    where: str
    reason: str

    def matches(self, divergence: Divergence) -> bool:
        """Whether this entry accepts a divergence."""
        if (self.route, self.shown_by) != (divergence.route, _shown_by(divergence)):
            return False
        if self.state:
            return self.state == _state(divergence)
        return self.where == divergence.where


def read(path: Path) -> tuple[Accepted, ...]:
    """The accepted differences of a file.

    Raises:
        AcceptanceError: it cannot be read, has another form, or an entry has no reason.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as failed:
        raise AcceptanceError(
            f"{path}: {failed.strerror or failed}; --write-baseline {path} makes it"
        ) from failed
    except ValueError as failed:
        raise AcceptanceError(f"{path} is not JSON: {failed}") from failed
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise AcceptanceError(
            f'{path}: expected an object with "format": {FORMAT}; --write-baseline makes one'
        )
    entries = document.get("accepted")
    if not isinstance(entries, list):
        raise AcceptanceError(f'{path}: "accepted" must be a list')
    return tuple(_entry(path, number, entry) for number, entry in enumerate(entries))


def _entry(path: Path, number: int, entry: Any) -> Accepted:
    place = f"{path}: accepted[{number}]"
    if not isinstance(entry, dict):
        raise AcceptanceError(f"{place} must be an object, not {entry!r}")
    fields = {name: entry.get(name, "") for name in Accepted.__slots__}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise AcceptanceError(f"{place}.{name} must be a text, not {value!r}")
    if not fields["route"] or not fields["shown_by"]:
        raise AcceptanceError(f"{place} names no route, or not what showed it")
    if not fields["reason"].strip() or fields["reason"] == TODO:
        raise AcceptanceError(
            f'{place} ({fields["route"]}) has no reason: write into "reason" why this difference is '
            "acceptable, or remove the entry"
        )
    return Accepted(**fields)


def write(path: Path, divergences: Iterable[Divergence], known: Sequence[Accepted] = ()) -> int:
    """Write a file that accepts these divergences, keeping the reasons that are known.

    Args:
        path: of the file.
        divergences: to accept.
        known: entries whose reasons are kept; the others get a reason to fill in.

    Returns:
        How many reasons are still to be written.

    Raises:
        OSError: it cannot be written.
    """
    entries: dict[Accepted, None] = {}
    for divergence in divergences:
        kept = next((entry for entry in known if entry.matches(divergence)), None)
        state = _state(divergence)
        fresh = Accepted(
            divergence.route,
            _shown_by(divergence),
            state,
            "" if state else divergence.where,
            TODO,
        )
        entries.setdefault(kept or fresh)
    rows = [{name: getattr(entry, name) for name in Accepted.__slots__} for entry in entries]
    text = json.dumps({"format": FORMAT, "accepted": rows}, indent=2, ensure_ascii=False) + "\n"
    write_whole(text, path)
    return sum(entry.reason == TODO for entry in entries)


def parted(
    divergences: Iterable[Divergence], entries: Sequence[Accepted]
) -> tuple[tuple[Divergence, ...], tuple[Divergence, ...], tuple[Accepted, ...]]:
    """The divergences that count, those that are accepted (with their reasons), and unused entries."""
    counting: list[Divergence] = []
    accepted: list[Divergence] = []
    used: set[Accepted] = set()
    for divergence in divergences:
        entry = next((entry for entry in entries if entry.matches(divergence)), None)
        if entry is None:
            counting.append(divergence)
        else:
            used.add(entry)
            accepted.append(replace(divergence, accepted=entry.reason))
    return tuple(counting), tuple(accepted), tuple(e for e in entries if e not in used)


def _shown_by(divergence: Divergence) -> str:
    if divergence.schedule in {Kind.RETRY, Kind.OVERLAP, Kind.IDENTITY, *STARTS}:
        return str(divergence.schedule)
    return "replicas"


def _state(divergence: Divergence) -> str:
    cause = divergence.cause
    if cause is None:
        return ""
    return f"{cause.module} {cause.name}".strip()
