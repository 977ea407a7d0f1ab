"""A workload made of an OpenAPI document: links, seeds, bounds, and documents that are none."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis.configuration
import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove import generated
from anypod.prove.engine import prove
from anypod.prove.events import Outcome
from anypod.prove.recording import Recording, Written
from anypod.prove.schedules import Kind
from anypod.prove.workload import WorkloadError, load
from anypod.replicas import Application

SHOP = """
    import os, secrets, sqlite3
    from typing import Annotated
    from fastapi import FastAPI, HTTPException
    from pydantic import BaseModel, Field

    app = FastAPI()
    LINKS = {201: {"links": {
        "show": {"operationId": "show", "parameters": {"number": "$response.body#/number"}},
        "drop": {"operationId": "drop", "parameters": {"number": "$response.body#/number"}},
    }}}

    class New(BaseModel):
        item: Annotated[str, Field(min_length=1, max_length=20)]

    class Order(New):
        number: str

    @app.post("/orders", status_code=201, operation_id="create", responses=LINKS)
    def create(new: New) -> Order:
        order = Order(number=secrets.token_hex(8), item=new.item)
        orders[order.number] = order.item
        return order

    @app.get("/orders/{number}", operation_id="show")
    def show(number: str) -> Order:
        if number not in orders:
            raise HTTPException(404)
        return Order(number=number, item=orders[number])

    @app.delete("/orders/{number}", operation_id="drop", status_code=204)
    def drop(number: str) -> None:
        if number not in orders:
            raise HTTPException(404)
        del orders[number]

    @app.post("/broken")
    def broken() -> None:
        raise ValueError
"""
BROKEN = f"{SHOP}\n    orders = {{}}\n"
FIXED = f"""{SHOP}
    class Orders:
        def __init__(self):
            self.path = os.environ["DATABASE_URL"].removeprefix("sqlite:///")
            self.run("CREATE TABLE IF NOT EXISTS orders (number PRIMARY KEY, item)")

        def run(self, *statement):
            database = sqlite3.connect(self.path, timeout=20)
            with database:
                rows = database.execute(*statement).fetchall()
            database.close()
            return rows

        def __setitem__(self, number, item):
            self.run("INSERT INTO orders VALUES (?, ?)", (number, item))

        def __contains__(self, number):
            return bool(self.run("SELECT 1 FROM orders WHERE number = ?", (number,)))

        def __getitem__(self, number):
            return self.run("SELECT item FROM orders WHERE number = ?", (number,))[0][0]

        def __delitem__(self, number):
            self.run("DELETE FROM orders WHERE number = ?", (number,))

    orders = Orders()
"""
PLAIN = """
    count = 0

    def app(environ, start):
        global count
        count += environ["REQUEST_METHOD"] == "POST"
        start("200 OK", [("Content-Type", "application/json")])
        return [str(count).encode()]
"""
COUNTER = """
openapi: 3.0.3
info: {title: counter, version: "1"}
servers: [{url: /api}]
paths:
  /counter:
    get: {responses: {"200": {description: ok}}}
  /increment:
    post: {responses: {"200": {description: ok}}}
"""


@pytest.fixture(autouse=True)
def _home() -> Iterator[None]:
    """The tests' own Hypothesis keeps its folder."""
    yield
    hypothesis.configuration.set_hypothesis_home_dir(None)


Generate = Callable[..., tuple[Written, tuple[str, ...]]]


@pytest.fixture
def generate(project: Project, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Makes a workload of a document, with a replica of the project's service."""

    def make(
        source: str, *, seed: int = 0, name: str = "made.http"
    ) -> tuple[Written, tuple[str, ...]]:
        monkeypatch.chdir(project.path)
        recording = Recording(project.path / ".anypod" / name, "Made in a test.")
        application = Application("service:app", project.path, project.env())
        notes = generated.generate(application, source, recording, seed=seed, start_timeout=60.0)
        return recording.write(), notes

    return make


def command(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "anypod", "prove", "service:app", *arguments],
        cwd=project.path, env=project.env({"COLUMNS": "200"}), capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip


# --- what it finds


@pytest.mark.parametrize(
    ("source", "causes"), [(BROKEN, {"orders"}), (FIXED, set())], ids=["broken", "fixed"]
)
def test_a_bug_that_a_link_leads_to_is_found_and_its_fixed_twin_passes(
    project: Project,
    generate: Generate,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    causes: set[str],
) -> None:
    monkeypatch.setattr(generated, "FEWEST", 12)
    project.write(source)
    written, notes = generate("/openapi.json")
    assert written.path is not None
    assert "3 of 4 operations answered" in notes
    assert re.search(r"left out: \d+ × POST /broken was answered with 5xx", "\n".join(notes))
    application = Application("service:app", project.path, project.env())
    only = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD}))
    verdict = prove(application, load(written.path), only)
    assert {one.cause.name for one in verdict.divergences if one.cause} == causes, verdict
    assert verdict.outcome is (Outcome.DIFFERENT if causes else Outcome.NO_DIFFERENCE)
    if causes:
        linked = {"GET /orders/{number}", "DELETE /orders/{number}"}
        assert linked & {one.route for one in verdict.divergences}
    assert verdict.not_exercised == ("POST /broken",)


def test_at_the_terminal(project: Project) -> None:
    project.write(PLAIN)
    (project.path / "api.yaml").write_text(COUNTER)
    done = command(project, "--openapi", "api.yaml", "--schedule", "another-pod")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 requests of .anypod/openapi.http" in done.stdout
    assert "DIFFERS  GET /api/counter" in done.stdout
    assert "2 of 2 operations answered" in done.stderr


# --- the workload


def test_links_become_references_and_a_seed_repeats_it(
    project: Project, generate: Generate
) -> None:
    project.write(BROKEN)
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        written, _ = generate("/openapi.json", seed=seed, name=f"{number}.http")
        assert written.path is not None
        assert written.requests <= generated.FEWEST
        texts.append(re.sub(r"[0-9a-f]{16}", "ID", written.path.read_text()))
    assert texts[0] == texts[1] != texts[2]
    assert re.search(
        r"^GET /orders/\{\{post_orders\w*\.response\.body\.\$\.number\}\}", texts[0], re.MULTILINE
    )
    assert re.search(r"^DELETE /orders/\{\{post_orders", texts[0], re.MULTILINE)
    steps = load(project.path / ".anypod" / "0.http").steps
    assert {404, 201, 200, 204} == {step.recorded for step in steps}, (
        "what a link led to is kept when it is refused"
    )


def test_operations_without_links_are_asked_too(project: Project, generate: Generate) -> None:
    """In YAML, under the path of a server."""
    project.write(PLAIN)
    (project.path / "api.yaml").write_text(COUNTER)
    written, notes = generate("api.yaml")
    assert written.path is not None
    labels = [step.label for step in load(written.path).steps]
    assert labels == ["POST /api/increment", "GET /api/counter"]
    assert notes == ("2 of 2 operations answered",)


def test_a_document_of_many_operations_is_bounded(
    project: Project, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generated, "MOST", 10)
    project.write(PLAIN)
    get = {"get": {"responses": {"200": {"description": "ok"}}}}
    document = {"openapi": "3.1.0", "info": {"title": "x", "version": "1"}}
    document["paths"] = {f"/thing{number}": get for number in range(40)}  # type: ignore[assignment]
    (project.path / "many.json").write_text(json.dumps(document))
    written, notes = generate("many.json")
    assert written.requests == 10
    assert "30 operations were not asked: a workload of a document has 10 requests" in notes


# --- what is no document


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("page.html", "<html><p>x</p></html>", "expected an OpenAPI document"),
        ("list.json", "[1]", "expected an OpenAPI document"),
        ("deep.json", "[" * 200_000, "expected an OpenAPI document"),
        ("torn.yaml", "openapi: 3.0.0\n  a: [b\n", "torn.yaml:2: expected JSON or YAML"),
        ("new.json", '{"openapi": "9.9", "paths": {"/": {}}}', "not supported"),
        ("empty.json", '{"openapi": "3.1.0", "paths": {}}', "describes no operations"),
        ("large.json", " " * (generated.MOST_BYTES + 1), "is larger than 16 MiB"),
        (None, "none.json", "cannot be read: No such file or directory"),
        (None, "http://u:secret@127.0.0.1:1/x", "cannot be read"),
        (None, "ftp://127.0.0.1/x", "expected a file, or a URL"),
        (None, "/nothing.json", "expected an OpenAPI document"),
    ],
    ids=[
        "html",
        "list",
        "deep",
        "torn",
        "version",
        "empty",
        "large",
        "missing",
        "refused",
        "scheme",
        "answer",
    ],
)
def test_what_is_no_document(
    project: Project, generate: Generate, name: str | None, content: str, said: str
) -> None:
    project.write(PLAIN)
    if name:
        (project.path / name).write_text(content)
    with pytest.raises(WorkloadError) as wrong:
        generate(name or content)
    assert said in str(wrong.value)
    assert "secret" not in str(wrong.value)


def test_a_reference_that_leads_nowhere_is_told(project: Project, generate: Generate) -> None:
    project.write(PLAIN)
    broken = {"get": {"responses": {"200": {"$ref": "#/nowhere"}}}}
    document = {"openapi": "3.1.0", "info": {"title": "x", "version": "1"}, "paths": {"/a": broken}}
    (project.path / "a.json").write_text(json.dumps(document))
    written, _ = generate("a.json")
    assert written.path is None
    assert "operations that cannot be understood: Unresolvable reference" in written.notes[0]


def test_without_schemathesis_it_says_what_to_install(
    generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "schemathesis", None)
    with pytest.raises(WorkloadError, match=r"pip install 'anypod\[openapi\]'"):
        generate("api.json")


def test_a_service_that_does_not_start(project: Project) -> None:
    project.write("raise RuntimeError('no settings')")
    done = command(project, "--openapi", "/openapi.json")
    assert done.returncode == 2
    assert "RuntimeError: no settings" in done.stderr
    assert not Path(project.path, ".anypod", "openapi.http").exists()
