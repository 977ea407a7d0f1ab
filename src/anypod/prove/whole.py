"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

_DEVICES = Path("/dev")


def write_whole(content: str, path: Path) -> None:
    """Write a file beside its place and rename it; what no plain file is, a pipe say, is written to.

    Args:
        content: what it is to hold; what UTF-8 cannot hold is escaped.
        path: of the file.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        # Renamed over it, a device or a link would be gone. /dev/stdout may be a file that has begun.
        mode = "a" if path.is_relative_to(_DEVICES) else "w"
        with path.open(mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(content)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(content, encoding="utf-8", errors="backslashreplace")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def unwritable(path: Path) -> str:
    """Why a file cannot be written, as far as that can be told before; empty if it may be."""
    if path.is_dir():
        return "it is a folder"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    place = path if path.exists() and not path.is_file() else path.parent
    return "" if os.access(place, os.W_OK) else f"{place} is not yours to write in"
