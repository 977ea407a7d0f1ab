"""The environment of one slot: the user's, with a home, a name and stores of its own."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from pathlib import Path

__all__ = ["hostname_of", "slot_environment"]

_FIRST_SEED = 1009  # any fixed number: every slot hashes strings in an order of its own
_OF_THE_HOME = (
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
)
_NAMES_A_STORE = ("ANYPOD_URL", "REDIS_URL", "REDIS_HOST")


def hostname_of(slot: int) -> str:
    """The name that a slot's replicas go by."""
    return f"anypod-pod-{slot + 1}"


def slot_environment(
    env: Mapping[str, str],
    *,
    slot: int,
    home: Path,
    tmp: Path,
    disk: Path,
    volume: Path,
    bytecode: Path | None = None,
) -> dict[str, str]:
    """What a slot's processes find in their environment.

    Without a store in the user's environment, anypod's and the service's database are on the shared
    volume, as in a cluster they would be beside the pods. An empty DATABASE_URL is taken away: so a user
    asks for what the service does without one.

    Args:
        env: the complete environment of the service.
        slot: the slot's number, from 0.
        home: its HOME.
        tmp: its TMPDIR.
        disk: its copy of the project tree, where it starts.
        volume: what all slots share.
        bytecode: where imports may keep what they compile, if what is installed has none beside it.
    """
    own = {name: value for name, value in env.items() if name not in _OF_THE_HOME}
    if "PYTHONUSERBASE" not in own and "HOME" in env:
        own["PYTHONUSERBASE"] = str(Path(env["HOME"]) / ".local")  # installed packages are no state
    own.pop("OLDPWD", None)
    if not any(env.get(name) for name in _NAMES_A_STORE):
        own["ANYPOD_URL"] = f"sqlite:///{volume / 'anypod.db'}"
    if "DATABASE_URL" not in env:
        own["DATABASE_URL"] = f"sqlite:///{volume / 'app.db'}"
    elif not env["DATABASE_URL"]:
        del own["DATABASE_URL"]
    own.update(
        HOME=str(home),
        TMPDIR=str(tmp),
        TMP=str(tmp),
        TEMP=str(tmp),
        PWD=str(disk),
        HOSTNAME=hostname_of(slot),
        PYTHONHASHSEED=str(_FIRST_SEED + slot),
    )
    if bytecode is None or is_compiled() or "PYTHONPYCACHEPREFIX" in own:
        own["PYTHONDONTWRITEBYTECODE"] = "1"
    else:
        own.pop("PYTHONDONTWRITEBYTECODE", None)
        own["PYTHONPYCACHEPREFIX"] = str(bytecode)
    own.setdefault("PYTHONUNBUFFERED", "1")
    return own


@cache
def is_compiled() -> bool:
    """Whether packages beside this interpreter have their bytecode: uv and some images leave it out.

    Each import would compile them all again, which takes longer than everything else that it does.
    """
    compiled = f"*/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"
    return any(Path(sysconfig.get_path("purelib")).glob(compiled))
