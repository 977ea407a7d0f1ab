"""What places in long-lived memory hold: a module's variables, attributes, elements.

`heap` remembers what was stored into attributes and containers while walking.
"""

from __future__ import annotations

from anypod.check.classes import Classes
from anypod.check.facts import Class, Value
from anypod.check.frames import Frame, Obj, Objects, union
from anypod.check.project import Project

APPLICATIONS = frozenset(
    {
        "flask.Flask",
        "quart.Quart",
        "fastapi.FastAPI",
        "starlette.applications.Starlette",
        "aiohttp.web.Application",
        "sanic.Sanic",
        "litestar.Litestar",
    }
)
# What annotations promise: the application, or its state.
PROMISED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(APPLICATIONS, ()),
    "litestar.datastructures.State": (".state",),
    "starlite.datastructures.State": (".state",),
}

# What Tornado's application was given by keyword.
SETTINGS: Obj = ("P", ("app",), (".settings",))

LONGEST_PATH = 5
# Objects that carry something through one request.
CARRIERS = frozenset({"flask.g", "quart.g"})


def is_deep(place: Obj) -> bool:
    """Whether a place is too far from its root to be followed further: `app.config["x"]` is no step on the way."""
    return len(place[2]) >= LONGEST_PATH + (2 if place[1] == ("app",) else 0)


LONG_LIVED: dict[str, Objects] = {
    "os.environ": (("P", ("env",), ()),),
    "flask.request": (("Q", "request"),),
    "quart.request": (("Q", "request"),),
    "bottle.request": (("Q", "request"),),
    "flask.current_app": (("P", ("app",), ()),),
    "quart.current_app": (("P", ("app",), ()),),
}


class Places(Classes):
    """Places, on top of classes."""

    def __init__(self, project: Project) -> None:
        super().__init__(project)
        self.heap: dict[tuple[Obj, tuple[str, ...]], dict[Obj, None]] = {}
        # What is put into containers where they are made, by what makes them: the classes of their elements.
        self.filled: dict[int, dict[Obj, None]] = {}
        # What outlives requests and is handed on by `g.name` or `request.name`.
        self.handed_on: dict[str, dict[Obj, None]] = {}
        self._held: dict[Obj, Objects | None] = {}

    def settle(self, place: Obj) -> Objects:
        """A place, or what it is only another name of."""
        held = self.held(place)
        if any(o[0] == "J" and o[1] in APPLICATIONS for o in held):
            return (("P", ("app",), ()),)
        aliases = tuple(o for o in held if o[0] in "PMCFEQ")
        if not aliases:
            return (place,)
        return aliases if len(aliases) == len(held) else (*aliases, place)

    def held(self, place: Obj) -> Objects:
        """What a place may hold."""
        if place in self._held:
            return self._held[place] or ()
        self._held[place] = None
        stored = tuple(self.heap.get((place[1], place[2]), ()))
        found = union(self._held_by(place), stored)
        found = tuple(o for o in found if o != place)
        self._held[place] = found
        return found

    def _held_by(self, place: Obj) -> Objects:
        _, root, path = place
        if not path:
            return self._root_holds(root)
        step = path[-1]
        if root[0] == "c" and len(path) == 1:
            return self._class_holds(root, step[1:])
        parent = ("P", root, path[:-1])
        found: list[Objects] = []
        for holder in self.held(parent):
            if holder[0] == "I" and step[0] == ".":
                found.append(self.assigned(holder, self.instance_values(holder, step[1:])))
            elif holder[0] in "DY" and step[0] == "[":
                found.append(self.element(holder))
            elif holder[0] == "J" and step[0] == ".":
                found.append((("J", f"{holder[1]}(){step}"),))
        return union(*found)

    def _root_holds(self, root: Obj) -> Objects:
        if root[0] == "g":
            module = self.project.modules[root[1]]
            found = []
            for value, _, function in module.symbols.get(root[2], ()):
                if function and function not in module.functions:
                    continue
                frame = self.frame(module.functions[function], startup=True)
                found.append(self.resolve(value, frame))
            return union(*found)
        if root[0] == "r":
            memoized = self.project.modules[root[1]].functions[root[2]]
            return self.all_of(tuple(memoized.body.returns), self.frame(memoized, startup=True))
        if root[0] == "s":
            return (("I", (root[1], root[2]), -1),)
        if root[0] in {"v", "d"}:
            keeper = self.project.modules[root[1]].functions[root[2]]
            if root[0] == "v":
                frame = self.frame(keeper, startup=True)
                return self.all_of(keeper.body.captured.get(root[3], ()), frame)
            position = keeper.position(root[3])
            default = keeper.params[position][2] if position is not None else None
            return self.resolve(default, self.enclosing(keeper)) if default else ()
        return ()

    def _class_holds(self, root: Obj, name: str) -> Objects:
        return self.class_values(self.project.class_((root[1], root[2])), name)

    def class_values(self, cls: Class, name: str) -> Objects:
        """What the body of a class binds to a name."""
        owner = self.project.modules[cls.module].functions[cls.owner]
        frame = self.frame(owner, startup=True)
        return union(*(self.resolve(v, frame) for v, _ in cls.attributes.get(name, ())))

    def carrier(self, base: Obj) -> str:
        """The name under which an object carries things through a request, or ""."""
        if base[0] == "E" and base[1] in CARRIERS:
            return "g"
        return "request" if base[0] == "Q" and base[1] != "environ" else ""

    def carried_by(self, base: Obj, name: str) -> Objects:
        """What an object that goes with a request was given as `name`."""
        return tuple(self.handed_on.get(f"{self.carrier(base)}.{name}", ()))

    def of_framework(self, key: tuple[str, str], name: str) -> Objects:
        """What a framework's base class gives its handlers: the request, the application, its settings."""
        bases = self.external_bases(key)
        if bases and name == "request":
            return (("Q", "request"),)
        if bases and name in {"app", "application"}:
            return (("P", ("app",), ()),)
        if name == "settings" and any(b.startswith("tornado.web.") for b in bases):
            return (SETTINGS,)
        return ()

    def is_application(self, place: Obj) -> bool:
        """Whether a place is an application, its configuration or the environment: keys matter there."""
        last = place[2][-1] if place[2] else ""
        return place[1][0] in {"app", "env"} or last in {".config", ".extensions"}

    def class_default(self, owner: Class, place: Obj, name: str) -> Objects:
        """What an attribute of an object at `place` is as long as only its class binds it."""
        place_of_class: Obj = ("P", ("c", owner.module, owner.qualname), (f".{name}",))
        held = self.held(place_of_class)
        if held and all(
            h[0] == "J"
            or (h[0] == "I" and self.external_bases(h[1]) and not self.container_kind(h[1]))
            for h in held
        ):
            # A descriptor (a column, a form field): each instance has its own value.
            return held
        found = self.settle(place_of_class)
        if place[0] == "P" and not is_deep(place) and all(h[0] == "K" for h in held):
            # A plain value: what is set on the object hides it.
            return (*found, ("P", place[1], (*place[2], f".{name}")))
        return found

    def binds_property(self, owner: Class, name: str) -> bool:
        """Whether a class binds `name` to a property that a call made: what is set goes wherever its setter says."""
        return ("J", "builtins.property") in self.class_values(owner, name)

    def is_property(self, place: Obj, name: str) -> bool:
        """The same of the objects at a place."""
        owners = [self.owner_of(h[1], name) for h in self.held(place) if h[0] == "I"]
        return any(owner is not None and self.binds_property(owner, name) for owner in owners)

    # See `resolver`

    def all_of(self, values: tuple[Value, ...], frame: Frame) -> Objects:
        """The union of several values."""
        raise NotImplementedError

    def element(self, base: Obj, key: object = None) -> Objects:
        """An element of a container."""
        raise NotImplementedError

    def assigned(self, instance: Obj, own: list[tuple[str, Value, Class]]) -> Objects:
        """What an instance's methods assign to one of its attributes."""
        raise NotImplementedError

    def instance_values(self, instance: Obj, name: str) -> list[tuple[str, Value, Class]]:
        """(method, value, class) of every assignment to `self.name` in the class and its bases."""
        raise NotImplementedError
