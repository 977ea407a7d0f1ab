"""The world of one proof: slots, their private disks, the volume that they share, and resets.

A world lives below one directory in the system's temporary directory:

    origin/disk   the project tree as it was when the world was made
    volume/       what all slots share: anypod.db, app.db, and `--shared` paths of the tree;
                  without the latter it is a link to a directory in memory, where there is one
    slot-K/       one slot: disk/ (where it starts), home/, tmp/
    pod/          where each slot's processes see their slot, if they can
    stash-K/      what the import of slot K added to its disk
    logs/         what the service printed, and what the guard recorded
    bytecode/     what imports compiled, if nothing that is installed has its own

Slots import the service one after the other, as pods of a deployment that starts do. What the volume
and the disks hold then is the state to which every reset returns.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from anypod.replicas.change import State
from anypod.replicas.command import CommandPod, Companion, run_once, with_guard
from anypod.replicas.disk import Disk
from anypod.replicas.environment import slot_environment
from anypod.replicas.errors import BadShare, BadTarget, ReplicaError
from anypod.replicas.guard import made
from anypod.replicas.hosts import refuse_remote
from anypod.replicas.outside import Outside
from anypod.replicas.pod import Pod, Replica
from anypod.replicas.processes import tail
from anypod.replicas.site import Site
from anypod.replicas.target import Target
from anypod.replicas.tree import copy_tree, remove_world
from anypod.replicas.watch import Watch

__all__ = ["Application", "World"]

_MEMORY = Path("/dev/shm")  # noqa: S108  # a fresh directory in it, not a name that others know
_ROOM = 1 << 30  # bytes that have to be free there


@dataclass(frozen=True, slots=True)
class Application:
    """The service under proof.

    Attributes:
        target: "module:app", "module:factory()" or "module:object.attribute".
        root: the project tree, from which the service is started.
        env: the complete environment of the service.
        command: what starts a replica on 127.0.0.1:$PORT, for the shell, instead of `target`.
        ready: a path that answers when a replica is ready; empty takes an open port for it.
        setup: commands that run once, in the tree that all replicas start from.
        reset: commands that run before each run, after everything else was put back.
        outside: states outside the project that are put back before each run; see `Outside`.
        companions: commands that run beside the replicas.
        urls: replicas that somebody else runs, instead of all that; see `Elsewhere`.
    """

    target: str
    root: Path
    env: Mapping[str, str]
    command: str = ""
    ready: str = ""
    setup: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What people call it."""
        return self.command or " ".join(self.urls) or self.target

    def kept(self, allow_hosts: Collection[str] = ()) -> Outside:
        """What is put back before each run and at the end, to be closed by the caller.

        Raises:
            CannotReset: a state cannot be understood, or what it needs is not installed.
            RemoteHost: a database is on another machine.
        """
        return Outside(self.outside, root=self.root, copied=not self.urls, allow_hosts=allow_hosts)


class World:
    """Slots in which replicas of one application run; a context manager.

    `seconds_per_import` is how long the slowest import of the service took; 0.0 before the first. `made`
    has, once it is closed, the files outside that its processes have made.

    Args:
        application: what runs.
        slots: how many replicas can run at once.
        start_timeout: seconds for an import, and for a start.
        shared: paths inside the project tree that are a volume: one for all slots, surviving a kill.
        allow_hosts: hosts besides this machine that the service may reach.
        first: the first slot's number among all of the application's; another has another host name.
        import_each: import the service at every start, as a pod of a deployment does, instead of
            forking it from one import.
        outside: what is put back besides; whoever made it closes it.
        stop: asked while the tree is copied, which may take a while, whether to give up.

    Raises:
        BadTarget: APP has another form, or there is no such tree.
        BadShare: a shared path is outside the tree.
        RemoteHost: the environment names another machine.
        TreeTooLarge: the tree cannot be copied.
        Interrupted: `stop` said so; nothing is left.
    """

    def __init__(
        self,
        application: Application,
        *,
        slots: int,
        start_timeout: float = 30.0,
        shared: Sequence[Path] = (),
        allow_hosts: Collection[str] = (),
        first: int = 0,
        import_each: bool = False,
        outside: Outside | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        if not application.command:
            Target.parse(application.target)
        refuse_remote(application.env, allow_hosts)
        self.application = application
        self.starts = 0
        self._import_each = "each start was to be an import" if import_each else ""
        self._root = application.root.resolve()
        if not self._root.is_dir():
            raise BadTarget(
                f"{application.root} is not a folder: a project tree is served from one"
            )
        self._start_seconds = 0.0
        self.seconds_per_import = 0.0
        self.made: dict[str, None] = {}
        self._remarks: dict[str, None] = {}
        self._first = first
        self._prepared = False
        self._imports_alike = not application.command
        self._closed = False
        self._stop = stop
        self._outside = outside
        self._lock = threading.RLock()
        self._namespace = _new_namespace()
        shares = [_relative(path, self._root) for path in shared]
        self._base = Path(tempfile.mkdtemp(prefix="anypod-")).resolve()
        place = _volume(self._base / "volume", shares)
        self._volume = Disk(place, origin=None, stash=self._base / "stash-volume")
        try:
            self._lay_out(shares)
            self._run("--setup", application.setup, start_timeout, tuple(allow_hosts))
            sites = [
                self._site(slot, start_timeout, tuple(allow_hosts))
                for slot in range(first, first + slots + len(application.companions))
            ]
            self._pods = [self._pod(site) for site in sites[:slots]]
            self._companions = [
                Companion(site, self._base / "origin", command)
                for site, command in zip(sites[slots:], application.companions, strict=True)
            ]
        except BaseException:
            self._volume.close()
            remove_world(self._base)
            raise

    def _lay_out(self, shares: Sequence[Path]) -> None:
        origin, volume = self._base / "origin", self._volume.path
        for path in (self._base / "logs", origin / "home", origin / "tmp"):
            path.mkdir(parents=True)
        copy_tree(self._root, origin / "disk", leave_out=[self._base], stop=self._stop)
        for share in shares:
            # The volume holds the one copy; every slot's tree leads there.
            kept, place = volume / "shared" / share, origin / "disk" / share
            kept.parent.mkdir(parents=True, exist_ok=True)
            if place.exists():
                shutil.move(place, kept)
            else:
                kept.mkdir()
                place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(kept)

    def _run(
        self, option: str, commands: Sequence[str], timeout: float, allow_hosts: tuple[str, ...]
    ) -> None:
        """Run commands to their ends, as the first slot would: setup in the origin, others in its disk."""
        place = self._base / ("origin" if option == "--setup" else f"slot-{self._first}")
        env = {
            **self._environment(0, place),
            "ANYPOD_NAMESPACE": self._namespace,
        }
        for number, command in enumerate(commands):
            log = self._base / "logs" / f"{option.strip('-')}-{number}"
            guarded = with_guard(
                env,
                root=self._root,
                disk=place / "disk",
                inside=self._base,
                slot=0,
                allow_hosts=allow_hosts,
                records=log.with_suffix(".records"),
            )
            run_once(
                option,
                command,
                cwd=place / "disk",
                env=guarded,
                log=log.with_suffix(".log"),
                timeout=timeout,
            )

    def _environment(self, slot: int, place: Path) -> dict[str, str]:
        return slot_environment(
            self.application.env,
            slot=slot,
            home=place / "home",
            tmp=place / "tmp",
            disk=place / "disk",
            volume=self._volume.path,
            bytecode=None if self.application.command else self._base / "bytecode",
        )

    def _site(self, slot: int, timeout: float, allow_hosts: tuple[str, ...]) -> Site:
        path = self._base / f"slot-{slot}"
        copy_tree(
            self._base / "origin", path, max_bytes=1 << 62, max_files=1 << 62, stop=self._stop
        )
        return Site(
            self._base,
            slot,
            self._root,
            self.application.target,
            self._environment(slot, path),
            allow_hosts,
            timeout,
            self._import_each,
        )

    def _pod(self, site: Site) -> Pod:
        origin, application = self._base / "origin", self.application
        if application.command:
            return CommandPod(site, origin, application.command, application.ready)
        return Pod(site, origin, application.ready)

    def prepare(self) -> None:
        """Import the service in every slot; the first `start` does it otherwise.

        Raises:
            StartFailed: the service's code failed, hung or left.
            BadTarget: APP is not there, or not an application.
        """
        with self._lock:
            if self._prepared:
                return
            for pod in self._pods:
                self._check_open()
                pod.disk.capture()
                began = time.perf_counter()
                with closing(Watch(opens=True)) as watch:
                    watch.cover(_directories(self._volume.path))
                    watch.begin()
                    pod.import_service(self._namespace)
                    looked = watch.may_have_changed()
                if looked or not pod.alone or pod.import_records():
                    self._imports_alike = False
                self.seconds_per_import = max(self.seconds_per_import, time.perf_counter() - began)
                if pod.forks:
                    pod.disk.capture()
            for companion in self._companions:
                companion.disk.capture()
            self._volume.capture()
            self._prepared = True

    def _check_open(self) -> None:
        if self._closed:
            raise ReplicaError(
                "this world is closed: its replicas and disks are gone; make another"
            )

    @property
    def forks(self) -> bool:
        """Whether replicas are forked from their slot's import; if not, each start imports again."""
        self.prepare()
        return all(pod.forks for pod in self._pods)

    @property
    def imports_alike(self) -> bool:
        """Whether an import now would do what the first ones did, so that a fork of one is as good.

        They opened nothing on the volume, wrote nothing outside their disks and asked no other process:
        no request can have changed what they saw.
        """
        self.prepare()
        return self._imports_alike and self.forks

    @property
    def why_not_forked(self) -> str:
        """Why replicas are not forked, in words; empty if they are."""
        self.prepare()
        return next((pod.reason for pod in self._pods if pod.reason), "")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What to know of this world to judge what is seen in it, in words."""
        remarks = dict(self._remarks)
        if self.lacks_tables:
            remarks.setdefault(self.lacks_tables)
        if self.application.command:
            remarks.setdefault(
                "the replicas are started by a command, so their memory is not looked into: a cause is "
                "named where it is a file or a database; name APP to see module globals too"
            )
            if any(
                isinstance(pod, CommandPod) and pod.starts and not pod.guarded for pod in self._pods
            ):
                remarks.setdefault(
                    "the command is no Python program that can be guarded: what it writes outside its "
                    "folder and whom it connects to is not seen"
                )
        elif not self.forks:
            why = self.why_not_forked
            remarks.setdefault(f"each start is a new process and a new import: {why}")
        return tuple(remarks)

    @property
    def lacks_tables(self) -> str:
        """That the service opened the database of an unset DATABASE_URL, and nobody made its tables."""
        path = self._volume.path / "app.db"
        if "DATABASE_URL" in self.application.env or not path.is_file():
            return ""
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                if database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    return ""
        except sqlite3.Error:
            return ""  # something else than a database, or in use
        return (
            "DATABASE_URL is not set, so the service was given a new database, and that has no tables: let "
            "--setup CMD make them (a migration), or set DATABASE_URL= (empty) to use the service's default"
        )

    @property
    def kind(self) -> str:
        """What the application is: "wsgi" or "asgi"."""
        self.prepare()
        return self._pods[0].kind

    @property
    def seconds_per_start(self) -> float:
        """The mean of what a start has taken, in seconds; 0.0 before the first."""
        return self._start_seconds / self.starts if self.starts else 0.0

    def start(self, slot: int, *, trace: Collection[State] = ()) -> Replica:
        """A replica that has served nothing, on a pristine private disk.

        A replica that is alive in the slot is killed first.

        Args:
            slot: from 0 to slots - 1.
            trace: states whose writes are traced to their lines, which is slow; see `Replica.writes`.

        Raises:
            StartFailed: the service's code failed, hung or left.
            BadTarget: APP is not there, or not an application.
        """
        self.prepare()
        with self._lock:
            self._check_open()
            self.starts += 1
            serial = self.starts
            for companion in self._companions:
                companion.begin(self._namespace)
        began = time.perf_counter()
        replica = self._pods[slot].start(self._namespace, serial, trace)
        with self._lock:
            self._start_seconds += time.perf_counter() - began
        return replica

    def reset(self) -> None:
        """Kill every replica, put the volume and all disks back, and begin a new namespace."""
        self.prepare()
        with self._lock:
            self._check_open()
            for pod in self._pods:
                pod.incarnation = 0
                pod.kill()
                if not pod.forks:
                    pod.end()  # an import that waits for its start may hold the volume's files
                    pod.disk.restore()
            for companion in self._companions:
                if told := companion.ended():
                    self._remarks.setdefault(told)
                companion.end()
                companion.disk.restore()
            self._volume.restore()
            self._namespace = _new_namespace()
            if self._outside is not None:
                self._outside.put_back()
            if self.application.reset:
                site = self._pods[0].site
                self._run("--reset", self.application.reset, site.timeout, site.allow_hosts)
                self._pods[0].disk.restore()

    def records(self) -> tuple[str, ...]:
        """What the guards recorded of starts whose replicas are not gone yet, failed ones included."""
        files = sorted(
            (self._base / "logs").glob("*.records"), key=lambda file: file.stat().st_mtime
        )
        return tuple(line for file in files for line in tail(file).splitlines())

    def close(self) -> None:
        """End every process and remove the world's directory; any thread may call it, at any time."""
        self._closed = True
        everything = [*self._pods, *self._companions]
        for pod in everything:
            pod.abort()  # a start that another thread waits for fails now, and lets go of its locks
        with self._lock:
            for pod in everything:
                pod.remove()
                self.made.update(pod.made)
            self.made.update(made(self.records()))
            self._volume.close()
            remove_world(self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _volume(path: Path, shares: Sequence[Path]) -> Path:
    """Make the volume; its real path.

    On a disk each commit of each run would wait for a sync, which nobody needs here. What is renamed
    into a shared path must be on one file system with it.
    """
    if not shares and os.access(_MEMORY, os.W_OK | os.X_OK):
        system = os.statvfs(_MEMORY)
        if system.f_bavail * system.f_frsize >= _ROOM:
            path.symlink_to(tempfile.mkdtemp(prefix="anypod-", dir=_MEMORY))
            return path.resolve()
    path.mkdir()
    return path


def _directories(top: Path) -> Iterator[tuple[Path, int]]:
    """A directory and all below it, with their inodes."""
    for path, _, _ in os.walk(top):
        yield Path(path), os.stat(path).st_ino  # noqa: PTH116  # walked as text


def _new_namespace() -> str:
    return f"prove-{uuid.uuid4().hex[:12]}"


def _relative(path: Path, root: Path) -> Path:
    whole = Path(os.path.normpath(root / path))
    if not whole.is_relative_to(root) or whole == root:
        raise BadShare(
            f"{path} is not inside the project tree {root}: a volume stands for a folder of the tree"
        )
    return whole.relative_to(root)
