"""The `anypod` command itself: what it says before a subcommand takes over."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from anypod.cli import main

pytestmark = pytest.mark.quick


def test_ctrl_c_while_a_subcommand_is_still_loading_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib, "import_module", interrupted)
    assert main(["prove", "shop:app"]) == 130
    assert capsys.readouterr().err == "anypod: interrupted\n"


def test_an_unknown_command_names_its_neighbour(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prov"]) == 2
    assert "did you mean `anypod prove`?" in capsys.readouterr().err


def test_a_path_that_is_not_there_is_not_a_clean_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / "typo.py"), "--no-cache"]) == 2
    said = capsys.readouterr().out
    assert "typo.py: there is no such file" in said
    assert "nothing was checked" in said
    assert "nothing found" not in said
