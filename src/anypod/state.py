"""State: opens a store and hands out primitives over it.

`State.from_env()` is the line that an application needs. It never guesses: what it opens is named in
the environment, or it is the one embedded file of this application on this machine, or, inside a
container that names no store, it refuses and says why.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import quote

from anypod.commands import MAX_INTEGER, Algorithm, Get, Policy
from anypod.errors import ConfigurationError, NoStore
from anypod.keys import Key
from anypod.observe import Observer
from anypod.primitives.counter import Counter
from anypod.primitives.degraded import RaiseOrDeny
from anypod.primitives.idempotency import Idempotency
from anypod.primitives.lock import Lock
from anypod.primitives.map import Map
from anypod.primitives.rate_limit import OnUnavailable, RateLimit
from anypod.primitives.session import Sessions
from anypod.stores import Store, open_store

if TYPE_CHECKING:
    from anypod.primitives.cache import Cache

_CONTAINER_FILES: Final = ("/.dockerenv", "/run/.containerenv")


class State:
    """State that every replica sees.

    Args:
        url: the store; `open_store` lists the forms.
        namespace: put in front of every key, so that applications can share a store; None reads
            `ANYPOD_NAMESPACE` at first use.

    Raises:
        ConfigurationError: the URL names no store.
        MissingExtra: the store's client is not installed.
    """

    def __init__(self, url: str, *, namespace: str | None = None) -> None:
        self.store: Store = open_store(url, namespace=namespace)

    @classmethod
    def from_env(
        cls, *, namespace: str | None = None, environ: Mapping[str, str] | None = None
    ) -> Self:
        """Open the store that the environment names.

        In this order: `ANYPOD_URL`; `REDIS_URL`; `REDIS_HOST` and `REDIS_PORT` (also in the form
        `tcp://10.0.0.1:6379` that Kubernetes sets for a service named redis); outside a container, one
        SQLite file per application at a fixed place in the user's state directory.

        Args:
            namespace: as for `State`.
            environ: what to read instead of the process's environment.

        Raises:
            NoStore: nothing is named, and this is a container: a file inside it would be seen by this
                replica alone.
            ConfigurationError: what is named cannot be opened.
        """
        environ = os.environ if environ is None else environ
        url = url_from_env(environ)
        if url is None:
            if _in_container(environ):
                raise NoStore(
                    "no store is configured, and this process runs in a container: a file in it would "
                    "be seen by this replica alone and lost with it. Set ANYPOD_URL (redis://host:6379/0 "
                    "or sqlite:////a/volume/that/all/replicas/mount.db), REDIS_URL, or REDIS_HOST and "
                    "REDIS_PORT"
                )
            caller = sys._getframe(1).f_globals  # noqa: SLF001  # the application is whoever calls
            url = "sqlite:///" + quote(str(embedded_path(caller.get("__file__"), environ)))
        return cls(url, namespace=namespace)

    def counter(
        self,
        name: str,
        *,
        floor: int = -MAX_INTEGER,
        ceiling: int = MAX_INTEGER,
        ttl: float | None = None,
        window: float | None = None,
    ) -> Counter:
        """Counters under this name; see `Counter`."""
        return Counter(self.store, name, floor=floor, ceiling=ceiling, ttl=ttl, window=window)

    def cache(self, name: str, **options: Any) -> Cache[Any]:
        """A cache that all replicas share; see `Cache`."""
        from anypod.primitives.cache import Cache

        return Cache(self.store, name, **options)

    def map(
        self,
        name: str,
        *,
        type: Any = None,  # noqa: A002  # the field's term
        ttl: float | None = None,
    ) -> Map[Any]:
        """Values under this name, one per key; see `Map`."""
        return Map(self.store, name, type=type, ttl=ttl)

    def session(
        self,
        name: str = "session",
        *,
        idle: float = 1_800.0,
        absolute: float = 86_400.0,
        grace: float = 10.0,
    ) -> Sessions:
        """Sessions under this name; see `Sessions`."""
        return Sessions(self.store, name, idle=idle, absolute=absolute, grace=grace)

    def idempotency(
        self,
        name: str,
        *,
        lease: float = 30.0,
        ttl: float = 86_400.0,
        type: Any = None,  # noqa: A002  # the field's term
        failures: Literal["keep", "retry"] = "keep",
        unavailable: RaiseOrDeny = "raise",
    ) -> Idempotency:
        """Operations under this name that are carried out once; see `Idempotency`."""
        return Idempotency(
            self.store,
            name,
            lease=lease,
            ttl=ttl,
            type=type,
            failures=failures,
            unavailable=unavailable,
        )

    def rate_limit(
        self,
        name: str,
        rates: str | Sequence[Policy],
        *,
        algorithm: str | Algorithm = Algorithm.GCRA,
        overrides: Mapping[Key, str] | Callable[[Key], str | None] | None = None,
        shadow: bool = False,
        unavailable: OnUnavailable = "raise",
        replicas: int | None = None,
        colocate: str | None = None,
    ) -> RateLimit:
        """A limit such as `"100/minute"` on each key; see `RateLimit`."""
        return RateLimit(
            self.store,
            name,
            rates,
            algorithm=algorithm,
            overrides=overrides,
            shadow=shadow,
            unavailable=unavailable,
            replicas=replicas,
            colocate=colocate,
        )

    def lock(self, name: str, *, lease: float = 30.0, unavailable: RaiseOrDeny = "raise") -> Lock:
        """Locks under this name, one per key; see `Lock`."""
        return Lock(self.store, name, lease=lease, unavailable=unavailable)

    def slots(
        self, name: str, limit: int, *, lease: float = 30.0, unavailable: RaiseOrDeny = "raise"
    ) -> Lock:
        """`limit` slots per key, for so many at the same time; see `Lock`."""
        return Lock(self.store, name, lease=lease, limit=limit, unavailable=unavailable)

    def observe(self, observer: Observer) -> None:
        """Tell the observer of every command: kind and name of the primitive, duration, outcome."""
        self.store.observe(observer)

    def ping(self) -> None:
        """Reach the store, or raise what a command would raise."""
        self.store.execute(Get(self.store.prefix("ping", "ping")))

    async def aping(self) -> None:
        """`ping`, awaiting."""
        await self.store.aexecute(Get(self.store.prefix("ping", "ping")))

    def close(self) -> None:
        """Give up connections and files; who uses the state again gets others."""
        self.store.close()

    async def aclose(self) -> None:
        """Give up connections and files, from the event loop that used them."""
        await self.store.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"State({self.store.url!r})"


def url_from_env(environ: Mapping[str, str]) -> str | None:
    """The URL of the store that an environment names, or None.

    Raises:
        ConfigurationError: `REDIS_PORT` is neither a port nor `tcp://host:port`.
    """
    for variable in ("ANYPOD_URL", "REDIS_URL"):
        if url := environ.get(variable, "").strip():
            return url
    host = environ.get("REDIS_HOST", "").strip()
    port = environ.get("REDIS_PORT", "").strip()
    if not host and not port:
        return None
    if "://" in port:  # what Kubernetes sets by itself for a service that is named redis
        address = port.partition("://")[2]
        service, _, port = address.rpartition(":")
        host = host or service
    host, port = host or "localhost", port or "6379"
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ConfigurationError(
            f"REDIS_PORT is {environ.get('REDIS_PORT')!r}: expected a port such as 6379, or "
            f"tcp://host:6379"
        )
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"redis://{host}:{port}/0"


def embedded_path(source: str | None, environ: Mapping[str, str]) -> Path:
    """Where the embedded store of an application is: the same for all its processes.

    Args:
        source: the file that asks; its directory names the application. None takes the working
            directory, for an interactive session.
        environ: `XDG_STATE_HOME` or `HOME` say where state belongs.
    """
    root = Path(source).resolve().parent if source else Path.cwd()
    state_home = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home()) / (
        ".local/state"
    )
    label = re.sub(r"[^A-Za-z0-9_.-]+", "-", root.name) or "root"
    digest = blake2b(str(root).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    directory = Path(state_home).absolute() / "anypod" / f"{label}-{digest}"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory / "state.db"


def _in_container(environ: Mapping[str, str]) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ or any(
        Path(marker).exists() for marker in _CONTAINER_FILES
    )
