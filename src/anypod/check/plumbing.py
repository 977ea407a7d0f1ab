"""Plumbing: what every replica may do for itself, and what therefore is no state.

Clients and pools that are made on first use, flags that let something happen once in a process, tables that code
fills when it first needs them, memos of objects that nobody changes.
"""

from __future__ import annotations

from anypod.check import words
from anypod.check.analysis import Analysis, State
from anypod.check.effects import surrounding
from anypod.check.facts import ARGS, CALLEE, KWARGS, Value
from anypod.check.frames import Frame, Obj
from anypod.check.origins import (
    CLOCK,
    PURE,
    calls_checked_code,
    guarded_by_itself,
    has_constant_shape,
    is_client,
    is_request,
    loads_data,
)
from anypod.check.reach import Write

_TASKS = frozenset(
    {"create_task", "ensure_future", "run_coroutine_threadsafe", "start_soon", "create_future"}
)
_CURRENT = frozenset(
    {
        "asyncio.current_task",
        "threading.get_ident",
        "threading.current_thread",
        "_thread.get_ident",
        # An address means nothing in another process.
        "builtins.id",
    }
)
_LOOPS_AND_LOCKS = frozenset(
    {
        "asyncio.new_event_loop", "asyncio.get_event_loop", "asyncio.get_running_loop", "asyncio.Lock",
        "asyncio.Semaphore", "asyncio.BoundedSemaphore", "asyncio.Condition", "anyio.Lock", "anyio.Semaphore",
    }
)  # fmt: skip
# What objects are called that work on data and hold none.
_TOOLS = (
    "Adapter", "Mapper", "Policy", "Handler", "Formatter", "Serializer", "Parser", "Renderer", "Factory", "Strategy",
    "Converter", "Translator", "Validator", "Backend", "Transport", "Connector", "Loader", "Encoder", "Decoder",
    "Provider", "Driver", "Gateway", "Service", "Repository",
)  # fmt: skip


def is_plumbing(analysis: Analysis, state: State, write: Write) -> bool:
    """Whether a write is one of those: lazily made clients, once-flags, pure memos, what a lifespan does."""
    for kind, condition, frame in surrounding(analysis, write.frame, write.context):
        if kind == "if" and any(
            one[0] == "k" and isinstance(one[1], str) and one[1].startswith("lifespan")
            for one in analysis.deep(condition, frame)
        ):
            return True
    if write.removes:
        fills = [w for w in state.writes if not w.removes]
        return (bool(fills) and all(is_of_this_process(analysis, w) for w in fills)) or _drains(
            analysis, state, write
        )
    if write.op in {"aug", "augattr"}:
        return False
    value = write.value
    if value is None:
        return False
    if is_of_this_process(analysis, write) or _is_stamped(analysis, write, value):
        return True
    if runs_once(analysis, write) and _is_data_free(analysis, value, write.frame):
        return True
    if write.op in {"rebind", "attr"}:
        return _is_lazy(analysis, state, write, value)
    return _is_memo_of_plumbing(analysis, state, write, value)


def is_per_task(analysis: Analysis, write: Write) -> bool:
    """Whether the key says which thread or task a thing belongs to."""
    return write.key is not None and any(
        e in _CURRENT for e in analysis.externals_in(write.key, write.frame)
    )


def is_of_this_process(analysis: Analysis, write: Write) -> bool:
    """Whether what is kept means nothing elsewhere: locks, event loops, running tasks, what a thread or task owns."""
    value, key, frame = write.value, write.key, write.frame
    if value is None:
        return False
    if any(e.startswith("threading.") for e in analysis.externals_in(value, frame)):
        return True
    objects = analysis.resolver.resolve(value, frame)
    if objects and all(o[0] == "J" and o[1] in _LOOPS_AND_LOCKS for o in objects):
        return True
    # `tasks.add(create_task(…))`, `readers[task] = process`: the loop itself holds tasks only weakly.
    kept = value if write.op == "call" and write.name in {"add", "append"} else key
    if kept is None:
        return False
    if any(e.rpartition(".")[2] in _TASKS for e in analysis.externals_in(kept, frame)):
        return True
    return kept[0] == "a" and _is_task(analysis, kept, frame)


def _is_task(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """`self._task = create_task(…)`, then `tasks.add(self._task)`."""
    resolver = analysis.resolver
    assigned = [
        (made, resolver.constructor_frame(one, method, owner))
        for base in resolver.resolve(value[1], frame)
        for one in (resolver.held(base) if base[0] == "P" else (base,))
        if one[0] == "I"
        for method, made, owner in resolver.instance_values(one, value[2])
        if made[0] != "k"
    ]
    return bool(assigned) and all(
        any(e.rpartition(".")[2] in _TASKS for e in analysis.externals_in(made, where))
        for made, where in assigned
    )


def _is_stamped(analysis: Analysis, write: Write, value: Value) -> bool:
    """`if now != _second: _date, _second = …, now`: made anew when the clock or a file's stamp has moved on."""
    frame = write.frame
    if any(is_request(analysis, one, frame) for one in analysis.deep(value, frame)):
        return False
    compared = []
    for kind, condition in analysis.conditions(frame, write.context):
        # `if key == _key and _kept: return _kept` leaves by either.
        parts = condition[1] if condition[0] == "u" and condition[2:] == ("And",) else (condition,)
        compared += [(kind, part) for part in parts if kind == "else" or len(parts) == 1]
    for kind, condition in compared:
        if condition[0] != "o" or (kind, condition[1]) not in {("if", "NotEq"), ("else", "Eq")}:
            continue
        for kept, stamp in (condition[2], condition[2][::-1]):
            if not any(
                e.startswith(CLOCK) or e.rpartition(".")[2] in {"stat", "getmtime", "fstat"}
                for e in analysis.externals_in(stamp, frame)
            ):
                continue
            places = analysis.resolver.resolve(kept, frame)
            if any(w.value == stamp and w.place in places for w in analysis.writes_of(frame)):
                return True
    return False


def _drains(analysis: Analysis, state: State, write: Write) -> bool:
    """`if pending: …; pending.clear()`: what the import left to do, done by the first request."""
    return (
        write.name == "clear"
        and all(w.op == "call" and w.name == "clear" for w in state.writes)
        and any(w.place != write.place for w in analysis.writes_of(write.frame))
        and any(
            kind == "if" and _is_itself(analysis, state, condition, write.frame)
            for kind, condition in analysis.conditions(write.frame, write.context)
        )
    )


def _is_itself(analysis: Analysis, state: State, value: Value, frame: Frame) -> bool:
    """Whether a value is a state as a whole, not an element of it."""
    return value[0] in "nvai" and any(
        o == state.place for o in analysis.resolver.resolve(value, frame)
    )


def _while_empty(analysis: Analysis, state: State, write: Write) -> bool:
    """Whether a write runs only as long as a state is empty or None: it is filled once, as a whole."""
    return any(
        _is_missing(analysis, state, kind, condition, write.frame)
        for kind, condition in analysis.conditions(write.frame, write.context)
    )


def _is_missing(
    analysis: Analysis, state: State, kind: str, condition: Value, frame: Frame
) -> bool:
    """Whether a branch is taken when a state is empty or None."""
    if condition[0] == "o" and condition[2][-1:] == (("k", None),):
        asked, empty = condition[2][0], condition[1] in {"Is", "Eq"}
    elif condition[0] == "o" and condition[1] == "Not":
        asked, empty = condition[2][0], True
    else:
        asked, empty = condition, False
    return (
        kind in {"if", "else"}
        and empty == (kind == "if")
        and _is_itself(analysis, state, asked, frame)
    )


def runs_once(analysis: Analysis, write: Write) -> bool:
    """Whether a flag that only ever goes up lets a write happen once in a process: `if not _loaded: _load()`."""
    # Further down, what was started once may go on for ever.
    parent = analysis.parents.get(write.frame)
    near = (write.frame, parent[0]) if parent else (write.frame,)
    for kind, condition, frame in surrounding(analysis, write.frame, write.context):
        if kind not in {"if", "else"} or frame not in near:
            continue
        negated = condition[0] == "o" and condition[1] == "Not"
        asked = condition[2][0] if negated else condition
        for one in analysis.resolver.resolve(asked, frame) if asked[0] in "nvai" else ():
            flag = analysis.states.get(analysis.state_key(one)) if one[0] == "P" else None
            if flag is None or not flag.writes:
                continue
            if negated != (kind == "if"):
                # `if pending: …; pending.clear()`
                if all(w.frame == write.frame and _drains(analysis, flag, w) for w in flag.writes):
                    return True
            elif all(w.value == ("k", True) for w in flag.writes):
                return True
    return False


def _is_lazy(analysis: Analysis, state: State, write: Write, value: Value) -> bool:
    if is_client(analysis, value, write.frame):
        return True
    if not guarded_by_itself(analysis, state, write) and not _is_loaded(analysis, state, write):
        return False
    if value[0] == "k":
        # A flag that only ever goes up, once per process.
        return value[1] is True and not _is_reset(state)
    objects = analysis.resolver.resolve(value, write.frame)
    if objects and all(o[0] in "IJ" and not _is_container(analysis, o) for o in objects):
        # A service object, made once; what it keeps is judged by itself.
        return not any(
            is_request(analysis, one, write.frame) for one in analysis.deep(value, write.frame)
        )
    return _is_data_free(analysis, value, write.frame)


def _is_loaded(analysis: Analysis, state: State, write: Write) -> bool:
    """`if self.model is None: self.load()`, where `load` puts there what a library made."""
    parent = analysis.parents.get(write.frame)
    if parent is None or write.value is None or write.value[0] != "r":
        return False
    return any(
        frame == parent[0] and _is_missing(analysis, state, kind, condition, frame)
        for kind, condition, frame in surrounding(analysis, write.frame, write.context)
    )


def _is_container(analysis: Analysis, one: Obj) -> bool:
    return one[0] == "I" and bool(analysis.resolver.container_kind(one[1]))


def _is_reset(state: State) -> bool:
    return any(w.value is not None and w.value[0] == "k" and not w.value[1] for w in state.writes)


def _is_data_free(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """A new object that carries nothing from the request and nothing loaded."""
    if any(is_request(analysis, one, frame) for one in analysis.deep(value, frame)):
        return False
    return not loads_data(analysis, value, frame)


def _is_memo_of_plumbing(analysis: Analysis, state: State, write: Write, value: Value) -> bool:
    """`pools[name] = Pool()` when it is missing; `compiled[p] = re.compile(p)`."""
    externals = list(analysis.externals_in(value, write.frame))
    on_a_miss = guarded_by_itself(analysis, state, write) or write.name == "setdefault"
    if on_a_miss and (
        (_is_of_code(analysis, value, write.frame) and not _is_changed_inside(state, write))
        or _is_stateless(analysis, state, write, value)
        or _is_made_of_a_table(analysis, state, write, value)
    ):
        return True
    if _while_empty(analysis, state, write) and not _calls_what_it_is_given(analysis, write, value):
        given = [value] if write.key is None else [value, write.key]
        return all(_is_data_free(analysis, one, write.frame) for one in given)
    if write.op == "call" and write.name != "setdefault":
        return False
    if is_client(analysis, value, write.frame) and guarded_by_itself(analysis, state, write):
        return True
    if externals and all(
        e.startswith(PURE)
        and not e.startswith(CLOCK)
        and e not in {"builtins.dict", "builtins.list"}
        for e in externals
    ):
        pure = not calls_checked_code(analysis, value, write.frame)
        if pure and guarded_by_itself(analysis, state, write) and not has_constant_shape(value):
            return not any(e in {"builtins.len", "builtins.int", "builtins.str"} for e in externals)
    if not words.any_of([state.name], words.PLUMBING):
        return False
    return guarded_by_itself(analysis, state, write) and not loads_data(
        analysis, value, write.frame
    )


def _is_of_code(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a value is nothing but constants, classes and functions: a table that is filled when first needed."""
    named = False
    for one in analysis.deep(value, frame):
        if one[0] in "pvx":
            return False
        if one[0] == "r":
            callees = analysis.resolver.callees(frame, one[1])
            if not callees or any(
                c[0] != "C" and not (c[0] == "E" and c[1].startswith(PURE)) for c in callees
            ):
                return False
        elif one[0] in "naim":
            objects = analysis.resolver.resolve(one, frame)
            if not objects or any(o[0] not in "CFEMK" for o in objects):
                return False
            named = True
    return named


def _is_changed_inside(state: State, write: Write) -> bool:
    """Whether requests go on to change what a write put in: `rooms[name] = Room()`, then `rooms[name].join(user)`."""
    return any(len(w.place[2]) > len(write.place[2]) for w in state.writes)


def _calls_what_it_is_given(analysis: Analysis, write: Write, value: Value) -> bool:
    """Whether a value comes from a function that is a parameter, or a closure's, and that nobody knows."""
    calls = write.frame.function.body.calls
    return any(
        one[0] == "r"
        and calls[one[1]][CALLEE][0] in "pv"
        and not any(c[0] in "FCE" for c in analysis.resolver.callees(write.frame, one[1]))
        for one in analysis.deep(value, write.frame)
    )


def _is_made_of_a_table(analysis: Analysis, state: State, write: Write, value: Value) -> bool:
    """`mappers[name] = classes[name]()` with a table of classes that no request changes."""
    if value[0] != "r" or words.any_of(
        [state.name], words.SESSION | words.CONNECTIONS | words.CACHE
    ):
        return False
    call = write.frame.function.body.calls[value[1]]
    if call[ARGS] or call[KWARGS]:
        return False
    tables = analysis.resolver.resolve(call[CALLEE], write.frame)
    return bool(tables) and all(
        o[0] == "P" and o[2][-1:] == ("[]",) and analysis.state_key(o) not in analysis.states
        for o in tables
    )


def _is_stateless(analysis: Analysis, state: State, write: Write, value: Value) -> bool:
    """`mappers[name] = Mapper(name)` when it is missing, of objects that requests never change."""
    if words.any_of([state.name], words.SESSION | words.CONNECTIONS | words.CACHE):
        return False
    objects = analysis.resolver.resolve(value, write.frame)
    if not objects or any(
        o[0] != "I" or not o[1][1].endswith(_TOOLS) or _is_container(analysis, o) for o in objects
    ):
        return False
    if _is_changed_inside(state, write):
        return False
    own = set(analysis.deep(write.key, write.frame)) if write.key is not None else set()
    return not loads_data(analysis, value, write.frame) and not any(
        is_request(analysis, one, write.frame)
        for one in analysis.deep(value, write.frame)
        if one not in own
    )
