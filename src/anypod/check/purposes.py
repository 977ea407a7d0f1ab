"""What a state is for, told from its name, its keys, what is put in, and how it is used."""

from __future__ import annotations

from anypod.check import words
from anypod.check.analysis import Analysis, State
from anypod.check.facts import ARGS, Value
from anypod.check.frames import Frame, Obj
from anypod.check.origins import CLOCK, calls_parameter, guarded_by_itself, loads_data
from anypod.check.reach import Write


def own_names(state: State) -> list[str]:
    """Every part of a state's name but the module's, its own last part first.

    `otps._codes` are one-time codes because of `otps`.
    """
    own = str(state.root[-1]) if state.root[0] in {"g", "v"} else ""
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
    if any(n in words.SESSION_KEYS for n in analysis.names_of(write.key, write.frame)):
        return True
    return any(
        e in {"secrets.token_urlsafe", "secrets.token_hex", "secrets.token_bytes"}
        for e in analysis.externals_in(write.key, write.frame)
    )


def _holds_connections(analysis: Analysis, writes: list[Write], name: list[str]) -> bool:
    for write in writes:
        for value in (write.value, write.key):
            if value is None or value[0] == "k":
                continue
            if any(_is_connection(o) for o in analysis.resolver.resolve(value, write.frame)):
                return True
            if value[0] == "p" and write.frame.function.params[value[1]][0] in {
                "websocket",
                "ws",
                "socket",
            }:
                return True
    return words.any_of(name[:1], words.CONNECTIONS) and any(
        w.op == "call" and w.name in {"append", "add"} for w in writes
    )


def _is_connection(one: Obj) -> bool:
    return (
        one == ("Q", "websocket")
        or (one[0] == "D" and one[1] == "queue")
        or (one[0] == "J" and one[1].rpartition(".")[2] in {"WebSocket", "WebSocketResponse"})
    )


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


def _stores_more_than_time(analysis: Analysis, write: Write) -> bool:
    value = write.value
    if value is None or write.op in {"aug", "augattr"}:
        return False
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
