"""What a proof has to say: events while it runs, and the verdict they end in.

The engine emits these and does not know who listens; the console, the JSON file and `anypod demo` do.
Everything is frozen and holds plain values, so that a report never touches a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from anypod.prove.schedules import Kind


class Outcome(StrEnum):
    """The verdict in one phrase."""

    NO_DIFFERENCE = "no difference"
    DIFFERENT = "different"
    ACCEPTED = "only accepted differences"
    COULD_NOT_RUN = "could not run"


@dataclass(frozen=True, slots=True)
class Told:
    """One request of a reduced difference, as a person is told of it.

    Attributes:
        pod: which replica answered, 1-based, in order of appearance in this telling.
        incarnation: which process of that pod, 1-based; it grows when the pod was moved.
        method: of the request.
        target: path and query as sent.
        body: the beginning of what was sent, empty if nothing.
        status: of the answer, None when there was none.
        answer: why there was no answer, else empty.
        duplicate: the same request delivered once more.
        lost: the answer never reached the client.
        moved: the pod was killed, with its disk, before this request.
        replaced: a deploy replaced the pod before this request; its disk is gone too.
        overlaps: sent at the same moment as the request before it.
        line: of the step in the workload file.
    """

    pod: int
    incarnation: int
    method: str
    target: str
    body: str
    status: int | None
    answer: str
    duplicate: bool
    lost: bool
    moved: bool
    line: int
    replaced: bool = False
    overlaps: bool = False


@dataclass(frozen=True, slots=True)
class Cause:
    """The process-local state behind a difference.

    Attributes:
        kind: "global", "class attribute", "closure", "cache", "file" or "database".
        name: as the code calls it; a path for files.
        module: that holds it, empty for files.
        file: the source file, in the user's own tree; the path itself for files.
        line: of its definition, None when the source does not show one.
        pod: the replica that had changed it.
        reader: the replica that gave the different answer.
        before: a short rendering on that pod, before …
        after: … and after.
        verified: whether the difference goes when the state is copied from one pod to the other, and
            stays when other state is; if not, the cause is only correlated.
        together: names of other states without which the copy does not help.
        written_in: the source file of the line that changed it; empty if no line was seen to.
        written_at: that line, or None.
        drawn: no request changed it: each process drew its own when it imported the service.
    """

    kind: str
    name: str
    module: str
    file: str
    line: int | None
    pod: int
    reader: int
    before: str
    after: str
    verified: bool = False
    together: tuple[str, ...] = ()
    written_in: str = ""
    written_at: int | None = None
    drawn: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """One delivery of a reduced difference, so that it can be played again.

    Attributes:
        step: index of the step in the workload.
        request: the step's method and target as the workload has them, to know it again.
        slot: the place whose replica got it.
        life: which process of that place.
        duplicate: the second delivery of a step.
        lost: the answer never reached the client.
        overlaps: sent at the same moment as the one before it.
    """

    step: int
    request: str
    slot: int
    life: int
    duplicate: bool
    lost: bool
    overlaps: bool


@dataclass(frozen=True, slots=True)
class Divergence:
    """A difference that was reduced and confirmed.

    Attributes:
        route: the route to blame; for a retry the route that was delivered twice.
        seen_at: the route whose answer differed.
        schedule: what was tried when it was found.
        also: other schedules that show the same.
        alone: the same requests with what one replica answered, beside `requests`.
        accepted: the reason for which somebody accepted it; empty if nobody did.
        replay: the deliveries of `requests`, to play them again.
        requests: the few requests that show it, in order; the last one's answer differs.
        where: the place in the answer ("status", "body $.count").
        expected: what one replica answers there.
        got: what came instead.
        cause: the state behind it, or None.
        confirmed: in how many of three replays it was there again.
        rule: the check rule that finds such state, or None.
        hint: what to do or to know, or empty.
    """

    route: str
    seen_at: str
    schedule: Kind
    requests: tuple[Told, ...]
    where: str
    expected: str
    got: str
    cause: Cause | None = None
    confirmed: int = 0
    rule: str | None = None
    hint: str = ""
    also: tuple[Kind, ...] = ()
    alone: tuple[Told, ...] = ()
    accepted: str = ""
    replay: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True)
class Stale:
    """A different answer that is old, and accepted as such within a stated time.

    `cache` names the anypod cache whose TTL healed it; it is empty when the workload's
    `# @stale` declared it. `seconds` is the bound.
    """

    route: str
    cache: str
    seconds: float
    schedule: Kind
    requests: tuple[Told, ...]
    where: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class NotRetrySafe:
    """A request that changes more when it is delivered twice, on a route that nobody marked for retry."""

    route: str
    seen_at: str
    where: str


@dataclass(frozen=True, slots=True)
class Contended:
    """One of two requests at the same moment answered as in neither order, but nothing was lost.

    With `where` "status" it failed, and `answers` are the two requests' statuses; elsewhere `answers`
    are what one order has there, and what came.
    """

    route: str
    failed: str
    answers: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class RouteCoverage:
    """A route of the workload: how many requests it got, and whether its answers could be compared."""

    route: str
    requests: int
    compared: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was tried, as numbers: each pair is (done, possible); `random` schedules have no end."""

    requests: int
    replayed: int
    schedules: tuple[int, int]
    routes: tuple[int, int]
    pairs: tuple[int, int]
    triples: tuple[int, int]
    retries: tuple[int, int]
    moves: tuple[int, int]
    deploys: tuple[int, int] = (0, 0)
    overlaps: tuple[int, int] = (0, 0)
    random: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole of a proof.

    `partial` says that not all of the plan was played. `inconclusive` says that this matters for the
    verdict: it was interrupted, a difference that was seen was not explained in time, or nothing
    was played at all. `accepted` holds differences that a file of accepted ones names; they do not
    count. `not_exercised` are routes of the
    application that the workload never calls, None if its routes are not known. `seed` is what random choices were drawn with. `application` and `workload` are what was proved, as the command line named them.
    """

    outcome: Outcome
    claim: str
    application: str = ""
    workload: str = ""
    coverage: Coverage | None = None
    divergences: tuple[Divergence, ...] = ()
    accepted: tuple[Divergence, ...] = ()
    unconfirmed: tuple[Divergence, ...] = ()
    stale: tuple[Stale, ...] = ()
    not_retry_safe: tuple[NotRetrySafe, ...] = ()
    contended: tuple[Contended, ...] = ()
    not_tried: tuple[str, ...] = ()
    routes: tuple[RouteCoverage, ...] = ()
    not_exercised: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()
    starts: int = 0
    seconds: float = 0.0
    seed: int = 0
    partial: bool = False
    inconclusive: bool = False
    reason: str = ""

    @property
    def exit_code(self) -> int:
        """What the command ends with."""
        if self.outcome is Outcome.COULD_NOT_RUN:
            return 2
        if self.outcome is Outcome.DIFFERENT:
            return 1
        return 2 if self.inconclusive else 0


@dataclass(frozen=True, slots=True)
class Opened:
    """The application starts; nothing has been sent."""

    application: str
    workload: str
    requests: int
    replicas: int


@dataclass(frozen=True, slots=True)
class Planned:
    """The baselines agree; this is what will be tried.

    `seconds` is an estimate from the imports, starts and requests measured so far: of the schedules,
    without what explaining a difference takes.
    """

    schedules: Mapping[Kind, int]
    starts: int
    requests: int
    seconds_per_start: float
    seconds: float
    cores: int
    forks: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """A schedule has been played or a difference is being reduced."""

    doing: str
    done: int
    total: int
    differences: int


@dataclass(frozen=True, slots=True)
class Found:
    """A difference was reduced and confirmed."""

    divergence: Divergence


@dataclass(frozen=True, slots=True)
class FoundStale:
    """An old answer was accepted."""

    stale: Stale


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the reader must know to judge the verdict."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    verdict: Verdict


Event = Opened | Planned | Progress | Found | FoundStale | Warned | Finished
Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """The listener that does not listen."""


@dataclass(slots=True)
class Log:
    """A listener that keeps what it heard, for tests and for reports made afterwards."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)
