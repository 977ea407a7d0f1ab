"""Routes that the workload never calls are told, as the framework in the replica knows them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.prove.conftest import FEW, Project

from anypod.prove.schedules import Kind
from anypod.prove.workload import WEBSOCKET

ONCE = replace(FEW, schedules=frozenset({Kind.ANOTHER_POD}))

FLASK = """
    from flask import Blueprint, Flask
    from werkzeug.middleware.proxy_fix import ProxyFix

    service = Flask(__name__)
    orders = Blueprint("orders", __name__, url_prefix="/orders", static_folder=".")

    @orders.route("/", methods=["GET", "POST"])
    def all_orders():
        return "ok"

    @orders.route("/<int:id>", methods=["GET", "DELETE"])
    def order(id):
        return "ok"

    @orders.get("/latest")
    def latest():
        return "ok"

    service.register_blueprint(orders)
    app = ProxyFix(service)
"""
FASTAPI = """
    from fastapi import APIRouter, FastAPI, WebSocket
    from fastapi.responses import PlainTextResponse
    from starlette.middleware.gzip import GZipMiddleware

    orders = APIRouter(prefix="/orders", default_response_class=PlainTextResponse)

    @orders.get("/")
    def all_orders():
        return "ok"

    @orders.post("/")
    def add():
        return "ok"

    @orders.get("/latest")
    def latest():
        return "ok"

    @orders.get("/{id}")
    def order(id: int):
        return "ok"

    @orders.delete("/{id}")
    def remove(id: int):
        return "ok"

    below = FastAPI()

    @below.get("/health")
    def health():
        return "ok"

    service = FastAPI()
    service.include_router(orders)
    service.mount("/admin", below)

    @service.websocket("/feed")
    async def feed(socket: WebSocket):
        pass

    app = GZipMiddleware(service)
"""
STARLETTE = """
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    def ok(request):
        return PlainTextResponse("ok")

    app = Starlette(routes=[
        Mount("/orders", routes=[
            Route("/", ok, methods=["GET", "POST"]),
            Route("/latest", ok),
            Route("/{id:int}", ok, methods=["GET", "DELETE"]),
        ]),
        Mount("/files", StaticFiles(directory=".")),
    ])
"""
DJANGO = """
    import django
    from django.conf import settings

    settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="fixed", ALLOWED_HOSTS=["*"])
    django.setup()

    from django.core.handlers.wsgi import WSGIHandler
    from django.http import HttpResponse
    from django.urls import include, path, re_path
    from django.views import View

    def ok(request, **values):
        return HttpResponse("ok")

    class Order(View):
        def get(self, request, id):
            return HttpResponse("ok")

        def delete(self, request, id):
            return HttpResponse("ok")

    urlpatterns = [
        path("orders/", include([
            path("", ok),
            path("latest", ok),
            path("<int:id>", Order.as_view()),
            re_path(r"^(?P<year>[0-9]{4})/all$", ok),
        ])),
    ]
    app = WSGIHandler()
"""
WORKLOAD = "GET /orders/\n\n###\nGET /orders/7?full=1\n"


@pytest.mark.parametrize(
    ("application", "left"),
    [
        (FLASK, ["POST /orders/", "DELETE /orders/{id}", "GET /orders/latest"]),
        (
            FASTAPI,
            [
                "POST /orders/",
                "GET /orders/latest",
                "DELETE /orders/{id}",
                "GET /admin/health",
                "WEBSOCKET /feed",
            ],
        ),
        (STARLETTE, ["POST /orders/", "GET /orders/latest", "DELETE /orders/{id}"]),
        (DJANGO, ["/orders/latest", "DELETE /orders/{id}", "/orders/{year}/all"]),
        (
            'def app(environ, start):\n        start("200 OK", [])\n        return [b"ok"]\n',
            None,
        ),
    ],
    ids=["flask", "fastapi", "starlette", "django", "wsgi"],
)
def test_what_the_workload_never_calls(
    project: Project, application: str, left: list[str] | None
) -> None:
    project.write(application if application.startswith("\n") else f"    {application}")
    verdict = project.prove(WORKLOAD, options=ONCE)
    assert verdict.reason == ""
    told = verdict.not_exercised
    assert (None if told is None else sorted(told)) == (None if left is None else sorted(left))
    feed = "what goes over websockets (/feed)"
    assert (feed in verdict.not_tried) == ("WEBSOCKET /feed" in (left or []))


def test_a_websocket_that_a_recording_saw_is_named_as_not_tried(project: Project) -> None:
    project.write("""
        def app(environ, start):
            start("200 OK", [])
            return [b"ok"]
    """)
    verdict = project.prove(f"# Recorded.\n{WEBSOCKET}/talk\n\n### GET /\nGET /\n", options=ONCE)
    assert verdict.reason == ""
    assert "what goes over websockets (/talk)" in verdict.not_tried


def test_a_websocket_of_flask_is_none_of_its_pages(project: Project) -> None:
    project.write("""
        from flask import Flask
        app = Flask(__name__)
        app.add_url_rule("/talk", view_func=lambda: "", websocket=True)

        @app.get("/")
        def page():
            return "ok"
    """)
    verdict = project.prove("GET /\n", options=ONCE)
    assert verdict.not_exercised == ("WEBSOCKET /talk",)
