"""Where values come from: a store, a remote service, the clock, a client library, or nothing but code."""

from __future__ import annotations

from collections.abc import Iterator

from anypod.check import words
from anypod.check.analysis import Analysis, State
from anypod.check.facts import ARGS, CALLEE, Value
from anypod.check.frames import Frame, Obj, walk
from anypod.check.reach import Write

CLOCK = (
    "time.time", "time.monotonic", "time.perf_counter", "datetime.", "django.utils.timezone", "pendulum.",
    "arrow.",
)  # fmt: skip
# Results that are the same on every replica: keeping them is not keeping data.
PURE = (
    "re.", "importlib.", "inspect.", "ast.", "jinja2.", "zoneinfo.", "pytz.", "decimal.", "hashlib.", "math.",
    "functools.", "operator.", "struct.", "string.", "typing.", "logging.getLogger", "builtins.",
    "jsonschema.", "babel.", "pkgutil.", "types.", "threading.", "asyncio.", "collections.", "textwrap.",
    "pydantic.create_model", "pathlib.", "locale.", "gettext.", "html.", "unicodedata.", "fnmatch.",
)  # fmt: skip
_MAKERS = frozenset(
    [
        "create_engine",
        "create_async_engine",
        "sessionmaker",
        "scoped_session",
        "async_sessionmaker",
        "connect",
        "from_url",
        "client",
        "resource",
        "create_pool",
        "launch",
        "connect_over_cdp",
        "open_connection",
        "create_client",
        "getLogger",
        "get_logger",
        "ConnectionPool",
        "Redis",
        "StrictRedis",
        "RedisCluster",
        "Valkey",
        "Sentinel",
        "Elasticsearch",
        "OpenSearch",
        "Minio",
        "KafkaProducer",
        "Session",
        "Client",
        "AsyncClient",
        "Engine",
        "Environment",
        "Translator",
        "Limiter",
        "Lock",
        "RLock",
        "Executor",
        "ThreadPoolExecutor",
    ]
)

# Questions about code and about what is installed.
_OF_CODE = ("importlib.", "inspect.", "pkgutil.", "shutil.which", "ctypes.", "types.", "ast.")
_HTTP = ("requests.", "httpx.", "urllib", "aiohttp.", "niquests.")
_HTTP_READS = frozenset(
    {"get", "post", "put", "request", "head", "urlopen", "send", "stream", "options"}
)
_QUERIES = frozenset(
    [
        "execute",
        "fetchall",
        "fetchone",
        "fetchrow",
        "fetch",
        "fetchval",
        "scalars",
        "scalar",
        "scalar_one",
        "scalar_one_or_none",
        "all",
        "first",
        "one",
        "one_or_none",
        "find_one",
        "find",
        "aggregate",
        "get_item",
        "scan",
        "get_object",
        "list_objects",
        "download_file",
        "hget",
        "hgetall",
        "mget",
        "smembers",
        "lrange",
        "get_or_404",
        "first_or_404",
        "raw",
        "filter",
        "values",
        "values_list",
        "order_by",
        "annotate",
        "latest",
        "earliest",
        "in_bulk",
        "filter_by",
        "read_sql",
        "read_gbq",
        "count",
        "exists",
    ]
)
_STORES = (
    "query", "session", "cursor", "conn", "db", "objects", "execute", "select", "collection", "redis", "database",
    "sqlalchemy", "psycopg", "mysql", "mongo", "boto3", "supabase", "elasticsearch", "pandas", "table", "engine",
)  # fmt: skip
_NAMES_OF_LOADERS = frozenset(
    "fetch load query db database find lookup retrieve api remote select download".split()  # noqa: SIM905
)


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
                name = words.words(child.function.name)
                if name & _NAMES_OF_LOADERS or frame_loads(analysis, child):
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
    last = dotted.rpartition(".")[2]
    if dotted.startswith(_HTTP):
        return last in _HTTP_READS
    lowered = dotted.lower()
    asks = last in _QUERIES or (
        last == "get" and ("redis" in lowered or "query" in lowered or "objects" in lowered)
    )
    if asks and any(word in lowered for word in _STORES):
        return True
    # A function that was not checked says by its name what it does.
    if dotted.startswith(_OF_CODE):
        return False
    plain = dotted.removeprefix("?.")
    if plain == dotted and words.words(last) & {"load", "api", "select", "remote"}:
        # `yaml.safe_load`, `load_model`: a library's loaders read files of the image.
        return False
    return (
        not plain.startswith(("builtins.", "os.", "json.", "codecs."))
        and bool(words.words(last) & _NAMES_OF_LOADERS)
        and ((last.islower() and "_" in last) or last in {"fetch", "query", "lookup"})
    )


def is_client(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a value is nothing but a client, a pool or the like, made from configuration."""
    objects = [o for o in analysis.resolver.resolve(value, frame) if o != ("K", None)]
    return bool(objects) and all(_is_client(analysis, o) for o in objects)


def _is_client(analysis: Analysis, one: Obj) -> bool:
    if one[0] == "J":
        last = one[1].removesuffix("()").rpartition(".")[2]
        return last in _MAKERS or last.endswith(("Client", "Pool", "Engine", "Session"))
    if one[0] == "I":
        # A client of the project's own, made from configuration: what it keeps is judged by itself.
        made, frame, _ = analysis.resolver.fresh[one[2]] if one[2] >= 0 else (None, None, ())
        return one[1][1].endswith(("Client", "Pool", "Engine")) and not (
            made is not None
            and frame is not None
            and any(is_request(analysis, v, frame) for v in analysis.deep(made, frame))
        )
    if one[0] == "D" and one[1] == "tuple":
        inner = analysis.resolver.element(one)
        return bool(inner) and all(_is_client(analysis, o) for o in inner)
    return False


def is_request(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a value is part of the request."""
    return value[0] in "pnaisr" and any(
        o[0] == "Q" for o in analysis.resolver.resolve(value, frame)
    )


def guarded_by_itself(analysis: Analysis, state: State, write: Write) -> bool:
    """Whether the write runs only when a look at the state says that it is missing."""
    return any(
        kind in {"if", "else"}
        and _is_miss(condition, write.frame)
        and (
            analysis.mentions(condition, write.frame, state)
            or _asks_by_name(analysis, condition, write.frame, state)
        )
        for kind, condition in analysis.conditions(write.frame, write.context)
    ) or _in_handler_of_miss(analysis, write)


def _asks_by_name(analysis: Analysis, condition: Value, frame: Frame, state: State) -> bool:
    """`hasattr(cls, "_instance")`."""
    for one in analysis.deep(condition, frame):
        if one[0] == "r":
            call = frame.function.body.calls[one[1]]
            if call[CALLEE] in {("n", "hasattr"), ("n", "getattr")} and len(call[ARGS]) > 1:
                return bool(call[ARGS][1] == ("k", state.name))
    return False


def _is_miss(condition: Value, frame: Frame) -> bool:
    """Whether a condition asks for presence (`is None`, `not x`, `k in x`), not for a size or an order."""
    tag = condition[0]
    if tag == "o":
        return condition[1] in {"Not", "Is", "IsNot", "In", "NotIn"} or any(
            part in {("k", None), ("k", "")} for part in condition[2]
        )
    if tag == "u":
        return any(_is_miss(one, frame) for one in condition[1])
    if tag == "s":
        return any(_is_miss(one, frame) for one in frame.function.body.slots[condition[1]])
    return True


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


def calls_parameter(write: Write) -> bool:
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


def calls_checked_code(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """Whether a value depends on a call of checked code."""
    return any(
        callee[0] == "F"
        for one in analysis.deep(value, frame)
        if one[0] == "r"
        for callee in analysis.resolver.callees(frame, one[1])
    )


def has_constant_shape(value: Value) -> bool:
    """Whether a value is a literal or a display."""
    return value[0] in "kd"


_DIFFERENT = (
    *CLOCK,
    "uuid.",
    "random.",
    "secrets.",
    "os.urandom",
    "os.getpid",
    "tempfile.",
    "builtins.open",
)


def without_settings(analysis: Analysis, writes: tuple[Write, ...]) -> tuple[Write, ...]:
    """The writes of environment variables but those of a library's, that gets the same at each use on every replica."""
    settings: dict[Value | None, list[Write]] = {}
    for write in writes:
        settings.setdefault(write.key, []).append(write)
    same = {
        key
        for key, group in settings.items()
        if key is not None
        and all(w.op == "set" and _is_setting(analysis, w) for w in group)
        and len({analysis.resolver.constant(w.value, w.frame) for w in group}) == 1
        and not _is_asked_for(analysis, key)
    }
    return tuple(w for w in writes if w.key not in same)


def _is_asked_for(analysis: Analysis, key: Value) -> bool:
    """Whether a request names the variable otherwise than to set it: then it is a switch of this project's own."""
    for frame in analysis.parents:
        body = frame.function.body
        values = [v for call in body.calls for v in (*call[ARGS], call[CALLEE])]
        values += [*(v for options in body.slots for v in options), *body.returns]
        values += [v for v, _ in body.tests]
        if any(one == key for value in values for one in walk(value)):
            return True
    return False


def _is_setting(analysis: Analysis, write: Write) -> bool:
    """Whether a value is made of constants and of what libraries answer, nothing that differs from call to call."""
    assert write.value is not None
    for one in analysis.deep(write.value, write.frame):
        if one[0] in "pvx" or is_request(analysis, one, write.frame):
            return False
        if one[0] == "r":
            for callee in analysis.resolver.callees(write.frame, one[1]):
                dotted = str(callee[1] if callee[0] == "E" else callee[2])
                if callee[0] not in "EX" or dotted.startswith(_DIFFERENT) or is_loader(dotted):
                    return False
    return True


_IMAGE = (
    *PURE, "json.", "yaml.", "os.path.", "os.stat", "os.listdir", "configparser.", "csv.", "tomllib.", "io.",
    "importlib", "gzip.", "codecs.", "zipfile.", "markdown", "mistune", "pygments", "PIL.", "bleach",
)  # fmt: skip


def is_of_the_image(
    analysis: Analysis, state: State, writes: tuple[Write, ...], *, by_name: bool = True
) -> bool:
    """Whether a cache keeps only what every replica computes alike: from its key, its code and its files.

    `by_name`: a function that is called `load_…` says that what it gives may change.
    """
    fills = [w for w in writes if w.value is not None and w.op in {"set", "rebind", "attr", "call"}]
    others = [w for w in writes if w not in fills and w.op in {"aug", "augattr", "call"}]
    if not fills or any(
        w.op != "call" or w.name not in {"pop", "clear", "popitem"} for w in others
    ):
        return False
    for write in fills:
        assert write.value is not None
        own = set(analysis.deep(write.key, write.frame)) if write.key is not None else set()
        if any(
            is_request(analysis, one, write.frame)
            for one in analysis.deep(write.value, write.frame)
            if one not in own
        ):
            return False
        if not guarded_by_itself(analysis, state, write) or calls_parameter(write):
            return False
        origins = set(_origins(analysis, write.value, write.frame, own))
        if not origins and not _takes_from_a_constant(analysis, write):
            return False
        if not all(
            (o.startswith(_IMAGE) or _is_constant(o)) and not o.startswith(CLOCK) for o in origins
        ):
            return False
        if any(is_loader(o) for o in origins):
            return False
        if by_name and loads_data(analysis, write.value, write.frame):
            return False
    return True


def _takes_from_a_constant(analysis: Analysis, write: Write) -> bool:
    return write.op == "set" and any(
        one[0] in "na" and one[-1].isupper() and not is_request(analysis, one, write.frame)
        for one in analysis.deep(write.value, write.frame)
    )


def _is_constant(dotted: str) -> bool:
    """`emoji.EMOJI_DATA.items`: a table that a library brings."""
    owner, _, method = dotted.rpartition(".")
    return (
        method in {"items", "keys", "values", "get", "copy"} and owner.rpartition(".")[2].isupper()
    )


def _origins(analysis: Analysis, value: Value, frame: Frame, own: set[Value]) -> Iterator[str]:
    """Every external call that a value comes from, through checked code too, but for those that made its key."""
    for one in analysis.deep(value, frame):
        if one[0] != "r" or one in own:
            continue
        for callee in analysis.resolver.callees(frame, one[1]):
            if callee[0] in "EX":
                yield str(callee[1] if callee[0] == "E" else callee[2])
            elif callee[0] == "F":
                for reached in analysis.reached_from(
                    analysis.resolver.child(frame, one[1], callee)
                ):
                    for callees in reached.callees.values():
                        for inner in callees:
                            if inner[0] in "EX":
                                yield str(inner[1] if inner[0] == "E" else inner[2])
