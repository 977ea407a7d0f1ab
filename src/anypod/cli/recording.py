"""`anypod prove APP --record`: click through the service, and have a workload."""

from __future__ import annotations

import sys
from pathlib import Path

from anypod.errors import ConfigurationError
from anypod.prove import generated, har
from anypod.prove.recording import Recording
from anypod.prove.recording_front import CannotListen, listen, record
from anypod.prove.verdict import why_not
from anypod.prove.workload import WorkloadError
from anypod.replicas import Application, ReplicaError
from anypod.replicas.outside import told

FOLDER = Path(".anypod")  # ours, in the project; it hides itself from version control
DEFAULT = FOLDER / "recorded.http"
_LAST = FOLDER / "last"


def last() -> Path:
    """The workload that was recorded last in this folder.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        path = Path(_LAST.read_text().strip())
    except OSError:
        message = "nothing was recorded in this folder yet: anypod prove APP --record"
        raise ConfigurationError(message) from None
    if not path.exists():
        message = f"the last recording, {path}, is not there any more: anypod prove APP --record"
        raise ConfigurationError(message)
    return path


def remember(path: Path) -> None:
    """Let `--last` mean this workload."""
    _make_folder()
    _LAST.write_text(f"{path}\n")


def from_har(path: Path, origin: str) -> Path:
    """The workload that a HAR makes, in a file of ours.

    Args:
        path: of the HAR.
        origin: the service in it; empty takes the one with the most requests.

    Raises:
        WorkloadError: it is no HAR, or has nothing for a workload.
        OSError: the workload cannot be written.
    """
    recording = Recording(FOLDER / f"{path.name}.http", f"Made of {path.name}.")
    return _made(path, recording, har.read(path, recording, origin=origin))


def from_openapi(
    application: Application,
    source: str,
    *,
    seed: int,
    timeout: float,
    start_timeout: float,
    shared: tuple[Path, ...],
    allow_hosts: frozenset[str],
) -> Path:
    """The workload that an OpenAPI document makes, in a file of ours; see `generated.generate`.

    Raises:
        WorkloadError: it is no such document, or has nothing for a workload.
        ReplicaError: the service did not start.
        OSError: the workload cannot be written.
    """
    recording = Recording(FOLDER / "openapi.http", f"Made of {told(source)}, seed {seed}.")
    print(f"asking one replica what {told(source)} describes", file=sys.stderr)
    notes = generated.generate(
        application,
        source,
        recording,
        seed=seed,
        timeout=timeout,
        start_timeout=start_timeout,
        shared=shared,
        allow_hosts=allow_hosts,
    )
    return _made(told(source), recording, notes)


def _made(source: Path | str, recording: Recording, notes: tuple[str, ...]) -> Path:
    """Write a workload that was made of something else, and say what is in it."""
    _make_folder()
    written = recording.write()
    for note in (*notes, *written.notes):
        print(f"note  {note}", file=sys.stderr)
    if written.path is None:
        raise WorkloadError(source, None, "expected a request for a workload, got none")
    print(f"{written.path}: {written.told}", file=sys.stderr)
    return written.path


def _make_folder() -> None:
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")


def run(
    path: Path,
    *,
    port: int | None,
    application: Application,
    again: str,
    start_timeout: float,
    shared: tuple[Path, ...],
    allow_hosts: frozenset[str],
) -> int:
    """Record until Ctrl-C; the exit code.

    Args:
        path: of the workload that is written.
        port: where to listen; None takes 8000 or one of the next.
        application: what runs.
        again: the command line that proves the recording.
        start_timeout: seconds for the start.
        shared: paths inside the project that are volumes.
        allow_hosts: hosts besides this machine that the service may reach.
    """
    recording = Recording(path, f"Recorded by `anypod prove {application.name} --record`.")
    try:
        with listen(port) as listening:
            at = f"http://localhost:{listening.getsockname()[1]}"

            def ready() -> None:
                print(f"recording {application.name} at {at}", flush=True)
                print("      click through it, then press Ctrl-C", flush=True)

            notes = record(
                application,
                recording,
                listening,
                ready=ready,
                start_timeout=start_timeout,
                shared=shared,
                allow_hosts=allow_hosts,
            )
    except (CannotListen, ReplicaError) as wrong:
        print(f"anypod prove: {why_not(wrong)}", file=sys.stderr)
        return 2
    return finish(recording, again, notes)


def finish(recording: Recording, again: str, notes: tuple[str, ...] = ()) -> int:
    """Write a recording and say what is in it; the exit code."""
    try:
        written = recording.write()
        if written.path is not None:
            remember(written.path)
    except OSError as failed:
        reason = failed.strerror or failed
        print(f"anypod prove: cannot write {recording.path}: {reason}", file=sys.stderr)
        return 2
    for note in (*notes, *written.notes):
        print(f"note  {note}", file=sys.stderr)
    if written.path is None:
        print("anypod prove: no request was recorded", file=sys.stderr)
        return 2
    print(f"{written.path}: {written.told}")
    print(f"next: {again}")
    return 0
