"""Runs when a Python program begins that a replica's command starts: see `anypod.replicas.command`.

It puts the guard in, lets imports come from the replica's copy of the tree, and steps aside for a
`sitecustomize` of the user's own. Nothing here may keep a program from starting.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from pathlib import Path

_HERE = str(Path(__file__).parent)
_SOURCE = str(Path(__file__).parents[3])


def _guard() -> None:
    """Install the guard with what the tool left in the environment."""
    config = json.loads(os.environ["ANYPOD_REPLICA"])
    sys.path.insert(0, _SOURCE)  # the program may run under another environment than the tool
    try:
        from anypod.replicas.guard import Guard, move_imports, patch_hostname
    finally:
        sys.path.remove(_SOURCE)
    move_imports(Path(config["root"]), Path(config["disk"]))
    patch_hostname(config["hostname"])
    guard = Guard(
        inside=[Path(path) for path in config["inside"]],
        allow_hosts=config["allow_hosts"],
        hostname=config["hostname"],
    )
    guard.install(Path(config["records"]))
    guard.note("guarded")


def _next_one() -> None:
    """Run the `sitecustomize` that this one stands in front of, if there is any."""
    sys.path[:] = [entry for entry in sys.path if entry != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


with contextlib.suppress(Exception):  # an older Python, an environment of its own: not guarded
    _guard()
_next_one()
