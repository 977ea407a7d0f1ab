"""What went wrong with a request, told by when it went wrong.

    NotSent      the request did not leave whole: it did not execute
    ReplyLost    it left, and no reply came: it may have executed
    └── NotReplicated   it executed on the primary, but a failover now would undo it

A reply that is an error (`hiredis.ReplyError`) is the server's word that nothing was executed.
"""

from __future__ import annotations

from typing import Final

READABLE: Final = {  # the first word of a server's error → what it means for the reader of a log
    "LOADING": "the server is still loading its data",
    "READONLY": "this server is a replica and cannot write",
    "MASTERDOWN": "this replica has lost its primary",
    "CLUSTERDOWN": "the cluster has no owner for this key",
    "BUSY": "the server is busy with somebody's script",
    "OOM": "the server's memory is full and its policy does not evict",
    "MISCONF": "the server cannot persist and therefore refuses to write",
    "NOREPLICAS": "too few replicas are connected",
    "NOAUTH": "the server wants a password",
    "WRONGPASS": "the server does not accept this user and password",
    "NOPERM": "the user lacks a right; docs/stores.md lists those that are needed",
}


class NotSent(ConnectionError):
    """The request did not leave whole, so it did not execute."""


class ReplyLost(ConnectionError):
    """The request left and no reply came, so it may have executed."""


class NotReplicated(ReplyLost):
    """It executed, but fewer replicas than asked for have it: a failover may undo it."""
