"""Replicas that somebody else runs: requests are routed to them, and nothing else is done.

They are not started, reset, killed or looked into. What earlier runs left in them stays, unless
`--reset` takes it away; answers that remember earlier runs cannot be compared, and the baselines say so.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from anypod.replicas.change import Change, Constant, DeclaredCache, State, Write
from anypod.replicas.command import run_once
from anypod.replicas.errors import BadTarget, StartFailed
from anypod.replicas.hosts import is_local
from anypod.replicas.outside import Outside
from anypod.replicas.pod import Replica
from anypod.replicas.world import Application, World

__all__ = ["Elsewhere", "address_of"]


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a replica's URL.

    Raises:
        BadTarget: it is no URL of this machine.
    """
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        port = parts.port or 80
    except ValueError as wrong:
        raise BadTarget(f"--url {url}: {wrong}; expected http://127.0.0.1:8001") from None
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise BadTarget(f"--url {url}: expected http://HOST:PORT, as in http://127.0.0.1:8001")
    if not is_local(parts.hostname):
        raise BadTarget(
            f"--url {url}: {parts.hostname} is not this machine: a proof sends requests again and again, "
            "so it sends them to loopback only; forward a port of a machine that may be used"
        )
    return parts.hostname, port


class RunningReplica(Replica):
    """One of the processes that somebody else runs; only its address is known."""

    def __init__(self, slot: int, address: tuple[str, int]) -> None:
        self.address = address
        self.slot = slot
        self.incarnation = 1
        self.pid = 0

    def changes(self) -> tuple[Change, ...]:
        """Nothing: it is not looked into."""
        return ()

    def caches(self) -> tuple[DeclaredCache, ...]:
        """None that are known."""
        return ()

    def advance(self, seconds: float) -> None:
        """Nothing: its clock is its own."""

    def writes(self) -> tuple[Write, ...]:
        """None that are known."""
        return ()

    def constants(self) -> tuple[Constant, ...]:
        """None that are known."""
        return ()

    def unreached(self, requests: Sequence[tuple[str, str]]) -> tuple[str, ...] | None:  # noqa: ARG002  # see Replica
        """None that are known."""
        return None

    def take(self, states: Collection[State], but: Collection[State] = ()) -> dict[State, str]:  # noqa: ARG002  # see Replica
        """Nothing: it is not looked into."""
        return {}

    def give(self, contents: Mapping[State, str]) -> frozenset[State]:  # noqa: ARG002  # see Replica
        """Nothing: it stays as it is."""
        return frozenset()

    def escapes(self) -> tuple[str, ...]:
        """None that are known."""
        return ()

    @property
    def log(self) -> str:
        """Where it writes is not known."""
        return ""

    def alive(self) -> bool:
        """Whether it takes a connection."""
        try:
            socket.create_connection(self.address, timeout=1).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Nothing: it is not ours."""

    def terminate(self, grace: float = 0.0) -> None:
        """Nothing: it is not ours."""


class Elsewhere(World):
    """A world of replicas that somebody else runs; it offers what `World` does, as far as that goes.

    Args:
        application: its `urls` are the replicas, its `reset` runs before each run.
        start_timeout: seconds for a reset.
        outside: what is put back before each run; whoever made it closes it.

    Raises:
        BadTarget: a URL is not of this machine.
    """

    def __init__(
        self,
        application: Application,
        *,
        start_timeout: float = 30.0,
        outside: Outside | None = None,
    ) -> None:
        self.application = application
        self.made = {}
        self.starts = 0
        self.seconds_per_import = 0.0
        self._timeout = start_timeout
        self._outside = outside
        self._replicas = [
            RunningReplica(slot, address_of(url)) for slot, url in enumerate(application.urls)
        ]

    def prepare(self) -> None:
        """See that they are there.

        Raises:
            StartFailed: one takes no connection.
        """
        for replica, url in zip(self._replicas, self.application.urls, strict=True):
            if not replica.alive():
                raise StartFailed(f"--url {url}: nobody listens there; start the replica first")

    @property
    def forks(self) -> bool:
        """Not: nothing is started."""
        return False

    @property
    def lacks_tables(self) -> str:
        """Nothing is known of their databases."""
        return ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is not done with replicas that somebody else runs."""
        routed = (
            "the replicas run elsewhere: requests are routed, repeated and sent at the same moment, "
            "but no pod is killed, moved or deployed, and no cause is looked for"
        )
        kept = "what earlier runs leave in the replicas stays there; --reset takes it away before each run"
        return (routed,) if self.application.reset or self._outside else (routed, kept)

    @property
    def seconds_per_start(self) -> float:
        """Nothing is started."""
        return 0.0

    def start(self, slot: int, *, trace: Collection[State] = ()) -> Replica:  # noqa: ARG002  # see World
        """The replica of a slot, as it is."""
        return self._replicas[slot]

    def reset(self) -> None:
        """Put back what was named, and run the user's own reset.

        Raises:
            StartFailed: it failed.
            CannotReset: a state could not be put back.
        """
        if self._outside is not None:
            self._outside.put_back()
        commands: Sequence[str] = self.application.reset
        for command in commands:
            with tempfile.TemporaryDirectory(prefix="anypod-") as folder:
                run_once(
                    "--reset",
                    command,
                    cwd=self.application.root,
                    env={**os.environ, **self.application.env},
                    log=Path(folder) / "log",
                    timeout=self._timeout,
                )

    def close(self) -> None:
        """Nothing: they run on."""
