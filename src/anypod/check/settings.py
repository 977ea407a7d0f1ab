"""Settings that the code fixes: module constants, configuration classes, `app.config[…]` at start-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anypod.check.analysis import Analysis
from anypod.check.facts import (
    ARGS,
    CALL_LINE,
    CALLEE,
    EFFECT_LINE,
    KEY,
    KWARGS,
    NEW,
    OP,
    TARGET,
    Module,
    Value,
)
from anypod.check.frames import Frame, walk
from anypod.check.model import ERROR, Finding, Site, Step
from anypod.check.replacements import replacement
from anypod.check.words import words

NOT_PRODUCTION = frozenset(
    {"test", "tests", "testing", "dev", "development", "local", "debug", "ci", "example"}
)


class Setting(NamedTuple):
    """One setting and where it is fixed."""

    name: str
    value: Value
    frame: Frame
    path: str
    line: int

    def finding(self, rule: str, state: str, message: str, why: str, purpose: str) -> Finding:
        """A finding at this setting."""
        site = Site(self.path, self.line, 0, self.name)
        return Finding(
            rule,
            self.path,
            self.line,
            0,
            state,
            message,
            ERROR,
            (Step(self.path, self.line, self.name),),
            (site,),
            site,
            why,
            replacement(purpose, self.name, "", is_async=False),
            "setting",
        )


def settings(analysis: Analysis) -> Iterator[Setting]:
    """Every setting of the project that is fixed in code meant for production."""
    for module in analysis.project.modules.values():
        stem = module.label
        if words(stem) & NOT_PRODUCTION or module.is_test or "/migrations/" in module.path:
            continue
        yield from _of_module(analysis, module)
    for frame in analysis.resolver.frames:
        module = analysis.project.modules[frame.function.module]
        if (
            frame.startup
            and not module.is_test
            and not words(frame.function.module.rpartition("/")[2]) & NOT_PRODUCTION
        ):
            yield from _of_startup(frame)


def of_django(analysis: Analysis) -> dict[str, Setting]:
    """The settings of a Django project by name; none for an application that others install, or for a template."""
    named = {s.name: s for s in settings(analysis)}
    root = named.get("ROOT_URLCONF")
    return named if root and root.value[0] == "k" and "{{" not in str(root.value[1]) else {}


def _of_module(analysis: Analysis, module: Module) -> Iterator[Setting]:
    frame = analysis.resolver.module_frame(module.path)
    for name, entries in module.symbols.items():
        if name.isupper() or name == "app_config":
            for value, line, function in entries:
                if not function and value[0] not in "lcm":
                    yield from _named(name, value, frame, module.path, line)
    for cls in module.classes.values():
        if words(cls.name) & NOT_PRODUCTION:
            continue
        for name, bindings in cls.attributes.items():
            if name.isupper():
                for value, line in bindings:
                    yield Setting(name, value, frame, module.path, line)


def _named(name: str, value: Value, frame: Frame, path: str, line: int) -> Iterator[Setting]:
    yield Setting(name, value, frame, path, line)
    if name.endswith("CONFIG") and value[0] == "d" and len(value) > 3:
        for key, inner in zip(value[3], value[2], strict=False):
            if key[0] == "k" and isinstance(key[1], str):
                yield Setting(key[1], inner, frame, path, line)


def _of_startup(frame: Frame) -> Iterator[Setting]:
    path = frame.function.module
    for effect in frame.function.body.effects:
        if effect[OP] == "set" and effect[KEY] is not None and effect[KEY][0] == "k":
            if _is_config(effect[TARGET]) and isinstance(effect[KEY][1], str):
                yield Setting(effect[KEY][1], effect[NEW], frame, path, effect[EFFECT_LINE])
        elif effect[OP] == "attr" and effect[KEY] == "secret_key":
            yield Setting("SECRET_KEY", effect[NEW], frame, path, effect[EFFECT_LINE])
    for call in frame.function.body.calls:
        callee = call[CALLEE]
        if callee[0] == "a" and callee[2] in {"update", "from_mapping"} and _is_config(callee[1]):
            given = list(call[KWARGS])
            for argument in call[1]:
                if argument[0] == "d" and len(argument) > 3:
                    given += [
                        (k[1], v)
                        for k, v in zip(argument[3], argument[2], strict=False)
                        if k[0] == "k"
                    ]
            for name, value in given:
                if isinstance(name, str):
                    yield Setting(name, value, frame, path, call[CALL_LINE])


def _is_config(target: Value) -> bool:
    return any(v[0] == "a" and v[2] == "config" for v in walk(target))


def updates(frame: Frame, name: str) -> Iterator[Value]:
    """What a module goes on to put into a setting: `DATABASES["default"].update(dj_database_url.config())`."""
    body = frame.function.body
    for call in body.calls:
        callee = call[CALLEE]
        if callee[0] == "a" and callee[2] == "update" and ("n", name) in walk(callee[1]):
            yield from call[ARGS]
    for effect in body.effects:
        if effect[OP] == "set" and ("n", name) in walk(effect[TARGET]):
            yield effect[NEW]
