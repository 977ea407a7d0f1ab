"""What names say: whether a state holds sessions, a cache, connections, or only plumbing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

SESSION = frozenset(
    [
        "session",
        "sessions",
        "token",
        "tokens",
        "users",
        "login",
        "logins",
        "logged",
        "cart",
        "carts",
        "basket",
        "baskets",
        "otp",
        "otps",
        "nonces",
        "csrf",
        "accounts",
        "profiles",
        "credentials",
        "passwords",
        "jwt",
        "jwts",
        "revoked",
        "blacklist",
        "blocklist",
        "denylist",
        "customers",
        "identities",
        "apikeys",
        "passcodes",
        "conversations",
        "chats",
        "preferences",
        "prefs",
        "logins",
        "sids",
        "wallets",
        "balances",
        "subscriptions",
        "logout",
        "verification",
        "members",
        "visitors",
    ]  # a word list reads better as words
)
SESSION_KEYS = frozenset(
    [
        "session_id",
        "sessionid",
        "token",
        "access_token",
        "refresh_token",
        "session_token",
        "auth_token",
        "session_key",
        "csrf_token",
    ]
)
CACHE = frozenset(
    [
        "cache",
        "caches",
        "cached",
        "memo",
        "memoized",
        "memoize",
        "lru",
        "memos",
        "lookaside",
        "caching",
    ]
)
CONNECTIONS = frozenset(
    [
        "connections",
        "sockets",
        "websockets",
        "websocket",
        "subscribers",
        "listeners",
        "waiters",
        "clients",
        "peers",
        "channels",
        "consumers",
        "observers",
        "watchers",
    ]
)
PLUMBING = frozenset(
    [
        "client",
        "pool",
        "pools",
        "engine",
        "engines",
        "breaker",
        "breakers",
        "registry",
        "registries",
        "logger",
        "loggers",
        "metrics",
        "metric",
        "collector",
        "tracer",
        "executor",
        "singleton",
        "driver",
        "factory",
        "factories",
        "compiled",
        "template",
        "templates",
        "regex",
        "regexes",
        "schema",
        "schemas",
        "validators",
        "adapters",
        "serializers",
        "parsers",
    ]
)
TRANSLATIONS = frozenset(
    ["translations", "translation", "locales", "i18n", "l10n", "gettext", "languages"]
)
TIME = frozenset(
    [
        "ttl",
        "expiry",
        "expires",
        "expire",
        "expired",
        "expiration",
        "expires_at",
        "timestamp",
        "ts",
        "stale",
        "fresh",
        "max_age",
        "maxage",
        "age",
        "valid_until",
        "cached_at",
        "fetched_at",
        "stored_at",
        "created_at",
        "updated_at",
        "deadline",
        "lifetime",
        "timeout",
    ]
)


@lru_cache(maxsize=4096)
def words(name: str) -> frozenset[str]:
    """The lower-case words of an identifier: `_userSessions_v2` → user, sessions, v, 2."""
    return frozenset(w.lower() for w in _WORD.findall(name))


def any_of(names: Iterable[str], vocabulary: frozenset[str]) -> bool:
    """Whether some name contains a word of the vocabulary."""
    return any(n in vocabulary or words(n) & vocabulary for n in names)
