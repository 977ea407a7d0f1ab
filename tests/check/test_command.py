"""`anypod check` as a person and a CI call it: exit codes, formats, suppressions, configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from anypod.cli.check import main

BAD = """\
from flask import Flask, jsonify

app = Flask(__name__)
visits = 0


@app.get("/")
def index():
    global visits
    visits += 1
    return jsonify(visits)
"""
CLEAN = BAD.replace("    global visits\n    visits += 1\n", "")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    (tmp_path / "app.py").write_text(BAD)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_exit_codes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "app.py")[0] == 1
    (project / "app.py").write_text(CLEAN)
    status, text = run(capsys, "app.py")
    assert status == 0
    assert "1 route: 1 stateless, 0 shared, 0 local" in text
    assert run(capsys, "nowhere")[0] == 2
    assert run(capsys, "--select", "POD999", "app.py")[0] == 2


def test_full_tells_place_state_path_reason_and_replacement(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = run(capsys, "app.py")
    assert "app.py:10:5 POD101 module state app.visits is changed by requests" in text
    assert "visits += 1" in text
    assert "defined at app.py:4" in text
    assert "index (line 8) → changed in place (line 10)" in text
    assert 'visits = state.counter("visits")' in text


def test_concise_is_one_line_per_finding(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, "app.py", "--format", "concise")
    assert text.splitlines()[0] == (
        "app.py:10:5: POD101 error: module state app.visits is changed by requests"
    )


def test_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, "app.py", "--format", "json")
    document = json.loads(text)
    (finding,) = document["findings"]
    assert (finding["rule"], finding["line"], finding["state"]) == ("POD101", 10, "app.visits")
    assert [s["name"] for s in finding["chain"]] == ["index", "changed in place"]
    assert document["summary"]["routes"] == {"local": 1}


def test_sarif_has_what_2_1_0_requires(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, "app.py", "--format", "sarif")
    log = json.loads(text)
    assert log["version"] == "2.1.0"
    (sarif,) = log["runs"]
    rules = sarif["tool"]["driver"]["rules"]
    assert sarif["tool"]["driver"]["name"]
    (result,) = sarif["results"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "POD101"
    assert result["level"] in {"none", "note", "warning", "error"}
    assert result["message"]["text"]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert (region["startLine"], region["startColumn"]) == (10, 5)
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == "app.py"
    for flow in result["codeFlows"]:
        assert flow["threadFlows"][0]["locations"]


def test_formats_of_ci_systems(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, "app.py", "--format", "github")
    assert text.startswith("::error file=app.py,line=10,col=5,title=POD101::module state")
    _, text = run(capsys, "app.py", "--format", "gitlab")
    (row,) = json.loads(text)
    assert row["location"] == {"path": "app.py", "lines": {"begin": 10}}
    assert len(row["fingerprint"]) == 64
    _, text = run(capsys, "app.py", "--format", "junit")
    suite = ET.fromstring(text)[0]
    assert suite.get("failures") == "1"


def test_statistics_routes_and_explain(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1  POD101" in run(capsys, "app.py", "--statistics")[1]
    assert "local     GET" in run(capsys, "app.py", "--routes")[1]
    status, text = run(capsys, "--explain", "pod101")
    assert status == 0
    assert text.startswith("# POD101")
    assert run(capsys, "--explain", "POD9")[0] == 2


def test_select_ignore_and_configuration(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "app.py", "--ignore", "POD101")[0] == 0
    assert run(capsys, "app.py", "--select", "POD103")[0] == 0
    pyproject = project / "pyproject.toml"
    pyproject.write_text('[tool.anypod.check]\nexclude = ["app.py"]\n')
    (project / "other.py").write_text(CLEAN)
    assert run(capsys, ".")[0] == 0
    assert run(capsys, "app.py")[0] == 1, "a file that is named is checked whatever is excluded"
    pyproject.write_text('[tool.anypod.check.per-file-ignores]\n"app.py" = ["POD101"]\n')
    assert run(capsys, "app.py")[0] == 0
    pyproject.write_text('[tool.anypod.check]\nsomething = 1\nselect = "x"\n')
    _, text = run(capsys, "app.py")
    assert "has no 'something'" in text
    assert "select must be a list" in text
    pyproject.write_text("[tool.anypod.check\n")
    status, text = run(capsys, "app.py")
    assert status == 1
    assert "is not valid TOML" in text


def test_a_comment_covers_a_site_or_a_state(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = project / "app.py"
    app.write_text(BAD.replace("visits = 0", "visits = 0  # anypod: ignore[POD101] shown for fun"))
    assert run(capsys, "app.py")[0] == 0
    app.write_text(BAD.replace("+= 1", "+= 1  # anypod: ignore[POD101] shown for fun"))
    status, text = run(capsys, "app.py")
    assert status == 0
    assert "1 accepted" in text
    app.write_text(BAD.replace("+= 1", "+= 1  # anypod: ignore[POD102] wrong rule"))
    status, text = run(capsys, "app.py")
    assert status == 1
    assert "unused `anypod: ignore[POD102]`" in text
    app.write_text(BAD.replace("+= 1", "+= 1  # anypod: ignore[POD101]"))
    assert "gives no reason" in run(capsys, "app.py")[1]


def test_add_ignores_then_clean(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "app.py", "--add-ignores", "one replica only") == (0, "1 comment added\n")
    assert (
        "visits = 0  # anypod: ignore[POD101] one replica only" in (project / "app.py").read_text()
    )
    assert run(capsys, "app.py")[0] == 0


def test_a_baseline_survives_moved_lines(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = "accepted.json: 1 finding accepted\n"
    assert run(capsys, "app.py", "--write-baseline", "accepted.json") == (0, said)
    (project / "app.py").write_text("# moved\n\n" + BAD)
    assert run(capsys, "app.py", "--baseline", "accepted.json")[0] == 0
    (project / "app.py").write_text(BAD.replace("visits", "calls"))
    assert run(capsys, "app.py", "--baseline", "accepted.json")[0] == 1
    assert "there is no such baseline" in run(capsys, "app.py", "--baseline", "none.json")[1]


def test_diff_reports_changed_lines_only(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True)

    assert "git says" in run(capsys, "app.py", "--diff", "HEAD")[1]
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert run(capsys, "app.py", "--diff", "HEAD")[0] == 0
    (project / "app.py").write_text(BAD.replace("+= 1", "+= 2"))
    assert run(capsys, "app.py", "--diff", "HEAD")[0] == 1


def test_strict_counts_warnings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "app.py").write_text(
        "import threading\nfrom flask import Flask\n\napp = Flask(__name__)\n\n\n"
        "@app.post('/go')\ndef go():\n    threading.Thread(target=print).start()\n    return ''\n\n\n"
        "@app.post('/run')\ndef run():\n    def work():\n        pass\n\n"
        "    threading.Thread(target=work).start()\n    return ''\n"
    )
    assert run(capsys, "app.py")[0] == 0
    assert run(capsys, "app.py", "--strict")[0] == 1


def test_it_imports_nothing_but_the_standard_library_and_itself(project: Path) -> None:
    program = (
        "import sys; from anypod.cli import main; main(['check', 'app.py', '--no-cache']);"
        "names = {m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names;"
        "own = {m for m in sys.modules if m.startswith('anypod.')};"
        "print(sorted(n for n in names if not n.startswith('_')), file=sys.stderr);"
        "print(sorted(m.split('.')[1] for m in own), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    loaded, rooms = done.stderr.splitlines()[-2:]
    assert "'anypod'" in loaded
    assert not {"msgspec", "redis", "flask"} & set(loaded.strip("[]").replace("'", "").split(", "))
    assert set(rooms.strip("[]").replace("'", "").split(", ")) == {"check", "cli", "report"}


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    import anypod.demo

    demo = Path(anypod.demo.__file__).parent
    status, text = run(capsys, str(demo / "broken.py"), "--format", "json", "--no-cache")
    assert status == 1
    assert {"POD101", "POD102", "POD103", "POD107"} <= {
        f["rule"] for f in json.loads(text)["findings"]
    }
    assert run(capsys, str(demo / "fixed.py"), "--no-cache")[0] == 0


def test_many_findings_end_with_a_table_and_what_to_do(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(11):
        (project / f"app{n}.py").write_text(BAD)
    _, text = run(capsys, ".")
    assert "\n   12  POD101    12 places  module global" in text
    assert "--write-baseline FILE" in text
    assert "--write-baseline" not in run(capsys, "app.py")[1]


def test_a_long_path_is_told_in_the_width_of_a_terminal(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = "".join(
        f"\n\ndef step_number_{n}_of_the_way():\n    step_number_{n + 1}_of_the_way()\n"
        for n in range(4)
    )
    (project / "app.py").write_text(
        BAD.replace("    global visits\n    visits += 1\n", "    step_number_0_of_the_way()\n")
        + steps
        + "\n\ndef step_number_4_of_the_way():\n    global visits\n    visits += 1\n"
    )
    lines = run(capsys, "app.py")[1].splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("  path   index"))
    assert lines[begin + 1].startswith("         → step_number_")
    assert all(len(line) <= 80 for line in lines)
