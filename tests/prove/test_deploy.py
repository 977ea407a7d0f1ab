"""Deploys: what an import, or an end, does to state that all pods share."""

from __future__ import annotations

from dataclasses import replace

from tests.prove.conftest import FEW, Project

from anypod.prove.events import Outcome
from anypod.prove.schedules import TRIED, Kind, deploy

DATABASE = """
    import os, sqlite3

    FILE = os.environ["DATABASE_URL"].removeprefix("sqlite:///")

    def run(*statement):
        with sqlite3.connect(FILE) as database:
            rows = database.execute(*statement).fetchall()
        database.close()
        return rows

    {start}

    def app(environ, start):
        if environ["REQUEST_METHOD"] == "POST":
            run("INSERT INTO notes (text) VALUES ('a')")
            start("204 No Content", [])
            return []
        start("200 OK", [("Content-Type", "text/plain")])
        return [str(run("SELECT count(*) FROM notes")[0][0]).encode()]
"""
KEEPS = 'run("CREATE TABLE IF NOT EXISTS notes (text TEXT)")'
WIPES = 'run("DROP TABLE IF EXISTS notes"); run("CREATE TABLE notes (text TEXT)")'
WORKLOAD = "POST /notes\n\n###\nGET /notes\n\n###\nPOST /notes\n\n###\nGET /notes\n"
OTHERS = replace(FEW, schedules=frozenset(TRIED) - {Kind.DEPLOY})


def test_each_deploy_replaces_every_pod_while_requests_go_on() -> None:
    (schedule,) = deploy(9, 3, {2, 5}, 4)
    places = [(d.slot, d.life) for d in schedule.deliveries]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]
    assert schedule.starts == 9
    # No deploy after the last request, and no more in one schedule than asked for.
    assert [s.name for s in deploy(6, 2, {0, 1, 2, 3, 5}, 2)] == [
        "deployed after request 1, 3",
        "deployed after request 2, 4",
    ]
    assert not list(deploy(3, 2, {2}, 4))


def test_an_import_that_empties_the_database(project: Project) -> None:
    project.write(DATABASE.format(start=WIPES))
    assert project.prove(WORKLOAD, options=OTHERS).outcome is Outcome.NO_DIFFERENCE
    verdict = project.prove(WORKLOAD)
    assert verdict.outcome is Outcome.DIFFERENT
    (found,) = verdict.divergences
    assert (found.route, found.schedule, found.confirmed) == ("GET /notes", Kind.DEPLOY, 3)
    assert (found.expected, found.got) == ("1", "0")
    assert found.requests[-1].status == 200


def test_an_import_that_keeps_what_is_there(project: Project) -> None:
    project.write(DATABASE.format(start=KEEPS))
    verdict = project.prove(WORKLOAD)
    assert (verdict.outcome, verdict.exit_code) == (Outcome.NO_DIFFERENCE, 0)
    assert verdict.coverage is not None
    assert verdict.coverage.deploys == (1, 1)
    assert "a rolling deploy" not in verdict.not_tried


def test_a_deploy_of_one_replica(project: Project) -> None:
    project.write(DATABASE.format(start=WIPES))
    options = replace(FEW, replicas=1, schedules=frozenset({Kind.DEPLOY}))
    verdict = project.prove(WORKLOAD, options=options)
    (found,) = verdict.divergences
    assert [(r.pod, r.incarnation, r.replaced) for r in found.requests] == [
        (1, 1, False),
        (1, 2, True),
    ]


def test_what_another_schedule_showed_is_not_told_again(project: Project) -> None:
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
    verdict = project.prove("POST /visits\n\n###\nGET /visits\n")
    (found,) = verdict.divergences
    assert found.schedule is Kind.ANOTHER_POD
