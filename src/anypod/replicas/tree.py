"""Trees of files: copied as a project is, walked, removed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path

from anypod.replicas.errors import Interrupted, TreeTooLarge

__all__ = ["MAX_BYTES", "MAX_FILES", "copy_tree", "remove_tree", "remove_world", "walk"]

_REPOSITORIES = frozenset({".git", ".hg", ".svn"})
LEFT_OUT = _REPOSITORIES | frozenset({
    ".venv", "venv", "node_modules", "__pycache__", ".tox", ".nox", ".eggs",
    ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".idea", ".vscode", ".anypod",
})  # fmt: skip
MAX_BYTES = 256 << 20
MAX_FILES = 50_000
_WEIGHED = 50_000  # entries per folder: enough to name the heaviest, in bounded time


def copy_tree(
    source: Path,
    target: Path,
    *,
    leave_out: Collection[Path] = (),
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Copy a project tree, keeping times, modes and symlinks.

    The project's own version control, virtual environments and tool caches are left out, and so are
    sockets, pipes and what cannot be read. A repository deeper in the tree may be what the service
    writes to, as a wiki does: it is copied as far as there is room. A symlink into the tree by absolute
    path leads into the copy. Nothing is copied before all is weighed.

    Args:
        source: the tree.
        target: a directory that does not exist yet.
        leave_out: further directories of the tree that are not copied.
        max_bytes: the most that is copied, in bytes.
        max_files: the most files that are copied.
        stop: asked before each file whether to give up.

    Raises:
        TreeTooLarge: the tree is larger than that.
        Interrupted: `stop` said so; what was copied is the caller's to remove.
    """
    size, files, links, folders = 0, dict[Path, Path](), dict[Path, Path](), [target]
    pending, repositories = [(source, target)], list[tuple[Path, Path]]()
    while pending:
        here, there = pending.pop()
        for entry in _scan(here):
            path, copy = Path(entry.path), there / entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name in _REPOSITORIES and here != source and path not in leave_out:
                    repositories.append((path, copy))
                    continue
                if entry.name in LEFT_OUT or path in leave_out or (path / "pyvenv.cfg").exists():
                    continue
                pending.append((path, copy))
                folders.append(copy)
                continue
            with contextlib.suppress(FileNotFoundError):  # removed while we look
                if entry.is_symlink():
                    links[copy] = _inside(path.readlink(), source, target)
                elif entry.is_file(follow_symlinks=False) and os.access(path, os.R_OK):
                    size += entry.stat(follow_symlinks=False).st_size
                    files[path] = copy
            if size > max_bytes or len(files) > max_files:
                raise _too_large(source, max_bytes, max_files)
    for place, copy in repositories:
        inside, below, weight = _repository(place, copy)
        if size + weight <= max_bytes and len(files) + len(inside) <= max_files:
            size += weight
            files |= inside
            folders += below
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    _copy_files(files, source, stop)
    for copy, link in links.items():
        copy.symlink_to(link)


def _copy_files(files: Mapping[Path, Path], source: Path, stop: Callable[[], bool]) -> None:
    for path, copy in files.items():
        if stop():
            raise Interrupted(f"copying {source} was given up")
        with contextlib.suppress(FileNotFoundError):  # an editor or another service removed it
            shutil.copy2(path, copy)


def _repository(place: Path, copy: Path) -> tuple[dict[Path, Path], list[Path], int]:
    """What would be copied of a repository: its files, its folders, and how many bytes."""
    files, folders, size = dict[Path, Path](), [copy], 0
    for path in sorted(place.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            folders.append(copy / path.relative_to(place))
        elif path.is_file() and os.access(path, os.R_OK):
            size += path.stat().st_size
            files[path] = copy / path.relative_to(place)
    return files, folders, size


def _inside(link: Path, source: Path, target: Path) -> Path:
    return target / link.relative_to(source) if link.is_relative_to(source) else link


def _too_large(source: Path, max_bytes: int, max_files: int) -> TreeTooLarge:
    sizes: dict[str, int] = {}
    for entry in _scan(source):
        if entry.is_dir(follow_symlinks=False) and entry.name not in LEFT_OUT:
            sizes[entry.name] = sum(
                item.stat(follow_symlinks=False).st_size
                for item in islice(walk(Path(entry.path)), _WEIGHED)
                if item.is_file(follow_symlinks=False)
            )
    heaviest = max(sizes, key=lambda name: sizes[name], default="")
    largest = (
        f"; its largest folder is {heaviest}/ ({sizes[heaviest] >> 20} MiB)" if heaviest else ""
    )
    return TreeTooLarge(
        f"{source} holds more than {max_bytes >> 20} MiB or {max_files} files, too much to copy for "
        f"each replica{largest}. Run from the folder of the service itself, or move what is not part "
        f"of it elsewhere."
    )


def _scan(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (PermissionError, FileNotFoundError):
        return []  # what the service cannot read is no part of what it serves


def walk(root: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below `root`, folders before what they hold; links are not followed."""
    pending = [root]
    while pending:
        for entry in _scan(pending.pop()):
            yield entry
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))


def remove_tree(path: Path) -> None:
    """Remove a directory with all that it holds, as far as the system allows."""
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for entry in walk(path):  # folders that the service had closed to writers
            if entry.is_dir(follow_symlinks=False):
                Path(entry.path).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)


def remove_world(base: Path) -> None:
    """Remove a world's directory, and its volume, which may be elsewhere."""
    remove_tree((base / "volume").resolve())
    remove_tree(base)
