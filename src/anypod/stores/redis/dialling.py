"""From a URL to connections: what the client library is asked for, on which address.

    redis://[user:password@]host[:port][/db]        one server
    rediss://…                                      … over TLS
    redis+unix:///path/to/socket?db=0               … over a socket of this machine
    redis+sentinel://[user:password@]host:port,host:port/primary-name[/db]
    redis+cluster://[user:password@]host:port,host:port
    valkey://…, valkeys://…, valkey+unix://…        the same, by the other name

Invariants:
    - the client library retries nothing and has short time limits;
    - with Sentinel every new connection asks a sentinel first who the primary is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import hiredis
import redis

from anypod.errors import ConfigurationError
from anypod.stores.address import options
from anypod.stores.redis.codec import request
from anypod.stores.redis.faults import NotSent
from anypod.stores.redis.links import Link

Address: TypeAlias = tuple[str, int]

OPTIONS: Final = {
    "timeout": 2.0,  # for a whole exchange
    "connect_timeout": 1.0,
    "protocol": ("2", "3"),
    "wait_replicas": 0,  # how many replicas must have a write before it is acknowledged …
    "wait_timeout": 0.5,  # … and for how long to wait for them
    "sentinel_username": "",
    "sentinel_password": "",
    "ssl_ca_certs": "",
    "ssl_certfile": "",
    "ssl_keyfile": "",
    "ssl_cert_reqs": ("required", "none"),
    "ssl_check_hostname": ("true", "false"),
}
DEFAULT_PORTS: Final = {"redis+sentinel": 26379}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a URL asks for.

    Attributes:
        base: the URL as the client library understands it, for one of the addresses.
        addresses: of the sentinels, or of some nodes of the cluster.
        primary: the name that the sentinels know the primary by; empty without Sentinel.
        cluster: whether it is a cluster.
        settings: the options.
    """

    base: str
    addresses: tuple[Address, ...]
    primary: str
    cluster: bool
    settings: dict[str, Any]


def plan(url: str) -> Plan:
    """Read a URL.

    Raises:
        ConfigurationError: an unknown option, or an address that cannot be one.
    """
    parts = urlsplit(url)
    name, _, variety = parts.scheme.lower().partition("+")
    secure = name in ("rediss", "valkeys")
    unix = variety == "unix"
    settings = options(url, {**OPTIONS, **({"db": 0} if unix else {})})
    kept = {k: v for k, v in parse_qsl(parts.query) if k.startswith("ssl_") or k == "db"}
    user, at, hosts = parts.netloc.rpartition("@")
    if not variety or unix:
        scheme = "unix" if unix else "rediss" if secure else "redis"
        base = f"{scheme}://{parts.netloc}{parts.path}?{urlencode(kept)}"
        return Plan(base, (), "", cluster=False, settings=settings)
    default = DEFAULT_PORTS.get(f"redis+{variety}", 6379)
    addresses = tuple(_address(host, default) for host in hosts.split(","))
    primary, _, database = parts.path.strip("/").partition("/")
    if variety == "sentinel" and not primary:
        raise ConfigurationError(
            "a Sentinel URL names the primary: redis+sentinel://host:26379/mymaster"
        )
    if variety == "cluster" and primary:
        raise ConfigurationError(f"a cluster has no database {primary!r}; leave the path out")
    scheme = "rediss" if secure else "redis"
    host, port = addresses[0]
    base = f"{scheme}://{user}{at}{_bracketed(host)}:{port}/{database}?{urlencode(kept)}"
    name = primary if variety == "sentinel" else ""
    return Plan(base, addresses, name, cluster=variety == "cluster", settings=settings)


def _address(text: str, default: int) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(default)
    if not host or not port.isdigit():
        raise ConfigurationError(f"{text!r} is not an address; write host:port,host:port")
    return host.strip("[]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class Dialler:
    """Makes connections of the client library.

    Args:
        plan: what the URL asks for.

    Raises:
        ConfigurationError: the client library cannot read it.
    """

    def __init__(self, plan: Plan) -> None:
        self.timeout: float = plan.settings["timeout"]
        self._plan = plan
        self._sentinels = plan.addresses  # the one that answered last stands first
        self._common: dict[str, Any] = {
            "protocol": int(plan.settings["protocol"]),
            "socket_timeout": plan.settings["timeout"],
            "socket_connect_timeout": plan.settings["connect_timeout"],
            "health_check_interval": 0,
            "driver_info": None,
        }
        try:
            self._pool: Any = redis.ConnectionPool.from_url(plan.base, **self._common)
            self._pool.connection_class(**self._pool.connection_kwargs)
        except (ValueError, redis.RedisError, TypeError) as failure:
            raise ConfigurationError(f"a Redis URL that cannot be read: {failure}") from failure

    def dial(self, address: Address | None = None) -> Any:
        """An unconnected blocking connection; by default to the URL's own address."""
        if address is None and self._plan.primary:
            address = self.primary()
        return self._pool.connection_class(**{**self._pool.connection_kwargs, **_at(address)})

    async def adial(self, address: Address | None = None) -> Any:
        """A connected connection for the running event loop."""
        import redis.asyncio

        if address is None and self._plan.primary:
            address = await asyncio.to_thread(self.primary)
        pool: Any = redis.asyncio.ConnectionPool.from_url(self._plan.base, **self._common)
        connection: Any = pool.connection_class(**{**pool.connection_kwargs, **_at(address)})
        await connection.connect()
        return connection

    def primary(self) -> Address:
        """Ask the sentinels who the primary is.

        Raises:
            NotSent: none of them answers, or none knows one.
        """
        question = request("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._plan.primary)
        said: list[str] = []
        for address in self._sentinels:
            host, port = address
            try:
                link = Link(self._sentinel(address), self.timeout)
            except (redis.RedisError, hiredis.HiredisError, OSError) as failure:
                said.append(f"{host}:{port}: {failure}")
                continue
            try:
                reply = link.exchange(question)
            except OSError as failure:
                said.append(f"{host}:{port}: {failure}")
                continue
            finally:
                link.close()
            if isinstance(reply, list) and len(reply) == 2:
                others = (other for other in self._plan.addresses if other != address)
                self._sentinels = (address, *others)
                return reply[0].decode(), int(reply[1])
            said.append(f"{host}:{port} knows no primary {self._plan.primary!r} ({reply})")
        raise NotSent("no sentinel names a primary: " + "; ".join(said))

    def _sentinel(self, address: Address) -> Any:
        settings = self._plan.settings
        access = {
            "username": settings["sentinel_username"] or None,
            "password": settings["sentinel_password"] or None,
            "db": 0,
        }
        return self._pool.connection_class(
            **{**self._pool.connection_kwargs, **access, **_at(address)}
        )


def _at(address: Address | None) -> dict[str, Any]:
    return {} if address is None else {"host": address[0], "port": address[1]}


def dialling(
    dialler: Dialler, address: Address | None = None
) -> tuple[Callable[[], Any], Callable[[], Awaitable[Any]]]:
    """The two ways to dial one address."""
    return lambda: dialler.dial(address), lambda: dialler.adial(address)
