"""`anypod prove`: replay of the fixed shop in full, the tool's memory, and a request in a replica beside a bare one.

The proof runs in a process of its own on every core that this one was given, because its worlds play in parallel; its
bars are therefore figures, not ratios, and hold on two cores that have nothing else to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from anypod.replicas import Application, World
from benchmarks.harness import Bound, Contest, Side, Within

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
PROOF = """
import json, os, resource, sys, time
from pathlib import Path

import anypod.demo
from anypod.prove import player
from anypod.prove.client import Client

plays, play = [], player.play
def noted(world, workload, schedule, **named):
    plays.append([(d.step, d.slot, d.life) for d in schedule.deliveries])
    return play(world, workload, schedule, **named)
player.play = noted  # before those that play import it
from anypod.prove.engine import Options, prove
from anypod.prove.workload import load
from anypod.replicas import Application

if cores := json.loads(sys.argv[1]):
    os.sched_setaffinity(0, cores)
sent, send = [0], Client.send
def counted(*arguments, **named):
    sent[0] += 1
    return send(*arguments, **named)
Client.send = counted
workload = load(Path(anypod.demo.__file__).with_name("shop.http"))
began = time.perf_counter()
verdict = prove(Application("anypod.demo.fixed:app", Path.cwd(), dict(os.environ)), workload, Options(replicas=3))
seconds = time.perf_counter() - began
assert verdict.exit_code == 0 and not verdict.partial, verdict.claim
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "requests": sent[0], "memory": peak, "plays": plays}))
"""
BARE = """
import socket, sys
from waitress.server import create_server
from anypod.demo.fixed import app
listening = socket.socket(fileno=int(sys.argv[1]))
create_server(app, sockets=[listening], threads=4).run()
"""
REQUEST = b"GET /data/lamp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
ITEM = b'{"name": "Desk lamp", "price_cents": 4900, "stock": 10}'
STORED = (
    b"PUT /data/lamp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ITEM), ITEM)
)


def environment(folder: Path) -> dict[str, str]:
    """One without stores but those in a folder."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
    own["ANYPOD_URL"] = f"sqlite:///{folder}/anypod.db"
    own["DATABASE_URL"] = f"sqlite:///{folder}/app.db"
    return own


def exchange(address: tuple[str, int], request: bytes) -> None:
    with socket.create_connection(address) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 200"), answer


def asking(address: tuple[str, int]) -> Side:
    """So many requests, one after the other; wall-clock time, since the work is in other processes."""

    def side(n: int) -> float:
        began = time.perf_counter()
        for _ in range(n):
            exchange(address, REQUEST)
        return time.perf_counter() - began

    return side


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[tuple[str, int]]:
    """The shop under the same server, without anything of the tool around it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        process = subprocess.Popen(
            [sys.executable, "-c", BARE, str(listening.fileno())],
            env=environment(folder), pass_fds=[listening.fileno()],
        )  # fmt: skip
        try:
            yield address
        finally:
            process.kill()
            process.wait()


def proof() -> Iterator[Bound]:
    with tempfile.TemporaryDirectory() as folder:
        own = environment(Path(folder))
        for name in ("ANYPOD_URL", "DATABASE_URL"):
            del own[name]  # the user's own stores would be reset, and one world would play alone
        done = subprocess.run(
            [sys.executable, "-c", PROOF, json.dumps(sorted(CORES))],
            cwd=folder, env=own, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
    found = json.loads(done.stdout)
    yield Bound("seconds for the fixed shop, all schedules", round(found["seconds"], 1), 60)
    each = found["seconds"] / found["requests"] * 1000
    yield Bound("ms for each of its requests, all told (400 a second)", round(each, 2), 2.5)
    floor = bare_plays(found["plays"])
    yield Bound("ms for each, nothing around the service", round(floor, 2), 2.5)
    yield Bound("MB of the tool itself", round(found["memory"] / 1e6), 300)


def bare_plays(plays: list[list[tuple[int, int, int]]]) -> float:
    """What a request of these plays takes without the tool, in ms: a bar below that cannot be met."""

    def free() -> None:
        if CORES:
            os.sched_setaffinity(0, CORES)

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bare_plays"],
        input=json.dumps(plays), text=True, check=True, stdout=subprocess.PIPE,
        preexec_fn=free,  # this process has no other thread yet
    )  # fmt: skip
    found = json.loads(done.stdout)
    return float(found["seconds"] / found["requests"] * 1000)


def contests() -> Iterator[Contest | Bound]:
    yield from proof()
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory())).resolve()
        tree, store = folder / "tree", folder / "store"
        tree.mkdir()
        store.mkdir()
        own = environment(folder)
        del own["ANYPOD_URL"], own["DATABASE_URL"]
        world = opened.enter_context(
            World(Application("anypod.demo.fixed:app", tree, own), slots=1)
        )
        replica = world.start(0)
        plain = opened.enter_context(bare(store))
        for address in (replica.address, plain):
            exchange(address, STORED)
        yield Contest(
            "a request in a replica",
            asking(replica.address),
            {"the same server alone": asking(plain)},
            {"the same server alone": Within(1.15)},
        )

        def probed(n: int) -> float:
            began = time.perf_counter()
            for _ in range(n):
                exchange(replica.address, REQUEST)
                replica.changes()
            return time.perf_counter() - began

        yield Contest(
            "a request, and a look at what it changed",
            probed,
            {"the same server alone": asking(plain)},
        )
