"""What a duration is: seconds, as everything here is given them; and what a message can show of what is none.

A NaN compares false with everything, so a wait of NaN seconds would never end; True is 1; an int of
thousands of digits cannot be printed. What is refused is refused where it is given, with the name of the
primitive and of the argument, and with what to give instead.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, Final

from anypod.errors import ConfigurationError

LONGEST: Final = 100 * 366 * 86_400.0  # seconds; what is kept for longer is kept for ever
_SHOWN: Final = 120  # characters

_REMEDIES: Final = {
    "ttl": "give as long as it is of use, such as 86400",
    "lease": "give many times what an exchange takes, such as 30",
    "window": "3600 is the hour",
    "every": "1.0 is usual",
    "idle": "1800 is usual",
    "absolute": "86400 is usual",
    "grace": "10 is usual",
    "stale": "0 serves nothing stale",
    "wait": "0 does not wait",
    "lock_timeout": "2.0 is usual",
    "older_than": "give the family's ttl at least",
}


def shown(value: object) -> str:
    """A value as a message can hold it: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # the user's own repr, or an int with too many digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def is_number(value: Any) -> bool:
    """Whether this is an int or a float, and not a bool, which Python counts among the ints."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_duration(seconds: Any) -> bool:
    """Whether this is a number of seconds above 0, up to a hundred years."""
    return is_number(seconds) and 0 < seconds <= LONGEST  # NaN compares as False


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
            raise ConfigurationError(_refusal(owner, name, seconds, "above 0"))


def check_spans(owner: str, **named: Any) -> None:
    """Refuse what is neither a duration nor 0; as `check_durations`."""
    for name, seconds in named.items():
        if not (is_duration(seconds) or (is_number(seconds) and seconds == 0)):
            raise ConfigurationError(_refusal(owner, name, seconds, "from 0 on"))


def check_ttl(owner: str, ttl: object) -> None:
    """Refuse a `ttl` of a call that is no duration.

    Raises:
        ValueError: which names the primitive.
    """
    if not is_duration(ttl):
        raise ValueError(_refusal(owner, "ttl", ttl, "above 0"))


def check_wait(owner: str, seconds: Any) -> None:
    """Refuse a time to wait that would never be over, or is none; infinity is one.

    Raises:
        ValueError: which names the primitive.
    """
    if not (is_number(seconds) and (0 <= seconds <= LONGEST or seconds == math.inf)):
        raise ValueError(_refusal(owner, "wait", seconds, "from 0 on"))


def _refusal(owner: str, name: str, value: object, least: str) -> str:
    remedy = _REMEDIES[name]
    if isinstance(value, timedelta):
        remedy = "give its .total_seconds()"
    return f"{owner}: {name} must be seconds {least}, up to a hundred years, not {shown(value)}; {remedy}"
