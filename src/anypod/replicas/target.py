"""APP as the user names it: `module:app`, `module:factory()`, `module:object.attribute`.

It is imported inside a replica's parent only, never in the tool. What it is, WSGI or ASGI, is read
off the callable: an ASGI application is awaited, a WSGI application is called with two arguments.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from anypod.replicas.errors import BadTarget

__all__ = ["Target", "kind_of", "own_traceback"]

_SHAPE = re.compile(
    r"^(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<path>[^\W\d]\w*(?:\.[^\W\d]\w*)*)(?P<call>\(\))?$"
)
_IMPORT_SYSTEM = ("<frozen importlib", "<frozen runpy")
_OUR_FOLDER = str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the application is: a module, a path of attributes in it, and whether that is called."""

    module: str
    path: str
    call: bool

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read APP.

        Raises:
            BadTarget: it has another form.
        """
        found = _SHAPE.match(text)
        if found is None:
            hint = ""
            if "/" in text or ".py" in text:
                file, _, attribute = text.partition(":")
                module = file.removeprefix("./").removesuffix(".py").strip("/").replace("/", ".")
                hint = f" A file is named by its module: {module}:{attribute or 'app'}."
            elif ":" not in text:
                hint = f" Perhaps {text}:app."
            raise BadTarget(
                f"{text!r} names no application: expected module:app or module:factory().{hint}"
            )
        return cls(found["module"], found["path"], bool(found["call"]))

    def __str__(self) -> str:
        return f"{self.module}:{self.path}{'()' if self.call else ''}"

    @property
    def package(self) -> str:
        """The package whose modules are the service's own, if it is installed and not in the tree."""
        parts = self.module.split(".")
        return ".".join(parts[: 2 if parts[0] == "anypod" else 1])

    def load(self) -> Any:
        """Import the module and return the application; a factory is called here.

        Raises:
            BadTarget: there is no such module or attribute, or it cannot be called.
            BaseException: whatever the service's own code raises.
        """
        try:
            module = importlib.import_module(self.module)
        except ModuleNotFoundError as missing:
            if missing.name is None or not f"{self.module}.".startswith(f"{missing.name}."):
                raise  # the module is there, and what it imports is not
            raise BadTarget(
                f"{self}: there is no module {missing.name!r}, neither in this folder nor among the "
                f"installed packages; run from the folder that holds {missing.name.partition('.')[0]}"
            ) from missing
        found: Any = module
        for name in self.path.split("."):
            try:
                found = getattr(found, name)
            except AttributeError as exc:
                if found is not module:
                    raise BadTarget(f"{self}: {found!r} has no attribute {name!r}") from exc
                raise BadTarget(
                    f"{self}: module {self.module} has no {name!r}{_offers(module)}"
                ) from exc
        if not self.call:
            _load_routes(found)
            return found
        if not callable(found):
            raise BadTarget(
                f"{self}: {self.path} is of type {type(found).__name__}, which cannot be called"
            )
        return found()


def _load_routes(application: Any) -> None:
    """Let Django import its URL configuration now, which it would do at the first request.

    What a module holds when it is loaded is then not mistaken for what a request changed.
    """
    if type(application).__module__.startswith("django.core.handlers."):
        urls = importlib.import_module("django.urls")
        _ = urls.get_resolver().url_patterns


def _offers(module: ModuleType) -> str:
    names = [
        f"{name}()" if inspect.isfunction(value) else name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.isclass(value)
        and callable(value)
        and ("app" in name.lower() or not inspect.isroutine(value))
    ]
    return f"; it has {', '.join(names[:5])}" if names else ""


def kind_of(application: Any, name: str) -> str:
    """Which protocol an application speaks: "wsgi" or "asgi".

    Args:
        application: the object to serve.
        name: how the user called it, for messages.

    Raises:
        BadTarget: it is neither.
    """
    if not callable(application):
        raise BadTarget(
            f"{name} is of type {type(application).__name__}, which cannot be called: not a WSGI or ASGI application"
        )
    function: Callable[..., Any] = application
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        return _by_signature(function, name, asgi=hasattr(function, "__await__"))
    entry = function if inspect.isroutine(function) else type(function).__call__
    if inspect.iscoroutinefunction(inspect.unwrap(entry)):
        return "asgi"
    return _by_signature(application, name, asgi=False)


def _by_signature(application: Any, name: str, *, asgi: bool) -> str:
    if asgi:
        return "asgi"
    try:
        parameters = inspect.signature(application).parameters.values()
    except (TypeError, ValueError):
        return "wsgi"  # written in C: the older protocol
    positional = [
        item
        for item in parameters
        if item.kind in {item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD}
    ]
    if any(item.kind is item.VAR_POSITIONAL for item in parameters):
        return "wsgi"
    required = [item for item in positional if item.default is item.empty]
    if len(required) == 3:
        return "asgi"
    if len(required) <= 2 <= len(positional):
        return "wsgi"
    if not required:
        raise BadTarget(f"{name} takes no arguments: is it a factory? Then write {name}()")
    if len(required) == 1:
        raise BadTarget(
            f"{name} takes one argument, as ASGI 2 applications do; anypod serves WSGI and ASGI 3 "
            f"(asgiref.compatibility.guarantee_single_callable wraps it)"
        )
    raise BadTarget(f"{name} takes {len(required)} arguments: neither WSGI (2) nor ASGI (3)")


def own_traceback(error: BaseException, *, disk: Path, root: Path) -> str:
    """The traceback as the user's own code raised it.

    Frames of this package and of the import system are left out, and paths in the replica's copy
    read as paths in the user's tree.

    Args:
        error: what was raised.
        disk: the copy of the tree.
        root: the tree.
    """
    told = traceback.TracebackException.from_exception(error)
    chain: list[traceback.TracebackException] = [told]
    while chain:
        one = chain.pop()
        one.stack = traceback.StackSummary.from_list(
            [frame for frame in one.stack if not _is_foreign(frame.filename)]
        )
        chain.extend(item for item in (one.__cause__, one.__context__) if item is not None)
    return "".join(told.format()).replace(str(disk), str(root))


def _is_foreign(filename: str) -> bool:
    return filename.startswith((*_IMPORT_SYSTEM, _OUR_FOLDER)) or filename == importlib.__file__
