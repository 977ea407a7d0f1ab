"""The data of POD110: libraries whose default keeps state in one process.

A row says which call or setting is meant, what makes it right, and what to write instead. Projects add rows in
`[[tool.anypod.check.local-defaults]]` with the same fields.
"""

from __future__ import annotations

from typing import NamedTuple


class CallRow(NamedTuple):
    """A call that keeps state in its process unless one of the keywords is given."""

    call: str
    """The dotted name; `*.Name` matches any module."""
    unless: tuple[str, ...]
    what: str
    instead: str
    shared: bool = False
    """Only where start-up makes it, for all requests: what a request makes for itself is gone with it."""


class ValueRow(NamedTuple):
    """A constant that, as a setting or an argument, keeps state in its process."""

    value: str
    what: str
    instead: str


CALLS = (
    CallRow(
        "flask_limiter.Limiter",
        ("storage_uri",),
        "each replica counts its own requests: N replicas admit N times the limit",
        'Limiter(…, storage_uri=os.environ["REDIS_URL"])',
    ),
    CallRow(
        "slowapi.Limiter",
        ("storage_uri",),
        "each replica counts its own requests: N replicas admit N times the limit",
        'Limiter(…, storage_uri=os.environ["REDIS_URL"])',
    ),
    CallRow(
        "flask_socketio.SocketIO",
        ("message_queue", "client_manager"),
        "an emit reaches only the clients of this replica",
        'SocketIO(…, message_queue=os.environ["REDIS_URL"])',
    ),
    CallRow(
        "socketio.AsyncServer",
        ("client_manager",),
        "an emit reaches only the clients of this replica",
        "AsyncServer(client_manager=socketio.AsyncRedisManager(url))",
    ),
    CallRow(
        "socketio.Server",
        ("client_manager",),
        "an emit reaches only the clients of this replica",
        "Server(client_manager=socketio.RedisManager(url))",
    ),
    CallRow("cachelib.SimpleCache", (), "the cache is this process's own", "cachelib.RedisCache(…)"),
    CallRow("cachelib.simple.SimpleCache", (), "the cache is this process's own", "cachelib.RedisCache(…)"),
    CallRow("cachelib.FileSystemCache", (), "the cache is on this pod's disk", "cachelib.RedisCache(…)"),
    CallRow("aiocache.SimpleMemoryCache", (), "the cache is this process's own", "aiocache.RedisCache(…)"),
    CallRow("limits.storage.MemoryStorage", (), "each replica counts for itself", "limits.storage.RedisStorage(url)"),
    CallRow("apscheduler.jobstores.memory.MemoryJobStore", (), "jobs are known to one replica", "a database job store"),
    CallRow("fastapi_cache.backends.inmemory.InMemoryBackend", (), "the cache is this process's own", "RedisBackend(…)"),
    CallRow("litestar.stores.memory.MemoryStore", (), "the store is this process's own", "RedisStore.with_client(url=…)"),
    CallRow("starlite.cache.SimpleCacheBackend", (), "the cache is this process's own", "RedisCacheBackend(…)"),
    CallRow("huey.MemoryHuey", (), "tasks are known to one replica", "RedisHuey(…)"),
    CallRow("huey.SqliteHuey", (), "tasks are on this pod's disk", "RedisHuey(…)"),
    CallRow("langgraph.checkpoint.memory.MemorySaver", (), "conversations are known to one replica", "PostgresSaver"),
    CallRow("langgraph.checkpoint.memory.InMemorySaver", (), "conversations are known to one replica", "PostgresSaver"),
    CallRow("starsessions.InMemoryStore", (), "sessions are known to one replica", "starsessions.stores.redis.RedisStore"),
    CallRow("fastapi_sessions.backends.implementations.InMemoryBackend", (), "sessions are known to one replica", "a shared backend"),
    CallRow("aiohttp_session.SimpleCookieStorage", (), "cookies are not signed; use a shared storage", "RedisStorage(…)"),
    CallRow("pyrate_limiter.InMemoryBucket", (), "each replica counts for itself", "RedisBucket"),
    CallRow("throttled.MemoryStore", (), "each replica counts for itself", "throttled.RedisStore"),
    *(
        CallRow(
            f"*.{name}",
            ("chat_memory",),
            "one conversation for all users, known to one replica",
            "RedisChatMessageHistory(session_id, url=…) for each conversation",
            shared=True,
        )
        for name in (
            "ConversationBufferMemory", "ConversationBufferWindowMemory", "ConversationSummaryMemory",
            "ConversationSummaryBufferMemory", "ConversationTokenBufferMemory", "InMemoryChatMessageHistory",
        )
    ),
)  # fmt: skip

# Setting names in which a value below matters.
SETTINGS = frozenset(
    {
        "CACHE_TYPE", "CACHES", "CHANNEL_LAYERS", "RATELIMIT_STORAGE_URI", "RATELIMIT_STORAGE_URL", "SESSION_TYPE",
        "SESSION_ENGINE", "CELERY_BROKER_URL", "BROKER_URL", "CELERY_RESULT_BACKEND", "SOCKETIO_CHANNEL_LAYER",
        "MESSAGE_QUEUE", "REST_FRAMEWORK", "CACHE_URL", "LIMITER_STORAGE_URI", "HUEY", "Q_CLUSTER",
    }
)  # fmt: skip

VALUES = (
    ValueRow("SimpleCache", "Flask-Caching keeps the cache in this process", '"RedisCache"'),
    ValueRow("simple", "Flask-Caching keeps the cache in this process", '"RedisCache"'),
    ValueRow("FileSystemCache", "Flask-Caching keeps the cache on this pod's disk", '"RedisCache"'),
    ValueRow("filesystem", "it is kept on this pod's disk", '"redis"'),
    ValueRow("cachelib", "Flask-Session keeps sessions on this pod's disk", '"redis"'),
    ValueRow("memory://", "it is kept in this process", "a URL of a shared server"),
    ValueRow("mem://", "it is kept in this process", "a URL of a shared server"),
    ValueRow("cache+memory://", "results are kept in this process", "a URL of a shared server"),
    ValueRow(
        "django.core.cache.backends.locmem.LocMemCache",
        "Django keeps the cache in this process: another replica never hears of a change",
        '"django.core.cache.backends.redis.RedisCache"',
    ),
    ValueRow(
        "django.core.cache.backends.filebased.FileBasedCache",
        "Django keeps the cache on this pod's disk",
        '"django.core.cache.backends.redis.RedisCache"',
    ),
    ValueRow(
        "channels.layers.InMemoryChannelLayer",
        "a group message reaches only the consumers of this replica",
        '"channels_redis.core.RedisChannelLayer"',
    ),
    ValueRow(
        "django.contrib.sessions.backends.file",
        "sessions are on this pod's disk",
        '"…backends.cached_db"',
    ),
)

# Calls whose constant arguments are looked up among the values: `Cache(config={"CACHE_TYPE": "SimpleCache"})`.
CONFIGURABLE = frozenset(
    {
        "flask_caching.Cache", "flask_limiter.Limiter", "slowapi.Limiter", "flask_session.Session", "celery.Celery",
        "cashews.cache.setup", "limits.storage.storage_from_string", "broadcaster.Broadcast", "kombu.Connection",
        "flask_caching.Cache().init_app", "dogpile.cache.make_region", "dogpile.cache.make_region().configure",
    }
)  # fmt: skip
KEYED_VALUES = {"dogpile.cache.memory": "dogpile keeps the region in this process"}

# What changes Django's default cache, which is LocMemCache as long as no `CACHES` says otherwise.
DJANGO_CACHE = "django.core.cache.cache."
CACHE_CHANGES = frozenset(
    {
        "set",
        "add",
        "incr",
        "decr",
        "set_many",
        "get_or_set",
        "aset",
        "aadd",
        "aincr",
        "aget_or_set",
        "touch",
    }
)
