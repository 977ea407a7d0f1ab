"""A replica's private disk: a copy of the project tree that can be put back as it was.

A pod starts on the image's files and loses what it wrote. Here the image is a copy of the project
tree, made once per world; each slot gets its own, and between two replicas of a slot only what
changed is written again: a snapshot maps every path to its inode, times, size and mode; the time of
the last status change is among them, which no program can set back. A file whose
modification time is as young as the snapshot could change again within one tick of the clock, so the
content of young files is hashed as well.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from anypod.replicas.change import Change, Constant, State
from anypod.replicas.tree import remove_tree, walk
from anypod.replicas.watch import Watch

__all__ = ["Disk", "Entry", "diff", "snapshot"]


_YOUNG_NS = 100_000_000  # coarser than any tick of a file system's clock that we have met
_HASHED = 1 << 20
_PREVIEW = 120
_LOOKS = 3  # the first only learns which directories to watch
_SQLITE = b"SQLite format 3\x00"
_SERVERS_OWN = (
    "wgunicorn-",
)  # made and at once unlinked by each worker, whatever the application does
_SQLITE_COMPANIONS = ("-wal", "-shm", "-journal")
_CARRIED = 8 << 20  # bytes of one file
_TOPS = {"~/": "home", "$TMPDIR/": "tmp"}  # how people name what is below these


@dataclass(frozen=True, slots=True)
class Entry:
    """What a snapshot knows of one path; `content` is a hash, kept only for young files."""

    kind: str  # "file", "directory" or "link"
    inode: int
    mtime: int
    size: int
    mode: int
    target: str = ""
    content: str = ""
    ctime: int = 0


def snapshot(root: Path, earlier: Mapping[str, Entry] | None = None) -> dict[str, Entry]:
    """Every path below `root`, relative to it.

    Args:
        root: the directory.
        earlier: a previous snapshot; files that were young in it are hashed again.
    """
    now, known, prefix = time.time_ns(), earlier or {}, len(str(root)) + 1
    found: dict[str, Entry] = {}
    for item in walk(root):
        name = item.path[prefix:]
        try:
            info = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                found[name] = Entry(
                    "link", info.st_ino, 0, 0, 0, target=str(Path(item.path).readlink())
                )
            elif stat.S_ISDIR(info.st_mode):
                found[name] = Entry("directory", info.st_ino, 0, 0, stat.S_IMODE(info.st_mode))
            elif stat.S_ISREG(info.st_mode):
                before = known.get(name)
                young = now - info.st_mtime_ns < _YOUNG_NS or (before and before.content)
                found[name] = Entry(
                    "file",
                    info.st_ino,
                    info.st_mtime_ns,
                    info.st_size,
                    stat.S_IMODE(info.st_mode),
                    content=_hash(Path(item.path)) if young and info.st_size <= _HASHED else "",
                    ctime=info.st_ctime_ns,
                )
        except FileNotFoundError:
            continue  # the service removed it while we looked
    return found


def _hash(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _same(one: Entry | None, other: Entry | None) -> bool:
    if one is None or other is None:
        return one is other
    content = one.content == other.content or not (one.content and other.content)
    plain = (one.kind, one.inode, one.mtime, one.size, one.mode, one.target, one.ctime)
    return content and plain == (
        other.kind, other.inode, other.mtime, other.size, other.mode, other.target,
        other.ctime,
    )  # fmt: skip


def diff(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[str]:
    """The paths that differ between two snapshots of one directory, sorted."""
    return sorted(
        path
        for path in before.keys() | after.keys()
        if not _same(before.get(path), after.get(path))
    )


class Disk:
    """A directory that returns to a remembered state.

    Args:
        path: the directory.
        origin: where unchanged files can be read again, a directory of the same layout.
        stash: a directory for what `capture` finds beyond `origin`.
    """

    def __init__(self, path: Path, *, origin: Path | None, stash: Path) -> None:
        self.path = path
        self._origin = origin
        self._stash = stash
        self._pristine: dict[str, Entry] = {}
        self._seen: dict[str, Entry] = {}
        self._watch = Watch()

    def capture(self) -> None:
        """Remember the present state as the pristine one."""
        remove_tree(self._stash)
        self._pristine = self._settle()
        for name, entry in self._pristine.items():
            if entry.kind == "file" and not self._is_original(name, entry):
                copy = self._stash / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.path / name, copy)

    def _is_original(self, name: str, entry: Entry) -> bool:
        if self._origin is None:
            return False
        try:
            info = (self._origin / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (info.st_mtime_ns, info.st_size) == (entry.mtime, entry.size)

    def _source(self, name: str) -> Path:
        stashed = self._stash / name
        return stashed if stashed.exists() or self._origin is None else self._origin / name

    def restore(self) -> None:
        """Put the directory back to the pristine state, touching only what differs."""
        if self._seen is self._pristine and not self._watch.may_have_changed():
            return
        present = snapshot(self.path, self._pristine)
        differing = diff(self._pristine, present)
        for name in differing:
            wanted, found = self._pristine.get(name), present.get(name)
            if wanted and found and wanted.kind == found.kind == "directory":
                (self.path / name).chmod(wanted.mode)  # or nothing inside could be put back
        for name in reversed(differing):
            wanted, found = self._pristine.get(name), present.get(name)
            if found is None or (wanted and wanted.kind == found.kind != "link"):
                continue  # it is put back in place: a log file may be open for appending
            if found.kind == "directory":
                remove_tree(self.path / name)
            else:
                (self.path / name).unlink(missing_ok=True)
        for name in differing:
            if (wanted := self._pristine.get(name)) is not None:
                self._recreate(name, wanted)
        self._pristine = self._settle()

    def _recreate(self, name: str, wanted: Entry) -> None:
        path = self.path / name
        if wanted.kind == "link":
            path.symlink_to(wanted.target)
        elif wanted.kind == "directory":
            path.mkdir(exist_ok=True)
            path.chmod(wanted.mode)
        else:
            source = self._source(name)
            if path.exists() and not os.access(path, os.W_OK):
                path.unlink()
            shutil.copyfile(source, path)
            shutil.copystat(source, path)
            path.chmod(wanted.mode)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def look(self) -> None:
        """Take the present state as what `changes` compares with next."""
        self._settle()

    def _settle(self) -> dict[str, Entry]:
        """Look, until nothing moved while looking."""
        for _ in range(_LOOKS):
            self._watch.begin()
            self._seen = snapshot(self.path, self._seen)
            folders = [
                (self.path / name, entry.inode)
                for name, entry in self._seen.items()
                if entry.kind == "directory"
            ]
            self._watch.cover([(self.path, self.path.stat().st_ino), *folders])
            if not self._watch.may_have_changed():
                break
        return self._seen

    def changes(self, tree: Path) -> tuple[Change, ...]:
        """The files and databases that changed since the last look.

        Args:
            tree: the user's own tree, for the paths in the answer.
        """
        if not self._watch.may_have_changed():
            return ()
        before = self._seen
        self._settle()
        found: dict[str, Change] = {}
        differing = diff(before, self._seen)
        for name in differing:
            kinds = {entry.kind for entry in (before.get(name), self._seen.get(name)) if entry}
            if "file" not in kinds or "__pycache__/" in name:
                if kinds == {"directory"} and self._is_lone(name, before, differing):
                    found[f"{name}/"] = self._change(f"{name}/", before, tree)
                continue
            if name.rpartition("/")[2].startswith(_SERVERS_OWN):
                continue
            base = next(
                (name[: -len(end)] for end in _SQLITE_COMPANIONS if name.endswith(end)), name
            )
            if base != name and base not in self._seen and base not in before:
                base = name
            if base not in found:
                found[base] = self._change(base, before, tree)
        return tuple(found.values())

    def _is_lone(self, name: str, before: Mapping[str, Entry], differing: Collection[str]) -> bool:
        """Whether a folder of the project came or went, and none of its files did."""
        return (
            name.startswith("disk/")
            and (name in before) is not (name in self._seen)
            and not any(part.startswith((".", "__")) for part in name.split("/"))
            and not any(other.startswith(f"{name}/") for other in differing)
        )

    def take(self, name: str) -> str | None:
        """A file as text, for `give` on another disk, a database with its journals; a folder has a slash.

        Args:
            name: as a change names it.

        Returns:
            The content; None if it is too large to be carried.
        """
        path = self._path(name)
        if name.endswith("/"):
            return json.dumps(path.is_dir())
        contents = {}
        for end in ("", *_SQLITE_COMPANIONS):
            file = path.with_name(path.name + end)
            if file.is_file():
                if file.stat().st_size > _CARRIED:
                    return None
                contents[end] = base64.b85encode(file.read_bytes()).decode()
        return json.dumps(contents)

    def give(self, name: str, content: str) -> None:
        """Let a file be as it was on another disk.

        Args:
            name: as a change names it.
            content: what `take` returned there.
        """
        path = self._path(name)
        contents = json.loads(content)
        if isinstance(contents, bool):
            if contents:
                path.mkdir(parents=True, exist_ok=True)
            else:
                remove_tree(path)
            return
        for end in ("", *_SQLITE_COMPANIONS):
            file = path.with_name(path.name + end)
            if end in contents:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(base64.b85decode(contents[end]))
            else:
                file.unlink(missing_ok=True)

    def made(self) -> Iterator[Constant]:
        """The files that are not as in the origin, as they are now: what a start made, or a request."""
        for name, entry in self._seen.items():
            if entry.kind != "file" or self._is_original(name, entry) or "__pycache__/" in name:
                continue
            file = self.path / name
            if file.is_file() and not name.endswith(_SQLITE_COMPANIONS):
                digest = hashlib.blake2b(file.read_bytes()).hexdigest()
                yield Constant(State(_kind(file), "", _told(name)), "", digest)

    def _path(self, name: str) -> Path:
        for prefix, top in _TOPS.items():
            if name.startswith(prefix):
                return self.path / top / name.removeprefix(prefix)
        return self.path / "disk" / name

    def _change(self, name: str, before: Mapping[str, Entry], tree: Path) -> Change:
        kind = _kind(self.path / name)
        was = self._render(name, before, self._source(name) if name in self._pristine else None)
        now = self._render(name, self._seen, self.path / name)
        if was == now:
            now = f"{now}, other content"
        inside = name.removeprefix("disk/")
        return Change(kind, _told(name), "", "" if inside == name else str(tree / inside), was, now)

    def _render(self, name: str, entries: Mapping[str, Entry], content: Path | None) -> str:
        entry = entries.get(name.rstrip("/"))
        if entry is None:
            return "absent"
        if entry.kind != "file":
            return entry.kind
        original = content is not None and (
            content.is_relative_to(self.path) or _same(self._pristine.get(name), entry)
        )
        if original and content is not None and entry.size <= _PREVIEW:
            text = _text(content)
            if text is not None:
                return text
        journal = sum(item.size for end in ("-wal",) if (item := entries.get(name + end)))
        return f"{entry.size + journal} bytes"


def _told(name: str) -> str:
    """How people name a file of a replica, by where it is below its slot."""
    top, _, rest = name.partition("/")
    return rest if top == "disk" else f"{'~' if top == 'home' else '$TMPDIR'}/{rest}"


def _kind(file: Path) -> str:
    return "database" if _starts_with(file, _SQLITE) else "file"


def _starts_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False


def _text(path: Path) -> str | None:
    try:
        return repr(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
