"""What one file says, as plain tuples: small, quick to store, free of syntax trees.

Extraction reads a file once and leaves facts; linking never sees an `ast` node. Facts consist of exact
tuples, lists, dicts and constants only, so that `marshal` stores them and a worker can send them.

A *value* is a tuple that begins with a tag:

    ("k", constant)            ("n", name)  a free name: module scope or builtin
    ("p", index)  a parameter  ("v", owner, name)  a variable of an enclosing function
    ("s", slot)   a definition of a local; `slots[slot]` holds the values it may have
    ("r", call)   the result of `calls[call]`
    ("a", base, attribute)     ("i", base, key or None)  an element
    ("d", kind, values)        a fresh container           ("o", operator, values)  a fresh result
    ("u", values)  one of      ("l", qualname) a function  ("c", qualname) a class
    ("m", module, name, level) an import                   ("x",) nothing known
"""

from __future__ import annotations

import marshal
from typing import Any

Value = tuple[Any, ...]

FACTS_VERSION = 12
"""Raise it whenever the layout or the meaning of a fact changes: stored facts of another version are void."""

# Flags of a function.
ASYNC, GENERATOR, LAMBDA, STATIC, CLASSMETHOD, PROPERTY = 1, 2, 4, 8, 16, 32

# Fields of a call: callee, positional, keywords ((name, value), …), line, column, context, discarded, awaited.
CALLEE, ARGS, KWARGS, CALL_LINE, CALL_COL, CALL_CONTEXT, DISCARDED, AWAITED = range(8)

# Fields of an effect: operation, target, key or name, value, line, column, context.
OP, TARGET, KEY, NEW, EFFECT_LINE, EFFECT_COL, EFFECT_CONTEXT = range(7)

UNKNOWN: Value = ("x",)
NONE: Value = ("k", None)


class Body:
    """What a function does, decoded when somebody reaches it."""

    __slots__ = ("calls", "captured", "contexts", "effects", "raises", "returns", "slots", "tests")

    calls: list[Value]
    effects: list[Value]
    returns: list[Value]
    # How many times it raises.
    raises: int
    # (value, line) of every condition.
    tests: list[tuple[Value, int]]
    # (parent, kind, payload): what surrounds a statement; context 0 is the function it
    contexts: list[tuple[int, str, Any]]
    slots: list[tuple[Value, ...]]
    captured: dict[str, tuple[Value, ...]]

    def __init__(self, raw: bytes) -> None:
        (
            self.calls,
            self.effects,
            self.returns,
            self.raises,
            self.tests,
            self.contexts,
            self.slots,
            self.captured,
        ) = marshal.loads(raw)  # our own facts, never foreign input  # noqa: S302  # our own facts, never foreign input


class Function:
    """A function, lambda or module body (qualname "")."""

    __slots__ = (
        "_body", "_raw", "cls", "column", "decorators", "flags", "index", "key", "line", "module", "name",
        "owner", "params", "qualname", "returns_annotation",
    )  # fmt: skip

    qualname: str
    line: int
    column: int
    # (name, kind, default or None, annotation or None); kind is one of "p", "*", "k", "**".
    params: tuple[tuple[str, str, Value | None, Value | None], ...]
    decorators: tuple[Value, ...]
    owner: str
    cls: str
    flags: int
    returns_annotation: Value | None

    def __init__(self, module: str, raw: tuple[Any, ...]) -> None:
        (
            self.qualname,
            self.line,
            self.column,
            self.params,
            self.decorators,
            self.owner,
            self.cls,
            self.flags,
            self.returns_annotation,
            self._raw,
        ) = raw
        self.module = module
        self.key = (module, self.qualname)
        self.name: str = self.qualname.rpartition(".")[2]
        self.index: dict[str, int] | None = None
        self._body: Body | None = None

    @property
    def raw(self) -> bytes:
        """The body as it was stored: its constants can be searched without decoding it."""
        return self._raw  # type: ignore[no-any-return]

    @property
    def body(self) -> Body:
        """The decoded body."""
        if self._body is None:
            self._body = Body(self._raw)
        return self._body

    def position(self, name: str) -> int | None:
        """The index of the parameter `name`."""
        if self.index is None:
            self.index = {param[0]: i for i, param in enumerate(self.params)}
        return self.index.get(name)


class Class:
    """A class: its bases, what its body binds, and what its methods assign to `self`."""

    __slots__ = (
        "attributes", "bases", "decorators", "fields", "instance", "key", "keywords", "line", "methods", "module",
        "name", "owner", "qualname",
    )  # fmt: skip

    qualname: str
    line: int
    owner: str
    bases: tuple[Value, ...]
    keywords: tuple[tuple[str, Value], ...]
    decorators: tuple[Value, ...]
    # name -> [(value, line), …], values in the frame of the enclosing function.
    attributes: dict[str, list[tuple[Value, int]]]
    methods: dict[str, str]
    # name -> [(method's qualname, value, line), …]
    instance: dict[str, list[tuple[str, Value, int]]]
    # Names that are declared with a type and a default.
    fields: tuple[str, ...]

    def __init__(self, module: str, raw: tuple[Any, ...]) -> None:
        (
            self.qualname,
            self.line,
            self.owner,
            self.bases,
            self.keywords,
            self.decorators,
            self.attributes,
            self.methods,
            self.instance,
            self.fields,
        ) = raw
        self.module = module
        self.key = (module, self.qualname)
        self.name: str = self.qualname.rpartition(".")[2]


class Module:
    """One file."""

    __slots__ = (
        "classes", "comments", "directory", "functions",
        "is_package",
        "is_test", "key", "lines", "path",
        "registrations", "stars", "symbols",
    )  # fmt: skip

    # Where entry points may be registered: (owner, decorated function or "", decorator or call).
    registrations: list[tuple[str, str, int]]
    # name -> [(value, line, qualname of the function that binds it), …]
    symbols: dict[str, list[tuple[Value, int, str]]]
    stars: list[tuple[str, int]]
    # Suppression comments: (line, rules, reason).
    comments: list[tuple[int, tuple[str, ...], str]]
    lines: int

    def __init__(self, path: str, raw: tuple[Any, ...]) -> None:
        (
            functions,
            classes,
            self.symbols,
            self.stars,
            self.registrations,
            self.comments,
            self.lines,
        ) = raw
        self.path = path
        self.key = path
        self.directory, _, name = path.rpartition("/")
        self.is_package = name == "__init__.py"
        # Set by whoever knows what was asked for: tests are never reported.
        self.is_test = False
        self.functions: dict[str, Function] = {f[0]: Function(path, f) for f in functions}
        self.classes: dict[str, Class] = {c[0]: Class(path, c) for c in classes}

    @property
    def label(self) -> str:
        """The module's short name for people: `store`, or `shop` for `shop/__init__.py`."""
        stem = self.path.removesuffix("/__init__.py").rpartition("/")[2]
        return stem.removesuffix(".py")
