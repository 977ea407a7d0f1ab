"""Objects that values stand for, and frames: a function in one calling context.

An *object* is a tuple that begins with a tag:

    ("P", root, path)   what a place in long-lived memory holds; path: (".attr" | "[]", …). The root is one of
                        ("g", module, name)  a module's variable      ("c", module, class)  a class
                        ("v", module, function, name)  a variable that a closure keeps
                        ("d", module, function, name)  a mutable default
                        ("r", module, function)  what a memoized function gives
                        ("s", module, class)  the one instance that a framework makes of a class
                        ("app",)  the application object              ("env",)  os.environ
    ("D", kind, n)      a fresh container; `fresh[n]` says where from
    ("I", class, n)     a fresh instance of a checked class
    ("J", dotted)       the result of an external call: "redis.Redis"
    ("E", dotted)       something external itself          ("M", module)  a checked module
    ("F", key, self, outer, startup)  a checked function   ("C", key)  a checked class
    ("K", constant)     ("Y", objects) a shallow copy or view of those
    ("S", (objects, …)) collected positional arguments     ("Q", what) request data
"""

from __future__ import annotations

from typing import Any

from anypod.check.facts import Function, Value

Obj = tuple[Any, ...]
Objects = tuple[Obj, ...]
Bindings = tuple[Objects, ...]


class Frame:
    """A function entered with these arguments; interned, so equal contexts are one frame."""

    __slots__ = (
        "bindings", "busy", "callees", "calls", "children", "function", "memo", "number", "outer", "startup",
        "visited",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        function: Function,
        bindings: Bindings,
        outer: Frame | None,
        startup: bool,
    ) -> None:
        self.number = number
        self.function = function
        self.bindings = bindings
        self.outer = outer
        self.startup = startup
        self.visited = False
        self.children: list[tuple[Frame, int]] = []
        self.busy: set[Any] = set()
        # What values resolved to; cleared when the heap has grown.
        self.memo: dict[int, Objects] = {}
        self.calls: dict[int, Objects] = {}
        self.callees: dict[int, Objects] = {}

    def forget(self) -> None:
        """Drop what was resolved: the heap has grown."""
        self.memo.clear()
        self.calls.clear()
        self.callees.clear()

    def bound(self, index: int) -> Objects:
        """What a parameter is bound to."""
        return self.bindings[index] if index < len(self.bindings) else ()


def union(*groups: Objects) -> Objects:
    """All objects, each once, at most sixteen."""
    seen: dict[Obj, None] = {}
    for group in groups:
        for one in group:
            seen[one] = None
    return tuple(seen)[:16]


def walk(value: Value | None) -> list[Value]:
    """A value and every value inside it, without following slots and calls."""
    found: list[Value] = []
    stack: list[Any] = [value]
    while stack:
        current = stack.pop()
        if not current:
            continue
        tag = current[0]
        found.append(current)
        if tag in {"a", "t", "*"}:
            stack.append(current[1])
        elif tag == "i":
            stack.append(current[1])
            stack.append(current[2])
        elif tag in {"o", "d"}:
            stack.extend(current[2])
            if len(current) > 3:
                stack.extend(current[3])
        elif tag == "u":
            stack.extend(current[1])
    return found


def parts_of(display: Value, key: object) -> tuple[Value, ...]:
    """The parts of a display that `[key]` may give."""
    parts: tuple[Value, ...] = display[2]
    if isinstance(key, int) and display[1] == "tuple" and -len(parts) <= key < len(parts):
        return (parts[key],)
    if isinstance(key, str) and len(display) > 3:
        known = tuple(v for k, v in zip(display[3], parts, strict=False) if k == ("k", key))
        return known or parts
    return parts
