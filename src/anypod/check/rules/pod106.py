"""# POD106: in-process coordination of what spans replicas.

**What it does.** Finds locks of one process around changes of a shared store, events and queues between requests,
lists of connected sockets that a broadcast goes through, and schedulers that every replica starts.

**Why it is bad.** A lock in replica 1 does not stop replica 2. A message broadcast to the sockets of one replica
reaches a fraction of the clients. A nightly job runs once for each replica.

```python
import threading

from flask import Flask

app = Flask(__name__)
stock_lock = threading.Lock()


@app.post("/buy/<item>")
def buy(item):
    with stock_lock:  # POD106
        db.execute("UPDATE stock SET left = left - 1 WHERE item = ?", (item,))
        db.commit()
    return {"ok": True}
```

```python
from fastapi import FastAPI, WebSocket

app = FastAPI()


class Hub:
    def __init__(self):
        self.active = []

    async def join(self, websocket: WebSocket):
        await websocket.accept()
        self.active.append(websocket)  # POD106

    async def tell(self, text: str):
        for one in self.active:
            await one.send_text(text)


hub = Hub()


@app.websocket("/chat")
async def chat(websocket: WebSocket):
    await hub.join(websocket)
    await hub.tell(await websocket.receive_text())
```

```python
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask

app = Flask(__name__)
scheduler = BackgroundScheduler()
scheduler.start()  # POD106


@app.get("/")
def index():
    return "ok"
```

**Never reported.** Locks around what one process owns: a lazily made client, a local cache with a time to live.

```python
import threading

from flask import Flask

app = Flask(__name__)
_lock = threading.Lock()
_client = None


def client():
    global _client
    with _lock:
        if _client is None:
            _client = make_client()
    return _client


@app.get("/ping")
def ping():
    return client().ping()
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.coordination import Coordination, events, locks, schedulers
from anypod.check.drafts import finding, located, of_verdict
from anypod.check.memory import Verdict
from anypod.check.model import Finding, Site

MESSAGES = {
    "connections": "{state} holds the connections of one replica only",
    "queue": "queue {state} is seen by one replica only",
}
WHY = "Coordination ends at the edge of a process: the other replicas do not take part, and a restart forgets it."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:
    """States first, then locks, events and schedulers, each place once."""
    for verdict in verdicts:
        if verdict.rule == "POD106":
            yield of_verdict(analysis, verdict, MESSAGES[verdict.purpose], WHY)
    for group in _grouped((*locks(analysis), *events(analysis), *schedulers(analysis))):
        found = group[0]
        if found.frame in analysis.parents:
            yield finding(
                analysis,
                "POD106",
                found.severity,
                found.frame,
                found.line,
                found.column,
                "coordinates",
                state=found.state,
                message=found.message,
                why=WHY,
                purpose=found.purpose,
                sites=[
                    Site(f.frame.function.module, f.line, f.column, "coordinates") for f in group
                ],
                access="coordination",
            )
        else:
            yield located(
                "POD106",
                found.severity,
                found.frame,
                found.line,
                found.column,
                "started",
                state=found.state,
                message=found.message,
                why=WHY,
                purpose=found.purpose,
            )


def _grouped(places: Iterable[Coordination]) -> list[list[Coordination]]:
    """Each place once, those of one lock or event together."""
    seen: set[tuple[str, int]] = set()
    groups: dict[object, list[Coordination]] = {}
    for one in places:
        where = (one.frame.function.module, one.line)
        if where not in seen:
            seen.add(where)
            shared = one.purpose in {"lock", "connections"}
            groups.setdefault((one.message, one.severity) if shared else where, []).append(one)
    return list(groups.values())
