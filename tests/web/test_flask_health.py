"""Liveness asks nobody; readiness asks the store, and says when the pod is on its way out."""

from __future__ import annotations

import socket

import pytest
from flask import Flask

from anypod import State
from anypod.web.flask import Health

pytestmark = pytest.mark.quick


def test_one_line(state: State) -> None:
    app = Flask(__name__)
    Health(app, state)
    client = app.test_client()
    for path, status in (("/livez", "alive"), ("/readyz", "ready")):
        answer = client.get(path)
        assert (answer.status_code, answer.json) == (200, {"status": status})
        assert answer.headers["Cache-Control"] == "no-store"


def test_factory_and_other_paths(state: State) -> None:
    health = Health(live="/healthz/live", ready="/healthz/ready")
    app = Flask(__name__)
    health.init_app(app, state)
    assert app.test_client().get("/healthz/live").status_code == 200
    assert app.test_client().get("/healthz/ready").status_code == 200
    assert app.extensions["anypod_health"] is health


def test_a_store_that_is_away_makes_a_pod_unready_but_not_dead() -> None:
    pytest.importorskip("anypod.stores.redis", reason="needs the Redis driver")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    app = Flask(__name__)
    with State(f"redis://127.0.0.1:{port}/0") as state:
        Health(app, state)
        client = app.test_client()
        assert client.get("/livez").status_code == 200
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json == {"status": "not ready", "reason": "store"}


def test_draining(state: State) -> None:
    app = Flask(__name__)
    health = Health(app, state)
    health.drain()
    answer = app.test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["status"] == "draining"
    assert app.test_client().get("/livez").status_code == 200
