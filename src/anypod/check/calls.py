"""Calls: who is called, with what, and what comes back.

A callee is one of the objects of `frames`, or

    ("B", receiver, method)           a method of one of Python's own containers
    ("X", receiver or None, dotted)   a method of something external
    ("U", receiver, method)           a method of something in memory whose type is not known
"""

from __future__ import annotations

from anypod.check.containers import (
    CONSTRUCTORS,
    COPIES,
    ELEMENT_OF,
    ELEMENTS,
    MEMOIZERS,
    ONE_ROW,
    SAME,
    VIEWS,
)
from anypod.check.facts import ARGS, CALLEE, KWARGS, Function, Value
from anypod.check.frames import Bindings, Frame, Obj, Objects, union
from anypod.check.resolver import Names

# Of a WSGI environ: what belongs to one request.
_CGI = ("HTTP", "REQUEST", "PATH", "QUERY", "REMOTE", "CONTENT", "SCRIPT", "AUTH", "SERVER", "SSL")
_OBJECTS = frozenset({"builtins.super", "builtins.property"})
_CARRIED = frozenset("PFCMQSIJ")


class Resolver(Names):
    """Resolves values, calls included."""

    def callees(self, frame: Frame, index: int) -> Objects:
        """Who a call calls."""
        found = frame.callees.get(index)
        if found is None:
            frame.callees[index] = ()
            found = self._callees(frame, frame.function.body.calls[index][CALLEE])
            frame.callees[index] = found
        return found

    def _callees(self, frame: Frame, callee: Value) -> Objects:
        if callee[0] == "a":
            bases = self.resolve(callee[1], frame)
            found = union(*(self.method_of(b, callee[2], frame) for b in bases))
            # A receiver that nobody knows still has a name: `?.db.session.add`.
            return found or (("X", None, f"?.{spelled(callee, frame)}"),)
        found = union(*(self.callable(o) for o in self.resolve(callee, frame)))
        if not found and callee[0] == "n":
            return (("X", None, f"?.{callee[1]}"),)
        return found

    def callable(self, one: Obj) -> Objects:
        """What calling an object calls."""
        kind = one[0]
        if kind in "FCE":
            return (one,)
        if kind == "I":
            return self.instance_method(one, one, "__call__")
        if kind == "P":
            found = [
                self.instance_method(h, one, "__call__") for h in self.held(one) if h[0] == "I"
            ]
            found.extend((("X", one, f"{h[1]}()"),) for h in self.held(one) if h[0] == "J")
            return union(*found)
        if kind == "J":
            return (("X", None, f"{one[1]}()"),)
        return (("X", None, "request"),) if kind == "Q" else ()

    def method_of(self, base: Obj, name: str, frame: Frame) -> Objects:
        """What `base.name(…)` calls."""
        kind = base[0]
        if kind == "P":
            return self.place_method(base, name)
        if kind in "DY":
            return (("B", base, name),)
        if kind == "I":
            return self.instance_method(base, base, name)
        if kind == "J":
            if base[1] == "builtins.super":
                return self.inherited(frame, name)
            return (("X", None, f"{base[1]}().{name}"),)
        if kind == "Q":
            return (("X", base if base[1] == "environ" else None, f"request.{name}"),)
        if kind == "F":
            return (("X", base, f"function.{name}"),)
        return union(*(self.callable(o) for o in self.attribute(base, name)))

    def inherited(self, frame: Frame, name: str) -> Objects:
        """`super().name(…)`."""
        function = frame.function
        if not function.cls:
            return ()
        receiver = self.parameter(frame, 0) if function.params else ()
        for group in self.bases((function.module, function.cls)):
            for base in group:
                method = self.method(base[1], name) if base[0] == "C" else None
                if method is not None:
                    return union(*(self.bind_method(method[1], r) for r in receiver))
        return union(*((("B", r, name),) for r in receiver if r[0] == "P"))

    def place_method(self, place: Obj, name: str) -> Objects:
        """A method of whatever a place holds."""
        found: list[Objects] = []
        held = self.held(place)
        for one in held:
            if one[0] == "I":
                found.append(self.instance_method(one, place, name))
            elif one[0] in "DY":
                found.append((("B", place, name),))
            elif one[0] == "J":
                found.append((("X", place, f"{one[1]}().{name}"),))
        if not any(o[0] in "IDYJ" for o in held):
            found.append((("U", place, name),))
            if place[1] == ("app",) and not place[2]:
                found.append((("X", place, f"app.{name}"),))
        return union(*found)

    def instance_method(self, instance: Obj, place: Obj, name: str) -> Objects:
        """A method of an instance that lives at `place`."""
        method = self.method(instance[1], name)
        if method is not None:
            return self.bind_method(method[1], place)
        if self.container_kind(instance[1]):
            return (("B", place, name),)
        objects = self.instance_attribute(instance, place, name)
        found = union(*(self.callable(o) for o in objects))
        if found:
            return found
        receiver = place if place[0] == "P" else None
        return tuple(("X", receiver, f"{b}().{name}") for b in self.external_bases(instance[1]))

    # Arguments

    def bindings_of(self, function: Function, frame: Frame, index: int, first: Objects) -> Bindings:
        """The arguments of a call as a function's parameters see them; `first` is the receiver, if any."""
        call = frame.function.body.calls[index]
        bound: list[Objects] = [() for _ in function.params]
        given: list[Objects] = [first] if first else []
        for argument in call[ARGS]:
            if argument[0] == "*":
                spread = self.resolve(argument[1], frame)
                if len(spread) == 1 and spread[0][0] == "S":
                    given.extend(spread[0][1])
                    continue
                break
            given.append(self.carried(self.resolve(argument, frame)))
        for position, objects in enumerate(given):
            if position >= len(function.params):
                break
            kind = function.params[position][1]
            if kind == "*":
                bound[position] = (("S", tuple(given[position:])),)
                break
            if kind != "p":
                break
            bound[position] = objects
        for name, value in call[KWARGS]:
            at = function.position(name)
            if at is not None:
                bound[at] = self.carried(self.resolve(value, frame))
        return tuple(bound)

    def carried(self, objects: Objects) -> Objects:
        """What of an argument is worth a calling context of its own."""
        found = []
        for one in objects:
            if one[0] not in _CARRIED:
                continue
            if one[0] == "I" and one[2] >= 0 and not self.keeps_place(one):
                found.append(("I", one[1], -1))
            elif one[0] != "J" or one[1].count("(") <= 2:
                found.append(one)
        return tuple(found)[:4]

    def keeps_place(self, instance: Obj) -> bool:
        """Whether an instance was given something long-lived."""
        value, frame, _ = self.fresh[instance[2]]
        if frame is None or value is None:
            return False
        call = frame.function.body.calls[value[1]]
        given = (*call[ARGS], *(v for _, v in call[KWARGS]))
        return any(o[0] in "PF" for v in given for o in self.resolve(v, frame))

    def child(self, frame: Frame, index: int, function: Obj) -> Frame:
        """The frame that a call enters."""
        target = self.project.function(function[1])
        receiver: Objects = (function[2],) if function[2] is not None else ()
        outer = self.frames[function[3]] if function[3] >= 0 else None
        bindings = self.bindings_of(target, frame, index, self.carried(receiver))
        return self.frame(target, bindings, outer, frame.startup)

    # Results

    def call_result(self, frame: Frame, index: int) -> Objects:
        """The objects that a call may return."""
        found = frame.calls.get(index)
        if found is None:
            frame.calls[index] = ()
            found = union(
                *(self._result(frame, index, callee) for callee in self.callees(frame, index))
            )
            frame.calls[index] = found
        return found

    def _result(self, frame: Frame, index: int, callee: Obj) -> Objects:
        kind = callee[0]
        if kind == "F":
            return self._returned(frame, index, callee)
        if kind == "C":
            return self._constructed(frame, index, callee)
        if kind in "EX":
            row = self._row(frame, index, callee[1] if kind == "E" else callee[2])
            if row:
                return row
        if kind == "E":
            return self.external_result(frame, index, callee[1])
        if kind in "BU":
            return self.container_result(frame, index, callee)
        if kind == "X" and callee[2].endswith("__new__") and frame.function.cls:
            return (("I", (frame.function.module, frame.function.cls), -1),)
        if kind == "X" and callee[1] == ("Q", "environ") and self._is_server_setting(frame, index):
            return (("J", "os.environ.get"),)
        if kind == "X":
            return (("Q", "data"),) if callee[2].startswith("request") else (("J", callee[2]),)
        return ()

    def _row(self, frame: Frame, index: int, dotted: str) -> Objects:
        """The row that a query gives, of a class whose methods are known: `Item.objects.get(…)`, `get(Item, 1)`."""
        if dotted.rpartition(".")[2] not in ONE_ROW:
            return ()
        model = self._model_in(frame, ("r", index), 8)
        return (("I", model, -1),) if model else ()

    def _model_in(self, frame: Frame, value: Value, depth: int) -> tuple[str, str] | None:
        """The checked model that a query is about: where its chain of calls begins, or what it is given."""
        body = frame.function.body
        while depth > 0:
            depth -= 1
            tag = value[0]
            if tag == "r":
                call = body.calls[value[1]]
                if call[ARGS] and call[ARGS][0][0] in "nmr":
                    found = self._model_in(frame, call[ARGS][0], depth)
                    if found:
                        return found
                value = call[CALLEE]
            elif tag == "s" and len(body.slots[value[1]]) == 1:
                value = body.slots[value[1]][0]
            elif tag in "nma":
                for one in self.resolve(value, frame):
                    if one[0] == "C" and self.is_model(one[1]):
                        return (one[1][0], one[1][1])
                if tag != "a":
                    return None
                value = value[1]
            else:
                return None
        return None

    def _is_server_setting(self, frame: Frame, index: int) -> bool:
        """`environ.get("SHOP_CONFIG")`: what the server was started with, not what was asked."""
        arguments = frame.function.body.calls[index][ARGS]
        key = self.constant(arguments[0], frame) if arguments else None
        return isinstance(key, str) and key.isupper() and not key.startswith(_CGI)

    def _constructed(self, frame: Frame, index: int, callee: Obj) -> Objects:
        """A new instance, or the one that `__new__` keeps."""
        method = self.method(callee[1], "__new__")
        if method is not None and self._depth < 24:
            self._depth += 1
            kept = self.apply(("F", method[1].key, callee, -1), (), startup=True)
            self._depth -= 1
            kept = tuple(o for o in kept if o[0] == "P")
            if kept:
                return kept
        return (("I", callee[1], self.note(("r", index), frame)),)

    def _returned(self, frame: Frame, index: int, callee: Obj) -> Objects:
        if self._depth > 24:
            return ()
        self._depth += 1
        try:
            child = self.child(frame, index, callee)
            function = child.function
            found = self.given_by(child)
        finally:
            self._depth -= 1
        if not found and function.returns_annotation is not None:
            return self.annotated(function.returns_annotation, self.enclosing(function))
        return found

    def given_by(self, frame: Frame) -> Objects:
        """What a function returns, or the place where a decorator keeps it."""
        function = frame.function
        found = self.all_of(tuple(function.body.returns), frame)
        if function.decorators and any(o[0] in "DI" for o in found) and self._is_memoized(function):
            return self.settle(("P", ("r", *function.key), ()))
        return found

    def _is_memoized(self, function: Function) -> bool:
        """Whether a decorator keeps what a function of a module gives."""
        if function.cls or function.owner:
            # What a method's memo keeps may go with its object.
            return False
        enclosing = self.enclosing(function)
        for decorator in function.decorators:
            callee = decorator
            if decorator[0] == "r":
                callee = enclosing.function.body.calls[decorator[1]][CALLEE]
            if any(o[0] == "E" and o[1] in MEMOIZERS for o in self.resolve(callee, enclosing)):
                return True
        return False

    def container_result(self, frame: Frame, index: int, callee: Obj) -> Objects:
        """What a container's method hands out."""
        kind, receiver, name = callee
        if kind == "U" and not (receiver[2] and receiver[2][-1][0] == "["):
            # Nobody has seen a container there: its `get` may be anything.
            return ()
        if name in ELEMENTS:
            arguments = frame.function.body.calls[index][ARGS]
            key = self.constant(arguments[0], frame) if arguments else None
            found = self.element(receiver, key)
            if name == "setdefault" and len(arguments) > 1:
                # The default is stored: what comes back lives in the container either way.
                return found or self.resolve(arguments[1], frame)
            return found
        if name in VIEWS:
            return (("Y", (receiver,)),)
        return ()

    def external_result(self, frame: Frame, index: int, dotted: str) -> Objects:
        """What calling something external gives."""
        call = frame.function.body.calls[index]
        arguments = call[ARGS]
        kind = CONSTRUCTORS.get(dotted)
        if kind is not None:
            sources = self.all_of(tuple(a for a in arguments if a[0] != "*"), frame)
            return (("D", kind, self.note(("r", index), frame, self.made_of(dotted, sources))),)
        if dotted in COPIES:
            return (("Y", self.all_of(tuple(a for a in arguments if a[0] != "*"), frame)),)
        if dotted in ELEMENT_OF and arguments:
            return union(*(self.element(o) for o in self.resolve(arguments[0], frame)))
        if dotted == "werkzeug.local.LocalProxy" and arguments:
            # It is asked anew, in each request, for what it stands for.
            given = self.resolve(arguments[0], frame)
            found = union(*(self.apply(o, (), startup=False) for o in given if o[0] == "F"))
            return (*found, ("J", dotted))
        if dotted in SAME and len(arguments) > SAME[dotted]:
            return self.resolve(arguments[SAME[dotted]], frame)
        if dotted == "builtins.getattr" and len(arguments) > 1:
            name = self.constant(arguments[1], frame)
            if isinstance(name, str):
                bases = self.resolve(arguments[0], frame)
                return union(*(self.attribute(b, name) for b in bases))
            return ()
        if dotted.endswith(".g.get") and arguments:
            name = self.constant(arguments[0], frame)
            return (*self.carried_by(("E", dotted.removesuffix(".get")), str(name)), ("J", dotted))
        if dotted == "builtins.globals":
            return (("M", frame.function.module),)
        if dotted == "builtins.type" and arguments:
            return tuple(("C", o[1]) for o in self._instances(self.resolve(arguments[0], frame)))
        if dotted == "functools.partial" and arguments:
            return tuple(o for o in self.resolve(arguments[0], frame) if o[0] == "F")
        if dotted.startswith(("builtins.", "math.", "string.")) and dotted not in _OBJECTS:
            return ()
        return (("J", dotted),)

    def _instances(self, objects: Objects) -> Objects:
        found: list[Obj] = []
        for one in objects:
            held = self.held(one) if one[0] == "P" else (one,)
            found.extend(h for h in held if h[0] == "I")
        return tuple(found)

    def made_of(self, dotted: str, sources: Objects) -> Objects:
        """Containers whose elements a new container has: its arguments, or a factory's results."""
        if dotted != "collections.defaultdict":
            return tuple(o for o in sources if o[0] in "PDYS")
        made: list[Obj] = []
        for one in sources:
            if one[0] == "C":
                made.append(("I", one[1], -1))
            elif one[0] == "E" and one[1] in CONSTRUCTORS:
                made.append(("D", CONSTRUCTORS[one[1]], self.note(None, None)))
            elif one[0] == "F":
                made.extend(self.apply(one, (), startup=True))
        return (("S", (tuple(made),)),) if made else ()


def spelled(value: Value, frame: Frame) -> str:
    """How a receiver is written: parameters and attributes by name, the rest left out."""
    parts: list[str] = []
    for _ in range(8):
        tag = value[0]
        if tag == "a":
            parts.append(value[2])
            value = value[1]
        elif tag == "i":
            value = value[1]
        elif tag == "r":
            parts.append("()")
            value = frame.function.body.calls[value[1]][CALLEE]
        elif tag == "s":
            value = frame.function.body.slots[value[1]][-1]
        else:
            if tag == "p":
                parts.append(frame.function.params[value[1]][0])
            elif tag in {"n", "v"}:
                parts.append(value[-1])
            break
    return ".".join(reversed(parts)).replace(".()", "()")
