"""Deploys: what an import, or an end, does to state that all pods share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove.events import Outcome
from anypod.prove.guesses import Nearness
from anypod.prove.plan import between
from anypod.prove.schedules import TRIED, Kind, deploy
from anypod.prove.workload import parse

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
    (schedule,) = deploy(9, 3, {2, 5})
    places = [(d.slot, d.life) for d in schedule.deliveries]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)]
    assert schedule.starts == 9
    assert not list(deploy(3, 2, frozenset()))


@pytest.mark.parametrize(
    ("requests", "cuts"),
    [
        ("PUT /a, GET /a", {0}),
        ("PUT /a, PUT /b, GET /a, GET /b", {1}),  # one between both writes and their last reads
        ("PUT /a, GET /a, PUT /b, GET /b", {0, 2}),
        ("PUT /a, GET /a, GET /a", {1}),
        ("GET /a, GET /b", set()),
        ("GET /a, PUT /a", set()),  # nothing reads what a deploy after the last request does
        ("PUT /a, GET /b, GET /c", {1}),  # something may have to do with it
    ],
)
def test_one_deploy_at_least_comes_between_a_write_and_its_last_read(
    requests: str, cuts: set[int]
) -> None:
    workload = parse("\n\n###\n".join(requests.split(", ")), Path("w.http"))
    assert between(workload, Nearness(workload, frozenset())) == cuts


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
