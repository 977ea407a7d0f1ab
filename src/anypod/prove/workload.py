"""The workload: requests in the `.http` format that editors run, plus three comments of ours.

Reading is strict. What an editor would run and we would not (scripts, prompts, GraphQL), what we would
run and nobody meant (a request without its `###`, a misspelt directive, a variable that is not there)
is an error with its line. Variables are filled in when the file is read; what remains in a step's
templates are references to earlier answers, each checked to name an earlier step.

`docs/workload.md` describes the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anypod.prove.model import Request, Response, Step
from anypod.prove.workload_fill import MissingValue, fill
from anypod.prove.workload_read import WorkloadError, read
from anypod.prove.workload_reference import references
from anypod.prove.workload_route import label

__all__ = [
    "WEBSOCKET",
    "MissingValue",
    "Workload",
    "WorkloadError",
    "load",
    "parse",
    "render",
    "route",
]

WEBSOCKET = "# Not compared: the websocket "  # the comment by which a recording names one
MAX_BYTES = 8 * 1024 * 1024  # of a workload file; a larger one is a recording that wants cutting


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of one file, in their order; `steps[i].index == i`.

    Attributes:
        path: the file.
        steps: the requests.
        websockets: the paths of those that were opened when it was recorded.
    """

    path: Path
    steps: tuple[Step, ...]
    websockets: tuple[str, ...] = ()

    def producers(self, index: int) -> frozenset[int]:
        """The steps whose answers this step takes values from, directly."""
        step = self.steps[index]
        texts = [step.target, step.body or "", *(value for _, value in step.headers)]
        needed = {reference.name for text in texts for reference in references(text)}
        return frozenset(other.index for other in self.steps if other.name in needed)


def load(path: Path) -> Workload:
    """Read a workload file.

    Args:
        path: a `.http` file in UTF-8, with or without a byte order mark, any line endings.

    Raises:
        WorkloadError: it cannot be read, or a line is not what the format expects.
        MissingExtra: it has an XPath and lxml is not installed.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            message = f"expected at most {MAX_BYTES} bytes, got {size}: cut the file into several"
            raise WorkloadError(path, None, message)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as failed:
        raise WorkloadError(path, None, f"cannot be read: {failed.strerror}") from None
    except UnicodeDecodeError as failed:
        line = failed.object[: failed.start].count(b"\n") + 1
        byte = failed.object[failed.start]
        raise WorkloadError(path, line, f"expected UTF-8, got the byte 0x{byte:02x}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Workload:
    """Read a workload from its text.

    Args:
        text: the file's content.
        path: what errors call the file, and where `< ./file` starts from.

    Raises:
        WorkloadError: a line is not what the format expects.
        MissingExtra: it has an XPath and lxml is not installed.
    """
    opened = re.findall(rf"^{WEBSOCKET}(/\S*)$", text, re.MULTILINE)
    return Workload(path, read(text.removeprefix("\ufeff"), path), tuple(dict.fromkeys(opened)))


def render(step: Step, workload: Workload, responses: Mapping[str, Response]) -> Request:
    """The request that a step is in this run.

    Args:
        step: a step of `workload`.
        workload: where the steps that it refers to stand.
        responses: by step name, what the client received in this run.

    Raises:
        MissingValue: a reference finds nothing in the answer, or there is no answer.
    """
    producers = {other.name: other for other in workload.steps if other.name is not None}
    return fill(step, responses, producers)


def route(of: Step | str) -> str:
    """The name under which requests of one kind are grouped: `GET /data/{id}`.

    A segment from a variable or an answer takes its name; a literal segment is `{id}` when it looks
    like one, or when steps of the same shape use several. A step read from a file knows its
    siblings; a bare "METHOD /target" is judged by itself.
    """
    if isinstance(of, Step):
        return of.route or label(of.method, of.target)
    method, _, target = of.partition(" ")
    return label(method, target)
