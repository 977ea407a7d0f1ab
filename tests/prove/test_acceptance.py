"""Accepted differences: known again, each with a reason, and told when nobody needs them any more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, Project
from tests.prove.verdicts import COUNTER, MOVED, REFUND

from anypod.prove.acceptance import TODO, AcceptanceError, parted, read, write
from anypod.prove.events import Event, Outcome, Warned
from anypod.prove.schedules import Kind


def accept(path: Path, reason: str) -> None:
    document = json.loads(path.read_text())
    for entry in document["accepted"]:
        entry["reason"] = reason
    path.write_text(json.dumps(document))


def test_what_was_written_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    assert write(path, [COUNTER, REFUND, MOVED]) == 3
    accept(path, "only a demonstration")
    entries = read(path)
    # Another schedule, another line, other values: the same state of the same route.
    assert COUNTER.cause is not None
    again = replace(
        COUNTER, schedule=Kind.POD_MOVED, got="7", cause=replace(COUNTER.cause, line=99)
    )
    other_state = replace(COUNTER, cause=replace(COUNTER.cause, name="other"))
    counting, accepted, unused = parted([again, other_state, REFUND], entries)
    assert counting == (other_state,)
    assert [one.route for one in accepted] == ["GET /counter", "POST /refund"]
    assert {one.accepted for one in accepted} == {"only a demonstration"}
    assert [entry.route for entry in unused] == [MOVED.route]
    # Reasons survive when the file is written anew.
    assert write(path, [COUNTER, other_state], entries) == 1
    assert [e["reason"] for e in json.loads(path.read_text())["accepted"]] == [
        "only a demonstration",
        TODO,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "--write-baseline"),
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ('{"format": 2, "accepted": []}', "expected an object"),
        ('{"format": 1, "accepted": {}}', "must be a list"),
        ('{"format": 1, "accepted": ["x"]}', "accepted[0] must be an object"),
        ('{"format": 1, "accepted": [{"route": 3}]}', "accepted[0].route must be a text"),
        ('{"format": 1, "accepted": [{"reason": "why"}]}', "names no route"),
        (
            '{"format": 1, "accepted": [{"route": "GET /", "shown_by": "retry"}]}',
            "accepted[0] (GET /) has no reason",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "accepted.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AcceptanceError) as refused:
        read(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_reason_that_nobody_wrote_is_none(tmp_path: Path) -> None:
    path = tmp_path / "accepted.json"
    write(path, [COUNTER])
    with pytest.raises(AcceptanceError, match="has no reason"):
        read(path)


COUNTING = """
    visits = []
    def app(environ, start):
        if environ["REQUEST_METHOD"] == "POST":
            visits.append(1)
        start("200 OK", [("Content-Type", "text/plain")])
        return [str(len(visits)).encode()]
"""


def test_an_accepted_difference_does_not_count(project: Project, tmp_path: Path) -> None:
    project.write(COUNTING)
    workload = "POST /visits\n\n###\nGET /visits\n"
    options = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD}))
    found = project.prove(workload, options=options)
    assert found.outcome is Outcome.DIFFERENT
    path = tmp_path / "accepted.json"
    write(path, [*found.divergences, REFUND])
    accept(path, "visits are only shown to us")
    events: list[Event] = []
    verdict = project.prove(
        workload, options=replace(options, accepted=read(path)), log=events.append
    )
    assert (verdict.outcome, verdict.exit_code) == (Outcome.ACCEPTED, 0)
    assert verdict.accepted[0].accepted == "visits are only shown to us"
    assert "no response differed from one replica but for 1 accepted difference." in verdict.claim
    warned = [event.text for event in events if isinstance(event, Warned)]
    assert "accepted, but not seen any more: POST /refund (retry)" in warned
