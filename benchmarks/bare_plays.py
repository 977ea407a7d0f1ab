"""The floor of `bench_prove`: what the plays of a proof take with nothing around the service.

    python -m benchmarks.bare_plays < PLAYS

PLAYS are the deliveries of each play, as JSON: `[[step, slot, life], …]`. Each process here imports the shop
once, forks a replica for each slot and life, serves it with waitress, and sends it the requests; between two plays
it removes the databases. It does not guard, probe, compare or look at a disk, and its import is not counted. One
process for each core that this one may use; prints the seconds of the one that took longest, and the requests sent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anypod.prove.fleet import cores

Play = list[tuple[int, int, int]]


def alone(plays: list[Play], folder: Path) -> tuple[float, int]:
    """Play them one after the other: the seconds, and how many requests were sent."""
    from waitress.server import create_server

    import anypod.demo
    from anypod.demo.fixed import app
    from anypod.prove.client import Client
    from anypod.prove.model import Response
    from anypod.prove.workload import load, render
    from anypod.prove.workload_fill import MissingValue

    workload = load(Path(anypod.demo.__file__).with_name("shop.http"))
    gc.collect()
    gc.freeze()

    def fork() -> tuple[int, tuple[str, int]]:
        listening = socket.create_server(("127.0.0.1", 0))
        address = listening.getsockname()
        if (pid := os.fork()) == 0:
            try:
                create_server(app, sockets=[listening], threads=4).run()
            finally:
                os._exit(1)
        listening.close()
        return pid, address

    def end(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    began, sent = time.perf_counter(), 0
    for play in plays:
        for path in folder.iterdir():
            path.unlink()
        replicas: dict[int, tuple[int, int, tuple[str, int]]] = {}
        clients: dict[str, Client] = {}
        answers: dict[str, Response] = {}
        for number, slot, life in play:
            step = workload.steps[number]
            try:
                request = render(step, workload, answers)
            except MissingValue:
                continue
            if slot in replicas and replicas[slot][0] != life:
                end(replicas.pop(slot)[1])
            if slot not in replicas:
                replicas[slot] = (life, *fork())
            client = clients.setdefault(step.client, Client())
            answer = client.send(request, replicas[slot][2], timeout=10)
            sent += 1
            assert isinstance(answer, Response), answer
            if step.name is not None:
                answers[step.name] = answer
        for _, pid, _ in replicas.values():
            end(pid)
    return time.perf_counter() - began, sent


def main() -> None:
    plays: list[Play] = json.load(sys.stdin)
    if len(sys.argv) > 1:
        print(json.dumps(alone(plays, Path(sys.argv[1]))))
        return
    memory = Path("/dev/shm")
    with contextlib.ExitStack() as stack:
        processes = []
        for core in range(cores()):
            place = memory if memory.is_dir() else None  # as the worlds do
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=place))
            env = {
                **os.environ,
                "ANYPOD_URL": f"sqlite:///{folder}/anypod.db",
                "DATABASE_URL": f"sqlite:///{folder}/app.db",
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.bare_plays", folder],
                env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdin is not None
            json.dump(plays[core :: cores()], process.stdin)
            process.stdin.close()
            processes.append(process)
        done = []
        for process in processes:
            assert process.stdout is not None
            done.append(json.loads(process.stdout.read()))
            process.wait()
    print(json.dumps({"seconds": max(s for s, _ in done), "requests": sum(n for _, n in done)}))


if __name__ == "__main__":
    main()
