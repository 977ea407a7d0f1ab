"""The checked files as one program: which file an import means, what a module's name stands for.

Imports are looked up the way Python would from the importing file's directory upwards, so a checkout needs no
configuration: `src` layouts, flat scripts and namespace packages all resolve. What is not among the
checked files is external and known by its dotted name only.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable

from anypod.check.facts import Class, Function, Module, Value

_BUILTINS = frozenset(vars(builtins)) | {"__file__", "__name__"}


class Project:
    """Every checked module, by path."""

    def __init__(self, modules: Iterable[Module], roots: Iterable[str] = ()) -> None:
        self.modules: dict[str, Module] = {m.path: m for m in modules}
        self.roots = tuple(roots)
        self._found: dict[tuple[str, str], Module | None] = {}

    def function(self, key: tuple[str, str]) -> Function:
        """The function with this key."""
        return self.modules[key[0]].functions[key[1]]

    def class_(self, key: tuple[str, str]) -> Class:
        """The class with this key."""
        return self.modules[key[0]].classes[key[1]]

    def find(self, directory: str, dotted: str) -> Module | None:
        """The checked module that `import dotted` means in a file of `directory`."""
        key = (directory, dotted)
        if key not in self._found:
            self._found[key] = self._search(directory, dotted.replace(".", "/"))
        return self._found[key]

    def _search(self, directory: str, relative: str) -> Module | None:
        base = directory
        while True:
            found = self.at(base, relative)
            if found is not None:
                return found
            if not base:
                break
            base = base.rpartition("/")[0]
        for root in self.roots:
            found = self.at(root, relative) or self.at(f"{root}/src", relative)
            if found is not None:
                return found
        return None

    def at(self, base: str, relative: str) -> Module | None:
        """The module `relative` directly under the directory `base`."""
        stem = f"{base}/{relative}" if base else relative
        return self.modules.get(f"{stem}.py") or self.modules.get(f"{stem}/__init__.py")

    def imported(self, module: Module, value: Value) -> tuple[str, Module | None, str]:
        """What an import value names: its dotted name, the checked module, and the name in it.

        The name is empty when the module itself is meant.
        """
        _, dotted, name, level = value
        if level:
            return self._relative(module, dotted, name, level)
        found = self.find(module.directory, dotted)
        full = f"{dotted}.{name}" if name else dotted
        if name and (found is None or name not in found.symbols):
            inner = self.find(module.directory, full)
            if inner is not None:
                return full, inner, ""
        if found is module and name and name not in module.symbols:
            return full, None, ""
        return full, found, name

    def _relative(
        self, module: Module, dotted: str, name: str, level: int
    ) -> tuple[str, Module | None, str]:
        base = module.directory
        for _ in range(level - 1):
            base = base.rpartition("/")[0]
        relative = dotted.replace(".", "/")
        full = ".".join(part for part in (dotted, name) if part)
        package = self.at(base, relative) if relative else self.modules.get(f"{base}/__init__.py")
        if name and (package is None or name not in package.symbols):
            inner = self.at(base, f"{relative}/{name}" if relative else name)
            if inner is not None:
                return full, inner, ""
        return full, package, name

    def submodule(self, module: Module, name: str) -> Module | None:
        """The module `name` inside a package."""
        return self.at(module.directory, name) if module.is_package else None

    @staticmethod
    def is_builtin(name: str) -> bool:
        """Whether `name` is always defined."""
        return name in _BUILTINS
