"""Variables of a workload: the file's own `@name = value`, and the few generated ones.

A generated value is the same in every run of a file: `{{$guid}}` is drawn from a seed, `{{$timestamp}}`
is the moment at which the file was read. A fresh value per run would make every answer that repeats it
differ between runs of the same service.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from anypod.prove.workload_reference import PLACEHOLDER, Reference

_GUID = re.compile(r"\$(?:guid|uuid|random\.uuid)")
_RANDOM = re.compile(r"\$randomInt(?:\s+(-?\d+)\s+(-?\d+))?")
_TIMESTAMP = re.compile(r"\$timestamp(?:\s+(-?\d+)\s*(ms|s|m|h|d|w))?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
MAX_FILLED = 8 * 1024 * 1024  # characters of one filled template
_GENERATED = "$guid, $uuid, $timestamp, $randomInt MIN MAX"


class BadVariable(Exception):
    """A variable that cannot be filled in, at the line that is to blame."""

    def __init__(self, line: int, problem: str) -> None:
        self.line, self.problem = line, problem
        super().__init__(problem)


@dataclass(frozen=True, slots=True)
class Definition:
    """`@name = value` at a line."""

    name: str
    value: str
    line: int


class Variables:
    """Every definition of a file; a request sees the last one above it, else the first one below.

    Args:
        private: values for names that the file does not define.
    """

    def __init__(self, private: Mapping[str, str] | None = None) -> None:
        self._private = private or {}
        self._definitions: dict[str, list[Definition]] = {}
        self._now = time.time()

    def define(self, definition: Definition) -> None:
        """Note a definition; they come in the order of their lines."""
        self._definitions.setdefault(definition.name, []).append(definition)

    def fill(self, text: str, line: int, *, seed: int) -> str:
        """Text with every variable replaced; references to answers stay as they are.

        Args:
            text: the template.
            line: where it stands, for messages and for which definition applies.
            seed: what tells the generated values of one step from those of another.

        Raises:
            BadVariable: a variable is not defined, is defined by itself, or is not one of ours.
            ValueError: a malformed reference.
            MissingExtra: an XPath without lxml.
        """
        return self._fill(text, line, f"step {seed} {text}", ())

    def _fill(self, text: str, line: int, seed: str, inside: tuple[str, ...]) -> str:
        pieces: list[str] = []
        end = 0
        for count, match in enumerate(PLACEHOLDER.finditer(text)):
            expression = match[1].strip()
            pieces.append(text[end : match.start()])
            end = match.end()
            if expression.startswith("$"):
                pieces.append(self._generated(expression, line, f"{seed} {count}"))
            elif Reference.parse(expression) is not None:
                pieces.append(match[0])
            else:
                pieces.append(self._value(expression, line, inside))
            if sum(map(len, pieces)) > MAX_FILLED:
                message = f"expected at most {MAX_FILLED} characters, got more from {match[0]}"
                raise BadVariable(line, message)
        pieces.append(text[end:])
        return "".join(pieces)

    def _value(self, name: str, line: int, inside: tuple[str, ...]) -> str:
        definitions = self._definitions.get(name)
        if definitions is None and name in self._private:
            return self._private[name]
        if definitions is None:
            known = ", ".join(sorted(self._definitions)) or "none"
            message = (
                f"expected a variable that this file defines ({known}), got {{{{{name}}}}};"
                f" add '@{name} = value'"
            )
            raise BadVariable(line, message)
        if name in inside:
            circle = " → ".join((*inside, name))
            raise BadVariable(
                line, f"expected a value, got variables defined by themselves: {circle}"
            )
        above = [definition for definition in definitions if definition.line < line]
        chosen = above[-1] if above else definitions[0]
        return self._fill(chosen.value, chosen.line, f"variable {name}", (*inside, name))

    def _generated(self, expression: str, line: int, seed: str) -> str:
        digest = hashlib.sha256(seed.encode()).digest()
        if _GUID.fullmatch(expression):
            return str(uuid.UUID(bytes=digest[:16], version=4))
        if match := _RANDOM.fullmatch(expression):
            low, high = int(match[1] or 0), int(match[2] or 1000)
            if low < high:
                return str(low + int.from_bytes(digest[:8]) % (high - low))
        if match := _TIMESTAMP.fullmatch(expression):
            offset = float(match[1]) * _SECONDS[match[2]] if match[1] else 0.0
            return str(int(self._now + offset))
        message = f"expected one of {_GENERATED}, got {{{{{expression}}}}}"
        raise BadVariable(line, message)
