"""What only Redis and Valkey can say about themselves: eviction, persistence, memory, role, version.

On a cluster every primary is asked; what all of them say is said once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from anypod.stores.doctor import Finding, Statistics, error, fine, skewed, warning
from anypod.stores.redis.codec import request

if TYPE_CHECKING:
    from anypod.stores.redis.driver import RedisDriver
    from anypod.stores.redis.node import Node

OLDEST: Final = (6, 2)
FULL: Final = 0.9  # of maxmemory
COUNTED: Final = (
    *("used_memory", "maxmemory", "evicted_keys", "expired_keys", "connected_clients"),
    *("connected_slaves", "instantaneous_ops_per_sec"),
)


def _information(node: Node) -> dict[str, str]:
    """A server's INFO, empty if this user may not ask."""
    reply = node.exchange([request("INFO")])[0]
    if isinstance(reply, Exception):
        return {}
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _setting(node: Node, name: str) -> str | None:
    """A server setting, None if this user may not ask (managed servers often say no)."""
    reply: Any = node.exchange([request("CONFIG", "GET", name)])[0]
    if isinstance(reply, dict):
        reply = [part for pair in reply.items() for part in pair]
    if isinstance(reply, Exception) or len(reply) != 2:
        return None
    return str(reply[1].decode(errors="replace"))


def examine(driver: RedisDriver) -> Iterator[Finding]:
    """Everything that can be said about the server, or about each primary of a cluster."""
    try:
        yield from _coverage(driver)
        members = driver.members()
    except driver.errors as failure:
        yield error(str(failure), "bring the nodes back")
        return
    said: dict[Finding, list[str]] = {}
    for name, node in members:
        try:
            for finding in _member(driver, node, alone=len(members) == 1):
                said.setdefault(finding, []).append(name)
        except driver.errors as failure:
            yield error(f"{name} cannot be reached: {failure}".lstrip(), "bring it back")
    for finding, names in said.items():
        if len(names) < len(members):
            yield replace(finding, what=f"{', '.join(names)}: {finding.what}")
        else:
            yield finding


def _member(driver: RedisDriver, node: Node, *, alone: bool) -> Iterator[Finding]:
    info = _information(node)
    if not info:
        yield warning(
            "this user may not ask for INFO",
            "grant +info, or check eviction and persistence in the console of your provider",
        )
        return
    yield from _version(info)
    yield from _role(info)
    yield from _followers(info, driver.replicas)
    yield from _eviction(info, _setting(node, "maxmemory-policy"))
    yield from _persistence(info, _setting(node, "save"), _setting(node, "appendfsync"))
    if not alone:
        reply = node.exchange([request("TIME")])[0]
        if isinstance(reply, list):
            yield from skewed(int(reply[0]) + int(reply[1]) / 1e6)


def _named(info: dict[str, str]) -> tuple[str, str]:
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    return name, info.get("valkey_version" if name == "Valkey" else "redis_version", "0.0")


def _version(info: dict[str, str]) -> Iterator[Finding]:
    name, version = _named(info)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        yield error(f"{name} {version} is too old", "anypod needs Redis 6.2 or newer, or Valkey")
    else:
        yield fine(f"{name} {version}, {info.get('redis_mode', 'standalone')}")


def _coverage(driver: RedisDriver) -> Iterator[Finding]:
    missing = driver.uncovered()
    if missing:
        yield error(
            f"{missing} of the cluster's 16384 slots have no owner: what belongs there cannot be used",
            "redis-cli --cluster fix, or bring the failed nodes back",
        )


def _role(info: dict[str, str]) -> Iterator[Finding]:
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        yield error(f"this is a replica of {primary}", "give anypod the primary's address")


def _followers(info: dict[str, str], wanted: int) -> Iterator[Finding]:
    connected = int(info.get("connected_slaves", 0))
    if connected < wanted:
        yield error(
            f"wait_replicas={wanted}, and {connected} are connected: no write can be acknowledged",
            "start the missing replicas, or lower wait_replicas in the URL",
        )


def _eviction(info: dict[str, str], policy: str | None) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", policy or "noeviction")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    evicted = int(info.get("evicted_keys", 0))
    if policy != "noeviction":
        when = "as soon as a limit is set" if not limit else f"at {limit / 2**20:.0f} MiB"
        so_far = f"; {evicted} keys have gone that way" if evicted else ""
        yield error(
            f"maxmemory-policy {policy}: {when} the server drops records that nobody deleted: sessions, "
            f"locks, idempotency keys{so_far}",
            "CONFIG SET maxmemory-policy noeviction, and give caches a server of their own",
        )
    elif limit and used > FULL * limit:
        yield warning(
            f"{used / limit:.0%} of maxmemory is used; at 100% every write is refused",
            "raise maxmemory, or shorten time-to-live",
        )
    else:
        yield fine("nothing is evicted")


def _persistence(info: dict[str, str], save: str | None, sync: str | None) -> Iterator[Finding]:
    if info.get("aof_enabled") == "1":
        loss = {"always": "nothing", "everysec": "about a second", "no": "what the kernel held"}
        lost = loss.get(sync or "", "about a second")
        yield fine(f"append-only file: a power loss costs {lost}")
    elif save:
        yield warning(
            f"snapshots only (save {save}): a restart goes back to the last one, minutes ago",
            "CONFIG SET appendonly yes",
        )
    elif save == "":
        yield warning(
            "no persistence: a restart loses every session, lock and idempotency key",
            "CONFIG SET appendonly yes, and in the server's file too",
        )
    else:
        yield warning(
            "no append-only file, and this user may not ask whether there are snapshots",
            "grant +config|get, or look in the console of your provider",
        )
    if info.get("rdb_last_bgsave_status") == "err" or info.get("aof_last_write_status") == "err":
        yield error("the last attempt to persist failed", "look at the server's log and its disk")


def statistics(driver: RedisDriver) -> Statistics:
    """Numbers about the server; of a cluster, the sums over its primaries."""
    numbers: Statistics = {"server": None}
    members = driver.members()
    for _, node in members:
        try:
            info = _information(node)
            keys = node.exchange([request("DBSIZE")])[0]
        except driver.errors as failure:  # a primary that is away
            info, keys = {}, failure
        if info:
            numbers["server"] = " ".join(_named(info))
        _count(numbers, "keys", None if isinstance(keys, Exception) else keys)
        for name in COUNTED:
            text = info.get(name, "")
            _count(numbers, name, int(text) if text.isdigit() else None)
    if len(members) > 1:
        numbers["primaries"] = len(members)
    return numbers


def _count(numbers: Statistics, name: str, number: int | None) -> None:
    """Add to a sum; what one member does not say nobody knows."""
    sum_ = numbers.get(name, 0)
    numbers[name] = sum_ + number if isinstance(sum_, int) and number is not None else None


def reap(driver: RedisDriver) -> None:  # noqa: ARG001
    """Nothing to do: the server's own expiry follows each deadline."""
    return
