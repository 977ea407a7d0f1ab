"""# POD102: in-memory cache without expiry, assumed shared.

**What it does.** Finds a dict, `lru_cache` or size-bounded cache that requests fill, without a time to live.

**Why it is bad.** A write through another replica never reaches this copy: clients see the old and the new
value in turns, until the process ends. A local cache is fine when it declares how stale it may be.

```python
from fastapi import FastAPI

app = FastAPI()
cache = {}


@app.get("/items/{key}")
def item(key: str):
    if key in cache:
        return cache[key]
    found = load(key)
    cache[key] = found  # POD102
    return found
```

```python
from functools import lru_cache

import requests
from flask import Flask

app = Flask(__name__)


@lru_cache(maxsize=512)  # POD102
def price(item):
    return requests.get(f"http://prices/{item}", timeout=2).json()


@app.get("/price/<item>")
def show(item):
    return price(item)
```

**Never reported.** A cache whose entries expire, and memos of pure functions.

```python
import re
import time
from functools import lru_cache

from flask import Flask

app = Flask(__name__)
kept = {}
TTL = 300


def read_through(key, load):
    entry = kept.get(key)
    if entry and time.monotonic() - entry["at"] < TTL:
        return entry["value"]
    value = load()
    kept[key] = {"value": value, "at": time.monotonic()}
    return value


@lru_cache
def pattern(text):
    return re.compile(text)


@app.get("/rates/<name>")
def rates(name):
    return {"rate": read_through(name, lambda: fetch(name)), "ok": bool(pattern("a+").match(name))}
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import finding, of_verdict
from anypod.check.memory import Verdict
from anypod.check.memos import stale_memos
from anypod.check.model import ERROR, Finding, Site

MESSAGE = "in-memory cache {state} is filled by requests and never expires"
WHY = "Each replica keeps its own copy: after a change elsewhere this one goes on answering with the old value."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:
    """One finding for each state."""
    for verdict in verdicts:
        if verdict.rule == "POD102":
            yield of_verdict(analysis, verdict, MESSAGE, WHY)
    for memo in stale_memos(analysis):
        name = f"{analysis.project.modules[memo.function.module].label}.{memo.function.qualname}"
        yield finding(
            analysis,
            "POD102",
            ERROR,
            memo.frame,
            memo.line,
            memo.function.column,
            "result kept",
            state=name,
            message=f"{name} keeps what it loaded until the process ends",
            why=WHY,
            purpose="cache",
            definition=Site(memo.function.module, memo.function.line, memo.function.column),
            access="memo",
        )
