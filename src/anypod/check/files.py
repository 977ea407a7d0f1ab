"""Files that requests write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from anypod.check import words
from anypod.check.analysis import Analysis
from anypod.check.facts import (
    ARGS,
    CALL_LINE,
    KWARGS,
    PROPERTY,
    Value,
)
from anypod.check.folders import OPENS, Readers, anchors, entry_of
from anypod.check.frames import Frame, walk
from anypod.check.model import ERROR, WARNING
from anypod.check.reach import External
from anypod.check.settings import settings

_PATH_METHODS = frozenset({"write_text", "write_bytes", "touch"})
# Function -> the position of the path that it writes.
_WRITERS = {
    "shutil.copy": 1, "shutil.copy2": 1, "shutil.copyfile": 1, "shutil.move": 1, "shutil.copytree": 1,
    "os.rename": 1, "os.replace": 1, "os.remove": 0, "os.unlink": 0, "shutil.rmtree": 0,
    "joblib.dump": 1, "numpy.save": 0, "numpy.savetxt": 0, "torch.save": 1, "cv2.imwrite": 0,
    "scipy.io.wavfile.write": 0, "soundfile.write": 0, "imageio.imwrite": 0, "urllib.request.urlretrieve": 1,
    "wget.download": 1, "numpy.savez": 0, "numpy.savez_compressed": 0, "shutil.make_archive": 0,
    "shutil.unpack_archive": 1, "graphviz.Digraph().render": 0, "graphviz.Graph().render": 0, "graphviz.Source().render": 0,
}  # fmt: skip
_SAVERS = frozenset(
    {"save", "to_csv", "to_json", "to_excel", "to_parquet", "savefig", "export", "to_pickle"}
)
# Methods that nothing but a file or a folder is given to.
_FILE_METHODS = frozenset(
    {
        "write_videofile", "write_audiofile", "write_gif", "write_html", "write_image", "save_local",
        "save_pretrained", "extractall",
    }
)  # fmt: skip
CONFIGURED = (
    "os.environ",
    "os.getenv",
    "decouple.",
    "environ.",
    "dotenv.",
    "starlette.config",
    "pydantic_settings",
    "dj_database_url.",
)
# Something like a path or a file's name; not a media type, not a URL.
_FILE = r"^(?!\w+://|(?:application|audio|image|text|video)/).*(?:\w[/.]\w|\w/|/\w)"
_JOINS = frozenset({"os.path.join", "pathlib.Path"})
_NOWHERE = ("/dev/", "/proc/", "/sys/")


class FileWrite(NamedTuple):
    """A request writes a file."""

    label: str
    frame: Frame
    line: int
    column: int
    text: str
    severity: str


def file_writes(analysis: Analysis) -> dict[str, list[FileWrite]]:
    """Writes by file."""
    found: dict[str, dict[tuple[str, int], FileWrite]] = {}
    removed = _removed(analysis)
    told: set[tuple[str, int]] = set()
    fixed = {s.name for s in settings(analysis)}
    asked = Readers(analysis)
    for external in analysis.externals:
        for path, text in _written(analysis, external):
            left = ""
            if is_temporary(analysis, path, external.frame):
                left = _left_for_others(analysis, path, external.frame, asked)
                if not left:
                    continue
            if text == "removed" or _is_removed_here(analysis, path, external.frame, removed):
                continue
            label = label_of(analysis, path, external.frame) or left
            if not label and not (
                external.dotted.startswith("request") and _is_a_path(analysis, path, external.frame)
            ):
                # Nothing says where this goes.
                continue
            by_configuration = is_configured(analysis, path, external.frame) or _is_left_open(
                analysis, path, external.frame, fixed
            )
            severity = WARNING if by_configuration or not label else ERROR
            write = FileWrite(
                label or "a file",
                external.frame,
                external.line,
                external.column,
                text,
                severity,
            )
            key = (external.frame.function.module, external.line)
            if key in told and key not in found.get(write.label, {}):
                # Another caller gives another path: the place is told once.
                continue
            told.add(key)
            found.setdefault(write.label, {}).setdefault(key, write)
    return {label: list(group.values()) for label, group in found.items()}


def _written(analysis: Analysis, external: External) -> Iterator[tuple[Value, str]]:
    call = external.frame.function.body.calls[external.call]
    arguments, keywords = call[ARGS], dict(call[KWARGS])
    dotted = external.dotted
    last = dotted.rpartition(".")[2]
    if dotted in OPENS and arguments and not _is_stream(analysis, arguments[0], external.frame):
        mode = arguments[1] if len(arguments) > 1 else keywords.get("mode")
        text = analysis.resolver.constant(mode, external.frame) if mode is not None else "r"
        if isinstance(text, str) and set(text) & set("wax+"):
            if "a" in text and is_log(analysis, arguments[0], external.frame):
                return
            yield arguments[0], f"opened with {text!r}"
    elif last == "open" and (_is_path(dotted) or _is_joined(call[0], external.frame)):
        text = analysis.resolver.constant(arguments[0], external.frame) if arguments else "r"
        if isinstance(text, str) and set(text) & set("wax+"):
            yield call[0][1], f"opened with {text!r}"
    elif last in _PATH_METHODS and (_is_path(dotted) or dotted.startswith("?.")):
        if call[0][0] == "a":
            yield call[0][1], f".{last}()"
    elif dotted in _WRITERS:
        at = _WRITERS[dotted]
        if len(arguments) > at:
            removes = dotted in {"os.remove", "os.unlink", "shutil.rmtree"}
            yield arguments[at], "removed" if removes else f"{last}()"
    elif arguments and (
        (last in _FILE_METHODS and _names_a_file(analysis, arguments[0], external.frame))
        or (last in _SAVERS and _saves_a_file(analysis, external, arguments[0]))
    ):
        yield arguments[0], f".{last}()"


def _is_stream(analysis: Analysis, value: Value, frame: Frame) -> bool:
    """`ZipFile(response, "w")`: written to an object, not to a path."""
    return any(
        o[0] == "J" and o[1].removesuffix("()").endswith(("Response", "IO", "TemporaryFile"))
        for o in analysis.resolver.resolve(value, frame)
    )


def _is_joined(callee: Value, frame: Frame) -> bool:
    """`(folder / name).open`, also by way of a local."""
    return callee[0] == "a" and _is_joined_path(callee[1], frame)


def _is_path(dotted: str) -> bool:
    return dotted.startswith(("pathlib.Path", "pathlib.PurePath", "anyio.Path", "trio.Path"))


def _saves_a_file(analysis: Analysis, external: External, path: Value) -> bool:
    """`upload.save(path)`, `image.save(path)`; not `order.save()` or `form.save(commit=False)`."""
    if external.dotted.startswith(
        ("request", "PIL.", "?.file", "?.image", "?.img", "?.upload", "?.photo", "pandas.")
    ):
        return path[0] != "x" and not _is_buffer(analysis, path, external.frame)
    if "storage" in external.dotted.lower():
        # The framework's storage is configuration.
        return False
    return (
        _is_a_path(analysis, path, external.frame) or _is_joined_path(path, external.frame)
    ) and not _is_buffer(analysis, path, external.frame)


def _names_a_file(analysis: Analysis, path: Value, frame: Frame) -> bool:
    """Whether a value is a path rather than a buffer or a stream."""
    return (
        isinstance(analysis.resolver.constant(path, frame), str)
        or _is_joined_path(path, frame)
        or "os.path.join" in set(analysis.externals_in(path, frame))
        or _is_a_path(analysis, path, frame)
    ) and not _is_buffer(analysis, path, frame)


def _is_joined_path(path: Value, frame: Frame) -> bool:
    """`folder / name`: nothing else is saved under a quotient."""
    options = frame.function.body.slots[path[1]] if path[0] == "s" else (path,)
    return all(o[0] == "o" and o[1] == "Div" for o in options)


def _is_a_path(analysis: Analysis, path: Value, frame: Frame) -> bool:
    return any(
        "path" in n.lower() or "filename" in n or "folder" in n.lower() or "upload" in n.lower()
        for n in analysis.names_of(path, frame)
    )


def _is_buffer(analysis: Analysis, value: Value, frame: Frame) -> bool:
    return any(e.endswith(("BytesIO", "StringIO")) for e in analysis.externals_in(value, frame))


def is_log(analysis: Analysis, path: Value, frame: Frame) -> bool:
    """A file that is only appended to and named a log is diagnostics."""
    texts = [str(o[1]) for o in analysis.deep(path, frame) if o[0] == "k"]
    texts += list(analysis.names_of(path, frame))
    constant = analysis.resolver.constant(path, frame)
    texts.append(str(constant))
    return any(t.endswith(".log") or words.words(t) & {"log", "audit", "logfile"} for t in texts)


def _everything(analysis: Analysis, path: Value, frame: Frame) -> list[tuple[Value, Frame]]:
    """What a path is made of, found once: several questions are asked about each path."""
    key = (id(path), frame)
    found = analysis.paths.get(key)
    if found is None:
        found = analysis.paths[key] = list(_parts(analysis, path, frame, 2))
    return found


def _parts(
    analysis: Analysis, path: Value, frame: Frame, depth: int
) -> Iterator[tuple[Value, Frame]]:
    """A path expression and what it is made of.

    The definitions of module variables, what callers gave, and what checked helpers and properties return.
    """
    for one in analysis.deep(path, frame):
        yield one, frame
        if one[0] == "p":
            yield from _given(analysis, one[1], frame)
        if one[0] == "n":
            module = analysis.project.modules[frame.function.module]
            yield from _definitions(analysis, module.path, one[1])
        elif one[0] in {"a", "p"}:
            for found in analysis.resolver.resolve(one, frame):
                if found[0] == "P" and found[1][0] == "g" and not found[2]:
                    yield from _definitions(analysis, found[1][1], found[1][2])
        if depth and one[0] in "ra":
            for child in _helpers(analysis, one, frame):
                for value in child.function.body.returns:
                    yield from _parts(analysis, value, child, depth - 1)


def _helpers(analysis: Analysis, value: Value, frame: Frame) -> Iterator[Frame]:
    """The checked functions or properties that a value comes from."""
    resolver = analysis.resolver
    if value[0] == "r":
        for callee in resolver.callees(frame, value[1]):
            if callee[0] == "F":
                yield resolver.child(frame, value[1], callee)
        return
    for base in resolver.resolve(value[1], frame):
        held = resolver.held(base) if base[0] == "P" else (base,)
        for instance in held:
            method = resolver.method(instance[1], value[2]) if instance[0] == "I" else None
            if method is not None and method[1].flags & PROPERTY:
                yield resolver.frame(method[1], ((base,),), None)


def _given(
    analysis: Analysis, position: int, frame: Frame, depth: int = 4
) -> Iterator[tuple[Value, Frame]]:
    """The argument that the caller (the one in the chain) gave for a parameter."""
    parent = analysis.parents.get(frame)
    if parent is None or not depth:
        return
    above, line = parent
    name = frame.function.params[position][0]
    for index, call in enumerate(above.function.body.calls):
        if call[CALL_LINE] != line:
            continue
        for callee in analysis.resolver.callees(above, index):
            if callee[0] != "F" or callee[1] != frame.function.key:
                continue
            at = position - (1 if callee[2] is not None else 0)
            value = dict(call[KWARGS]).get(name)
            if value is None and 0 <= at < len(call[ARGS]):
                value = call[ARGS][at]
            if value is None or value[0] == "*":
                continue
            for one in analysis.deep(value, above):
                yield one, above
                if one[0] == "n":
                    yield from _definitions(analysis, above.function.module, one[1])
                elif one[0] == "p":
                    yield from _given(analysis, one[1], above, depth - 1)
                elif one[0] == "r":
                    yield from _returned(analysis, one, above)


def _returned(
    analysis: Analysis, call: Value, frame: Frame, depth: int = 2
) -> Iterator[tuple[Value, Frame]]:
    """What the checked function that is called gives back, as far as its own module says."""
    for child in _helpers(analysis, call, frame):
        for value in child.function.body.returns:
            for one in analysis.deep(value, child):
                yield one, child
                if one[0] == "n":
                    yield from _definitions(analysis, child.function.module, one[1])
                elif one[0] == "r" and depth > 1:
                    yield from _returned(analysis, one, child, depth - 1)


def _definitions(
    analysis: Analysis, path: str, name: str, depth: int = 3
) -> Iterator[tuple[Value, Frame]]:
    module = analysis.project.modules[path]
    frame = analysis.resolver.module_frame(path)
    for value, _, function in module.symbols.get(name, ()):
        if value[0] == "m":
            _, target, inner = analysis.project.imported(module, value)
            if target is not None and inner and depth:
                yield from _definitions(analysis, target.path, inner, depth - 1)
            else:
                yield value, frame
        elif not function:
            for one in analysis.deep(value, frame):
                yield one, frame
                if one[0] == "n" and depth:
                    yield from _definitions(analysis, path, one[1], depth - 1)


def dotted_in(analysis: Analysis, path: Value, frame: Frame) -> dict[str, None]:
    """The dotted names of what a path is made of, each once."""
    key = (id(path), frame)
    found = analysis.dotted.get(key)
    if found is None:
        found = analysis.dotted[key] = dict.fromkeys(_dotted(analysis, path, frame))
    return found


def _dotted(analysis: Analysis, path: Value, frame: Frame) -> Iterator[str]:
    for one, where in _everything(analysis, path, frame):
        if one[0] == "r":
            for callee in analysis.resolver.callees(where, one[1]):
                if callee[0] in "EX":
                    yield str(callee[1] if callee[0] == "E" else callee[2])
                elif callee[0] == "F":
                    yield from _dotted_returned(
                        analysis, analysis.resolver.child(where, one[1], callee)
                    )
        elif one[0] in {"n", "a"}:
            for found in analysis.resolver.resolve(one, where):
                if found[0] in "EJ":
                    yield str(found[1])
                elif found[0] == "P" and found[1][0] == "env":
                    yield "os.environ"


def _dotted_returned(analysis: Analysis, frame: Frame, depth: int = 3) -> Iterator[str]:
    """What a helper's result is made of: `get_temp_dir()`."""
    for value in frame.function.body.returns:
        yield from analysis.externals_in(value, frame)
        for one in analysis.deep(value, frame):
            if one[0] == "r" and depth:
                for callee in analysis.resolver.callees(frame, one[1]):
                    if callee[0] == "F":
                        child = analysis.resolver.child(frame, one[1], callee)
                        yield from _dotted_returned(analysis, child, depth - 1)


def is_temporary(analysis: Analysis, path: Value, frame: Frame) -> bool:
    """Whether a path leads nowhere that lasts, or to what every replica sees."""
    if any(d.startswith("tempfile.") for d in dotted_in(analysis, path, frame)):
        return True
    if _is_buffer(analysis, path, frame) or "os.devnull" in set(dotted_in(analysis, path, frame)):
        return True
    texts = texts_in(analysis, path, frame)
    if any(t.startswith(shared) for t in texts for shared in analysis.shared_paths):
        return True
    return any(t.startswith(_NOWHERE) for t in texts) or any(
        n in {"tmp_path", "tmpdir", "temp_dir", "tmp", "temp_path", "tempdir"}
        for n in analysis.names_of(path, frame)
    )


def _left_for_others(analysis: Analysis, path: Value, frame: Frame, readers: Readers) -> str:
    """A folder for temporary files in which another entry point looks for what is left there, or ""."""
    if _is_buffer(analysis, path, frame) or "tempfile.NamedTemporaryFile" in set(
        dotted_in(analysis, path, frame)
    ):
        return ""
    mine = entry_of(analysis, frame)
    for anchor in anchors(analysis, path, frame):
        if readers.of(anchor) - {mine}:
            return f"files under {anchor[-1]}"
    return ""


def texts_in(analysis: Analysis, path: Value, frame: Frame) -> list[str]:
    """The texts that a path is made of."""
    return [
        str(o[1])
        for o, _ in _everything(analysis, path, frame)
        if o[0] == "k" and isinstance(o[1], str)
    ]


def is_configured(analysis: Analysis, path: Value, frame: Frame) -> bool:
    """Whether the configuration says where a path leads."""
    if any(d.startswith(CONFIGURED) for d in dotted_in(analysis, path, frame)):
        return True
    return any(
        n in {"settings", "environ", "config"} for n in analysis.names_of(path, frame)
    ) and not texts_in(analysis, path, frame)


def _is_left_open(analysis: Analysis, path: Value, frame: Frame, fixed: set[str]) -> bool:
    """Whether a configuration names the directory, with a setting that the code does not fix."""
    for one in analysis.deep(path, frame):
        name = ""
        if one[0] == "a" and one[2].isupper() and one[1][-1] in {"settings", "config"}:
            name = one[2]
        elif one[0] == "i" and one[1][-1] == "config" and one[2] is not None and one[2][0] == "k":
            name = str(one[2][1])
        if name:
            return name not in fixed
    return False


def _removed(analysis: Analysis) -> dict[Frame, set[Value]]:
    found: dict[Frame, set[Value]] = {}
    for external in analysis.externals:
        if external.dotted in {
            "os.remove",
            "os.unlink",
            "shutil.rmtree",
        } or external.dotted.endswith(".unlink"):
            call = external.frame.function.body.calls[external.call]
            values = call[ARGS] or ((call[0][1],) if call[0][0] == "a" else ())
            for value in values:
                known = found.setdefault(external.frame, set())
                known.update(walk(value))
                if value[0] == "s":
                    known.update(external.frame.function.body.slots[value[1]])
    return found


def _is_removed_here(
    analysis: Analysis, path: Value, frame: Frame, removed: dict[Frame, set[Value]]
) -> bool:
    """Whether the same function removes what it wrote: the file does not outlive the request."""
    mine = {v for v in analysis.deep(path, frame, 12) if v[0] in "srp"}
    return bool(mine & removed.get(frame, set()))


def label_of(analysis: Analysis, path: Value, frame: Frame) -> str:
    """A file's name for people, or "" when the code does not say where it is."""
    constant = analysis.resolver.constant(path, frame)
    if isinstance(constant, (str, bytes)):
        return f"file {constant!r}"
    everything = list(_everything(analysis, path, frame))
    places = [
        found
        for one, where in everything
        if one[0] in {"n", "a"}
        for found in analysis.resolver.resolve(one, where)
        if found[0] == "P" and found[1][0] != "env"
    ]
    # What sits in a container is one of many: a variable names the place better.
    places.sort(key=lambda p: "[]" in p[2])
    if places:
        return f"files under {analysis.resolver_label(places[0])}"
    for one, _ in everything:
        if one[0] == "k" and isinstance(one[1], str) and re.search(_FILE, one[1]):
            return f"file {one[1]!r}"
    for dotted in dotted_in(analysis, path, frame):
        if dotted.startswith(CONFIGURED):
            return f"files under {dotted}"
    names = [n for n in analysis.names_of(path, frame) if n.isupper()]
    if names:
        return f"files under {names[0]}"
    for one, where in everything:
        if one[0] == "r" and (first := where.function.body.calls[one[1]][ARGS][:1]):
            text = first[0][1] if first[0][0] == "k" else ""
            if isinstance(text, str) and re.fullmatch(r"[\w-]{2,}", text):
                callees = analysis.resolver.callees(where, one[1])
                if any(callee[0] == "E" and callee[1] in _JOINS for callee in callees):
                    return f"files under {text!r}"
    return ""
