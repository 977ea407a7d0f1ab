"""Traces of services that are functions, for the tests of the comparison."""

import json
import random
import string
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from anypod.prove.compare import Noise, compare
from anypod.prove.model import Exchange, Request, Response, Step, Trace
from anypod.prove.workload import route

NOW = datetime.now(UTC).replace(microsecond=123456)


class Run:
    """One run of a service: its answers in order, and the clock they were made by."""

    def __init__(self, seed: int, after: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = NOW + timedelta(seconds=after)
        self.exchanges: list[Exchange] = []

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def token(self, length: int = 32) -> str:
        return "".join(self.random.choices(string.ascii_letters + string.digits + "-_", k=length))

    def tick(self, seconds: float = 0.02) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def answer(
        self,
        label: str,
        body: object,
        *,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        kind: str = "application/json",
    ) -> None:
        method, target = label.split(" ")
        step = Step(len(self.exchanges), method, target, 1, route=route(label))
        data = body if isinstance(body, bytes) else None
        if data is None:
            data = (
                body if isinstance(body, str) and kind != "application/json" else json.dumps(body)
            ).encode()
        fixed = (("content-type", kind), ("date", format_datetime(self.now, usegmt=True)))
        response = Response(status, (*fixed, *headers), data)
        self.exchanges.append(Exchange(step, 1, 1, Request(method, target), response))

    @property
    def trace(self) -> Trace:
        return Trace(tuple(self.exchanges))


Service = Callable[[Run], None]


def played(service: Service, seed: int, after: float = 0.0) -> Trace:
    run = Run(seed, after)
    service(run)
    return run.trace


def learned(service: Service, *, identity: Service | None = None) -> tuple[Trace, Noise]:
    a = played(service, 1)
    return a, Noise.learn(a, played(service, 2, 1.3), played(identity or service, 3, 2.7))


def differences(service: Service, other: Service) -> list[tuple[str, str, str]]:
    a, noise = learned(service)
    assert noise.identity == ()
    return [(d.where, d.expected, d.got) for d in compare(a, played(other, 4, 30.0), noise)]


def random_ids(run: Run) -> None:
    made = run.uuid()
    run.answer(
        "POST /orders",
        {"id": made, "state": "new"},
        status=201,
        headers=(("location", f"/orders/{made}"),),
    )
    run.answer(
        f"GET /orders/{made}", {"id": made, "state": "new", "links": [f"/orders/{made}/cancel"]}
    )
