"""The practices chapter, in code of our own: each Don't is an error, each Do is clean."""

from __future__ import annotations

import pytest

from anypod.check import check_sources

pytestmark = pytest.mark.quick

FLASK = "import uuid\nfrom flask import Flask, jsonify, request\n\napp = Flask(__name__)\n"

BAD = {
    "POD101": """
served = 0


@app.get("/served")
def show():
    global served
    served = served + 1
    return jsonify(n=served)
""",
    "POD102": """
known = {}


@app.get("/item/<key>")
def item(key):
    if key not in known:
        known[key] = fetch_from_database(key)
    return jsonify(known[key])
""",
    "POD103": """
logged_in = {}


@app.post("/enter")
def enter():
    who = check_credentials(request.get_json())
    if who is None:
        return jsonify(error="no"), 401
    ticket = uuid.uuid4().hex
    logged_in[ticket] = {"who": who}
    return jsonify(session_id=ticket)
""",
    "POD107": """
@app.post("/orders/<id>/cancel")
def cancel(id):
    order = Order.query.get(id)
    order.status = "cancelled"
    db.session.add(Refund(order_id=id, cents=order.cents))
    db.session.commit()
    return jsonify(status="cancelled")
""",
}

GOOD = {
    "stateless": """
@app.post("/sum")
def total():
    body = request.get_json()
    return jsonify(sum=body.get("a", 0) + body.get("b", 0))
""",
    "idempotent": """
@app.post("/orders/<id>/cancel")
def cancel(id):
    order = load_order(id)
    if order.status != "cancelled":
        order.status = "cancelled"
        order.save()
    return jsonify(status="cancelled", order_id=id)
""",
    "shared": """
import os

import redis

store = redis.Redis(host=os.environ.get("REDIS_HOST", "localhost"))


@app.post("/bump")
def bump():
    name = request.get_json().get("counter", "default")
    return jsonify(value=store.incr(name))
""",
    "ttl": """
from datetime import datetime, timedelta

kept = {}
LIFETIME = timedelta(minutes=5)


def through(key, load):
    now = datetime.now()
    if key in kept and now - kept[key]["at"] < LIFETIME:
        return kept[key]["value"]
    value = load()
    kept[key] = {"value": value, "at": now}
    return value


@app.get("/rate/<name>")
def rate(name):
    return jsonify(through(name, lambda: ask(name)))
""",
}


@pytest.mark.parametrize("rule", BAD)
def test_a_dont_is_an_error(rule: str) -> None:
    result = check_sources({"shop.py": FLASK + BAD[rule]})
    assert [(f.rule, f.severity) for f in result.findings] == [(rule, "error")]
    finding = result.findings[0]
    assert finding.chain[0].name in {"show", "item", "enter", "cancel"}
    assert finding.fix


@pytest.mark.parametrize("practice", GOOD)
def test_a_do_is_clean(practice: str) -> None:
    result = check_sources({"shop.py": FLASK + GOOD[practice]})
    assert not result.findings
    assert len(result.routes) == 1


@pytest.mark.parametrize("rule", ["POD101", "POD102", "POD103"])
def test_the_same_in_fastapi(rule: str) -> None:
    text = (
        BAD[rule]
        .replace("<key>", "{key}")
        .replace("request.get_json()", "body")
        .replace("def enter()", "def enter(body: dict)")
    )
    head = "import uuid\nfrom fastapi import FastAPI\n\njsonify = dict\napp = FastAPI()\n"
    assert [f.rule for f in check_sources({"shop.py": head + text}).findings] == [rule]
