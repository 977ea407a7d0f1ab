"""What Python's own containers and builtins do: which calls make one, change one, or hand out an element."""

from __future__ import annotations

# Constructor -> kind of container that it makes.
CONSTRUCTORS = {
    "builtins.dict": "dict",
    "builtins.list": "list",
    "builtins.set": "set",
    "builtins.bytearray": "list",
    "collections.defaultdict": "dict",
    "collections.OrderedDict": "dict",
    "collections.Counter": "dict",
    "collections.deque": "list",
    "collections.ChainMap": "dict",
    "weakref.WeakValueDictionary": "dict",
    "weakref.WeakKeyDictionary": "dict",
    "weakref.WeakSet": "set",
    "types.SimpleNamespace": "namespace",
    "itertools.count": "count",
    "sortedcontainers.SortedDict": "dict",
    "sortedcontainers.SortedList": "list",
    "sortedcontainers.SortedSet": "set",
    "queue.Queue": "queue",
    "queue.SimpleQueue": "queue",
    "queue.LifoQueue": "queue",
    "queue.PriorityQueue": "queue",
    "asyncio.Queue": "queue",
    "asyncio.LifoQueue": "queue",
    "asyncio.PriorityQueue": "queue",
    "multiprocessing.Queue": "queue",
    "cachetools.TTLCache": "ttlcache",
    "cachetools.TLRUCache": "ttlcache",
    "cachetools.LRUCache": "cache",
    "cachetools.LFUCache": "cache",
    "cachetools.FIFOCache": "cache",
    "cachetools.RRCache": "cache",
    "cachetools.Cache": "cache",
    "cachebox.TTLCache": "ttlcache",
    "cachebox.LRUCache": "cache",
    "cachebox.Cache": "cache",
    "expiringdict.ExpiringDict": "ttlcache",
    "lru.LRU": "cache",
    "werkzeug.datastructures.MultiDict": "dict",
}

# Calls that give a fresh container of the same elements.
COPIES = frozenset(
    {
        "builtins.sorted",
        "builtins.reversed",
        "builtins.tuple",
        "builtins.frozenset",
        "builtins.filter",
        "builtins.iter",
        "builtins.enumerate",
        "builtins.zip",
        "copy.copy",
        "itertools.islice",
        "itertools.chain",
    }
)

# Calls that give an element of their first argument.
ELEMENT_OF = frozenset({"builtins.next", "builtins.min", "builtins.max", "random.choice"})

# Calls that give their argument back (index of that argument).
SAME = {
    "typing.cast": 1,
    "asyncio.shield": 0,
    "asyncio.wait_for": 0,
    "asyncio.create_task": 0,
    "builtins.aiter": 0,
    "contextlib.closing": 0,
}

# Methods that change a container.
MUTATORS = {
    "dict": frozenset(
        [
            "update",
            "setdefault",
            "pop",
            "popitem",
            "clear",
            "move_to_end",
            "subtract",
            "__setitem__",
            "__delitem__",
        ]
    ),
    "list": frozenset(
        [
            "append",
            "extend",
            "insert",
            "remove",
            "pop",
            "clear",
            "sort",
            "reverse",
            "appendleft",
            "extendleft",
            "popleft",
            "rotate",
            "add",
            "update",
            "discard",
            "__setitem__",
            "__delitem__",
        ]
    ),
    "set": frozenset(
        [
            "add",
            "discard",
            "remove",
            "pop",
            "clear",
            "update",
            "difference_update",
            "intersection_update",
            "symmetric_difference_update",
        ]
    ),
    "queue": frozenset(["put", "put_nowait", "get", "get_nowait"]),
    "namespace": frozenset(),
    "count": frozenset({"__next__"}),
}
MUTATORS["tuple"] = MUTATORS["str"] = MUTATORS["list"]
MUTATORS["cache"] = MUTATORS["ttlcache"] = MUTATORS["dict"] | {"set", "insert"}
ANY_MUTATOR = frozenset().union(MUTATORS["dict"], MUTATORS["list"], MUTATORS["set"])

# What these methods of a container take; with more they are another object's.
ONE_ARGUMENT = frozenset(
    {"append", "add", "remove", "discard", "appendleft", "extend", "extendleft"}
)

# Functions that change their first argument.
CHANGES_ARGUMENT = frozenset(
    {
        "heapq.heappush",
        "heapq.heappop",
        "heapq.heapify",
        "heapq.heappushpop",
        "bisect.insort",
        "bisect.insort_left",
        "bisect.insort_right",
        "random.shuffle",
        "operator.setitem",
    }
)
# Methods that put a value in: the position of that value.
STORES = {
    "append": 0, "appendleft": 0, "add": 0, "insert": 1, "setdefault": 1, "put": 0, "put_nowait": 0,
    "__setitem__": 1,
}  # fmt: skip
# Methods that put another container's elements in.
SPREADS = frozenset({"extend", "update", "extendleft"})
# Methods that hand out an element.
ELEMENTS = frozenset(
    ["get", "pop", "popitem", "popleft", "setdefault", "get_nowait", "__getitem__", "peek"]
)
# Methods that hand out a view or a copy.
VIEWS = frozenset(["values", "items", "keys", "copy", "elements", "most_common", "union"])

# External base classes that make a class a container itself.
CONTAINER_BASES = {
    "builtins.dict": "dict",
    "builtins.list": "list",
    "builtins.set": "set",
    "collections.OrderedDict": "dict",
    "collections.defaultdict": "dict",
    "collections.UserDict": "dict",
    "collections.UserList": "list",
    "collections.deque": "list",
    "collections.Counter": "dict",
}

# Decorators that keep what a function gives, for ever: each call with these arguments gives the same object.
MEMOIZERS = frozenset(
    {
        "functools.lru_cache",
        "functools.cache",
        "async_lru.alru_cache",
        "methodtools.lru_cache",
        "cachetools.func.lru_cache",
        "aiocache.cached",
        "django.utils.functional.lru_cache",
        "boltons.cacheutils.cached",
    }
)

# Methods of queries that give one row.
ONE_ROW = frozenset(
    """get first last latest earliest one one_or_none get_or_none scalar_one scalar_one_or_none get_or_404 first_or_404
    get_object_or_404 aget afirst alast find_one""".split()  # noqa: SIM905
)
