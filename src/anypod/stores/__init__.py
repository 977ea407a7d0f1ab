"""Stores: what users and primitives hold is a `Store`; what an engine implements is a `Driver`.

`Store` is concrete. It names keys (namespace, kind, name), executes commands, and wraps the driver's
raw errors once, so that everything above it sees anypod's own errors and nothing else.

Invariants:
    - a store is opened by URL and by nothing else: there is no default engine and no fallback;
    - a password in a URL never reaches a message or a repr;
    - the namespace is read from the environment at first use, not at import, so that a process which
      was forked from a pre-imported parent may still be given its own.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import re
import time
from collections.abc import Sequence
from difflib import get_close_matches
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from msgspec import MsgspecError, msgpack

from anypod.commands import Command, Get
from anypod.durations import shown
from anypod.errors import ConfigurationError, MissingExtra, StoreError, StoreUnavailable
from anypod.observe import Event, Observer, event_of
from anypod.stores.breaker import Breaker, BreakerOpen
from anypod.stores.driver import Capability, Driver

__all__ = ["Capability", "Driver", "Store", "open_store", "redact"]

R = TypeVar("R")

logger = logging.getLogger("anypod")

DRIVERS: Final = {  # scheme → module with `open_driver(url)`, and the extra that installs its client
    "memory": ("anypod.stores.memory", None),
    "sqlite": ("anypod.stores.sqlite", None),
    "redis": ("anypod.stores.redis", "redis"),
    "rediss": ("anypod.stores.redis", "redis"),
    "redis+unix": ("anypod.stores.redis", "redis"),
    "redis+sentinel": ("anypod.stores.redis", "redis"),
    "redis+cluster": ("anypod.stores.redis", "redis"),
    "rediss+sentinel": ("anypod.stores.redis", "redis"),
    "rediss+cluster": ("anypod.stores.redis", "redis"),
    "valkey": ("anypod.stores.redis", "redis"),
    "valkeys": ("anypod.stores.redis", "redis"),
    "valkey+unix": ("anypod.stores.redis", "redis"),
    "valkey+sentinel": ("anypod.stores.redis", "redis"),
    "valkey+cluster": ("anypod.stores.redis", "redis"),
    "valkeys+sentinel": ("anypod.stores.redis", "redis"),
    "valkeys+cluster": ("anypod.stores.redis", "redis"),
    "postgresql": ("anypod.stores.postgres", "postgres"),
    "postgres": ("anypod.stores.postgres", "postgres"),
}

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{0,64}")


def redact(url: str) -> str:
    """The URL without its passwords, for messages; also of one that is not quite a URL."""
    address, mark, query = url.partition("?")
    if "@" in query and "@" not in address and "://" not in query:
        address, mark, query = url, "", ""  # the question mark belongs to the password
    address = re.sub(r"(//[^/:@]*:).*@", r"\1***@", address, flags=re.DOTALL)
    query = re.sub(r"(//[^/:@&]*:)[^&]*@", r"\1***@", query)
    query = re.sub(r"(?i)((?:^|&)[a-z_]*(?:password|secret|token)=)[^&]*", r"\1***", query)
    return address + mark + query


class Store:
    """A store as primitives see it. Made by `open_store`.

    Args:
        driver: the open engine.
        url: where it was opened; shown without its password.
        namespace: put in front of every key; None reads `ANYPOD_NAMESPACE` at first use.
    """

    def __init__(self, driver: Driver, *, url: str, namespace: str | None = None) -> None:
        self.driver = driver
        self.url = redact(url)
        self._namespace = None if namespace is None else _checked(namespace)
        # Looked up once: this is on every call's path.
        self._execute = driver.execute
        self._aexecute = driver.aexecute
        self._errors: tuple[type[Exception], ...] = (*driver.errors, BreakerOpen)
        self._breaker = Breaker()
        self._observers: tuple[Observer, ...] = ()

    @property
    def namespace(self) -> str:
        """What stands in front of every key."""
        if self._namespace is None:
            self._namespace = _checked(os.environ.get("ANYPOD_NAMESPACE", ""))
        return self._namespace

    def prefix(self, kind: str, name: str) -> str:
        """The beginning of the keys of one primitive: namespace, kind and name, unambiguous.

        Raises:
            ConfigurationError: the name is not 1 to 100 letters, digits, `_`, `.` or `-`.
        """
        given: object = name
        if not (isinstance(given, str) and _NAME.fullmatch(given)):
            raise ConfigurationError(
                f"{kind} name {name!r} must be 1 to 100 letters, digits, '_', '.' or '-'; what varies "
                f"per user or request belongs into the key"
            )
        return f"ap:{self.namespace}:{kind}:{name}:"

    def execute(self, command: Command[R]) -> R:
        """Execute one command.

        Raises:
            ValueError: it asks for what cannot be, such as a lease of -1 seconds.
            StoreUnavailable: it did not execute.
            OutcomeUnknown: it may have executed.
            RecordError: what stands at the key cannot be read.
        """
        _refuse_impossible(command)
        return self.perform(command)

    async def aexecute(self, command: Command[R]) -> R:
        """Execute one command without blocking the event loop; raises as `execute` does."""
        _refuse_impossible(command)
        return await self.aperform(command)

    def perform(self, command: Command[R]) -> R:
        """Execute a command of a primitive, which has checked its arguments by itself; else as `execute`."""
        try:
            if self._breaker.failures:
                return self._watched(command)
            return self._execute(command)
        except self._errors as failure:
            raise self._failed(failure, command) from failure

    async def aperform(self, command: Command[R]) -> R:
        """`perform`, without blocking the event loop."""
        try:
            if self._breaker.failures:
                return await self._awatched(command)
            return await self._aexecute(command)
        except self._errors as failure:
            raise self._failed(failure, command) from failure

    def execute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """Execute commands that need not be atomic together, in as few exchanges as the engine allows.

        Raises:
            StoreError: what became of the first that failed; each of the others was executed, or failed too.
        """
        for command in commands:
            _refuse_impossible(command)
        if self._breaker.failures or len(commands) == 1:
            return [self.perform(command) for command in commands]
        start = time.perf_counter()
        try:
            replies = self.driver.execute_many(commands)
        except self._errors as failure:
            replies = [failure] * len(commands)
        if self._observers:
            for command, reply in zip(commands, replies, strict=True):
                self._tell(command, start, reply)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Exception):
                raise self._failed(reply, command) from reply
        return replies

    async def aexecute_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        """`execute_many`, without blocking the event loop."""
        return await asyncio.gather(*(self.aexecute(command) for command in commands))

    def _watched(self, command: Command[R]) -> R:
        self._breaker.enter()
        reply = self._execute(command)
        self._breaker.succeeded()
        return reply

    async def _awatched(self, command: Command[R]) -> R:
        self._breaker.enter()
        reply = await self._aexecute(command)
        self._breaker.succeeded()
        return reply

    def _failed(self, failure: Exception, command: Command[Any]) -> StoreError:
        if self.driver.answered(failure):
            self._breaker.succeeded()
        elif not isinstance(failure, BreakerOpen):
            self._breaker.failed(failure)
        return self.wrapped(failure, command)

    def observe(self, observer: Observer) -> None:
        """Tell the observer of every command from now on; several may observe.

        Raises:
            TypeError: it cannot be called.
        """
        if not callable(observer):
            raise TypeError(
                f"an observer is called with each event, and {shown(observer)} cannot be"
            )
        self._observers += (observer,)
        self._execute = self._observed
        self._aexecute = self._aobserved

    def emit(self, event: Event) -> None:
        """Tell all observers; one that fails is logged and harms nobody."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                logger.exception("an observer of %s failed", self.url)

    def _observed(self, command: Command[R]) -> R:
        start = time.perf_counter()
        try:
            reply = self.driver.execute(command)
        except self._errors as failure:
            self._tell(command, start, failure)
            raise
        self._tell(command, start, reply)
        return reply

    async def _aobserved(self, command: Command[R]) -> R:
        start = time.perf_counter()
        try:
            reply = await self.driver.aexecute(command)
        except self._errors as failure:
            self._tell(command, start, failure)
            raise
        self._tell(command, start, reply)
        return reply

    def _tell(self, command: Command[Any], start: float, reply: Any) -> None:
        seconds = time.perf_counter() - start
        if isinstance(reply, Exception):
            reply = self.driver.classify(reply)()
        self.emit(event_of(command, seconds, reply))

    def receive(self, mailbox: str, seconds: float) -> bool:
        """Wait for a notification; False if none came in time. Raises as `execute` does."""
        try:
            return self.driver.receive(mailbox, seconds)
        except self._errors as failure:
            raise self.wrapped(failure, Get(mailbox)) from failure

    async def areceive(self, mailbox: str, seconds: float) -> bool:
        """`receive`, without blocking the event loop."""
        try:
            return await self.driver.areceive(mailbox, seconds)
        except self._errors as failure:
            raise self.wrapped(failure, Get(mailbox)) from failure

    def bind(self, connection: object) -> Store:
        """This store, inside the transaction that is open on the caller's connection.

        Args:
            connection: of psycopg, sqlite3, SQLAlchemy or Django, as the store's engine allows.

        Raises:
            ConfigurationError: this engine cannot take part in a transaction on it.
        """
        return Store(self.driver.bind(connection), url=self.url, namespace=self.namespace)

    def wrapped(self, failure: Exception, command: Command[Any]) -> StoreError:
        """The driver's error as one of anypod's, naming the store and the command but not the key."""
        if isinstance(failure, BreakerOpen):
            return StoreUnavailable(f"{type(command).__name__} on {self.url}: {failure}")
        kind = self.driver.classify(failure)
        what = ":".join(command.key.split(":")[2:4])
        detail = str(failure) or type(failure).__name__
        if advice := self.driver.advice(failure):
            detail = f"{detail}: {advice}"
        return kind(f"{type(command).__name__} for {what or 'a record'} on {self.url}: {detail}")

    def close(self) -> None:
        """Give up connections and files; who uses the store again gets others."""
        self.driver.close()

    async def aclose(self) -> None:
        """Give up connections and files, from the event loop that used them."""
        await self.driver.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.url!r}, namespace={self._namespace!r})"


def open_store(url: str, *, namespace: str | None = None) -> Store:
    """Open a store by its URL.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host:port/db`, `rediss://…`,
            `redis+unix:///path/to/socket`, `redis+sentinel://…`, `redis+cluster://…` (and `valkey…`),
            `postgresql://user@host/database`, or `memory://`; `docs/stores.md` has their options.
        namespace: what to put in front of every key (letters, digits, `_.-`); None reads
            `ANYPOD_NAMESPACE`.

    Raises:
        ConfigurationError: the URL names no engine, or cannot be one's address.
        MissingExtra: the engine's client is not installed.
    """
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme not in DRIVERS:
        near = get_close_matches(scheme, DRIVERS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}://?" if near else f"known: {', '.join(sorted(DRIVERS))}"
        raise ConfigurationError(f"{redact(url)!r} names no store: no scheme {scheme!r}; {hint}")
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    if scheme != "sqlite" and "@" not in authority and "***@" in redact(url).partition("?")[0]:
        raise ConfigurationError(
            f"{redact(url)!r} cannot be read: in a user or password write / as %2F, ? as %3F, # as %23, "
            f"@ as %40 (urllib.parse.quote does)"
        )
    module, extra = DRIVERS[scheme]
    try:
        driver: Driver = importlib.import_module(module).open_driver(url)
    except ModuleNotFoundError as missing:
        if extra is None or (missing.name or "").startswith("anypod"):
            raise
        raise MissingExtra(f"{scheme}://", extra) from missing
    except ValueError as failure:
        raise ConfigurationError(f"{redact(url)!r} cannot be read as a URL: {failure}") from failure
    return Store(driver, url=url, namespace=namespace)


def _refuse_impossible(command: Command[Any]) -> None:
    """Hold a command against the types and bounds that its class declares.

    Raises:
        ValueError: which names the command and its field.
    """
    try:
        msgpack.decode(msgpack.encode(command), type=type(command))
    except (MsgspecError, TypeError, OverflowError, UnicodeError) as failure:
        what, _, where = str(failure).partition(" - at `$.")
        field = re.match(r"\w*", where)[0]  # type: ignore[index]  # it always matches
        given = f", not {shown(getattr(command, field))}" if field else ""
        raise ValueError(
            f"{type(command).__name__} cannot be executed: {field or 'a field'}: {what}{given}; durations are "
            f"seconds, at most a hundred years, and integers within ±(2⁵³−1)"
        ) from failure


def _checked(namespace: str) -> str:
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"namespace {namespace!r} must be at most 64 letters, digits, '_', '.' or '-'"
        )
    return namespace
