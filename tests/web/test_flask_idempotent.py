"""An idempotent view runs once per key, on whichever pods the retries arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify, make_response, request
from flask.testing import FlaskClient

from anypod import State
from anypod.web.flask import idempotent, nothing_happened

pytestmark = pytest.mark.quick

KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


class Broke(Exception):
    """What a view raises."""


class Refused(Exception):
    """What a view raises, and the application has an answer for."""


class Shop:
    """The side effects of the views below, and what they are to do."""

    def __init__(self) -> None:
        self.orders: list[str] = []
        self.status = 201
        self.entered = threading.Event()
        self.go_on = threading.Event()


def make_app(state: State, shop: Shop, **options: Any) -> Flask:
    app = Flask(__name__)

    @app.errorhandler(Refused)
    def refused(error: Refused) -> tuple[str, int]:
        return "refused", 400

    @app.route("/orders/<item>", methods=["GET", "POST", "PATCH"])
    @idempotent(state, **options)
    def order(item: str) -> Response:
        """Order an item."""
        shop.orders.append(item)
        response = make_response(jsonify(item=item, number=len(shop.orders)), shop.status)
        response.headers.add("Link", "</a>; rel=next")
        response.headers.add("Link", "</b>; rel=last")
        response.set_cookie("seen", "yes")
        return response

    @app.post("/abort/<int:status>")
    @idempotent(state, **options)
    def refuse(status: int) -> str:
        shop.orders.append("abort")
        abort(status)

    @app.post("/refuse")
    @idempotent(state, **options)
    def refuse_by_handler() -> str:
        shop.orders.append("refuse")
        raise Refused

    @app.post("/break")
    @idempotent(state, **options)
    def break_() -> str:
        shop.orders.append("break")
        raise Broke("halfway")

    @app.post("/nothing")
    @idempotent(state, **options)
    def nothing() -> str:
        shop.orders.append("nothing")
        nothing_happened()
        raise Broke("before anything")

    @app.post("/nothing-503")
    @idempotent(state, **options)
    def nothing_503() -> tuple[str, int]:
        shop.orders.append("nothing")
        nothing_happened()
        return "down", 503

    @app.post("/stream")
    @idempotent(state, **options)
    def stream() -> Response:
        shop.orders.append("stream")

        def lines() -> Iterator[str]:
            for number in range(1000):
                yield f"{number}\n"

        return Response(lines(), mimetype="text/plain")

    @app.post("/large")
    @idempotent(state, **options)
    def large() -> str:
        shop.orders.append("large")
        return "x" * 100_000

    @app.post("/slow")
    @idempotent(state, **options)
    def slow() -> str:
        shop.orders.append("slow")
        shop.entered.set()
        assert shop.go_on.wait(30)
        return f"done {request.headers['Idempotency-Key']}"

    return app


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def pod(state: State, shop: Shop) -> Callable[..., FlaskClient]:
    """A function that makes one more pod; `options` go to `@idempotent`."""

    def make(**options: Any) -> FlaskClient:
        return make_app(state, shop, **{"wait": 0.0, **options}).test_client()

    return make


def test_a_retry_on_another_pod_gets_the_first_answer(pod: Any, shop: Shop) -> None:
    first = pod().post("/orders/pen", headers=KEY)
    second = pod().post("/orders/pen", headers=KEY)
    assert shop.orders == ["pen"]
    assert (second.status_code, second.data) == (first.status_code, first.data) == (201, first.data)
    assert second.json == {"item": "pen", "number": 1}
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers.getlist("Link") == ["</a>; rel=next", "</b>; rel=last"]
    assert "Set-Cookie" in first.headers
    assert "Set-Cookie" not in second.headers


def test_cookies_are_replayed_if_asked_for(pod: Any) -> None:
    client = pod(replay_cookies=True)
    cookie = client.post("/orders/pen", headers=KEY).headers["Set-Cookie"]
    assert client.post("/orders/pen", headers=KEY).headers["Set-Cookie"] == cookie


def test_without_a_key_each_request_counts(pod: Any, shop: Shop) -> None:
    client = pod()
    client.post("/orders/pen")
    client.post("/orders/pen")
    assert shop.orders == ["pen", "pen"]


def test_methods_that_change_nothing_go_through(pod: Any, shop: Shop) -> None:
    client = pod(required=True)
    assert client.get("/orders/pen", headers=KEY).status_code == 201
    assert client.get("/orders/pen").status_code == 201
    assert client.get("/orders/pen", headers=KEY).json["number"] == 3


def test_quoted_and_bare_are_one_key(pod: Any, shop: Shop) -> None:
    client = pod()
    client.post("/orders/pen", headers={"Idempotency-Key": '"abc"'})
    client.post("/orders/pen", headers={"Idempotency-Key": "abc"})
    client.post("/orders/pen", headers={"Idempotency-Key": "abcd"})
    assert shop.orders == ["pen", "pen"]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": '"a'}, {"Idempotency-Key": ""}])
def test_a_required_key_that_is_missing_or_malformed(
    pod: Any, shop: Shop, headers: dict[str, str]
) -> None:
    answer = pod(required=True).post("/orders/pen", headers=headers)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Idempotency-Key" in answer.json["detail"] if answer.json else False
    assert shop.orders == []


@pytest.mark.parametrize(
    "other",
    [
        {"path": "/orders/ink"},
        {"path": "/orders/pen", "json": {"quantity": 2}},
        {"path": "/orders/pen", "query_string": "gift=1"},
    ],
)
def test_a_key_that_came_with_another_request(pod: Any, shop: Shop, other: Any) -> None:
    client = pod()
    client.post("/orders/pen", headers=KEY)
    answer = client.post(headers=KEY, **other)
    assert answer.status_code == 422
    assert answer.json["title"] == "Idempotency key reused"
    assert shop.orders == ["pen"]


def test_another_method_or_route_or_scope_is_another_operation(pod: Any, shop: Shop) -> None:
    client = pod()
    client.post("/orders/pen", headers=KEY)
    client.patch("/orders/pen", headers=KEY)
    client.post("/large", headers=KEY)
    pod(scope="other").post("/orders/pen", headers=KEY)
    assert shop.orders == ["pen", "pen", "large", "pen"]


def test_query_parameters_may_come_in_another_order(pod: Any, shop: Shop) -> None:
    client = pod()
    client.post("/orders/pen?a=1&b=2", headers=KEY)
    assert client.post("/orders/pen?b=2&a=1", headers=KEY).status_code == 201
    assert shop.orders == ["pen"]


def test_nobody_gets_anothers_answer(pod: Any, shop: Shop) -> None:
    client = pod()
    for token in ("alice", "bob", "alice"):
        client.post("/orders/pen", headers={**KEY, "Authorization": f"Bearer {token}"})
    assert shop.orders == ["pen", "pen"]


def test_what_opens_an_account_does_not_reach_the_store(
    state: State, pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    execute = state.store._execute

    def recorded(command: Any) -> Any:
        seen.append(repr(command))
        return execute(command)

    monkeypatch.setattr(state.store, "_execute", recorded)
    pod().post("/orders/pen", headers={**KEY, "Authorization": "Bearer open-sesame"})
    assert len(seen) == 2
    assert "open-sesame" not in "".join(seen)


def test_the_application_may_say_who_asks(pod: Any, shop: Shop) -> None:
    client = pod(principal=lambda: request.headers["X-Account"])
    for account, token in (("a", "old"), ("a", "renewed"), ("b", "old")):
        headers = {"X-Account": account, "Authorization": f"Bearer {token}"}
        client.post("/orders/pen", headers={**KEY, **headers})
    assert shop.orders == ["pen", "pen"]


@pytest.mark.parametrize("status", [200, 204, 303, 400, 404, 410, 422, 500, 503])
def test_answers_that_are_kept(pod: Any, shop: Shop, status: int) -> None:
    shop.status = status
    first = pod().post("/orders/pen", headers=KEY)
    second = pod().post("/orders/pen", headers=KEY)
    assert (first.status_code, first.data) == (second.status_code, second.data)
    assert shop.orders == ["pen"]


@pytest.mark.parametrize("status", [401, 403, 408, 409, 425, 429])
def test_answers_after_which_a_retry_is_a_first_try(pod: Any, shop: Shop, status: int) -> None:
    shop.status = status
    assert pod().post("/orders/pen", headers=KEY).status_code == status
    shop.status = 201
    assert pod().post("/orders/pen", headers=KEY).status_code == 201
    assert shop.orders == ["pen", "pen"]


@pytest.mark.parametrize(("status", "runs"), [(404, 1), (403, 2)])
def test_abort_is_an_answer_too(pod: Any, shop: Shop, status: int, runs: int) -> None:
    for _ in range(2):
        assert pod().post(f"/abort/{status}", headers=KEY).status_code == status
    assert len(shop.orders) == runs


def test_an_exception_that_the_application_handles_is_an_answer(pod: Any, shop: Shop) -> None:
    for _ in range(2):
        answer = pod().post("/refuse", headers=KEY)
        assert (answer.status_code, answer.text) == (400, "refused")
    assert shop.orders == ["refuse"]


def test_a_view_that_breaks_is_not_run_again(pod: Any, shop: Shop) -> None:
    assert pod().post("/break", headers=KEY).status_code == 500
    again = pod().post("/break", headers=KEY)
    assert again.status_code == 500
    assert again.json["title"] == "Failed before"
    assert shop.orders == ["break"]


def test_an_unhandled_exception_reaches_flask(pod: Any) -> None:
    client = pod()
    client.application.testing = True
    with pytest.raises(Broke, match="halfway"):
        client.post("/break", headers=KEY)


@pytest.mark.parametrize("path", ["/nothing", "/nothing-503"])
def test_a_view_that_says_that_nothing_happened_is_run_again(
    pod: Any, shop: Shop, path: str
) -> None:
    assert pod().post(path, headers=KEY).status_code >= 500
    assert pod().post(path, headers=KEY).status_code >= 500
    assert shop.orders == ["nothing", "nothing"]


def test_a_streamed_answer_is_whole_and_not_kept(pod: Any, shop: Shop) -> None:
    whole = "".join(f"{number}\n" for number in range(1000))
    assert pod().post("/stream", headers=KEY).text == whole
    again = pod().post("/stream", headers=KEY)
    assert again.status_code == 409
    assert again.json["title"] == "Answer not kept"
    assert "Retry-After" not in again.headers
    assert shop.orders == ["stream"]


def test_a_large_answer_is_whole_and_not_kept(pod: Any, shop: Shop) -> None:
    assert len(pod().post("/large", headers=KEY).data) == 100_000
    assert pod().post("/large", headers=KEY).status_code == 409
    assert shop.orders == ["large"]
    roomy = pod(scope="roomy", max_body=200_000)
    assert roomy.post("/large", headers=KEY).data == roomy.post("/large", headers=KEY).data
    assert shop.orders == ["large", "large"]


def test_a_request_that_is_too_large_to_compare(pod: Any, shop: Shop) -> None:
    client = pod(max_request=1000)
    assert client.post("/orders/pen", headers=KEY, data=b"x" * 1001).status_code == 413
    assert client.post("/orders/pen", data=b"x" * 1001).status_code == 201
    assert client.post("/orders/pen", headers=KEY, data=b"x" * 1000).status_code == 201
    assert shop.orders == ["pen", "pen"]


def test_a_form_can_be_read_after_it_was_compared(state: State) -> None:
    app = Flask(__name__)

    @app.post("/form")
    @idempotent(state)
    def form() -> str:
        return request.form["a"]

    assert app.test_client().post("/form", headers=KEY, data={"a": "1"}).text == "1"


def test_a_duplicate_while_the_first_is_at_work(pod: Any, shop: Shop) -> None:
    answers: list[Any] = []

    def send() -> None:
        answers.append(pod().post("/slow", headers=KEY))

    first = threading.Thread(target=send)
    first.start()
    assert shop.entered.wait(30)
    busy = pod().post("/slow", headers=KEY)
    assert busy.status_code == 409
    assert busy.json["title"] == "Request in progress"
    assert 1 <= int(busy.headers["Retry-After"]) <= 30
    patient = threading.Thread(
        target=lambda: answers.append(pod(wait=30.0).post("/slow", headers=KEY))
    )
    patient.start()
    shop.go_on.set()
    first.join(30)
    patient.join(30)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].data == answers[1].data
    assert shop.orders == ["slow"]


def test_a_zombie_does_not_overwrite_its_successor(
    state: State, pod: Any, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = []
    zombie = threading.Thread(target=lambda: answers.append(pod().post("/slow", headers=KEY)))
    zombie.start()
    assert shop.entered.wait(30)
    state.store.driver.clock_offset += 31
    shop.go_on.set()
    # Whoever of the two is granted the claim last wins; the other is told.
    successor = pod(wait=30.0).post("/slow", headers=KEY)
    zombie.join(30)
    state.store.driver.clock_offset += 31
    after = pod().post("/slow", headers=KEY)
    assert after.status_code == 200
    assert after.data == successor.data
    assert {answer.status_code for answer in answers} <= {200, 409}


def test_an_answer_is_forgotten_after_its_time(state: State, pod: Any, shop: Shop) -> None:
    client = pod(ttl=100.0)
    client.post("/orders/pen", headers=KEY)
    state.store.driver.clock_offset += 99
    client.post("/orders/pen", headers=KEY)
    assert shop.orders == ["pen"]
    state.store.driver.clock_offset += 2
    client.post("/orders/pen", headers=KEY)
    assert shop.orders == ["pen", "pen"]


def test_the_view_keeps_its_name_and_documentation(pod: Any) -> None:
    view = pod().application.view_functions["order"]
    assert (view.__name__, view.__doc__) == ("order", "Order an item.")
