"""Where a state is defined, whether a handler reads it, and which of several explains a difference."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from anypod.prove.cause import definition, is_read_for, ranked, rule
from anypod.prove.events import Cause
from anypod.prove.model import Exchange, Request, Response, Step
from anypod.prove.schedules import Kind
from anypod.replicas import Change

pytestmark = pytest.mark.quick

SOURCE = """
    import threading
    from functools import lru_cache

    count: int = 0
    first, second = {}, []
    settings = object()


    class Store:
        items = []

        def __init__(self):
            self.rows = {}


    def make():
        seen = []
        def handler():
            seen.append(1)
        return handler


    @app.route("/pages/<int:id>", methods=["GET", "POST"])
    def page(id):
        return look(id)


    def look(id):
        return first.get(id)


    @router.get("/rates/{currency}")
    async def rate(currency):
        return Store.items


    @router.put("/rates/{currency}")
    async def put_rate(currency):
        global count
        count += 1
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "shop.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


def line(path: Path, text: str) -> int:
    lines = path.read_text().splitlines()
    return next(n for n, found in enumerate(lines, start=1) if found.strip() == text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("count", "count: int = 0"),
        ("second", "first, second = {}, []"),
        ("Store.items", "items = []"),
        ("Store.rows", "self.rows = {}"),
        ("make.seen", "seen = []"),
        ("page", "def page(id):"),
    ],
)
def test_a_definition_is_found(source: Path, name: str, text: str) -> None:
    assert definition(source, name) == line(source, text)


def test_what_the_source_does_not_show_has_no_line(source: Path, tmp_path: Path) -> None:
    assert definition(source, "nowhere") is None
    assert definition(tmp_path / "missing.py", "count") is None
    (tmp_path / "broken.py").write_text("def (")
    assert definition(tmp_path / "broken.py", "count") is None


def exchange(
    what: str, pod: int, *changes: Change, incarnation: int = 1, index: int = 0
) -> Exchange:
    method, target = what.split()
    step = Step(index, method, target, index + 1)
    return Exchange(step, pod, incarnation, Request(method, target), Response(200), changes)


@pytest.mark.parametrize(
    ("what", "name", "read"),
    [
        ("GET /pages/7", "first", True),
        ("GET /pages/7?full=1", "first", True),
        ("GET /api/pages/7", "first", True),
        ("GET /pages/7", "second", False),
        ("GET /rates/EUR", "Store.items", True),
        ("GET /rates/EUR", "count", False),
        ("PUT /rates/EUR", "count", True),
        ("GET /elsewhere", "first", False),
    ],
)
def test_whether_a_handler_reads_a_state(source: Path, what: str, name: str, read: bool) -> None:
    assert is_read_for(exchange(what, 1), source, name) is read


def change(source: Path, name: str, after: str = "1") -> Change:
    return Change("global", name, "shop", str(source), "0", after)


def find(kind: Kind, exchanges: list[Exchange], expected: str) -> Cause | None:
    suspects = ranked(kind, exchanges, expected)
    return suspects[0].named() if suspects else None


def test_the_state_that_the_handler_reads_is_preferred(source: Path) -> None:
    writer = exchange("POST /pages/7", 1, change(source, "first"), change(source, "second"))
    found = find(Kind.ANOTHER_POD, [writer, exchange("GET /pages/7", 2)], "1")
    assert found is not None
    assert (found.name, found.pod, found.reader) == ("first", 1, 2)
    assert found.line == line(source, "first, second = {}, []")


@pytest.mark.parametrize("empty", ["''", "0 bytes", "'', other content"])
def test_a_file_with_content_is_preferred_to_an_empty_one(source: Path, empty: str) -> None:
    kept, lock = (
        Change("file", name, "", name, "absent", after)
        for name, after in (("calendar.props", "29 bytes"), ("calendar.lock", empty))
    )
    for changes in ((kept, lock), (lock, kept)):
        writer = exchange("POST /pages/7", 1, *changes)
        found = find(Kind.ANOTHER_POD, [writer, exchange("GET /pages/7", 2)], "1")
        assert found is not None
        assert found.name == "calendar.props"


def test_what_the_readers_own_process_changed_is_not_what_it_lacked(source: Path) -> None:
    writer = exchange("POST /pages/7", 1, change(source, "first"))
    assert find(Kind.ANOTHER_POD, [writer, exchange("GET /pages/7", 1)], "1") is None
    moved = exchange("GET /pages/7", 1, incarnation=2)
    assert find(Kind.POD_MOVED, [writer, moved], "1") is not None


def test_a_stale_copy_is_the_one_that_the_reader_kept(source: Path) -> None:
    kept = exchange("GET /pages/7", 2, change(source, "first", "{7: 'old'}"))
    written = exchange("POST /pages/7", 1, change(source, "second"))
    found = find(Kind.STALE_COPY, [kept, written, exchange("GET /pages/7", 2)], "'new'")
    assert found is not None
    assert (found.name, found.pod, found.reader) == ("first", 2, 2)


def test_a_retry_has_no_state_to_blame(source: Path) -> None:
    writer = exchange("POST /pages/7", 1, change(source, "first"))
    assert find(Kind.RETRY, [writer, exchange("GET /pages/7", 2)], "1") is None


def cause(kind: str, name: str, after: str = "{}") -> Cause:
    return Cause(kind, name, "shop", "shop.py", 1, 1, 2, "", after)


@pytest.mark.parametrize(
    ("kind", "state", "route", "expected"),
    [
        (Kind.ANOTHER_POD, cause("global", "count", "1"), "GET /count", "POD101"),
        (Kind.STALE_COPY, cause("global", "pages"), "GET /pages/{id}", "POD102"),
        (Kind.ANOTHER_POD, cause("cache", "look"), "GET /pages/{id}", "POD102"),
        (Kind.POD_MOVED, cause("global", "sessions"), "GET /me", "POD103"),
        (Kind.ANOTHER_POD, cause("class attribute", "Store.items"), "GET /items", "POD104"),
        (Kind.ANOTHER_POD, cause("file", "notes.txt"), "GET /notes", "POD105"),
        (Kind.RETRY, None, "POST /refund", "POD107"),
        (Kind.IDENTITY, None, "GET /signature", "POD109"),
        (Kind.ANOTHER_POD, None, "GET /count", None),
    ],
)
def test_each_cause_has_the_rule_that_finds_it(
    kind: Kind, state: Cause | None, route: str, expected: str | None
) -> None:
    assert rule(kind, state, route) == expected
