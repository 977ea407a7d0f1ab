"""Where a service can keep state in its process: every place, with the name that its code uses.

The places are the globals of the service's modules, attributes of its classes, closure cells and
defaults of its functions, `lru_cache`s, and what is hung on a framework's application object.
A module is the service's own if it was loaded from the replica's copy of the tree, or belongs to the
package of APP when that is installed; anypod itself never is, its demo is.
"""

from __future__ import annotations

import ast
import collections
import enum
import functools
import re
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any, NamedTuple

from anypod.replicas.change import State
from anypod.replicas.digest import attributes_of, has_type, held_by, is_plain, own_items, per_type
from anypod.replicas.lru import CACHED, made
from anypod.replicas.reach import below, entries, is_store
from anypod.replicas.target import Target

__all__ = ["Place", "Roots", "companions"]

_FRAMEWORK_FUNCTIONS = (
    "view_functions", "before_request_funcs", "after_request_funcs", "teardown_request_funcs",
    "teardown_appcontext_funcs", "template_context_processors", "error_handler_spec",
)  # fmt: skip
_PYTHON = Path(sysconfig.get_path("stdlib"))
_STATE = (
    bool, int, float, str, bytes, type(None), dict, list, set, bytearray, collections.deque,
    types.FunctionType, CACHED,
)  # fmt: skip
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_CONTAINERS = frozenset({
    dict, list, set, tuple, frozenset, collections.deque, collections.OrderedDict,
    collections.defaultdict, collections.Counter,
})  # fmt: skip
_NO_STATE = frozenset({types.ModuleType, types.BuiltinFunctionType, re.Pattern})
_WHOLE = (dict, list, tuple, set, frozenset, collections.deque, str, int, bytes, float)
# Filled in by the class's own machinery when it is first used: ABCs, SQLAlchemy, WTForms.
_OF_A_METACLASS = ("__", "_abc_", "_sa_", "_wtforms_", "_unbound_fields")
# State that services keep in modules of a library.
_LIBRARIES = {"django.core.cache.backends.locmem": ("_caches",)}
# What goes with a state, so that one without the other means nothing.
_COMPANIONS = {("django.core.cache.backends.locmem", "_caches"): ("_expire_info",)}
_DEPTH = 3
# How far, and at how many values, objects of libraries are looked into for keys and for stores.
_DEEP, _MANY = 8, 20_000
_NEAR, _FEW = 4, 400
_NEARER, _FEWER = 2, 64  # of any object of a library, and
_IN_ALL = 1500  # of all of them in one pass
_KEY = 8  # characters of a key at least
# How one middleware holds the next.
_LINKS = ("__wrapped__", "app", "wsgi_app", "application", "get_response")

Holder = tuple[Any, Any] | None


class Place(NamedTuple):
    """One place that holds a value now.

    `holder` is where the value is bound: an object and the name or key under which it has it; None
    where it cannot be bound anew.
    """

    kind: str
    name: str
    module: str
    value: Any
    holder: tuple[Any, Any] | None = None

    @property
    def state(self) -> State:
        """Its name, the same in every replica."""
        return State(self.kind, self.module, self.name)


class Roots:
    """All places of one service.

    Args:
        application: the application object.
        target: how the user named it.
        disk: the replica's copy of the tree.
    """

    def __init__(self, application: Any, target: Target, *, disk: Path) -> None:
        self._application = application
        self._target = target
        self._disk = str(disk) + "/"
        self._own: dict[str, bool] = {}
        self._modules: list[types.ModuleType] = []
        self._counted = 0
        self._imported: dict[str, frozenset[str]] = {}
        self._framework: dict[type, frozenset[str]] = {}
        self.modules()  # reads the sources before any request does

    def is_own(self, module: str) -> bool:
        """Whether a module, by name, is the service's."""
        own = self._own.get(module)
        if own is None and module in sys.modules:
            own = self._own[module] = self._judge(module)
        return bool(own)

    def _judge(self, module: str) -> bool:
        if (module + ".").startswith("anypod.") and not (module + ".").startswith("anypod.demo."):
            return False
        if (module + ".").startswith(self._target.package + "."):
            return True
        file = getattr(sys.modules[module], "__file__", None)
        return isinstance(file, str) and file.startswith(self._disk)

    def is_own_class(self, kind: type) -> bool:
        """Whether a class is the service's."""
        return self.is_own(str(kind.__module__))

    def modules(self) -> list[types.ModuleType]:
        """The service's modules, as far as they are loaded."""
        if len(sys.modules) != self._counted:
            self._counted = len(sys.modules)
            self._modules = [
                module for name, module in list(sys.modules.items()) if self.is_own(name)
            ]
            for module in self._modules:
                if module.__name__ not in self._imported:
                    self._imported[module.__name__] = _imported_names(module)
        return self._modules

    def places(self) -> list[Place]:
        """Every place, each once: an object that several modules import is its definer's."""
        walk = _Walk(self)
        modules = self.modules()
        for imported in (False, True):
            for module in modules:
                names = self._imported[module.__name__]
                for name, value in list(vars(module).items()):
                    if (name in names) is not imported or name.startswith("__"):
                        continue
                    if not imported or self._may_be_state(value):
                        walk.bound(value, name, module.__name__, "global", at=(vars(module), name))
                    elif has_type(value, type):
                        walk.tool(value, name, module.__name__)
        for library, held in _LIBRARIES.items():
            for name in held if library in sys.modules else ():
                held_in = vars(sys.modules[library])
                walk.bound(held_in.get(name), name, library, "global", at=(held_in, name))
        name = "app" if self._target.call else self._target.path
        walk.application(self._application, name, self._target.module)
        return walk.found

    def secrets(self) -> list[Place]:
        """The texts that objects of libraries hold, some of which each process draws for itself."""
        seen: set[int] = set()
        found: list[Place] = []
        name = "app" if self._target.call else self._target.path
        started = [place for place in self.places() if not is_plain(place.value)]
        started.append(Place("global", name, self._target.module, self._application))
        for place in started:
            found += [
                Place("global", part.name, place.module, part.value, part.holder)
                for part in below(place.value, place.name, depth=_DEEP, most=_MANY, seen=seen)
                if type(part.value) in {str, bytes} and len(part.value) >= _KEY
            ]
        return found

    def _may_be_state(self, value: Any) -> bool:
        """Whether an imported name can be more than somebody else's tool."""
        if has_type(value, CACHED) and _is_pythons(value.__module__):
            return False  # `urlsplit` remembers what it has parsed: no answer depends on that
        return has_type(value, _STATE) or self.is_own_class(type(value))

    def framework_attributes(self, kind: type) -> frozenset[str]:
        """The attributes that a framework itself gives its application objects."""
        if kind not in self._framework:
            fresh = kind("anypod_fresh") if _is_flask(kind) else kind()
            # What the class defines may appear on the object later: cached properties.
            self._framework[kind] = frozenset(vars(fresh)) | frozenset(dir(kind))
        return self._framework[kind]


class _Walk:
    """One pass over all places; an object is visited once."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._seen: set[int] = set()
        self._left = _IN_ALL
        self._applications: set[int] = set()
        self.found: list[Place] = []
        self._keep = self.found.append

    def _add(self, kind: str, name: str, module: str, value: Any, at: Holder = None) -> None:
        self._keep(Place(kind, name, module, value, at))

    def _first(self, value: Any) -> bool:
        if id(value) in self._seen:
            return False
        self._seen.add(id(value))
        return True

    def bound(
        self, value: Any, name: str, module: str, kind: str, depth: int = 0, at: Holder = None
    ) -> None:
        """The places that a name leads to; `at` is what holds the value."""
        exact = type(value)
        if exact in _PLAIN:
            self._add(kind, name, module, value, at)
        elif (
            exact in _NO_STATE
            or (exact is types.FunctionType and _is_bare(value))
            or not self._first(value)
        ):
            return
        elif exact in _CONTAINERS:
            self._add(kind, name, module, value, at)
        elif has_type(value, CACHED):
            info = value.cache_info()
            self._add("cache", name, module, f"{info.currsize} entries, {info.misses} misses", at)
            self.bound(value.__wrapped__, name, module, kind, depth)
            self._made(made(value), name, module, kind, depth)
        elif has_type(value, type):
            if self._roots.is_own_class(value):
                self._class(value)
        elif has_type(value, (staticmethod, classmethod)):
            self.bound(value.__func__, name, module, kind, depth, at)
        elif has_type(value, (types.FunctionType, types.MethodType)):
            self._function(getattr(value, "__func__", value), module)
        elif has_type(value, functools.partial):
            self.bound(value.func, name, module, kind, depth)
            self._add(kind, name, module, (value.args, value.keywords))
        elif _framework_base(exact) is not None:
            self.application(value, name, module)
        elif self._roots.is_own_class(type(value)) and not has_type(value, _WHOLE):
            self._instance(value, name, module, kind, depth, at)
        else:
            self._add(kind, name, module, value, at)
            self._of_a_library(value, name, module, kind, depth)

    def _of_a_library(self, value: Any, name: str, module: str, kind: str, depth: int) -> None:
        if is_store(value):
            self._store(value, name, module)
        elif held_by(type(value)) is None:
            if callable(value):
                self._wrapped(value, name, module, kind, depth)
            self._stores_below(value, name, module)

    def tool(self, value: type, name: str, module: str) -> None:
        """The stores that a library's class has for all of a process."""
        for attribute, item in list(vars(value).items()):
            if is_store(item) and self._first(item):
                self._store(item, f"{name}.{attribute}", module)

    def _stores_below(self, value: Any, name: str, module: str) -> None:
        """The stores that a library's object has: a limiter its counts, a cache its backend."""
        if has_type(value, _WHOLE):
            return
        most = min(_FEWER, self._left)
        for part in below(value, name, depth=_NEARER, most=most, seen=set()):
            self._left -= 1
            keeps = is_store(part.value) or held_by(type(part.value))
            if keeps and self._first(part.value):
                self._store(part.value, part.name, module)

    def _store(self, value: Any, name: str, module: str) -> None:
        """What a library's object keeps by key, in built-in containers."""
        for part in entries(value):
            if type(part.value) in _CONTAINERS and self._first(part.value):
                self._add("global", f"{name}.{part.name}", module, part.value, part.holder)

    def _wrapped(self, value: Any, name: str, module: str, kind: str, depth: int) -> None:
        """A library's object around a function: what it keeps, and the function."""
        attributes = attributes_of(value) or {}
        inner = attributes.get("__wrapped__")
        if inner is None or depth >= _DEPTH or type(value).__module__.startswith("anypod."):
            return
        for attribute, item in list(attributes.items()):
            if not attribute.startswith("__"):
                self.bound(
                    item, f"{name}.{attribute}", module, kind, depth + 1, (attributes, attribute)
                )
        self.bound(inner, name, module, kind, depth + 1)

    def _instance(
        self, value: Any, name: str, module: str, kind: str, depth: int, at: Holder
    ) -> None:
        if depth >= _DEPTH:
            self._add(kind, name, module, value, at)
            return
        for attribute, item in own_items(value):
            self.bound(item, f"{name}.{attribute}", module, kind, depth + 1, (value, attribute))

    def _made(self, value: Any, name: str, module: str, kind: str, depth: int) -> None:
        """What an `lru_cache` makes a process have only once: FastAPI's usual dependency."""
        if type(value) in _CONTAINERS or self._roots.is_own_class(type(value)):
            self.bound(value, f"{name}()", module, kind, depth + 1)

    def _class(self, value: type) -> None:
        if has_type(value, enum.EnumMeta):
            return  # its members are constants, and its tables grow as combinations are asked for
        for attribute, item in list(vars(value).items()):
            if attribute.startswith(_OF_A_METACLASS):
                continue
            if has_type(item, property):
                functions = [item.fget, item.fset, item.fdel]
            elif has_type(item, functools.cached_property):
                functions = [item.func]
            elif has_type(item, (types.MemberDescriptorType, types.GetSetDescriptorType)):
                continue
            elif hasattr(type(item), "__get__") and not has_type(
                item, (types.FunctionType, staticmethod, classmethod, type, CACHED)
            ):
                continue  # a descriptor of a library: columns, fields
            else:
                name = f"{value.__qualname__}.{attribute}"
                at = (value, attribute)
                self.bound(item, name, value.__module__, "class attribute", at=at)
                continue
            for function in functions:
                if has_type(function, types.FunctionType):
                    self.bound(function, attribute, value.__module__, "class attribute")

    def _function(self, function: Any, bound_in: str) -> None:
        if not has_type(function, types.FunctionType):
            self.bound(function, getattr(function, "__name__", ""), bound_in, "global", _DEPTH)
            return
        self._seen.add(id(function))
        home = str(function.__globals__.get("__name__", ""))
        if not (home + ".").startswith("anypod.") or self._roots.is_own(home):
            owner = function.__module__ if self._roots.is_own(str(function.__module__)) else home
            if self._roots.is_own(owner):
                self._inside(function, owner)
        inner = getattr(function, "__wrapped__", None)
        if inner is not None:
            self.bound(inner, function.__name__, bound_in, "global")

    def _inside(self, function: types.FunctionType, owner: str) -> None:
        outer = function.__qualname__.rpartition(".<locals>.")[0] or function.__qualname__
        prefix = outer.replace(".<locals>", "")
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=False
        ):
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # not assigned yet
            if name != "__class__":
                self.bound(value, f"{prefix}.{name}", owner, "closure", at=(cell, None))
        own = function.__qualname__.replace(".<locals>", "")
        count = len(function.__defaults__ or ())
        arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
        defaults = [
            *zip(arguments[len(arguments) - count :], function.__defaults__ or (), strict=False),
            *(function.__kwdefaults__ or {}).items(),
        ]
        for name, value in defaults:
            if has_type(value, (dict, list, set, bytearray)) or self._roots.is_own_class(
                type(value)
            ):
                self.bound(value, f"{own}({name})", owner, "default")
        for name, value in list(vars(function).items()):
            if not name.startswith("__"):
                self.bound(value, f"{own}.{name}", owner, "default", at=(vars(function), name))

    def application(self, value: Any, name: str, module: str) -> None:
        """What the service hung on a framework's application, and what the framework will call."""
        base = _framework_base(type(value))
        if base is None:
            self.bound(value, name, module, "global")
            self._middleware((attributes_of(value) or {}).get("_middleware_chain"))  # Django's
            for part in below(value, name, depth=_NEAR, most=_FEW, seen=set()):
                if is_store(part.value) and self._first(part.value):
                    self._store(part.value, part.name, module)
            return
        if id(value) in self._applications:
            return
        self._applications.add(id(value))
        attributes = vars(value)
        given = self._roots.framework_attributes(base)
        for attribute, item in list(attributes.items()):
            if attribute not in given and attribute != "wsgi_app":
                at = (attributes, attribute)
                self.bound(item, f"{name}.{attribute}", module, "global", at=at)
        for held in ("config", "extensions"):
            kept = attributes.get(held) or {}
            for key, item in list(kept.items()):
                self.bound(item, f"{name}.{held}[{key!r}]", module, "global", at=(kept, key))
        if (state := attributes.get("state")) is not None:
            kept = (attributes_of(state) or {}).get("_state", {})
            for key, item in list(kept.items()):
                self.bound(item, f"{name}.state.{key}", module, "global", at=(kept, key))
        for attribute in _FRAMEWORK_FUNCTIONS:
            self._functions(attributes.get(attribute), module)
        self._routes(getattr(attributes.get("router"), "routes", ()), module)
        for link in ("wsgi_app", "middleware_stack"):
            self._middleware(attributes.get(link))

    def _functions(self, held: Any, module: str) -> None:
        if has_type(held, dict):
            for item in list(held.values()):
                self._functions(item, module)
        elif has_type(held, list):
            for item in list(held):
                self._functions(item, module)
        elif has_type(held, (types.FunctionType, types.MethodType)):
            self.bound(held, held.__name__, module, "global")

    def _routes(self, routes: Any, module: str) -> None:
        for route in list(routes or ()):
            endpoint = attributes_of(route) or {}
            for attribute in ("endpoint", "app"):
                if has_type(endpoint.get(attribute), (types.FunctionType, CACHED)):
                    self.bound(endpoint[attribute], attribute, module, "global")
            for dependency in getattr(endpoint.get("dependant"), "dependencies", ()):
                self._functions(getattr(dependency, "call", None), module)
            nested = getattr(endpoint.get("app"), "routes", ())
            self._routes(nested, module)

    def _middleware(self, outermost: Any) -> None:
        # Some hold the application beside what they wrap, which leads back to them.
        waiting, met = [outermost], set[int]()
        while waiting:
            link = waiting.pop()
            if link is None or id(link) in met or has_type(link, types.MethodType):
                continue
            met.add(id(link))
            kind = type(link)
            held = attributes_of(link) or {}
            if self._roots.is_own_class(kind) and self._first(link):
                for attribute, item in list(held.items()):
                    if attribute not in _LINKS:
                        name = f"{kind.__qualname__}.{attribute}"
                        self.bound(item, name, kind.__module__, "global", at=(held, attribute))
            waiting += map(held.get, _LINKS)


def companions(place: Place) -> list[tuple[str, Any]]:
    """What goes with a place of a library, by name."""
    names = _COMPANIONS.get((place.module, place.name), ())
    return [(name, getattr(sys.modules[place.module], name)) for name in names]


def _is_pythons(module: str) -> bool:
    """Whether a module is of the standard library."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return isinstance(file, str) and Path(file).is_relative_to(_PYTHON) and "-packages" not in file


def _is_bare(function: types.FunctionType) -> bool:
    """Whether a function holds nothing between two calls; most do not, and are passed by."""
    return (
        function.__closure__ is None
        and not function.__dict__
        and not function.__defaults__
        and not function.__kwdefaults__
    )


@per_type
def _framework_base(kind: type) -> type | None:
    """The framework's own class of an application object: Flask, Quart, Starlette, FastAPI."""
    for base in kind.__mro__:
        if base.__name__ in _APPLICATIONS.get(base.__module__, ()):
            return base
    return None


_APPLICATIONS = {
    "flask.app": {"Flask"},
    "quart.app": {"Quart"},
    "starlette.applications": {"Starlette"},
    "fastapi.applications": {"FastAPI"},
}


def _is_flask(kind: type) -> bool:
    return kind.__name__ in {"Flask", "Quart"}


def _imported_names(module: types.ModuleType) -> frozenset[str]:
    """The names that a module's source binds by import statements."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py"):
        return frozenset()
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    return frozenset(
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    )
