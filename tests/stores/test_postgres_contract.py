"""PostgreSQL keeps the contract of every store, and its promises about exchanges that break."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.servers import wait_until

from anypod.commands import Command
from anypod.stores import Store, open_store
from anypod.stores.conformance import CHECKS, Check, Ground, verify_faults
from anypod.stores.postgres import PostgresDriver
from anypod.stores.postgres.address import parse
from anypod.testing import FaultProxy

EXAMPLES = 40


@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", ["", "?prepare=off&connections=2"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Check, options: str, postgres_url: str) -> None:
    check(Ground(lambda: open_store(postgres_url + options), examples=EXAMPLES))


class _Observer(PostgresDriver):
    """Looks at the records only when every session that lost its client has ended.

    A server goes on with a command whose client is gone, and a probe of two commands could see the
    moment before and the moment after.
    """

    proxy: FaultProxy
    watch: psycopg.Connection[Any]

    def execute(self, command: Command[Any]) -> Any:
        wait_until(
            lambda: self._sessions() <= self.proxy.connections,
            "the end of the sessions whose connection broke",
        )
        return super().execute(command)

    def _sessions(self) -> int:
        row = self.watch.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'through'"
        ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.timeout(300)
def test_a_broken_exchange_is_told_as_it_is(postgres_url: str) -> None:
    observer = _Observer(parse(postgres_url))

    def through(proxy: FaultProxy) -> Store:
        observer.proxy = proxy
        return open_store(proxy.url(postgres_url) + "?timeout=0.5&application_name=through")

    upstream = ("127.0.0.1", urlsplit(postgres_url).port or 0)
    with psycopg.connect(postgres_url, autocommit=True) as observer.watch:
        verify_faults(lambda: Store(observer, url=postgres_url), through, upstream)
