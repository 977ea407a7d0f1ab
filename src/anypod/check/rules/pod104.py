"""# POD104: state on an application, class or singleton object, or in os.environ.

**What it does.** Finds attributes of objects that outlive a request (an instance in a module, a class, the
application and its configuration, a middleware, the environment) that requests change and look at.

**Why it is bad.** An object that lives as long as the process is a global with a longer name.

```python
from fastapi import FastAPI

app = FastAPI()


class Board:
    top = []

    def __init__(self):
        self.score = 0

    def add(self, points):
        self.score += points  # POD104
        return self.score


board = Board()


@app.post("/score/{points}")
def score(points: int):
    return board.add(points)


@app.post("/mode/{name}")
def mode(name: str):
    app.state.mode = name  # POD104
    return app.state.mode
```

**Never reported.** Objects made within the request, the `self` of a view that is made per request, and
`request.state`.

```python
from fastapi import FastAPI, Request

app = FastAPI()


class Basket:
    def __init__(self):
        self.lines = []

    def add(self, line):
        self.lines.append(line)
        return self.lines


@app.post("/total")
def total(request: Request):
    request.state.user = "x"
    return Basket().add("a")
```
"""

from __future__ import annotations

from collections.abc import Iterable

from anypod.check.analysis import Analysis
from anypod.check.drafts import of_verdict
from anypod.check.memory import Verdict
from anypod.check.model import Finding

MESSAGE = "{state} outlives the request and is changed by it"
WHY = "Every replica has its own object: replica 2 never sees this write, and a restart loses it."


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:
    """One finding for each state."""
    for verdict in verdicts:
        if verdict.rule == "POD104":
            yield of_verdict(analysis, verdict, MESSAGE, WHY)
