"""Every code block of every page is run.

What happens to a block is said by its language, and by a comment on the line before its fence:

    <!-- file: shop.py -->   the block is written to that file of the page's folder, and not run
    <!-- exit: 1 -->         the last command of a console block ends with this code

python    the blocks of one page are one program, in order
console   lines after `$ ` are commands; what they print must match what is shown, `…` standing for
          anything; commands of `make` are checked against the Makefile, `pip` and `uvx` are not run
diff      applied to the files of the page's folder
http      read as a workload
toml, json  parsed
sql       only on the page whose statements tests/stores/test_postgres_schema.py executes on a server
text      shown, not run

The pages on primitives are run on every store besides: `ON_EVERY_STORE`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md")])
ON_EVERY_STORE = [
    "counter",
    "map",
    "cache",
    "session",
    "threat-model-sessions",
    "idempotency",
    "rate_limit",
    "lock",
    "observability",
]
SQL_PAGE = ROOT / "docs" / "stores.md"
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[a-z]*)\s*$")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@dataclass
class Block:
    language: str
    line: int
    text: str
    file: str | None
    exit: int


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text().splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if opening:
            start = number
            while not re.fullmatch(rf" *{opening['fence']}\s*", lines[number := number + 1]):
                pass
            body = [line.removeprefix(opening["indent"]) for line in lines[start + 1 : number]]
            before = lines[start - 1] if start else ""
            file = re.search(r"<!-- file: (\S+) -->", before)
            code = re.search(r"<!-- exit: (\d+) -->", before)
            found.append(
                Block(
                    opening["language"],
                    start + 1,
                    "\n".join(body) + "\n",
                    file[1] if file else None,
                    int(code[1]) if code else 0,
                )
            )
        number += 1
    return found


def matches(shown: str, printed: str) -> bool:
    pattern = "".join(".*?" if part == "…" else re.escape(part) for part in re.split("(…)", shown))
    return re.fullmatch(pattern, printed, re.DOTALL) is not None


def environment(folder: Path, store: str | None = None) -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "ANYPOD_URL": store or f"sqlite:///{folder}/anypod.db",
        "DATABASE_URL": f"sqlite:///{folder}/app.db",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        "LANG": "C.UTF-8",
    }


def run_console(block: Block, folder: Path, where: str) -> None:
    session = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert not session[0].strip(), f"{where}: a console block begins with `$ `"
    for index, part in enumerate(session[1:], 1):
        command, _, shown = part.partition("\n")
        while command.endswith("\\"):
            more, _, shown = shown.partition("\n")
            command = f"{command}\n{more}"
        program, *arguments = shlex.split(command, comments=True)
        if program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert set(arguments) <= set(targets), f"{where}: {command}"
            continue
        if program in {"pip", "uv", "uvx", "git", "cd"}:
            continue
        ended = subprocess.run(
            command, shell=True, cwd=folder, env=environment(folder), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False,
        )  # fmt: skip
        expected = block.exit if index == len(session) - 1 else 0
        assert ended.returncode == expected, f"{where}: {command}\n{ended.stdout}"
        if shown.strip():
            assert matches(shown.strip(), ended.stdout.strip()), (
                f"{where}: {command} printed\n{ended.stdout}\nthe page shows\n{shown}"
            )


def run_program(page: Path, program: str, folder: Path, store: str | None = None) -> None:
    script = folder / "page.py"
    script.write_text(program)
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(script)], cwd=folder, env=environment(folder, store),
        text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, f"{page.relative_to(ROOT)}\n{ended.stdout}\n{ended.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    program = ""
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.file is not None:
            target = tmp_path / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text)
            if block.language == "python":
                compile(block.text, where, "exec")
        elif block.language == "python":
            program += "\n" * (block.line - program.count("\n")) + block.text
        elif block.language == "console":
            run_console(block, tmp_path, where)
        elif block.language == "diff":
            patch = subprocess.run(
                ["git", "apply", "--recount", "-"], input=block.text, cwd=tmp_path, text=True,
                capture_output=True, check=False,
            )  # fmt: skip
            assert patch.returncode == 0, f"{where}: {patch.stderr}"
        elif block.language == "http":
            from anypod.prove.workload import parse

            parse(block.text, page)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "sql":
            assert page == SQL_PAGE, f"{where}: nothing executes it; use text"
        elif block.language in {"sh", "yaml"}:
            pytest.fail(f"{where}: nothing runs a {block.language} block; use console or text")
        else:
            assert block.language == "text", f"{where}: say the language of the block, or text"
    if program:
        run_program(page, program, tmp_path)


@pytest.mark.parametrize("kind", ["memory", "redis", "valkey", "postgres"])
@pytest.mark.parametrize("page", ON_EVERY_STORE)
def test_a_page_on_a_primitive_runs_on_every_store(
    page: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "memory":
        store = "memory://"
    elif kind == "postgres":
        store = request.getfixturevalue("new_postgres_url")()
    else:
        store = request.getfixturevalue(f"{kind}_url")
    path = ROOT / "docs" / f"{page}.md"
    program = ""
    for block in blocks(path):
        if block.language == "python" and block.file is None:
            program += "\n" * (block.line - program.count("\n")) + block.text
    run_program(path, program, tmp_path, store)


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.finditer(text):
        target = link["target"].partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name}: {link['target']}"
