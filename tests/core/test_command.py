"""The `anypod` command itself: what it says before a subcommand takes over."""

from __future__ import annotations

import importlib

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
