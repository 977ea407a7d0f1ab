"""What makes two local cache keys the same: equal values of the same type, at every depth.

Python calls `1`, `True` and `1.0` equal, which is right for arithmetic and wrong for a cache:
the answer for one would be served for the other. A typed key keeps plain values as they are, so that
the usual key costs nothing, and pairs everything else with its class:

    "a"           -> "a"                       1      -> 1
    True          -> (bool, True)              1.0    -> (float, 1.0)
    ("a", 1)      -> ("a", 1)                  (1.0,) -> (tuple, (float, 1.0))

The mapping is injective: an untouched tuple holds plain values only, a paired one starts with a class.
"""

from collections.abc import Hashable
from types import NoneType
from typing import Final
from uuid import UUID

PLAIN: Final = frozenset({str, int, bytes, NoneType, UUID})
"""Exact types whose values never equal a value of another type in this set."""


def typed_key(key: Hashable) -> Hashable:
    """The form of `key` under which a local cache stores it.

    Args:
        key: any hashable value; tuples and frozensets are typed member by member, other objects
            by their class and their own equality.

    Raises:
        TypeError: the key, or a part of it, cannot be hashed.
    """
    kind = type(key)
    if kind in PLAIN:
        return key
    if isinstance(key, tuple):
        if kind is tuple and PLAIN.issuperset(map(type, key)):
            return key
        return (kind, *map(typed_key, key))
    if isinstance(key, frozenset):
        return (kind, frozenset(map(typed_key, key)))
    try:
        hash(key)
    except TypeError as error:
        raise TypeError(
            f"{key!r} cannot be (part of) a cache key: {error}; "
            "pass an immutable value such as a tuple, or give @cached a key= function"
        ) from error
    return (kind, key)
