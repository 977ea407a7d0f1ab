"""Two pods get the same cancellation at the same moment, 200 times: the money goes back once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

ROUNDS = 200


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    return str(request.getfixturevalue("postgres_url"))


def refunds_per_order(url: str) -> Counter[str]:
    address = make_url(url)
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")
    engine = create_engine(address)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT order_id FROM shop_refunds")).scalars().all()
    engine.dispose()
    return Counter(rows)


def place_orders(pod: Any) -> list[str]:
    item = {"name": "Mug", "price_cents": 1250, "stock": ROUNDS}
    assert pod.request("PUT", "/data/mug", item)[0] == 200
    orders = []
    for _ in range(ROUNDS):
        status, order = pod.request("POST", "/orders", {"item_id": "mug", "quantity": 1})
        assert status == 201
        orders.append(order["order_id"])
    return orders


def cancel_on_every_pod_at_once(pods: list[Any], orders: list[str]) -> list[tuple[int, Any]]:
    together = threading.Barrier(len(pods), timeout=60)
    answers: list[tuple[int, Any]] = []

    def cancel(pod: Any) -> None:
        for order_id in orders:
            together.wait()
            answers.append(pod.request("POST", f"/orders/{order_id}/cancel"))

    threads = [threading.Thread(target=cancel, args=(pod,)) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_one_refund_each(start_pods: Callable[..., list[Any]], database_url: str) -> None:
    pods = start_pods("fixed", 2, DATABASE_URL=database_url)
    orders = place_orders(pods[0])
    answers = cancel_on_every_pod_at_once(pods, orders)
    assert len(answers) == 2 * ROUNDS
    assert {status for status, _ in answers} == {200}
    assert {answer["status"] for _, answer in answers} == {"cancelled"}
    assert refunds_per_order(database_url) == dict.fromkeys(orders, 1)
    # A retry that comes late, on any pod, finds it done too.
    for pod in pods:
        pod.request("POST", f"/orders/{orders[0]}/cancel")
    _, order = pods[0].request("GET", f"/orders/{orders[0]}")
    assert (order["status"], order["refunded_cents"]) == ("cancelled", 1250)
    assert refunds_per_order(database_url)[orders[0]] == 1


def test_the_broken_twin_pays_twice(start_pods: Callable[..., list[Any]], tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    pods = start_pods("broken", 2, DATABASE_URL=url)
    orders = place_orders(pods[0])[:5]
    cancel_on_every_pod_at_once(pods, orders)
    assert refunds_per_order(url) == dict.fromkeys(orders, 2)
