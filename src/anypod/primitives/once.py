"""`@orders.once(key=…)`: a plain function or a queue's consumer, carried out once per key.

Invariants:
    - the decorated function keeps its signature, and is a coroutine function if it was one;
    - what it returns is stored before the caller gets it;
    - a redelivery while the first is at work raises `InFlight`: a consumer lets the queue deliver it later.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast, overload

from anypod.durations import check_spans
from anypod.errors import ConfigurationError
from anypod.keys import Key, encode

if TYPE_CHECKING:
    from anypod.primitives.idempotency import Attempt, Idempotency

P = ParamSpec("P")
R = TypeVar("R")

_attempts: Final[ContextVar[tuple[tuple[object, Attempt], ...]]] = ContextVar(
    "anypod_attempts", default=()
)


class Once:
    """The decorator. Made by `Idempotency.once`."""

    def __init__(
        self,
        family: Idempotency,
        key: Callable[..., Key],
        fingerprint: Callable[..., Key] | None,
        wait: float,
    ) -> None:
        if not callable(key):
            raise ConfigurationError(
                f"idempotency {family.name!r}: key= must be a function of the call's arguments, such as "
                f"`lambda message: message.id`, not {key!r}"
            )
        check_spans(f"idempotency {family.name!r}", wait=wait)
        self._family = family
        self._key = key
        self._fingerprint = fingerprint
        self._wait = wait

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> Callable[P, R]: ...

    def __call__(self, function: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate.

        Raises:
            ConfigurationError: a generator, whose outcome is not one value.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(
                f"idempotency {self._family.name!r}: {function.__qualname__} is a generator; what is carried "
                f"out once must return its outcome"
            )
        if inspect.iscoroutinefunction(function):
            return self._awaiting(function)
        return self._blocking(function)

    def _named(self, *args: Any, **kwargs: Any) -> tuple[Key, str]:
        key = self._key(*args, **kwargs)
        if self._fingerprint is None:
            return key, ""
        return key, encode(self._fingerprint(*args, **kwargs))

    def _blocking(self, function: Callable[P, R]) -> Callable[P, R]:
        family = self._family

        @functools.wraps(function)
        def once(*args: P.args, **kwargs: P.kwargs) -> R:
            key, fingerprint = self._named(*args, **kwargs)
            with family.claim(key, fingerprint, wait=self._wait) as attempt:
                if attempt.replayed:
                    return cast(R, attempt.outcome)
                inside = _attempts.set((*_attempts.get(), (family, attempt)))
                try:
                    outcome = function(*args, **kwargs)
                finally:
                    _attempts.reset(inside)
                if not attempt.settled:
                    attempt.complete(outcome)
            return outcome

        return once

    def _awaiting(
        self, function: Callable[P, Coroutine[Any, Any, R]]
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        family = self._family

        @functools.wraps(function)
        async def once(*args: P.args, **kwargs: P.kwargs) -> R:
            key, fingerprint = self._named(*args, **kwargs)
            async with family.aclaim(key, fingerprint, wait=self._wait) as attempt:
                if attempt.replayed:
                    return cast(R, attempt.outcome)
                inside = _attempts.set((*_attempts.get(), (family, attempt)))
                try:
                    outcome = await function(*args, **kwargs)
                finally:
                    _attempts.reset(inside)
                if not attempt.settled:
                    await attempt.acomplete(outcome)
            return outcome

        return once


def attempt_of(family: Idempotency) -> Attempt:
    """The innermost attempt of this family around the caller.

    Raises:
        RuntimeError: there is none.
    """
    for owner, attempt in reversed(_attempts.get()):
        if owner is family:
            return attempt
    raise RuntimeError(
        f"idempotency {family.name!r}: no attempt here; call this inside a function that "
        f"@…once(key=…) of this very family decorates"
    )
