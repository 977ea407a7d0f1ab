"""Reorderings of shop.http that mean the same: independent requests change places, others do not.

Two requests are dependent if they name one resource: an item, an order, a counter, a rate, a session.
Those keep their order; everything else is shuffled by a seed.
"""

from __future__ import annotations

import random
import re
from itertools import pairwise


def split(text: str) -> tuple[str, list[str]]:
    """What stands before the first request, and the requests, each from its `###` on."""
    preamble, *blocks = re.split(r"(?m)^(?=###)", text)
    return preamble, [block.rstrip("\n") + "\n" for block in blocks]


def resources(block: str) -> frozenset[str]:
    """What a request reads or writes; empty for a stateless one."""
    request = re.search(r"(?m)^(?:GET|PUT|POST) \{\{host\}\}(\S+)", block)
    assert request, block
    path = request[1]
    named = re.search(r"(?m)^# @name (\w+)", block)
    found = {f"response of {name}" for name in re.findall(r"\{\{(\w+)\.response", block)}
    if named:
        found.add(f"response of {named[1]}")
    for pattern, where in (
        (r"/data/(\w+)", path),
        (r'"item_id": "(\w+)"', block),
    ):
        found |= {f"item {item}" for item in re.findall(pattern, where)}
    found |= {f"rate {currency}" for currency in re.findall(r"/rates/(\w+)", path)}
    found |= {f"counter {name}" for name in re.findall(r'"counter": "(\w+)"', block)}
    if path == "/counter":
        found.add("visits of /counter")
    return frozenset(found)


def reorder(text: str, seed: int) -> str:
    """The same requests in another order that means the same."""
    preamble, blocks = split(text)
    touched = [resources(block) for block in blocks]
    waits_for: list[set[int]] = [set() for _ in blocks]
    for resource in frozenset().union(*touched):
        users = [index for index, names in enumerate(touched) if resource in names]
        for before, after in pairwise(users):
            waits_for[after].add(before)
    chance = random.Random(seed)
    order: list[int] = []
    while len(order) < len(blocks):
        done = set(order)
        ready = [i for i in range(len(blocks)) if i not in done and waits_for[i] <= done]
        order.append(chance.choice(ready))
    return preamble + "\n".join(blocks[index] for index in order)
