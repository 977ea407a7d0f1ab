"""replicas: N copies of the user's real service as processes, each on a disk of its own.

A `World` is a set of slots over shared volumes. A slot is a place where a replica can run: it has
imported the application once, on its own copy of the project tree with its own HOME and TMPDIR, and
every replica that starts there descends from that import, or, where a fork would share what a fresh
process would not (open sockets, open databases, threads), from a new one.
"""

from __future__ import annotations

from anypod.replicas.change import Change, Constant, DeclaredCache, State, Write
from anypod.replicas.elsewhere import Elsewhere, address_of
from anypod.replicas.errors import (
    BadShare,
    BadTarget,
    CannotReset,
    Interrupted,
    MissingServer,
    RemoteHost,
    ReplicaError,
    ReplicaUnresponsive,
    StartFailed,
    TreeTooLarge,
)
from anypod.replicas.hosts import refuse_remote
from anypod.replicas.outside import Outside
from anypod.replicas.pod import Replica
from anypod.replicas.world import Application, World

__all__ = [
    "Application",
    "BadShare",
    "BadTarget",
    "CannotReset",
    "Change",
    "Constant",
    "DeclaredCache",
    "Elsewhere",
    "Interrupted",
    "MissingServer",
    "Outside",
    "RemoteHost",
    "Replica",
    "ReplicaError",
    "ReplicaUnresponsive",
    "StartFailed",
    "State",
    "TreeTooLarge",
    "World",
    "Write",
    "address_of",
    "refuse_remote",
]
