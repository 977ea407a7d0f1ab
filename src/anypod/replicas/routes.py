"""The routes that an application has, as its framework tells them, and which of them some requests reach.

It runs in a replica, on the application that is loaded there. Flask, Starlette (with
FastAPI) and Django match the requests themselves, so that a route is reached here exactly if it is when the
request is served. What a framework adds of itself is left out: static files, the pages of a schema.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

__all__ = ["unreached"]

WIDEST = 200  # objects to look at, to find a framework's application under what wraps it
UNNAMED = frozenset({"HEAD", "OPTIONS"})  # come with a GET

_CONVERTED = re.compile(r"<(?:[^<>]*:)?(\w+)>")
_TYPED = re.compile(r"\{(\w+):\w+\}")
_GROUP = re.compile(r"\(\?P<(\w+)>(?:[^()]|\([^()]*\))*\)")

Request = Sequence[str]  # a method and a target
Route = tuple[str, str]  # a method, empty for any, and a path


def unreached(application: Any, requests: Iterable[Request]) -> list[str] | None:
    """The application's routes that none of the requests reaches, in its own order.

    Args:
        application: loaded, perhaps wrapped in middleware.
        requests: a method and a path, with or without a query, each.

    Returns:
        "DELETE /orders/{id}", or "/orders/{id}" where any method goes; None if its framework is not known.
    """
    asked = [(method, target.partition("?")[0]) for method, target in requests]
    for one in _within(application):
        told = _flask(one, asked) or _starlette(one, asked) or _django(one, asked)
        if told is not None:
            routes, reached = told
            left = dict.fromkeys(route for route in routes if route not in reached)
            return [f"{method} {path}".strip() for method, path in left]
    return None


Scope = dict[str, Any]
Narrow = Callable[[Scope], Scope | None]  # the scope below a route, if a request belongs there
Told = tuple[list[Route], set[Route]]  # all routes, and those that were reached


def _within(application: Any) -> Iterator[Any]:
    """The application, then what it holds, level by level."""
    todo, seen = [application], {id(application)}
    for one in todo:
        yield one
        held: list[Any] = [*getattr(one, "__dict__", {}).values()]
        if inspect.isfunction(one):
            held += [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        for item in [*held, *(v for h in held if isinstance(h, dict) for v in h.values())]:
            if callable(item) and id(item) not in seen and len(todo) < WIDEST:
                seen.add(id(item))
                todo.append(item)


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is(one: Any, module: str, name: str) -> bool:
    """Whether it is of a class that is loaded."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and isinstance(one, found)


def _flask(one: Any, asked: Sequence[Request]) -> Told | None:
    if not _is(one, "flask.sansio.app", "App"):
        return None
    from werkzeug.exceptions import HTTPException

    def routes_of(rule: Any) -> list[Route]:
        path = _CONVERTED.sub(r"{\1}", rule.rule)
        methods = {"WEBSOCKET"} if rule.websocket else rule.methods or {"GET"}
        return [(method, path) for method in sorted(methods - UNNAMED)]

    def is_own(rule: Any) -> bool:
        return str(rule.endpoint).rpartition(".")[2] == "static"

    rules = [rule for rule in one.url_map.iter_rules() if not is_own(rule)]
    reached: set[Route] = set()
    adapter = one.url_map.bind(one.config.get("SERVER_NAME") or "localhost")
    for method, path in asked:
        try:
            rule, _ = adapter.match(path, "GET" if method == "HEAD" else method, return_rule=True)
        except HTTPException:
            continue  # not found, another method, or a redirect to where it is
        reached |= {route for route in routes_of(rule) if route[0] in {method, _got(method)}}
    return [route for rule in rules for route in routes_of(rule)], reached


def _got(method: str) -> str:
    return "GET" if method == "HEAD" else method


def _starlette(one: Any, asked: Sequence[Request]) -> Told | None:
    if not (
        _is(one, "starlette.applications", "Starlette") or _is(one, "starlette.routing", "Router")
    ):
        return None
    from starlette.routing import Match

    routes: list[Route] = []
    matchers: list[tuple[Route, Narrow]] = []

    def collect(found: Iterable[Any], before: str, narrow: Narrow) -> None:
        for one_of in found:
            if hasattr(one_of, "effective_candidates"):  # FastAPI's router inside another one
                collect(one_of.effective_candidates(), before, narrow)
                continue
            route = getattr(one_of, "starlette_route", None) or one_of
            path = before + _TYPED.sub(r"{\1}", getattr(route, "path", ""))
            inner = getattr(route, "routes", None)

            def below(scope: Scope, route: Any = route) -> Scope | None:
                outer = narrow(scope)
                if outer is None:
                    return None
                match, child = route.matches(outer)
                return {**outer, **child} if match is Match.FULL else None

            if inner:
                collect(inner, path, below)
                continue
            endpoint = getattr(route, "endpoint", None)
            if endpoint is None or str(getattr(endpoint, "__module__", "")).startswith("fastapi."):
                continue  # static files, the pages of the schema
            methods = getattr(route, "methods", None)
            if _is(route, "starlette.routing", "WebSocketRoute"):
                methods = {"WEBSOCKET"}
            for method in sorted(set(methods or {""}) - UNNAMED) or [""]:
                routes.append((method, path))
                matchers.append(((method, path), below))

    collect(one.routes, "", lambda scope: scope)
    reached: set[Route] = set()
    for method, path in asked:
        scope = {
            "type": "http", "method": method, "path": path, "root_path": "", "headers": [],
            "query_string": b"", "app": one,
        }  # fmt: skip
        taken = next(
            (
                route
                for route, matches in matchers
                if route[0] in {method, _got(method), ""} and matches(dict(scope)) is not None
            ),
            None,
        )
        if taken is not None:
            reached.add(taken)
    return routes, reached


def _django(one: Any, asked: Sequence[Request]) -> Told | None:
    if not _is(one, "django.core.handlers.base", "BaseHandler"):
        return None
    urls = importlib.import_module("django.urls")

    def routes_of(callback: Any, path: str) -> list[Route]:
        return [(method, path) for method in _methods(callback)]

    def collect(patterns: Iterable[Any], before: str) -> Iterator[Route]:
        for pattern in patterns:
            path = before + str(pattern.pattern)
            if isinstance(pattern, urls.URLResolver):
                yield from collect(pattern.url_patterns, path)
            elif not str(getattr(pattern.callback, "__module__", "")).startswith(
                ("django.views.static", "django.contrib.staticfiles")
            ):
                yield from routes_of(pattern.callback, _shown(path))

    resolver = urls.get_resolver()
    reached: set[Route] = set()
    for method, path in asked:
        try:
            match = resolver.resolve(path)
        except urls.Resolver404:
            continue
        reached |= {
            route
            for route in routes_of(match.func, _shown(match.route))
            if route[0] in {method, _got(method), ""}
        }
    return [*collect(resolver.url_patterns, "")], reached


def _methods(callback: Any) -> list[str]:
    """The methods that a class of views has; a function takes any."""
    actions = getattr(callback, "actions", None)  # Django REST framework: {"get": "list"}
    view = getattr(callback, "view_class", None) or getattr(callback, "cls", None)
    if isinstance(actions, dict):
        names = set(actions)
    elif view is not None:
        names = {name for name in view.http_method_names if hasattr(view, name)}
    else:
        return [""]
    return sorted({name.upper() for name in names} - UNNAMED) or [""]


def _shown(pattern: str) -> str:
    """A pattern of Django's as a path: "orders/<int:id>/" or "^orders/(?P<id>[0-9]+)/$"."""
    named = _CONVERTED.sub(r"{\1}", _GROUP.sub(r"{\1}", pattern))
    bare = named.replace("^", "").replace("\\Z", "").replace("$", "").replace("\\", "")
    return f"/{bare.lstrip('/')}"
