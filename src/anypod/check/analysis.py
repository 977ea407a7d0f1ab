"""The whole program after the walk: states with their writes and reads, chains, and what a condition guards.

Rules look at this and nothing else. A *state* is a place in long-lived memory down to its first element:
`sessions[k]["n"]` and `sessions.pop(k)` are one state, `store._items` another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from anypod.check.calls import Resolver
from anypod.check.entrypoints import Entry, EntryPoints
from anypod.check.facts import ARGS, CALLEE, KWARGS, Module, Value
from anypod.check.frames import Frame, Obj, Objects, walk
from anypod.check.looks import Read
from anypod.check.model import Site, Step
from anypod.check.project import Project
from anypod.check.reach import External, Walk, Write

_STARTUP_NAMES = frozenset(
    {
        "create_app", "make_app", "build_app", "get_app", "app_factory", "lifespan", "startup", "on_startup",
        "init_app", "main", "configure", "setup", "register", "app_lifespan", "init", "bootstrap", "run",
    }
)  # fmt: skip
_PER_CONTEXT = (
    "threading.local",
    "contextvars.ContextVar",
    "werkzeug.local.",
    "asgiref.local.Local",
    "gevent.local.local",
    "eventlet.corolocal",
)
StateKey = tuple[Obj, tuple[str, ...]]


class State:
    """One state and everything that requests do to it."""

    __slots__ = ("definition", "key", "label", "reads", "root", "writes")

    def __init__(self, key: StateKey, label: str, definition: Site | None) -> None:
        self.key = key
        self.root = key[0]
        self.label = label
        self.definition = definition
        self.writes: list[Write] = []
        self.reads: list[Read] = []

    @property
    def place(self) -> Obj:
        """The place itself."""
        return ("P", self.key[0], self.key[1])

    @property
    def name(self) -> str:
        """The last part of the label."""
        return self.label.rpartition(".")[2]


def _closure(start: set[str], edges: dict[str, set[str]]) -> set[str]:
    found = set(start)
    stack = list(start)
    while stack:
        for after in edges.get(stack.pop(), ()):
            if after not in found:
                found.add(after)
                stack.append(after)
    return found


class Analysis:
    """Everything that rules may ask."""

    def __init__(
        self,
        project: Project,
        named: tuple[str, ...] = (),
        local_defaults: tuple[dict[str, str], ...] = (),
        shared_paths: tuple[str, ...] = (),
    ) -> None:
        self.local_defaults = local_defaults
        self.shared_paths = shared_paths
        self.project = project
        self.resolver = Resolver(project)
        self.entries: list[Entry] = []
        self.states: dict[StateKey, State] = {}
        self.externals: list[External] = []
        self.startup_externals: list[External] = []
        self.walk = Walk(self.resolver)
        self.parents: dict[Frame, tuple[Frame, int] | None] = {}
        self._named = named
        self._by_frame: dict[Frame, list[External]] | None = None
        self._callers: dict[tuple[str, str], set[bool]] | None = None
        self._writes_by_frame: dict[Frame, list[Write]] | None = None
        # What paths are made of: see `files`.
        self.paths: dict[tuple[int, Frame], list[tuple[Value, Frame]]] = {}
        self.dotted: dict[tuple[int, Frame], dict[str, None]] = {}

    def run(self) -> None:
        """Find the entry points, walk, and group."""
        points = EntryPoints(self.resolver, self._named)
        self.entries = points.find()
        self.unknown = points.unknown
        startup = self._startup()
        self.walk.run([e.frame for e in self.entries], startup)
        self._chain()
        for write in self.walk.writes:
            if write.frame in self.parents:
                self._state(write.place).writes.append(write)
        for read in self.walk.reads:
            if read.frame in self.parents:
                key = self.state_key(read.place)
                if key in self.states:
                    self.states[key].reads.append(read)
        for external in self.walk.externals:
            if external.frame in self.parents:
                self.externals.append(external)
            elif external.frame.startup:
                self.startup_externals.append(external)

    def _startup(self) -> list[Frame]:
        frames: dict[Frame, None] = {}
        production = [m for m in self._related() if not m.is_test]
        for module in production:
            frames[self.resolver.module_frame(module.path)] = None
        for module in production:
            for function in module.functions.values():
                if function.name in _STARTUP_NAMES or self._is_startup_event(
                    module, function.qualname
                ):
                    frames[self.resolver.frame(function, startup=True)] = None
        for entry in self.entries:
            if entry.function.owner:
                owner = self.project.modules[entry.function.module].functions[entry.function.owner]
                frames[self.resolver.frame(owner, startup=True)] = None
        return list(frames)

    def _related(self) -> list[Module]:
        """Modules with entry points, what they import, and what imports them: the rest cannot matter.

        A large tree of libraries has few handlers; its other modules are read, never walked.
        """
        imports: dict[str, set[str]] = {}
        importers: dict[str, set[str]] = {}
        for module in self.project.modules.values():
            for entries in module.symbols.values():
                for value, _, _ in entries:
                    if value[0] == "m":
                        _, target, _ = self.project.imported(module, value)
                        if target is not None:
                            imports.setdefault(module.path, set()).add(target.path)
                            importers.setdefault(target.path, set()).add(module.path)
        above = _closure({e.function.module for e in self.entries}, importers)
        below = _closure(above, imports)
        return [m for m in self.project.modules.values() if m.path in below]

    def _is_startup_event(self, module: Module, qualname: str) -> bool:
        function = module.functions[qualname]
        for decorator in function.decorators:
            callee = decorator
            if decorator[0] == "r":
                owner = module.functions[function.owner]
                callee = owner.body.calls[decorator[1]][CALLEE]
            if callee[-1] in {
                "on_event",
                "before_serving",
                "on_startup",
                "before_first_request",
                "listener",
            }:
                return True
        return False

    # Reachability

    def _chain(self) -> None:
        """Shortest paths from the entry points to every frame that requests reach."""
        queue: deque[Frame] = deque()
        for entry in self.entries:
            if entry.frame not in self.parents:
                self.parents[entry.frame] = None
                queue.append(entry.frame)
        while queue:
            frame = queue.popleft()
            for child, line in frame.children:
                if child not in self.parents and not child.startup:
                    self.parents[child] = (frame, line)
                    queue.append(child)

    def chain(self, frame: Frame, line: int, text: str) -> tuple[Step, ...]:
        """Handler → calls → the line."""
        steps = [Step(frame.function.module, line, text)]
        current: Frame | None = frame
        while current is not None:
            parent = self.parents.get(current)
            function = current.function
            if parent is None:
                steps.append(Step(function.module, function.line, self.label(current)))
                break
            steps.append(Step(parent[0].function.module, parent[1], self.label(current)))
            current = parent[0]
        return tuple(reversed(steps))

    def label(self, frame: Frame) -> str:
        """A function's name for people."""
        qualname = frame.function.qualname
        return "lambda" if "<lambda" in qualname else qualname.partition("@")[0]

    def externals_of(self, frame: Frame) -> list[External]:
        """The external calls of one frame."""
        if self._by_frame is None:
            self._by_frame = {}
            for external in self.externals:
                self._by_frame.setdefault(external.frame, []).append(external)
        return self._by_frame.get(frame, [])

    def writes_of(self, frame: Frame) -> list[Write]:
        """What one frame changes in memory."""
        if self._writes_by_frame is None:
            self._writes_by_frame = {}
            for write in self.walk.writes:
                self._writes_by_frame.setdefault(write.frame, []).append(write)
        return self._writes_by_frame.get(frame, [])

    def reached_from(self, frame: Frame) -> set[Frame]:
        """Every frame that a frame reaches, itself included."""
        seen = {frame}
        stack = [frame]
        while stack:
            for child, _ in stack.pop().children:
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
        return seen

    # States

    def state_key(self, place: Obj) -> StateKey:
        """The state that a place belongs to."""
        _, root, path = place
        kept: list[str] = []
        # `app.config["registry"].models`: the registry is a place of its own.
        longest = 5 if root == ("app",) else 3
        for step in path:
            if step == "[]" or len(kept) == longest:
                break
            kept.append(step)
            if step[0] == "[" and root != ("app",):
                break
        return (root, tuple(kept))

    def _state(self, place: Obj) -> State:
        key = self.state_key(place)
        if key not in self.states:
            self.states[key] = State(key, self._label(key), self._definition(key))
        return self.states[key]

    def _label(self, key: StateKey) -> str:
        root, path = key
        tail = "".join(path)
        if root[0] == "g":
            return f"{self.project.modules[root[1]].label}.{root[2]}{tail}"
        if root[0] in {"c", "s"}:
            return f"{root[2]}{tail}"
        if root[0] == "r":
            return f"{self.project.modules[root[1]].label}.{root[2]}(){tail}"
        if root[0] in {"v", "d"}:
            owner = root[2]
            if root[3] == "self" and path:
                return f"{owner.rpartition('.')[0]}{tail}"
            return f"{owner}.{root[3]}{tail}"
        return f"app{tail}" if root[0] == "app" else f"os.environ{tail}"

    def resolver_label(self, place: Obj) -> str:
        """The label of the state that a place belongs to."""
        return self._label(self.state_key(place))

    def _definition(self, key: StateKey) -> Site | None:
        root, path = key
        if root[0] == "g":
            found = self._attribute_line(key)
            if found is not None:
                return found
            entries = self.project.modules[root[1]].symbols.get(root[2], ())
            top = [e for e in entries if not e[2]] or list(entries)
            return Site(root[1], top[0][1], 0) if top else None
        if root[0] in {"c", "s"}:
            cls = self.project.class_((root[1], root[2]))
            name = path[0][1:] if path else ""
            if name in cls.attributes:
                return Site(root[1], cls.attributes[name][0][1], 0)
            return self._attribute_line(key) or Site(root[1], cls.line, 0)
        if root[0] == "r" and self._attribute_line(key) is not None:
            return self._attribute_line(key)
        if root[0] in {"v", "d", "r"}:
            return Site(root[1], self.project.modules[root[1]].functions[root[2]].line, 0)
        return None

    def _attribute_line(self, key: StateKey) -> Site | None:
        root, path = key
        if not path or path[-1][0] != ".":
            return None
        for holder in self.resolver.held(("P", root, path[:-1])):
            if holder[0] != "I":
                continue
            for cls in self.resolver.lineage(holder[1]):
                entries = cls.instance.get(path[-1][1:])
                if entries:
                    return Site(cls.module, entries[0][2], 0)
        return None

    def held(self, state: State) -> Objects:
        """What a state may hold."""
        return self.resolver.held(state.place)

    def is_of_one_call(self, state: State) -> bool:
        """Whether a variable that a closure keeps belongs to a function that only requests call."""
        root = state.root
        if root[0] != "v":
            return False
        if self._callers is None:
            self._callers = {}
            for frame in self.walk.visited:
                self._callers.setdefault(frame.function.key, set()).add(frame.startup)
        return self._callers.get((root[1], root[2])) == {False}

    def is_per_context(self, state: State) -> bool:
        """Whether a state is thread-local or context-local: each request has its own."""
        for length in range(len(state.key[1]) + 1):
            for held in self.resolver.held(("P", state.key[0], state.key[1][:length])):
                if held[0] in "JE" and held[1].startswith(_PER_CONTEXT):
                    return True
                if held[0] == "I" and any(
                    b.startswith(_PER_CONTEXT) for b in self.resolver.external_bases(held[1])
                ):
                    return True
        return False

    # Conditions

    def conditions(self, frame: Frame, context: int) -> Iterator[tuple[str, Value]]:
        """What surrounds a site, innermost first: (kind, the condition or the manager)."""
        body = frame.function.body
        while context:
            parent, kind, payload = body.contexts[context]
            if kind in {"if", "else", "while"}:
                yield kind, body.tests[payload][0]
            elif kind == "with":
                yield kind, payload[0]
            elif kind == "try":
                for one in payload:
                    yield kind, one
            elif kind == "except":
                yield kind, payload
            context = parent

    def mentions(self, value: Value, frame: Frame, state: State) -> bool:
        """Whether a value looks at a state."""
        for one in self.deep(value, frame):
            if one[0] in "nvaip":
                for found in self.resolver.resolve(one, frame):
                    if found[0] == "P" and self.state_key(found) == state.key:
                        return True
            elif one[0] == "r" and (
                self._call_reads(one, frame, state) or self._gives(one, frame, state)
            ):
                return True
        return False

    def _gives(self, value: Value, frame: Frame, state: State) -> bool:
        """Whether checked code hands out (an element of) a state: `self.known(name)`."""
        return any(
            o[0] == "P" and self.state_key(o) == state.key
            for o in self.resolver.call_result(frame, value[1])
        )

    def _call_reads(self, value: Value, frame: Frame, state: State) -> bool:
        for callee in self.resolver.callees(frame, value[1]):
            if callee[0] in "BU" and callee[1][0] == "P" and self.state_key(callee[1]) == state.key:
                return True
        return False

    def deep(
        self, value: Value | None, frame: Frame, limit: int = 60, *, arguments: bool = True
    ) -> Iterator[Value]:
        """A value, everything in it, the definitions of its locals and (unless told) the arguments of its calls."""
        body = frame.function.body
        seen: set[Value] = set()
        stack = [value]
        while stack and limit > 0:
            for one in walk(stack.pop()):
                limit -= 1
                yield one
                if one[0] == "s" and one not in seen:
                    seen.add(one)
                    stack.extend(body.slots[one[1]])
                elif one[0] == "r" and one not in seen:
                    seen.add(one)
                    call = body.calls[one[1]]
                    stack.append(call[CALLEE])
                    if arguments:
                        stack.extend(call[ARGS])
                        stack.extend(v for _, v in call[KWARGS])

    def names_of(
        self, value: Value | None, frame: Frame, *, arguments: bool = True
    ) -> Iterator[str]:
        """Every name, attribute, parameter and constant key that a value is made of."""
        for one in self.deep(value, frame, arguments=arguments):
            tag = one[0]
            if tag == "p":
                yield frame.function.params[one[1]][0]
            elif tag in {"n", "a", "v"}:
                yield str(one[-1])
            elif tag == "m":
                yield str(one[2] or one[1])
            elif tag == "k" and isinstance(one[1], str) and one[1].isidentifier():
                yield one[1]

    def externals_in(self, value: Value | None, frame: Frame) -> Iterator[str]:
        """The dotted names of every external call that a value depends on."""
        for one in self.deep(value, frame):
            if one[0] == "r":
                for callee in self.resolver.callees(frame, one[1]):
                    if callee[0] == "E":
                        yield callee[1]
                    elif callee[0] == "X":
                        yield callee[2]
