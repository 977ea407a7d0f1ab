"""# POD108: read, modify, write on a shared store.

**What it does.** Finds values that a request loads from a store, changes in Python and writes back: attributes of
rows (`x.n += 1`, `x.on = not x.on`, a changed copy of a JSON column), columns (`SELECT`, then `UPDATE` with what Python
made of it), keys (`get` then `set`), and rows that are inserted because a query found none.

**Why it is bad.** Two replicas load the same value, and one of the two changes is lost; or both find nothing and
both insert.

```python
import redis
from flask import Flask

app = Flask(__name__)
r = redis.Redis()


@app.post("/posts/<int:id>/views")
def view(id):
    post = Post.query.get(id)
    post.views += 1  # POD108
    db.session.commit()
    return {"views": post.views}


@app.post("/hits")
def hits():
    n = int(r.get("hits") or 0)
    r.set("hits", n + 1)  # POD108
    return {"hits": n + 1}


@app.post("/accounts/<int:id>/fee")
def fee(id):
    (cents,) = cursor.execute("SELECT cents FROM account WHERE id = ?", (id,)).fetchone()
    cursor.execute("UPDATE account SET cents = ? WHERE id = ?", (cents - 10, id))  # POD108
    return {"cents": cents - 10}
```

**Never reported.** SQL expressions, row locks, `BEGIN IMMEDIATE`, an `UPDATE` that compares what it sets, atomic
commands, unique constraints, plain assignments.

```python
import redis
from django.db.models import F
from flask import Flask

app = Flask(__name__)
r = redis.Redis()


@app.post("/posts/<int:id>/views")
def view(id):
    post = Post.query.get(id)
    post.views = F("views") + 1
    post.title = "seen"
    db.session.commit()
    return {"ok": True}


@app.post("/stock/<int:id>")
def stock(id):
    item = Item.query.with_for_update().get(id)
    item.left -= 1
    db.session.commit()
    return {"left": item.left}


@app.post("/hits")
def hits():
    return {"hits": r.incr("hits")}
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import finding
from anypod.check.memory import Verdict
from anypod.check.model import Finding
from anypod.check.stores import updates

WHY = "Between the read and the write another replica does the same, and one of the two changes is lost."
_TEXTS = {
    "increment": "{name} is read, changed in Python and written back",
    "toggle": "{name} is read, turned and written back",
    "document": "{name} is read as a whole, changed and written back",
    "key": "{name}: a key is read and then set",
    "insert": "{name}: a row is inserted because a query found none",
}


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:  # every rule's shape  # noqa: ARG001  # every rule's shape
    """One finding for each place."""
    for update in updates(analysis):
        module = analysis.project.modules[update.frame.function.module]
        yield finding(
            analysis,
            "POD108",
            update.severity,
            update.frame,
            update.line,
            update.column,
            update.what,
            state=f"{module.label}.{update.frame.function.qualname}.{update.name}",
            message=_TEXTS[update.what].format(name=update.name.removeprefix("?.")),
            why=WHY,
            purpose="atomic" if update.what == "key" else "update",
            access=update.what,
        )
