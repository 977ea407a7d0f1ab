"""`redis://` and `valkey://`: records on a server that many machines share.

Invariants:
    - a command is one script on one cluster slot, run by its SHA in one exchange; a server that does
      not know the script has not run it, so it is sent again with the script in front;
    - what only reads may be asked again after a lost reply; nothing else ever is;
    - the client library connects, authenticates and retries nothing.
"""

from __future__ import annotations

from anypod.stores.redis.dialling import Dialler, dialling, plan
from anypod.stores.redis.driver import RedisDriver
from anypod.stores.redis.node import Node

__all__ = ["RedisDriver", "open_driver"]


def open_driver(url: str) -> RedisDriver:
    """Open a server, a primary behind sentinels, or a cluster; `dialling.py` lists the URLs.

    Nothing is opened before the first command, so that a process may fork in between.

    Raises:
        ConfigurationError: an unknown option, or a URL that the client cannot read.
    """
    planned = plan(url)
    dialler = Dialler(planned)
    replicas, wait = planned.settings["wait_replicas"], planned.settings["wait_timeout"]
    if planned.cluster:
        from anypod.stores.redis.cluster import ClusterDriver

        return ClusterDriver(dialler, planned.addresses, replicas=replicas, wait=wait)
    node = Node(*dialling(dialler), dialler.timeout)
    return RedisDriver(node, moves=bool(planned.primary), replicas=replicas, wait=wait)
