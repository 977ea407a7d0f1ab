"""The shop's database: orders, refunds, items and exchange rates, through SQLAlchemy.

Both twins use it, so a difference between them is never the database's. Importing this module opens
nothing: a server that forks its workers hands no connection down, and the tables are made by the
first connection of each process, under a lock, because several replicas may start at once.

`DATABASE_URL` names it (`sqlite:///…`, `postgresql://…`); without one it is an SQLite file at a
fixed place in the home directory.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    URL,
    BigInteger,
    Engine,
    ForeignKey,
    create_engine,
    event,
    func,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateTable

from anypod.errors import MissingExtra

_SCHEMA_LOCK = 0x616E79706F64  # "anypod": any number that only this shop uses


class Base(DeclarativeBase):
    """What the shop's tables have in common: 32 bits are not enough for an order's cents."""

    type_annotation_map = {int: BigInteger}


class Item(Base):
    """Something on sale. Prices are whole cents."""

    __tablename__ = "shop_items"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    price_cents: Mapped[int]
    stock: Mapped[int]


class Rate(Base):
    """What one unit of the shop's currency buys of another."""

    __tablename__ = "shop_rates"

    currency: Mapped[str] = mapped_column(primary_key=True)
    rate: Mapped[float]


class Order(Base):
    """An order: `placed`, later perhaps `cancelled`."""

    __tablename__ = "shop_orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[str]
    quantity: Mapped[int]
    total_cents: Mapped[int]
    status: Mapped[str]


class Refund(Base):
    """Money given back. Its primary key is the caller's to choose, and there lies the difference."""

    __tablename__ = "shop_refunds"

    id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("shop_orders.id"), index=True)
    cents: Mapped[int]


class UnknownIdError(LookupError):
    """There is no such row; the message says of what kind and which id was asked for."""


class OutOfStockError(Exception):
    """The item exists, but not as many of it as were ordered."""


def database_url() -> URL:
    """The database that the environment names, else the fixed file in the home directory."""
    text = os.environ.get("DATABASE_URL")
    if not text:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        (state / "anypod").mkdir(parents=True, exist_ok=True)
        return URL.create("sqlite", database=str(state / "anypod" / "shop.db"))
    url = make_url(text)
    if url.drivername in {"postgres", "postgresql"}:
        # SQLAlchemy's own default for this scheme is psycopg 2.
        url = url.set(drivername="postgresql+psycopg")
    return url


def open_engine(url: URL) -> Engine:
    """The engine for a database; nothing is connected yet."""
    # SQLite: how long a writer waits for another one, in seconds.
    options = {"timeout": 30.0} if url.get_backend_name() == "sqlite" else {}
    try:
        return create_engine(url, connect_args=options)
    except ModuleNotFoundError as missing:
        if missing.name != "psycopg":
            raise
        raise MissingExtra("DATABASE_URL=postgresql://…", "postgres") from missing


engine = open_engine(database_url())
_CREATE_TABLES = tuple(
    str(CreateTable(table, if_not_exists=True).compile(dialect=engine.dialect))
    for table in Base.metadata.sorted_tables
)
os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))


@event.listens_for(engine, "first_connect")
def create_tables(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    """Make the tables that are missing, one process at a time.

    `IF NOT EXISTS` alone is not enough: on PostgreSQL two processes that both find a table missing
    both try to make it, and one of them fails.
    """
    cursor = connection.cursor()
    if engine.dialect.name == "postgresql":
        cursor.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
    else:
        cursor.execute("BEGIN IMMEDIATE")
    for statement in _CREATE_TABLES:
        cursor.execute(statement)
    connection.commit()
    cursor.close()


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end of the block, or undone if the block raises."""
    with Session(engine) as session, session.begin():
        yield session


def _upsert(session: Session, table: type[Base], **values: object) -> None:
    """Write the row, new or not, in one statement: look-then-insert fails when two do it at once."""
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(**values)
    keys = [column.name for column in table.__table__.primary_key]
    session.execute(statement.on_conflict_do_update(index_elements=keys, set_=values))


def fetch_item(item_id: str) -> dict[str, object]:
    """The item as the shop shows it; `UnknownIdError` if there is none."""
    with transaction() as session:
        item = session.get(Item, item_id)
        if item is None:
            raise UnknownIdError(f"there is no item {item_id!r}")
        return {
            "id": item.id,
            "name": item.name,
            "price_cents": item.price_cents,
            "stock": item.stock,
        }


def store_item(item_id: str, name: str, price_cents: int, stock: int) -> None:
    """Write an item, new or not."""
    with transaction() as session:
        _upsert(session, Item, id=item_id, name=name, price_cents=price_cents, stock=stock)


def fetch_rate(currency: str) -> float:
    """The exchange rate of a currency; `UnknownIdError` if there is none."""
    with transaction() as session:
        rate = session.get(Rate, currency)
        if rate is None:
            raise UnknownIdError(f"there is no rate for {currency!r}")
        return rate.rate


def store_rate(currency: str, rate: float) -> None:
    """Write an exchange rate, new or not."""
    with transaction() as session:
        _upsert(session, Rate, currency=currency, rate=rate)


def place_order(item_id: str, quantity: int) -> dict[str, object]:
    """Take the goods off the shelf and write the order, both or neither.

    Raises `UnknownIdError` without such an item and `OutOfStockError` when there are not enough of it.
    """
    with transaction() as session:
        price = session.scalar(
            update(Item)
            .where(Item.id == item_id, Item.stock >= quantity)
            .values(stock=Item.stock - quantity)
            .returning(Item.price_cents)
        )
        if price is None:
            if session.get(Item, item_id) is None:
                raise UnknownIdError(f"there is no item {item_id!r}")
            raise OutOfStockError(f"fewer than {quantity} of {item_id!r} are left; order less")
        order = Order(
            id=str(uuid.uuid4()),
            item_id=item_id,
            quantity=quantity,
            total_cents=price * quantity,
            status="placed",
        )
        session.add(order)
        return {
            "order_id": order.id,
            "item_id": item_id,
            "quantity": quantity,
            "total_cents": order.total_cents,
            "status": order.status,
        }


def fetch_order(order_id: str) -> dict[str, object]:
    """The order and what was refunded for it; `UnknownIdError` if there is none."""
    refunded = select(func.coalesce(func.sum(Refund.cents), 0)).where(Refund.order_id == order_id)
    with transaction() as session:
        # One statement, so that the two halves of the answer are of one moment.
        row = session.execute(
            select(Order, refunded.scalar_subquery()).where(Order.id == order_id)
        ).one_or_none()
        if row is None:
            raise UnknownIdError(f"there is no order {order_id!r}")
        order, refunded_cents = row
        return {
            "order_id": order.id,
            "item_id": order.item_id,
            "quantity": order.quantity,
            "total_cents": order.total_cents,
            "status": order.status,
            "refunded_cents": int(refunded_cents),
        }
