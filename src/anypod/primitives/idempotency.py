"""Idempotency: an operation that is asked for twice is carried out once, and answered twice.

`claim` asks the store to be the one who carries the operation out. Whoever is granted the claim works
under a lease, which a heartbeat renews, and completes it with an outcome; everybody else gets that
outcome, or is told that the operation is in flight.

Invariants:
    - a claim is fenced: a holder whose lease ran out, and whose claim went to another, cannot store its
      outcome any more and gets `LeaseLost`;
    - a failure of the handler is an outcome and is kept, unless the handler said with `abandon()` that
      nothing happened, or the family is made with `failures="retry"`;
    - a holder that vanishes (kill, cancellation) leaves the claim in doubt: it is granted again after
      the lease. Outside a transaction that means at least once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from hashlib import blake2b
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from anypod.commands import Abandon, Claim, Claimed, ClaimStatus, Complete, Inspect
from anypod.durations import check_durations, check_ttl, check_wait, shown
from anypod.errors import (
    ConfigurationError,
    EarlierFailure,
    InFlight,
    KeyReused,
    LeaseLost,
    NotReplayable,
    OutcomeUnknown,
    RecordError,
    StoreUnavailable,
)
from anypod.flow import Flow, Sleep, arun, run
from anypod.keys import Key, encode, names_nothing
from anypod.primitives.degraded import RaiseOrDeny, check_policy, degraded
from anypod.primitives.explanation import Explanation, explanation
from anypod.primitives.heartbeat import Heartbeat
from anypod.serializer import Serializer, Undecodable

if TYPE_CHECKING:
    from anypod.primitives.once import Once
    from anypod.primitives.within import Within
    from anypod.stores import Store

# The first byte of a stored outcome.
_VALUE: Final = b"v"
_FAILURE: Final = b"f"
_SEALED: Final = b"s"
_NOTHING: Final = _VALUE + Serializer[None]().encode(None)  # whatever the type is

LONGEST_FINGERPRINT: Final = 200  # characters

_FIRST_PAUSE: Final = (
    0.01  # seconds between two looks at a claim in flight: doubled up to the longest
)
_LONGEST_PAUSE: Final = 0.25
RETRY_AFTER: Final = 1.0  # seconds that a caller is told to wait for a store that is away


class Idempotency:
    """A family of operations. Made by `State.idempotency`.

    Args:
        store: where the claims are.
        name: names the family; the same key in another family is another operation.
        lease: seconds after which a holder that gave no sign of life is taken for dead.
        ttl: seconds for which an outcome is kept.
        type: what to decode outcomes into; None keeps plain data.
        failures: "keep" makes an exception of the handler the outcome; "retry" forgets the claim, so
            that the next attempt executes (for queue consumers).
        unavailable: what a claim does when the store cannot be reached: `"raise"`, or `"deny"`: what a
            caller gets while another holder is at work. Nothing is carried out in either case.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        lease: float = 30.0,
        ttl: float = 86_400.0,
        type: Any = None,  # noqa: A002  # the field's term
        failures: Literal["keep", "retry"] = "keep",
        unavailable: RaiseOrDeny = "raise",
    ) -> None:
        check_durations(f"idempotency {name!r}", lease=lease, ttl=ttl)
        if failures not in ("keep", "retry"):
            raise ConfigurationError(
                f"idempotency {name!r}: failures must be 'keep' or 'retry', not {failures!r}"
            )
        check_policy("idempotency", name, unavailable, "raise", "deny")
        self.name = name
        self.lease = lease
        self.ttl = ttl
        self.failures = failures
        self.unavailable = unavailable
        self.store = store
        self._owner = f"idempotency {name!r}"
        self._serializer: Serializer[Any] = Serializer(type, owner=self._owner)
        self._prefix = ""

    def claim(
        self, key: Key, fingerprint: str = "", *, wait: float = 0.0
    ) -> AbstractContextManager[Attempt]:
        """Carry out an operation once.

        Inside the block, look at `attempt.replayed`: if true, `attempt.outcome` is what the operation
        gave the first time; else carry it out and call `attempt.complete(outcome)`. A block that ends
        without either completes with None.

        Args:
            key: names the operation, as the client does (an Idempotency-Key, a message id).
            fingerprint: stands for its arguments: the same key with another one is refused.
            wait: seconds to wait for an outcome while another holder is at work.

        Raises:
            InFlight: another holder is still at work; or the store is away, and the family denies then.
            StoreUnavailable, OutcomeUnknown: the store is away, and the family raises then.
            KeyReused: the key belongs to an operation with other arguments.
            EarlierFailure: the operation failed before, and the failure was kept.
            NotReplayable: the operation is complete, its outcome was not kept.
            LeaseLost: at the end of the block, another holder has taken over; at its beginning, the lease is
                shorter than an exchange with the store.
        """
        return _Block(self, key, fingerprint, wait)

    def aclaim(
        self, key: Key, fingerprint: str = "", *, wait: float = 0.0
    ) -> AbstractAsyncContextManager[Attempt]:
        """`claim` as an asynchronous context manager; complete with `acomplete`."""
        return _Block(self, key, fingerprint, wait)

    def within(self, connection: Any, *, lock_timeout: float = 2.0) -> Within:
        """Claims whose work and outcome are one transaction of the caller's: exactly once.

        Args:
            connection: of psycopg or sqlite3, a SQLAlchemy `Session` or `Connection` (async too), or
                Django's inside `atomic`. Its database has the table `anypod_operations`
                (`anypod.primitives.within.table`), and, with SQLite, is another file than the store's.
            lock_timeout: seconds to wait for another transaction on the same key.
        """
        from anypod.primitives.within import Within

        return Within(self, connection, lock_timeout=lock_timeout)

    def once(
        self,
        key: Callable[..., Key],
        *,
        fingerprint: Callable[..., Key] | None = None,
        wait: float = 0.0,
    ) -> Once:
        """A decorator: calls of the function with the same key carry it out once.

            @orders.once(key=lambda message: message.id)
            def place(message): ...

        The first call's return value is the outcome, and later calls get it. Errors are those of `claim`.

        Args:
            key: gets the call's arguments and names the operation.
            fingerprint: gets them too and stands for what must not differ between calls of one key.
            wait: seconds to wait for an outcome while another holder is at work.
        """
        from anypod.primitives.once import Once

        return Once(self, key, fingerprint, wait)

    @property
    def attempt(self) -> Attempt:
        """The attempt inside which the caller runs, in a function that `once` decorates.

        Raises:
            RuntimeError: not in such a function of this family.
        """
        from anypod.primitives.once import attempt_of

        return attempt_of(self)

    def explain(self, key: Key) -> Explanation:
        """What has become of an operation, changing nothing. Costs one exchange."""
        return run(self.store, self._explain(key))

    async def aexplain(self, key: Key) -> Explanation:
        """`explain`, awaiting."""
        return await arun(self.store, self._explain(key))

    def _explain(self, key: Key) -> Flow[Explanation]:
        claimed: Claimed | None = yield Inspect(self.address(key))
        return explanation(claimed, self.decoded)

    def address(self, key: Key) -> str:
        """Where the claim of an operation is.

        Raises:
            ValueError: the key names nothing.
        """
        if names_nothing(key):
            raise ValueError(
                f"idempotency {self.name!r}: the key is {shown(key)}; every operation without a key would be one "
                f"and the same, and get the outcome of the first"
            )
        if not self._prefix:
            self._prefix = self.store.prefix("idempotency", self.name)
        return self._prefix + encode(key)

    def claim_flow(self, address: str, fingerprint: str, wait: float) -> Flow[Claimed]:
        """Claim, waiting for whoever is at work; the reply is granted or complete."""
        owner = self._owner
        check_wait(owner, wait)
        if not isinstance(fingerprint, str):
            raise TypeError(
                f"{owner}: a fingerprint must be a str that stands for the arguments, such as a hash of them, "
                f"not {type(fingerprint).__name__}"
            )
        if len(fingerprint) > LONGEST_FINGERPRINT:
            raise ValueError(
                f"{owner}: a fingerprint has {LONGEST_FINGERPRINT} characters at most, not {len(fingerprint):,}; "
                f"give a hash of it"
            )
        patience = time.monotonic() + wait
        pause = _FIRST_PAUSE
        while True:
            asked = time.monotonic()
            try:
                claimed: Claimed = yield Claim(address, fingerprint, self.lease, self.ttl)
            except (StoreUnavailable, OutcomeUnknown) as failure:
                if self.unavailable == "raise":
                    raise
                raise self._denied(failure) from failure
            if claimed.status is ClaimStatus.REUSED:
                raise KeyReused(
                    f"idempotency {self.name!r}: this key belongs to an operation with other "
                    f"arguments; a new operation needs a new key"
                )
            if claimed.status is ClaimStatus.COMPLETE:
                return claimed
            if claimed.status is ClaimStatus.GRANTED:
                if time.monotonic() - asked < self.lease:
                    return claimed
                yield Abandon(address, claimed.token)
                raise LeaseLost(
                    f"idempotency {self.name!r}: the lease of {self.lease:g} s was over before the store's "
                    f"answer came; nothing was done. A lease must be many times longer than an exchange"
                )
            left = patience - time.monotonic()
            if left <= 0:
                raise InFlight(
                    claimed.wait,
                    f"idempotency {self.name!r}: the operation is being carried out elsewhere; "
                    f"try again in {claimed.wait:.1f} s at the latest",
                )
            yield Sleep(min(pause, left))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _denied(self, failure: StoreUnavailable | OutcomeUnknown) -> InFlight:
        degraded(self.store, "idempotency", self.name, self.unavailable, failure)
        # A claim that may have been granted stands for its lease: nobody knows that it is nobody's.
        wait = RETRY_AFTER if isinstance(failure, StoreUnavailable) else self.lease
        return InFlight(
            wait,
            f"idempotency {self.name!r}: the store cannot be reached, so nobody knows whether the operation "
            f"was carried out; nothing was done, try again in {wait:.1f} s",
        )

    def encoded(self, outcome: Any) -> bytes:
        """An outcome as bytes."""
        return _NOTHING if outcome is None else _VALUE + self._serializer.encode(outcome)

    def decoded(self, stored: bytes) -> Any:
        """The outcome that these bytes stand for; a kept failure is raised."""
        if stored == _NOTHING:
            return None
        kind, rest = stored[:1], stored[1:]
        if kind == _FAILURE:
            raise EarlierFailure(
                f"idempotency {self.name!r}: the operation failed the first time "
                f"({rest.decode(errors='replace')}), and a failure is an outcome; a new try needs a "
                f"new key"
            )
        if kind == _SEALED:
            raise NotReplayable(
                f"idempotency {self.name!r}: the operation is complete, but its outcome was not kept"
            )
        try:
            return self._serializer.decode(rest if kind == _VALUE else b"")
        except Undecodable as failure:
            raise RecordError(
                f"idempotency {self.name!r}: a stored outcome: {failure}"
            ) from failure


class _Block:
    """What `claim` and `aclaim` return. A class, because a generator costs each call a tenth of its time."""

    __slots__ = ("_attempt", "_family", "_fingerprint", "_heartbeat", "_key", "_wait")

    def __init__(self, family: Idempotency, key: Key, fingerprint: str, wait: float) -> None:
        self._family = family
        self._key = key
        self._fingerprint = fingerprint
        self._wait = wait

    def __enter__(self) -> Attempt:
        family = self._family
        address = family.address(self._key)
        flow = family.claim_flow(address, self._fingerprint, self._wait)
        attempt = self._begin(address, run(family.store, flow))
        if not attempt.replayed:
            self._heartbeat.__enter__()
        return attempt

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        attempt = self._attempt
        if attempt.replayed:
            return
        try:
            if not attempt.settled and error is None:
                attempt.complete(None)
            elif not attempt.settled and isinstance(error, Exception):
                run(self._family.store, attempt.failed(error))
        finally:
            self._heartbeat.__exit__(kind, error, trace)

    async def __aenter__(self) -> Attempt:
        family = self._family
        address = family.address(self._key)
        flow = family.claim_flow(address, self._fingerprint, self._wait)
        attempt = self._begin(address, await arun(family.store, flow))
        if not attempt.replayed:
            await self._heartbeat.__aenter__()
        return attempt

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        attempt = self._attempt
        if attempt.replayed:
            return
        try:
            if not attempt.settled and error is None:
                await attempt.acomplete(None)
            elif not attempt.settled and isinstance(error, Exception):
                await arun(self._family.store, attempt.failed(error))
        finally:
            await self._heartbeat.__aexit__(kind, error, trace)

    def _begin(self, address: str, claimed: Claimed) -> Attempt:
        family = self._family
        attempt = self._attempt = Attempt(family, address, claimed.token, claimed.attempt)
        if claimed.status is ClaimStatus.COMPLETE:
            attempt.replay(claimed.outcome or b"")
        else:
            self._heartbeat = Heartbeat(family.store, address, claimed.token, family.lease)
        return attempt


class Attempt:
    """One caller's hold on an operation, inside `claim`.

    Attributes:
        replayed: the operation is complete; `outcome` is what it gave.
        outcome: None until then.
        token: the fencing token of this hold: larger than that of any earlier one.
        number: 1 for the first hold; more says that an earlier holder vanished.
        settled: the outcome is stored, or the claim was given up.
    """

    __slots__ = ("_family", "address", "number", "outcome", "replayed", "settled", "token")

    def __init__(self, family: Idempotency, address: str, token: int, number: int) -> None:
        self.address = address
        self.token = token
        self.number = number
        self.replayed = False
        self.settled = False
        self.outcome: Any = None
        self._family = family

    def replay(self, stored: bytes) -> None:
        """Take over what the operation gave the first time."""
        self.replayed = self.settled = True
        self.outcome = self._family.decoded(stored)

    def downstream_key(self, name: str) -> str:
        """An idempotency key for a call that the handler makes to another service.

        The same operation gives the same key each time, on whichever replica and attempt, so that the
        other service can recognise the repetition.

        Args:
            name: which of the handler's calls: "charge", "mail", …
        """
        return blake2b(f"{self.address}\0{name}".encode(), digest_size=20).hexdigest()

    def complete(self, outcome: Any = None, *, ttl: float | None = None) -> None:
        """Store the outcome; from now on everybody gets it.

        Args:
            outcome: plain data, or a value of the family's `type`.
            ttl: seconds to keep it, instead of the family's.

        Raises:
            LeaseLost: another holder has taken over; nothing was stored.
            RuntimeError: the attempt is settled already.
        """
        run(self._family.store, self._complete(self._family.encoded(outcome), ttl))
        self.outcome = outcome

    async def acomplete(self, outcome: Any = None, *, ttl: float | None = None) -> None:
        """`complete`, awaiting."""
        await arun(self._family.store, self._complete(self._family.encoded(outcome), ttl))
        self.outcome = outcome

    def seal(self) -> None:
        """Complete without keeping the outcome: a repetition gets `NotReplayable`, and no execution."""
        run(self._family.store, self._complete(_SEALED, None))

    async def aseal(self) -> None:
        """`seal`, awaiting."""
        await arun(self._family.store, self._complete(_SEALED, None))

    def abandon(self) -> None:
        """Declare that nothing happened: a repetition executes."""
        run(self._family.store, self._abandon())

    async def aabandon(self) -> None:
        """`abandon`, awaiting."""
        await arun(self._family.store, self._abandon())

    def failed(self, failure: Exception) -> Flow[None]:
        """What the family does about an exception that left the block."""
        if self._family.failures == "retry":
            yield from self._abandon()
        else:
            yield from self._complete(_FAILURE + type(failure).__qualname__.encode(), None)

    def _complete(self, stored: bytes, ttl: float | None) -> Flow[None]:
        if ttl is not None:
            check_ttl(f"idempotency {self._family.name!r}", ttl)
        self._settle()
        keep = self._family.ttl if ttl is None else ttl
        if not (yield Complete(self.address, self.token, stored, keep)):
            raise LeaseLost(
                f"idempotency {self._family.name!r}: the lease of {self._family.lease} s ran out and "
                f"another holder took over; this outcome was not stored"
            )

    def _abandon(self) -> Flow[None]:
        self._settle()
        yield Abandon(self.address, self.token)

    def _settle(self) -> None:
        if self.settled:
            raise RuntimeError("this attempt is settled: complete, seal or abandon it once")
        self.settled = True
