"""Statements that only name things, guard a block or repeat it: imports, `global`, `try`, loops."""

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
    tests: list[tuple[Value, int]]
    iterated: Value

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

    def loop(self, node: ast.While) -> None:
        """`while`."""
        index = self.test(node.test)
        self.nested(node.body, "while", index)
        self.block(node.orelse)

    def iteration(self, node: ast.For) -> None:
        """`for`."""
        before = self.context
        self.bind_iteration(node.target, node.iter)
        # Going through a container looks at it.
        self.tests.append((self.iterated, node.lineno))
        self.nested(node.body, "for", None)
        self.context = before
        self.block(node.orelse)

    def bind_iteration(self, target: ast.expr, source: ast.expr) -> None:
        """Bind a loop variable; `for k, v in d.items()` and `enumerate` keep the element's identity."""
        if type(source) is ast.Call and type(target) is ast.Tuple and len(target.elts) == 2:
            function = source.func
            if type(function) is ast.Attribute and function.attr == "items":
                self.expr(source)
                self.bind(target.elts[0], UNKNOWN)
                self.iterated = ("i", self.expr(function.value), None)
                self.bind(target.elts[1], self.iterated)
                return
            if (
                (
                    type(function) is ast.Call
                    or (type(function) is ast.Name and function.id in {"list", "sorted", "tuple"})
                )
                and len(source.args) == 1
                and type(source.args[0]) is ast.Call
            ):
                self.bind_iteration(target, source.args[0])
                return
            if type(function) is ast.Name and function.id == "enumerate" and source.args:
                self.bind(target.elts[0], UNKNOWN)
                self.iterated = ("i", self.expr(source.args[0]), None)
                self.bind(target.elts[1], self.iterated)
                return
        self.iterated = ("i", self.expr(source), None)
        self.bind(target, self.iterated)
