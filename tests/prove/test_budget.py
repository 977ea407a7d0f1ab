"""What ends a proof before its plan does: the budget, somebody's Ctrl-C."""

from __future__ import annotations

from dataclasses import replace

from tests.prove.conftest import FEW, Project
from tests.prove.small import SHARED, SHARED_WORKLOAD, small

from anypod.prove.events import Event, Found, Opened, Outcome, Planned, Progress
from anypod.prove.schedules import Kind


class Hands:
    """A clock that stands still until it is moved, and a listener that moves it at an event."""

    def __init__(self, at: type, by: float) -> None:
        self.time = 1000.0
        self._at, self._by = at, by

    def now(self) -> float:
        return self.time

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._at):
            self.time += self._by


def test_a_budget_that_ends_says_what_was_left_out(project: Project) -> None:
    small(project, SHARED)
    hands = Hands(Planned, 1000.0)
    verdict = project.prove(SHARED_WORKLOAD, log=hands, now=hands.now)
    assert verdict.partial
    assert verdict.inconclusive
    assert verdict.exit_code == 2
    assert any("stale copy schedules: the time was used up" in item for item in verdict.not_tried)
    assert verdict.claim.endswith("nothing was compared.")


def test_a_budget_that_does_not_hold_the_baselines_says_so(project: Project) -> None:
    small(project, SHARED)
    hands = Hands(Opened, 0.0)
    options = replace(FEW, budget=-1.0)
    verdict = project.prove(SHARED_WORKLOAD, options=options, log=hands, now=hands.now)
    assert verdict.outcome is Outcome.COULD_NOT_RUN
    assert "--budget" in verdict.reason
    assert "to copy the project" in verdict.reason


def test_an_interruption_ends_in_a_partial_verdict(project: Project) -> None:
    small(project, SHARED)

    def interrupt(event: Event) -> None:
        if isinstance(event, Progress):
            raise KeyboardInterrupt

    verdict = project.prove(SHARED_WORKLOAD, log=interrupt)
    assert verdict.partial
    assert verdict.exit_code == 2
    assert verdict.not_tried[0] == "what was left when it was interrupted"
    assert verdict.coverage is not None
    assert verdict.coverage.schedules[0] >= 1


def test_an_interruption_before_the_first_schedule_claims_nothing(project: Project) -> None:
    small(project, SHARED)

    def interrupt(event: Event) -> None:
        if isinstance(event, Planned):
            raise KeyboardInterrupt

    verdict = project.prove(SHARED_WORKLOAD, log=interrupt)
    assert verdict.exit_code == 2
    assert verdict.claim.endswith("0 schedules, 0 of 4 routes: nothing was compared.")
    assert not any(route.compared for route in verdict.routes)


def test_random_schedules_use_the_rest_of_the_budget(project: Project) -> None:
    project.write(
        """
        from flask import Flask, jsonify

        app = Flask(__name__)
        names = []


        @app.post("/names/<name>")
        def add(name):
            names.append(name)
            return "", 204


        @app.get("/names")
        def all_names():
            return jsonify(names)
        """
    )
    hands = Hands(Found, 1000.0)
    options = replace(FEW, schedules=frozenset({Kind.RETRY}), random=True, seed=7)
    verdict = project.prove(
        "POST /names/ann\n\n###\nGET /names\n", options=options, log=hands, now=hands.now
    )
    (found,) = verdict.divergences
    assert (found.route, found.schedule, found.cause and found.cause.verified) == (
        "GET /names", Kind.ANOTHER_POD, True
    )  # fmt: skip
    assert verdict.coverage is not None
    assert verdict.coverage.random >= 1
    assert verdict.seed == 7
    assert not verdict.partial
    assert verdict.coverage.schedules[0] == verdict.coverage.schedules[1]
