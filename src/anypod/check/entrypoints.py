"""Where requests come in: the handlers of every framework that we know, by the shape of their registration.

An application object that cannot be followed (a parameter, something imported from elsewhere) does not hide its
routes: the decorator's name and its path are enough. Lifespan, start-up events and command lines are not requests.
"""

from __future__ import annotations

from typing import NamedTuple

from anypod.check.calls import Resolver
from anypod.check.facts import ARGS, CALLEE, KWARGS, STATIC, Class, Function, Module, Value
from anypod.check.frames import Bindings, Frame, Obj, Objects
from anypod.check.injection import Injection, last_part
from anypod.check.registrations import (
    CALLS,
    HOOK_DECORATORS,
    ROUTE_DECORATORS,
    SHARED_BASES,
    VERBS,
    VIEW_BASES,
    VIEW_DECORATORS,
    VIEWSET_VERBS,
)

_GATEWAY_METHODS = frozenset({"__call__", "dispatch", "on_request", "on_response"})
_SKIPPED_METHODS = frozenset({"__init__", "__init_subclass__", "as_view", "setup_class"})
_NOT_WEB = (
    "unittest.",
    "abc.",
    "typing.",
    "click.",
    "tkinter.",
    "PyQt5.",
    "PySide6.",
    "textual.",
    "discord.",
)


class Entry(NamedTuple):
    """A function that a request runs."""

    kind: str  # "route" "hook" "socket" "view"
    methods: tuple[str, ...]
    path: str
    function: Function
    """The handler itself, whatever wraps it."""
    frame: Frame
    line: int


class EntryPoints(Injection):
    """Finds the entry points of a project."""

    def __init__(self, resolver: Resolver, named: tuple[str, ...] = ()) -> None:
        self.resolver = resolver
        self.named = named
        self.unknown: list[str] = []
        """Those of `named` whose module is among the files, without such a function."""
        self.entries: dict[tuple[int, str, tuple[str, ...]], Entry] = {}

    def find(self) -> list[Entry]:
        """Every entry point, in source order."""
        for module in self.resolver.project.modules.values():
            if module.is_test:
                continue
            for owner, decorated, index in module.registrations:
                if owner not in module.functions:
                    continue
                if decorated:
                    self._decorated(module, owner, decorated, index)
                else:
                    self._called(module, owner, index)
            for cls in module.classes.values():
                self._class(module, cls)
            for function in module.functions.values():
                self._plain(module, function)
        self._project_names()
        return sorted(self.entries.values(), key=lambda e: (e.function.module, e.line))

    def add(
        self,
        kind: str,
        methods: tuple[str, ...],
        path: str,
        one: Obj,
        line: int,
        bindings: Bindings = (),
        handler: Function | None = None,
    ) -> None:
        """Register what a function object is entered with."""
        if one[0] != "F":
            return
        resolver = self.resolver
        function = resolver.project.function(one[1])
        outer = resolver.frames[one[3]] if one[3] >= 0 else None
        if outer is not None and not outer.startup:
            outer = None
        bound = self.arguments(function, one[2], bindings)
        frame = resolver.frame(function, bound, outer)
        key = (frame.number, path, methods)
        if key not in self.entries:
            named = handler or function
            self.entries[key] = Entry(kind, methods, path, named, frame, line or named.line)

    # Registration by decorator

    def _decorated(self, module: Module, owner: str, decorated: str, position: int) -> None:
        function = module.functions.get(decorated)
        if function is None or position >= len(function.decorators):
            return
        frame = self.resolver.frame(module.functions[owner], startup=True)
        decorator = function.decorators[position]
        callee: Value = decorator
        arguments: Value = ()
        keywords: tuple[tuple[str, Value], ...] = ()
        if decorator[0] == "r":
            call = frame.function.body.calls[decorator[1]]
            callee, arguments, keywords = call[CALLEE], call[ARGS], call[KWARGS]
        name = last_part(callee)
        if not self._is_web(callee, frame):
            return
        first = self.resolver.constant(arguments[0], frame) if arguments else None
        if first is None:
            first = next(
                (v[1] for k, v in keywords if k in {"path", "rule", "url"} and v[0] == "k"), None
            )
        kind, methods, path = self._shape(name, callee, decorator[0] == "r", first, keywords, frame)
        if kind:
            for one in self._objects(module, function, frame):
                self.add(kind, methods, path, one, function.line, handler=function)

    def _objects(self, module: Module, function: Function, frame: Frame) -> Objects:
        """The decorated function, its receiver chosen when it is a method."""
        objects = self.resolver.decorated(function, frame)
        if not function.cls or function.flags & STATIC:
            return objects
        receiver = self._receiver((module.path, function.cls))
        return tuple(("F", o[1], receiver, o[3]) for o in objects)

    def _is_web(self, callee: Value, frame: Frame) -> bool:
        for one in self.resolver.resolve(callee, frame):
            if one[0] in "EJ" and one[1].startswith(_NOT_WEB):
                return False
        return True

    def _shape(
        self,
        name: str,
        callee: Value,
        is_call: bool,
        first: object,
        keywords: tuple[tuple[str, Value], ...],
        frame: Frame,
    ) -> tuple[str, tuple[str, ...], str]:
        """(kind, methods, path) that a decorator's shape says, or an empty kind."""
        attribute = callee[0] == "a"
        if name in ROUTE_DECORATORS:
            looks_like_path = isinstance(first, str) and (
                first.startswith(("/", "<", "{", "^")) or first == ""
            )
            if not is_call or not (looks_like_path or (isinstance(first, str) and attribute)):
                bare = is_call and self._from_framework(callee, frame)
                if not bare:
                    return "", (), ""
            methods = _methods(name, keywords)
            kind = "socket" if "websocket" in name else "route"
            return kind, methods, first if isinstance(first, str) else ""
        if name in HOOK_DECORATORS:
            if (
                name == "middleware"
                and is_call
                and first not in {"http", "websocket", None, "request"}
            ):
                return "", (), ""
            return (
                ("hook", (), "")
                if attribute or self._from_framework(callee, frame)
                else ("", (), "")
            )
        if name in {"on", "event"} and attribute:
            if first in {"startup", "shutdown"}:
                return "", (), ""
            return (
                ("socket", (), str(first or "")) if self._is_socket(callee, frame) else ("", (), "")
            )
        if name == "on_event":
            return "", (), ""
        if name in VIEW_DECORATORS and self._from_framework(callee, frame):
            return "view", (), ""
        return "", (), ""

    def _from_framework(self, callee: Value, frame: Frame) -> bool:
        for one in self.resolver.resolve(callee, frame):
            dotted = self._dotted(one)
            if dotted.startswith(_FRAMEWORKS):
                return True
        return False

    def _dotted(self, one: Obj) -> str:
        if one[0] in "EJ":
            return str(one[1])
        if one[0] == "P":
            if one[1] == ("app",):
                return "flask."
            for held in self.resolver.held(one):
                if held[0] in "EJ":
                    return str(held[1])
        return ""

    def _is_socket(self, callee: Value, frame: Frame) -> bool:
        base = callee[1]
        dotted = " ".join(self._dotted(o) for o in self.resolver.resolve(base, frame)).lower()
        return "socket" in dotted or last_part(base) in {"sio", "socketio", "socket_io", "io"}

    # Registration by call

    def _called(self, module: Module, owner: str, index: int) -> None:
        frame = self.resolver.frame(module.functions[owner], startup=True)
        call = frame.function.body.calls[index]
        name = last_part(call[CALLEE])
        if name not in CALLS:
            if name in {"Depends", "Security"} and call[ARGS]:
                self._dependency(call, frame)
            return
        if name in {"on_event", "add_event_handler", "connect"} and not self._is_signal(
            call, frame
        ):
            return
        position, keyword = CALLS[name]
        target = next((v for k, v in call[KWARGS] if k == keyword), None)
        swapped = (
            name == "add_route"
            and len(call[ARGS]) > 1
            and isinstance(self.resolver.constant(call[ARGS][1], frame), str)
        )
        if swapped:
            # `add_route(view, pattern)`
            position = 0
        if target is None and len(call[ARGS]) > position:
            target = call[ARGS][position]
        if target is None:
            return
        path = self.resolver.constant(call[ARGS][int(swapped)], frame) if call[ARGS] else None
        route = path if isinstance(path, str) else ""
        methods = _methods(name.removeprefix("add_"), call[KWARGS])
        kind = "route" if position or swapped else "hook"
        for one in self._named_by_text(target, frame) or self.resolver.resolve(target, frame):
            if one[0] == "F":
                self.add(kind, methods, route, one, 0)
            elif one[0] == "C" and name in {"add_middleware", "Middleware"}:
                self._shared_class(one[1], gateway=True)
            elif one[0] == "C":
                # `register` is a router's word, and a word of much else.
                if name != "register" or any(
                    "View" in b or "Resource" in b for b in self.resolver.external_bases(one[1])
                ):
                    self._view_class(self.resolver.project.class_(one[1]), route)
            elif one[0] == "J" and one[1].endswith(".as_view()"):
                continue
        self._as_view(target, frame, route)

    def _named_by_text(self, target: Value, frame: Frame) -> Objects:
        """`getattr(self, name)` in a loop over a table: every method that takes a request."""
        if target[0] != "r":
            return ()
        call = frame.function.body.calls[target[1]]
        if call[CALLEE] != ("n", "getattr") or len(call[ARGS]) < 2:
            return ()
        if self.resolver.constant(call[ARGS][1], frame) is not None:
            return ()
        found: list[Obj] = []
        for one in self.resolver.resolve(call[ARGS][0], frame):
            if one[0] != "I":
                continue
            for owner in self.resolver.lineage(one[1]):
                for qualname in owner.methods.values():
                    function = self.resolver.project.modules[owner.module].functions[qualname]
                    if {p[0] for p in function.params} & {"request", "req", "environ"}:
                        # The object that registers its methods lives as long as the application.
                        shared = ("P", ("s", *one[1]), ())
                        found.extend(self.resolver.bind_method(function, shared))
        return tuple(found)

    def _dependency(self, call: Value, frame: Frame) -> None:
        for one in self.resolver.resolve(call[ARGS][0], frame):
            self.provided(one)

    def _is_signal(self, call: Value, frame: Frame) -> bool:
        base = call[CALLEE][1] if call[CALLEE][0] == "a" else None
        if base is None:
            return False
        return any(
            "signal" in self._dotted(o).lower() or "dispatch" in self._dotted(o)
            for o in self.resolver.resolve(base, frame)
        )

    def _as_view(self, target: Value, frame: Frame, route: str) -> None:
        """`Orders.as_view("orders")` registers a class."""
        if target[0] == "s":
            for value in frame.function.body.slots[target[1]]:
                self._as_view(value, frame, route)
        if target[0] != "r":
            return
        callee = frame.function.body.calls[target[1]][CALLEE]
        if callee[0] == "a" and callee[2] == "as_view":
            for one in self.resolver.resolve(callee[1], frame):
                if one[0] == "C":
                    self._view_class(self.resolver.project.class_(one[1]), route)

    # Classes

    def _class(self, module: Module, cls: Class) -> None:
        if not cls.methods:
            return
        if "__call__" in cls.methods:
            self._callable_class(module, cls)
        if not cls.bases:
            if any(n in _FALCON for n in cls.methods):
                self._view_class(cls, "")
            return
        names = self.resolver.external_bases(cls.key)
        if not names or any(n.startswith(_NOT_WEB) for n in names):
            return
        last = {n.rpartition(".")[2] for n in names}
        if last & VIEW_BASES:
            self._view_class(cls, "")
        elif last & SHARED_BASES or any(n.endswith("Servicer") for n in last):
            self._shared_class(cls.key)

    def _view_class(self, cls: Class, route: str) -> None:
        """One instance per request: `self` is fresh."""
        receiver = ("I", cls.key, -1)
        lineage = self.resolver.lineage(cls.key)
        named = {name.removeprefix("on_") for owner in lineage for name in owner.methods}
        verbs = _VERBS
        if any("ViewSet" in b for b in self.resolver.external_bases(cls.key)):
            verbs = _VERBS | VIEWSET_VERBS
        # Beside methods that are named after verbs, the others are called by them.
        rest = "hook" if named & verbs.keys() else "view"
        for owner in lineage:
            for name, qualname in owner.methods.items():
                if name in _SKIPPED_METHODS or (name.startswith("__") and name != "__call__"):
                    continue
                function = self.resolver.project.modules[owner.module].functions[qualname]
                verb = verbs.get(function.name.partition("@")[0].removeprefix("on_"))
                self._method(function, receiver, route, verb, rest)

    def _method(
        self, function: Function, receiver: Obj, route: str, verb: str | None, rest: str
    ) -> None:
        methods = (verb,) if verb else ()
        for one in self.resolver.bind_method(function, receiver):
            self.add(
                "route" if methods else rest,
                methods,
                route,
                one,
                function.line,
                handler=function,
            )

    def _receiver(self, key: tuple[str, str]) -> Obj:
        names = {n.rpartition(".")[2] for n in self.resolver.external_bases(key)}
        if names & VIEW_BASES or not names:
            return ("I", key, -1)
        return ("P", ("s", *key), ())

    def _shared_class(self, key: tuple[str, str], *, gateway: bool = False) -> None:
        """One instance for all requests: `self` outlives them.

        Of a gateway (a WSGI or ASGI callable, a middleware) only the methods that are called for a request count.
        """
        receiver: Obj = ("P", ("s", *key), ())
        if gateway and self._is_per_request(key):
            receiver = ("I", key, -1)
        for owner in self.resolver.lineage(key):
            for name, qualname in owner.methods.items():
                if name in _SKIPPED_METHODS or (name.startswith("__") and name != "__call__"):
                    continue
                if gateway and not (name in _GATEWAY_METHODS or name.startswith("process_")):
                    continue
                function = self.resolver.project.modules[owner.module].functions[qualname]
                for one in self.resolver.bind_method(function, receiver):
                    self.add("hook", (), "", one, function.line)

    def _is_per_request(self, key: tuple[str, str]) -> bool:
        """Whether `__call__` keeps the request on `self`: then each request has an instance."""
        method = self.resolver.method(key, "__call__")
        if method is None:
            return False
        if key[1].endswith(("Response", "Responder")):
            return True
        function = method[1]
        given = {
            ("p", i)
            for i, p in enumerate(function.params)
            if p[0] in {"scope", "receive", "send", "environ"}
        }
        return any(
            e[0] == "attr" and e[1] == ("p", 0) and e[3] in given for e in function.body.effects
        )

    def _callable_class(self, module: Module, cls: Class) -> None:
        """WSGI, ASGI and Django middleware classes."""
        function = module.functions[cls.methods["__call__"]]
        names = tuple(p[0] for p in function.params[1:])
        constructor = self.resolver.method(cls.key, "__init__")
        wraps = constructor is not None and any(
            p[0] in {"get_response", "app"} for p in constructor[1].params[1:3]
        )
        if _is_gateway(names) or (wraps and names[:1] in {("request",), ("scope",), ("environ",)}):
            self._shared_class(cls.key, gateway=True)

    # Functions

    def _plain(self, module: Module, function: Function) -> None:
        """WSGI and ASGI callables, Django views and function middleware."""
        if not function.params or function.cls:
            return
        names = tuple(p[0] for p in function.params)
        if _is_gateway(names):
            self._add_all(module, function, "route")
        elif names[0] == "request" and self._in_django(module, function):
            self._add_all(module, function, "view")

    def _in_django(self, module: Module, function: Function) -> bool:
        if function.owner:
            outer = module.functions.get(function.owner)
            return (
                outer is not None
                and outer.params[:1] != ()
                and outer.params[0][0] == "get_response"
            )
        file = module.path.rpartition("/")[2]
        if "views" not in file and "/views/" not in module.path and "api" not in file:
            return False
        return any(
            v[0][0] == "m" and v[0][1].startswith(("django", "rest_framework"))
            for v in (entry for entries in module.symbols.values() for entry in [entries[0]])
        )

    def _add_all(self, module: Module, function: Function, kind: str) -> None:
        owner = self.resolver.frame(module.functions[function.owner], startup=True)
        for one in self.resolver.decorated(function, owner):
            self.add(kind, (), "", one, function.line, handler=function)

    def _project_names(self) -> None:
        """`entry-points` of the configuration: `package.module:function` or a bare function name."""
        for name in self.named:
            dotted, _, qualname = name.rpartition(":")
            suffix = dotted.replace(".", "/")
            met = found = False
            for module in self.resolver.project.modules.values():
                stem = module.path.removesuffix(".py").removesuffix("/__init__")
                if suffix and not f"/{stem}".endswith(f"/{suffix}"):
                    continue
                met = met or bool(suffix)
                function = module.functions.get(qualname)
                if function is not None:
                    found = True
                    owner = self.resolver.frame(module.functions[function.owner], startup=True)
                    for one in self._objects(module, function, owner):
                        self.add("route", (), "", one, function.line)
            if met and not found:
                self.unknown.append(name)


_VERBS = {verb: verb.upper() for verb in VERBS}
_FALCON = frozenset({f"on_{verb}" for verb in VERBS})
_FRAMEWORKS = (
    "flask", "fastapi", "starlette", "django", "rest_framework", "aiohttp", "quart", "litestar", "tornado",
    "bottle", "sanic", "pyramid", "cherrypy", "falcon", "strawberry", "ariadne", "socketio", "channels",
    "ninja", "werkzeug", "blacksheep", "robyn", "responder", "hug", "chalice", "connexion", "nicegui", "fasthtml",
)  # fmt: skip


def _is_gateway(names: tuple[str, ...]) -> bool:
    return names[-2:] == ("environ", "start_response") or names[-3:] == ("scope", "receive", "send")


def _methods(name: str, keywords: tuple[tuple[str, Value], ...]) -> tuple[str, ...]:
    if name in VERBS:
        return (name.upper(),)
    for key, value in keywords:
        if key == "methods" and value[0] == "d":
            return tuple(v[1].upper() for v in value[2] if v[0] == "k" and isinstance(v[1], str))
    return ("GET",) if name in {"route", "add_url_rule"} else ()
