"""# POD101: module global changed on a request path.

**What it does.** Finds a module's variable (or a closure's, or a mutable default) that a request rebinds or
changes in place, directly, through an alias, or in a helper that is given it, and that requests look at.

**Why it is bad.** Every replica has its own copy. Clients get another answer from another pod, and a restart,
a deploy or a moved pod loses all of it.

```python
from flask import Flask, jsonify

app = Flask(__name__)
visits = 0
latest = []


@app.post("/visit")
def visit():
    global visits
    visits += 1  # POD101
    return jsonify(visits=visits)


def remember(store, text):
    store.append(text)  # POD101


@app.post("/notes/<text>")
def note(text):
    remember(latest, text)
    return jsonify(latest[-10:])
```

**Never reported.** Tables that are filled at import and only read; clients made on first use; counters that
only the log sees.

```python
from flask import Flask, jsonify

app = Flask(__name__)
RATES = {"EUR": 1.0}
RATES["USD"] = 1.1
_client = None
served = 0


def client():
    global _client
    if _client is None:
        _client = make_client()
    return _client


@app.get("/rates/<name>")
def rate(name):
    global served
    served += 1
    return jsonify(RATES[name], client().ping())
```

**Limits.** What is reached only through `getattr` with a computed name, or through code that is not among the
checked files, is not followed.
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import of_verdict
from anypod.check.memory import Verdict
from anypod.check.model import Finding

MESSAGE = "module state {state} is changed by requests"
WHY = "Replica 2 never sees this write; a restart loses it."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:
    """One finding for each state."""
    for verdict in verdicts:
        if verdict.rule == "POD101":
            yield of_verdict(analysis, verdict, MESSAGE, WHY)
