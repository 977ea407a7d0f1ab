"""A MySQL database that a proof puts back, on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from anypod.replicas import CannotReset, Outside


def connect(url: str, user: str = "root") -> Any:
    place = urlsplit(url)
    return pymysql.connect(
        host=place.hostname,
        port=place.port or 0,
        user=user,
        database=place.path[1:],
        autocommit=True,
    )


def do(url: str, *statements: str) -> list[Any]:
    """The rows of the last one."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


@pytest.fixture
def shop(new_mysql_url: Callable[[], str]) -> Iterator[str]:
    url = new_mysql_url()
    do(
        url,
        "CREATE TABLE items (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(20) UNIQUE)",
        "INSERT INTO items (name) VALUES ('lamp'), ('mug')",
        "CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, item INT NOT NULL, pieces INT, "
        "twice INT AS (pieces * 2) STORED, FOREIGN KEY (item) REFERENCES items (id) ON DELETE CASCADE)",
        "CREATE TABLE `it``s empty` (id INT AUTO_INCREMENT PRIMARY KEY)",
        "CREATE TABLE log (text VARCHAR(40), n INT) COMMENT 'it has no key, AUTO_INCREMENT=7 is a text'",
        "INSERT INTO orders (item, pieces) VALUES (1, 3)",
        "CREATE TRIGGER noted AFTER INSERT ON orders FOR EACH ROW INSERT INTO log VALUES ('100% new', NEW.id)",
        "CREATE VIEW names AS SELECT name FROM items",
    )
    before = state(url)
    yield url
    assert state(url) == before
    assert do(url, "SHOW DATABASES LIKE 'anypod_kept_%'") == []


def state(url: str) -> dict[str, Any]:
    tables = [row[0] for row in do(url, "SHOW TABLES")]
    quoted = [f"`{name.replace('`', '``')}`" for name in tables]
    return {
        "made": [do(url, f"SHOW CREATE TABLE {name}")[0][1] for name in quoted],
        "rows": [do(url, f"SELECT * FROM {name} ORDER BY 1") for name in quoted],
        "triggers": do(url, "SHOW CREATE TRIGGER noted")[0][:3],
    }


def test_each_run_gets_the_database_again_and_its_owner_at_the_end(shop: str, root: Path) -> None:
    with Outside([shop], root=root) as outside:
        for _ in range(3):
            outside.put_back()
            assert do(shop, "SELECT id, item, pieces, twice FROM orders") == [(1, 1, 3, 6)]
            assert do(shop, "SELECT * FROM log") == [], "putting back makes no trigger run"
            do(
                shop,
                "INSERT INTO orders (item, pieces) VALUES (2, 1)",
                "INSERT INTO `it``s empty` VALUES ()",
                "UPDATE items SET name = 'cup' WHERE id = 2",
                "CREATE TABLE more (id INT)",
                "CREATE VIEW fewer AS SELECT 1",
                "CREATE OR REPLACE VIEW names AS SELECT 2",
            )
            assert do(shop, "SELECT MAX(id) FROM orders") == [(2,)]
            assert do(shop, "SELECT * FROM `it``s empty`") == [(1,)]
            assert do(shop, "SELECT * FROM log") == [("100% new", 2)]


def test_tables_that_were_dropped_emptied_or_altered_come_back(shop: str, root: Path) -> None:
    with Outside([shop], root=root) as outside:
        for statements in (
            ["ALTER TABLE items ADD COLUMN price INT", "DROP TRIGGER noted"],
            ["DROP TABLE orders", "DROP TABLE items", "DROP VIEW names"],
            ["DELETE FROM items"],  # and the orders with them
            ["TRUNCATE `it``s empty`", "ALTER TABLE items AUTO_INCREMENT = 50"],
        ):
            outside.put_back()
            do(shop, *statements)


def test_connections_and_what_they_lock_are_ended(shop: str, root: Path) -> None:
    with Outside([shop], root=root) as outside:
        outside.put_back()
        for _ in range(2):
            with closing(connect(shop)) as idle, closing(connect(shop)) as busy:
                busy.cursor().execute("LOCK TABLES items WRITE, orders WRITE")
                busy.cursor().execute("DELETE FROM orders")
                outside.put_back()
                for connection in (idle, busy):
                    with pytest.raises(pymysql.Error):
                        connection.cursor().execute("SELECT 1")


def test_what_a_killed_proof_kept_is_not_overwritten(shop: str, root: Path) -> None:
    first = Outside([shop], root=root)
    first.put_back()
    do(shop, "DELETE FROM orders")
    with pytest.raises(CannotReset, match=r"kept the state in the database .*mysqldump"):
        Outside([shop], root=root).put_back()
    first.close()  # as nobody would have


def test_a_copy_that_was_not_completed_is_no_state(shop: str, root: Path) -> None:
    do(shop, f"CREATE DATABASE anypod_kept_{urlsplit(shop).path[1:]}")
    with Outside([shop], root=root) as outside:
        outside.put_back()


def test_what_a_copy_would_not_keep_is_refused(
    new_mysql_url: Callable[[], str], root: Path
) -> None:
    url = new_mysql_url()
    if "MariaDB" not in do(url, "SELECT VERSION()")[0][0]:
        pytest.skip("only MariaDB has sequences")
    do(url, "CREATE SEQUENCE numbers")
    with pytest.raises(CannotReset, match=r'"numbers" is a sequence.*a command do it'):
        Outside([url], root=root).put_back()


def test_a_database_that_is_not_there(shop: str, root: Path) -> None:
    with pytest.raises(CannotReset, match='has no database "nowhere"'):
        Outside([shop.rpartition("/")[0] + "/nowhere"], root=root).put_back()


def test_a_user_who_may_not_is_told(shop: str, root: Path) -> None:
    name = urlsplit(shop).path[1:]
    do(
        shop,
        "CREATE USER IF NOT EXISTS guest@'127.0.0.1'",
        f"GRANT ALL ON {name}.* TO guest@'127.0.0.1'",
    )
    with pytest.raises(CannotReset, match="needs a user who may create databases"):
        Outside([shop.replace("root@", "guest@")], root=root).put_back()
