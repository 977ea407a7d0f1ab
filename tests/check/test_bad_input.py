"""Whatever is in a file, the others are checked, and the file's problem is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anypod.check import check_paths

GOOD = """\
from flask import Flask

app = Flask(__name__)
seen = []


@app.get("/")
def index():
    seen.append(1)
    return str(len(seen))
"""

FILES: dict[str, tuple[bytes, str]] = {
    "broken.py": (b"def f(:\n", "is not valid Python 3"),
    "two.py": (b"print 'hello'\n", "is not valid Python 3"),
    "null.py": (b"x = 1\n\0\n", "contains a null byte"),
    "latin.py": (b"x = '\xe9'\n", "is not valid Python 3"),
    "unknown.py": (b"# coding: nonsense\nx = 1\n", "is not valid Python 3"),
    "deep.py": (b"x = " + b"(" * 10_000 + b")" * 10_000 + b"\n", "is"),
    "deeper.py": (b"x = " + b"-" * 10_000 + b"1\n", "is nested too deeply"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_told_and_the_rest_checked(name: str, tmp_path: Path) -> None:
    content, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "app.py").write_text(GOOD)
    result = check_paths([tmp_path])
    assert [f.rule for f in result.findings] == ["POD101"]
    (problem,) = result.problems
    assert problem.path.endswith(name)
    assert message in problem.message


@pytest.mark.parametrize(
    "content",
    [
        "# coding: latin-1\nx = 'é'\n".encode("latin-1"),
        b"\xef\xbb\xbfx = 1\n",
        b"",
        b"x = " + b"1 + " * 60_000 + b"1\n",
        b"x = '" + b"a" * 1_000_000 + b"'\n",
        b"x = 1\r\ny = 2\r\n",
    ],
    ids=["latin-1", "bom", "empty", "long sum", "long line", "crlf"],
)
def test_unusual_files_are_fine(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_bytes(content)
    result = check_paths([tmp_path])
    assert not [p for p in result.problems if "too deeply" not in p.message]


def test_symlink_loops_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(GOOD)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nothing.py")
    secret = tmp_path / "secret.py"
    secret.write_text("x = 1")
    secret.chmod(0)
    result = check_paths([tmp_path])
    assert [f.rule for f in result.findings] == ["POD101"]
    if os.geteuid() != 0:
        assert "cannot be read" in result.problems[0].message


def test_cyclic_imports_and_cyclic_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        "from b import g, box\nfrom flask import Flask\napp = Flask(__name__)\n"
        "def f(n):\n    return g(n)\n"
        "@app.get('/')\ndef index():\n    f(3)\n    return str(box)\n"
    )
    (tmp_path / "b.py").write_text(
        "from a import f\nbox = []\nbox.append(box)\n"
        "def g(n):\n    box.append(n)\n    return f(n - 1) if n else n\n"
        "class C(D):\n    pass\nclass D(C):\n    pass\n"
    )
    (finding,) = check_paths([tmp_path]).findings
    assert (finding.rule, finding.line) == ("POD101", 5)
    assert [s.name for s in finding.chain] == ["index", "f", "g", ".append()"]
