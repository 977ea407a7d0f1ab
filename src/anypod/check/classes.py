"""Classes: what they inherit, which method answers, whether one is a container; and the frames of functions.

The lowest layer of resolution: `resolver` builds on it.
"""

from __future__ import annotations

from anypod.check.containers import CONSTRUCTORS, CONTAINER_BASES
from anypod.check.facts import CALLEE, Class, Function, Value
from anypod.check.frames import Bindings, Frame, Obj, Objects
from anypod.check.project import Project

_CONTEXTS_PER_FUNCTION = 10
# What makes a class a record: each instance gets a copy of each default.
_RECORD_BASES = frozenset(
    {"BaseModel", "SQLModel", "RootModel", "BaseSettings", "GenericModel", "Struct", "NamedTuple", "TypedDict"}
)  # fmt: skip
_MODEL_BASES = ("Model", "Base", "SQLModel", "Document", "DeclarativeBase")
_GENERIC_BASES = frozenset({"Generic", "Protocol", "BaseModel", "GenericModel"})
_RECORD_DECORATORS = frozenset({"dataclass", "define", "mutable", "frozen", "attrs", "attributes"})


class Classes:
    """Frames and classes of a project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.frames: list[Frame] = []
        self._interned: dict[tuple[object, ...], Frame] = {}
        self._contexts: dict[tuple[str, str], int] = {}
        self._methods: dict[tuple[tuple[str, str], str], tuple[Class, Function] | None] = {}
        self._lineages: dict[tuple[str, str], list[Class]] = {}
        self._bases: dict[tuple[str, str], tuple[Objects, ...]] = {}
        self._records: dict[tuple[str, str], bool] = {}
        self._models: dict[tuple[str, str], bool] = {}

    def held(self, place: Obj) -> Objects:
        """What a place may hold: see `places`."""
        raise NotImplementedError

    def resolve(self, value: Value, frame: Frame) -> Objects:
        """The objects that a value may be in a frame: see `resolver`."""
        raise NotImplementedError

    # Frames

    def frame(
        self,
        function: Function,
        bindings: Bindings = (),
        outer: Frame | None = None,
        startup: bool = False,
    ) -> Frame:
        """The frame of this function with these arguments."""
        while bindings and not bindings[-1]:
            bindings = bindings[:-1]
        key = (function.key, bindings, outer.number if outer else -1, startup)
        found = self._interned.get(key)
        if found is None:
            used = self._contexts.get(function.key, 0)
            # A decorator is entered once for each function that it wraps: those must not be confused.
            wraps = startup and any(o[0] == "F" for group in bindings for o in group)
            if used >= _CONTEXTS_PER_FUNCTION and bindings and not wraps:
                return self.frame(function, (), outer, startup)
            self._contexts[function.key] = used + 1
            found = Frame(len(self.frames), function, bindings, outer, startup)
            self.frames.append(found)
            self._interned[key] = found
        return found

    def module_frame(self, path: str) -> Frame:
        """The frame of a module's body."""
        return self.frame(self.project.modules[path].functions[""], startup=True)

    def enclosing(self, function: Function) -> Frame:
        """A frame of the function (or module) in which `function` is defined."""
        owner = self.project.modules[function.module].functions[function.owner]
        return self.frame(owner, startup=True)

    # Classes

    def lineage(self, key: tuple[str, str]) -> list[Class]:
        """A class and its checked bases, nearest first."""
        known = self._lineages.get(key)
        if known is not None:
            return known
        found: dict[tuple[str, str], None] = {}
        stack = [key]
        while stack:
            current = stack.pop(0)
            if current in found:
                continue
            found[current] = None
            stack.extend(o[1] for group in self.bases(current) for o in group if o[0] == "C")
        self._lineages[key] = [self.project.class_(k) for k in found]
        return self._lineages[key]

    def bases(self, key: tuple[str, str]) -> tuple[Objects, ...]:
        """What each base of a class resolves to."""
        if key not in self._bases:
            self._bases[key] = ()
            cls = self.project.class_(key)
            owner = self.project.modules[cls.module].functions[cls.owner]
            frame = self.frame(owner, startup=True)
            self._bases[key] = tuple(self.resolve(b, frame) for b in cls.bases)
        return self._bases[key]

    def external_bases(self, key: tuple[str, str]) -> list[str]:
        """The dotted names of everything external that a class inherits from."""
        found: list[str] = []
        for cls in self.lineage(key):
            for group in self.bases(cls.key):
                for o in group:
                    if o[0] in "EJ":
                        found.append(o[1])
                    elif o[0] == "P":
                        # `db.Model`: an attribute of something external that a name holds.
                        found.extend(h[1] for h in self.held(o) if h[0] in "EJ")
        return found

    def container_kind(self, key: tuple[str, str]) -> str:
        """The kind of container that a class is itself, or ""."""
        for name in self.external_bases(key):
            kind = CONTAINER_BASES.get(name) or CONSTRUCTORS.get(name)
            if kind:
                return kind
        return ""

    def method(self, key: tuple[str, str], name: str) -> tuple[Class, Function] | None:
        """The method that an instance of a class answers `name` with."""
        memo = (key, name)
        if memo not in self._methods:
            self._methods[memo] = None
            for cls in self.lineage(key):
                qualname = cls.methods.get(name)
                if qualname is not None:
                    function = self.project.modules[cls.module].functions[qualname]
                    self._methods[memo] = (cls, function)
                    break
        return self._methods[memo]

    def is_record(self, key: tuple[str, str]) -> bool:
        """Whether the annotated defaults of a class belong to each instance: dataclasses, pydantic, attrs."""
        if key not in self._records:
            self._records[key] = False
            self._records[key] = any(
                name.rpartition(".")[2] in _RECORD_BASES for name in self.external_bases(key)
            ) or any(self._is_record_by_decorator(cls) for cls in self.lineage(key))
        return self._records[key]

    def is_model(self, key: tuple[str, str]) -> bool:
        """Whether the instances of a class are rows or documents of a store."""
        if key not in self._models:
            self._models[key] = False
            bases = self.external_bases(key)
            self._models[key] = any(
                b.endswith(_MODEL_BASES) or "db." in b for b in bases
            ) and not any("pydantic" in b for b in bases)
        return self._models[key]

    def _is_record_by_decorator(self, cls: Class) -> bool:
        calls = self.project.modules[cls.module].functions[cls.owner].body.calls
        for decorator in cls.decorators:
            value = calls[decorator[1]][CALLEE] if decorator[0] == "r" else decorator
            name = value[2] if value[0] in "am" else value[1] if value[0] == "n" else ""
            if name in _RECORD_DECORATORS:
                return True
        return False

    def is_generic(self, key: tuple[str, str]) -> bool:
        """Whether `[…]` after a class names a type rather than one of its objects."""
        bases = {b.rpartition(".")[2] for b in self.external_bases(key)}
        return bool(bases & _GENERIC_BASES or self.container_kind(key))

    def owner_of(self, key: tuple[str, str], name: str) -> Class | None:
        """The class in whose body `name` is bound."""
        return next((c for c in self.lineage(key) if name in c.attributes), None)
