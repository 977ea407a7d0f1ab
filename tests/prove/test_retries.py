"""Retries: what may be delivered twice must bear it, and what is said where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project
from tests.prove.small import SHARED, small

from anypod.prove.schedules import Kind
from anypod.report.words import why

REFUNDS = """
    @route("POST /refund")
    def refund(body):
        write("paid", int(read("paid") or 0) + 5)
        return {}

    @route("GET /paid")
    def paid(body):
        return {"paid": read("paid")}
"""


@pytest.mark.parametrize(
    ("mark", "strict", "code"),
    [("", False, 0), ("# @retry\n", False, 1), ("", True, 1)],
)
def test_only_what_may_be_retried_must_bear_it(
    project: Project, mark: str, strict: bool, code: int
) -> None:
    small(project, REFUNDS)
    options = replace(FEW, strict_retry=strict, schedules=frozenset({Kind.RETRY}))
    verdict = project.prove(f"{mark}POST /refund\n\n###\nGET /paid\n", options=options)
    assert verdict.exit_code == code
    assert [item.route for item in verdict.not_retry_safe] == ([] if code else ["POST /refund"])
    for divergence in verdict.divergences:
        assert (divergence.route, divergence.seen_at) == ("POST /refund", "GET /paid")


def test_what_a_second_delivery_showed_once_is_said_of_no_write(
    project: Project, tmp_path: Path
) -> None:
    """Rows of one second have no order: an answer may be another one now and then."""
    runs = tmp_path / "runs"
    small(
        project,
        f"""
        runs = Path({str(runs)!r})

        @route("POST /note")
        def note(body):
            write("note", "written")
            return {{}}

        @route("GET /note")
        def show(body):
            runs.write_text((runs.read_text() if runs.exists() else "") + "x")
            # Three runs teach what one replica answers, the fourth is the first with a duplicate.
            return {{"note": read("note"), "order": 2 if len(runs.read_text()) == 4 else 1}}
        """,
    )
    options = replace(FEW, schedules=frozenset({Kind.RETRY}))
    verdict = project.prove("POST /note\n\n###\nGET /note\n", options=options)
    assert len(runs.read_text()) > 4
    assert (verdict.exit_code, verdict.not_retry_safe) == (0, ())


def test_a_lost_answer_is_told_with_its_second_delivery(project: Project) -> None:
    """Nobody gives up after a lost answer, and what the pod that is asked again lacks is not lost twice."""
    small(
        project,
        """
        notes = {}

        @route("POST /note")
        def post(body):
            notes["note"] = 1
            return {"revision": 1}

        @route("PUT /note")
        def put(body):
            if "note" not in notes:
                return 404, {"revision": 0}
            notes["note"] = 2
            return {"revision": notes["note"]}

        @route("DELETE /note")
        def delete(body):
            if notes.get("note") != json.loads(body or "{}").get("revision"):
                return 409, {}
            del notes["note"]
            return {}

        @route("GET /note")
        def get(body):
            return {"note": notes.get("note")}
        """,
    )
    workload = """\
        POST /note

        ###
        # @name put
        PUT /note

        ###
        DELETE /note

        {"revision": {{put.response.body.$.revision}}}

        ###
        GET /note
        """
    options = replace(FEW, schedules=frozenset({Kind.RETRY}))
    verdict = project.prove(workload, options=options)
    assert verdict.divergences
    for divergence in verdict.divergences:
        lost = [r.line for r in divergence.requests if r.lost]
        assert set(lost) <= {r.line for r in divergence.requests if r.duplicate}
        assert "takes effect twice" not in why(divergence)
        assert divergence.cause is not None
        assert (divergence.cause.name, divergence.cause.verified) == ("notes", False)
        assert divergence.rule == "POD101"


def test_a_retry_that_the_route_bears_is_no_difference(project: Project) -> None:
    small(project, REFUNDS.replace('int(read("paid") or 0) + 5', "5"))
    verdict = project.prove("# @retry\nPOST /refund\n\n###\nGET /paid\n")
    assert verdict.exit_code == 0
    assert verdict.coverage is not None
    assert verdict.coverage.retries == (3, 3)


def test_an_answer_that_changes_with_each_retry_is_taken_once(project: Project) -> None:
    """The time of a write comes back from later reads: whichever delivery the client believes."""
    small(
        project,
        """
        import uuid

        @route("PUT /value")
        def put(body):
            write("revision", uuid.uuid4().hex)
            return {"revision": read("revision")}

        @route("GET /value")
        def get(body):
            return {"revision": read("revision")}
        """,
    )
    verdict = project.prove("PUT /value\n\nx\n\n###\nGET /value\n")
    assert verdict.exit_code == 0, verdict.divergences


def test_a_retry_that_nothing_reads_later_is_said_not_to_be_observable(project: Project) -> None:
    small(project, SHARED)
    verdict = project.prove("GET /value\n\n###\nPUT /value\n\nx\n")
    assert "retry of PUT /value not observable: no later read" in verdict.not_tried
