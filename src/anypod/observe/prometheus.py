"""Events as Prometheus metrics (extra `prometheus`).

    from anypod.observe.prometheus import Metrics

    state.observe(Metrics())

`anypod_commands_total{primitive, name, command, outcome}`, `anypod_command_seconds{primitive, command}`
and `anypod_degraded_total{primitive, name, policy}`. The labels are few by construction: no keys.
"""

from __future__ import annotations

from anypod.errors import MissingExtra
from anypod.observe import Event

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ModuleNotFoundError as missing:
    raise MissingExtra("anypod.observe.prometheus", "prometheus") from missing

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)  # seconds


class Metrics:
    """An observer that counts and times.

    Args:
        registry: where the metrics are registered; the default registry of the client library if None.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = REGISTRY if registry is None else registry
        self._commands = Counter(
            "anypod_commands",
            "Commands executed, by what became of them",
            ["primitive", "name", "command", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "anypod_command_seconds",
            "Time per command, the exchange with the store included",
            ["primitive", "command"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._degraded = Counter(
            "anypod_degraded",
            "Decisions made without the store",
            ["primitive", "name", "policy"],
            registry=registry,
        )

    def __call__(self, event: Event) -> None:
        """Report one event."""
        if event.degraded is not None:
            self._degraded.labels(event.primitive, event.name, event.degraded).inc()
            return
        self._commands.labels(event.primitive, event.name, event.command, event.outcome).inc()
        self._seconds.labels(event.primitive, event.command).observe(event.seconds)
