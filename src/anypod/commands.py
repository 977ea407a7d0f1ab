"""The vocabulary between primitives and stores: one command is one atomic step.

A command executes entirely or not at all, in one exchange with the store, on the store's own clock.
Its docstring is its contract; `stores/specification.py` is the same contract as code, and every driver
is held against it by the conformance suite.

Terms used below:
    - *now* is the store's clock; a duration in a command (seconds, float) becomes a deadline on that
      clock when the command executes. A record whose deadline has passed does not exist.
    - a *version* or *token* is `max(last + 1, now in µs)`: it only ever grows, also when the store has
      forgotten the record in between.
    - with `once`, a command that comes again with the same id within `once_ttl` is not executed again:
      the first reply is given again, a refusal too. The same id with another command is `REUSED`.
      The ids are the caller's, per key.

Commands are immutable structs rather than dataclasses because they are made on every call, and a
struct is made ten times faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Final, Generic, TypeAlias, TypeVar

from msgspec import Meta, Struct

from anypod.durations import LONGEST

R = TypeVar("R")

MAX_INTEGER: Final = 2**53 - 1  # the largest that every store and every JSON reader keeps exactly
ONCE_TTL: Final = 86_400.0
MOST_SCANNED: Final = 10_000  # values in a page

# What `Store.execute` holds a command against; a primitive has checked what it was given itself.
Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=LONGEST)]
Span: TypeAlias = Annotated[float, Meta(ge=0, le=LONGEST)]
Integer: TypeAlias = Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Token: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_INTEGER)]


class Command(Struct, Generic[R], frozen=True):
    """One atomic step on the record at `key`; `R` is the type of its reply."""

    key: str


# --- versioned values -----------------------------------------------------------------------------


class Versioned(Struct, frozen=True):
    """A stored value and its version."""

    value: bytes
    version: int


class Get(Command[Versioned | None], frozen=True):
    """Read the value at `key`."""


class Stored(Struct, frozen=True):
    """The reply to `Put`.

    `written` says whether the value was written; `current` is the record that stands afterwards, so
    that a compare-and-swap loop costs one exchange per attempt.
    """

    written: bool
    current: Versioned | None


class Put(Command[Stored], frozen=True):
    """Write the value at `key`, or delete it (`value=None`), if its version is as expected.

    `expect`: None writes whatever stands there, 0 only if nothing does, else only over that version.
    `ttl`: seconds, None for ever. `fence`: a fencing token; the value is not written if a larger one has
    written it (a deletion forgets the token). `fence=0` writes without a token and keeps the one there.
    """

    value: bytes | None
    ttl: Seconds | None = None
    expect: Token | None = None
    fence: Token = 0


# --- counters -------------------------------------------------------------------------------------


class AddOutcome(Enum):
    """What became of an `Add`."""

    ADDED = "added"
    REFUSED = "refused"  # the floor or ceiling stands in the way; nothing changed
    REUSED = "reused"  # this `once` belongs to another command; nothing changed


class Added(Struct, frozen=True):
    """The reply to `Add`: the value that stands, and whether the step was made."""

    value: int
    outcome: AddOutcome


class Add(Command[Added], frozen=True):
    """Add `by` to the counter at `key` (0 if absent) unless the sum leaves `floor`…`ceiling`.

    `ttl` counts from the command that creates the counter; later ones do not move its deadline. With
    `window` (seconds) in its place, a counter that this command creates lives to the end of the current
    window: windows lie end to end and begin with the store's epoch (1970), so that they are the same
    ones for everybody.
    """

    by: Integer = 1
    floor: Integer = -MAX_INTEGER
    ceiling: Integer = MAX_INTEGER
    ttl: Seconds | None = None
    once: Annotated[str, Meta(min_length=1)] | None = None
    once_ttl: Seconds = ONCE_TTL
    window: Seconds | None = None


class Total(Command[int], frozen=True):
    """The value of the counter at `key`, 0 if absent."""


# --- claims (idempotency) -------------------------------------------------------------------------


class ClaimStatus(Enum):
    """What a claim found."""

    GRANTED = "granted"
    IN_FLIGHT = "in flight"
    COMPLETE = "complete"
    REUSED = "reused"


class Claimed(Struct, frozen=True):
    """The reply to `Claim`.

    `token` is the fencing token when granted; `outcome` what `Complete` stored; `wait` the seconds
    until the holder's lease runs out when in flight; `attempt` counts the grants of this claim, so
    that a second one says that an earlier holder vanished.
    """

    status: ClaimStatus
    token: int = 0
    outcome: bytes | None = None
    wait: float = 0.0
    attempt: int = 0


class Claim(Command[Claimed], frozen=True):
    """Ask to be the one who carries out the operation at `key`.

    Granted if nobody has claimed it, or if the holder's lease has run out. Complete if it was
    completed. In flight while another holds it. Reused if the recorded fingerprint is another one,
    whatever the state. `ttl` is how long an unfinished claim is remembered.
    """

    fingerprint: str
    lease: Seconds
    ttl: Seconds


class Renew(Command[bool], frozen=True):
    """Extend the lease of the claim or slot that `token` holds; False if it holds it no longer.

    A lease that has run out may be renewed while nobody else was granted the claim or slot.
    """

    token: Token
    lease: Seconds


class Complete(Command[bool], frozen=True):
    """Store the outcome and end the claim; False if the claim is no longer this holder's.

    `ttl` is how long the outcome is kept. The same command again answers True and changes nothing, so
    that it may be repeated after a lost reply.
    """

    token: Token
    outcome: bytes
    ttl: Seconds


class Abandon(Command[bool], frozen=True):
    """Forget the claim, so that a retry executes; False if it is no longer this holder's."""

    token: Token


class Inspect(Command[Claimed | None], frozen=True):
    """Look at the claim at `key` and change nothing; None if there is none.

    The status is complete or in flight, with the token of whoever was granted the claim last. In flight
    with `wait` 0.0 says that the holder's lease has run out and nobody has asked for the claim since.
    """


# --- documents (sessions) -------------------------------------------------------------------------


class Document(Struct, frozen=True):
    """The fields of a document, its version, and the seconds until its absolute deadline."""

    fields: dict[str, bytes]
    version: int
    left: float | None


class ReadDocument(Command[Document | None], frozen=True):
    """Read the document at `key`, None if there is none or it was ended.

    `touch` (seconds) moves the idle deadline to now + touch, never past the absolute one, if that
    gains at least a sixteenth of `touch`: a busy session does not write at each request.
    """

    touch: Seconds | None = None


class Existence(Enum):
    """Which documents a patch may touch."""

    NEW = "new"
    EXISTING = "existing"
    EITHER = "either"


class PatchOutcome(Enum):
    """What became of a `PatchDocument`."""

    PATCHED = "patched"
    MISSING = "missing"  # EXISTING was asked for, and there is none
    EXISTS = "exists"  # NEW was asked for, and there is one
    ENDED = "ended"  # a tombstone stands there, and it always wins


class Patched(Struct, frozen=True):
    """The reply to `PatchDocument`."""

    outcome: PatchOutcome
    version: int = 0


class PatchDocument(Command[Patched], frozen=True):
    """Set and drop fields of the document at `key`; other fields stay as they are.

    `idle` and `absolute` (seconds, None for ever) make the deadlines of a document that this command
    creates; on an existing one `idle` moves the idle deadline, and `absolute` can only bring the
    absolute deadline nearer. The idle deadline never lies past the absolute one.
    """

    put: Mapping[str, bytes]
    drop: tuple[str, ...] = ()
    existence: Existence = Existence.EXISTING
    idle: Seconds | None = None
    absolute: Seconds | None = None


class EndDocument(Command[bool], frozen=True):
    """Replace the document by a tombstone which refuses every patch; True if there was one.

    The tombstone stands for `keep` seconds and at least until the document's absolute deadline.
    """

    keep: Span


# --- cache ----------------------------------------------------------------------------------------


class CacheReply(Struct, frozen=True):
    """The reply to `CacheRead`.

    `payload` is None on a miss. `stale` is true past the soft deadline. `hard_left` and `soft_left`
    are seconds (negative soft: overdue). `lease` is the token to fill with, if this reader was granted
    it; else `lease_left` says for how long another reader has it, 0.0 if nobody has.
    """

    payload: bytes | None = None
    version: int = 0
    stale: bool = False
    soft_left: float = 0.0
    hard_left: float = 0.0
    load_seconds: float = 0.0
    lease: int | None = None
    lease_left: float = 0.0


class CacheRead(Command[CacheReply], frozen=True):
    """Read the cached value at `key` and, when it should be loaded again, ask for the lease to do so.

    The lease is granted, to one reader at a time, for `lease` seconds: on a miss, past the soft
    deadline, and early when `early × load_seconds` exceeds the time left (XFetch: the caller draws
    `early = -beta·ln(random)`; Vattani, Chierichetti, Lowenstein, VLDB 2015). A record of another
    `schema` is a miss. `lease=0` only reads.
    """

    schema: str
    lease: Span
    early: Annotated[float, Meta(ge=0)] = 0.0


class Filled(Struct, frozen=True):
    """The reply to `CacheFill`: whether the value was accepted, and the version that stands."""

    accepted: bool
    version: int


class CacheFill(Command[Filled], frozen=True):
    """Store a loaded value under the lease that was granted for it, or unconditionally.

    `lease` must be the token that the record still carries: an invalidation, another fill or a missing
    record has voided it, and then nothing is stored. `lease=None` stores in any case and voids every
    lease. `soft` and `hard` are seconds, soft ≤ hard. A fill ends the lease.
    """

    lease: Token | None
    schema: str
    payload: bytes
    soft: Span
    hard: Span
    load_seconds: Span = 0.0


class CacheInvalidate(Command[int], frozen=True):
    """Forget the value at `key`, void its lease, and return the new version.

    The version is remembered for `keep` seconds: longer than any lease, so that a load which began
    before cannot be stored after.
    """

    keep: Span = 60.0


class CacheVersion(Command[int], frozen=True):
    """The version at `key`, which each `CacheInvalidate` there raises: the counter of a tag.

    Where there is none, one is made: a counter that was forgotten comes back as a version that it never
    had before, so that what was stored under an earlier one stays dead. The version is remembered for
    `keep` seconds from now; that deadline moves only if it gains at least a sixteenth of `keep`.
    """

    keep: Span


class CacheRelease(Command[bool], frozen=True):
    """Give a lease back without a value, because the load failed; False if it was void already."""

    lease: Token


# --- iteration ------------------------------------------------------------------------------------


class Page(Struct, frozen=True):
    """The reply to `Scan`: full keys with their values, and where to go on (None at the end)."""

    items: tuple[tuple[str, Versioned], ...]
    after: str | None


class Scan(Command[Page], frozen=True):
    """Read some of the values whose keys begin with `key`.

    A walk begins with `after=""` and goes on with what the page before said. It meets each value that is
    there from its beginning to its end, possibly twice; a value that comes or goes meanwhile is met or
    not. A page holds about `limit` values, or none although the walk goes on.
    """

    after: str = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_SCANNED)] = 100


# --- rate limits ----------------------------------------------------------------------------------


class Algorithm(Enum):
    """How a policy counts; the bound is on the cost that is admitted."""

    GCRA = "gcra"  # at most burst + rate × t in any span t
    FIXED_WINDOW = "fixed window"  # at most limit per window; twice that around a window's border
    SLIDING_COUNTER = "sliding counter"  # an estimate from two windows, evenly spread
    SLIDING_LOG = "sliding log"  # at most limit in any span of one period; remembers each hit


class Policy(Struct, frozen=True, cache_hash=True):
    """One limit: `limit` units per `period` seconds; `burst` units at once (GCRA alone uses it)."""

    algorithm: Algorithm
    limit: Count
    period: Seconds
    burst: Count


class Quota(Struct, frozen=True):
    """How one policy stands after a `Take`.

    `remaining` units could be taken now. `reset` is the number of seconds until all of its capacity is
    there again, `retry` until the cost that was asked for would fit (0.0 if it does or did; infinite
    if it never will).
    """

    remaining: int
    reset: float
    retry: float


class Taken(Struct, frozen=True):
    """The reply to `Take`: whether the cost was admitted, and the standing of each policy, in order."""

    admitted: bool
    quotas: tuple[Quota, ...]


class Take(Command[Taken], frozen=True):
    """Take `cost` units from every policy of the subject at `key`, or from none.

    Cost 0 only looks. A negative cost gives back, never beyond what a policy holds. A policy that was
    not there before begins full; one that is not named any more is forgotten.
    """

    policies: tuple[Policy, ...]
    cost: Integer = 1


class TakeAll(Command[Taken], frozen=True):
    """Take `cost` units from every policy of every subject, or from none.

    A subject is a key, with its policies. `key` is the first one's; all keys are different, and stand in one
    slot of a cluster: what stands in the braces of each of them is the same. The quotas are those of all
    subjects, one after the other. Each subject's record is the one that `Take` works on.
    """

    subjects: tuple[tuple[str, tuple[Policy, ...]], ...]
    cost: Integer = 1


# --- slots (locks, concurrency limits) ------------------------------------------------------------


class Acquired(Struct, frozen=True):
    """The reply to `Acquire`.

    `token` is the fencing token if a slot was acquired. Otherwise `position` is the place in the
    queue (1 is next, 0 is not queued) and `wait` the number of seconds after which asking again makes
    sense even without a notification. `held` is the number of slots in use.
    """

    token: int | None
    position: int = 0
    wait: float = 0.0
    held: int = 0


class Acquire(Command[Acquired], frozen=True):
    """Acquire one of `limit` slots at `key` for `lease` seconds, in the order of asking.

    A lock is one slot. `waiter` names who asks; asking again keeps the place in the queue for another
    `patience` seconds, and a waiter that does not ask in time is taken for dead and skipped.
    `patience=0` does not queue. A waiter that holds a slot gets its token again (a lost reply), its
    lease as it was. A slot that falls free is announced in the mailbox of the first waiter.
    """

    waiter: str
    lease: Seconds
    patience: Span = 0.0
    limit: Count = 1


class Release(Command[bool], frozen=True):
    """Give a slot back; False if the token does not hold one any more."""

    token: Token


class Withdraw(Command[bool], frozen=True):
    """Leave the queue; False if the waiter was not in it."""

    waiter: str


# --- notifications --------------------------------------------------------------------------------


class Publish(Command[None], frozen=True):
    """Send a message to everybody who listens to the channel `key`; nobody may."""

    message: bytes


def mailbox(key: str, waiter: str) -> str:
    """Where a waiter is told that a slot fell free: in the record's own slot."""
    return f"{key}#{waiter}"
