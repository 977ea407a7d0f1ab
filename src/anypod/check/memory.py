"""Judges states in process memory: what a state is for, and whether a second replica breaks it.

The purpose decides the rule before the place does: a module-level dict of sessions is POD103, a cache POD102,
connections and queues POD106; what is left is POD104 on objects and classes and POD101 on modules.
"""

from __future__ import annotations

from typing import NamedTuple

from anypod.check import words
from anypod.check.analysis import Analysis, State
from anypod.check.facts import ARGS, Value
from anypod.check.frames import Frame, Obj
from anypod.check.model import ERROR, WARNING
from anypod.check.reach import Write

_CLOCK = (
    "time.time", "time.monotonic", "time.perf_counter", "datetime.", "django.utils.timezone", "pendulum.",
    "arrow.",
)  # fmt: skip
# Results that are the same on every replica: keeping them is not keeping data.
_PURE = (
    "re.", "importlib.", "inspect.", "ast.", "jinja2.", "zoneinfo.", "pytz.", "decimal.", "hashlib.", "math.",
    "functools.", "operator.", "struct.", "string.", "typing.", "logging.getLogger", "builtins.",
    "jsonschema.", "babel.", "pkgutil.", "types.", "threading.", "asyncio.", "collections.", "textwrap.",
    "pydantic.create_model", "pathlib.", "locale.", "gettext.", "html.", "unicodedata.", "fnmatch.",
)  # fmt: skip
_CONSTRUCTS = (
    "create_engine", "create_async_engine", "sessionmaker", "scoped_session", "async_sessionmaker", "connect",
    "from_url", "client", "resource", "create_pool", "create_client", "getLogger", "get_logger", "open_pool",
    "ConnectionPool",
)  # fmt: skip
_IN_FLIGHT = frozenset({"flight", "flights", "inflight", "singleflight"})
_METRICS = ("prometheus_client.", "statsd.", "opentelemetry.", "datadog.", "sentry_sdk.")


class Verdict(NamedTuple):
    """What is wrong with a state."""

    rule: str
    state: State
    writes: tuple[Write, ...]
    severity: str
    purpose: str


def judge(analysis: Analysis) -> list[Verdict]:
    """A verdict for each state that a second replica breaks."""
    found = []
    for state in analysis.states.values():
        verdict = _judge(analysis, state)
        if verdict is not None:
            found.append(verdict)
    return found


def _judge(analysis: Analysis, state: State) -> Verdict | None:
    if words.any_of([state.name], _IN_FLIGHT):
        # Who waits for whom within one process; gone when the request is.
        return None
    if not state.writes or analysis.is_per_context(state) or _is_external(analysis, state):
        return None
    writes = tuple(w for w in state.writes if not _is_plumbing(analysis, state, w))
    if not writes:
        return None
    purpose = purpose_of(analysis, state, writes)
    if purpose == "cache":
        if has_ttl(analysis, state, writes):
            return None
        if not state.reads:
            return None
        return Verdict("POD102", state, writes, ERROR, purpose)
    if purpose == "session":
        return Verdict("POD103", state, writes, ERROR, purpose)
    if not state.reads and not any(w.used for w in writes):
        # Written, never looked at in a request: diagnostics.
        return None
    if purpose in {"connections", "queue"}:
        return Verdict("POD106", state, writes, ERROR, purpose)
    severity = WARNING if _is_vague(state) else ERROR
    return Verdict(_rule_by_place(state), state, writes, severity, purpose)


def _rule_by_place(state: State) -> str:
    root, path = state.key
    if root[0] in {"c", "s", "app", "env"} or path:
        return "POD104"
    return "POD101"


def _is_vague(state: State) -> bool:
    return state.root[0] == "s" and not state.key[1]


def _is_external(analysis: Analysis, state: State) -> bool:
    """Whether the state belongs to an external object: its own library answers for it."""
    if state.root[0] in {"app", "env"}:
        return state.key[1] == () and state.root[0] == "app"
    for length in range(len(state.key[1]) + 1):
        held = analysis.resolver.held(("P", state.root, state.key[1][:length]))
        kinds = {h[0] for h in held}
        if "J" in kinds and not kinds & {"D", "I"} and length < len(state.key[1]):
            return True
        if any(h[0] == "J" and h[1].startswith(_METRICS) for h in held):
            return True
    return False


# Plumbing: what every replica may do for itself


def _is_plumbing(analysis: Analysis, state: State, write: Write) -> bool:
    """Lazily made clients, once-flags, pure memos, what a lifespan does."""
    for kind, condition in analysis.conditions(write.frame, write.context):
        if kind == "if" and any(
            one[0] == "k" and isinstance(one[1], str) and one[1].startswith("lifespan")
            for one in analysis.deep(condition, write.frame)
        ):
            return True
    if write.op == "del" or (
        write.op == "call" and write.name in {"pop", "clear", "remove", "discard"}
    ):
        return False
    if write.op in {"aug", "augattr"}:
        return False
    value = write.value
    if value is None:
        return False
    if any(e.startswith("threading.") for e in analysis.externals_in(value, write.frame)):
        return True
    if write.op in {"rebind", "attr"}:
        return _is_lazy(analysis, state, write, value)
    return _is_memo_of_plumbing(analysis, state, write, value)


def guarded_by_itself(analysis: Analysis, state: State, write: Write) -> bool:
    """Whether the write runs only when a look at the state says that it is missing."""
    return any(
        kind in {"if", "else"} and analysis.mentions(condition, write.frame, state)
        for kind, condition in analysis.conditions(write.frame, write.context)
    ) or _in_handler_of_miss(analysis, write)


def _in_handler_of_miss(analysis: Analysis, write: Write) -> bool:
    for kind, caught in analysis.conditions(write.frame, write.context):
        if kind == "except" and caught[-1] in {
            "KeyError",
            "AttributeError",
            "LookupError",
            "NameError",
        }:
            return True
    return False


def _is_lazy(analysis: Analysis, state: State, write: Write, value: Value) -> bool:
    if not guarded_by_itself(analysis, state, write):
        return False
    if value[0] == "k":
        # A flag that only ever goes up, once per process.
        return value[1] is True and not _is_reset(state)
    return _is_data_free(analysis, value, write.frame)


def _is_reset(state: State) -> bool:
    return any(w.value is not None and w.value[0] == "k" and not w.value[1] for w in state.writes)


def _is_data_free(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """A new object that carries nothing from the request and nothing loaded."""
    if any(_is_request(analysis, one, frame) for one in analysis.deep(value, frame)):
        return False
    return not loads_data(analysis, value, frame)


def _is_request(analysis: Analysis, value: Value, frame: Frame) -> bool:
    return value[0] in "pnaisr" and any(
        o[0] == "Q" for o in analysis.resolver.resolve(value, frame)
    )


_LOADERS = (
    "requests.", "httpx.", "urllib.request.", "aiohttp.", "execute", "fetchall", "fetchone", "fetchrow",
    ".query", "scalars", ".all", ".first", "redis", "boto3", "find_one", ".objects.",
)  # fmt: skip


def loads_data(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a value comes, directly or through checked code, from a store or a remote service."""
    for one in analysis.deep(value, frame):
        if one[0] != "r":
            continue
        for callee in analysis.resolver.callees(frame, one[1]):
            if callee[0] in "EX":
                dotted = str(callee[1] if callee[0] == "E" else callee[2])
                if is_loader(dotted):
                    return True
            elif callee[0] == "F":
                child = analysis.resolver.child(frame, one[1], callee)
                if frame_loads(analysis, child):
                    return True
    return False


def frame_loads(analysis: Analysis, frame: Frame) -> bool:
    """Whether a function (or what it calls) reads from a store or a remote service."""
    for reached in analysis.reached_from(frame):
        for callees in reached.callees.values():
            for callee in callees:
                if callee[0] == "E" and is_loader(callee[1]):
                    return True
                if callee[0] == "X" and is_loader(callee[2]):
                    return True
    return False


def is_loader(dotted: str) -> bool:
    """Whether an external call reads data that may change."""
    if dotted.rpartition(".")[2] in _CONSTRUCTS or dotted.startswith("request"):
        return dotted.startswith("requests.") and not dotted.endswith("Session")
    last = dotted.rpartition(".")[2]
    if last[:1].isupper():
        return False
    return any(word in dotted for word in _LOADERS)


def _is_memo_of_plumbing(analysis: Analysis, state: State, write: Write, value: Value) -> bool:
    """`pools[name] = Pool()` when it is missing; `compiled[p] = re.compile(p)`."""
    externals = list(analysis.externals_in(value, write.frame))
    if write.op == "call" and write.name != "setdefault":
        return False
    if externals and all(
        e.startswith(_PURE)
        and not e.startswith(_CLOCK)
        and e not in {"builtins.dict", "builtins.list"}
        for e in externals
    ):
        pure = not _calls_checked_code(analysis, value, write.frame)
        if pure and guarded_by_itself(analysis, state, write) and not _has_constant_shape(value):
            return not any(e in {"builtins.len", "builtins.int", "builtins.str"} for e in externals)
    if not words.any_of([state.name], words.PLUMBING):
        return False
    return guarded_by_itself(analysis, state, write) and not loads_data(
        analysis, value, write.frame
    )


def _calls_checked_code(analysis: Analysis, value: Value, frame: Frame) -> bool:
    return any(
        callee[0] == "F"
        for one in analysis.deep(value, frame)
        if one[0] == "r"
        for callee in analysis.resolver.callees(frame, one[1])
    )


def _has_constant_shape(value: Value) -> bool:
    return value[0] in "kd"


# Purpose


def purpose_of(analysis: Analysis, state: State, writes: tuple[Write, ...]) -> str:
    """session, cache, connections, queue or data."""
    kinds = {h[1] for h in analysis.held(state) if h[0] == "D"}
    if "queue" in kinds:
        return "queue"
    elements = [w for w in writes if w.op in {"set", "call", "del", "aug"}]
    name = [state.name, *[p.strip(".") for p in state.key[1]]]
    if words.any_of(name, words.CACHE) or kinds & {"cache", "ttlcache"}:
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
        and (loads_data(analysis, w.value, w.frame) or _calls_parameter(w))
        for w in fills
    )


def _calls_parameter(write: Write) -> bool:
    """`fetch()` where `fetch` is a parameter: a read-through cache."""
    body = write.frame.function.body
    stack = [write.value]
    for _ in range(12):
        if not stack:
            break
        value = stack.pop()
        if value is None:
            continue
        if value[0] == "s":
            stack.extend(body.slots[value[1]])
        elif value[0] == "d":
            stack.extend(value[2])
        elif value[0] == "r" and body.calls[value[1]][0][0] == "p":
            return True
    return False


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
        return not (externals and all(e.startswith(_CLOCK) for e in externals))
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
    if any(e.startswith(_CLOCK) for e in analysis.externals_in(comparison, frame)):
        return True
    return words.any_of(analysis.names_of(comparison, frame), words.TIME)
