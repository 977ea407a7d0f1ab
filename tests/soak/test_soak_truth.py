"""The truth of `prove`, pass after pass; the results go to `docs/evidence/`.

One pass proves every service of `tests/prove/corpus/` once, as `make test` does. Which request meets which
on a busy machine is new each time, so what is found once must be found in every pass. `ANYPOD_SOAK_PASSES`
says how many to make (20). The results are written after each pass, and added to those of the same sources.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.prove.truth import CORPUS, Judged, measure, services, tally

from anypod.prove.events import Outcome

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3_600)]

PASSES = int(os.environ.get("ANYPOD_SOAK_PASSES", "20"))
AT_ONCE = 2  # while one proof waits for a clock to tick, another one plays
ROOT = Path(__file__).parent.parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
JUDGED = ("src/anypod/prove", "src/anypod/replicas", str(CORPUS.relative_to(ROOT)))


@pytest.mark.parametrize("number", range(1, PASSES + 1))
def test_every_pass_tells_the_truth(number: int) -> None:
    loads = [os.getloadavg()[0]]
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as several:
        results = [*several.map(measure, services())]
    seconds = time.monotonic() - began
    loads.append(os.getloadavg()[0])
    came = tally(results)
    wrong = [line for judged in results for line in astray(judged)]
    record({
        "seconds": round(seconds),
        "load": [round(load, 1) for load in loads],
        **asdict(came),
        "astray": wrong,
    })  # fmt: skip
    assert (came.found, came.false) == (came.bugs, 0), wrong
    assert came.right >= 0.9 * came.found, wrong
    assert came.verified >= 0.7 * came.stateful, wrong


def astray(judged: Judged) -> list[dict[str, str]]:
    """What is not as it should be in a verdict."""
    found: list[tuple[str, str]] = []
    if judged.verdict.outcome is Outcome.COULD_NOT_RUN:
        found.append(("could not run", judged.verdict.reason))
    found += [("missed", f"{bug.route} ({bug.kind})") for bug in judged.missed]
    found += [("false alarm", f"{one.route} ({one.schedule})") for one in judged.false]
    found += [
        ("wrong cause", f"{bug.route}: {state or 'none'}, not {bug.state or 'none'}")
        for bug, state in judged.wrong_causes
    ]
    found += [("not verified", f"{bug.route}: {bug.state}") for bug in judged.unverified]
    return [
        {"service": judged.service.name, "how": how, "what": " ".join(what.split())}
        for how, what in found
    ]


def digest() -> str:
    """Which sources and which corpus the results are of."""
    content = hashlib.blake2b(digest_size=8)
    for folder in JUDGED:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".md"}:
                content.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return content.hexdigest()


def record(outcome: dict[str, Any]) -> None:
    """Add a pass to the results, for people and for programs."""
    path = EVIDENCE / "truth.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    sources = digest()
    passes = [*(kept["passes"] if kept.get("sources") == sources else []), outcome]
    results = {
        "sources": sources,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "passes": passes,
    }
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(json.dumps(results, ensure_ascii=False).encode(), indent=2).decode()
    path.write_text(text + "\n")
    (EVIDENCE / "truth.md").write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """The results as a page."""
    passes = results["passes"]
    rows = [
        f"| {number} | {one['found']} of {one['bugs']} | {one['false']} | {one['right']} of {one['found']} | "
        f"{one['verified']} of {one['stateful']} | {one['seconds']} | "
        f"{one['load'][0]} → {one['load'][1]} |"
        for number, one in enumerate(passes, start=1)
    ]
    cases: dict[tuple[str, str, str], list[int]] = {}
    for number, one in enumerate(passes, start=1):
        for case in one["astray"]:
            cases.setdefault((case["service"], case["how"], case["what"]), []).append(number)
    told = [
        f"- {service}: {how} in {len(which)} of {len(passes)} (pass "
        f"{', '.join(map(str, which))}): {what}"
        for (service, how, what), which in sorted(cases.items())
    ]
    first = passes[0]
    safe, bugs = first["safe"], first["bugs"]
    return "\n".join(
        [
            "# The truth of prove, pass after pass",
            "",
            f"Each pass proves {first['services']} services, {safe} of them replica-safe, with {bugs} planted bugs",
            "in the others (`tests/prove/corpus/`). This page is written by `make soak`; the numbers are also",
            "in `truth.json`. Passes of other sources of prove or of another corpus are not among them.",
            "",
            f"Python {results['python']}, {results['system']}; digest of these sources: {results['sources']}.",
            "",
            "| pass | found | false alarms | cause right | cause verified | seconds | load |",
            "|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "*cause verified* counts among the found bugs that have a state behind them. *load* is the machine's",
            "load average when the pass began and when it ended: its own is about 4, of two services at once.",
            "",
            "## What went astray in any pass",
            "",
            *(told or ["Nothing."]),
            "",
        ]
    )  # fmt: skip
