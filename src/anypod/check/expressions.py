"""From expressions to values: the half of extraction that looks at one expression at a time."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from anypod.check.facts import GENERATOR, UNKNOWN, Value
from anypod.check.registrations import REGISTRATIONS

if TYPE_CHECKING:
    from anypod.check.scopes import ClassScope, FileFacts

_LONGEST_CONSTANT = 200
_NAMED = frozenset({"a", "n", "m"})


class Expressions:
    """Turns expressions into values; calls are noted in source order."""

    file: FileFacts
    calls: list[Any]
    returns: list[Value]
    env: dict[str, Value]
    pending: list[tuple[Any, str, ClassScope | None]]
    body_of: list[ClassScope]
    context: int
    flags: int
    qualname: str

    if TYPE_CHECKING:  # what `Scope` gives

        def name(self, name: str) -> Value: ...  # noqa: D102  # `Scope` gives it
        def bind(self, target: ast.expr, value: Value) -> None: ...  # noqa: D102  # `Scope` gives it
        def bind_iteration(self, target: ast.expr, source: ast.expr) -> None: ...  # noqa: D102  # `Scope` gives it
        def test(self, node: ast.expr) -> int: ...  # noqa: D102  # `Scope` gives it
        def enter(self, kind: str, payload: Any) -> int: ...  # noqa: D102  # `Scope` gives it

    def expr(self, node: ast.expr) -> Value:
        """The value of an expression."""
        read = _EXPRESSIONS.get(type(node))
        result: Value = read(self, node) if read is not None else UNKNOWN
        return result

    def constant(self, node: ast.Constant) -> Value:
        """A literal."""
        value = node.value
        if value is ...:
            return UNKNOWN
        if type(value) in {str, bytes} and len(value) > _LONGEST_CONSTANT:  # type: ignore[arg-type]
            return ("k", value[:_LONGEST_CONSTANT])  # type: ignore[index]
        return ("k", value)

    def read_name(self, node: ast.Name) -> Value:
        """A name."""
        return self.name(node.id)

    def attribute(self, node: ast.Attribute) -> Value:
        """`base.name`."""
        return ("a", self.expr(node.value), node.attr)

    def subscript(self, node: ast.Subscript) -> Value:
        """`base[key]`; a slice is fresh."""
        base = self.expr(node.value)
        if type(node.slice) is ast.Slice:
            # A slice is a new sequence of the same elements.
            return ("o", "slice", (base,))
        return ("i", base, self.expr(node.slice))

    def call(self, node: ast.Call) -> Value:
        """A call; noted with its context."""
        callee = self.expr(node.func)
        # Lists, and only where there is something: calls are a third of what there is to read.
        arguments = tuple(
            [
                ("*", self.expr(a.value)) if type(a) is ast.Starred else self.expr(a)
                for a in node.args
            ]
        )
        keywords = tuple([(k.arg or "**", self.expr(k.value)) for k in node.keywords])
        index = len(self.calls)
        if (callee[-1] in REGISTRATIONS and callee[0] in _NAMED) or (
            callee[0] == "l" and callee[1].rpartition(".")[2] in REGISTRATIONS
        ):
            self.file.registrations.append((self.qualname, "", index))
        self.calls.append(
            (callee, arguments, keywords, node.lineno, node.col_offset, self.context, False, False)
        )
        return ("r", index)

    def awaited(self, node: ast.Await) -> Value:
        """`await value` is the value."""
        value = self.expr(node.value)
        if value[0] == "r" and type(node.value) is ast.Call:
            self.calls[value[1]] = (*self.calls[value[1]][:7], True)
        return value

    def binary(self, node: ast.BinOp) -> Value:
        """Arithmetic: a fresh result."""
        # Left-leaning chains (a + b + c + …, one per generated line) must not recurse once per link.
        parts = []
        op = type(node.op).__name__
        current: ast.expr = node
        while type(current) is ast.BinOp:
            parts.append(self.expr(current.right))
            current = current.left
        parts.append(self.expr(current))
        return ("o", op, tuple(reversed(parts)))

    def unary(self, node: ast.UnaryOp) -> Value:
        """`not`, `-` and the like."""
        return ("o", type(node.op).__name__, (self.expr(node.operand),))

    def boolean(self, node: ast.BoolOp) -> Value:
        """`a or b`: either."""
        return ("u", tuple(self.expr(v) for v in node.values), type(node.op).__name__)

    def choice(self, node: ast.IfExp) -> Value:
        """`a if c else b`: either, each in its context."""
        index = self.test(node.test)
        before = self.enter("if", index)
        first = self.expr(node.body)
        self.context = before
        self.enter("else", index)
        second = self.expr(node.orelse)
        self.context = before
        return ("u", (first, second), "IfExp")

    def compare(self, node: ast.Compare) -> Value:
        """A comparison."""
        values = (self.expr(node.left), *(self.expr(c) for c in node.comparators))
        return ("o", type(node.ops[0]).__name__, values)

    def formatted(self, node: ast.JoinedStr) -> Value:
        """An f-string."""
        return ("o", "str", tuple(self.expr(v) for v in node.values))

    def formatted_value(self, node: ast.FormattedValue) -> Value:
        """A part of an f-string."""
        return self.expr(node.value)

    def sequence(self, node: ast.List | ast.Tuple | ast.Set) -> Value:
        """A list, tuple or set display."""
        kind = type(node).__name__.lower()
        elements = node.elts
        if len(elements) > 64:
            # A big literal table: a sample is enough to know what it holds.
            elements = elements[:64]
        return ("d", kind, tuple(self.expr(e) for e in elements))

    def starred(self, node: ast.Starred) -> Value:
        """`*value`: its elements."""
        return ("i", self.expr(node.value), None)

    def mapping(self, node: ast.Dict) -> Value:
        """A dict display."""
        pairs = list(zip(node.keys, node.values, strict=True))[:64]
        values = tuple(self.expr(v) for _, v in pairs)
        keys = tuple(self.expr(k) if k is not None else UNKNOWN for k, _ in pairs)
        return ("d", "dict", values, keys)

    def comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> Value:
        """A list, set or generator."""
        saved = self.generators(node.generators)
        element = self.expr(node.elt)
        self.restore(saved)
        return ("d", _COMPREHENSIONS[type(node)], (element,))

    def dict_comprehension(self, node: ast.DictComp) -> Value:
        """A dict comprehension."""
        saved = self.generators(node.generators)
        key = self.expr(node.key)
        value = self.expr(node.value)
        self.restore(saved)
        return ("d", "dict", (value,), (key,))

    def generators(self, generators: list[ast.comprehension]) -> dict[str, Value]:
        """Bind the loop variables of a comprehension; returns what to restore."""
        saved = dict(self.env)
        bodies, self.body_of = self.body_of, []
        for generator in generators:
            for name in _names(generator.target):
                self.env[name] = UNKNOWN
            self.bind_comprehension(generator.target, generator.iter)
            for condition in generator.ifs:
                self.test(condition)
        self.body_of = bodies
        return saved

    def bind_comprehension(self, target: ast.expr, source: ast.expr) -> None:
        """As a loop does, but always in the local environment."""
        value: Value = UNKNOWN
        names: list[ast.expr] = [target]
        if (
            type(source) is ast.Call
            and type(source.func) is ast.Attribute
            and source.func.attr == "items"
            and type(target) is ast.Tuple
            and len(target.elts) == 2
        ):
            value = ("i", self.expr(source.func.value), None)
            names = target.elts[1:]
        else:
            value = ("i", self.expr(source), None)
        for one in names:
            if type(one) is ast.Name:
                self.env[one.id] = value
            else:
                for name in _names(one):
                    self.env[name] = ("i", value, None)

    def restore(self, saved: dict[str, Value]) -> None:
        """Leave a comprehension."""
        self.env = saved

    def lambda_(self, node: ast.Lambda) -> Value:
        """A lambda: a function read later."""
        prefix = f"{self.qualname}." if self.qualname else ""
        qualname = f"{prefix}<lambda:{node.lineno}:{node.col_offset}>"
        node.anypod = ((), self.signature(node.args), None)  # type: ignore[attr-defined]
        self.pending.append((node, qualname, None))
        return ("l", qualname)

    def signature(self, arguments: ast.arguments) -> tuple[Value, ...]:
        """Parameters with their defaults and annotations, read in the enclosing scope."""
        plain = [*arguments.posonlyargs, *arguments.args]
        bare = len(plain) - len(arguments.defaults)
        found = [self.parameter(a, "p", None) for a in plain[:bare]]
        found.extend(
            self.parameter(a, "p", d) for a, d in zip(plain[bare:], arguments.defaults, strict=True)
        )
        if arguments.vararg is not None:
            found.append(self.parameter(arguments.vararg, "*", None))
        found.extend(
            self.parameter(a, "k", d)
            for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        )
        if arguments.kwarg is not None:
            found.append(self.parameter(arguments.kwarg, "**", None))
        return tuple(found)

    def parameter(self, node: ast.arg, kind: str, default: ast.expr | None) -> Value:
        """One parameter."""
        return (
            node.arg,
            kind,
            self.expr(default) if default is not None else None,
            self.expr(node.annotation) if node.annotation is not None else None,
        )

    def walrus(self, node: ast.NamedExpr) -> Value:
        """`(name := value)`."""
        value = self.expr(node.value)
        self.bind(node.target, value)
        return value

    def yielded(self, node: ast.Yield | ast.YieldFrom) -> Value:
        """`yield`: what it gives is returned."""
        self.flags |= GENERATOR
        if node.value is not None:
            value = self.expr(node.value)
            self.returns.append(value if type(node) is ast.Yield else ("i", value, None))
        return UNKNOWN


def _names(target: ast.expr) -> list[str]:
    return [n.id for n in ast.walk(target) if type(n) is ast.Name]


_COMPREHENSIONS = {ast.ListComp: "list", ast.SetComp: "set", ast.GeneratorExp: "list"}

_EXPRESSIONS: dict[type[ast.AST], Any] = {
    ast.Constant: Expressions.constant,
    ast.Name: Expressions.read_name,
    ast.Attribute: Expressions.attribute,
    ast.Subscript: Expressions.subscript,
    ast.Call: Expressions.call,
    ast.Await: Expressions.awaited,
    ast.BinOp: Expressions.binary,
    ast.UnaryOp: Expressions.unary,
    ast.BoolOp: Expressions.boolean,
    ast.IfExp: Expressions.choice,
    ast.Compare: Expressions.compare,
    ast.JoinedStr: Expressions.formatted,
    ast.FormattedValue: Expressions.formatted_value,
    ast.List: Expressions.sequence,
    ast.Tuple: Expressions.sequence,
    ast.Set: Expressions.sequence,
    ast.Starred: Expressions.starred,
    ast.Dict: Expressions.mapping,
    ast.ListComp: Expressions.comprehension,
    ast.SetComp: Expressions.comprehension,
    ast.GeneratorExp: Expressions.comprehension,
    ast.DictComp: Expressions.dict_comprehension,
    ast.Lambda: Expressions.lambda_,
    ast.NamedExpr: Expressions.walrus,
    ast.Yield: Expressions.yielded,
    ast.YieldFrom: Expressions.yielded,
}
