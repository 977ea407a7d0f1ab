"""`[tool.anypod.check]` in `pyproject.toml`, and what the command line says over it."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from anypod.check.model import Problem

_TEXTS = "a list of texts"
_KEYS = {
    "select": _TEXTS,
    "ignore": _TEXTS,
    "exclude": _TEXTS,
    "entry-points": _TEXTS,
    "per-file-ignores": "a table of lists of rules",
    "baseline": "a text",
    "strict": "true or false",
    "local-defaults": "tables of texts with call",
    "shared-paths": _TEXTS,
}


class Config(NamedTuple):
    """What to check and what to report."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    entry_points: tuple[str, ...] = ()
    per_file_ignores: tuple[tuple[str, tuple[str, ...]], ...] = ()
    baseline: str = ""
    strict: bool = False
    local_defaults: tuple[dict[str, str], ...] = ()
    """More rows for POD110: call, unless, instead."""
    shared_paths: tuple[str, ...] = ()
    """Directories that are volumes which every replica sees: POD105 leaves them alone."""
    problems: tuple[Problem, ...] = ()
    path: str = ""
    """The file that it was read from."""

    def runs(self, code: str) -> bool:
        """Whether a rule is on."""
        if any(code.startswith(prefix) for prefix in self.ignore):
            return False
        return not self.select or any(code.startswith(prefix) for prefix in self.select)


def find_pyproject(start: str) -> str | None:
    """The nearest `pyproject.toml` at or above a path."""
    current = os.path.abspath(start)  # pathlib costs a tenth of the start  # noqa: PTH100  # pathlib costs a tenth of the start
    if os.path.isfile(current):  # noqa: PTH113  # pathlib costs a tenth of the start
        current = os.path.dirname(current)  # noqa: PTH120  # pathlib costs a tenth of the start
    while True:
        candidate = os.path.join(current, "pyproject.toml")  # noqa: PTH118  # pathlib costs a tenth of the start
        if os.path.isfile(candidate):  # noqa: PTH113  # pathlib costs a tenth of the start
            return candidate
        parent = os.path.dirname(current)  # noqa: PTH120  # pathlib costs a tenth of the start
        if parent == current:
            return None
        current = parent


def read(path: str | None) -> Config:
    """The configuration in a `pyproject.toml`; a broken file is a problem, not the end."""
    if path is None:
        return Config()
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # pathlib costs a tenth of the start
            raw = file.read()
    except OSError as error:
        return Config(problems=(Problem(path, 0, f"cannot be read: {error.strerror}"),))
    if b"anypod" not in raw:
        return Config()
    import tomllib

    try:
        table: Any = tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"is not valid TOML ({error}); checked without configuration"
        return Config(problems=(Problem(path, 0, message),))
    for name in ("tool", "anypod", "check"):
        table = table.get(name, {})
        if not isinstance(table, dict):
            return Config(problems=(Problem(path, 0, f"{name} must be a table, not {table!r}"),))
    return _config(path, table)


def _fits(key: str, value: object) -> bool:
    """Whether a value is what its key wants."""
    if key == "strict":
        return isinstance(value, bool)
    if key == "baseline":
        return isinstance(value, str)
    if key == "per-file-ignores":
        return isinstance(value, dict) and all(_texts(codes) for codes in value.values())
    if key == "local-defaults":
        return isinstance(value, list) and all(
            isinstance(row, dict) and "call" in row and _texts(list(row.values())) for row in value
        )
    return _texts(value)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _config(path: str, table: dict[str, Any]) -> Config:
    problems = []
    good: dict[str, Any] = {}
    for key, value in table.items():
        expected = _KEYS.get(key)
        if expected is None:
            known = ", ".join(_KEYS)
            problems.append(
                Problem(path, 0, f"[tool.anypod.check] has no {key!r}; it knows {known}")
            )
        elif not _fits(key, value):
            message = f"[tool.anypod.check] {key} must be {expected}, not {value!r}"
            problems.append(Problem(path, 0, message))
        else:
            good[key.replace("-", "_")] = value
    per_file = good.pop("per_file_ignores", {})
    rows = tuple(good.pop("local_defaults", ()))
    if good.get("baseline"):
        # It lies beside the file that names it, wherever the command is run.
        good["baseline"] = os.path.join(os.path.dirname(path), good["baseline"])  # noqa: PTH118, PTH120  # pathlib costs a tenth of the start
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in good.items()}
    return Config(
        **values,
        per_file_ignores=tuple((p, tuple(c)) for p, c in per_file.items()),
        local_defaults=rows,
        problems=tuple(problems),
        path=path,
    )
