"""What stands between clients and servers in some networks: TLS, and addresses that are not the servers' own."""

from __future__ import annotations

import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest


class Relay:
    """Passes connections on to a port of this machine.

    Args:
        upstream: the server's port.
        context: speaks TLS to clients, because the servers from wheels have none.
        ports: names other ports in replies, as a network does that translates addresses.
    """

    def __init__(
        self,
        upstream: int,
        *,
        context: ssl.SSLContext | None = None,
        ports: Mapping[int, int] | None = None,
    ) -> None:
        self._context = context
        self._ports = ports or {}
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            plain, _ = self._listener.accept()
            if not self._upstream:
                plain.close()
                return
            try:
                client = plain
                if self._context is not None:
                    client = self._context.wrap_socket(plain, server_side=True)
            except (ssl.SSLError, OSError):
                plain.close()
                continue
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._upstream))
            thread = threading.Thread(target=self._relay, args=(client, server))
            thread.start()
            self._threads.append(thread)

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while True:
                pending = isinstance(client, ssl.SSLSocket) and client.pending()
                readable = [client] if pending else select.select([client, server], [], [])[0]
                source, sink = (client, server) if client in readable else (server, client)
                try:
                    data = source.recv(65536)
                    if not data:
                        return
                    sink.sendall(self._translated(data) if source is server else data)
                except OSError:
                    return

    def _translated(self, data: bytes) -> bytes:
        for old, new in self._ports.items():
            data = data.replace(_bulk(old), _bulk(new))
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._upstream = 0
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()


def _bulk(port: int) -> bytes:
    return b"$%d\r\n%d\r\n" % (len(str(port)), port)


def certificates(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for this machine, and the certificate that clients have to trust."""
    openssl = shutil.which("openssl") or pytest.skip("no openssl to make a certificate with")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate
