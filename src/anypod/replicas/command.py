"""Replicas that a command starts: any server, any framework, any number of processes.

The command runs in a shell of its own session, in a slot's copy of the tree, with `PORT` in its
environment, and is ready when that port takes connections, or when `--ready PATH` is answered. What it
changes on its disk is seen; what it has in memory is not. Python programs among its processes are
guarded like any replica (`injected/sitecustomize.py`); other programs are not, and that is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from anypod.replicas import place
from anypod.replicas.change import State
from anypod.replicas.environment import hostname_of
from anypod.replicas.errors import StartFailed
from anypod.replicas.pod import Pod, Replica
from anypod.replicas.processes import kill_group, tail, waits_for
from anypod.replicas.readiness import answers
from anypod.replicas.site import Site

__all__ = ["CommandPod", "Companion", "run_once", "with_guard"]

GUARDED = "guarded"  # the line by which a guard says that it is there
_INJECTED = Path(__file__).parent / "injected"
_PORTS = 3  # another process may take a free port first
_POLL = 0.01
_NOT_SIMPLE = re.compile(r"[;&|<>(){}\n`]|^\s*\w+=|^\s*(?:cd|exec|export|set|if|for|while|\.)\s")


def with_guard(
    env: Mapping[str, str],
    *,
    root: Path,
    disk: Path,
    inside: Path,
    slot: int,
    allow_hosts: Sequence[str],
    records: Path,
) -> dict[str, str]:
    """An environment in which Python programs guard themselves.

    Args:
        env: what a slot's processes find.
        root: the user's tree.
        disk: the copy in which they run.
        inside: where writing is private.
        slot: whose name they go by.
        allow_hosts: hosts besides this machine that may be reached.
        records: where guards write.
    """
    config = {
        "root": str(root),
        "disk": str(disk),
        "inside": [str(inside)],
        "hostname": hostname_of(slot),
        "allow_hosts": list(allow_hosts),
        "records": str(records),
    }
    path = os.pathsep.join(filter(None, (str(_INJECTED), env.get("PYTHONPATH", ""))))
    # The service's own programs are found; then those that are installed beside this tool.
    programs = os.pathsep.join(filter(None, (env.get("PATH", os.defpath), str(_programs()))))
    return {**env, "PYTHONPATH": path, "PATH": programs, "ANYPOD_REPLICA": json.dumps(config)}


def _programs() -> Path:
    return Path(sys.executable).parent


def _shell(command: str) -> list[str]:
    """A command for the shell; a simple one takes the shell's place, so that signals reach it."""
    return ["/bin/sh", "-c", command if _NOT_SIMPLE.search(command) else f"exec {command}"]


def _in_place(command: str, slot: Path) -> list[str]:
    """The same, for a slot's processes, which see their slot where those of other slots see theirs."""
    return [sys.executable, "-IS", str(place.__file__), str(slot), *_shell(command)]


def run_once(
    what: str, command: str, *, cwd: Path, env: Mapping[str, str], log: Path, timeout: float
) -> None:
    """Run a command to its end.

    Args:
        what: the option that names it, for messages.
        command: for the shell.
        cwd: where it runs.
        env: its complete environment.
        log: where its output goes.
        timeout: seconds.

    Raises:
        StartFailed: it failed, or took longer.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  # the user's own command
            _shell(command), cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            message = f"{what} {command!r} did not end within {timeout:g} s (--startup-timeout)"
            raise StartFailed(message, log=tail(log)) from None
        finally:
            kill_group(process.pid)
            process.wait()
    if code:
        printed = tail(log)
        ended = _ended(code) + _other_program(command, printed, env)
        raise StartFailed(f"{what} {command!r} {ended}", log=printed)


def _ended(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    missing = (
        ": there is no such program in PATH; a virtual environment inside the project is not copied, name its "
        "programs without their folder"
        if code == 127
        else ""
    )
    return f"left with exit status {code}{missing}"


def _other_program(command: str, printed: str, env: Mapping[str, str]) -> str:
    """Which program a command ran instead of this Python's own, if that may be why it missed a module."""
    name = command.split(maxsplit=1)[0] if command.strip() else ""
    found, own = shutil.which(name, path=env.get("PATH")), _programs() / name
    if "No module named" not in printed or not found or not own.is_file() or Path(found) == own:
        return ""
    return f"; `{name}` is {found}: activate the environment of {own}, or name that one"


class CommandPod(Pod):
    """A slot whose replicas are started by a command.

    Args:
        site: where its processes live.
        origin: where pristine files can be read again.
        command: for the shell.
        ready: the path that answers when a replica is ready; empty takes an open port for it.
    """

    option = "--command"

    def __init__(self, site: Site, origin: Path, command: str, ready: str = "") -> None:
        super().__init__(site, origin)
        self.kind = "command"
        self.reason = "it is started by a command"
        self.guarded = False
        self.starts = 0
        self._command = command
        self._ready = ready

    def import_service(self, namespace: str) -> None:  # there is no import
        """Nothing: the command imports whatever it does when it starts."""

    def start(self, namespace: str, serial: int, trace: Collection[State] = ()) -> Replica:  # noqa: ARG002  # memory is not seen
        """A new replica; the present one is killed first. See `Pod.start`."""
        with self._lock:
            self.kill()
            self.end()
            log, records = (
                self._logs / f"replica-{self.site.slot}-{serial}.{end}"
                for end in ("log", "records")
            )
            port = 0
            for attempt in range(_PORTS):
                port = _free_port()
                self._run(namespace, port, log, records)
                try:
                    self._await(port, log)
                    break
                except StartFailed as failed:
                    if attempt == _PORTS - 1 or "in use" not in failed.log:
                        raise
            assert self._process is not None
            self.guarded = self.guarded or GUARDED in tail(records).splitlines()
            self.starts += 1
            self.incarnation += 1
            self._replica = Replica(
                self,
                pid=self._process.pid,
                port=port,
                incarnation=self.incarnation,
                probe=None,
                files=(log, records),
            )
            self.disk.look()
            return self._replica

    def _run(self, namespace: str, port: int, log: Path, records: Path) -> None:
        site = self.site
        env = with_guard(
            {**site.env, "ANYPOD_NAMESPACE": namespace, "PORT": str(port)},
            root=site.root,
            disk=site.path / "disk",
            inside=site.base,
            slot=site.slot,
            allow_hosts=site.allow_hosts,
            records=records,
        )
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603  # the user's own command
                _in_place(self._command, site.path), cwd=site.path / "disk", env=env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        if self._aborted:
            kill_group(self._process.pid)

    def _await(self, port: int, log: Path) -> None:
        deadline = time.monotonic() + self.site.timeout
        process = self._process
        assert process is not None
        address = ("127.0.0.1", port)
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
                break
            time.sleep(_POLL)
        else:
            self._fail(f"did not listen on 127.0.0.1:$PORT within {self.site.timeout:g} s; does it "
                       "use $PORT, and bind 127.0.0.1?", log)  # fmt: skip
        if self._ready and not answers(address, self._ready, deadline):
            self._fail(f"did not answer GET {self._ready} with a 2xx or 3xx within "
                       f"{self.site.timeout:g} s (--ready, --startup-timeout)", log)  # fmt: skip

    def _fail(self, what: str, log: Path) -> None:
        process = self._process
        code = None if process is None else process.poll()
        if code is not None:
            what = _ended(code) + " before it listened"
            what += _other_program(self._command, tail(log), self.site.env)
        file = "" if code is not None or process is None else waits_for(process.pid)
        self.end()
        raise StartFailed(
            f"{self.option} {self._command!r} {what}",
            log=tail(log),
            hung=code is None,
            waits_for=file,
        )

    def end(self, first: signal.Signals = signal.SIGKILL, grace: float = 0.0) -> None:
        """End the command; a polite signal goes to its whole group when a shell leads it."""
        process = self._process
        if (
            first is not signal.SIGKILL
            and process is not None
            and _NOT_SIMPLE.search(self._command)
        ):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, first)
        super().end(first, grace)


class Companion(CommandPod):
    """A process that runs beside the replicas, a worker of a queue perhaps: it serves nothing."""

    option = "--with"

    def begin(self, namespace: str) -> None:
        """Start it, unless it runs.

        Raises:
            StartFailed: there is no such program.
        """
        with self._lock:
            if self._process is not None:
                return
            log, records = (
                self._logs / f"with-{self.site.slot}.{end}" for end in ("log", "records")
            )
            self._run(namespace, 0, log, records)

    def ended(self) -> str:
        """How it ended by itself, in words; empty while it runs."""
        with self._lock:
            code = None if self._process is None else self._process.poll()
            if code is None:
                return ""
            last = tail(self._logs / f"with-{self.site.slot}.log").strip().rpartition("\n")[2]
            return f"--with {self._command!r} {_ended(code)}{f': {last}' if last else ''}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
