"""The plugin, in sessions of its own: tests recorded through four clients, and replicas by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove.engine import prove
from anypod.prove.schedules import Kind
from anypod.prove.workload import load
from anypod.replicas import Application

QUICK = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD}))
FLASK = """
    import secrets
    from flask import Flask, jsonify, request, session, redirect

    app = Flask(__name__)
    app.secret_key = "the same everywhere"
    orders = {}

    @app.post("/login")
    def login():
        session["user"] = request.form["user"]
        return redirect("/me")

    @app.get("/me")
    def me():
        return jsonify(session.get("user"))

    @app.post("/orders")
    def order():
        number = secrets.token_hex(8)
        orders[number] = request.json
        return jsonify(id=number), 201

    @app.get("/orders/<number>")
    def show(number):
        return jsonify(orders[number]) if number in orders else ("", 404)

    @app.get("/broken")
    def broken():
        1 / 0
"""
FLASK_TESTS = """
    import pytest
    from service import app, orders

    def test_an_order():
        client = app.test_client()
        answer = client.post("/login", data={"user": "ann", "password": "hunter22"}, follow_redirects=True)
        assert answer.json == "ann"
        number = client.post("/orders", json={"item": "lamp"}).json["id"]
        assert client.get(f"/orders/{number}?all=1").json == {"item": "lamp"}

    def test_another_user():
        assert app.test_client().get("/me").json is None

    def test_a_fixture():
        orders["17"] = {"item": "mug"}
        assert app.test_client().get("/orders/17").status_code == 200

    def test_an_error():
        app.testing = True
        with pytest.raises(ZeroDivisionError):
            app.test_client().get("/broken")
"""
FASTAPI = """
    from fastapi import FastAPI, Body
    app = FastAPI()
    orders = {}

    @app.post("/orders", status_code=201)
    def order(item: dict = Body()) -> dict:
        number = f"order-{len(orders) + 1000}-x"
        orders[number] = item
        return {"id": number}

    @app.get("/orders/{number}")
    async def show(number: str) -> dict:
        return orders[number]
"""
CLIENTS = {
    "starlette": """
        from fastapi.testclient import TestClient
        from service import app

        def test_an_order():
            with TestClient(app) as client:
                number = client.post("/orders", json={"item": "lamp"}).json()["id"]
                assert client.get(f"/orders/{number}").json() == {"item": "lamp"}
    """,
    "httpx": """
        import asyncio, httpx
        from service import app

        def test_an_order():
            async def order():
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                    number = (await client.post("/orders", json={"item": "lamp"})).json()["id"]
                    assert (await client.get(f"/orders/{number}")).json() == {"item": "lamp"}
            asyncio.run(order())
    """,
}
DJANGO = """
    import json
    import django
    from django.conf import settings
    settings.configure(SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["localhost", "testserver"])
    django.setup()
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, JsonResponse
    from django.urls import path
    orders = {}

    def order(request):
        number = f"order-{len(orders) + 1000}-x"
        orders[number] = json.loads(request.body)
        return JsonResponse({"id": number}, status=201)

    def show(request, number):
        return JsonResponse(orders[number])

    urlpatterns = [path("orders", order), path("orders/<number>", show)]
    app = get_wsgi_application()
"""
DJANGO_TESTS = """
    import asyncio
    import service
    from django.test import AsyncClient, Client

    def test_an_order():
        client = Client()
        number = client.post("/orders", {"item": "lamp"}, content_type="application/json").json()["id"]
        assert client.get(f"/orders/{number}").json() == {"item": "lamp"}

    def test_another():
        async def order():
            client = AsyncClient()
            answer = await client.post("/orders", {"item": "mug"}, content_type="application/json")
            assert (await client.get(f"/orders/{answer.json()['id']}")).json() == {"item": "mug"}
        asyncio.run(order())
"""


def session(
    project: Project, tests: str, *arguments: str, env: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    (project.path / "test_service.py").write_text(textwrap.dedent(tests))
    env = {**project.env(), "PYTEST_ADDOPTS": "", **env}
    env["PYTHONPATH"] = os.pathsep.join([str(project.path), env["PYTHONPATH"]])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments],
        cwd=project.path, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_tests_of_a_service_become_its_workload(project: Project) -> None:
    project.write(FLASK)
    ended = session(project, FLASK_TESTS, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 passed" in ended.stdout
    assert "\nshop.http: 7 requests, 4 clients, 1 value taken from answers" in ended.stdout
    file = project.path / "shop.http"
    assert "hunter22" not in file.read_text()
    steps = load(file).steps
    assert [(step.label, step.recorded) for step in steps] == [
        ("POST /login", 302),
        ("GET /me", 200),
        ("POST /orders", 201),
        ("GET /orders/{{post_orders.response.body.$.id}}?all=1", 200),
        ("GET /me", 200),
        ("GET /orders/17", 200),
        ("GET /broken", 500),
    ]
    assert [step.client for step in steps] == [*["default"] * 4, "client2", "client3", "client4"]
    verdict = prove(Application("service:app", project.path, project.env()), load(file), QUICK)
    assert verdict.exit_code == 1
    assert [found.route for found in verdict.divergences] == ["GET /orders/{id}"]
    (told,) = [text for text in verdict.warnings if text.startswith("state created outside HTTP")]
    assert "GET /orders/17 was answered 200 when it was recorded, and 404" in told


@pytest.mark.parametrize("library", [*CLIENTS, "django"])
def test_every_client_is_heard(project: Project, library: str) -> None:
    project.write(DJANGO if library == "django" else FASTAPI)
    tests = DJANGO_TESTS if library == "django" else CLIENTS[library]
    ended = session(project, tests, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps = load(project.path / "shop.http").steps
    number = "{{post_orders.response.body.$.id}}"
    assert [(step.label, step.recorded) for step in steps[:2]] == [
        ("POST /orders", 201),
        (f"GET /orders/{number}", 200),
    ]
    assert len(steps) == (4 if library == "django" else 2)
    assert not any(name == "Host" for step in steps for name, _ in step.headers)
    assert (steps[0].body or "").replace(" ", "") == '{"item":"lamp"}'


def test_a_test_client_is_not_changed(project: Project) -> None:
    """A stream stays a stream: an endless answer is not read to its end."""
    project.write("""
        from flask import Flask
        app = Flask(__name__)

        @app.get("/endless")
        def endless():
            def lines():
                while True:
                    yield b"again"
            return app.response_class(lines())
    """)
    tests = """
        from service import app

        def test_a_stream():
            answer = app.test_client().get("/endless")
            assert next(answer.iter_encoded()) == b"again"
            answer.close()
    """
    ended = session(project, tests, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert load(project.path / "shop.http").steps[0].recorded == 200


def test_an_answer_may_be_read_after_the_next_request(project: Project) -> None:
    project.write(FLASK)
    tests = """
        from service import app

        def test_two_orders():
            client = app.test_client()
            first = client.post("/orders", json={"item": "lamp"})
            client.post("/orders", json={"item": "mug"})
            assert client.get(f"/orders/{first.json['id']}").json == {"item": "lamp"}
    """
    ended = session(project, tests, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps = load(project.path / "shop.http").steps
    assert steps[2].target == "/orders/{{post_orders.response.body.$.id}}"


def test_requests_that_are_sent_at_once(project: Project) -> None:
    project.write(FASTAPI)
    tests = """
        import asyncio, httpx
        from service import app

        def test_orders():
            async def order():
                async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                    posts = [client.post("/orders", json={"item": str(n)}) for n in range(3)]
                    ids = [answer.json()["id"] for answer in await asyncio.gather(*posts)]
                    await asyncio.gather(*[client.get(f"/orders/{id}") for id in ids])
            asyncio.run(order())
    """
    ended = session(project, tests, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    targets = [step.target for step in load(project.path / "shop.http").steps]
    assert targets[3:] == [
        "/orders/{{post_orders.response.body.$.id}}",
        "/orders/{{post_orders_2.response.body.$.id}}",
        "/orders/{{post_orders_3.response.body.$.id}}",
    ]


def test_django_checks_forms_that_its_test_client_does_not(project: Project) -> None:
    middleware = 'MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"], SECRET_KEY="x"'
    project.write(DJANGO.replace('SECRET_KEY="x"', middleware))
    ended = session(project, DJANGO_TESTS, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    workload = load(project.path / "shop.http")
    verdict = prove(Application("service:app", project.path, project.env()), workload, QUICK)
    assert not [told for told in verdict.warnings if "outside HTTP" in told]
    assert "GET /orders/{id}" in {found.route for found in verdict.divergences}


def test_a_websocket_is_no_request(project: Project) -> None:
    project.write("""
        from fastapi import FastAPI, WebSocket
        app = FastAPI()

        @app.websocket("/talk")
        async def talk(socket: WebSocket):
            await socket.accept()
            await socket.send_text("hello")
            await socket.close()

        @app.get("/")
        def hello():
            return {}
    """)
    tests = """
        from fastapi.testclient import TestClient
        from service import app

        def test_both():
            client = TestClient(app)
            with client.websocket_connect("/talk") as socket:
                assert socket.receive_text() == "hello"
            assert client.get("/").status_code == 200
    """
    ended = session(project, tests, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "left out: 1 × the websocket /talk" in ended.stdout
    assert load(project.path / "shop.http").websockets == ("/talk",)
    assert [step.label for step in load(project.path / "shop.http").steps] == ["GET /"]


@pytest.mark.parametrize("name", ["shop.har", "."])
def test_a_file_that_cannot_be_the_workload(project: Project, name: str) -> None:
    ended = session(project, "def test_nothing(): pass\n", "--anypod-record", name)
    assert ended.returncode == 4
    assert "--anypod-record writes a .http file" in ended.stderr


def test_a_file_that_cannot_be_written(project: Project) -> None:
    project.write(FLASK)
    (project.path / "taken").write_text("")
    ended = session(project, FLASK_TESTS, "--anypod-record", "taken/shop.http")
    assert ended.returncode == 4
    assert "cannot write" in ended.stdout


def test_a_client_of_an_unknown_version_is_told(project: Project) -> None:
    project.write(FLASK)
    changed = "import starlette.testclient\ndel starlette.testclient._TestClientTransport\n"
    project.write(changed, name="conftest.py")
    ended = session(project, FLASK_TESTS, "--anypod-record", "shop.http")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "note  starlette.testclient is of a version that is not heard" in ended.stdout
    assert "shop.http: 7 requests" in ended.stdout


def test_no_request_is_no_workload(project: Project) -> None:
    ended = session(project, "def test_nothing(): pass\n", "--anypod-record", "shop.http")
    assert ended.returncode == 0
    assert "no test sent a request through a client that is heard" in ended.stdout
    assert not (project.path / "shop.http").exists()


def test_recording_wants_one_process(project: Project) -> None:
    (project.path / "test_service.py").write_text("def test_nothing(): pass\n")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--anypod-record", "x.http"],
        cwd=project.path, env=project.env(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 4
    assert "--anypod-record listens in one process: add -n 0" in ended.stderr


def test_without_the_option_nothing_is_loaded(project: Project) -> None:
    tests = """
        import sys

        def test_nothing():
            assert not {"anypod.prove", "anypod.replicas", "httpx", "werkzeug"} & set(sys.modules)
    """
    assert session(project, tests).returncode == 0


def test_replicas_in_a_test_of_ones_own(project: Project) -> None:
    project.write(FLASK)
    (project.path / "pytest.ini").write_text("[pytest]\nanypod_app = service:app\n")
    tests = """
        import pytest
        from anypod.pytest_plugin.routed import NoAnswer

        def test_another_pod_knows_the_user_but_not_the_order(replicas):
            ann, guest = replicas.client(), replicas.client()
            assert ann.post("/login", pod=1, data={"user": "ann"}).header("Location") == "/me"
            assert ann.get("/me", pod=2).json() == "ann"
            assert guest.get("/me", pod=2).json() is None
            number = ann.post("/orders", pod=1, json={"item": "lamp"}).json()["id"]
            assert ann.get(f"/orders/{number}", pod=1).status == 200
            assert ann.get(f"/orders/{number}", pod=2).status == 404

        def test_a_pod_that_is_killed_forgets(replicas):
            client = replicas.client()
            number = client.post("/orders", pod=1, json={}).json()["id"]
            replicas.kill(1)
            assert client.get(f"/orders/{number}", pod=1).status == 404
            replicas.restart(1)
            assert client.get("/me", pod=1).text == "null\\n"
            with pytest.raises(ValueError, match="no pod 3: they are 1 to 2"):
                client.get("/me", pod=3)

        @pytest.mark.replicas("service:app", count=3)
        def test_three(replicas):
            assert replicas.client().get("/me", pod=3).status == 200

        @pytest.mark.replicas("other:app")
        def test_no_answer(replicas):
            with pytest.raises(NoAnswer, match="pod 1: GET /: closed the connection"):
                replicas.client().get("/", pod=1)
    """
    project.write("import os\ndef app(environ, start): os._exit(3)\n", name="other.py")
    ended = session(project, tests)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 passed" in ended.stdout


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("", "set anypod_app = module:app"),
        (
            "@pytest.mark.replicas('service:app', pods=2)",
            "expected @pytest.mark.replicas(app, *, count=2",
        ),
        ("@pytest.mark.replicas('none:app')", "there is no module 'none'"),
    ],
)
def test_a_fixture_that_does_not_know_what_to_run(project: Project, mark: str, said: str) -> None:
    env = {"COLUMNS": "200"}
    ended = session(project, f"import pytest\n{mark}\ndef test_x(replicas): pass\n", env=env)
    assert ended.returncode == 1
    assert said in ended.stdout
