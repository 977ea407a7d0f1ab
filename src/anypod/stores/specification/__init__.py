"""The executable specification: what each command does to the records of a store.

`execute(command, table, now)` is the meaning of a command. The memory and the SQLite driver run it as
it is, on a table inside one transaction; the scripts and functions of the other drivers must be
indistinguishable from it, and the conformance suite sees to that.
"""

from __future__ import annotations

from typing import Any, Final

from anypod.commands import Command
from anypod.stores.specification import cached, documents, leases, limits, values
from anypod.stores.specification.records import (
    FORMAT,
    CacheRecord,
    ClaimRecord,
    CounterRecord,
    DocumentRecord,
    OnceRecord,
    Record,
    Rules,
    SlotsRecord,
    Table,
    TakeRecord,
    ValueRecord,
    WrongRecord,
    decode_record,
    encode_record,
    once_key,
)

__all__ = [
    "FORMAT",
    "CacheRecord",
    "ClaimRecord",
    "CounterRecord",
    "DocumentRecord",
    "OnceRecord",
    "Record",
    "SlotsRecord",
    "Table",
    "TakeRecord",
    "ValueRecord",
    "WrongRecord",
    "decode_record",
    "encode_record",
    "execute",
    "once_key",
]

RULES: Final[Rules] = {
    **values.RULES,
    **leases.RULES,
    **documents.RULES,
    **cached.RULES,
    **limits.RULES,
}


def execute(command: Command[Any], table: Table, now: int) -> Any:
    """Carry out a command on the table at the time `now` (µs) and return its reply."""
    return RULES[type(command)](command, table, now)
