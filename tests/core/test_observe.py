from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

from anypod import State, StoreError
from anypod.commands import Get
from anypod.observe import Event
from anypod.observe.opentelemetry import Telemetry
from anypod.observe.prometheus import Metrics

pytestmark = pytest.mark.quick


@pytest.fixture
def state() -> State:
    return State("memory://", namespace="shop")


def heard(state: State) -> list[Event]:
    events: list[Event] = []
    state.observe(events.append)
    return events


def test_every_primitive_is_heard_and_no_key_or_value(state: State) -> None:
    events = heard(state)
    state.counter("hits").increment("user-7")
    state.map("prices").set("user-7", "secret")
    state.map("prices").get("user-8")
    state.session("web").create(user="user-7", card="secret")
    state.rate_limit("api", "1/hour").hit("user-7")
    state.rate_limit("api", "1/hour").hit("user-7")
    with state.lock("jobs").acquire("user-7"):
        pass
    with state.idempotency("orders").claim("user-7") as attempt:
        attempt.complete("secret")
    cache = state.cache("data", ttl=60)
    cache.get_or_load("user-7", lambda: "secret")
    cache.get_or_load("user-7", lambda: "secret")
    told = [(event.primitive, event.name, event.command, event.outcome) for event in events]
    assert ("counter", "hits", "Add", "added") in told
    assert ("map", "prices", "Put", "written") in told
    assert ("map", "prices", "Get", "missing") in told
    assert ("session", "web", "PatchDocument", "patched") in told
    assert ("rate", "api", "Take", "admitted") in told
    assert ("rate", "api", "Take", "refused") in told
    assert ("lock", "jobs", "Acquire", "acquired") in told
    assert ("idempotency", "orders", "Claim", "granted") in told
    assert ("cache", "data", "CacheRead", "miss") in told
    assert ("cache", "data", "CacheRead", "hit") in told
    assert all(event.seconds >= 0 for event in events)
    assert "user-7" not in repr(events)
    assert "secret" not in repr(events)


def test_errors_are_outcomes(state: State) -> None:
    events = heard(state)
    counter = state.counter("hits")
    counter.increment()
    with pytest.raises(StoreError):
        state.store.execute(Get(counter.address(None)))
    assert (events[-1].command, events[-1].outcome) == ("Get", "RecordError")


def test_the_async_path_is_heard_too(state: State) -> None:
    events = heard(state)
    asyncio.run(state.counter("hits").aincrement())
    assert [event.outcome for event in events] == ["added"]


def test_an_observer_that_fails_harms_nobody(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("observer")

    state.observe(broken)
    events = heard(state)
    with caplog.at_level(logging.ERROR, logger="anypod"):
        assert state.counter("hits").increment() == 1
    assert len(events) == 1
    assert "an observer of memory:// failed" in caplog.text


def test_prometheus(state: State) -> None:
    registry = CollectorRegistry()
    state.observe(Metrics(registry))
    state.counter("hits").increment()
    labels = {"primitive": "counter", "name": "hits", "command": "Add", "outcome": "added"}
    assert registry.get_sample_value("anypod_commands_total", labels) == 1
    timed = {"primitive": "counter", "command": "Add"}
    assert registry.get_sample_value("anypod_command_seconds_count", timed) == 1
    state.store.emit(Event("rate limit", "api", "", 0.0, "StoreUnavailable", degraded="allow"))
    degraded = {"primitive": "rate limit", "name": "api", "policy": "allow"}
    assert registry.get_sample_value("anypod_degraded_total", degraded) == 1


def test_opentelemetry(state: State) -> None:
    reader = InMemoryMetricReader()
    state.observe(Telemetry(MeterProvider([reader])))
    with TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        state.counter("hits").increment()
    state.store.emit(Event("rate limit", "api", "", 0.0, "StoreUnavailable", degraded="allow"))
    data: Any = reader.get_metrics_data()
    metrics = {
        metric.name: metric.data.data_points[0]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    assert metrics["anypod.command.duration"].attributes["anypod.outcome"] == "added"
    assert metrics["anypod.degraded"].value == 1
    assert [event.name for event in span.events] == ["anypod.command"]  # type: ignore[attr-defined]
