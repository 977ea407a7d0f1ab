"""The bars on the labelled corpus: what is found, and what is told that is not so."""

from __future__ import annotations

import pytest
from tests.check.truth import Truth, measure


@pytest.fixture(scope="module")
def truth() -> Truth:
    return measure()


def test_the_corpus_is_large_enough(truth: Truth) -> None:
    assert len(truth.expected()) >= 150
    assert sum(x.is_trap for x in truth.labels) >= 200
    assert {x.depth for x in truth.labels if x.rules} >= {0, 1, 2, 4}


def test_recall(truth: Truth) -> None:
    expected = truth.expected()
    missed = expected - truth.found
    assert len(missed) <= 0.05 * len(expected), sorted(missed)


def test_precision(truth: Truth) -> None:
    expected = truth.expected()
    errors = {k for k in truth.found if truth.severities[k] == "error"}
    assert len(errors - expected) <= 0.03 * len(errors), sorted(errors - expected)
    assert len(truth.found - expected) <= 0.15 * len(truth.found), sorted(truth.found - expected)


def test_no_trap_is_reported(truth: Truth) -> None:
    traps = {(x.project, x.path, x.line) for x in truth.labels if x.is_trap}
    assert not {k for k in truth.found if k[:3] in traps}
