"""What can go wrong while replicas are made.

ReplicaError
├── BadTarget           APP cannot be understood, or is not a WSGI or ASGI application
├── TreeTooLarge        the project tree is too large to be copied for each replica
├── BadShare            a `--shared` path that cannot be a volume
├── Interrupted         the world was no longer wanted while the tree was copied
├── CannotReset         a state that `--reset` names cannot be kept or put back
├── RemoteHost          the environment names a host that is not this machine
├── MissingServer       the server that replicas run under is not installed
├── StartFailed         the service's own code failed, hung or left while it started
└── ReplicaUnresponsive a live replica did not answer the probe
"""

from __future__ import annotations

__all__ = [
    "BadShare",
    "BadTarget",
    "CannotReset",
    "Interrupted",
    "MissingServer",
    "RemoteHost",
    "ReplicaError",
    "ReplicaUnresponsive",
    "StartFailed",
    "TreeTooLarge",
]


class ReplicaError(Exception):
    """A replica could not be made or asked. The message is written for the person at the terminal."""


class BadTarget(ReplicaError):
    """APP does not name an application."""


class TreeTooLarge(ReplicaError):
    """The project tree is larger than what is copied for each replica."""


class BadShare(ReplicaError):
    """A `--shared` path is not inside the project tree."""


class CannotReset(ReplicaError):
    """A state that `--reset` names cannot be kept or put back."""


class Interrupted(ReplicaError):
    """Nobody wants the world any more for which a project tree was being copied."""


class RemoteHost(ReplicaError):
    """The environment names a host that is not loopback and was not allowed."""


class ReplicaUnresponsive(ReplicaError):
    """A replica is alive but did not answer the probe in time."""


class MissingServer(ReplicaError):
    """waitress or uvicorn is not installed."""


class StartFailed(ReplicaError):
    """The service did not start.

    Attributes:
        reason: one line: what happened.
        traceback: the service's own traceback, without anypod's and the import system's frames and
            with the paths of the user's tree; empty when there is none (a hang, a signal).
        log: the end of what the service wrote to stdout and stderr.
        hung: it was still starting when its time was used up.
        waits_for: the file whose lock it waited for then, if it did and the system tells.
    """

    def __init__(
        self,
        reason: str,
        *,
        traceback: str = "",
        log: str = "",
        hung: bool = False,
        waits_for: str = "",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.traceback = traceback
        self.log = log
        self.hung = hung
        self.waits_for = waits_for
