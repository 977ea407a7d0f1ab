"""The keys of one database of a Redis or Valkey server, or those with one prefix.

They are kept in this process, as the server itself serialises them, so there is a bound on what they may be;
a proof that is killed cannot put them back.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from anypod.replicas.errors import CannotReset
from anypod.replicas.outside import told

__all__ = ["Keys"]

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
except ImportError:  # the extra is not installed
    redis = None  # type: ignore[assignment]

MOST_KEYS = 20_000
MOST_BYTES = 64 << 20
_BATCH = 500
_TIMEOUT = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class _Value:
    """A key's value, and when it ends."""

    dumped: bytes
    ttl: int  # milliseconds that were left; 0 for ever
    ends: float  # Unix time; 0 never


class Keys:
    """The keys that `redis://HOST:PORT/NUMBER?prefix=PREFIX` names.

    Args:
        url: with the number of a database, because that is emptied; with a prefix only its keys are.

    Raises:
        CannotReset: it names no database, or redis is not installed.
    """

    def __init__(self, url: str) -> None:
        self._told = told(url)
        if redis is None:
            raise self._cannot("redis is not installed: pip install 'anypod[redis]'") from None
        try:
            parts = urlsplit(re.sub(r"^valkey(s?)(?=://|\+)", r"redi\1s", url, flags=re.IGNORECASE))
            port = parts.port or 6379
        except ValueError:  # its text may hold the password
            raise self._cannot("expected redis://USER:PASSWORD@HOST:PORT/NUMBER") from None
        query = parse_qs(parts.query)
        if parts.scheme not in {"redis", "rediss"} or query.keys() - {"prefix"}:
            raise self._cannot(
                "expected redis:// or rediss:// with no option but ?prefix=…; clusters, sentinels and sockets "
                "are not reset by name: let --reset CMD do it"
            )
        number = parts.path.strip("/")
        if not number.isdecimal():
            raise self._cannot(
                "expected the number of the database that may be emptied, as in "
                f"redis://{parts.hostname or 'localhost'}:{port}/15; with ?prefix=shop: only those keys are"
            )
        self.hosts = [parts.hostname or "localhost"]
        self._prefix = query.get("prefix", [""])[0].encode()
        self._client: redis.Redis = redis.Redis(
            host=self.hosts[0],
            port=port,
            db=int(number),
            username=unquote(parts.username or "") or None,
            password=unquote(parts.password or "") or None,
            ssl=parts.scheme == "rediss",
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._values: dict[bytes, _Value] = {}

    def keep(self) -> None:
        """Keep all keys with their values and what is left of their time."""
        with self._server() as client:
            size = 0
            now = time.time()
            for batch in _batches(self._keys()):
                asked = client.pipeline(transaction=False)
                for key in batch:
                    asked.dump(key)
                    asked.pttl(key)
                answers = asked.execute()
                for key, dumped, ttl in zip(batch, answers[::2], answers[1::2], strict=True):
                    if dumped is None:
                        continue  # it ended meanwhile
                    size += len(key) + len(dumped)
                    left = max(0, ttl)
                    self._values[key] = _Value(dumped, left, now + left / 1000 if left else 0.0)
                if len(self._values) > MOST_KEYS or size > MOST_BYTES:
                    raise self._cannot(
                        f"it holds more than {MOST_KEYS:,} keys or {MOST_BYTES >> 20} MiB, which is more than is "
                        "kept; name another database, or the service's own keys with ?prefix=…"
                    )

    def put_back(self) -> None:
        """Remove the keys, and make those that were kept, with the time that was left to them."""
        self._write({key: value.ttl for key, value in self._values.items()})

    def let_go(self) -> None:
        """Put them back a last time, but for those whose time is over."""
        now = time.time()
        left = {
            key: int((value.ends - now) * 1000) if value.ends else 0
            for key, value in self._values.items()
        }
        ended = [key for key, value in self._values.items() if value.ends and left[key] <= 0]
        for key in ended:
            del left[key]
        self._write(left)
        self._client.close()

    def _write(self, ttls: dict[bytes, int]) -> None:
        with self._server() as client:
            if self._prefix:
                for batch in _batches(self._keys()):
                    client.delete(*batch)
            else:
                client.flushdb()
            for batch in _batches(iter(ttls)):
                given = client.pipeline(transaction=False)
                for key in batch:
                    given.restore(key, ttls[key], self._values[key].dumped, replace=True)
                given.execute()

    def _keys(self) -> Iterator[bytes]:
        pattern = re.sub(rb"([*?\[\]\\^-])", rb"\\\1", self._prefix) + b"*"
        yield from self._client.scan_iter(match=pattern, count=_BATCH)

    @contextmanager
    def _server(self) -> Iterator[redis.Redis]:
        try:
            yield self._client
        except redis.RedisError as failed:
            raise self._cannot(f"{failed}".strip().partition("\n")[0]) from failed

    def _cannot(self, why: str) -> CannotReset:
        return CannotReset(f"--reset {self._told}: {why}")


def _batches(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[Any] = []
    for key in keys:
        batch.append(key)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
