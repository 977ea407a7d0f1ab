"""What a handler's parameters are: the receiver, the request, and what FastAPI's `Depends` injects."""

from __future__ import annotations

from anypod.check.calls import Resolver
from anypod.check.facts import ARGS, CALLEE, KWARGS, Function, Module, Value
from anypod.check.frames import Bindings, Frame, Obj, Objects, union, walk

_LITESTAR = ("litestar", "starlite")
REQUEST: Objects = (("Q", "request"),)


class Injection:
    """Binds the parameters of entry points."""

    resolver: Resolver
    _dependencies: dict[str, tuple[Value, Frame]] | None = None

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
        """Register what a function object is entered with: see `entrypoints`."""
        raise NotImplementedError

    def arguments(self, function: Function, receiver: Obj | None, given: Bindings) -> Bindings:
        """Bind the receiver, the request, and what is injected."""
        bound: list[Objects] = []
        enclosing = self.resolver.enclosing(function)
        for index, (name, kind, default, annotation) in enumerate(function.params):
            if index == 0 and receiver is not None:
                bound.append((receiver,))
                continue
            if index < len(given) and given[index]:
                bound.append(given[index])
                continue
            injected = self._injected(default, enclosing) or self._injected(annotation, enclosing)
            if not injected and kind != "*":
                injected = self._by_name(name)
            if injected:
                bound.append(injected)
            elif name in {"request", "req", "websocket", "ws", "scope"}:
                bound.append(REQUEST)
            elif name == "environ":
                bound.append((("Q", "environ"),))
            elif kind == "p" and default is None and annotation is None:
                bound.append((("Q", "data"),))
            else:
                bound.append(())
        return tuple(bound)

    def _injected(self, value: Value | None, frame: Frame) -> Objects:
        """What FastAPI's `Depends(…)` gives, as a default or inside `Annotated[…]`."""
        if value is None:
            return ()
        if value[0] == "n":
            value, frame = self._alias(value, frame)
        for inner in walk(value):
            if inner[0] == "s":
                return ()
            if inner[0] != "r":
                continue
            call = frame.function.body.calls[inner[1]]
            if last_part(call[CALLEE]) not in {"Depends", "Security", "Provide"}:
                continue
            if call[ARGS]:
                target = self.resolver.resolve(call[ARGS][0], frame)
            elif value[0] == "i" and value[2] is not None and value[2][0] == "d":
                target = self.resolver.resolve(value[2][2][0], frame)
            else:
                continue
            found: list[Obj] = []
            for one in target:
                found.extend(self.provided(one))
            return tuple(found)
        return ()

    def _by_name(self, name: str) -> Objects:
        """What Litestar's `dependencies={"name": Provide(…)}` gives, wherever it is declared."""
        if self._dependencies is None:
            self._dependencies = {}
            for module in self.resolver.project.modules.values():
                entries = [e for found in module.symbols.values() for e in found]
                if any(v[0] == "m" and v[1].startswith(_LITESTAR) for v, _, _ in entries):
                    self._declared(module)
        given = self._dependencies.get(name)
        if given is None:
            return ()
        value, frame = given
        targets: Objects = ()
        if value[0] == "r":
            call = frame.function.body.calls[value[1]]
            if last_part(call[CALLEE]) == "Provide" and call[ARGS]:
                targets = self.resolver.resolve(call[ARGS][0], frame)
        else:
            targets = self.resolver.resolve(value, frame)
        return union(*(self.provided(one) for one in targets))

    def _declared(self, module: Module) -> None:
        """Every `dependencies={…}` of a module: of applications, routers, handlers and controllers."""
        assert self._dependencies is not None
        found: list[tuple[Value, Frame]] = []
        for function in module.functions.values():
            for call in function.body.calls:
                for name, value in call[KWARGS]:
                    if name == "dependencies":
                        found.append((value, self.resolver.frame(function, startup=True)))
        for cls in module.classes.values():
            owner = self.resolver.frame(module.functions[cls.owner], startup=True)
            found += [(value, owner) for value, _ in cls.attributes.get("dependencies", ())]
        for value, frame in found:
            if value[0] == "d" and len(value) > 3:
                for key, one in zip(value[3], value[2], strict=False):
                    if key[0] == "k":
                        self._dependencies[str(key[1])] = (one, frame)

    def _alias(self, value: Value, frame: Frame) -> tuple[Value, Frame]:
        """What `Repo` means after `Repo = Annotated[Repository, Depends(get_repository)]`, wherever it is."""
        module = self.resolver.project.modules[frame.function.module]
        for _ in range(4):
            entries = module.symbols.get(str(value[1]), ())
            if len(entries) != 1 or entries[0][0][0] not in {"i", "m"}:
                break
            found = entries[0][0]
            if found[0] == "i":
                return found, self.resolver.module_frame(module.path)
            _, target, name = self.resolver.project.imported(module, found)
            if target is None or not name:
                break
            module, value = target, ("n", name)
        return value, frame

    def provided(self, one: Obj) -> Objects:
        """What a dependency gives; it runs within the request itself."""
        if one[0] == "C":
            return (("I", one[1], -1),)
        if one[0] == "P":
            return tuple(
                p for c in self.resolver.callable(one) if c[0] == "F" for p in self.provided(c)
            )
        if one[0] != "F":
            return ()
        self.add("hook", (), "", one, 0)
        function = self.resolver.project.function(one[1])
        outer = self.resolver.frames[one[3]] if one[3] >= 0 else None
        frame = self.resolver.frame(function, self.arguments(function, one[2], ()), outer)
        objects = self.resolver.given_by(frame)
        return tuple(o for o in objects if o[0] in "PIJ")[:4]


def last_part(value: Value) -> str:
    """The last part of a dotted name."""
    if value[0] == "a":
        return str(value[2])
    if value[0] == "m":
        return str(value[2])
    return str(value[1]).rpartition(".")[2] if value[0] in "nl" else ""
