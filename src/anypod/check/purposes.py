"""What a state is for, told from its name, its keys, what is put in, and how it is used."""

from __future__ import annotations

from anypod.check import words
from anypod.check.analysis import Analysis, State
from anypod.check.facts import ARGS, Value
from anypod.check.frames import Frame, Obj
from anypod.check.origins import (
    CLOCK,
    calls_parameter,
    guarded_by_itself,
    is_request,
    loads_data,
)
from anypod.check.reach import Write

_PEOPLE = frozenset({"online", "viewers", "players", "people", "connected", "guests", "seats"})


def own_names(state: State) -> list[str]:
    """Every part of a state's name but the module's, its own last part first.

    `otps._codes` are one-time codes because of `otps`.
    """
    own = str(state.root[-1]) if state.root[0] in {"g", "v", "r"} else ""
    return [state.name, *[p.strip(".") for p in state.key[1]], own]


def purpose_of(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> str:
    """session, cache, connections, queue or data."""
    kinds = {h[1] for h in analysis.held(state) if h[0] == "D"}
    if "queue" in kinds:
        return "queue"
    elements = [w for w in writes if w.op in {"set", "call", "del", "aug"}]
    name = own_names(state)
    if kinds & {"cache", "ttlcache"} or words.any_of(name if elements else name[:1], words.CACHE):
        return "cache"
    if elements and _holds_connections(analysis, elements, name):
        return "connections"
    if words.any_of(name, words.SESSION) and elements:
        return "session"
    if elements and any(_has_session_key(analysis, w) for w in elements):
        return "session"
    if words.any_of([state.label.rpartition(".")[0]], words.CACHE) and elements:
        return "cache"
    if elements and _has_cache_shape(analysis, state, writes):
        return "cache"
    return "data"


def _has_session_key(analysis: Analysis, write: Write) -> bool:
    if write.key is None:
        return False
    if write.op == "call" and write.name in {"append", "appendleft", "extend"}:
        # What is put in, not what it is put under: a record may well say whose it is.
        return False
    if any(n in words.SESSION_KEYS for n in analysis.names_of(write.key, write.frame)):
        return True
    return any(
        e in {"secrets.token_urlsafe", "secrets.token_hex", "secrets.token_bytes"}
        for e in analysis.externals_in(write.key, write.frame)
    )


def _holds_connections(analysis: Analysis, writes: list[Write], name: list[str]) -> bool:
    for write in writes:
        for value in (write.value, write.key):
            if value is not None and _connects(analysis, value, write.frame):
                return True
    return words.any_of(name[:1], words.CONNECTIONS) and any(
        w.op == "call" and w.name in {"append", "add"} for w in writes
    )


def _connects(analysis: Analysis, value: Value, frame: Frame) -> bool:
    if any(_is_connection(o) for o in analysis.resolver.resolve(value, frame)):
        return True
    return value[0] == "p" and frame.function.params[value[1]][0] in {"websocket", "ws", "socket"}


def _queues(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether something is a queue, into which others put."""
    return any(o[:2] == ("D", "queue") for o in analysis.resolver.resolve(value, frame))


def _is_connection(one: Obj) -> bool:
    return (
        one == ("Q", "websocket")
        or (one[0] == "D" and one[1] == "queue")
        or (one[0] == "J" and one[1].rpartition(".")[2] in {"WebSocket", "WebSocketResponse"})
    )


def is_of_each_connection(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether a connection finds only its own entry there: kept by the connection, and never gone through.

    `queues[websocket] = Queue()`, `open_sockets.add(websocket)`: without a broadcast, nobody misses the others'.
    """
    fills = [w for w in writes if not w.removes]
    if not all(
        _connects(analysis, w.key, w.frame) and not _queues(analysis, w.key, w.frame)
        for w in fills
        if w.key is not None and (w.op == "set" or w.name in {"append", "add"})
    ) or not any(w.key is not None and w.key[0] != "k" for w in fills):
        return False
    for frame in {r.frame for r in state.reads}:
        body = frame.function.body
        if any(
            one[0] == "i" and one[2] is None and analysis.mentions(one[1], frame, state)
            for test, _ in body.tests
            for one in analysis.deep(test, frame, 20)
        ):
            return False
        # `len(everybody)`, `return everybody`
        given = [*body.returns, *(v for call in body.calls for v in call[ARGS])]
        if any(
            o == state.place
            for v in given
            for one in analysis.deep(v, frame, 20, arguments=False)
            if one[0] in "nvasp" or one == v
            for o in analysis.resolver.resolve(one, frame)
        ):
            return False
    return True


def _has_cache_shape(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Filled on a miss with something loaded or computed, never from its own earlier value."""
    fills = [w for w in writes if w.op == "set" or (w.op == "call" and w.name == "setdefault")]
    if not fills or any(w.op in {"aug", "augattr"} for w in writes):
        return False
    return any(
        w.value is not None
        and guarded_by_itself(analysis, state, w)
        and not analysis.mentions(w.value, w.frame, state)
        and (loads_data(analysis, w.value, w.frame) or calls_parameter(w))
        for w in fills
    )


# Time


def has_ttl(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether entries expire: their age is compared with the clock and they are replaced whole."""
    if any(h[0] == "D" and h[1] == "ttlcache" for h in analysis.held(state)):
        return True
    if not any(_stores_more_than_time(analysis, w) for w in writes):
        return False
    frames = {r.frame for r in state.reads} | {w.frame for w in writes}
    return any(_compares_age(analysis, frame) for frame in frames)


def is_validated(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether what is kept carries a version that is compared, each time, with the one that holds now.

    `if kept[0] == version: return kept[1]` … `kept = (version, compute())`. A parameter is no version: it says what
    is asked for.
    """
    fills = [w for w in writes if w.value is not None and not w.removes and not clears(w)]
    sets = [w for w in writes if w.op == "set"]
    if sets and all(
        w.removes or _is_keyed_by_a_stamp(analysis, w) for w in writes if w.op != "call"
    ):
        return True
    # What a change itself leaves there is of the same shape, and compared by whoever reads it next.
    return all(_tuple_of(w) for w in fills) and any(_is_compared(analysis, state, w) for w in fills)


def _is_keyed_by_a_stamp(analysis: Analysis, write: Write) -> bool:
    """`kept[path, stat.st_mtime_ns]`: what has changed is looked for under another key."""
    return write.key is not None and any(
        one[0] == "a" and one[2] in {"st_mtime", "st_mtime_ns"}
        for one in analysis.deep(write.key, write.frame, 20)
    )


def _tuple_of(write: Write) -> Value | None:
    """The tuple that a write stores."""
    body, value = write.frame.function.body, write.value
    assert value is not None
    if value[0] == "s" and len(body.slots[value[1]]) == 1:
        value = body.slots[value[1]][0]
    return value if value[:2] == ("d", "tuple") else None


def _is_compared(analysis: Analysis, state: State, write: Write) -> bool:
    body, value = write.frame.function.body, _tuple_of(write)
    assert value is not None
    versions = {
        ("k", at): part
        for at, part in enumerate(value[2])
        if not any(
            one[0] == "p" or is_request(analysis, one, write.frame)
            for one in (part, *(body.slots[part[1]] if part[0] == "s" else ()))
        )
    }
    for test, _ in body.tests:
        for one in analysis.deep(test, write.frame):
            if one[0] == "o" and one[1] in {"Eq", "NotEq", "Is", "IsNot"} and len(one[2]) == 2:
                for kept, current in (one[2], one[2][::-1]):
                    options = body.slots[kept[1]] if kept[0] == "s" else (kept,)
                    if any(
                        o[0] == "i"
                        and versions.get(o[2]) == current
                        and analysis.mentions(o[1], write.frame, state)
                        for o in options
                    ):
                        return True
    return False


def _stores_more_than_time(analysis: Analysis, write: Write) -> bool:
    value = write.value
    if value is None or write.op in {"aug", "augattr"}:
        return False
    if value[0] == "r" and any(
        c[0] in "CF" for c in analysis.resolver.callees(write.frame, value[1])
    ):
        return True
    if value[0] == "r":
        externals = list(analysis.externals_in(value, write.frame))
        return not (externals and all(e.startswith(CLOCK) for e in externals))
    return True


def _compares_age(analysis: Analysis, frame: Frame) -> bool:
    body = frame.function.body
    candidates = [v for v, _ in body.tests] + list(body.returns)
    candidates += [v for values in body.slots for v in values]
    for call in body.calls:
        candidates.extend(call[ARGS])
    for candidate in candidates:
        for one in analysis.deep(candidate, frame, 40):
            if (
                one[0] == "o"
                and one[1] in {"Lt", "LtE", "Gt", "GtE"}
                and _about_time(analysis, one, frame)
            ):
                return True
    return False


def _about_time(analysis: Analysis, comparison: Value, frame: Frame) -> bool:
    if any(e.startswith(CLOCK) for e in analysis.externals_in(comparison, frame)):
        return True
    return words.any_of(analysis.names_of(comparison, frame), words.TIME)


def expires_with_a_sibling(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether a plain variable is kept until a time that is written beside it and compared with the clock.

    `_token, _expires = fetch(), time.time() + 300`: a local cache of one entry that says how old it may be.
    """
    fills = [w for w in writes if w.value is not None and not clears(w)]
    if not fills or any(w.op not in {"rebind", "attr"} for w in fills):
        return False
    moments = []
    for write in fills:
        if any(
            is_request(analysis, one, write.frame)
            for one in analysis.deep(write.value, write.frame)
        ):
            return False
        beside = [
            w
            for w in analysis.writes_of(write.frame)
            if w.op in {"rebind", "attr"} and w.place != write.place
        ]
        if _is_moment(analysis, write):
            # The time itself: what it dates must be written, or emptied, with it.
            emptied = any(
                w.op == "call" and w.name == "clear" and w.place != write.place
                for w in analysis.writes_of(write.frame)
            )
            moments.append(emptied or any(w.value is not None and not clears(w) for w in beside))
        else:
            moments.append(any(_is_moment(analysis, w) for w in beside))
    return all(moments) and any(
        _compares_age(analysis, frame)
        for frame in {r.frame for r in state.reads} | {w.frame for w in writes}
    )


def is_throttle(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether a variable only says when this process last did something for itself: collected, logged, beat.

    `if now - _last < EVERY: return` in a function that answers nothing. Where a request is refused, its limit is
    everybody's.
    """
    fills = [w for w in writes if not clears(w)]
    frames = {w.frame for w in fills}
    return (
        bool(fills)
        and all(w.op in {"rebind", "attr"} and _is_moment(analysis, w) for w in fills)
        and {r.frame for r in state.reads} <= frames
        and all(_compares_age(analysis, frame) for frame in frames)
        and not any(
            f.function.body.returns or f.function.body.raises or analysis.parents[f] is None
            for f in frames
        )
    )


def is_load(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether a variable only counts what this process has under way: one more at the top of a call, one less at its end.

    Who is connected is everybody's business, and so is how much one user has running.
    """
    if words.any_of(own_names(state), words.CONNECTIONS | words.SESSION | _PEOPLE):
        return False
    steps: dict[Frame, set[str]] = {}
    for write in writes:
        value = write.value
        if value is None or value[0] != "o" or value[1] not in {"Add", "Sub"}:
            return False
        if write.op == "rebind":
            counts = value[2][0] == ("n", state.name) and value[2][1:] == (("k", 1),)
        else:
            counts = write.op in {"aug", "augattr"} and value[2] == (("k", 1),)
        if not counts or _is_asked_for(analysis, write):
            return False
        steps.setdefault(write.frame, set()).add(value[1])
    return all(
        found == {"Add", "Sub"}
        and ("Q", "websocket") not in {o for group in frame.bindings for o in group}
        and not any("WebSocket" in e.dotted for e in analysis.externals_of(frame))
        for frame, found in steps.items()
    )


def _is_asked_for(analysis: Analysis, write: Write) -> bool:
    """Whether the request says which entry a write changes."""
    return write.key is not None and any(
        is_request(analysis, one, write.frame) for one in analysis.deep(write.key, write.frame)
    )


def is_made_by_each_reader(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> bool:
    """Whether every call that looks at a state gives it a value of its own before it does.

    `self.toc = []` at the top of `render`, which then fills and returns it: shared by threads, not by replicas.
    """
    firsts = {
        w.frame: w.line
        for w in writes
        if w.op in {"rebind", "attr"} and w.context == 0 and analysis.parents[w.frame] is not None
    }
    if not firsts or not state.reads:
        return False
    below: set[Frame] = set()
    for frame in firsts:
        below |= analysis.reached_from(frame) - {frame}
    return all(
        r.line > firsts[r.frame] if r.frame in firsts else r.frame in below for r in state.reads
    ) and all(w.line >= firsts[w.frame] if w.frame in firsts else w.frame in below for w in writes)


def clears(write: Write) -> bool:
    """Whether a write leaves nothing: None, False, an empty container."""
    value = write.value
    return value is not None and (
        (value[0] == "k" and not value[1])
        or (value[0] == "d" and all(part[0] == "k" and not part[1] for part in value[2]))
    )


def _is_moment(analysis: Analysis, write: Write) -> bool:
    return any(e.startswith(CLOCK) for e in analysis.externals_in(write.value, write.frame))


def without_restored(
    analysis: Analysis, state: State, writes: tuple[Write, ...]
) -> tuple[Write, ...]:
    """The writes but those of a function that puts the earlier value back, or takes out again what it put in."""
    restoring = {
        w.frame
        for w in writes
        if w.op in {"set", "attr", "rebind"}
        and w.value is not None
        and w.value[0] == "s"
        and _holds_earlier(analysis, state, w)
    }
    if state.root[0] == "env":
        # Elsewhere, what is there for the time of a call may be what others ask for.
        put = {(w.frame, w.key) for w in writes if w.op == "set"}
        restoring |= {w.frame for w in writes if w.removes and (w.frame, w.key) in put}
    return tuple(w for w in writes if w.frame not in restoring)


def _holds_earlier(analysis: Analysis, state: State, write: Write) -> bool:
    """Whether a local was read from the state itself, and the state was written in between."""
    assert write.value is not None
    options = write.frame.function.body.slots[write.value[1]]
    if len(options) != 1 or options[0][0] not in "nair":
        return False
    earlier = [
        w
        for w in analysis.writes_of(write.frame)
        if w.line < write.line
        and (w.place, w.name, w.key) == (write.place, write.name, write.key)
        and w.value != write.value
    ]
    return bool(earlier) and analysis.mentions(options[0], write.frame, state)
