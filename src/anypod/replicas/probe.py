"""The probe inside a replica: which state changed since it was asked last, and by which line.

It answers on a channel of its own, in a thread of its own, while the service serves. The end of that
channel is the tool's death: the replica's whole process group goes with it.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anypod.replicas import transplant
from anypod.replicas.change import State
from anypod.replicas.channel import Channel
from anypod.replicas.digest import Digests, is_plain, render
from anypod.replicas.roots import Roots
from anypod.replicas.routes import unreached
from anypod.replicas.target import Target
from anypod.replicas.writes import Writes

__all__ = ["Fingerprints", "answer"]

_ATTEMPTS = 5
_ABSENT = "absent"
_DEEPER = ", changed further inside"
_SHOWN = 120

_Key = tuple[str, str, str]  # kind, module, name


@dataclass(frozen=True, slots=True)
class _Look:
    """A place as it was seen: its digest, and the value itself or how it looked."""

    digest: int
    value: Any
    shown: str | None

    @property
    def text(self) -> str:
        return repr(self.value)[:_SHOWN] if self.shown is None else self.shown


class Fingerprints:
    """The service's process-local state, look after look.

    Args:
        application: the application object.
        target: how the user named it.
        disk: the replica's copy of the tree.
        root: the user's tree.
    """

    def __init__(self, application: Any, target: Target, *, disk: Path, root: Path) -> None:
        self.application = application
        self.roots = Roots(application, target, disk=disk)
        self._digests = Digests(self.roots.is_own_class)
        self._disk = disk
        self._root = root
        self._seen: dict[_Key, _Look] = {}
        self._seen = self._scan()

    def look(self) -> None:
        """Take the present state as what `changes` compares with."""
        self._seen = self._scan()

    def changes(self) -> list[dict[str, str]]:
        """What changed since the last look, as the fields of `Change`."""
        before, self._seen = self._seen, self._scan()
        found: list[dict[str, str]] = []
        for key in [*self._seen, *(key for key in before if key not in self._seen)]:
            was, now = before.get(key), self._seen.get(key)
            if was is not None and now is not None and was.digest == now.digest:
                continue
            kind, module, name = key
            before_text = was.text if was else _ABSENT
            after_text = now.text if now else _ABSENT
            if before_text == after_text:
                after_text = f"{after_text[: _SHOWN - len(_DEEPER)]}{_DEEPER}"
            found.append(
                {
                    "kind": kind,
                    "name": name,
                    "module": module,
                    "file": self._file(module),
                    "before": before_text,
                    "after": after_text,
                }
            )
        return found

    def constants(self) -> list[dict[str, Any]]:
        """Every text and number that a place holds, as the fields of `Constant`."""
        places = [place for place in self.roots.places() if is_plain(place.value)]
        known = {place.state: place for place in places}
        found = known | {p.state: p for p in self.roots.secrets() if p.state not in known}
        return [
            {
                "state": list(state),
                "file": self._file(state.module),
                "digest": hashlib.blake2b(marshal.dumps(place.value, 2)).hexdigest(),
            }
            for state, place in found.items()
            if place.value is not None
        ]

    def _file(self, module: str) -> str:
        file = getattr(sys.modules.get(module), "__file__", None)
        if not isinstance(file, str):
            return ""
        path = Path(file)
        return (
            str(self._root / path.relative_to(self._disk))
            if path.is_relative_to(self._disk)
            else file
        )

    def _scan(self) -> dict[_Key, _Look]:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._scan_once()
            except RuntimeError:
                continue  # a container changed under our hands: a request is at work
        return self._scan_once()

    def _scan_once(self) -> dict[_Key, _Look]:
        looks: dict[_Key, _Look] = {}
        for place in self.roots.places():
            key = (place.kind, place.module, place.name)
            digest = self._digests.of(place.value)
            before = self._seen.get(key)
            if before is not None and before.digest == digest:
                looks.setdefault(key, before)  # it also looks the same
            elif place.kind == "cache":
                looks.setdefault(
                    key, _Look(digest, None, str(place.value))
                )  # told in words already
            elif is_plain(place.value):
                looks.setdefault(key, _Look(digest, place.value, None))
            else:
                shown = render(place.value, self.roots.is_own_class)
                looks.setdefault(key, _Look(digest, None, shown))
        return looks


def answer(
    channel: Channel,
    fingerprints: Fingerprints,
    farewell: Callable[[], None] | None,
    writes: Writes | None = None,
) -> None:
    """Answer the tool until it is gone, then take the process group along.

    Args:
        channel: to the tool.
        fingerprints: of the service.
        farewell: what to do before leaving.
        writes: watches for the lines that write, if any are watched for.
    """
    try:
        while True:
            message = channel.receive()
            reply: dict[str, Any] = {"number": message["number"]}
            match message["op"]:
                case "changes":
                    reply["changes"] = fingerprints.changes()
                case "constants":
                    reply["constants"] = fingerprints.constants()
                case "routes":
                    reply["routes"] = _unreached(fingerprints.application, message["requests"])
                case "writes":
                    reply["writes"] = [] if writes is None else writes.found()
                case "take":
                    states = [State(*state) for state in message["states"]]
                    but = [State(*state) for state in message["but"]]
                    taken = transplant.take(fingerprints.roots, states, but)
                    reply["contents"] = [[*state, content] for state, content in taken.items()]
                case "give":
                    contents = {State(*state): content for *state, content in message["contents"]}
                    reply["states"] = [*transplant.give(fingerprints.roots, contents)]
                case "caches":
                    reply["caches"] = [
                        {"name": cache.name, "ttl": cache.ttl} for cache in _local_caches()
                    ]
                case "advance":
                    for cache in _local_caches():
                        cache.advance(message["seconds"])
            channel.send(reply)
    except (EOFError, OSError):
        if farewell is not None:
            farewell()
        os.killpg(0, signal.SIGKILL)


def _unreached(application: Any, requests: list[list[str]]) -> list[str] | None:
    try:
        return unreached(application, requests)
    except Exception:  # noqa: BLE001  # another version of a framework: then the routes are not known
        return None


def _local_caches() -> list[Any]:
    """The local caches of anypod that are alive, if the service uses any."""
    return list(getattr(sys.modules.get("anypod.primitives.local"), "LIVE", ()))
