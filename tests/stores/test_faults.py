"""Connections that break at every point of an exchange, on every networked store."""

from __future__ import annotations

import pytest

from anypod.stores import open_store
from anypod.stores.conformance import verify_faults
from anypod.testing import FaultProxy


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_a_broken_exchange_is_told_as_it_is(kind: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    port = request.getfixturevalue(f"{kind}_server").port

    def through(proxy: FaultProxy) -> object:
        return open_store(proxy.url(url) + "?timeout=1")

    verify_faults(lambda: open_store(url), through, ("127.0.0.1", port))
