"""From a syntax tree to facts: statements and scopes.

One pass in source order. A nested function is read after its enclosing one, when all of the enclosing
variables are known. Nothing is resolved here that another file could change.
"""

from __future__ import annotations

import ast
import marshal
from typing import Any

from anypod.check.facts import (
    ASYNC,
    CLASSMETHOD,
    NONE,
    PROPERTY,
    STATIC,
    UNKNOWN,
    Value,
)
from anypod.check.registrations import DECORATORS
from anypod.check.scopes import ClassScope, FileFacts, is_classvar, last_name
from anypod.check.statements import Statements

_SIMPLE = frozenset("knpvsrlcmx")
_TERMINAL = (ast.Return, ast.Raise, ast.Continue, ast.Break)


class Scope(Statements):
    """One function (or the module's body) while it is read."""

    def __init__(
        self,
        file: FileFacts,
        qualname: str,
        parent: Scope | None,
        cls: ClassScope | None = None,
    ) -> None:
        self.file = file
        self.qualname = qualname
        self.parent = parent
        self.cls = cls
        self.env: dict[str, Value] = {}
        self.globals: set[str] = set()
        self.nonlocals: dict[str, str] = {}
        self.calls: list[Any] = []
        self.effects: list[Value] = []
        self.returns: list[Value] = []
        self.raises = 0
        self.tests: list[tuple[Value, int]] = []
        self.contexts: list[tuple[int, str, Any]] = [(0, "", None)]
        self.slots: list[tuple[Value, ...]] = []
        self.captured: dict[str, tuple[Value, ...]] = {}
        self.pending: list[tuple[Any, str, ClassScope | None]] = []
        self.taken: set[str] = set()
        self.context = 0
        self.flags = 0
        self.body_of: list[ClassScope] = []
        self.first_param: str | None = None
        self.iterated: Value = UNKNOWN

    # Names

    def name(self, name: str) -> Value:
        """What a name means here."""
        for body in reversed(self.body_of):
            found = body.env.get(name)
            if found is not None:
                return found
        found = self.env.get(name)
        if found is not None:
            return found
        if name in self.globals or self.parent is None:
            return ("n", name)
        scope = self.parent
        while scope.parent is not None:
            if name in scope.env:
                scope.captured.setdefault(name, ())
                return ("v", scope.qualname, name)
            if name in scope.globals:
                break
            scope = scope.parent
        return ("n", name)

    def bind(self, target: ast.expr, value: Value) -> None:
        """Assign `value` to a target."""
        kind = type(target)
        if kind is ast.Name:
            self.bind_name(target.id, value, target)  # type: ignore[attr-defined]
        elif kind is ast.Attribute:
            self.effect("attr", self.expr(target.value), target.attr, value, target)  # type: ignore[attr-defined]
        elif kind is ast.Subscript:
            self.effect("set", self.expr(target.value), self.expr(target.slice), value, target)  # type: ignore[attr-defined]
        elif kind is ast.Starred:
            self.bind(target.value, ("d", "list", (("i", value, None),)))  # type: ignore[attr-defined]
        elif kind is ast.Tuple or kind is ast.List:
            self.bind_sequence(target.elts, value)  # type: ignore[attr-defined]

    def bind_sequence(self, targets: list[ast.expr], value: Value) -> None:
        """Unpack `value`."""
        parts: tuple[Value, ...] | None = value[2] if value[0] == "d" else None
        if parts is None or len(parts) != len(targets) or value[1] not in {"tuple", "list"}:
            starred = any(type(t) is ast.Starred for t in targets)
            parts = tuple(
                ("i", value, None if starred else ("k", at)) for at in range(len(targets))
            )
        for one, part in zip(targets, parts, strict=True):
            self.bind(one, part)

    def bind_name(self, name: str, value: Value, node: ast.AST) -> None:
        """Assign `value` to a plain name."""
        if self.body_of:
            self.body_of[-1].assign(name, value, node.lineno)  # type: ignore[attr-defined]
        elif name in self.globals:
            self.effect("name", ("n", name), name, value, node)
            self.file.bind(name, value, node.lineno, self.qualname)  # type: ignore[attr-defined]
        elif name in self.nonlocals:
            owner = self.nonlocals[name]
            self.effect("name", ("v", owner, name), name, value, node)
            self.outer(owner, name, value)
        elif self.parent is None:
            self.file.bind(name, value, node.lineno, "")  # type: ignore[attr-defined]
            if self.context:
                self.effect("name", ("n", name), name, value, node)
        else:
            self.assign_local(name, value)

    def outer(self, owner: str, name: str, value: Value) -> None:
        """Tell the enclosing function `owner` what its variable `name` is given here."""
        scope: Scope | None = self.parent
        while scope is not None and scope.qualname != owner:
            scope = scope.parent
        if scope is not None:
            scope.outside(name, value)

    def outside(self, name: str, value: Value) -> None:
        """An inner function gave our variable `name` a value, which may mean the same out here."""
        if value[0] == "d":
            # What is in it was read in the inner function: only that it is a container holds out here.
            value = ("d", value[1], ())
        known = value if value[0] in "kndmc" else UNKNOWN
        self.captured[name] = (*self.captured.get(name, ()), known, UNKNOWN)

    def assign_local(self, name: str, value: Value) -> None:
        """A local gets a new definition."""
        self.env[name] = value if value[0] in _SIMPLE else self.slot((value,))

    def merge(self, other: dict[str, Value]) -> None:
        """Two ways lead here: what either left in a local is possible."""
        for name, value in other.items():
            mine = self.env.get(name)
            if mine is None:
                self.env[name] = value
            elif mine != value:
                options = {
                    **dict.fromkeys(self.options(value)),
                    **dict.fromkeys(self.options(mine)),
                }
                self.env[name] = self.slot(tuple(options)[:6])

    def options(self, value: Value) -> tuple[Value, ...]:
        """The values that a definition may have."""
        return self.slots[value[1]] if value[0] == "s" else (value,)

    def slot(self, values: tuple[Value, ...]) -> Value:
        """A new definition with these possible values."""
        self.slots.append(values)
        return ("s", len(self.slots) - 1)

    def effect(self, op: str, target: Value, key: Any, value: Value, node: ast.AST) -> None:
        """Note that something outside this function's own locals may change."""
        line: int = node.lineno  # type: ignore[attr-defined]
        self.effects.append((op, target, key, value, line, node.col_offset, self.context))  # type: ignore[attr-defined]
        if op == "attr" and self.cls is not None and target == ("p", 0) and self.first_param:
            self.cls.instance.setdefault(key, []).append((self.qualname, value, line))

    # Contexts

    def enter(self, kind: str, payload: Any) -> int:
        """Open a context and return the one to restore."""
        before = self.context
        self.contexts.append((before, kind, payload))
        self.context = len(self.contexts) - 1
        return before

    def test(self, node: ast.expr) -> int:
        """Read a condition and return its index."""
        self.tests.append((self.expr(node), node.lineno))
        return len(self.tests) - 1

    # Statements

    def block(self, statements: list[ast.stmt]) -> None:
        """Read statements in order."""
        table = _STATEMENTS
        for statement in statements:
            read = table.get(type(statement))
            if read is not None:
                read(self, statement)

    def nested(self, statements: list[ast.stmt], kind: str, payload: Any) -> None:
        """Read a block that may not run."""
        earlier = self.env.copy()
        self.within(statements, kind, payload)
        self.merge(earlier)

    def within(self, statements: list[ast.stmt], kind: str, payload: Any) -> None:
        """Read a block in a context of its own."""
        before = self.enter(kind, payload)
        self.block(statements)
        self.context = before

    def expression_statement(self, node: ast.Expr) -> None:
        """An expression whose result nobody uses."""
        value = node.value
        if type(value) is ast.Constant:
            return
        result = self.expr(value)
        if result[0] == "r":
            call = self.calls[result[1]]
            self.calls[result[1]] = (*call[:6], True, call[7])

    def assign(self, node: ast.Assign) -> None:
        """`targets = value`."""
        value = self.expr(node.value)
        for target in node.targets:
            self.bind(target, value)

    def annotated(self, node: ast.AnnAssign) -> None:
        """`name: annotation = value`."""
        if node.value is not None:
            self.bind(node.target, self.expr(node.value))
            if self.body_of and type(node.target) is ast.Name and not is_classvar(node.annotation):
                self.body_of[-1].fields.append(node.target.id)
        elif self.body_of and type(node.target) is ast.Name:
            self.body_of[-1].annotate(node.target.id, self.expr(node.annotation), node.lineno)

    def augmented(self, node: ast.AugAssign) -> None:
        """`target += value`."""
        target = node.target
        value: Value = ("o", type(node.op).__name__, (self.expr(node.value),))
        if type(target) is ast.Name:
            name = target.id
            if name in self.globals or (self.parent is None and not self.body_of):
                self.effect("augname", ("n", name), name, value, node)
                self.file.bind(name, value, node.lineno, self.qualname)
            elif name in self.nonlocals:
                self.effect("augname", ("v", self.nonlocals[name], name), name, value, node)
                self.outer(self.nonlocals[name], name, UNKNOWN)
            else:
                current = self.name(name)
                if current[0] not in "kxo":
                    self.effect("auglocal", current, name, value, node)
                self.bind_name(name, ("u", (current, value)), node)
        elif type(target) is ast.Attribute:
            self.effect("augattr", self.expr(target.value), target.attr, value, node)
        elif type(target) is ast.Subscript:
            self.effect("augset", self.expr(target.value), self.expr(target.slice), value, node)

    def delete(self, node: ast.Delete) -> None:
        """`del target`."""
        for target in node.targets:
            if type(target) is ast.Subscript:
                self.effect(
                    "del", self.expr(target.value), self.expr(target.slice), UNKNOWN, target
                )
            elif type(target) is ast.Attribute:
                self.effect("delattr", self.expr(target.value), target.attr, NONE, target)

    def returned(self, node: ast.Return) -> None:
        """`return value`."""
        if node.value is not None:
            self.returns.append(self.expr(node.value))

    def raised(self, node: ast.Raise) -> None:
        """`raise error`."""
        self.raises += 1
        if node.exc is not None:
            self.expr(node.exc)

    def conditional(self, node: ast.If) -> None:
        """`if`; what follows an early exit is narrowed."""
        index = self.test(node.test)
        earlier = self.env.copy()
        self.within(node.body, "if", index)
        after, self.env = self.env, earlier
        self.within(node.orelse, "else", index)
        if node.orelse and isinstance(node.orelse[-1], _TERMINAL):
            self.env = after
        elif not (node.body and isinstance(node.body[-1], _TERMINAL)):
            self.merge(after)
        # What follows `if …: return` runs only when the condition was false.
        if node.body and isinstance(node.body[-1], _TERMINAL) and self.parent is not None:
            self.enter("else", index)
        elif node.orelse and isinstance(node.orelse[-1], _TERMINAL) and self.parent is not None:
            self.enter("if", index)

    def context_manager(self, node: ast.With) -> None:
        """`with`."""
        before = self.context
        for item in node.items:
            value = self.expr(item.context_expr)
            self.enter("with", (value, item.context_expr.lineno))
            if item.optional_vars is not None:
                self.bind(item.optional_vars, value)
        self.block(node.body)
        # A `return` inside narrowed what follows inside only.
        self.context = before

    def matched(self, node: ast.Match) -> None:
        """`match`."""
        subject = self.expr(node.subject)
        for case in node.cases:
            for pattern in ast.walk(case.pattern):
                name = getattr(pattern, "name", None)
                if isinstance(name, str):
                    self.assign_local(name, ("i", subject, None))
            if case.guard is not None:
                self.test(case.guard)
            self.nested(case.body, "for", None)

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """`def`: its header now, its body when this scope is known."""
        cls = self.body_of[-1] if self.body_of else None
        prefix = cls.qualname if cls is not None else self.qualname
        qualname = self.unique(f"{prefix}.{node.name}" if prefix else node.name, node.lineno)
        decorators = tuple(self.expr(d) for d in node.decorator_list)
        signature = self.signature(node.args)
        annotation = self.expr(node.returns) if node.returns is not None else None
        value: Value = ("l", qualname)
        if cls is not None:
            cls.methods[node.name] = qualname
            cls.env[node.name] = value
        elif self.parent is None:
            self.file.bind(node.name, value, node.lineno, "")
        elif node.name in self.globals:
            self.file.bind(node.name, value, node.lineno, self.qualname)
        else:
            self.env[node.name] = value
        for position, decorator in enumerate(node.decorator_list):
            if last_name(decorator) in DECORATORS:
                self.file.registrations.append((self.qualname, qualname, position))
        self.pending.append((node, qualname, cls))
        node.anypod = (decorators, signature, annotation)  # type: ignore[union-attr]

    def unique(self, qualname: str, line: int) -> str:
        """Two functions of one name in one scope (overloads, branches) keep apart."""
        if qualname in self.taken:
            return f"{qualname}@{line}"
        self.taken.add(qualname)
        return qualname

    def class_(self, node: ast.ClassDef) -> None:
        """`class`: its body is read in this scope."""
        outer = self.body_of[-1].qualname if self.body_of else self.qualname
        qualname = f"{outer}.{node.name}" if outer else node.name
        scope = ClassScope(qualname)
        bases = tuple(self.expr(b) for b in node.bases)
        if getattr(node, "type_params", None):
            bases = (*bases, ("m", "typing", "Generic", 0))
        keywords = tuple((k.arg or "", self.expr(k.value)) for k in node.keywords)
        decorators = tuple(self.expr(d) for d in node.decorator_list)
        value: Value = ("c", qualname)
        if self.body_of:
            self.body_of[-1].assign(node.name, value, node.lineno)
        elif self.parent is None:
            self.file.bind(node.name, value, node.lineno, "")
        else:
            self.env[node.name] = value
        self.body_of.append(scope)
        self.block(node.body)
        self.body_of.pop()
        self.file.classes.append(
            (
                qualname,
                node.lineno,
                self.qualname,
                bases,
                keywords,
                decorators,
                scope.attributes,
                scope.methods,
                scope.instance,
                tuple(scope.fields),
            )
        )

    # The end of a scope

    def finish(self) -> bytes:
        """Read the nested functions, then close the books of this scope."""
        for node, qualname, cls in self.pending:
            inner = Scope(self.file, qualname, self, cls)
            inner.read_function(node)
        for name, extra in self.captured.items():
            value = self.env.get(name, UNKNOWN)
            options = self.slots[value[1]] if value[0] == "s" else (value,)
            self.captured[name] = (*options, *extra)
        body = (
            self.calls,
            self.effects,
            self.returns,
            self.raises,
            self.tests,
            self.contexts,
            self.slots,
        )
        return marshal.dumps((*body, self.captured))

    def read_function(self, node: Any) -> None:
        """Read a function or lambda and add its facts to the file's."""
        decorators, signature, annotation = node.anypod
        for index, parameter in enumerate(signature):
            self.env[parameter[0]] = ("p", index)
        self.flags = ASYNC if type(node) is ast.AsyncFunctionDef else 0
        for decorator in getattr(node, "decorator_list", ()):
            self.flags |= _DECORATOR_FLAGS.get(last_name(decorator), 0)
        if self.cls is not None and signature and not self.flags & (STATIC | CLASSMETHOD):
            self.first_param = signature[0][0]
        if type(node) is ast.Lambda:
            self.returns.append(self.expr(node.body))
        else:
            self.block(node.body)
        raw = self.finish()
        self.file.functions.append(
            (
                self.qualname,
                node.lineno,
                node.col_offset,
                signature,
                decorators,
                self.parent.qualname if self.parent is not None else "",
                self.cls.qualname if self.cls is not None else "",
                self.flags,
                annotation,
                raw,
            )
        )


_DECORATOR_FLAGS = {
    "staticmethod": STATIC,
    "classmethod": CLASSMETHOD,
    "property": PROPERTY,
    "cached_property": PROPERTY,
}

_STATEMENTS: dict[type[ast.AST], Any] = {
    ast.Expr: Scope.expression_statement,
    ast.Assign: Scope.assign,
    ast.AnnAssign: Scope.annotated,
    ast.AugAssign: Scope.augmented,
    ast.Delete: Scope.delete,
    ast.Return: Scope.returned,
    ast.Raise: Scope.raised,
    ast.Assert: Scope.asserted,
    ast.If: Scope.conditional,
    ast.While: Scope.loop,
    ast.For: Scope.iteration,
    ast.AsyncFor: Scope.iteration,
    ast.Try: Scope.attempt,
    ast.TryStar: Scope.attempt,
    ast.With: Scope.context_manager,
    ast.AsyncWith: Scope.context_manager,
    ast.Import: Scope.imported,
    ast.ImportFrom: Scope.imported_from,
    ast.Global: Scope.declared_global,
    ast.Nonlocal: Scope.declared_nonlocal,
    ast.Match: Scope.matched,
    ast.FunctionDef: Scope.function,
    ast.AsyncFunctionDef: Scope.function,
    ast.ClassDef: Scope.class_,
}


def extract(tree: ast.Module, lines: int) -> tuple[Any, ...]:
    """The facts of one file, without its comments."""
    file = FileFacts()
    scope = Scope(file, "", None)
    scope.block(tree.body)
    raw = scope.finish()
    file.functions.append(("", 1, 0, (), (), "", "", 0, None, raw))
    return (
        file.functions,
        file.classes,
        file.symbols,
        file.stars,
        file.registrations,
        [],
        lines,
    )
