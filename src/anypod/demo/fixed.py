"""The shop, written so that any pod can answer: compare with `broken.py`.

What every pod must see alike is in the database or in the store that the environment names
(`REDIS_HOST` and `REDIS_PORT`, `REDIS_URL` or `ANYPOD_URL`; on a developer's machine an embedded file).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from flask import Blueprint, Flask, Response, abort, jsonify
from sqlalchemy import update

from anypod import LocalCache, State
from anypod.demo import database, inputs
from anypod.demo.database import Order, Refund, transaction
from anypod.demo.users import authenticate
from anypod.web.flask import idempotent

shop = Blueprint("shop", __name__)

state = State.from_env()
request_count = state.counter("request_count")
counters = state.counter("counters")
cache = state.cache("data", ttl=300.0)
rates = LocalCache("rates", ttl=300.0)
sessions = state.session("session")


# --- stateless: all that the answer needs is in the request


@shop.post("/add")
def add_numbers() -> Response:
    """Add two numbers."""
    body = inputs.json_body()
    return jsonify(result=inputs.number(body, "a", 0) + inputs.number(body, "b", 0))


# --- idempotent: the same request twice has the effect of one


@shop.post("/orders")
@idempotent(state)
def place_order() -> tuple[Response, int]:
    """Order some of an item."""
    body = inputs.json_body()
    item_id = inputs.identifier(body.get("item_id"), "item_id")
    order = database.place_order(item_id, inputs.whole(body, "quantity", least=1, most=1000))
    cache.invalidate(item_id)
    return jsonify(order), 201


@shop.get("/orders/<order_id>")
def get_order(order_id: str) -> Response:
    """The order, and what was refunded for it."""
    return jsonify(database.fetch_order(inputs.identifier(order_id, "order_id")))


@shop.post("/orders/<order_id>/cancel")
def cancel_order(order_id: str) -> Response:
    """Cancel an order and give the money back."""
    inputs.identifier(order_id, "order_id")
    with transaction() as session:
        # Of all the requests that may come, on whichever pods, the database lets one change the row.
        refund = session.scalar(
            update(Order)
            .where(Order.id == order_id, Order.status != "cancelled")
            .values(status="cancelled")
            .returning(Order.total_cents)
        )
        if refund is not None:
            # The order's id is the refund's too: the database would refuse a second one.
            session.add(Refund(id=order_id, order_id=order_id, cents=refund))
        elif session.get(Order, order_id) is None:
            raise database.UnknownIdError(f"there is no order {order_id!r}")
    return jsonify(status="cancelled", order_id=order_id)


# --- shared state: every pod counts with the same numbers


@shop.post("/increment")
def increment_counter() -> Response:
    """Add one to a counter of the client's choice."""
    name = inputs.identifier(inputs.json_body().get("counter", "default"), "counter")
    return jsonify(counter=name, value=counters.increment(name))


@shop.get("/counter")
def counter() -> Response:
    """How often this page was asked for."""
    return jsonify(count=request_count.increment())


# --- shared cache: a write is seen by every pod at once


@shop.get("/data/<id>")
def get_data(id: str) -> Response:  # noqa: A002  # the name that the URL has
    """An item, from the cache if it is there."""
    inputs.identifier(id, "id")
    return jsonify(cache.get_or_load(id, lambda: database.fetch_item(id)))


@shop.put("/data/<id>")
def put_data(id: str) -> Response:  # noqa: A002  # the name that the URL has
    """Write an item."""
    body = inputs.json_body()
    database.store_item(
        inputs.identifier(id, "id"),
        inputs.text(body, "name"),
        inputs.whole(body, "price_cents", least=0, most=100_000_000),
        inputs.whole(body, "stock", least=0, most=1_000_000),
    )
    cache.invalidate(id)
    return jsonify(database.fetch_item(id))


# --- local cache: a copy may be old, but not older than it says


def get_with_cache(key: str, fetcher: Callable[[], float]) -> float:
    """The value under this key, fetched if this pod has no copy or one that is too old."""
    return rates.get_or_load(key, fetcher)


@shop.get("/rates/<currency>")
def get_rate(currency: str) -> Response:
    """An exchange rate."""
    inputs.identifier(currency, "currency")
    rate = get_with_cache(currency, lambda: database.fetch_rate(currency))
    return jsonify(currency=currency, rate=rate)


@shop.put("/rates/<currency>")
def put_rate(currency: str) -> Response:
    """Write an exchange rate."""
    rate = inputs.number(inputs.json_body(), "rate", 0)
    if rate <= 0:
        inputs.refuse("'rate' must be greater than 0")
    database.store_rate(inputs.identifier(currency, "currency"), float(rate))
    rates.invalidate(currency)
    return jsonify(currency=currency, rate=float(rate))


# --- sessions: who logged in on one pod is known on every pod


@shop.post("/login")
def login() -> tuple[Response, int]:
    """Begin a session; its id goes into `Authorization: Bearer` from here on."""
    body = inputs.json_body()
    user_id = authenticate(inputs.text(body, "user"), inputs.text(body, "password"))
    if user_id is None:
        return jsonify(error="Authentication failed"), 401
    session = sessions.create(
        user=user_id, user_id=user_id, logged_in_at=datetime.now(UTC).isoformat()
    )
    return jsonify(session_id=session.id), 200


@shop.get("/me")
def me() -> Response:
    """Who is logged in."""
    session = sessions.load(inputs.bearer_token())
    if session is None:
        abort(401, description="log in first: POST /login")
    return jsonify(user_id=session["user_id"], logged_in_at=session["logged_in_at"])


@shop.post("/logout")
def logout() -> Response:
    """End the session."""
    session = sessions.load(inputs.bearer_token())
    if session is None:
        abort(401, description="log in first: POST /login")
    session.end()
    return jsonify(status="logged out")


def create_app() -> Flask:
    """The application, for a server that takes a factory."""
    app = Flask(__name__)
    app.register_blueprint(shop)
    inputs.explain_refusals(app)
    return app


app = create_app()
