"""What requests look at: conditions, results, arguments. A state that nobody looks at is diagnostics."""

from __future__ import annotations

from typing import NamedTuple

from anypod.check.calls import Resolver
from anypod.check.facts import ARGS, CALL_LINE, CALLEE, EFFECT_LINE, KWARGS, NEW, OP, TARGET, Value
from anypod.check.frames import Frame, Obj, Objects, walk

_AT_THE_END = 1 << 30


class Read(NamedTuple):
    """A place in memory is looked at."""

    place: Obj
    frame: Frame
    how: str  # "test" "value" "in"
    line: int  # 0 when it may have been any time before


class Looks:
    """The half of the walk that notes reads."""

    resolver: Resolver

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self._line = 0

    def _dunder(self, frame: Frame, one: Obj, name: str, line: int) -> bool:
        """Enter the method that an operator stands for: see `reach`."""
        raise NotImplementedError

    def _looks(self, frame: Frame) -> None:
        body = frame.function.body
        seen: set[Value] = set()
        for value, line in body.tests:
            self._look(frame, value, "test", seen, line)
        for value in body.returns:
            self._look(frame, value, "value", seen, _AT_THE_END)
        for effect in body.effects:
            before = len(self.reads)
            self._look(frame, effect[NEW], "value", set(), effect[EFFECT_LINE])
            if effect[OP] not in {"name", "augname"} and before < len(self.reads):
                self._drop_own(frame, effect[TARGET], before)
        for index, call in enumerate(body.calls):
            callees = frame.callees.get(index, ())
            if self._is_diagnostic(callees):
                continue
            # Checked code that is given a place says itself whether it looks at it.
            passed = bool(callees) and all(c[0] in "FC" for c in callees)
            for value in (*call[ARGS], *(v for _, v in call[KWARGS])):
                if not passed or value[0] in {"o", "d", "u", "i", "r"}:
                    self._look(frame, value, "value", seen, call[CALL_LINE])

    def _drop_own(self, frame: Frame, target: Value, before: int) -> None:
        """`d[k] = d.get(k, 0) + 1` alone does not look at `d`."""
        own = {o[1] for o in self.resolver.resolve(target, frame) if o[0] == "P"}
        self.reads[before:] = [r for r in self.reads[before:] if r.place[1] not in own]

    def _is_diagnostic(self, callees: Objects) -> bool:
        for callee in callees:
            dotted = str(callee[1] if callee[0] == "E" else callee[2] if callee[0] == "X" else "")
            if dotted.startswith(("logging.", "builtins.print", "structlog.", "loguru.")):
                return True
        return False

    def _look(self, frame: Frame, value: Value, how: str, seen: set[Value], line: int) -> None:
        self._line = line
        stack: list[Value | None] = [value]
        while stack:
            for one in walk(stack.pop()):
                tag = one[0]
                if tag == "s":
                    if one not in seen:
                        seen.add(one)
                        stack.extend(frame.function.body.slots[one[1]])
                        self._line = 0
                elif tag in "nvaip":
                    if tag == "i":
                        self._asks(frame, one[1], "__getitem__")
                    self._saw(self.resolver.resolve(one, frame), frame, how)
                elif tag == "r":
                    self._look_at_call(frame, one[1], how)
                    callee = frame.function.body.calls[one[1]][CALLEE]
                    if callee[0] == "a" and callee[1][0] == "o":
                        # `f"{served} so far".encode()`
                        stack.append(callee[1])
                elif tag == "o" and one[1] in {"In", "NotIn"}:
                    self._asks(frame, one[2][-1], "__contains__")
                    self._saw(self.resolver.resolve(one[2][-1], frame), frame, "in")

    def _saw(self, objects: Objects, frame: Frame, how: str) -> None:
        for one in objects:
            if one[0] == "P":
                self.reads.append(Read(one, frame, how, self._line))

    def _asks(self, frame: Frame, value: Value, name: str) -> None:
        """`key in lobby` and `lobby[key]` are calls, when checked code says what they mean."""
        for one in self.resolver.resolve(value, frame):
            if one[0] == "P":
                self._dunder(frame, one, name, frame.function.line)

    def _look_at_call(self, frame: Frame, index: int, how: str) -> None:
        for callee in frame.callees.get(index, ()):
            if callee[0] in "BU":
                self._saw(callee[1][1] if callee[1][0] == "Y" else (callee[1],), frame, how)
        for found in self.resolver.call_result(frame, index):
            self._saw(found[1] if found[0] == "Y" else (found,), frame, how)
