"""What the command says about projects, configurations and terminals that are unusual: a message, never a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.check.test_command import BAD, CLEAN, project, run

from anypod.check import check_paths
from anypod.check.cache import FactCache
from anypod.cli.check import main

__all__ = ["project"]

ODD = 'a\x01b,c:d%\n"<é\udcff.py'
FORMATS = ("full", "concise", "json", "sarif", "github", "gitlab", "junit")


def table(text: str) -> str:
    return f"[tool.anypod.check]\n{text}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (table("select = [1]"), "select must be a list of texts, not [1]"),
        (table("exclude = [{}]"), "exclude must be a list of texts"),
        (table("entry-points = ['app:index', 3]"), "entry-points must be a list of texts"),
        (table("shared-paths = 'x'"), "shared-paths must be a list of texts, not 'x'"),
        (table("strict = 1"), "strict must be true or false, not 1"),
        (table("per-file-ignores = {'app.py' = 'POD103'}"), "must be a table of lists of rules"),
        (table("local-defaults = [{call = 1}]"), "local-defaults must be tables of texts"),
        (table("local-defaults = [{what = 'x'}]"), "local-defaults must be tables of texts"),
        ("tool = 1  # anypod", "tool must be a table, not 1"),
        ("tool.anypod = []", "anypod must be a table, not []"),
        ("tool.anypod.check = 'x'", "check must be a table, not 'x'"),
        (table("entry-points = ['app:indx']"), "entry-points names 'app:indx'"),
    ],
)
def test_a_wrong_configuration_is_told_and_the_rest_checked(
    text: str, message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text(text)
    status, said = run(capsys, "app.py")
    assert message in said
    assert "pyproject.toml" in said
    assert status == 1


def test_entry_points_of_files_that_are_not_checked_are_no_mistake(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text(table("entry-points = ['tasks:run', 'app:index']"))
    assert "entry-points" not in run(capsys, "app.py")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.toml"], "there is no file 'none.toml'"),
        (["--output", "none/report"], "none/report: No such file or directory"),
        (["--output", "."], "Is a directory"),
        (["--write-baseline", "none/b.json"], "none/b.json: No such file or directory"),
        (["--explain", ""], "there is no rule ''"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capsys, "app.py", *arguments)
    assert message in said
    assert status == 2


def test_rules_that_are_ignored_in_files_exist(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text(table("per-file-ignores = {'app.py' = ['POD999']}"))
    assert run(capsys, "app.py") == (
        2,
        "anypod check: there is no rule 'POD999'; there are "
        + ", ".join(f"POD{n}" for n in range(101, 111))
        + "\n",
    )


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_processes_are_counted(
    number: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(("app.py", f"--processes={number}"))
    assert ended.value.code == 2
    assert "--processes" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp1252"])
def test_every_report_reaches_every_terminal(
    encoding: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ODD).write_text(BAD)
    for form in FORMATS:
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        assert main(("app.py", ODD, "--format", form)) == 1
        out.flush()
        text = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert "visits" in text
        assert "\x01" not in text or form == "github", form
        assert main(("app.py", ODD, "--format", form, "--output", "report")) == 1
        written = (project / "report").read_text(encoding="utf-8")
        if form in {"json", "sarif", "gitlab"}:
            json.loads(text)
            json.loads(written)
        if form == "junit":
            assert len(ET.fromstring(written)[0]) == 2


def test_a_full_disk_is_told(project: Path) -> None:
    if not Path("/dev/full").exists():
        return
    for form in ("full", "json"):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "anypod", "check", "app.py", "--format", form]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert b"No space left" in done.stderr
        assert b"Traceback" not in done.stderr
        assert done.returncode == 2


@pytest.mark.parametrize(
    ("line", "shown", "mark", "column"),
    [
        ("\tvisits += 1", "    visits += 1", 4, 2),
        ('    "日本é"; visits += 1', '    "日本é"; visits += 1', 13, 12),
        ("    visits += 1  # \x1b[2J", "    visits += 1  # \\x1b[2J", 4, 5),
        (f"    '{'x' * 1_000_000}'; visits += 1", f"…{'x' * 106}'; visits += 1", 110, 1_000_009),
        (f"    visits += 1; '{'x' * 9_000}'", f"    visits += 1; '{'x' * 106}…", 4, 5),
    ],
    ids=["tab", "wide", "escape", "long before", "long behind"],
)
def test_the_mark_stands_under_the_write(
    line: str, shown: str, mark: int, column: int, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = BAD.replace("    visits += 1", line)
    (project / "app.py").write_text(
        text if line[0] == " " else text.replace("    ", "\t"), encoding="utf-8"
    )
    said = run(capsys, "app.py")[1].splitlines()
    assert said[0].startswith(f"app.py:10:{column} ")
    assert said[1] == f"  10 | {shown}"
    assert said[2].removeprefix("     | ").index("^") == mark


@pytest.mark.parametrize(
    ("first", "encoding"),
    [("# a\x0cb\u2028c\n", "utf-8"), ("# coding: latin-1\r\n", "latin-1")],
    ids=["what only str.splitlines takes for an end", "another encoding"],
)
def test_the_line_is_the_one_that_python_counts(
    first: str, encoding: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = BAD.replace("visits += 1", "visits += 1; 'é'")
    (project / "app.py").write_bytes((first + changed).encode(encoding))
    assert "\n  11 |     visits += 1; 'é'\n" in run(capsys, "app.py")[1]


def test_files_that_were_not_checked_are_counted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "app.py").write_text(CLEAN)
    (project / "two.py").write_text("print 'x'\n")
    status, text = run(capsys, ".")
    assert status == 0
    assert text.endswith("nothing found; 1 file was not checked\n")


def test_a_baseline_is_the_same_from_everywhere(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "src").mkdir()
    (project / "app.py").rename(project / "src" / "app.py")
    run(capsys, "src", "--write-baseline", "pods.json")
    (project / "pyproject.toml").write_text(table("baseline = 'pods.json'"))
    assert run(capsys, ".")[0] == 0
    assert run(capsys, str(project / "src"))[0] == 0
    monkeypatch.chdir(project / "src")
    assert run(capsys, "app.py")[0] == 0
    assert run(capsys, ".", "--baseline", "../pods.json")[0] == 0


def test_globs_mean_the_same_from_everywhere(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "legacy").mkdir()
    (project / "app.py").rename(project / "legacy" / "app.py")
    (project / "pyproject.toml").write_text(table("per-file-ignores = {'legacy/*' = ['POD101']}"))
    assert run(capsys, ".")[0] == 0
    assert run(capsys, str(project))[0] == 0


def test_diff_from_everywhere_whatever_git_is_configured_to_say(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True)

    names = ["café.py", "la tin.py", "app.py"]
    latin = f"# coding: latin-1\n{BAD}"
    for name in names:
        (project / name).write_text(latin)
    git("init", "-q")
    git("config", "diff.noprefix", "true")
    git("config", "diff.mnemonicPrefix", "true")
    git("config", "color.diff", "always")
    git("add", ".")
    git("commit", "-qm", "first")
    for name in names:
        (project / name).write_text(latin.replace("+= 1", "+= 2  # é"), encoding="latin-1")
    (project / "néw.py").write_text(BAD)
    (project / "gone.py").symlink_to("nowhere.py")
    (project / "inner").mkdir()
    for where, root in ((project, "."), (project / "inner", "..")):
        monkeypatch.chdir(where)
        _, text = run(capsys, root, "--diff", "HEAD", "--format", "json", "--no-cache")
        found = {Path(f["path"]).name for f in json.loads(text)["findings"]}
        assert found == {*names, "néw.py"}
    status, text = run(capsys, "..", "--diff=--output=stolen")
    assert status == 2
    assert "git says" in text
    assert not list(project.rglob("stolen"))


def test_a_file_that_is_written_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(BAD)
    cache = FactCache(str(tmp_path / "cache"))
    assert cache.get(str(app)) is None
    app.write_text(CLEAN)
    cache.put(str(app), b"facts of what it was")
    assert cache.get(str(app)) is None


def test_without_a_pyproject_the_cache_is_where_we_are(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").unlink()
    run(capsys, "app.py")
    assert (project / ".anypod_cache" / "check").is_file()


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A file stands where the directory would be: that stops root as well.
    (project / ".anypod_cache").write_text("")
    for _ in range(2):
        assert run(capsys, "app.py")[0] == 1


def test_runs_at_once_share_a_cache(project: Path) -> None:
    for n in range(30):
        (project / f"app{n}.py").write_text(BAD)
    command = [sys.executable, "-m", "anypod", "check", ".", "--format", "json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    results = [json.loads(process.communicate()[0]) for process in running]
    assert [len(r["findings"]) for r in results] == [31, 31, 31]
    assert sorted(p.name for p in Path(".anypod_cache").iterdir()) == [".gitignore", "check"]
    assert len(check_paths(["."], cache=".anypod_cache").findings) == 31
