"""The world of one proof: slots, their private disks, the volume that they share, and resets.

A world lives below one directory in the system's temporary directory:

    origin/disk   the project tree as it was when the world was made
    volume/       what all slots share: anypod.db, app.db, and `--shared` paths of the tree
    slot-K/       one slot: disk/ (where it starts), home/, tmp/
    stash-K/      what the import of slot K added to its disk
    logs/         what the service printed, and what the guard recorded

Slots import the service one after the other, as pods of a deployment that starts do. What the volume
and the disks hold then is the state to which every reset returns.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from anypod.replicas.change import State
from anypod.replicas.disk import Disk, copy_tree, remove_tree
from anypod.replicas.environment import slot_environment
from anypod.replicas.errors import BadShare, BadTarget, ReplicaError
from anypod.replicas.hosts import refuse_remote
from anypod.replicas.pod import Pod, Replica, Site
from anypod.replicas.target import Target

__all__ = ["Application", "World"]


@dataclass(frozen=True, slots=True)
class Application:
    """The service under proof.

    Attributes:
        target: "module:app", "module:factory()" or "module:object.attribute".
        root: the project tree, from which the service is started.
        env: the complete environment of the service.
    """

    target: str
    root: Path
    env: Mapping[str, str]

    @property
    def name(self) -> str:
        """What people call it."""
        return self.target


class World:
    """Slots in which replicas of one application run; a context manager.

    Args:
        application: what runs.
        slots: how many replicas can run at once.
        start_timeout: seconds for an import, and for a start.
        shared: paths inside the project tree that are a volume: one for all slots, surviving a kill.
        allow_hosts: hosts besides this machine that the service may reach.
        import_each: import the service at every start, as a pod of a deployment does, instead of
            forking it from one import.
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
        import_each: bool = False,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
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
        self._prepared = False
        self._closed = False
        self._stop = stop
        self._lock = threading.RLock()
        self._namespace = _new_namespace()
        shares = [_relative(path, self._root) for path in shared]
        self._base = Path(tempfile.mkdtemp(prefix="anypod-")).resolve()
        try:
            self._volume = Disk(
                self._base / "volume", origin=None, stash=self._base / "stash-volume"
            )
            self._lay_out(shares)
            self._pods = [self._pod(slot, start_timeout, allow_hosts) for slot in range(slots)]
        except BaseException:
            self._volume.close()
            remove_tree(self._base)
            raise

    def _lay_out(self, shares: Sequence[Path]) -> None:
        origin, volume = self._base / "origin", self._volume.path
        for path in (volume, self._base / "logs", origin / "home", origin / "tmp"):
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

    def _pod(self, slot: int, timeout: float, allow_hosts: Collection[str]) -> Pod:
        path = self._base / f"slot-{slot}"
        copy_tree(
            self._base / "origin", path, max_bytes=1 << 62, max_files=1 << 62, stop=self._stop
        )
        env = slot_environment(
            self.application.env,
            slot=slot,
            home=path / "home",
            tmp=path / "tmp",
            disk=path / "disk",
            volume=self._volume.path,
        )
        site = Site(
            self._base,
            slot,
            self._root,
            self.application.target,
            env,
            tuple(allow_hosts),
            timeout,
            self._import_each,
        )
        return Pod(site, self._base / "origin")

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
                pod.import_service(self._namespace)
                if pod.forks:
                    pod.disk.capture()
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
    def why_not_forked(self) -> str:
        """Why replicas are not forked, in words; empty if they are."""
        self.prepare()
        return next((pod.reason for pod in self._pods if pod.reason), "")

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
            self._volume.restore()
            self._namespace = _new_namespace()

    def close(self) -> None:
        """End every process and remove the world's directory; any thread may call it, at any time."""
        self._closed = True
        for pod in self._pods:
            pod.abort()  # a start that another thread waits for fails now, and lets go of its locks
        with self._lock:
            for pod in self._pods:
                pod.remove()
            self._volume.close()
            remove_tree(self._base)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _new_namespace() -> str:
    return f"prove-{uuid.uuid4().hex[:12]}"


def _relative(path: Path, root: Path) -> Path:
    whole = Path(os.path.normpath(root / path))
    if not whole.is_relative_to(root) or whole == root:
        raise BadShare(
            f"{path} is not inside the project tree {root}: a volume stands for a folder of the tree"
        )
    return whole.relative_to(root)
