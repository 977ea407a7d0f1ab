"""Documents (sessions)."""

from __future__ import annotations

from typing import Final

from anypod.commands import (
    Document,
    EndDocument,
    Existence,
    PatchDocument,
    Patched,
    PatchOutcome,
    ReadDocument,
)
from anypod.stores.specification.records import (
    DocumentRecord,
    Rules,
    Table,
    deadline_after,
    load,
    micros,
    next_version,
    sooner,
)


def _read_document(command: ReadDocument, table: Table, now: int) -> Document | None:
    record = load(table, command.key, DocumentRecord)
    if record is None or record.ended:
        return None
    if command.touch is not None and record.deadline is not None:
        touch = micros(command.touch)
        deadline = sooner(now + touch, record.absolute)
        if deadline is not None and deadline - record.deadline >= touch // 16:
            record.deadline = deadline
            table.save(command.key, record)
    left = None if record.absolute is None else (record.absolute - now) / 1e6
    return Document(dict(record.fields), record.version, left)


def _patch_document(command: PatchDocument, table: Table, now: int) -> Patched:
    record = load(table, command.key, DocumentRecord)
    if record is not None and record.ended:
        return Patched(PatchOutcome.ENDED)
    if record is None:
        if command.existence is Existence.EXISTING:
            return Patched(PatchOutcome.MISSING)
        absolute = deadline_after(now, command.absolute)
        deadline = sooner(deadline_after(now, command.idle), absolute)
        record = DocumentRecord({}, 0, absolute, ended=False, deadline=deadline)
    elif command.existence is Existence.NEW:
        return Patched(PatchOutcome.EXISTS)
    else:
        record.absolute = sooner(record.absolute, deadline_after(now, command.absolute))
        idle = deadline_after(now, command.idle)
        record.deadline = sooner(record.deadline if idle is None else idle, record.absolute)
    for name in command.drop:
        record.fields.pop(name, None)
    record.fields.update(command.put)
    record.version = next_version(record.version, now)
    table.save(command.key, record)
    return Patched(PatchOutcome.PATCHED, record.version)


def _end_document(command: EndDocument, table: Table, now: int) -> bool:
    record = load(table, command.key, DocumentRecord)
    there = record is not None and not record.ended
    keep = now + micros(command.keep)
    absolute = None if record is None else record.absolute
    deadline = keep if absolute is None else max(keep, absolute)
    if record is not None and record.ended and record.deadline is not None:
        deadline = max(deadline, record.deadline)
    version = next_version(0 if record is None else record.version, now)
    table.save(command.key, DocumentRecord({}, version, absolute, ended=True, deadline=deadline))
    return there


RULES: Final[Rules] = {
    ReadDocument: _read_document,
    PatchDocument: _patch_document,
    EndDocument: _end_document,
}
