"""The tool's side of a lineage: one slot's parent process, and the replica that lives in it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from anypod.replicas.change import Change, Constant, DeclaredCache, State, Write
from anypod.replicas.channel import Channel
from anypod.replicas.disk import Disk
from anypod.replicas.environment import hostname_of
from anypod.replicas.errors import BadTarget, MissingServer, ReplicaUnresponsive, StartFailed
from anypod.replicas.guard import MADE, made
from anypod.replicas.processes import kill_group, tail, waits_for
from anypod.replicas.readiness import answers
from anypod.replicas.site import Site
from anypod.replicas.tree import remove_tree

__all__ = ["Pod", "Replica"]

_ANSWER_WITHIN = 10.0  # seconds for a parent or a probe to answer
_SIGN_OF_LIFE_WITHIN = 1.0  # … and for a probe to show that a process is not on its way out
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL


class Replica:
    """One process that serves, at most one at a time in its slot.

    Attributes:
        address: host and port on loopback.
        slot: the slot's number, from 0.
        incarnation: how many processes have run in this slot since the last reset, this one included.
    """

    def __init__(
        self,
        pod: Pod,
        *,
        pid: int,
        port: int,
        incarnation: int,
        probe: Channel | None,
        files: tuple[Path, Path],
    ) -> None:
        self.address = ("127.0.0.1", port)
        self.slot = pod.site.slot
        self.incarnation = incarnation
        self.pid = pid
        self._pod = pod
        self._probe = probe
        self._log, self._records = files
        self._kept: tuple[str, tuple[str, ...]] | None = None
        self._lock = threading.Lock()
        self._asked = 0

    def __repr__(self) -> str:
        return f"<Replica pod {self.slot + 1}, process {self.incarnation}, port {self.address[1]}>"

    def changes(self) -> tuple[Change, ...]:
        """The process-local state that changed since the previous call, or since the start.

        A replica that is dead has nothing to tell: the answer is empty.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        if not self._pod.holds(self):
            return ()
        answer = {"changes": []} if self._probe is None else self._ask({"op": "changes"})
        if answer is None:
            return ()
        in_memory = tuple(Change(**change) for change in answer["changes"])
        return in_memory + self._pod.disk.changes(self._pod.site.root)

    def caches(self) -> tuple[DeclaredCache, ...]:
        """The local caches of anypod that are alive in this process.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        answer = self._ask({"op": "caches"})
        return tuple(DeclaredCache(**cache) for cache in answer["caches"]) if answer else ()

    def advance(self, seconds: float) -> None:
        """Let that many seconds pass for anypod's local caches in this process, for nothing else.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        self._ask({"op": "advance", "seconds": seconds})

    def writes(self) -> tuple[Write, ...]:
        """The last line that changed each of the states that are traced, since the previous call.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        found = (self._ask({"op": "writes"}) or {"writes": []})["writes"]
        return tuple(Write(State(*one["state"]), one["file"], one["line"]) for one in found)

    def constants(self) -> tuple[Constant, ...]:
        """The texts and numbers that the process holds, and the files that its import made.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        answer = self._ask({"op": "constants"}) if self._pod.holds(self) else None
        found = answer["constants"] if answer else []
        held = (Constant(State(*one["state"]), one["file"], one["digest"]) for one in found)
        return (*self._pod.disk.made(), *held)

    def unreached(self, requests: Sequence[tuple[str, str]]) -> tuple[str, ...] | None:
        """The application's routes that none of these requests, as method and target, reaches, if known.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        asked = {"op": "routes", "requests": [*requests]}
        answer = self._ask(asked) if self._pod.holds(self) else None
        return None if answer is None or answer["routes"] is None else tuple(answer["routes"])

    def take(self, states: Collection[State], but: Collection[State] = ()) -> dict[State, str]:
        """The content of states, for `give` to another replica; without what cannot be carried.

        Args:
            states: which ones; files and databases are on the disk, the others in the process.
            but: take a few others of the process too, and none of these.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        if not self._pod.holds(self):
            return {}
        files = {state: self._pod.disk.take(state.name) for state in states if not state.module}
        taken = {state: content for state, content in files.items() if content is not None}
        if (inside := [state for state in states if state.module]) or but:
            answer = self._ask({"op": "take", "states": inside, "but": [*but]})
            for *state, content in answer["contents"] if answer else []:
                taken[State(*state)] = content
        return taken

    def give(self, contents: Mapping[State, str]) -> frozenset[State]:
        """Let states be as they were in another replica; after that this one is a forgery.

        Args:
            contents: what `take` returned there.

        Returns:
            The states that are so now.

        Raises:
            ReplicaUnresponsive: the process lives but does not answer.
        """
        if not self._pod.holds(self):
            return frozenset()
        given = set()
        for state, content in contents.items():
            if not state.module:
                self._pod.disk.give(state.name, content)
                given.add(state)
        if inside := [[*state, content] for state, content in contents.items() if state.module]:
            answer = self._ask({"op": "give", "contents": inside})
            given |= {State(*state) for state in answer["states"]} if answer else set()
        return frozenset(given)

    def _ask(
        self, message: Mapping[str, Any], within: float = _ANSWER_WITHIN
    ) -> dict[str, Any] | None:
        if self._probe is None:
            return None  # a command: its memory is not looked into
        with self._lock:
            self._asked += 1
            try:
                self._probe.send({**message, "number": self._asked})
                answer = self._probe.receive(within)
                while answer["number"] != self._asked:  # too late for an earlier question
                    answer = self._probe.receive(within)
            except TimeoutError as exc:
                raise ReplicaUnresponsive(
                    f"pod {self.slot + 1} did not answer the probe within {within:g} s: "
                    f"something in the service holds the interpreter"
                ) from exc
            except (EOFError, OSError):
                return None
            return answer

    def escapes(self) -> tuple[str, ...]:
        """What left the isolation: "not isolated: PATH" for a write, "reached for HOST" (refused)."""
        return self._kept[1] if self._kept else self._read()[1]

    @property
    def log(self) -> str:
        """What the service wrote to stdout and stderr, at import and since; the end of it."""
        return self._kept[0] if self._kept else self._read()[0]

    def _read(self) -> tuple[str, tuple[str, ...]]:
        lines = [*self._pod.import_records(), *tail(self._records).splitlines()]
        told = (line for line in lines if " " in line and not line.startswith(MADE))
        return self._pod.import_log() + tail(self._log), tuple(dict.fromkeys(told))

    def alive(self) -> bool:
        """Whether the process runs; one that is about to end, its connections closed, does not."""
        if not self._pod.holds(self) or not self._pod.alive():
            return False
        if self._probe is None:
            return True
        try:
            return self._ask({"op": "alive"}, _SIGN_OF_LIFE_WITHIN) is not None
        except ReplicaUnresponsive:
            return True  # busy, but there

    def kill(self) -> None:
        """SIGKILL, to the process and all that it started; its private disk is gone."""
        if self._pod.holds(self):
            self._pod.kill()

    def terminate(self, grace: float = _GRACE) -> None:
        """SIGTERM, then SIGKILL; its private disk is gone.

        Args:
            grace: seconds in between.
        """
        if self._pod.holds(self):
            self._pod.kill(first=signal.SIGTERM, grace=grace)

    def _keep(self) -> None:
        """Remember what the files say, and remove them."""
        if not self._kept:
            self._kept = self._read()
            self._pod.made.update(made(tail(self._records).splitlines()))
            if self._probe is not None:
                self._probe.close()
            self._log.unlink(missing_ok=True)
            self._records.unlink(missing_ok=True)


class Pod:
    """One slot: its directory, the process that imported the service there, its live replica."""

    def __init__(self, site: Site, origin: Path, ready: str = "") -> None:
        self.site = site
        self._ready = ready
        self.disk = Disk(site.path, origin=origin, stash=site.base / f"stash-{site.slot}")
        self.incarnation = 0
        self.kind = ""
        self.reason = ""
        self.alone = False
        self.made: dict[str, None] = {}  # files outside, by replicas and imports that are gone
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Channel | None = None
        self._used = False
        self._aborted = False
        self._replica: Replica | None = None
        self._lock = threading.RLock()
        self._logs = site.base / "logs"

    @property
    def forks(self) -> bool:
        """Whether replicas are forked from one import."""
        return not self.reason

    def holds(self, replica: Replica) -> bool:
        """Whether this replica is the slot's present one."""
        return self._replica is replica

    def import_log(self) -> str:
        """What the service wrote while it was imported."""
        return tail(self._logs / f"import-{self.site.slot}.log")

    def import_records(self) -> list[str]:
        """What the guard recorded while the service was imported."""
        return tail(self._logs / f"import-{self.site.slot}.records").splitlines()

    def import_service(self, namespace: str) -> None:
        """Start the slot's parent and let it import the service, on a pristine disk.

        Raises:
            StartFailed: the service's code failed, hung or left.
            BadTarget: APP is not there, or not an application.
        """
        with self._lock:
            site = self.site
            self.made.update(made(self.import_records()))
            for name in (f"import-{site.slot}.log", f"import-{site.slot}.records"):
                (self._logs / name).unlink(missing_ok=True)
            control, theirs = Channel.pair()
            self._control = control
            with theirs, (self._logs / f"import-{site.slot}.log").open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603  # our own module, by argument list
                    [
                        *(sys.executable, "-P", "-m", "anypod.replicas.lineage"),
                        *(str(theirs.fileno()), str(site.path)),
                    ],
                    cwd=site.path / "disk",
                    env={**site.env, "ANYPOD_NAMESPACE": namespace},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._used = False
            control.send(
                {
                    "root": str(site.root),
                    "target": site.target,
                    "hostname": hostname_of(site.slot),
                    "allow_hosts": list(site.allow_hosts),
                    "import_each": site.import_each,
                    "records": str(self._logs / f"import-{site.slot}.records"),
                }
            )
            if self._aborted:
                kill_group(self._process.pid)
            message = self._receive(control, site.timeout, "finish its import")
            self.kind, self.reason = message["kind"], message["reason"]
            self.alone = message["alone"]

    def _receive(self, channel: Channel, timeout: float, what: str) -> dict[str, Any]:
        """The next message of a starting process; anything but success is raised, and ends it."""
        try:
            message = channel.receive(timeout)
        except TimeoutError as exc:
            trace = self._where() if channel is self._control else ""
            raise self._failed(f" did not {what} within {timeout:g} s", trace, hung=True) from exc
        except EOFError as exc:
            raise self._failed(f" {self._how_it_ended()} before it could {what}") from exc
        if message["event"] != "failed":
            return message
        for kind in (BadTarget, MissingServer):
            if message["kind"] == kind.__name__:
                self.end()
                raise kind(message["reason"])
        raise self._failed(f": {message['reason']}", message["traceback"])

    def _failed(self, what: str, trace: str = "", *, hung: bool = False) -> StartFailed:
        """What to raise for a start that did not succeed; its processes are ended."""
        log = self._starting_log()
        file = waits_for(self._process.pid) if hung and self._process is not None else ""
        self.end()
        what = self.site.target + what
        return StartFailed(what, traceback=trace, log=log, hung=hung, waits_for=file)

    def _starting_log(self) -> str:
        return self.import_log() + "".join(
            tail(path) for path in sorted(self._logs.glob(f"replica-{self.site.slot}-*.log"))
        )

    def _where(self) -> str:
        """Where in the user's code a hanging import stands."""
        if self._control is None:
            return ""
        try:
            self._control.send({"op": "where"})
            return str(self._control.receive(2.0).get("traceback", ""))
        except (TimeoutError, EOFError, OSError):
            return ""

    def _how_it_ended(self) -> str:
        if self._process is None or not self._used:
            code = self._process.wait(_ANSWER_WITHIN) if self._process else 0
        elif self.forks:
            return "ended"
        else:
            code = self._process.wait(_ANSWER_WITHIN)
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"left with exit status {code}"

    def start(self, namespace: str, serial: int, trace: Collection[State] = ()) -> Replica:
        """A new replica; the present one is killed first.

        Args:
            namespace: what anypod's keys begin with in this run.
            serial: a number that no other start of the world has.
            trace: states whose writes are traced to their lines.

        Raises:
            StartFailed: the service's code failed, hung or left.
        """
        with self._lock:
            self.kill()
            if self._process is None or (not self.forks and self._used):
                self.end()
                self.disk.restore()
                self.import_service(namespace)
            control = self._control
            assert control is not None
            log, records = (
                self._logs / f"replica-{self.site.slot}-{serial}.{end}"
                for end in ("log", "records")
            )
            probe, theirs = Channel.pair()
            files = {"log": str(log), "records": str(records)}
            order = {"op": "start", "namespace": namespace, "trace": [*trace], **files}
            try:
                with theirs, contextlib.suppress(OSError):  # a parent that died is told of below
                    control.send(order, theirs.fileno())
                self._used = True
                pid = self._receive(control, _ANSWER_WITHIN, "start")["pid"]
                port = self._receive(probe, self.site.timeout, "begin to serve")["port"]
                self._await_ready(port)
            except BaseException:
                probe.close()
                raise
            self.incarnation += 1
            self._replica = Replica(
                self,
                pid=pid,
                port=port,
                incarnation=self.incarnation,
                probe=probe,
                files=(log, records),
            )
            if not self.forks:
                self.disk.look()
            return self._replica

    def _await_ready(self, port: int) -> None:
        until = time.monotonic() + self.site.timeout
        if self._ready and not answers(("127.0.0.1", port), self._ready, until):
            raise self._failed(
                f" did not answer GET {self._ready} with a 2xx or 3xx within {self.site.timeout:g} s "
                "(--ready, --startup-timeout)",
                hung=True,
            )

    def alive(self) -> bool:
        """Whether the slot's replica runs."""
        with self._lock:
            if self._replica is None or self._process is None:
                return False
            if not self.forks or self._control is None:
                return self._process.poll() is None
            try:
                self._control.send({"op": "alive"})
                return bool(self._control.receive(_ANSWER_WITHIN)["alive"])
            except (OSError, EOFError):
                return False  # the parent died, and takes its replica along

    def kill(self, first: signal.Signals = signal.SIGKILL, grace: float = 0.0) -> None:
        """End the slot's replica and put its disk back."""
        with self._lock:
            replica, self._replica = self._replica, None
            if replica is None:
                return
            if self.forks and self._control is not None:
                try:
                    op = "kill" if first is signal.SIGKILL else "terminate"
                    self._control.send({"op": op, "grace": grace})
                    self._control.receive(_ANSWER_WITHIN + grace)
                except (OSError, EOFError):  # a timeout is an OSError
                    self.end()
            else:
                self.end(first, grace)
            replica._keep()  # noqa: SLF001  # the replica is this slot's own
            self.disk.restore()

    def end(self, first: signal.Signals = signal.SIGKILL, grace: float = 0.0) -> None:
        """End the slot's parent and all that descends from it."""
        with self._lock:
            process, self._process = self._process, None
            control, self._control = self._control, None
            if process is not None:
                if first is not signal.SIGKILL and process.poll() is None:
                    process.send_signal(first)
                    deadline = time.monotonic() + grace
                    while process.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.005)
                kill_group(process.pid)
                process.wait()
            if control is not None:
                control.close()

    def abort(self) -> None:
        """If a thread waits for this slot's processes, or is about to, end them under it."""
        # Set before the process is looked at: an import that has not got its process yet looks here
        # after it has, so that one of the two sees the other.
        self._aborted = True
        if self._lock.acquire(blocking=False):
            self._lock.release()
            return
        if (process := self._process) is not None and process.poll() is None:
            kill_group(process.pid)

    def remove(self) -> None:
        """End everything and remove the slot's directory."""
        self.kill()
        self.end()
        self.disk.close()
        remove_tree(self.site.path)
