"""The shop's own tests, as its developer writes them: with Flask's test client, in one process.

They pass on both twins. `test_prove_recorded.py` runs them with `--anypod-record`, and proves what came.
"""

from __future__ import annotations

import importlib
import os

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse


@pytest.fixture
def client() -> FlaskClient:
    app = importlib.import_module(f"anypod.demo.{os.environ['SHOP']}").app
    return app.test_client()


def put_item(client: FlaskClient, name: str, price: int, stock: int) -> TestResponse:
    body = {"name": name, "price_cents": price, "stock": stock}
    return client.put(f"/data/{name}", json=body)


def login(client: FlaskClient, user: str) -> dict[str, str]:
    answer = client.post("/login", json={"user": user, "password": f"{user}-secret"})
    return {"Authorization": f"Bearer {answer.json['session_id']}"}


def test_a_sum(client: FlaskClient) -> None:
    assert client.post("/add", json={"a": 2, "b": 40}).json == {"result": 42}
    assert client.post("/add", json={"a": "two"}).status_code == 400


def test_a_new_price(client: FlaskClient) -> None:
    for price in (4900, 3900):
        assert put_item(client, "lamp", price, 10).status_code == 200
        assert client.get("/data/lamp").json["price_cents"] == price


def test_an_order_that_is_cancelled(client: FlaskClient) -> None:
    put_item(client, "mug", 1250, 20)
    assert client.get("/data/mug").json["stock"] == 20
    key = {"Idempotency-Key": '"b7c5f1de-0d1c-4b21-8f6e-2f4f6a3d9e10"'}
    body = {"item_id": "mug", "quantity": 2}
    number = client.post("/orders", json=body, headers=key).json["order_id"]
    assert client.get("/data/mug").json["stock"] == 18
    assert client.get(f"/orders/{number}").json["status"] == "placed"
    key = {"Idempotency-Key": '"0c0f5f0a-6f0e-4a39-9d1c-0c8a3f3c2b11"'}
    assert client.post(f"/orders/{number}/cancel", headers=key).json["status"] == "cancelled"
    assert client.get(f"/orders/{number}").json["refunded_cents"] == 2500


def test_a_counter(client: FlaskClient) -> None:
    first = client.post("/increment", json={"counter": "downloads"}).json["value"]
    assert client.post("/increment", json={"counter": "downloads"}).json["value"] == first + 1


def test_a_page_that_counts_its_visits(client: FlaskClient) -> None:
    first = client.get("/counter").json["count"]
    assert client.get("/counter").json["count"] == first + 1


def test_a_new_rate(client: FlaskClient) -> None:
    for rate in (0.92, 0.95):
        assert client.put("/rates/EUR", json={"rate": rate}).status_code == 200
        assert client.get("/rates/EUR").json["rate"] == rate


def test_two_sessions(client: FlaskClient) -> None:
    alice, bob = login(client, "alice"), login(client, "bob")
    assert client.get("/me", headers=alice).json["user_id"] == "alice"
    assert client.get("/me", headers=bob).json["user_id"] == "bob"
    assert client.post("/logout", headers=alice).status_code == 200
    assert client.get("/me", headers=alice).status_code == 401
    assert client.get("/me", headers=bob).status_code == 200
