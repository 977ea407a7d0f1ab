"""Every planted bug is found and told with its state; in safe services nothing is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.prove.truth import WITHOUT_STATE, Service, judge, services, told

from anypod.prove.events import Outcome
from anypod.prove.schedules import TRIED, Kind

CORPUS = tuple(services())
BUGS = [bug for service in CORPUS for bug in service.bugs]
SAFE = [service for service in CORPUS if not service.bugs]


@pytest.mark.parametrize("service", CORPUS, ids=lambda service: service.name)
def test_what_is_found_is_what_was_planted(service: Service, tmp_path: Path) -> None:
    judged = judge(service, service.prove(tmp_path))
    verdict = judged.verdict
    assert verdict.outcome is (Outcome.DIFFERENT if service.bugs else Outcome.NO_DIFFERENCE), told(
        judged
    )
    assert not judged.missed, "\n".join(told(judged))
    assert not judged.false, "\n".join(told(judged))
    assert not judged.wrong_causes, "\n".join(told(judged))
    assert not judged.unverified, "\n".join(told(judged))
    assert not verdict.partial, verdict.not_tried


def test_the_corpus_is_large_and_has_every_schedule() -> None:
    assert len(BUGS) >= 60
    assert len(SAFE) >= 25
    assert {bug.kind for bug in BUGS} == {*TRIED, Kind.IDENTITY}
    kinds = {bug.state.split(" ")[0] for bug in BUGS if bug.state}
    assert {"global", "class", "closure", "default", "cache", "file", "database"} == kinds
    stateful = [bug for bug in BUGS if bug.kind not in WITHOUT_STATE and bug.state]
    assert len(stateful) >= 40
