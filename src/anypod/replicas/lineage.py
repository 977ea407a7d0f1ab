"""The process in which a slot's replicas begin: it imports the service once, then forks.

Run as `python -P -m anypod.replicas.lineage DESCRIPTOR SLOT`, in a session of its own, with the
service's environment, in the slot's copy of the project tree. The descriptor is a channel to the tool:

    tool    → config
    lineage → imported (forks or not, and why; asked no other process) | failed
    tool    → start, with the descriptor of a second channel, to the replica itself
    lineage → started (pid)
    replica → ready (port) | failed, on its own channel; then it answers the probe there
    tool    → kill | terminate | alive
    lineage → done | alive

An import that leaves threads, sockets or files open for writing behind cannot be forked as a fresh
process would be: then the lineage serves once, itself, and each start is a new lineage.

Whatever happens to the tool, nothing stays: the end of a channel kills the process group and removes
the slot's directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import os
import select
import signal
import stat
import sys
import threading
import time
import traceback
from pathlib import Path
from socket import socket
from typing import Any, NoReturn

from anypod.replicas import place, serve
from anypod.replicas.change import State
from anypod.replicas.channel import Channel
from anypod.replicas.errors import BadTarget, MissingServer
from anypod.replicas.guard import Guard, move_imports, patch_hostname
from anypod.replicas.probe import Fingerprints, answer
from anypod.replicas.processes import descendants
from anypod.replicas.target import Target, kind_of, own_traceback
from anypod.replicas.tree import remove_tree, remove_world
from anypod.replicas.writes import Writes

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Presence:
    """That a slot's process is there: a lock that all of a world share, by which the last is known.

    Replicas inherit it, and are killed before anybody asks.

    Attributes:
        slot: the slot's directory.
        place: where this process and its replicas see it.
    """

    def __init__(self, slot: Path) -> None:
        self.slot = slot
        self.place = place.enter(slot)
        self._lock = os.open(slot.parent / "presence", os.O_RDONLY | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def remove(self) -> None:
        """Remove the slot's directory, and the world's if no other process is in it any more."""
        place.leave(self.place)
        remove_tree(self.slot)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the last one that leaves removes it
        remove_world(self.slot.parent)


class Lineage:
    """One slot's import and the replicas that descend from it, at most one at a time."""

    def __init__(self, channel: Channel, presence: Presence, config: dict[str, Any]) -> None:
        self.channel = channel
        self.presence = presence
        self.disk = presence.place / "disk"
        self.root = Path(config["root"])
        self.target = Target.parse(config["target"])
        self.hostname: str = config["hostname"]
        self.guard = Guard(
            inside=[presence.slot.parent], allow_hosts=config["allow_hosts"], hostname=self.hostname
        )
        self.import_each: str = config["import_each"]
        self.child: int | None = None
        self.application: Any = None
        self.kind = ""
        self.fingerprints: Fingerprints | None = None

    def import_service(self, records: Path) -> None:
        """Import the service on the slot's own disk, under the guard; say how that went."""
        patch_hostname(self.hostname)
        move_imports(self.root, self.disk)
        sys.path.insert(0, str(self.disk))
        sys.argv = [str(self.target)]
        self.guard.install(records)
        before = _open_for_writing()
        watch = _Watch(self)
        try:
            self.application = self.target.load()
            self.kind = kind_of(self.application, str(self.target))
            serve.prepare(self.kind)
        except (BadTarget, MissingServer) as exc:
            self.fail(str(exc), kind=type(exc).__name__)
        except BaseException as exc:  # noqa: BLE001  # what the user's import raises is their news, sys.exit included
            self.fail(_told(exc, "while it was imported"), self.own_traceback(exc))
        finally:
            watch.stop()
        self.fingerprints = Fingerprints(
            self.application, self.target, disk=self.disk, root=self.root
        )
        reason = self.import_each or _why_not_forked(
            {*before, self.channel.fileno(), self.guard.descriptor or -1}
        )
        gc.freeze()  # collections in a replica leave the pages alone that it shares with this process
        alone = not self.guard.asked_others
        self.channel.send(
            {"event": "imported", "kind": self.kind, "reason": reason, "alone": alone}
        )
        if reason:
            self.serve_once()
        else:
            self.serve_forks()

    def own_traceback(self, error: BaseException) -> str:
        """The user's traceback, or none for an orderly exit without a message."""
        if isinstance(error, SystemExit) and error.__context__ is None and error.code in {0, None}:
            return ""
        return own_traceback(error, disk=self.disk, root=self.root)

    def fail(self, reason: str, trace: str = "", kind: str = "service") -> NoReturn:
        """Say why there is no service, and leave without running what the service registered."""
        _flush()
        self.channel.send({"event": "failed", "reason": reason, "traceback": trace, "kind": kind})
        os._exit(1)

    def serve_once(self) -> None:
        """Be the replica: an import like this is not forked."""
        message = self._next()
        probe = Channel(socket(fileno=self.channel.take_descriptor()))
        self.channel.send({"event": "started", "pid": os.getpid()})
        self.become(probe, message, alone=True)

    def serve_forks(self) -> None:
        """Fork a replica for every start until the tool goes away."""
        while True:
            message = self._next()
            match message["op"]:
                case "start":
                    self.kill_child(signal.SIGKILL, 0)
                    descriptor = self.channel.take_descriptor()
                    _flush()
                    pid = os.fork()
                    if pid == 0:
                        self.channel.close()
                        os.setsid()
                        _die_with_parent()
                        self.become(Channel(socket(fileno=descriptor)), message, alone=False)
                        return
                    os.close(descriptor)
                    self.child = pid
                    self.channel.send({"event": "started", "pid": pid})
                case "kill":
                    self.kill_child(signal.SIGKILL, 0)
                    self.channel.send({"event": "done"})
                case "terminate":
                    self.kill_child(signal.SIGTERM, message["grace"])
                    self.channel.send({"event": "done"})
                case "alive":
                    self.channel.send({"event": "alive", "alive": self._child_lives()})

    def _next(self) -> dict[str, Any]:
        try:
            return self.channel.receive()
        except EOFError:
            self.vanish()

    def _child_lives(self) -> bool:
        if self.child is not None and os.waitpid(self.child, os.WNOHANG)[0] == self.child:
            _kill_all(self.child)
            self.child = None
        return self.child is not None

    def kill_child(self, first: int, grace: float) -> None:
        """End the replica and all that it started.

        Args:
            first: the signal to begin with.
            grace: seconds to wait before SIGKILL.
        """
        if not self._child_lives() or self.child is None:
            return
        if first != signal.SIGKILL:
            os.kill(self.child, first)
            deadline = time.monotonic() + grace
            while self._child_lives() and time.monotonic() < deadline:
                time.sleep(0.005)
            if self.child is None:
                _reap_orphans()
                return
        _kill_all(self.child)
        os.waitpid(self.child, 0)
        self.child = None
        _reap_orphans()

    def vanish(self) -> NoReturn:
        """The tool is gone: leave nothing behind."""
        self.kill_child(signal.SIGKILL, 0)
        self.presence.remove()
        os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def become(self, probe: Channel, message: dict[str, Any], *, alone: bool) -> None:
        """Turn this process into a replica; returns when it was told to stop."""
        os.environ["ANYPOD_NAMESPACE"] = message["namespace"]
        # What a service writes and imports while it serves is another text in the next run, at the same second.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        self.guard.record_to(Path(message["records"]))
        fingerprints = self.fingerprints
        assert fingerprints is not None
        listening = serve.listen()
        writes: Writes | None = None
        if message["trace"]:
            states = [State(*state) for state in message["trace"]]
            writes = Writes(fingerprints.roots, disk=self.disk, root=self.root, states=states)
            writes.install()

        def ready() -> None:
            if self.kind == "asgi":
                fingerprints.look()  # a lifespan is part of the start
            probe.send({"event": "ready", "port": listening.getsockname()[1]})
            threading.Thread(
                target=answer,
                args=(probe, fingerprints, self.presence.remove if alone else None, writes),
                name="anypod-probe",
                daemon=True,
            ).start()

        try:
            serve.serve(self.application, self.kind, listening, ready)
        except serve.StartupFailed as exc:
            trace = str(exc).replace(str(self.disk), str(self.root))
            self._fail_replica(probe, f"{self.target} failed in its lifespan", trace)
        except BaseException as exc:
            if isinstance(exc, SystemExit) and not exc.code:
                raise
            self._fail_replica(probe, _told(exc, "while it served"), self.own_traceback(exc))
            raise

    def _fail_replica(self, probe: Channel, reason: str, trace: str) -> None:
        try:
            probe.send({"event": "failed", "reason": reason, "traceback": trace, "kind": "service"})
        except OSError:
            return  # nobody listens any more


class _Watch:
    """During the import, a thread that notices the tool's death and tells where a hang is.

    It is gone before the first fork.
    """

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._main = threading.get_ident()
        self._wake, self._woken = os.pipe()[::-1]
        self._thread = threading.Thread(target=self._run, name="anypod-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        channel = self._lineage.channel
        while True:
            readable, _, _ = select.select([channel.fileno(), self._woken], [], [])
            if self._woken in readable:
                return
            try:
                channel.receive()
            except EOFError:
                self._lineage.vanish()
            frame = sys._current_frames().get(self._main)  # noqa: SLF001  # the one way to see another thread
            stack = traceback.extract_stack(frame) if frame else []
            inside = [item for item in stack if item.filename.startswith(str(self._lineage.disk))]
            text = "".join(traceback.format_list(inside))
            channel.send(
                {"event": "where", "traceback": text.replace(str(self._lineage.disk), str(self._lineage.root))}
            )  # fmt: skip

    def stop(self) -> None:
        os.write(self._wake, b".")
        self._thread.join()
        os.close(self._wake)
        os.close(self._woken)


def _told(error: BaseException, when: str) -> str:
    if isinstance(error, SystemExit):
        return f"the service called sys.exit({error.code!r}) {when}"
    if isinstance(error, KeyboardInterrupt):
        return f"the service was interrupted {when}"
    return f"the service raised {type(error).__name__} {when}"


def _flush() -> None:
    """Write out what is buffered, so that no two processes do."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the service closed or replaced it


def _descriptors() -> list[int]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):  # noqa: PTH112  # before pathlib is of use
            return [int(name) for name in os.listdir(folder)]  # noqa: PTH208  # as above
    return list(range(3, 1024))


def _open_for_writing() -> dict[int, str]:
    """Sockets, and files open for writing at a place of their own.

    What is open for appending, as log files are, a forked process uses as a fresh one would.
    """
    found: dict[int, str] = {}
    for descriptor in _descriptors():
        try:
            mode = os.fstat(descriptor).st_mode
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        except OSError:
            continue  # the listing's own descriptor
        written = flags & os.O_ACCMODE != os.O_RDONLY and not flags & os.O_APPEND
        if stat.S_ISSOCK(mode):
            found[descriptor] = "an open socket"
        elif stat.S_ISREG(mode) and written and descriptor > 2:
            found[descriptor] = _name_of(descriptor)
    return found


def _name_of(descriptor: int) -> str:
    try:
        return f"{Path(f'/proc/self/fd/{descriptor}').readlink().name} open for writing"
    except OSError:
        return "a file open for writing"


def _why_not_forked(known: set[int]) -> str:
    """Why a forked child would not be like a fresh process; empty if it would."""
    _return_idle_connections()
    threads = [item.name for item in threading.enumerate() if item is not threading.main_thread()]
    if threads:
        return f"its import started the thread {threads[0]!r}"
    tasks = Path("/proc/self/task")
    if tasks.is_dir() and (count := len(list(tasks.iterdir()))) > 1:
        return f"its import started {count - 1} native threads"
    if started := descendants(os.getpid()):
        return f"its import started {len(started)} processes"
    left = {fd: what for fd, what in _open_for_writing().items() if fd not in known}
    if left:
        return f"its import left {next(iter(left.values()))}"
    return ""


def _return_idle_connections() -> None:
    """Close what pools of SQLAlchemy and redis-py keep open between uses, as servers that fork do.

    Only pools that open a connection again on demand: an in-memory database lives in its connection.
    """
    gc.collect()  # what nobody refers to any more is closed, as it would be sooner or later
    engines = _loaded("sqlalchemy.engine", "Engine")
    queues = _loaded("sqlalchemy.pool", "QueuePool")
    clients = _loaded("redis.connection", "ConnectionPool")
    for item in gc.get_objects():
        if issubclass(type(item), engines) and issubclass(type(item.pool), queues):
            item.dispose()
        elif issubclass(type(item), clients):
            item.disconnect(inuse_connections=False)


def _loaded(module: str, name: str) -> tuple[type, ...]:
    found = getattr(sys.modules.get(module), name, None)
    return (found,) if isinstance(found, type) else ()


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the lineage dies; elsewhere the probe's channel ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Become the parent of what replicas leave behind, so that it can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _kill_all(leader: int) -> None:
    """SIGKILL a replica's group; what left the group becomes an orphan, and is reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it was faster
        os.killpg(leader, signal.SIGKILL)


def _reap_orphans() -> None:
    """End daemons that left the replica's group: they have become children of this process."""
    listing = Path(f"/proc/self/task/{os.getpid()}/children")
    while listing.exists() and (orphans := [int(pid) for pid in listing.read_text().split()]):
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    """Import, then fork or serve, until the tool goes away."""
    faulthandler.enable()
    channel = Channel(socket(fileno=int(sys.argv[1])))
    _adopt_orphans()
    presence = Presence(Path(sys.argv[2]))
    try:
        config = channel.receive()
    except EOFError:
        presence.remove()
        return
    Lineage(channel, presence, config).import_service(Path(config["records"]))


if __name__ == "__main__":
    main()
