"""A broken network loses the end of a stream, never a piece out of its middle.

A client that sends its next request before the reply to the last one tells replies by their order. A proxy
that swallowed one reply and passed the next would accuse it of a mistake that no network causes.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from anypod.testing import Fault, FaultProxy

pytestmark = pytest.mark.quick


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back to one client what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with suppress(ConnectionError), connection:  # the proxy may cut it
                while data := connection.recv(100):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


def test_silence_lasts_as_long_as_the_connection(echo: int) -> None:
    with FaultProxy("127.0.0.1", echo) as proxy:
        proxy.inject(Fault.SILENCE)
        with socket.create_connection((proxy.host, proxy.port), timeout=0.2) as client:
            for _ in range(2):
                client.sendall(b"hello\n")
                with pytest.raises(TimeoutError):
                    client.recv(100)
