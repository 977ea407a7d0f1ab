"""The function that `@cached` puts in another's place: one generated per signature.

A wrapper that takes `*args, **kwargs` pays for packing and unpacking them on every hit. Generated with
the function's own parameters, it lets the interpreter bind arguments and defaults, which is faster and
normalises keywords at the same time. For `def rate(currency, day=None)` this is the whole of it:

    def rate(currency, day=_anypod_default_day):
        _anypod_key = (
            (currency, day)
            if _anypod_type(currency) in _anypod_plain and _anypod_type(day) in _anypod_plain
            else _anypod_typed((currency, day,))
        )
        _anypod_entry = _anypod_find(_anypod_key)
        if _anypod_entry is not None and _anypod_now() < _anypod_entry.deadline:
            _anypod_entry.hits += 1
            return _anypod_entry.value
        return _anypod_load(_anypod_key, _anypod_partial(_anypod_call, currency, day))

Invariants:
- Every name of ours starts with `_anypod_`, which a parameter's name may not.
- The generated key is `typed_key` of the bound arguments: of the value itself if there is one
  parameter, else of their tuple.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import weakref
from collections.abc import Callable, Hashable
from inspect import Parameter
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from anypod.primitives.local_key import PLAIN, typed_key

if TYPE_CHECKING:
    from typing import Self

    from anypod.primitives.local import LocalCache
    from anypod.primitives.local_sieve import Owner

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


class Cached(Protocol[P, R_co]):
    """A decorated function: it is called as before, and knows its cache."""

    __name__: str
    __qualname__: str

    @property
    def cache(self) -> LocalCache:
        """The cache of its results: `stats()`, `ttl`, `advance()`."""

    @property
    def __wrapped__(self) -> Callable[P, R_co]:
        """The function itself, which never looks at the cache."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """The result for these arguments, from the cache or from the function."""

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result for these arguments; on a method the instance comes first."""

    def clear(self) -> None:
        """Forget every result."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: Cached[Concatenate[S, Q], R_co], instance: S, owner: type | None = None, /
    ) -> Callable[Q, R_co]: ...


_STARS: Final = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}

_CALL: Final = """\
{asynchronous}def call({parameters}):
    _anypod_key = {key}
    _anypod_entry = _anypod_find(_anypod_key)
    if _anypod_entry is not None and _anypod_now() < _anypod_entry.deadline:
        _anypod_entry.hits += 1
        return _anypod_entry.value
    return {await_}_anypod_load(_anypod_key, _anypod_partial(_anypod_call, {arguments}){owner})
"""

_INVALIDATE: Final = """\
def invalidate({parameters}):
    {owner}
    return _anypod_invalidate({key})
"""


def wrap(
    function: Callable[P, R], cache: LocalCache, key: Callable[..., Hashable] | None
) -> Cached[P, R]:
    """The caching wrapper of `function`.

    Raises:
        TypeError: on something whose results cannot be shared or whose parameters cannot be read.
    """
    _refuse(function)
    signature = _Signature(function, key)
    asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004  # asks what it is, not whether it is
    )
    bound = signature.owned
    source = _CALL.format(
        asynchronous="async " if asynchronous else "",
        await_="await " if asynchronous else "",
        parameters=signature.parameters,
        key=signature.key,
        arguments=signature.arguments,
        owner=f", _anypod_owner({signature.first}, _anypod_key)" if bound else "",
    ) + _INVALIDATE.format(
        parameters=signature.parameters,
        key=signature.key,
        owner=f"_anypod_weakly({signature.first})" if bound else "",
    )
    names = {
        "_anypod_call": function,
        "_anypod_find": cache.find,
        "_anypod_now": cache.clock,
        "_anypod_load": cache.aload if asynchronous else cache.load,
        "_anypod_invalidate": cache.forget,
        "_anypod_keyed": key,
        "_anypod_id": id,
        "_anypod_partial": functools.partial,
        "_anypod_plain": PLAIN,
        "_anypod_owner": _owning(cache),
        "_anypod_sorted": sorted,
        "_anypod_tuple": tuple,
        "_anypod_type": type,
        "_anypod_typed": typed_key,
        "_anypod_weakly": _weakly,
        **signature.defaults,
    }
    _compile(source, cache.name, names)
    wrapper: Any = functools.update_wrapper(cast(Callable[..., R], names["call"]), function)
    wrapper.cache = cache
    wrapper.clear = cache.clear
    wrapper.invalidate = names["invalidate"]
    return cast("Cached[P, R]", wrapper)


class _Signature:
    """A function's parameters as the source of the generated one."""

    def __init__(self, function: Callable[..., Any], key: Callable[..., Hashable] | None) -> None:
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except ValueError as error:
            raise TypeError(
                f"@cached cannot read the parameters of {function!r}; decorate a `def` that calls it"
            ) from error
        clash = [each.name for each in parameters if each.name.startswith("_anypod_")]
        if clash:
            raise TypeError(f"@cached on {function!r}: rename the parameter {clash[0]!r}")
        self.first = parameters[0].name if parameters else ""
        self.owned = key is None and _is_method(function, self.first)
        self.defaults = {
            f"_anypod_default_{each.name}": each.default
            for each in parameters
            if each.default is not Parameter.empty
        }
        self.parameters = _declaration(parameters)
        self.arguments = ", ".join(_argument(each) for each in parameters)
        self.key = (
            self._plain_key(parameters)
            if key is None
            else f"_anypod_typed(_anypod_keyed({self.arguments}))"
        )

    def _plain_key(self, parameters: list[Parameter]) -> str:
        parts, plain = [], True
        for each in parameters:
            if each.kind is Parameter.VAR_KEYWORD:
                parts.append(f"_anypod_tuple(_anypod_sorted({each.name}.items()))")
                plain = False
            elif each.kind is Parameter.VAR_POSITIONAL:
                parts.append(each.name)
                plain = False
            elif self.owned and each.name == self.first:
                parts.append(f"_anypod_id({each.name})")
            else:
                parts.append(each.name)
        joined = f"({', '.join(parts)},)" if parts else "()"
        if not plain:
            return f"_anypod_typed({joined})"
        if len(parts) == 1 and not self.owned:
            only = parts[0]
            return f"{only} if _anypod_type({only}) in _anypod_plain else _anypod_typed({only})"
        tests = " and ".join(
            f"_anypod_type({part}) in _anypod_plain"
            for part in parts
            if not part.startswith("_anypod_id(")
        )
        return f"{joined} if {tests} else _anypod_typed({joined})" if tests else joined


def _declaration(parameters: list[Parameter]) -> str:
    text: list[str] = []
    last = None
    for each in parameters:
        if last is Parameter.POSITIONAL_ONLY and each.kind is not Parameter.POSITIONAL_ONLY:
            text.append("/")
        if each.kind is Parameter.KEYWORD_ONLY and last not in (
            Parameter.VAR_POSITIONAL,
            Parameter.KEYWORD_ONLY,
        ):
            text.append("*")
        stars = _STARS.get(each.kind.name, "")
        default = "" if each.default is Parameter.empty else f"=_anypod_default_{each.name}"
        text.append(f"{stars}{each.name}{default}")
        last = each.kind
    if last is Parameter.POSITIONAL_ONLY:
        text.append("/")
    return ", ".join(text)


def _argument(each: Parameter) -> str:
    keyword = f"{each.name}=" if each.kind is Parameter.KEYWORD_ONLY else ""
    return keyword + _STARS.get(each.kind.name, "") + each.name


def _is_method(function: Callable[..., Any], first: str) -> bool:
    """Whether it was written in a class body and takes the instance or the class first."""
    place = getattr(function, "__qualname__", "").rpartition(".")[0]
    return first in ("self", "cls") and bool(place) and not place.endswith("<locals>")


def _weakly(instance: object) -> None:
    """Refuse what cannot be the instance of a method with a cache."""
    try:
        weakref.ref(instance)
    except TypeError as error:
        raise TypeError(
            f"@cached on a method keeps its instance weakly, and {error}: give the class a "
            f"'__weakref__' slot or @cached a key=. To invalidate, name the instance first: "
            f"Class.method.invalidate(instance, …)"
        ) from error


def _owning(cache: LocalCache) -> Callable[[object, Hashable], Owner]:
    def owner(instance: object, stored: Hashable) -> Owner:
        _weakly(instance)
        return cache.owner(instance, stored)

    return owner


def _refuse(function: Callable[..., Any]) -> None:
    if isinstance(function, (classmethod, staticmethod, property)):
        kind = type(function).__name__
        raise TypeError(f"put @cached below @{kind}, on the function itself")
    if not callable(function):
        raise TypeError(f"@cached needs a function, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"@cached on {function.__qualname__}: what a generator yields can be consumed only once; "
            f"return a list or a tuple"
        )


def _compile(source: str, name: str, names: dict[str, Any]) -> None:
    """Define the generated functions in `names`, readable in tracebacks and debuggers."""
    filename = f"<anypod cached {name}>"
    exec(compile(source, filename, "exec"), names)  # noqa: S102  # our text and the parameters' names
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
