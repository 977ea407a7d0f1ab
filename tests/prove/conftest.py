"""A project on disk, proved for real: generated applications, real processes, loopback only."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from anypod.prove.engine import Options, prove
from anypod.prove.events import Listener, Verdict, nobody
from anypod.prove.workload import parse
from anypod.replicas import Application

# Whatever the machine's own environment points to is none of the tests' business.
OF_THE_STORES = ("ANYPOD_URL", "DATABASE_URL", "REDIS_URL", "REDIS_HOST", "REDIS_PORT")


@dataclass(frozen=True)
class Project:
    """A folder with an application `service.py` and its workload."""

    path: Path

    def write(self, application: str, *, name: str = "service.py") -> None:
        (self.path / name).write_text(textwrap.dedent(application))

    def env(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in OF_THE_STORES}
        # The replicas run where the tests do, with the same interpreter and packages.
        return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), **(extra or {})}

    def workload(self, text: str) -> Path:
        path = self.path / "workload.http"
        path.write_text(textwrap.dedent(text))
        return path

    def prove(
        self,
        workload: str,
        *,
        target: str = "service:app",
        options: Options | None = None,
        log: Listener = nobody,
        env: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> Verdict:
        path = self.workload(workload)
        return prove(
            Application(target, self.path, self.env(env)),
            parse(path.read_text(), path),
            options or FEW,
            log,
            now,
        )


FEW = Options(replicas=2, budget=60.0, timeout=20.0)
ONE = replace(FEW, replicas=1)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)
