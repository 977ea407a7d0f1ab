"""Both twins give the same answers while there is one pod, and refuse bad input with a reason."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

TWINS = ("broken", "fixed")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module", params=TWINS)
def pod(request: pytest.FixtureRequest, start_pods: Any) -> Any:
    return start_pods(request.param, 1)[0]


def put_item(pod: Any, stock: int = 10) -> str:
    item = uuid.uuid4().hex
    body = {"name": "Lamp", "price_cents": 1250, "stock": stock}
    assert pod.request("PUT", f"/data/{item}", body) == (200, {"id": item, **body})
    return item


def login(pod: Any, user: str = "alice") -> dict[str, str]:
    status, answer = pod.request("POST", "/login", {"user": user, "password": f"{user}-secret"})
    assert status == 200
    assert set(answer) == {"session_id"}
    return {"Authorization": f"Bearer {answer['session_id']}"}


def test_add(pod: Any) -> None:
    assert pod.request("POST", "/add", {"a": 2, "b": 40}) == (200, {"result": 42})
    assert pod.request("POST", "/add", {"b": 0.5}) == (200, {"result": 0.5})
    assert pod.request("POST", "/add", {}) == (200, {"result": 0})


def test_order_and_cancel(pod: Any) -> None:
    item = put_item(pod)
    status, order = pod.request("POST", "/orders", {"item_id": item, "quantity": 2})
    assert status == 201
    order_id = order["order_id"]
    assert order == {
        "order_id": order_id,
        "item_id": item,
        "quantity": 2,
        "total_cents": 2500,
        "status": "placed",
    }
    assert pod.request("GET", f"/data/{item}")[1]["stock"] == 8
    cancelled = (200, {"status": "cancelled", "order_id": order_id})
    assert pod.request("POST", f"/orders/{order_id}/cancel") == cancelled
    assert pod.request("GET", f"/orders/{order_id}") == (
        200,
        {**order, "status": "cancelled", "refunded_cents": 2500},
    )


def test_counters(pod: Any) -> None:
    name = uuid.uuid4().hex
    for value in (1, 2, 3):
        assert pod.request("POST", "/increment", {"counter": name}) == (
            200,
            {"counter": name, "value": value},
        )
    assert pod.request("POST", "/increment", {})[1]["counter"] == "default"
    first = pod.request("GET", "/counter")[1]["count"]
    assert pod.request("GET", "/counter") == (200, {"count": first + 1})


def test_data_and_rates_follow_a_write(pod: Any) -> None:
    item = put_item(pod, stock=1)
    assert pod.request("GET", f"/data/{item}")[1]["stock"] == 1
    pod.request("PUT", f"/data/{item}", {"name": "Lamp", "price_cents": 1, "stock": 2})
    assert pod.request("GET", f"/data/{item}")[1]["stock"] == 2
    for rate in (0.5, 0.75):
        answer = (200, {"currency": item, "rate": rate})
        assert pod.request("PUT", f"/rates/{item}", {"rate": rate}) == answer
        assert pod.request("GET", f"/rates/{item}") == answer


def test_sessions_are_apart_and_end(pod: Any) -> None:
    alice, bob = login(pod, "alice"), login(pod, "bob")
    status, me = pod.request("GET", "/me", headers=alice)
    assert (status, me["user_id"]) == (200, "alice")
    assert pod.request("GET", "/me", headers=alice) == (200, me)
    assert pod.request("POST", "/logout", headers=alice) == (200, {"status": "logged out"})
    assert pod.request("GET", "/me", headers=alice)[0] == 401
    assert pod.request("POST", "/logout", headers=alice)[0] == 401
    assert pod.request("GET", "/me", headers=bob)[1]["user_id"] == "bob"


BAD = [
    ("POST", "/add", b"{", JSON, 400),
    ("POST", "/add", b"", JSON, 400),
    ("POST", "/add", b"[1, 2]", JSON, 400),
    ("POST", "/add", b"null", JSON, 400),
    ("POST", "/add", b"[" * 16_000, JSON, 400),
    ("POST", "/add", b"\xff\xfe", JSON, 400),
    ("POST", "/add", b'{"a": NaN}', JSON, 400),
    ("POST", "/add", b'{"a": 1e999}', JSON, 400),
    ("POST", "/add", b'{"a": 1' + b"0" * 400 + b"}", JSON, 400),
    ("POST", "/add", b'{"a": 1' + b"0" * 5000 + b"}", JSON, 400),
    ("POST", "/add", b'{"a": "2"}', JSON, 400),
    ("POST", "/add", b'{"a": true}', JSON, 400),
    ("POST", "/add", b'{"a": null}', JSON, 400),
    ("POST", "/add", b"a=1", {"Content-Type": "text/plain"}, 415),
    ("POST", "/add", b" " * 20_000, JSON, 413),
    ("GET", "/add", None, {}, 405),
    ("GET", "/nowhere", None, {}, 404),
    ("POST", "/orders", b'{"item_id": "none-such", "quantity": 1}', JSON, 404),
    ("POST", "/orders", b'{"item_id": 7, "quantity": 1}', JSON, 400),
    ("POST", "/orders", b'{"item_id": "\\u0000", "quantity": 1}', JSON, 400),
    ("POST", "/orders", b'{"item_id": "lamp", "quantity": 0}', JSON, 400),
    ("POST", "/orders", b'{"item_id": "lamp", "quantity": 1.0}', JSON, 400),
    ("GET", "/orders/none-such", None, {}, 404),
    ("GET", "/orders/%00", None, {}, 400),
    ("POST", "/orders/none-such/cancel", None, {}, 404),
    ("POST", "/orders/a%20b/cancel", None, {}, 400),
    ("POST", "/increment", b'{"counter": ["a"]}', JSON, 400),
    ("POST", "/increment", b'{"counter": ""}', JSON, 400),
    ("GET", "/data/none-such", None, {}, 404),
    ("GET", "/data/%F0%9F%92%A3", None, {}, 400),
    ("PUT", "/data/lamp", b'{"name": "", "price_cents": 1, "stock": 1}', JSON, 400),
    ("PUT", "/data/lamp", b'{"name": "\\ud800", "price_cents": 1, "stock": 1}', JSON, 400),
    ("PUT", "/data/lamp", b'{"name": "Lamp", "price_cents": -1, "stock": 1}', JSON, 400),
    ("PUT", "/data/lamp", b'{"name": "Lamp", "price_cents": 1}', JSON, 400),
    ("GET", "/rates/none-such", None, {}, 404),
    ("PUT", "/rates/EUR", b'{"rate": 0}', JSON, 400),
    ("PUT", "/rates/EUR", b'{"rate": -1}', JSON, 400),
    ("PUT", "/rates/EUR", b"{}", JSON, 400),
    ("POST", "/login", b'{"user": "alice", "password": "wrong"}', JSON, 401),
    ("POST", "/login", b'{"user": "nobody", "password": "alice-secret"}', JSON, 401),
    ("POST", "/login", b'{"user": "alice"}', JSON, 400),
    ("GET", "/me", None, {}, 401),
    ("GET", "/me", None, {"Authorization": "Bearer"}, 401),
    ("GET", "/me", None, {"Authorization": "Bearer made-up.made-up"}, 401),
    ("GET", "/me", None, {"Authorization": "Basic YWxpY2U6YWxpY2U="}, 401),
    ("POST", "/logout", None, {}, 401),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    BAD,
    ids=[f"{m} {p} {(b or b'')[:24]!r} {s}" for m, p, b, _, s in BAD],
)
def test_bad_input_has_a_reason(
    pod: Any, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    got, answer = pod.request(method, path, body, headers)
    assert got == status, answer
    assert set(answer) == {"error"}
    assert len(answer["error"]) > 10


def test_out_of_stock(pod: Any) -> None:
    item = put_item(pod, stock=3)
    status, answer = pod.request("POST", "/orders", {"item_id": item, "quantity": 4})
    assert status == 409
    assert item in answer["error"]
    assert pod.request("GET", f"/data/{item}")[1]["stock"] == 3
