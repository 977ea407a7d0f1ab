"""A slot: where its processes live, and what runs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Site"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a pod's processes live and what they run."""

    base: Path
    slot: int
    root: Path
    target: str
    env: Mapping[str, str]
    allow_hosts: tuple[str, ...]
    timeout: float
    import_each: str = ""  # why replicas are not forked, if they are not to be

    @property
    def path(self) -> Path:
        """The slot's directory: disk, home and tmp."""
        return self.base / f"slot-{self.slot}"
