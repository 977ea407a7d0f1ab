"""Events as OpenTelemetry metrics and span events (extra `opentelemetry`).

    from anypod.observe.opentelemetry import Telemetry

    state.observe(Telemetry())

The histogram `anypod.command.duration` (seconds) and the counter `anypod.degraded` carry the primitive, its
name, the command and the outcome. The current span, if it records, gets an event per command.
"""

from __future__ import annotations

from anypod.errors import MissingExtra
from anypod.observe import Event

try:
    from opentelemetry import metrics, trace
except ModuleNotFoundError as missing:
    raise MissingExtra("anypod.observe.opentelemetry", "opentelemetry") from missing


class Telemetry:
    """An observer that reports to OpenTelemetry.

    Args:
        meter_provider: whose meter to use; the global one if None.
        span_events: whether the current span gets an event per command.
    """

    def __init__(
        self, meter_provider: metrics.MeterProvider | None = None, *, span_events: bool = True
    ) -> None:
        meter = metrics.get_meter("anypod", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "anypod.command.duration", unit="s", description="Time per command"
        )
        self._degraded = meter.create_counter(
            "anypod.degraded", unit="{decision}", description="Decisions made without the store"
        )
        self._span_events = span_events

    def __call__(self, event: Event) -> None:
        """Report one event."""
        attributes = {"anypod.primitive": event.primitive, "anypod.name": event.name}
        if event.degraded is not None:
            self._degraded.add(1, {**attributes, "anypod.policy": event.degraded})
            return
        attributes["anypod.command"] = event.command
        attributes["anypod.outcome"] = event.outcome
        self._duration.record(event.seconds, attributes)
        if self._span_events:
            span = trace.get_current_span()
            if span.is_recording():
                span.add_event("anypod.command", {**attributes, "anypod.seconds": event.seconds})
