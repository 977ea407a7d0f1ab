"""What the tests of the stores share: a client of the shared Redis, servers with options, a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from tests.servers import Server, redis_executable, start_redis

from anypod.testing import FaultProxy


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Starts servers with options of their own."""
    servers = []

    def start(*options: str) -> Server:
        servers.append(start_redis(redis_executable(), *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", redis_server.port) as proxy:
        yield proxy
