"""The rooms of the house and what each may know: DESIGN's arrows, held against the imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anypod

pytestmark = pytest.mark.quick

SOURCE = Path(anypod.__file__).parent

LEAVES = {"errors", "keys", "durations", "serializer", "commands", "flow"}

# room → the rooms that it may import at run time; imports for type checkers alone do not count
MAY_KNOW = {
    "errors": set(),
    "keys": set(),
    "serializer": set(),
    "durations": {"errors"},
    "commands": {"durations"},
    "flow": {"commands"},
    "observe": {"commands", "errors"},
    "stores": {"commands", "durations", "errors", "observe", "serializer", "testing"},
    "primitives": LEAVES | {"observe"},
    "state": LEAVES | {"observe", "primitives", "stores"},
    "testing": LEAVES | {"state", "stores"},
    "web": LEAVES | {"primitives", "state"},
    "check": set(),
    "replicas": {"errors"},
    "prove": {"errors", "replicas"},
    "report": {"check", "errors", "prove", "replicas"},
    "pytest_plugin": {"errors", "prove", "replicas"},
    "demo": LEAVES | {"primitives", "state", "web"},
    "cli": {"check", "demo", "errors", "prove", "replicas", "report", "state", "stores", "web"},
    "__init__": LEAVES | {"primitives", "state"},
    "__main__": {"cli"},
}

# room → the third parties that it may touch
MAY_TOUCH = {
    "commands": {"msgspec"},
    "serializer": {"msgspec"},
    "observe": {"msgspec", "prometheus_client", "opentelemetry"},
    "primitives": {"msgspec"},
    "stores": {"msgspec", "redis", "hiredis", "psycopg", "sqlalchemy", "django", "hypothesis"},
    "testing": {"pytest"},
    "web": {"flask", "werkzeug", "itsdangerous", "starlette", "django"},
    "replicas": {
        "waitress",
        "uvicorn",
        "sqlalchemy",
        "werkzeug",
        "starlette",
        "psycopg",
        "pymysql",
        "redis",
    },
    "prove": {"lxml", "uvicorn", "schemathesis", "hypothesis", "requests", "yaml"},
    "report": {"rich"},
    "pytest_plugin": {"pytest"},
    "demo": {"flask", "sqlalchemy", "werkzeug"},
}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def runtime_imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, except those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield from runtime_imports(other)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the full name"
            assert node.module is not None
            if node.module == "anypod":
                yield from ((f"anypod.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module, node.lineno
        else:
            yield from runtime_imports(node)


def sources() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_dependencies_point_one_way(path: Path) -> None:
    room = room_of(path)
    public = {name: home.split(".")[1] for name, home in anypod._HOMES.items()}
    wrong = []
    for module, line in runtime_imports(ast.parse(path.read_text())):
        parts = module.split(".")
        if parts[0] in sys.stdlib_module_names:
            continue
        if parts[0] == "anypod":
            target = parts[1] if len(parts) > 1 else "__init__"
            target = public.get(target, "errors" if target in anypod.__all__ else target)
            if target != room and target not in MAY_KNOW[room]:
                wrong.append(f"line {line}: {room} must not know {target}")
        elif parts[0] not in MAY_TOUCH.get(room, set()):
            wrong.append(f"line {line}: {room} must not touch {parts[0]}")
    assert not wrong


def test_the_public_names() -> None:
    assert sorted(anypod.__all__) == [
        "AnypodError",
        "ConfigurationError",
        "InFlight",
        "KeyReused",
        "LimitReached",
        "LocalCache",
        "OutcomeUnknown",
        "SessionEnded",
        "State",
        "StoreError",
        "StoreUnavailable",
        "cached",
    ]
    assert dir(anypod) == sorted(anypod.__all__)
    for name in anypod.__all__:
        assert getattr(anypod, name).__doc__
    with pytest.raises(AttributeError):
        _ = anypod.nothing


def loaded_by(code: str) -> set[str]:
    """The top-level modules outside the standard library that this code loads."""
    listing = (
        "import sys; before = set(sys.modules)\n"
        f"{code}\n"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    loaded = set(ended.stdout.splitlines()[-1].split())
    return {name for name in loaded - sys.stdlib_module_names if not name.startswith("_")}


def test_importing_anypod_loads_no_framework_and_no_driver() -> None:
    assert loaded_by("import anypod") == {"anypod"}
    everything = "; ".join(f"anypod.{name}" for name in anypod.__all__)
    serializer = {"msgspec", "typing_extensions"}  # the one loads the other where it is installed
    assert loaded_by(f"import anypod; {everything}") <= {"anypod"} | serializer
    sqlite = "from anypod import State; State('sqlite:///x.db', namespace='')"
    assert loaded_by(sqlite) <= {"anypod"} | serializer


def test_the_checker_loads_nothing_third_party() -> None:
    code = "import anypod.cli, contextlib, io, os\n"
    code += "with contextlib.redirect_stdout(io.StringIO()): anypod.cli.main(['check', os.devnull])"
    assert loaded_by(code) == {"anypod"}


def test_modules_stay_within_one_idea() -> None:
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert not long, "each asks to be two ideas"
