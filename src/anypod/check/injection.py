"""What a handler's parameters are: the receiver, the request, and what FastAPI's `Depends` injects."""

from __future__ import annotations

from anypod.check.calls import Resolver
from anypod.check.facts import ARGS, CALLEE, Function, Value
from anypod.check.frames import Bindings, Frame, Obj, Objects, walk

REQUEST: Objects = (("Q", "request"),)


class Injection:
    """Binds the parameters of entry points."""

    resolver: Resolver

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
