"""Each rule's page is its test: what it says is reported is reported, and nothing else is."""

from __future__ import annotations

import re

import pytest

from anypod.check import check_sources, rules

pytestmark = pytest.mark.quick

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = re.compile(r"#\s*(POD\d{3})\s*$")


def blocks() -> list[tuple[str, int, str]]:
    found = []
    for code in rules.available():
        for number, match in enumerate(BLOCK.finditer(rules.page(code)), 1):
            found.append((code, number, match[1]))
    return found


def expected(text: str) -> set[tuple[str, int]]:
    return {
        (match[1], number)
        for number, line in enumerate(text.splitlines(), 1)
        if (match := EXPECTED.search(line))
    }


@pytest.mark.parametrize(("code", "number", "text"), blocks())
def test_page(code: str, number: int, text: str) -> None:
    result = check_sources({"page.py": text})
    assert not result.problems
    found = {(f.rule, s.line) for f in result.findings for s in f.sites}
    assert found == expected(text)


@pytest.mark.parametrize("code", rules.available())
def test_page_shows_what_is_reported_and_what_is_not(code: str) -> None:
    page = rules.page(code)
    assert page.startswith(f"# {code}: {rules.TITLES[code]}")
    assert "**Why it is bad.**" in page
    _, _, clean = page.partition("**Never reported.**")
    assert BLOCK.search(clean), "show an example that is never reported"
    assert any(expected(text) for c, _, text in blocks() if c == code)
