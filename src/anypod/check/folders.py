"""Folders: which entry points look into which, by the variable or the helper that names a folder."""

from __future__ import annotations

from collections.abc import Iterator

from anypod.check.analysis import Analysis
from anypod.check.facts import ARGS, KWARGS, Value
from anypod.check.frames import Frame
from anypod.check.reach import External

OPENS = frozenset(
    {
        "builtins.open", "io.open", "codecs.open", "aiofiles.open", "gzip.open", "bz2.open", "lzma.open",
        "zipfile.ZipFile", "tarfile.open", "h5py.File",
    }
)  # fmt: skip
_PATH_READS = frozenset({"read_text", "read_bytes", "exists", "is_file", "glob", "iterdir"})
_READS = frozenset(
    {
        "send_file", "send_from_directory", "FileResponse", "isfile", "listdir", "scandir", "imread", "read_csv",
        "read_excel", "read_parquet", "load",
    }
)  # fmt: skip


class Readers:
    """Which entry points look into which folders, found when somebody asks."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self._found: dict[tuple[str, ...], set[tuple[str, str]]] | None = None

    def of(self, anchor: tuple[str, ...]) -> set[tuple[str, str]]:
        """The entry points that look there."""
        if self._found is None:
            self._found = {}
            for external in self.analysis.externals:
                path = _looked_at(self.analysis, external)
                if path is not None:
                    for one in anchors(self.analysis, path, external.frame):
                        self._found.setdefault(one, set()).add(
                            entry_of(self.analysis, external.frame)
                        )
        return self._found.get(anchor, set())


def _looked_at(analysis: Analysis, external: External) -> Value | None:
    """The path that a call reads, serves or asks about."""
    call = external.frame.function.body.calls[external.call]
    last = external.dotted.rpartition(".")[2]
    if last in _PATH_READS and call[0][0] == "a" and not external.dotted.startswith("os."):
        path: Value = call[0][1]
        return path
    if not call[ARGS] or (last not in _READS and external.dotted not in OPENS):
        return None
    if external.dotted in OPENS:
        mode = call[ARGS][1] if len(call[ARGS]) > 1 else dict(call[KWARGS]).get("mode")
        text = analysis.resolver.constant(mode, external.frame) if mode is not None else "r"
        if not isinstance(text, str) or set(text) & set("wax+"):
            return None
    first: Value = call[ARGS][0]
    return first


def anchors(analysis: Analysis, path: Value, frame: Frame) -> Iterator[tuple[str, ...]]:
    """What names the folder of a path: variables of modules, and checked helpers that take nothing."""
    for one in analysis.deep(path, frame):
        if one[0] in "na":
            for found in analysis.resolver.resolve(one, frame):
                if found[0] == "P" and found[1][0] == "g" and not found[2]:
                    yield found[1]
        elif one[0] == "r" and not frame.function.body.calls[one[1]][ARGS]:
            for callee in analysis.resolver.callees(frame, one[1]):
                if callee[0] == "F":
                    yield callee[1]


def entry_of(analysis: Analysis, frame: Frame) -> tuple[str, str]:
    """The function with which a request comes in."""
    current = frame
    while (parent := analysis.parents.get(current)) is not None:
        current = parent[0]
    return current.function.key
