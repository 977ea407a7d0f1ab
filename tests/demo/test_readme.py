"""What the README's first screen shows is what three real pods answer, before its diff and after."""

from __future__ import annotations

import os
import re
import subprocess
from http.client import HTTPConnection
from pathlib import Path

import pytest

from anypod.replicas import Application, World

README = (Path(__file__).parents[2] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def answers(folder: Path) -> list[str]:
    """GET /counter, once to each of three pods, as the README writes it."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ANYPOD", "REDIS"))}
    lines = []
    with World(Application("counter:app", folder, inherited), slots=3) as world:
        for slot in range(3):
            host, port = world.start(slot).address
            connection = HTTPConnection(host, port, timeout=30)
            connection.request("GET", "/counter")
            body = re.sub(r"\s*([:,])\s*", r"\1 ", connection.getresponse().read().decode().strip())
            connection.close()
            lines.append(f"GET /counter → pod {slot + 1}   {body}")
    return lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "counter.py").write_text(blocks("python")[0])
    return tmp_path


def test_one_one_one(folder: Path) -> None:
    assert answers(folder) == blocks("text")[0].splitlines()
    assert [line[-2] for line in blocks("text")[0].splitlines()] == ["1", "1", "1"]


def test_one_two_three(folder: Path) -> None:
    subprocess.run(
        ["git", "apply", "--recount", "-"],
        input=blocks("diff")[0],
        cwd=folder,
        text=True,
        check=True,
    )
    assert answers(folder) == blocks("text")[1].splitlines()
    assert [line[-2] for line in blocks("text")[1].splitlines()] == ["1", "2", "3"]


def test_the_practices_are_the_same_in_the_readme_and_on_their_page() -> None:
    def names(text: str) -> list[str]:
        return re.findall(r"^\| (\*\*(?:Do|Don't|Pods)\*\*.*?) \|", text, re.MULTILINE)

    page = (Path(__file__).parents[2] / "docs" / "practices.md").read_text()
    assert [name.replace(",", "") for name in names(README)] == [
        name.replace(",", "") for name in names(page)
    ]
    assert len(names(README)) == 8
