"""# POD109: secret or identity that every process makes for itself.

**What it does.** Finds signing keys, salts and session secrets that are generated when the process starts (also as
the default of a setting), and `hash()`, process ids and host names in keys that other replicas should find.

**Why it is bad.** A cookie signed by replica 1 is refused by replica 2, and every restart logs everybody out.
`hash("x")` differs between processes unless PYTHONHASHSEED is fixed.

```python
import os
import secrets

import redis
from flask import Flask

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", secrets.token_hex(32))  # POD109
r = redis.Redis()


@app.get("/page/<url>")
def page(url):
    return r.get(f"page:{hash(url)}") or "nothing"  # POD109
```

**Never reported.** Secrets from the environment, random values of one request, digests.

```python
import hashlib
import os
import secrets

import redis
from flask import Flask

app = Flask(__name__)
app.secret_key = os.environ["SECRET_KEY"]
r = redis.Redis()


@app.get("/page/<url>")
def page(url):
    nonce = secrets.token_hex(8)
    digest = hashlib.sha256(url.encode()).hexdigest()
    return {"nonce": nonce, "page": r.get(f"page:{digest}")}
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import finding, located
from anypod.check.identities import keys, secrets
from anypod.check.memory import Verdict
from anypod.check.model import ERROR, Finding

WHY = "Each replica has another value, and a restart makes a new one."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:  # every rule's shape  # noqa: ARG001  # every rule's shape
    """One finding for each place."""
    for one in secrets(analysis):
        yield located(
            "POD109",
            ERROR,
            one.frame,
            one.line,
            one.column,
            "generated",
            state=one.state,
            message=one.message,
            why=WHY,
            purpose=one.purpose,
        )
    for one in keys(analysis):
        yield finding(
            analysis,
            "POD109",
            one.severity,
            one.frame,
            one.line,
            one.column,
            one.state,
            state=one.state,
            message=one.message,
            why=WHY,
            purpose=one.purpose,
            access="identity",
        )
