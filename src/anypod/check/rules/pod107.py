"""# POD107: not idempotent, though clients retry it.

**What it does.** Looks at handlers that clients, proxies and queues deliver twice: PUT, DELETE, and POST routes that
cancel, confirm, pay and the like. Reports what happens again on a second delivery: inserts, increments, toggles,
charges, mails and requests to others without an idempotency key, when no condition on stored data prevents it.

**Why it is bad.** A response that is lost after the work was done is retried, often on another replica.

```python
import stripe
from flask import Flask

app = Flask(__name__)


@app.post("/orders/<order_id>/cancel")
def cancel(order_id):
    order = Order.query.get(order_id)
    order.status = "cancelled"
    db.session.add(Refund(order_id=order_id))  # POD107
    db.session.commit()
    return {"status": order.status}


@app.post("/orders/<order_id>/pay")
def pay(order_id):
    stripe.Charge.create(amount=100, currency="eur")  # POD107
    return {"ok": True}
```

**Never reported.** Effects behind a condition on stored data, conditional updates, calls with a key, upserts.

```python
import stripe
from flask import Flask

app = Flask(__name__)


@app.post("/orders/<order_id>/cancel")
def cancel(order_id):
    order = Order.query.get(order_id)
    if order.status != "cancelled":
        order.status = "cancelled"
        db.session.add(Refund(order_id=order_id))
        db.session.commit()
    return {"status": order.status}


@app.post("/orders/<order_id>/pay")
def pay(order_id):
    stripe.Charge.create(amount=100, currency="eur", idempotency_key=order_id)
    return {"ok": True}


@app.put("/items/<item_id>")
def put(item_id):
    item = Item.query.get(item_id)
    if item is None:
        item = Item(id=item_id)
        db.session.add(item)
    item.name = "x"
    db.session.commit()
    return {"ok": True}
```
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anypod.check import words
from anypod.check.analysis import Analysis
from anypod.check.drafts import finding
from anypod.check.effects import is_guarded, kind_of, surrounding
from anypod.check.entrypoints import Entry
from anypod.check.facts import Function
from anypod.check.frames import Frame
from anypod.check.memory import Verdict
from anypod.check.model import ERROR, WARNING, Finding
from anypod.check.stores import updates

WHY = "A retry is a request: when the first answer is lost, the client sends it again, and it happens twice."
RETRIED = frozenset(
    """cancel refund void revoke confirm approve reject close complete finish archive activate deactivate enable
    disable publish unpublish checkout pay payment charge capture transfer redeem toggle withdraw deposit ship
    settle cancellation purchase""".split()  # noqa: SIM905
)
_TEXTS = {
    "insert": "adds another row each time it is delivered",
    "increment": "changes a number by the same amount each time it is delivered",
    "toggle": "turns back each second time it is delivered",
    "charge": "moves money each time it is delivered, without an idempotency key",
    "mail": "sends a message each time it is delivered",
    "post": "calls another service each time it is delivered, without an idempotency key",
}


def find(analysis: Analysis, verdicts: list[Verdict]) -> Iterable[Finding]:  # every rule's shape  # noqa: ARG001  # every rule's shape
    """One finding for each effect that a retry repeats."""
    frames = _retried(analysis)
    seen: set[tuple[str, int]] = set()
    for frame, line, column, context, kind, name in _effects(analysis, frames):
        where = (frame.function.module, line)
        if where in seen or is_guarded(analysis, frame, context, inserts=kind == "insert"):
            continue
        seen.add(where)
        handler = frames[frame]
        if _is_of_another_method(analysis, handler, frame, context):
            continue
        severity = (
            ERROR
            if kind in {"insert", "charge"} and frame.function is handler.function
            else WARNING
        )
        yield finding(
            analysis,
            "POD107",
            severity,
            frame,
            line,
            column,
            kind,
            state=f"{analysis.project.modules[handler.function.module].label}.{handler.function.qualname}",
            message=f"{' '.join(handler.methods) or 'handler'} {handler.path or handler.function.name}: {name} {_TEXTS[kind]}",
            why=WHY,
            purpose="idempotency",
            access=kind,
        )


def _effects(
    analysis: Analysis, frames: dict[Frame, Entry]
) -> Iterator[tuple[Frame, int, int, int, str, str]]:
    for external in analysis.externals:
        if external.frame in frames:
            kind = kind_of(analysis, external)
            if kind:
                name = external.dotted.removeprefix("?.")
                yield external.frame, external.line, external.column, external.context, kind, name
    for update in updates(analysis):
        if update.frame in frames and update.what in {"increment", "toggle"}:
            yield update.frame, update.line, update.column, update.context, update.what, update.name


def _is_of_another_method(analysis: Analysis, handler: Entry, frame: Frame, context: int) -> bool:
    """In a handler of several methods: whether only a method that nobody retries comes here."""
    if "POST" not in handler.methods or _is_spoken(handler):
        return False
    for kind, value, where in surrounding(analysis, frame, context):
        methods = {v[1] for v in analysis.deep(value, where) if v[0] == "k"} & {
            "POST",
            "PUT",
            "DELETE",
            "GET",
        }
        if methods and (kind == "if") == (methods == {"POST"}):
            return True
    return False


def _retried(analysis: Analysis) -> dict[Frame, Entry]:
    """Frames that handlers which are delivered twice reach, with the handler."""
    found: dict[Frame, Entry] = {}
    for entry in analysis.entries:
        if (
            entry.kind in {"route", "view"}
            and _is_retried(entry)
            and not is_idempotent(analysis, entry)
        ):
            for frame in analysis.reached_from(entry.frame):
                found.setdefault(frame, entry)
    return found


def _is_retried(entry: Entry) -> bool:
    if {"PUT", "DELETE"} & set(entry.methods):
        return True
    if entry.methods and "POST" not in entry.methods:
        return False
    if not entry.methods and entry.kind == "route" and not entry.path:
        return False
    return _is_spoken(entry)


def _is_spoken(entry: Entry) -> bool:
    """Whether the route's own verb says so: cancel, pay, confirm."""
    # The last part of its path that is not a parameter, or the function's first word.
    parts = [p for p in entry.path.strip("/").split("/") if p and p[0] not in "<{:("]
    spoken = words.words(parts[-1]) if parts else frozenset()
    name = entry.function.name.split("_")[0].lower()
    return bool(spoken & RETRIED) or name in RETRIED


def is_idempotent(analysis: Analysis, entry: Entry) -> bool:
    """Whether the handler (or a decorator of it) asks for an idempotency key."""
    for frame in analysis.reached_from(entry.frame):
        function: Function = frame.function
        for call in function.body.calls:
            for value in (call[0], *call[1]):
                text = str(value[-1]).lower() if value[0] in "kan" else ""
                if "idempot" in text:
                    return True
    enclosing = analysis.resolver.enclosing(entry.function)
    return any(
        "idempot" in name.lower()
        for decorator in entry.function.decorators
        for name in analysis.names_of(decorator, enclosing)
    )
