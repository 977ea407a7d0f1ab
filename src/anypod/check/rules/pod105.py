"""# POD105: local file or embedded database written on a request path.

**What it does.** Finds files that a request writes below a path fixed in the code, uploads saved to such a path,
and embedded databases (SQLite, shelve, TinyDB) whose file is named in the code.

**Why it is bad.** A pod's disk is its own and is gone when the pod moves: replica 2 answers 404 for what was
uploaded to replica 1.

```python
import json

from flask import Flask, request

app = Flask(__name__)


@app.post("/notes")
def note():
    with open("notes.json", "w") as file:  # POD105
        json.dump(request.json, file)
    return {"ok": True}


@app.get("/notes")
def notes():
    with open("notes.json") as file:
        return json.load(file)
```

```python
import sqlite3

from fastapi import FastAPI

app = FastAPI()


@app.post("/items/{name}")
def add(name: str):
    db = sqlite3.connect("items.db")  # POD105
    db.execute("INSERT INTO items VALUES (?)", (name,))
    db.commit()
    return {"ok": True}
```

**Never reported.** Temporary files used within the request, files that are only read, databases whose place the
configuration names, and paths under `shared-paths`.

```python
import os
import sqlite3
import tempfile

from flask import Flask, request

app = Flask(__name__)


@app.post("/convert")
def convert():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "in.csv")
        with open(path, "wb") as file:
            file.write(request.data)
        return {"rows": count(path)}


@app.post("/items/<name>")
def add(name):
    db = sqlite3.connect(os.environ["DATABASE_PATH"])
    db.execute("INSERT INTO items VALUES (?)", (name,))
    return {"ok": True}


@app.get("/terms")
def terms():
    return open("terms.txt").read()
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.databases import embedded_databases
from anypod.check.drafts import finding
from anypod.check.files import file_writes
from anypod.check.memory import Verdict
from anypod.check.model import Finding, Site
from anypod.check.uploads import uploads

WHY = "A pod's disk is its own: replica 2 does not have the file, and a moved pod has lost it."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:  # every rule's shape  # noqa: ARG001  # every rule's shape
    """One finding for each file, its writes grouped."""
    for label, group in file_writes(analysis).items():
        first = min(group, key=lambda w: (w.line,))
        sites = [Site(w.frame.function.module, w.line, w.column, w.text) for w in group]
        yield finding(
            analysis,
            "POD105",
            first.severity,
            first.frame,
            first.line,
            first.column,
            first.text,
            state=label,
            message=f"{label} is written to this pod's own disk",
            why=WHY,
            purpose="file",
            sites=sites,
            access="file",
        )
    yield from embedded_databases(analysis, WHY)
    yield from uploads(analysis, WHY)
