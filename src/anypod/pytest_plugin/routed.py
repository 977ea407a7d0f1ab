"""Replicas in a test written by hand, and a client that sends each request to the pod that it names."""

from __future__ import annotations

import json as jsons
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from anypod.errors import AnypodError
from anypod.prove.client import Client
from anypod.prove.model import NoResponse, Request, Response
from anypod.replicas import Replica, World

__all__ = ["Answer", "NoAnswer", "Replicas", "RoutedClient"]


class NoAnswer(AnypodError):
    """A pod gave no answer; the message says why, and what it printed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a pod answered. Header names are lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return jsons.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return Response(self.status, self.headers).header(name)


class Replicas:
    """Pods 1 to `count` of one service, each started when it first gets a request.

    Args:
        world: where they run.
        count: how many there are.
    """

    def __init__(self, world: World, count: int) -> None:
        self.count = count
        self._world = world
        self._alive: dict[int, Replica] = {}
        self._lock = threading.Lock()

    def client(self) -> RoutedClient:
        """A user of the service with a cookie jar of their own."""
        return RoutedClient(self)

    def pod(self, number: int) -> Replica:
        """A pod's replica, started if it is not there.

        Raises:
            ValueError: there is no such pod.
            StartFailed: the service did not start.
        """
        self._check(number)
        with self._lock:
            if number not in self._alive:
                self._alive[number] = self._world.start(number - 1)
            return self._alive[number]

    def kill(self, number: int) -> None:
        """SIGKILL a pod; its disk is gone, and the next request to it meets a new one."""
        replica = self._ended(number)
        if replica is not None:
            replica.kill()

    def restart(self, number: int) -> None:
        """End a pod as a deploy does, with SIGTERM; the next request to it meets a new one."""
        replica = self._ended(number)
        if replica is not None:
            replica.terminate()

    def _ended(self, number: int) -> Replica | None:
        self._check(number)
        with self._lock:
            return self._alive.pop(number, None)

    def _check(self, number: int) -> None:
        if not 1 <= number <= self.count:
            raise ValueError(f"there is no pod {number}: they are 1 to {self.count}")

    def log(self, number: int) -> str:
        """What a pod has printed; the end of it."""
        return self.pod(number).log

    def close(self) -> None:
        """End all pods."""
        for replica in self._alive.values():
            replica.kill()
        self._alive.clear()


class RoutedClient:
    """A user with a cookie jar; redirects are answers, not instructions.

    Args:
        replicas: to which it sends.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._client = Client()

    def request(
        self,
        method: str,
        target: str,
        *,
        pod: int,
        json: Any = None,
        data: Mapping[str, str] | bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> Answer:
        """Send a request to one pod.

        Args:
            method: of the request.
            target: path and query.
            pod: which one, from 1.
            json: a body, as JSON.
            data: a body: a form when it is a mapping, else as it is.
            headers: more headers.
            timeout: seconds for the exchange.

        Raises:
            NoAnswer: the pod ended, hung or broke off.
            StartFailed: the service did not start.
        """
        given = dict(headers or {})
        body: bytes | None = None
        if json is not None:
            body = jsons.dumps(json).encode()
            given.setdefault("Content-Type", "application/json")
        elif isinstance(data, Mapping):
            body = urlencode(data).encode()
            given.setdefault("Content-Type", "application/x-www-form-urlencoded")
        elif data is not None:
            body = data.encode() if isinstance(data, str) else data
        replica = self._replicas.pod(pod)
        answer = self._client.send(
            Request(method, target, tuple(given.items()), body), replica.address, timeout=timeout
        )
        if isinstance(answer, NoResponse):
            raise NoAnswer(f"pod {pod}: {method} {target}: {answer.reason}\n{replica.log}".rstrip())
        return Answer(answer.status, answer.headers, answer.body)

    def get(self, target: str, *, pod: int, **more: Any) -> Answer:
        """GET from one pod; see `request`."""
        return self.request("GET", target, pod=pod, **more)

    def post(self, target: str, *, pod: int, **more: Any) -> Answer:
        """POST to one pod; see `request`."""
        return self.request("POST", target, pod=pod, **more)

    def put(self, target: str, *, pod: int, **more: Any) -> Answer:
        """PUT to one pod; see `request`."""
        return self.request("PUT", target, pod=pod, **more)

    def patch(self, target: str, *, pod: int, **more: Any) -> Answer:
        """PATCH on one pod; see `request`."""
        return self.request("PATCH", target, pod=pod, **more)

    def delete(self, target: str, *, pod: int, **more: Any) -> Answer:
        """DELETE on one pod; see `request`."""
        return self.request("DELETE", target, pod=pod, **more)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies in the jar, by name."""
        return self._client.cookies()
