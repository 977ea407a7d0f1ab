"""Statements that only name things or guard a block: imports, `global`, `try`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from anypod.check.expressions import Expressions
from anypod.check.facts import UNKNOWN, Value

if TYPE_CHECKING:
    from anypod.check.extract import Scope


class Statements(Expressions):
    """The half of a scope that needs nothing but names and contexts."""

    parent: Scope | None
    globals: set[str]
    nonlocals: dict[str, str]

    if TYPE_CHECKING:  # what `Scope` gives

        def bind_name(self, name: str, value: Value, node: ast.AST) -> None: ...  # noqa: D102  # `Scope` gives it
        def block(self, statements: list[ast.stmt]) -> None: ...  # noqa: D102  # `Scope` gives it
        def nested(self, statements: list[ast.stmt], kind: str, payload: Any) -> None: ...  # noqa: D102  # `Scope` gives it

    def attempt(self, node: ast.Try) -> None:
        """`try`."""
        caught = tuple(self.expr(h.type) for h in node.handlers if h.type is not None)
        if any(h.type is None for h in node.handlers):
            caught = (*caught, ("n", "Exception"))
        self.nested(node.body, "try", caught)
        for handler in node.handlers:
            if handler.name:
                self.env[handler.name] = UNKNOWN
            kind = self.expr(handler.type) if handler.type is not None else UNKNOWN
            self.nested(handler.body, "except", kind)
        self.block(node.orelse)
        self.block(node.finalbody)

    def imported(self, node: ast.Import) -> None:
        """`import module`."""
        for alias in node.names:
            if alias.asname:
                self.bind_name(alias.asname, ("m", alias.name, "", 0), node)
            else:
                top = alias.name.partition(".")[0]
                self.bind_name(top, ("m", top, "", 0), node)

    def imported_from(self, node: ast.ImportFrom) -> None:
        """`from module import name`."""
        module = node.module or ""
        for alias in node.names:
            if alias.name == "*":
                self.file.stars.append((module, node.level))
            else:
                value: Value = ("m", module, alias.name, node.level)
                self.bind_name(alias.asname or alias.name, value, node)

    def declared_global(self, node: ast.Global) -> None:
        """`global name`."""
        self.globals.update(node.names)

    def declared_nonlocal(self, node: ast.Nonlocal) -> None:
        """`nonlocal name`."""
        for name in node.names:
            scope = self.parent
            while scope is not None and scope.parent is not None:
                if name in scope.env:
                    self.nonlocals[name] = scope.qualname
                    scope.captured.setdefault(name, ())
                    break
                scope = scope.parent

    def asserted(self, node: ast.Assert) -> None:
        """`assert condition`."""
        self.test(node.test)
