"""How many worlds play at once, and when they stop."""

from __future__ import annotations

import pytest

from anypod.prove.fleet import Deadline, shares_a_store

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("name", "value", "shared"),
    [
        ("DATABASE_URL", "postgresql://localhost/shop", True),
        ("DATABASE_URL", "sqlite:////srv/shop.db", True),
        ("REDIS_HOST", "localhost", True),
        ("ANYPOD_URL", "redis://localhost", True),
        ("PGHOST", "/run/postgresql", True),
        ("CELERY_BROKER_URL", "amqp://localhost", True),
        ("SENTRY_DSN", "https://sentry.example.com/1", False),
        ("DATABASE_URL", "", False),
        ("PATH", "/usr/bin", False),
        ("GITHUB_SERVER_URL", "https://github.com", False),
        ("PGPORT", "5432", False),
    ],
)
def test_what_the_user_brings_exists_once(name: str, value: str, shared: bool) -> None:
    assert shares_a_store({name: value}) is shared


def test_a_deadline_follows_its_clock() -> None:
    now = 100.0
    deadline = Deadline(5.0, lambda: now)
    assert (deadline.left(), deadline.stop()) == (5.0, False)
    now = 104.0
    assert (deadline.left(), deadline.stop()) == (1.0, False)
    now = 105.0
    assert (deadline.left(), deadline.stop(), deadline.spent()) == (0.0, True, True)
    assert not deadline.interrupted


def test_an_interruption_stops_at_once() -> None:
    deadline = Deadline(1e9)
    assert not deadline.stop()
    deadline.interrupt()
    assert deadline.stop()
    assert deadline.interrupted
    assert not deadline.spent()
