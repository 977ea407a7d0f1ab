"""Two requests at once on two replicas: lost updates and lost uniqueness are found, refusals are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove.events import Outcome, Verdict
from anypod.prove.schedules import TRIED, Kind

OVERLAP = replace(FEW, schedules=frozenset({Kind.OVERLAP}))
OTHERS = replace(FEW, schedules=frozenset(TRIED) - {Kind.OVERLAP, Kind.DEPLOY})

DATABASE = """
    import os, sqlite3, time

    FILE = os.environ["DATABASE_URL"].removeprefix("sqlite:///")

    def run(*statement):
        database = sqlite3.connect(FILE, timeout=10)
        try:
            with database:
                return database.execute(*statement).fetchall()
        finally:
            database.close()
"""
# The barrier in the shared database lets both requests come to the dangerous moment, if there are two.
SERVICE = (
    DATABASE
    + """
    run("CREATE TABLE IF NOT EXISTS stock (left INTEGER)")
    run("CREATE TABLE IF NOT EXISTS names (name TEXT {unique})")
    run("CREATE TABLE IF NOT EXISTS here (n INTEGER)")
    if not run("SELECT * FROM stock"):
        run("INSERT INTO stock VALUES (10)")

    def meet():
        run("INSERT INTO here VALUES (1)")
        until = time.monotonic() + 0.2
        while run("SELECT count(*) FROM here")[0][0] % 2 and time.monotonic() < until:
            time.sleep(0.002)  # polls, for 0.2 s at most

    def change(what):
        {change}

    def app(environ, start):
        status = "200 OK"
        if environ["REQUEST_METHOD"] == "POST":
            status = change(environ["PATH_INFO"])
        start(status, [("Content-Type", "text/plain")])
        return [] if environ["REQUEST_METHOD"] == "POST" else [
            repr((run("SELECT * FROM stock"), run("SELECT name FROM names"))).encode()
        ]
"""
)
LOST_UPDATE = """
        left = run("SELECT left FROM stock")[0][0]
        meet()
        run("UPDATE stock SET left = ?", (left - 1,))
        return "204 No Content"
"""
ATOMIC = """
        meet()
        run("UPDATE stock SET left = left - 1")
        return "204 No Content"
"""
CHECK_THEN_INSERT = """
        if run("SELECT * FROM names WHERE name = 'a'"):
            return "409 Conflict"
        meet()
        try:
            run("INSERT INTO names VALUES ('a')")
        except sqlite3.IntegrityError:
            return "{refused}"
        return "201 Created"
"""
WORKLOAD = "POST /stock\n\n###\nGET /stock\n"


def proved(
    project: Project, change: str, *, unique: str = "", options: object = OVERLAP
) -> Verdict:
    project.write(SERVICE.format(change=change.strip(), unique=unique))
    return project.prove(WORKLOAD, options=options)  # type: ignore[arg-type]


def test_a_lost_update_comes_out_as_in_neither_order(project: Project) -> None:
    assert proved(project, LOST_UPDATE, options=OTHERS).outcome is Outcome.NO_DIFFERENCE
    verdict = proved(project, LOST_UPDATE)
    (found,) = verdict.divergences
    assert (found.route, found.seen_at) == ("POST /stock", "GET /stock")
    assert (found.schedule, found.confirmed, found.rule) == (Kind.OVERLAP, 3, "POD107")
    assert [(r.pod, r.overlaps) for r in found.requests] == [(1, False), (2, True), (1, False)]
    assert "8" in found.expected
    assert "9" in found.got


def test_an_atomic_update_is_no_difference(project: Project) -> None:
    verdict = proved(project, ATOMIC)
    assert (verdict.outcome, verdict.contended) == (Outcome.NO_DIFFERENCE, ())
    assert verdict.coverage is not None
    assert verdict.coverage.overlaps == (2, 2)  # beside itself, and beside the read


def test_an_answer_that_shows_the_other_ones_work_is_less(project: Project) -> None:
    project.write(
        SERVICE.format(change='return "200 OK"', unique="").replace(
            'return [] if environ["REQUEST_METHOD"] == "POST" else [',
            """if environ["REQUEST_METHOD"] == "PUT":
            run("UPDATE stock SET left = ?", (int(environ["QUERY_STRING"]),))
            meet()
        return [""",
        )
    )
    verdict = project.prove(
        "PUT /stock?1\n\n###\nPUT /stock?2\n\n###\nGET /stock\n", options=OVERLAP
    )
    assert verdict.outcome is Outcome.NO_DIFFERENCE
    assert verdict.contended
    assert {one.failed for one in verdict.contended} == {"PUT /stock"}


def test_a_lost_uniqueness_is_a_difference(project: Project) -> None:
    verdict = proved(project, CHECK_THEN_INSERT)
    (found,) = verdict.divergences
    assert found.schedule is Kind.OVERLAP


@pytest.mark.parametrize(
    ("refused", "told"), [("500 Oops", ("201", "500")), ("409 Conflict", None)]
)
def test_a_constraint_that_holds_is_less(
    project: Project, refused: str, told: tuple[str, ...] | None
) -> None:
    change = CHECK_THEN_INSERT.format(refused=refused)
    verdict = proved(project, change, unique="UNIQUE")
    assert (verdict.outcome, verdict.exit_code) == (Outcome.NO_DIFFERENCE, 0)
    assert [tuple(sorted(one.answers)) for one in verdict.contended] == ([told] if told else [])


def test_what_differs_one_after_the_other_too_is_left_to_the_others(project: Project) -> None:
    project.write(
        """
        visits = []
        def app(environ, start):
            if environ["REQUEST_METHOD"] == "POST":
                visits.append(1)
            start("200 OK", [("Content-Type", "text/plain")])
            return [str(len(visits)).encode()]
        """
    )
    verdict = project.prove("POST /visits\n\n###\nGET /visits\n", options=OVERLAP)
    assert verdict.divergences == ()


READS = (
    DATABASE
    + """
    run("CREATE TABLE IF NOT EXISTS account (id PRIMARY KEY, cents)")
    run("CREATE TABLE IF NOT EXISTS cached (cents)")
    run("CREATE TABLE IF NOT EXISTS here (who)")
    if not run("SELECT * FROM account"):
        run("INSERT INTO account VALUES ('a', 100), ('b', 0)")

    def arrive(who):
        run("INSERT INTO here VALUES (?)", (who,))

    def wait_for(who):
        until = time.monotonic() + 0.2
        while not run("SELECT * FROM here WHERE who = ?", (who,)) and time.monotonic() < until:
            time.sleep(0.002)  # polls, for 0.2 s at most

    def transfer():
        wait_for("read")
        run("UPDATE account SET cents = 100 - cents")
        run("DELETE FROM cached")
        arrive("written")

    def show():
        {show}

    def app(environ, start):
        start("200 OK", [("Content-Type", "text/plain")])
        return [repr(transfer() if environ["REQUEST_METHOD"] == "POST" else show()).encode()]
"""
)
TORN = """
        first = run("SELECT cents FROM account WHERE id = 'a'")
        arrive("read")
        wait_for("written")
        return first, run("SELECT cents FROM account WHERE id = 'b'")
"""
LATE_FILL = """
        if known := run("SELECT cents FROM cached"):
            return known
        found = run("SELECT cents FROM account WHERE id = 'a'")
        arrive("read")
        wait_for("written")
        run("INSERT INTO cached VALUES (?)", found[0])
        return found
"""
WHOLE = """
        arrive("read")
        wait_for("written")
        return run("SELECT cents FROM account ORDER BY id")
"""
TRANSFER = "GET /account\n\n###\nPOST /account\n\n###\nGET /account\n"


@pytest.mark.parametrize(
    ("show", "seen"),
    [(TORN, "GET /account"), (LATE_FILL, "GET /account"), (WHOLE, None)],
    ids=["torn", "filled late", "whole"],
)
def test_a_read_beside_a_write_shows_before_or_after(
    project: Project, show: str, seen: str | None
) -> None:
    project.write(READS.format(show=show.strip()))
    assert project.prove(TRANSFER, options=OTHERS).divergences == ()
    verdict = project.prove(TRANSFER, options=OVERLAP)
    assert [(d.route, d.schedule, d.confirmed) for d in verdict.divergences] == (
        [(seen, Kind.OVERLAP, 3)] if seen else []
    )
    assert verdict.coverage is not None
    assert verdict.coverage.overlaps == (2, 2)
    for found in verdict.divergences:
        assert {r.method for r in found.requests if r.overlaps} <= {"GET", "POST"}
        assert "in neither order" in found.hint


def test_what_an_overlap_did_not_try_is_said(project: Project) -> None:
    project.write(READS.format(show=WHOLE.strip()))
    verdict = project.prove(TRANSFER, options=OVERLAP)
    assert any("more than two" in item for item in verdict.not_tried)


def test_a_pair_that_differs_apart_is_said_not_to_be_tried(project: Project) -> None:
    project.write(
        """
        visits = []
        def app(environ, start):
            if environ["REQUEST_METHOD"] == "POST":
                visits.append(1)
            start("200 OK", [("Content-Type", "text/plain")])
            return [str(len(visits)).encode()]
        """
    )
    verdict = project.prove("POST /visits\n\n###\nGET /visits\n", options=OVERLAP)
    assert any(item.startswith("overlap of 2 pairs") for item in verdict.not_tried)
