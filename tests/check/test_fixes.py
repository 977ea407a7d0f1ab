"""`--fix` takes away what covers nothing, shows it first, and never harms a file."""

from __future__ import annotations

import ast
import stat
import subprocess
from pathlib import Path

import pytest

from anypod.check import check_paths, edits
from anypod.cli.check import main

pytestmark = pytest.mark.quick

HEAD = """\
from flask import Flask, jsonify

app = Flask(__name__)
visits = 0
"""
HANDLER = """

@app.get("/")
def index():
    global visits
    visits += 1{}
    return jsonify(visits){}
"""
COVERS = "  # anypod: ignore[POD101] shown for fun"
UNUSED = "  # anypod: ignore[POD103] not a session"


def source(write: str = COVERS, other: str = UNUSED) -> str:
    return HEAD + HANDLER.format(write, other)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "app.py"
    path.write_text(source())
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(("app.py", "--no-cache", *arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_show_fixes_prints_a_diff_that_patch_applies_and_writes_nothing(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, diff, _ = run(capsys, "--show-fixes")
    assert status == 1
    assert "-    return jsonify(visits)  # anypod: ignore[POD103] not a session\n" in diff
    assert "+    return jsonify(visits)\n" in diff
    assert app.read_text() == source()
    subprocess.run(["git", "apply", "-p0", "-"], input=diff, text=True, check=True)
    assert app.read_text() == source(other="")
    assert run(capsys, "--show-fixes")[:2] == (0, "")


def test_fix_shows_what_it_does_and_reports_what_is_left(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, report, told = run(capsys, "--fix")
    assert status == 0
    assert "-    return jsonify(visits)  # anypod: ignore[POD103]" in told
    assert "unused" not in report
    assert app.read_text() == source(other="")
    before = app.stat().st_mtime_ns
    assert run(capsys, "--fix")[2] == ""
    assert app.stat().st_mtime_ns == before, "nothing to do is nothing written"


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("  # anypod: ignore[POD103,POD104] no", ""),
        ("  # noqa: X  # anypod: ignore[POD103] no", "  # noqa: X"),
        (" # anypod:ignore[pod103] no", ""),
        (
            '[0] if "# anypod: ignore[POD103]" else 1' + UNUSED,
            '[0] if "# anypod: ignore[POD103]" else 1',
        ),
    ],
)
def test_only_the_comment_goes(
    line: str, left: str, app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.write_text(source(other=line))
    run(capsys, "--fix")
    assert app.read_text() == source(other=left)


def test_a_rule_that_covers_nothing_leaves_its_comment(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.write_text(source(COVERS.replace("POD101", "POD103, POD101"), ""))
    _, report, _ = run(capsys)
    assert "unused `anypod: ignore[POD103]`" in report
    run(capsys, "--fix")
    assert app.read_text() == source(COVERS, "")


def test_a_comment_of_a_rule_that_did_not_run_stays(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "--fix", "--select", "POD101")
    assert app.read_text() == source()


def test_a_line_of_its_own_goes_whole(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app.write_text("#anypod: ignore[POD101] all of it\n" + source(other=""))
    run(capsys, "--fix")
    assert app.read_text() == source(other="")


@pytest.mark.parametrize(
    ("encoding", "head"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("latin-1", "# coding: latin-1\n"),
        ("cp1251", "# -*- coding: cp1251 -*-\n"),
        ("shift_jis", "# coding: shift_jis\n"),
    ],
)
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encodings_and_line_ends_stay(
    encoding: str, head: str, ends: str, app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = {"latin-1": "café", "cp1251": "привет", "shift_jis": "日本表"}.get(
        encoding, "naïve 日本"
    )
    # A form feed and a line separator are no ends of lines in Python.
    text = f"{head}name = '{letters}'\n\x0c# page\n" + source(other="{}") + f"last = '{letters}'"
    app.write_bytes(text.format(UNUSED).replace("\n", ends).encode(encoding))
    run(capsys, "--fix")
    assert app.read_bytes() == text.format("").replace("\n", ends).encode(encoding)


def test_mode_and_links_stay(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = app.rename(app.with_name("real.txt"))
    app.symlink_to(real)
    real.chmod(0o750)
    run(capsys, "--fix")
    assert app.is_symlink()
    assert real.read_text() == source(other="")
    assert stat.S_IMODE(real.stat().st_mode) == 0o750
    assert sorted(p.name for p in app.parent.iterdir()) == ["app.py", "real.txt"]


def test_a_file_that_was_edited_meanwhile_is_left_alone(app: Path) -> None:
    fixes = check_paths([app]).fixes
    app.write_text("x = 1\n" + source())
    assert edits.planned(fixes)[0] == [], "the comment is not where it was"
    app.write_text(source())
    (change,), _ = edits.planned(fixes)
    app.write_text(source() + "y = 2\n")
    with pytest.raises(edits.Refused, match="changed meanwhile"):
        edits.write(change)
    assert app.read_text() == source() + "y = 2\n"
    assert [p.name for p in app.parent.iterdir()] == ["app.py"]


def test_ignores_are_added_only_where_a_comment_may_stand(
    app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "# coding: latin-1\nfrom flask import Flask\n\napp = Flask(__name__)\n"
        'words = list("""\n""")\nmore = \\\n    []\n\n\n'
        "@app.get('/')\ndef index():\n    words.append('é')\n    more.append(1)\n    return str((words, more))\n"
    )
    app.write_bytes(text.encode("latin-1"))
    _, _, told = run(capsys, "--add-ignores", "one replica")
    assert "0 comments added" in told
    assert app.read_bytes() == text.encode("latin-1")
    text = text.replace('"""\n"""', "'a'")
    app.write_bytes(text.encode("latin-1"))
    run(capsys, "--add-ignores", "one replica")
    after = app.read_bytes().decode("latin-1")
    assert "words = list('a')  # anypod: ignore[POD101] one replica\n" in after
    assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(text))
