"""Every error that anypod raises on purpose.

    AnypodError
    ├── ConfigurationError      a URL, an environment or an argument that cannot work
    │   ├── MissingExtra        an optional dependency is not installed
    │   └── NoStore             no store is configured, and guessing one would be the bug
    ├── StoreError              the store, not the request
    │   ├── StoreUnavailable    the command did not execute
    │   ├── OutcomeUnknown      the command may or may not have executed
    │   ├── Conflict            others kept changing the record; nothing was written
    │   └── RecordError         a stored record cannot be read; it is left as it is
    ├── LimitReached            a counter's floor or ceiling refused the step
    ├── KeyReused               an operation id came back with another argument
    ├── InFlight                the same operation is being carried out elsewhere
    ├── EarlierFailure          the operation failed the first time, and the failure was kept
    ├── NotReplayable           the operation is done, its answer was not kept
    ├── LockTimeout             others held the lock for as long as the caller would wait
    ├── Reentered               the caller holds the lock already and would wait for itself
    ├── LeaseLost               somebody else holds what this caller held
    └── SessionEnded            the session was logged out or ran out

Callers act on the class, never on the message. `OutcomeUnknown` is the one to think about: repeat the
operation only if it is idempotent, for instance because it carries `once=`.
"""

from __future__ import annotations


class AnypodError(Exception):
    """The root of the tree."""


class ConfigurationError(AnypodError):
    """A URL, an environment variable or an argument that cannot work."""


class MissingExtra(ConfigurationError):
    """An optional dependency is not installed.

    Args:
        what: what needs it, for people.
        extra: the extra of anypod that installs it.
    """

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs the extra {extra!r}: pip install 'anypod[{extra}]'")


class NoStore(ConfigurationError):
    """No store is configured, and guessing one would be the bug."""


class StoreError(AnypodError):
    """The store failed, whatever the request was."""


class StoreUnavailable(StoreError):
    """The store could not be reached in time; the command did not execute."""


class OutcomeUnknown(StoreError):
    """The connection was lost after the command left: it may or may not have executed."""


class Conflict(StoreError):
    """A compare-and-swap loop gave up because others kept changing the record; nothing was written."""


class RecordError(StoreError):
    """A stored record cannot be read: a newer format, another type, or not a record of anypod."""


class LimitReached(AnypodError):
    """A counter's floor or ceiling refused the step.

    Attributes:
        value: the value that stands.
    """

    def __init__(self, value: int, message: str) -> None:
        self.value = value
        super().__init__(message)


class KeyReused(AnypodError):
    """An operation id or idempotency key came back with another argument."""


class InFlight(AnypodError):
    """The same operation is being carried out elsewhere.

    Attributes:
        retry_after: seconds after which a retry has a chance.
    """

    def __init__(self, retry_after: float, message: str) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class EarlierFailure(AnypodError):
    """The operation failed the first time, and a failure is an outcome."""


class NotReplayable(AnypodError):
    """The operation is complete, but its answer was too large or too short-lived to be kept."""


class LockTimeout(AnypodError):
    """Others held the lock for as long as the caller would wait."""


class Reentered(AnypodError):
    """The caller holds the lock already and would wait for itself."""


class LeaseLost(AnypodError):
    """The lease ran out and somebody else may hold it: what was done since must not be relied on."""


class SessionEnded(AnypodError):
    """The session was logged out or ran out; what was changed in it is not kept."""
