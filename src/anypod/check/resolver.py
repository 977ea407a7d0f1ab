"""What a value stands for: names, attributes, elements, and what a place in memory holds.

Resolution is lazy and memoized per frame. It under-approximates: what cannot be followed resolves to nothing,
and nothing is never reported. `heap` remembers what was stored into attributes and containers; when it grows,
everything resolved before is forgotten and the walk is repeated (see `reach`).
"""

from __future__ import annotations

from anypod.check.facts import LAMBDA, PROPERTY, STATIC, UNKNOWN, Class, Function, Module, Value
from anypod.check.frames import Bindings, Frame, Obj, Objects, parts_of, union
from anypod.check.places import LONG_LIVED, PROMISED, SETTINGS, Places, is_deep
from anypod.check.project import Project

_DEEPEST = 40
# Attributes of a request object that lead to the application, which all requests share.
_APPLICATION = frozenset({"app", "application"})
_STATE_KINDS = frozenset("DIJKY")
# Methods after which an object is done with.
_ENDS = frozenset(
    "close aclose shutdown teardown stop destroy dispose __exit__ __aexit__ __del__".split()  # noqa: SIM905
)


class Names(Places):
    """Resolves everything but calls."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.fresh: list[tuple[Value | None, Frame | None, Objects]] = []
        self._symbols: dict[tuple[str, str], Objects | None] = {}
        self._depth = 0

    def forget(self) -> None:
        """Drop every memo: the heap has grown."""
        self._symbols.clear()
        self._held.clear()
        for frame in self.frames:
            frame.forget()

    # Values

    def resolve(self, value: Value, frame: Frame) -> Objects:
        """The objects that a value may be in a frame."""
        key = id(value)
        found = frame.memo.get(key)
        if found is not None:
            return found
        if key in frame.busy or self._depth > _DEEPEST:
            return ()
        frame.busy.add(key)
        self._depth += 1
        try:
            found = self._resolve(value, frame)
        finally:
            self._depth -= 1
            frame.busy.discard(key)
        frame.memo[key] = found
        return found

    def _resolve(self, value: Value, frame: Frame) -> Objects:
        read = _READERS.get(value[0])
        return () if read is None else read(self, value, frame)

    def all_of(self, values: tuple[Value, ...], frame: Frame) -> Objects:
        """The union of several values."""
        return union(*(self.resolve(v, frame) for v in values))

    def read_constant(self, value: Value, frame: Frame) -> Objects:  # noqa: ARG002  # one of many readers
        """A literal."""
        return (("K", value[1]),)

    def read_name(self, value: Value, frame: Frame) -> Objects:
        """A name."""
        return self.symbol(self.project.modules[frame.function.module], value[1])

    def read_slot(self, value: Value, frame: Frame) -> Objects:
        """A local."""
        return self.all_of(frame.function.body.slots[value[1]], frame)

    def read_call(self, value: Value, frame: Frame) -> Objects:
        """A call."""
        return self.call_result(frame, value[1])

    def read_attribute(self, value: Value, frame: Frame) -> Objects:
        """An attribute."""
        return union(*(self.attribute(o, value[2]) for o in self.resolve(value[1], frame)))

    def read_item(self, value: Value, frame: Frame) -> Objects:
        """An element."""
        key = self.constant(value[2], frame)
        return union(*(self.element(o, key) for o in self.resolve(value[1], frame)))

    def read_union(self, value: Value, frame: Frame) -> Objects:
        """One of several."""
        return self.all_of(value[1], frame)

    def read_function(self, value: Value, frame: Frame) -> Objects:
        """A function of this module."""
        function = self.project.modules[frame.function.module].functions.get(value[1])
        return () if function is None else self.decorated(function, frame)

    def read_class(self, value: Value, frame: Frame) -> Objects:
        """A class of this module."""
        return (("C", (frame.function.module, value[1])),)

    def read_fresh(self, value: Value, frame: Frame) -> Objects:
        """A display."""
        return (("D", value[1], self.note(value, frame)),)

    def read_import(self, value: Value, frame: Frame) -> Objects:
        """An import."""
        return self.imported(self.project.modules[frame.function.module], value)

    def read_annotation(self, value: Value, frame: Frame) -> Objects:
        """A declared field."""
        return self.annotated(value[1], frame)

    def constant(self, value: Value | None, frame: Frame) -> object:
        """The constant that a value is known to be, or None."""
        if value is None:
            return None
        if value[0] == "k":
            return value[1]
        found = self.resolve(value, frame)
        return found[0][1] if len(found) == 1 and found[0][0] == "K" else None

    def note(self, value: Value | None, frame: Frame | None, objects: Objects = ()) -> int:
        """Number a fresh object."""
        self.fresh.append((value, frame, objects))
        return len(self.fresh) - 1

    # Parameters and closures

    def read_parameter(self, value: Value, frame: Frame) -> Objects:
        """A parameter."""
        return self.parameter(frame, value[1])

    def parameter(self, frame: Frame, index: int) -> Objects:
        """What a parameter is: the argument, else its default, else what its annotation says."""
        bound = frame.bound(index)
        if bound:
            return bound
        function = frame.function
        name, kind, default, annotation = function.params[index]
        enclosing = frame.outer or self.enclosing(function)
        if default is not None:
            objects = self.resolve(default, enclosing)
            if any(o[0] == "D" for o in objects):
                return (("P", ("d", function.module, function.qualname, name), ()),)
            useful = tuple(o for o in objects if o[0] in "PFCMI")
            if useful:
                return useful
        if annotation is not None and kind in "pk":
            found = self.annotated(annotation, enclosing)
            if found:
                return found
        if name in _APPLICATION:
            return (("P", ("app",), ()),)
        if index == 0 and function.cls and not function.flags & (STATIC | LAMBDA):
            return (("I", (function.module, function.cls), -1),)
        return ()

    def annotated(self, annotation: Value, frame: Frame) -> Objects:
        """What an annotation promises: an instance of nobody in particular."""
        if annotation[0] == "k" and isinstance(annotation[1], str):
            annotation = ("n", annotation[1].partition("[")[0].strip())
        if annotation[0] == "i":
            inner = annotation[2]
            if inner is not None and _last(annotation[1]) in {"Annotated", "Optional"}:
                first = inner[2][0] if inner[0] == "d" and inner[2] else inner
                return self.annotated(first, frame)
            return ()
        if annotation[0] == "o":
            return union(*(self.annotated(a, frame) for a in annotation[2]))
        found: list[Obj] = []
        for o in self._resolve(annotation, frame):
            if o[0] == "C":
                found.append(("I", o[1], -1))
            elif o[0] == "E" and o[1] in PROMISED:
                found.append(("P", ("app",), PROMISED[o[1]]))
            elif o[0] == "E":
                last = o[1].rpartition(".")[2]
                if last in {"Request", "HTTPConnection", "WebSocket", "HttpRequest"}:
                    found.append(("Q", "request"))
                elif not o[1].startswith(("builtins.", "typing.")):
                    found.append(("J", o[1]))
        return tuple(found)

    def read_variable(self, value: Value, frame: Frame) -> Objects:
        """A variable of an enclosing function.

        In a request the enclosing call has its own variables; what outlives it is what a closure made at
        start-up keeps.
        """
        _, owner, name = value
        outer = frame.outer
        while outer is not None and outer.function.qualname != owner:
            outer = outer.outer
        module = frame.function.module
        if outer is not None:
            values = outer.function.body.captured.get(name, ())
            objects = self.all_of(values, outer)
            if outer.startup and len(values) > 1 and values[-1] == UNKNOWN:
                # An inner function rebinds it: every request sees what the last one left.
                known = tuple(o for o in objects if o[0] in "PFCME")
                return (*known, ("P", ("v", module, owner, name), ()))
            if not outer.startup or not any(o[0] in _STATE_KINDS for o in objects):
                return objects
            if any(o[0] in "PFCME" for o in objects):
                return tuple(o for o in objects if o[0] in "PFCME")
        return self.settle(("P", ("v", module, owner, name), ()))

    # Symbols

    def symbol(self, module: Module, name: str) -> Objects:
        """What a module's name stands for."""
        key = (module.path, name)
        if key in self._symbols:
            return self._symbols[key] or ()
        self._symbols[key] = None
        found = self._symbol(module, name)
        self._symbols[key] = found
        return found

    def _symbol(self, module: Module, name: str) -> Objects:
        entries = module.symbols.get(name)
        if entries is None:
            return self._starred(module, name)
        found: list[Objects] = []
        variable = False
        for value, _, function in entries:
            tag = value[0]
            if tag in {"l", "c", "m"}:
                frame = self.module_frame(module.path)
                if function and function in module.functions:
                    frame = self.frame(module.functions[function], startup=True)
                found.append(self.resolve(value, frame))
            elif value != ("k", None) or not found:
                variable = True
        if variable and not any(found):
            found.append(self.settle(("P", ("g", module.path, name), ())))
        return union(*found)

    def _starred(self, module: Module, name: str) -> Objects:
        for dotted, level in module.stars:
            _, other, _ = self.project.imported(module, ("m", dotted, "", level))
            if other is not None and other is not module:
                objects = self.symbol(other, name)
                if objects and objects[0][1:] != (f"builtins.{name}",):
                    return objects
        inner = self.project.submodule(module, name)
        if inner is not None:
            return (("M", inner.path),)
        if self.project.is_builtin(name):
            return (("E", f"builtins.{name}"),)
        return ()

    def imported(self, module: Module, value: Value) -> Objects:
        """What an import binds."""
        dotted, target, name = self.project.imported(module, value)
        if target is None:
            return LONG_LIVED.get(dotted) or (("E", dotted),)
        if not name:
            return (("M", target.path),)
        return self.symbol(target, name)

    def decorated(self, function: Function, frame: Frame) -> Objects:
        """A function as its name sees it: wrapped by the decorators that are checked code."""
        outer = frame if frame.function.qualname else None
        current: Objects = (("F", function.key, None, outer.number if outer else -1),)
        for decorator in reversed(function.decorators):
            for one in self.resolve(decorator, frame):
                if one[0] == "F" and one[1] != function.key:
                    wrapped = self.apply(one, (current,), startup=True)
                    wrapped = tuple(o for o in wrapped if o[0] == "F")
                    if wrapped:
                        current = wrapped
        return current

    def apply(self, function: Obj, arguments: Bindings, startup: bool) -> Objects:
        """The results of calling a checked function with these arguments."""
        outer = self.frames[function[3]] if function[3] >= 0 else None
        target = self.project.function(function[1])
        bindings = arguments if function[2] is None else ((function[2],), *arguments)
        frame = self.frame(target, bindings, outer, startup)
        return self.all_of(tuple(target.body.returns), frame)

    # Attributes and elements

    def attribute(self, base: Obj, name: str) -> Objects:
        """`base.name`."""
        kind = base[0]
        if kind == "P":
            return self.place_attribute(base, name)
        if kind == "M":
            return self.module_attribute(base, name)
        if kind == "E":
            dotted = f"{base[1]}.{name}"
            return LONG_LIVED.get(dotted) or (*self.carried_by(base, name), ("E", dotted))
        if kind == "C":
            return self.class_attribute(base, name)
        if kind == "I":
            return self.instance_attribute(base, base, name)
        if kind == "F" and "." not in base[1][1]:
            return self.settle(("P", ("g", *base[1]), (f".{name}",)))
        if kind == "Q":
            if name in _APPLICATION:
                return (("P", ("app",), ()),)
            return (*self.carried_by(base, name), ("Q", "data"))
        if kind == "J":
            return (("J", f"{base[1]}().{name}"),)
        return ()

    def module_attribute(self, base: Obj, name: str) -> Objects:
        """A name in a checked module."""
        module = self.project.modules[base[1]]
        if name not in module.symbols:
            inner = self.project.submodule(module, name)
            if inner is not None:
                return (("M", inner.path),)
        return self.symbol(module, name)

    def place_attribute(self, place: Obj, name: str) -> Objects:
        """An attribute of whatever a place holds."""
        found = [
            self.instance_attribute(held, place, name)
            for held in self.held(place)
            if held[0] == "I"
        ]
        if found:
            return union(*found)
        if is_deep(place):
            return ()
        return self.settle(("P", place[1], (*place[2], f".{name}")))

    def instance_attribute(self, instance: Obj, place: Obj, name: str) -> Objects:
        """An attribute of an instance that lives at `place` (itself, when it is fresh)."""
        if name == "__class__":
            return (("C", instance[1]),)
        method = self.method(instance[1], name)
        if method is not None:
            function = method[1]
            if function.flags & PROPERTY:
                return self.apply(("F", function.key, place, -1), (), startup=False)
            return self.bind_method(function, place)
        owner = self.owner_of(instance[1], name)
        own = self.instance_values(instance, name)
        if owner is not None and own and self.binds_property(owner, name):
            return ()
        given = self.of_framework(instance[1], name) if owner is None and not own else ()
        if given:
            return given
        if owner is not None and not own and name in owner.fields and self.is_record(owner.key):
            if place[0] != "P":
                return self.class_values(owner, name)
        elif owner is not None and not own:
            return self.class_default(owner, place, name)
        elif owner is not None and place[0] != "P" and all(_ends_an_object(m) for m, _, _ in own):
            # Until then, the class's is everybody's.
            return union(self.class_default(owner, place, name), self.assigned(instance, own))
        if place[0] == "P":
            if is_deep(place):
                return ()
            return self.settle(("P", place[1], (*place[2], f".{name}")))
        return self.assigned(instance, own)

    def assigned(self, instance: Obj, own: list[tuple[str, Value, Class]]) -> Objects:
        """What an instance's methods assign to one of its attributes."""
        return union(
            *(
                self.resolve(value, self.constructor_frame(instance, method, owner))
                for method, value, owner in own
            )
        )

    def constructor_frame(self, instance: Obj, method: str, owner: Class) -> Frame:
        """The frame in which a method of an instance gave it an attribute."""
        module = self.project.modules[owner.module]
        if not method:
            return self.frame(module.functions[owner.owner], startup=True)
        function = module.functions[method]
        bindings: Bindings = ((("I", instance[1], -1),),)
        if function.name == "__init__" and instance[2] >= 0:
            value, frame, _ = self.fresh[instance[2]]
            if frame is not None and value is not None:
                bindings = self.bindings_of(function, frame, value[1], bindings[0])
        return self.frame(function, bindings, None, startup=True)

    def instance_values(self, instance: Obj, name: str) -> list[tuple[str, Value, Class]]:
        """(method, value, class) of every assignment to `self.name` in the class and its bases."""
        found: list[tuple[str, Value, Class]] = []
        for cls in self.lineage(instance[1]):
            found.extend((m, v, cls) for m, v, _ in cls.instance.get(name, ()))
        return found

    def bind_method(self, function: Function, receiver: Obj) -> Objects:
        """A method as an attribute."""
        if function.flags & STATIC:
            return (("F", function.key, None, -1),)
        frame = self.enclosing(function)
        return tuple(
            ("F", f[1], receiver, f[3]) for f in self.decorated(function, frame) if f[0] == "F"
        )

    def class_attribute(self, base: Obj, name: str) -> Objects:
        """An attribute of a class itself."""
        method = self.method(base[1], name)
        if method is not None:
            function = method[1]
            if function.flags & PROPERTY:
                return ()
            is_bound = "classmethod" in {_last(d) for d in function.decorators}
            return (("F", function.key, base if is_bound else None, -1),)
        owner = self.owner_of(base[1], name)
        if owner is not None:
            return self.settle(("P", ("c", owner.module, owner.qualname), (f".{name}",)))
        for external in self.external_bases(base[1]):
            return (("E", f"{external}.{name}"),)
        return self.settle(("P", ("c", *base[1]), (f".{name}",)))

    def element(self, base: Obj, key: object = None) -> Objects:
        """An element of a container."""
        kind = base[0]
        if kind == "P":
            return self.place_element(base, key)
        if kind == "D":
            value, frame, objects = self.fresh[base[2]]
            put = tuple(self.filled.get(id(value), ()))
            if frame is not None and value is not None and value[0] == "d":
                return (*self.all_of(parts_of(value, key), frame), *put)
            return (*union(*(self.element(o) for o in objects)), *put)
        if kind == "Y":
            return union(*(self.element(o) for o in base[1]))
        if kind == "S":
            if isinstance(key, int) and key < len(base[1]):
                chosen: Objects = base[1][key]
                return chosen
            return union(*base[1])
        if kind == "C":
            # `Order[7]` is an order; `Page[Order]` is a page.
            return (base,) if self.is_generic(base[1]) else (("I", base[1], -1),)
        if kind == "E":
            return (base,)
        if kind == "J":
            return (("J", f"{base[1]}()[]"),)
        return (base,) if kind == "Q" else ()

    def place_element(self, place: Obj, key: object) -> Objects:
        """An element of whatever a place holds."""
        held = self.held(place)
        external = [h for h in held if h[0] == "J"]
        if held and len(external) == len(held) and not self.is_application(place):
            return tuple(("J", f"{h[1]}()[]") for h in external)
        if is_deep(place):
            return ()
        step = f"[{key!r}]" if isinstance(key, str) and self.is_application(place) else "[]"
        element = ("P", place[1], (*place[2], step))
        # What Tornado's application was given elsewhere, nobody knows.
        return () if place == SETTINGS and not self.held(element) else self.settle(element)

    # Calls: see `calls`

    def call_result(self, frame: Frame, index: int) -> Objects:
        """The results of a call."""
        raise NotImplementedError

    def bindings_of(self, function: Function, frame: Frame, index: int, first: Objects) -> Bindings:
        """The arguments of a call as a function's parameters see them."""
        raise NotImplementedError


def _ends_an_object(method: str) -> bool:
    return method.rpartition(".")[2] in _ENDS


def _last(value: Value) -> str:
    if value[0] == "a":
        return str(value[2])
    return str(value[1]) if value[0] == "n" else ""


_READERS = {
    "k": Names.read_constant,
    "n": Names.read_name,
    "p": Names.read_parameter,
    "v": Names.read_variable,
    "s": Names.read_slot,
    "r": Names.read_call,
    "a": Names.read_attribute,
    "i": Names.read_item,
    "u": Names.read_union,
    "l": Names.read_function,
    "c": Names.read_class,
    "d": Names.read_fresh,
    "m": Names.read_import,
    "t": Names.read_annotation,
}
