"""# POD103: sessions, tokens or user data in process memory.

**What it does.** Finds sessions, tokens, carts, one-time codes and other data of a user that a request keeps in
memory. A write alone is an error: whoever logs in expects to be logged in everywhere.

**Why it is bad.** The next request goes to another pod, which does not know the user. Logging out on one
replica leaves the session alive on the others.

```python
import uuid

from flask import Flask, jsonify, request

app = Flask(__name__)
sessions = {}


@app.post("/login")
def login():
    session_id = str(uuid.uuid4())
    sessions[session_id] = {"user": request.json["user"]}  # POD103
    return jsonify(session_id=session_id)
```

**Never reported.** The framework's own session, request-local objects, context variables.

```python
from contextvars import ContextVar

from flask import Flask, g, request, session

app = Flask(__name__)
current_user = ContextVar("current_user")


@app.post("/login")
def login():
    session["user_id"] = request.json["user"]
    g.user = request.json["user"]
    current_user.set(g.user)
    return {"ok": True}
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import of_verdict
from anypod.check.memory import Verdict
from anypod.check.model import Finding

MESSAGE = "user state {state} lives in the memory of one process"
WHY = "Replica 2 does not know what replica 1 was told; a restart logs everybody out."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:
    """One finding for each state."""
    for verdict in verdicts:
        if verdict.rule == "POD103":
            yield of_verdict(analysis, verdict, MESSAGE, WHY)
