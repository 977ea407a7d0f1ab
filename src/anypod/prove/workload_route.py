"""Routes: which requests of a workload are of one kind, told from their paths alone.

The service's own routing table is not known here. Two rules replace it: what looks like an identifier
is one, and so is what varies under one collection when every variant is used in the same several ways
(`GET` and `PUT` on `/data/lamp` and on `/data/mug`, but not `GET /about` and `GET /contact`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from anypod.prove.workload_reference import PLACEHOLDER, Reference

_VERSION = re.compile(r"v\d{1,3}(?:\.\d+)*", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]{2,5}")  # a currency, a country, an airport
_SLOT = re.compile(r"\{[^{}]*\}")
_ASSET = re.compile(r"[\w.-]+\.(?:css|js|png|jpg|svg|ico|txt|html|json|xml)", re.IGNORECASE)


def label(method: str, target: str) -> str:
    """The route of one request judged by itself."""
    return f"{method} {'/'.join(_segments(target))}"


def labels(requests: Sequence[tuple[str, str]]) -> list[str]:
    """The routes of the requests of one workload, each a method and an unfilled target."""
    paths = [_segments(target) for _, target in requests]
    methods: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for (method, _), path in zip(requests, paths, strict=True):
        methods[tuple(path)].add(method)
    identifiers = _varying(methods)
    named: dict[tuple[str, ...], str] = {}
    routes: list[str] = []
    for (method, _), path in zip(requests, paths, strict=True):
        known = [
            "{id}" if (tuple(path[:at]), segment, tuple(path[at + 1 :])) in identifiers else segment
            for at, segment in enumerate(path)
        ]
        shape = tuple(_SLOT.sub("{}", segment) for segment in known)
        routes.append(f"{method} {named.setdefault(shape, '/'.join(known))}")
    return routes


def _segments(target: str) -> list[str]:
    path = PLACEHOLDER.sub(_slot, target).partition("#")[0].partition("?")[0]
    return ["{id}" if looks_like_an_id(segment) else segment for segment in path.split("/")]


def _slot(match: re.Match[str]) -> str:
    expression = match[1].strip()
    try:
        reference = Reference.parse(expression)
    except ValueError:
        reference = None
    name = reference.parameter if reference is not None else expression
    return "{" + (re.sub(r"\W", "_", name) or "id") + "}"


def looks_like_an_id(segment: str) -> bool:
    """Whether a segment of a path is a value rather than a word of the interface."""
    if "{" in segment or _VERSION.fullmatch(segment) or _ASSET.fullmatch(segment):
        return False
    return any(map(str.isdigit, segment)) or _CODE.fullmatch(segment) is not None


def _varying(
    methods: dict[tuple[str, ...], set[str]],
) -> set[tuple[tuple[str, ...], str, tuple[str, ...]]]:
    """Segments, with what surrounds them, that are values rather than words of the interface."""
    variants: defaultdict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, set[str]]]
    variants = defaultdict(dict)
    for path, used in methods.items():
        for at in range(2, len(path)):  # the first segment names the collection
            if "{" not in path[at]:
                variants[path[:at], path[at + 1 :]][path[at]] = used
    return {
        (before, value, after)
        for (before, after), values in variants.items()
        if len(values) > 1 and all(_both_ways(used) for used in values.values())
        for value in values
    }


def _both_ways(used: set[str]) -> bool:
    return len(used) > 1 and "GET" in used
