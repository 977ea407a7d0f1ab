"""What a request reaches: the walk from the entry points through every call, and what it finds on the way.

Every frame is walked once, wherever it is reached from; the edges between frames give the chains. Storing into
long-lived memory grows the heap, which may reveal more, so the walk is repeated until the heap is stable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from anypod.check.calls import Resolver
from anypod.check.containers import (
    ANY_MUTATOR,
    CHANGES_ARGUMENT,
    MUTATORS,
    ONE_ARGUMENT,
    SPREADS,
    STORES,
)
from anypod.check.facts import (
    ARGS,
    AWAITED,
    CALL_COL,
    CALL_CONTEXT,
    CALL_LINE,
    DISCARDED,
    EFFECT_COL,
    EFFECT_CONTEXT,
    EFFECT_LINE,
    KEY,
    KWARGS,
    NEW,
    OP,
    TARGET,
    Value,
)
from anypod.check.frames import Frame, Obj, Objects
from anypod.check.looks import Looks
from anypod.check.places import SETTINGS, is_deep

_REMOVALS = frozenset({"pop", "clear", "remove", "discard", "popitem", "popleft"})
_OPS = {
    "name": "rebind", "augname": "aug", "set": "set", "augset": "aug", "del": "del", "attr": "attr",
    "augattr": "augattr", "delattr": "attr", "auglocal": "aug",
}  # fmt: skip
_PASSES = 2
_DEEPEST_STARTUP = 3
_APPLICATIONS = ("tornado.web.Application", "?.super().__init__")


class Write(NamedTuple):
    """A place in memory is changed."""

    place: Obj
    op: str  # "rebind" "aug" "set" "del" "attr" "call"
    name: str  # the attribute, the method, or ""
    frame: Frame
    line: int
    column: int
    context: int
    key: Value | None
    value: Value | None
    used: bool = False
    """Whether the result of a changing call is used: then it reads as well."""

    @property
    def removes(self) -> bool:
        """Whether this only takes something away."""
        return self.op == "del" or (self.op == "call" and self.name in _REMOVALS)


class External(NamedTuple):
    """Something outside the checked code is called."""

    dotted: str
    receiver: Obj | None
    frame: Frame
    call: int
    line: int
    column: int
    context: int
    discarded: bool


class Walk(Looks):
    """The walk and what it collected."""

    def __init__(self, resolver: Resolver) -> None:
        super().__init__()
        self.resolver = resolver
        self.writes: list[Write] = []
        self.externals: list[External] = []
        self._grown = False
        self.visited: dict[Frame, int] = {}
        """Every frame, with the calls between it and where the walk began."""

    def run(self, entries: Iterable[Frame], startup: Iterable[Frame]) -> None:
        """Walk from these frames until nothing new turns up."""
        first = [*startup, *entries]
        for turn in range(3 * _PASSES):
            self.writes.clear()
            self.reads.clear()
            self.externals.clear()
            self.visited = dict.fromkeys(first, 0)
            self._grown = False
            carried = len(self.resolver.handed_on)
            for frame in self.resolver.frames:
                frame.children = []
            queue = list(first)
            seen = set(queue)
            while queue:
                frame = queue.pop()
                self.visit(frame)
                depth = self.visited[frame] + 1
                if frame.startup and depth > _DEEPEST_STARTUP:
                    continue
                for child, _line in frame.children:
                    if child not in seen:
                        seen.add(child)
                        self.visited[child] = depth
                        queue.append(child)
            if not self._grown or (turn + 1 >= _PASSES and carried == len(self.resolver.handed_on)):
                # Only what requests hand on may need more: one thing is taken from another.
                break
            self.resolver.forget()

    # One frame

    def visit(self, frame: Frame) -> None:
        """Collect what a frame does itself."""
        body = frame.function.body
        for index, call in enumerate(body.calls):
            for callee in self.resolver.callees(frame, index):
                self._called(frame, index, call, callee)
            self._passed(frame, index, call)
        for effect in body.effects:
            self._changed(frame, effect)
        for _, kind, payload in body.contexts:
            if kind == "with":
                for one in self.resolver.resolve(payload[0], frame):
                    self._dunder(frame, one, "__enter__", payload[1])
                    self._dunder(frame, one, "__aenter__", payload[1])
        if not frame.startup:
            self._looks(frame)

    def enter(self, frame: Frame, child: Frame, line: int) -> None:
        """Note a call from one frame into another."""
        frame.children.append((child, line))

    def _called(self, frame: Frame, index: int, call: Value, callee: Obj) -> None:
        kind = callee[0]
        line = call[CALL_LINE]
        if kind == "F":
            self.enter(frame, self.resolver.child(frame, index, callee), line)
        elif kind == "C":
            self._constructed(frame, index, callee, line)
        elif kind in "BU":
            self._container_call(frame, call, callee)
        elif kind in "EX":
            dotted = callee[1] if kind == "E" else callee[2]
            receiver = callee[1] if kind == "X" else None
            self.externals.append(
                External(
                    dotted,
                    receiver,
                    frame,
                    index,
                    line,
                    call[CALL_COL],
                    call[CALL_CONTEXT],
                    call[DISCARDED],
                )
            )
            if dotted == "builtins.setattr":
                self._setattr(frame, call)
            elif dotted == "builtins.next" and call[ARGS]:
                for one in self.resolver.resolve(call[ARGS][0], frame):
                    self._container_call(frame, call, ("B", one, "__next__"))
            elif dotted in CHANGES_ARGUMENT and call[ARGS]:
                for one in self.resolver.resolve(call[ARGS][0], frame):
                    if one[0] == "P" and self.in_memory(one):
                        self._write(frame, one, "call", dotted, call, call[ARGS][-1])
            elif dotted in _APPLICATIONS and self._is_tornado(frame, dotted):
                self._settings(frame, call)
            elif dotted in {"os.putenv", "os.unsetenv"}:
                self._write(frame, ("P", ("env",), ()), "call", "putenv", call, None)

    def _is_tornado(self, frame: Frame, dotted: str) -> bool:
        """Whether a call makes Tornado's application, also as the base of a project's own."""
        cls = (frame.function.module, frame.function.cls)
        return dotted == _APPLICATIONS[0] or (
            bool(cls[1]) and _APPLICATIONS[0] in self.resolver.external_bases(cls)
        )

    def _settings(self, frame: Frame, call: Value) -> None:
        """`Application(handlers, users=Users(), **settings)`: what handlers find in `self.settings`."""
        given = [pair for pair in call[KWARGS] if pair[0] != "**"]
        for name, value in call[KWARGS]:
            for one in frame.function.body.slots[value[1]] if value[0] == "s" else (value,):
                if name == "**" and one[0] == "d" and len(one) > 3:
                    given += [
                        (k[1], v) for k, v in zip(one[3], one[2], strict=False) if k[0] == "k"
                    ]
        for name, value in given:
            self._store(SETTINGS, f"[{name!r}]", self.resolver.resolve(value, frame))

    def _constructed(self, frame: Frame, index: int, callee: Obj, line: int) -> None:
        for name in ("__init__", "__new__", "__post_init__"):
            method = self.resolver.method(callee[1], name)
            if method is None:
                continue
            receiver: Obj = ("I", callee[1], -1) if name != "__new__" else callee
            target = ("F", method[1].key, receiver, -1)
            self.enter(frame, self.resolver.child(frame, index, target), line)

    def _container_call(self, frame: Frame, call: Value, callee: Obj) -> None:
        _, receiver, name = callee
        if receiver[0] == "D" and name in STORES:
            self._fill(frame, receiver, call[ARGS][STORES[name] :])
        for place in (receiver,) if receiver[0] == "P" else ():
            known = callee[0] == "B"
            if not (self._changes(place, name) if known else name in ANY_MUTATOR):
                continue
            other = call[AWAITED] or (name in ONE_ARGUMENT and len(call[ARGS]) > 1)
            if not known and (other or not self.in_memory(place)):
                # `await store.update(…)`, `users.remove(caller, user)` ask a client or a service.
                continue
            at = STORES.get(name)
            value = call[ARGS][at] if at is not None and len(call[ARGS]) > at else None
            if value is None and call[ARGS] and name in SPREADS:
                value = call[ARGS][0]
            key = call[ARGS][0] if call[ARGS] and call[ARGS][0][0] != "*" else None
            self._write(frame, place, "call", name, call, value, key)
            if value is not None and value[0] != "*":
                objects = self.resolver.resolve(value, frame)
                if name in SPREADS:
                    objects = tuple(e for o in objects for e in self.resolver.element(o))
                self._store(place, "[]", objects)

    def _fill(self, frame: Frame, container: Obj, given: tuple[Value, ...]) -> None:
        """`self.rooms.append(Room())` in a constructor: what is in the list has a class from then on."""
        site = self.resolver.fresh[container[2]][0]
        if site is None or not given or given[0][0] == "*":
            return
        for one in self.resolver.resolve(given[0], frame):
            if one[0] == "I":
                known = self.resolver.filled.setdefault(id(site), {})
                kept: Obj = ("I", one[1], -1)
                if kept not in known and len(known) < 4:
                    known[kept] = None
                    self._grown = True

    def _changes(self, place: Obj, name: str) -> bool:
        kinds: set[str] = set()
        for held in self.resolver.held(place):
            if held[0] == "D":
                kinds.add(held[1])
            elif held[0] == "I":
                kinds.add(self.resolver.container_kind(held[1]))
        return any(name in MUTATORS.get(k, ANY_MUTATOR) for k in kinds if k)

    def _write(
        self,
        frame: Frame,
        place: Obj,
        op: str,
        name: str,
        call: Value,
        value: Value | None,
        key: Value | None = None,
    ) -> None:
        used = not call[DISCARDED]
        self.writes.append(
            Write(
                place, op, name, frame, call[CALL_LINE], call[CALL_COL], call[CALL_CONTEXT], key, value, used
            )
        )  # fmt: skip

    def _setattr(self, frame: Frame, call: Value) -> None:
        if len(call[ARGS]) < 3:
            return
        name = self.resolver.constant(call[ARGS][1], frame)
        for base in self.resolver.resolve(call[ARGS][0], frame):
            for place in self._attribute_places(base, name if isinstance(name, str) else "*"):
                self._write(frame, place, "attr", str(name), call, call[ARGS][2])

    def _passed(self, frame: Frame, index: int, call: Value) -> None:
        """Functions given to something external will be called by it."""
        callees = frame.callees.get(index, ())
        if any(c[0] in "FC" for c in callees):
            return
        given = [*call[ARGS], *(v for _, v in call[KWARGS])]
        given += [p for n, v in call[KWARGS] if n == "on_startup" and v[0] == "d" for p in v[2]]
        for position, value in enumerate(given):
            if value[0] in {"k", "d", "o", "*", "x"}:
                continue
            for one in self.resolver.resolve(value, frame):
                if one[0] == "F":
                    self._callback(frame, call, one, position)

    def _callback(self, frame: Frame, call: Value, function: Obj, position: int) -> None:
        target = self.resolver.project.function(function[1])
        receiver: Objects = (function[2],) if function[2] is not None else ()
        rest = [
            self.resolver.carried(self.resolver.resolve(a, frame))
            for a in call[ARGS][position + 1 :]
            if a[0] != "*"
        ]
        if not receiver and target.cls:
            # Whose method it is, nobody said: the next argument is not its `self`.
            rest = []
        bindings = (self.resolver.carried(receiver), *rest) if receiver else tuple(rest)
        outer = self.resolver.frames[function[3]] if function[3] >= 0 else None
        child = self.resolver.frame(
            target, tuple(bindings[: len(target.params)]), outer, frame.startup
        )
        self.enter(frame, child, call[CALL_LINE])

    def _dunder(self, frame: Frame, one: Obj, name: str, line: int) -> bool:
        found = False
        held = self.resolver.held(one) if one[0] == "P" else (one,)
        for instance in held:
            if instance[0] != "I":
                continue
            method = self.resolver.method(instance[1], name)
            if method is not None:
                child = self.resolver.frame(method[1], ((one,),), None, frame.startup)
                self.enter(frame, child, line)
                found = True
        return found

    # Effects

    def _changed(self, frame: Frame, effect: Value) -> None:
        op = effect[OP]
        if op == "attr":
            self._handed_on(frame, effect)
        elif op == "set":
            for base in self.resolver.resolve(effect[TARGET], frame):
                if base[0] == "D":
                    self._fill(frame, base, (effect[NEW],))
        for place in self._targets(frame, effect):
            name = effect[KEY] if op in {"attr", "augattr", "delattr"} else ""
            key = effect[KEY] if op in {"set", "augset", "del"} else None
            self.writes.append(
                Write(
                    place,
                    _OPS[op],
                    name,
                    frame,
                    effect[EFFECT_LINE],
                    effect[EFFECT_COL],
                    effect[EFFECT_CONTEXT],
                    key,
                    effect[NEW],
                )
            )
            if op in {"set", "attr", "name"}:
                step = "[]" if op == "set" else ""
                if op == "set" and self.resolver.is_application(place):
                    constant = self.resolver.constant(key, frame)
                    step = f"[{constant!r}]" if isinstance(constant, str) else "[]"
                if op != "name":
                    self._store(place, step, self.resolver.resolve(effect[NEW], frame))

    def _handed_on(self, frame: Frame, effect: Value) -> None:
        """`g.storage = current_app.config["STORAGE"]`: what handlers find there lives on."""
        for base in self.resolver.resolve(effect[TARGET], frame):
            carrier = self.resolver.carrier(base)
            if not carrier:
                continue
            for one in self.resolver.resolve(effect[NEW], frame):
                if one[0] == "P" and one[1] != ("env",) and one != ("P", ("app",), ()):
                    known = self.resolver.handed_on.setdefault(f"{carrier}.{effect[KEY]}", {})
                    if one not in known and len(known) < 4:
                        known[one] = None
                        self._grown = True

    def _targets(self, frame: Frame, effect: Value) -> list[Obj]:
        op, target = effect[OP], effect[TARGET]
        if op in {"name", "augname"}:
            if target[0] == "n":
                return [("P", ("g", frame.function.module, target[1]), ())]
            return self._variable(frame, target)
        found: list[Obj] = []
        for base in self.resolver.resolve(target, frame):
            if op in {"attr", "augattr", "delattr"}:
                found.extend(self._attribute_places(base, effect[KEY]))
            elif op == "auglocal":
                held = self.resolver.held(base) if base[0] == "P" else ()
                added = effect[NEW][2][0]
                if (any(h[0] == "D" for h in held) and added[0] != "k") or (
                    added[0] == "d" and base[0] == "P" and self.in_memory(base)
                ):
                    found.append(base)
            elif base[0] == "P":
                if self._dunder(
                    frame,
                    base,
                    "__delitem__" if op == "del" else "__setitem__",
                    effect[EFFECT_LINE],
                ):
                    continue
                if self.in_memory(base):
                    found.append(base)
            elif base[0] == "M":
                # globals()["name"] = …
                name = self.resolver.constant(effect[KEY], frame)
                if isinstance(name, str):
                    found.append(("P", ("g", base[1], name), ()))
        return found

    def _variable(self, frame: Frame, target: Value) -> list[Obj]:
        outer = frame.outer
        while outer is not None and outer.function.qualname != target[1]:
            outer = outer.outer
        if outer is not None and not outer.startup:
            return []
        return [("P", ("v", frame.function.module, target[1], target[2]), ())]

    def _attribute_places(self, base: Obj, name: str) -> list[Obj]:
        """The places that setting `base.name` changes."""
        kind = base[0]
        if kind == "M":
            return [("P", ("g", base[1], name), ())]
        if kind == "C":
            return [("P", ("c", *base[1]), (f".{name}",))]
        if kind == "P":
            if self.resolver.is_property(base, name):
                return []
            return [("P", base[1], (*base[2], f".{name}"))]
        if kind == "F" and "." not in base[1][1]:
            return [("P", ("g", base[1][0], base[1][1]), (f".{name}",))]
        return []

    def _store(self, place: Obj, step: str, objects: Objects) -> None:
        """Remember what was put into a place."""
        useful = [o for o in objects if o[0] in "DIPFCJ" and not self._is_member(o)]
        if not useful or is_deep(place):
            return
        path = (*place[2], step) if step else place[2]
        known = self.resolver.heap.setdefault((place[1], path), {})
        shapes = {o[:2] for o in known}
        for one in useful:
            # One object of each shape is enough: two instances of a class have the same methods.
            if one[:2] not in shapes and len(known) < 8 and one != ("P", place[1], path):
                shapes.add(one[:2])
                known[one] = None
                self._grown = True

    def _is_member(self, one: Obj) -> bool:
        """`Status.WORKING`: a constant, not another name of what it is put into."""
        return (
            one[0] == "P"
            and one[1][0] == "c"
            and len(one[2]) == 1
            and any(b.startswith("enum.") for b in self.resolver.external_bases(one[1][1:]))
        )

    def in_memory(self, place: Obj) -> bool:
        """Whether a place (or what it is in) is known to be a container or object of this process."""
        held = self.resolver.held(place)
        if any(h[0] in "DY" for h in held):
            return True
        if any(h[0] == "I" and self.resolver.container_kind(h[1]) for h in held):
            return True
        if place[:2] == SETTINGS[:2] and place[2][:1] == SETTINGS[2] and not held:
            # Whatever else an application was given: a client, a service.
            return False
        if place[1][0] in {"app", "env"} or self.resolver.is_application(place):
            return True
        if held and all(h[0] in "JEQ" for h in held):
            return False
        if place[2]:
            parent = ("P", place[1], place[2][:-1])
            above = self.resolver.held(parent)
            if place[2][-1][0] == "[":
                return self.in_memory(parent)
            return any(h[0] == "I" for h in above) and bool(held)
        return False
