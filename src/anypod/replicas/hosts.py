"""Which hosts a service may reach: this machine, and what the user allowed.

Resetting a run, retrying a request twice and killing a pod in between are harmless on what the tool
started and ruinous on a database that somebody else uses. So before anything starts the environment
is read for hosts that are not loopback. Passwords in URLs never leave this module.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from urllib.parse import unquote, urlsplit

from anypod.replicas.errors import RemoteHost

__all__ = ["is_local", "refuse_remote"]

_LOCAL_NAMES = frozenset(
    {"", "localhost", "localhost.localdomain", "ip6-localhost", "broadcasthost"}
)

_NAMES_AN_ADDRESS = re.compile(
    r"(^|_)(URL|URLS|URI|URIS|DSN|HOST|HOSTS|HOSTNAME|ADDR|ADDRESS|SERVER|SERVERS|ENDPOINT|BROKER|BROKERS"
    r"|NODES|SENTINELS)\d*$"
    r"|^(DATABASE|REDIS|POSTGRES|POSTGRESQL|PG|MYSQL|MONGO|MONGODB|CELERY|AMQP|RABBITMQ)_?|BROKER"
)
_PLAIN_HOST = re.compile(
    r"(^|_)(HOST|HOSTS|PGHOST|HOSTADDR|PGHOSTADDR|SERVER|SERVERS|BROKERS?|NODES|SENTINELS|ADDR)\d*$"
    r"|^PGHOST(ADDR)?$"
)
# Variables of the shell, of package tools and of continuous integration: no service stores there.
_OF_THE_TOOLS = re.compile(
    r"(^|_)(HTTP|HTTPS|ALL|FTP|NO)_PROXY$|(^|_)PROXY_URL$"
    r"|^(KUBERNETES|PIP|UV|POETRY|PDM|HATCH|TWINE|CONDA|MAMBA|NPM|YARN|CARGO|RUSTUP|GO|HOMEBREW|NIX|SSH"
    r"|GIT|GPG|DOCKER|CONTAINER|BUILDKIT|DBUS|XDG|GITHUB|GITLAB|CI|RUNNER|ACTIONS|BUILDKITE|CIRCLE"
    r"|JENKINS|HUDSON|TRAVIS|TF|CODESPACES|VSCODE|DEVCONTAINER|JPY|PYTHON|PYENV|REQUESTS|SSL|CURL)_"
    r"|^(BUILD_URL|JOB_URL|RUN_URL|HOSTNAME|HOST|REMOTEHOST|SUPPORT_URL|BUG_REPORT_URL|HOME_URL)$"
)
_HOST_NAME = re.compile(r"^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?$")
_KEYWORD = re.compile(
    r"(?:^|[\s;])(?:host|hostaddr|server|data source)\s*=\s*('[^']*'|[^\s;]+)", re.IGNORECASE
)


def is_local(host: str | bytes | None, allowed: Collection[str] = ()) -> bool:
    """Whether a host is this machine by its very name or address, or allowed.

    Names are not resolved: a name that happens to lead to loopback today is still a remote name.
    """
    if host is None:
        return True
    name = (host.decode("ascii", "replace") if isinstance(host, bytes) else host).lower()
    name = name.strip("[]").rstrip(".").partition("%")[0]
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    if name in {item.lower() for item in allowed}:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def refuse_remote(env: Mapping[str, str], allow_hosts: Collection[str] = ()) -> None:
    """Refuse an environment that would lead the service to another machine.

    Args:
        env: the service's environment.
        allow_hosts: hosts that the user named with `--allow-host`.

    Raises:
        RemoteHost: a variable names another host.
    """
    for variable in sorted(env):
        if not _NAMES_AN_ADDRESS.search(variable.upper()) or _OF_THE_TOOLS.search(variable.upper()):
            continue
        for host in _hosts(variable.upper(), env[variable]):
            if not is_local(host, allow_hosts):
                raise RemoteHost(
                    f"{variable} names {host}, which is not this machine: a proof resets, retries and "
                    f"kills, so it does not touch what others may use. Point {variable} to a server on "
                    f"localhost, or pass --allow-host {host} if losing its data is fine."
                )


def _hosts(variable: str, value: str) -> Iterator[str]:
    """Every host that a value names: of URLs, of `host=…` strings, of lists, or a bare name."""
    value = value.strip()
    if "://" in value:
        for part in re.split(r"[\s;]+|,(?=[A-Za-z][A-Za-z0-9+.-]*://)", value):
            yield from _of_url(part)
        return
    keywords = _KEYWORD.findall(value)
    if keywords:
        for item in keywords:
            yield from _of_list(item.strip("'"))
    elif _PLAIN_HOST.search(variable) or variable.endswith(("_URL", "_URI")):
        yield from _of_list(value)


def _of_url(url: str) -> Iterator[str]:
    scheme, _, rest = url.partition("://")
    if not rest or scheme.lower().startswith(("sqlite", "file", "unix", "memory", "redis+socket")):
        return
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    yield from _of_list(unquote(authority))
    for pair in urlsplit("//x/?" + url.partition("?")[2]).query.split("&"):
        name, _, value = pair.partition("=")  # postgresql:///db?host=db.internal
        if name in {"host", "hostaddr"}:
            yield from _of_list(unquote(value))


def _of_list(text: str) -> Iterator[str]:
    for item in re.split(r"[,\s]+", text):
        if not item or item.startswith(("/", "@")):  # a Unix socket
            continue
        bracketed = re.match(r"^\[([^\]]+)\](?::\d+)?$", item)
        if bracketed:
            yield bracketed[1]
        elif item.count(":") > 1:
            yield item
        else:
            host = item.partition(":")[0]
            if _HOST_NAME.match(host) and not host.isdigit():
                yield host
