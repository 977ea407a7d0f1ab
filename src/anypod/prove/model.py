"""The nouns of a proof: a step of the workload, what was sent for it, what came back, and the trace.

Everything here is frozen: a trace, once played, is evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anypod.replicas import Change, Write


@dataclass(frozen=True, slots=True)
class Step:
    """One request of the workload, before the values of this run are filled in.

    `target`, header values and `body` are templates: `{{var}}` and `{{name.response…}}` are filled
    by `workload.render`. `line` is where the step stands in its file, 1-based.
    """

    index: int
    method: str
    target: str
    line: int
    name: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    client: str = "default"
    retry: bool = False
    stale: float | None = (
        None  # seconds for which an old answer to this step is declared acceptable
    )
    payload: bytes | None = (
        None  # a body taken from a file as it is (`< ./file`), instead of `body`
    )
    route: str = ""  # "GET /data/{id}": see `workload.route`
    recorded: int | None = None  # the status that was answered when the step was recorded

    @property
    def label(self) -> str:
        """What a person calls this step: the method and the unfilled path."""
        return f"{self.method} {self.target}"


@dataclass(frozen=True, slots=True)
class Request:
    """A step with its values filled in, as it goes over the wire (cookies are the jar's)."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What the replica answered. Header names are lower case, order and repetition kept."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The first value of a header, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass(frozen=True, slots=True)
class NoResponse:
    """The replica gave no answer: `reason` is for people ("no answer within 10 s", "closed the connection")."""

    reason: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as delivered to one replica, and what it did.

    `pod` is the replica's number as people see it (1-based), `incarnation` counts the processes
    that have run under that number. `duplicate` marks the second delivery of a retried request.
    `changes` is the process-local state that this request changed on that replica.
    """

    step: Step
    pod: int
    incarnation: int
    request: Request
    response: Response | NoResponse
    changes: tuple[Change, ...] = ()
    duplicate: bool = False
    lost: bool = False  # the response was dropped on its way back
    overlaps: bool = False  # sent at the same moment as the one before
    writes: tuple[Write, ...] = ()  # the lines that changed the traced states


@dataclass(frozen=True, slots=True)
class Trace:
    """What one run of the workload looked like, in the order in which it was sent."""

    exchanges: tuple[Exchange, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
