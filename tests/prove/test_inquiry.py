"""A route that differs for two reasons: both are found, whatever the first one hides."""

from __future__ import annotations

import textwrap

import pytest
from tests.prove.conftest import FEW, Project
from tests.prove.test_engine import small

from anypod.prove.engine import Options
from anypod.prove.events import Verdict
from anypod.prove.schedules import Kind

TWO_COUNTERS = """
    hits = 0
    orders = []

    @route("POST /hit")
    def hit(body):
        global hits
        hits += 1
        return {}

    @route("POST /order")
    def order(body):
        orders.append(body)
        return {}

    @route("GET /stats")
    def stats(body):
        return {shown}
"""


def causes(verdict: Verdict) -> set[tuple[str, str, str | None]]:
    return {(d.route, d.where, d.cause.name if d.cause else None) for d in verdict.divergences}


@pytest.mark.parametrize(
    ("shown", "places"),
    [
        ('{"hits": hits, "orders": len(orders)}', ("body $.hits", "body $.orders")),
        ('{"all": hits + len(orders)}', ("body $.all", "body $.all")),
    ],
    ids=["two places", "one place"],
)
@pytest.mark.parametrize("reads", [1, 2])
def test_a_second_global_behind_one_route(
    project: Project, shown: str, places: tuple[str, str], reads: int
) -> None:
    small(project, TWO_COUNTERS.replace("{shown}", shown))
    read = "###\nGET /stats\n\n"
    workload = f"POST /hit\n\n{read * (reads - 1)}###\nPOST /order\n\nbook\n\n{read}"
    verdict = project.prove(workload)
    assert causes(verdict) == {
        ("GET /stats", places[0], "hits"),
        ("GET /stats", places[1], "orders"),
    }
    assert all(d.cause is not None and d.cause.verified for d in verdict.divergences)
    assert all(len(d.requests) == 2 for d in verdict.divergences)


def test_a_read_that_counts_itself_hides_nothing(project: Project) -> None:
    small(
        project,
        TWO_COUNTERS.replace("def stats(body):", "def stats(body):\n        hit(body)").replace(
            "{shown}", '{"hits": hits, "orders": len(orders)}'
        ),
    )
    verdict = project.prove("GET /stats\n\n###\nPOST /order\n\nbook\n\n###\nGET /stats\n")
    assert ("GET /stats", "body $.orders", "orders") in causes(verdict)
    assert ("GET /stats", "body $.hits", "hits") in causes(verdict)


def test_two_stale_copies_of_one_page(project: Project) -> None:
    small(
        project,
        textwrap.dedent(
            """
            titles = {}
            bodies = {}

            @route("PUT /title")
            def put_title(body):
                write("title", body)
                titles.clear()
                return {}

            @route("PUT /body")
            def put_body(body):
                write("body", body)
                bodies.clear()
                return {}

            @route("GET /page")
            def page(body):
                if "title" not in titles:
                    titles["title"] = read("title")
                if "body" not in bodies:
                    bodies["body"] = read("body")
                return {"title": titles["title"], "body": bodies["body"]}
            """
        ),
    )
    workload = (
        "PUT /title\n\nA\n\n###\nPUT /body\n\nB\n\n###\nGET /page\n\n###\nPUT /title\n\nC\n\n"
        "###\nPUT /body\n\nD\n\n###\nGET /page\n"
    )
    verdict = project.prove(workload)
    found = {(d.schedule, d.cause.name) for d in verdict.divergences if d.cause}
    assert found == {(Kind.STALE_COPY, "titles"), (Kind.STALE_COPY, "bodies")}


def test_one_global_of_many_writers_is_one_difference(project: Project) -> None:
    small(
        project,
        """
        seen = []

        @route("POST /a")
        def a(body):
            seen.append("a")
            return {}

        @route("POST /b")
        def b(body):
            seen.append("b")
            return {}

        @route("GET /seen")
        def all_seen(body):
            return {"seen": len(seen)}
        """,
    )
    options = Options(replicas=3, budget=FEW.budget, timeout=FEW.timeout)
    verdict = project.prove("POST /a\n\n###\nPOST /b\n\n###\nGET /seen\n", options=options)
    assert causes(verdict) == {("GET /seen", "body $.seen", "seen")}
