"""What is collected while a file, a class body and a signature are read."""

from __future__ import annotations

import ast
from typing import Any

from anypod.check.facts import Value


class FileFacts:
    """What is collected for one file while its scopes are read."""

    def __init__(self) -> None:
        self.functions: list[tuple[Any, ...]] = []
        self.classes: list[tuple[Any, ...]] = []
        self.symbols: dict[str, list[tuple[Value, int, str]]] = {}
        self.stars: list[tuple[str, int]] = []
        self.registrations: list[tuple[str, str, int]] = []

    def bind(self, name: str, value: Value, line: int, function: str) -> None:
        """Note that `function` binds the module's `name`."""
        self.symbols.setdefault(name, []).append((value, line, function))


class ClassScope:
    """A class while its body is read."""

    def __init__(self, qualname: str) -> None:
        self.qualname = qualname
        self.env: dict[str, Value] = {}
        self.attributes: dict[str, list[tuple[Value, int]]] = {}
        self.methods: dict[str, str] = {}
        self.instance: dict[str, list[tuple[str, Value, int]]] = {}
        # Annotated names with a value: in a record the default of each instance.
        self.fields: list[str] = []

    def assign(self, name: str, value: Value, line: int) -> None:
        """The body binds `name`."""
        self.env[name] = value
        self.attributes.setdefault(name, []).append((value, line))

    def annotate(self, name: str, annotation: Value, line: int) -> None:
        """The body declares `name` without a value: a field of each instance."""
        self.instance.setdefault(name, []).append(("", ("t", annotation), line))


def last_name(node: ast.expr) -> str:
    """The last part of a decorator's name."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_classvar(annotation: ast.expr) -> bool:
    """Whether an annotation keeps a name to the class itself."""
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    return last_name(annotation) == "ClassVar"
