"""A sequential model of documents: what sessions are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tests.histories.checker import Model
from tests.histories.history import UNKNOWN, Operation
from tests.histories.values import grows

from anypod.commands import (
    EndDocument,
    Existence,
    PatchDocument,
    Patched,
    PatchOutcome,
    ReadDocument,
)


class Document(NamedTuple):
    """A document. `version` is 0 if nobody knows it; then it is at least `least`."""

    fields: frozenset[tuple[str, bytes]] | None  # None: there is none
    ended: bool
    version: int
    least: int


class DocumentModel(Model):
    """`ReadDocument`, `PatchDocument`, `EndDocument`. Documents that run out are not modelled."""

    def initial(self) -> Document:
        return Document(None, False, 0, 0)

    def steps(self, state: Document, operation: Operation) -> Iterable[Document]:
        command, reply = operation.command, operation.reply
        if isinstance(command, ReadDocument):
            return _read(state, operation)
        if isinstance(command, EndDocument):
            there = state.fields is not None and not state.ended
            if reply not in (UNKNOWN, there):
                return ()
            least = max(state.least + 1, operation.earliest)
            return (Document(frozenset(), True, 0, least),)
        assert isinstance(command, PatchDocument)
        return _patch(state, command, operation)


def _read(state: Document, operation: Operation) -> tuple[Document, ...]:
    reply = operation.reply
    if reply is UNKNOWN:
        return (state,)
    if reply is None or state.fields is None or state.ended:
        none = state.fields is None or state.ended
        return (state,) if none and reply is None else ()
    if frozenset(reply.fields.items()) != state.fields:
        return ()
    if state.version:
        return (state,) if reply.version == state.version else ()
    if reply.version < state.least:
        return ()
    return (state._replace(version=reply.version, least=reply.version),)


def _patch(state: Document, command: PatchDocument, operation: Operation) -> tuple[Document, ...]:
    reply = operation.reply
    refused = None
    if state.ended:
        refused = PatchOutcome.ENDED
    elif state.fields is None and command.existence is Existence.EXISTING:
        refused = PatchOutcome.MISSING
    elif state.fields is not None and command.existence is Existence.NEW:
        refused = PatchOutcome.EXISTS
    if refused is not None:
        return (state,) if reply in (UNKNOWN, Patched(refused)) else ()
    fields = dict(state.fields or ())
    for name in command.drop:
        fields.pop(name, None)
    fields.update(command.put)
    after = frozenset(fields.items())
    if reply is UNKNOWN:
        return (Document(after, False, 0, max(state.least + 1, operation.earliest)),)
    if reply.outcome is not PatchOutcome.PATCHED or not grows(
        reply.version, state.least, operation
    ):
        return ()
    return (Document(after, False, reply.version, reply.version),)
