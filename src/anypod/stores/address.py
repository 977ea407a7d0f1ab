"""The options of a store's URL (`?timeout=5&synchronous=full`), parsed strictly.

An option that is misspelt and ignored is a setting that somebody believes in, so it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from anypod.errors import ConfigurationError

LONGEST_WAIT: Final = 3600.0  # seconds


def options(url: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a URL over their defaults; each is read as its default's type.

    A default that is a tuple of strings lists the allowed words, the first of them being the default.
    A float is a number of seconds, positive and at most an hour.

    Raises:
        ConfigurationError: an unknown or repeated option, or a value that is not of its type.
    """
    values = {
        name: default[0] if isinstance(default, tuple) else default
        for name, default in defaults.items()
    }
    seen: set[str] = set()
    for name, text in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in defaults:
            near = get_close_matches(name, defaults, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(defaults))}"
            raise ConfigurationError(f"a store URL has no option {name!r}; {hint}")
        if name in seen:
            raise ConfigurationError(f"the option {name!r} stands twice in the store URL")
        seen.add(name)
        values[name] = _parsed(name, text, defaults[name])
    return values


def _parsed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, tuple):
        if text not in default:
            raise ConfigurationError(
                f"the option {name}={text!r} must be one of {', '.join(default)}"
            )
        return text
    if isinstance(default, int):
        if not text.isascii() or not text.isdigit():
            raise ConfigurationError(f"the option {name}={text!r} must be a whole number ≥ 0")
        return int(text)
    if isinstance(default, float):
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= LONGEST_WAIT:
            raise ConfigurationError(
                f"the option {name}={text!r} must be seconds, above 0 and at most {LONGEST_WAIT:.0f}"
            )
        return seconds
    return text
