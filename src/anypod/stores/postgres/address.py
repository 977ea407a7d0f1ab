"""The address of a PostgreSQL store: which part of the URL is anypod's, which is libpq's.

Invariants:
    - an option that neither side knows is an error, with the nearest name that one of them does know;
    - the address holds the password and therefore shows nothing of itself; no error quotes the URL, nor
      what libpq says of it, which may quote the password.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import conninfo, pq

from anypod.errors import ConfigurationError
from anypod.stores.address import options

OWN: Final[dict[str, Any]] = {
    "timeout": 5.0,  # seconds for one command: waiting for a connection, sending, waiting for the reply
    "connections": 10,  # at most, per process for threads and per event loop
    "prepare": ("auto", "on", "off"),  # auto: off behind a pooler
    "migrate": ("on", "off"),  # whether the first use may create or update the schema
    "synchronous": ("server", "on", "off"),  # synchronous_commit of our own connections
    "listen_url": "",  # a direct address for LISTEN where this one goes through a pooler
}

_DEFAULTS: Final = {  # a service's, rather than a shell's
    "connect_timeout": "5",
    "application_name": "anypod",
    "client_encoding": "utf8",
    # A machine that vanished is noticed within a minute, also where nothing is being sent.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
_SECRET: Final = {"password", "sslpassword", "oauth_client_secret"}
_HINT: Final = (
    "it should look like postgresql://user:password@host:5432/database, with every character of the "
    "user and password that is not a letter or digit percent-encoded"
)
_UNREADABLE: Final = f"the PostgreSQL URL cannot be read; {_HINT}"


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """Where the server is and how to talk to it.

    Attributes:
        conninfo: libpq's connection string, password included.
        place: host, port and database, for messages.
        timeout: seconds for one command.
        connect_timeout: seconds for opening a connection.
        connections: the most connections of a pool.
        prepare: whether to use prepared statements; None finds out.
        migrate: whether the first use may create or update the schema.
        synchronous: False if the URL gave up synchronous commit.
        listen: libpq's connection string for LISTEN.
        direct: whether the URL says that it leads to the server itself.
        lock_wait: milliseconds that the server waits for a lock.
        cli_url: how a person would name this store in a command, without the password.
    """

    conninfo: str
    place: str
    timeout: float
    connect_timeout: float
    connections: int
    prepare: bool | None
    migrate: bool
    synchronous: bool
    listen: str
    direct: bool
    cli_url: str
    lock_wait: int

    def __repr__(self) -> str:
        return f"Address({self.place!r})"


def parse(url: str) -> Address:
    """Read a store URL.

    Raises:
        ConfigurationError: it is not one, or has an option that neither anypod nor libpq knows.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(_UNREADABLE) from None
    query = parse_qsl(parts.query, keep_blank_values=True)
    known = {entry.keyword.decode() for entry in pq.Conninfo.get_defaults()}
    for name, _ in query:
        if name not in OWN and name not in known:
            near = get_close_matches(name, [*OWN, *known], n=1)
            hint = f"did you mean {near[0]}?" if near else f"anypod's own are {', '.join(OWN)}"
            raise ConfigurationError(
                f"a PostgreSQL URL has no option {name!r}, neither anypod's nor libpq's; {hint}"
            )
    for name, value in query:
        if name in _SECRET or (name == "listen_url" and urlsplit(value).password):
            raise ConfigurationError(
                f"the option {name} holds a password where logs would show it; write it before the @ "
                f"(listen_url uses the same one), or in a passfile or PGPASSWORD"
            )
    ours = "?" + urlencode([pair for pair in query if pair[0] in OWN])
    own = options(ours, OWN)
    if own["connections"] < 1:
        raise ConfigurationError("the option connections=0 must be 1 or more")
    theirs = urlencode([pair for pair in query if pair[0] not in OWN], quote_via=quote)
    text = urlunsplit(("postgresql", parts.netloc, parts.path, theirs, ""))
    synchronous = own["synchronous"]
    info = _complete(text, None if synchronous == "server" else synchronous)
    timeout: float = own["timeout"]
    return Address(
        conninfo=conninfo.make_conninfo("", **info),
        place=_place(info),
        timeout=timeout,
        connect_timeout=_seconds(info["connect_timeout"]),
        connections=own["connections"],
        prepare={"auto": None, "on": True, "off": False}[own["prepare"]],
        migrate=own["migrate"] == "on",
        synchronous=synchronous != "off",
        listen=_listen(own["listen_url"], info),
        direct=bool(own["listen_url"]),
        cli_url=urlunsplit(
            ("postgresql", parts.netloc.rpartition("@")[2], parts.path, "", ""),
        ),
        lock_wait=max(1, int(timeout * 800)),  # the server gives up before the client does
    )


def _complete(text: str, synchronous: str | None) -> dict[str, Any]:
    """Libpq's settings of a URL, with the defaults of a service rather than those of a shell."""
    try:
        info = dict(conninfo.conninfo_to_dict(text))
    except (psycopg.ProgrammingError, UnicodeError):
        raise ConfigurationError(_UNREADABLE) from None  # what libpq says may quote the password
    for port in str(info.get("port") or 5432).split(","):
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            # Not quoted: where a password has an unencoded slash, its beginning looks like a port.
            raise ConfigurationError(f"the port in the PostgreSQL URL is no port number; {_HINT}")
    for name, value in _DEFAULTS.items():
        info.setdefault(name, value)
    if "," in str(info.get("host", "")):
        info.setdefault("target_session_attrs", "read-write")
    if synchronous is not None:
        earlier = info.get("options", "")
        info["options"] = f"{earlier} -c synchronous_commit={synchronous}".strip()
    return info


def _seconds(text: object) -> float:
    """Libpq's connect_timeout; 0 and less mean for ever."""
    try:
        seconds = int(str(text))
    except ValueError:
        raise ConfigurationError(
            f"the option connect_timeout={text!r} must be a whole number of seconds"
        ) from None
    return seconds if seconds > 0 else math.inf


def _listen(url: str, info: dict[str, Any]) -> str:
    """The connection string for LISTEN: the direct address, as the same user."""
    if not url:
        return conninfo.make_conninfo("", **info)
    direct = _complete(url, None)
    for name in ("user", "password", "dbname"):
        if name in info:
            direct.setdefault(name, info[name])
    return conninfo.make_conninfo("", **direct)


def _place(info: dict[str, Any]) -> str:
    host = info.get("host") or info.get("hostaddr") or "the local socket"
    return f"{host}:{info.get('port', 5432)}/{info.get('dbname') or info.get('user') or ''}"
