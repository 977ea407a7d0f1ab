"""What a duration is: seconds, as everything here is given them."""

from __future__ import annotations

from typing import Final

from anypod.errors import ConfigurationError

LONGEST: Final = 100 * 366 * 86_400.0  # seconds; what is kept for longer is kept for ever


def is_duration(seconds: object) -> bool:
    """Whether this is a number of seconds above 0, up to a hundred years."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return number and 0 < seconds <= LONGEST  # type: ignore[operator]  # a number; NaN compares as False


def check_durations(owner: str, **named: object) -> None:
    """Refuse what is no duration.

    Args:
        owner: kind and name of the primitive, for the message.
        named: the durations, by the name of their argument.

    Raises:
        ConfigurationError: which names the argument.
    """
    for name, seconds in named.items():
        if not is_duration(seconds):
            raise ConfigurationError(
                f"{owner}: {name} must be seconds above 0, up to a hundred years, not {seconds!r}"
            )


def check_wait(owner: str, seconds: object) -> None:
    """Refuse a time to wait that would never be over, or is none; infinity is one.

    Raises:
        ValueError: which names the primitive.
    """
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not (number and seconds >= 0):  # type: ignore[operator]  # a number
        raise ValueError(f"{owner}: wait must be seconds from 0 on, not {seconds!r}")
