"""JSON lines over a Unix socket, with at most one file descriptor beside each line.

Both ends of a channel live on one machine and are ours; the end of the peer is seen as `EOFError`,
which is how a replica learns that the tool has died. No thread may receive while another does.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Channel"]

_CHUNK = 1 << 16


class Channel:
    """One end of a conversation in JSON lines."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """A channel, and the socket that the other process makes its own channel of."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), theirs

    def fileno(self) -> int:
        """The socket's descriptor, for `select`."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], descriptor: int | None = None) -> None:
        """Send one message, and a duplicate of `descriptor` with it.

        Raises:
            OSError: the peer is gone.
        """
        line = json.dumps(message).encode() + b"\n"
        self._socket.settimeout(None)
        if descriptor is None:
            self._socket.sendall(line)
            return
        # The descriptor travels with the first byte; the rest follows as an ordinary stream.
        socket.send_fds(self._socket, [line[:1]], [descriptor])
        self._socket.sendall(line[1:])

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """The next message.

        Args:
            timeout: seconds to wait; None waits without bound.

        Raises:
            TimeoutError: nothing complete arrived in time; what has arrived is kept.
            EOFError: the peer is gone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (end := self._buffer.find(b"\n")) < 0:
            self._socket.settimeout(
                None if deadline is None else max(deadline - time.monotonic(), 1e-4)
            )
            try:
                chunk, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, 4)
            except ConnectionError as exc:
                raise EOFError("the peer is gone") from exc
            self._descriptors.extend(descriptors)
            if not chunk:
                raise EOFError("the peer is gone")
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message: dict[str, Any] = json.loads(line)
        return message

    def take_descriptor(self) -> int:
        """The descriptor that came with a message; each is taken once."""
        return self._descriptors.pop(0)

    def close(self) -> None:
        """Close this end: the peer reads the end of the conversation."""
        self._socket.close()
