"""What a request changed in its process is found, and named as the code names it."""

from __future__ import annotations

import os
import textwrap

import pytest

HEAD = """
from __future__ import annotations
import collections, dataclasses, datetime, functools, itertools, logging, threading, uuid
from flask import Flask, jsonify
app = Flask(__name__)
"""

# name of the case → (source at module level, body of the handler, kind, name, after)
PLACES = {
    "rebound global": ("hits_NAME = 0", "global hits_NAME; hits_NAME += 1", "global", "hits_NAME", "1"),
    "dict": ("NAME = {}", "NAME['k'] = 1", "global", "NAME", "{'k': 1}"),
    "nested": ("NAME = {'a': [{'b': set()}]}", "NAME['a'][0]['b'].add(7)", "global", "NAME", "{'a': [{'b': {7}}]}"),
    "list element": ("NAME = [0, 1]", "NAME[0] = 5", "global", "NAME", "[5, 1]"),
    "deque": ("NAME = collections.deque(maxlen=3)", "NAME.append(1)", "global", "NAME", "[1]"),
    "defaultdict": ("NAME = collections.defaultdict(int)", "NAME['k'] += 2", "global", "NAME", "{'k': 2}"),
    "counter of itertools": ("NAME = itertools.count(1)", "next(NAME)", "global", "NAME", "count(2)"),
    "class attribute": ("class NAME:\n    total = 0", "NAME.total += 1", "class attribute", "NAME.total", "1"),
    "class dict": ("class NAME:\n    items = {}", "NAME.items['k'] = 1", "class attribute", "NAME.items", "{'k': 1}"),
    "nested class": ("class A:\n    class NAME:\n        n = 0", "A.NAME.n += 1", "class attribute", "A.NAME.n", "1"),
    "instance": (
        "class Store:\n    def __init__(self):\n        self.items = {}\nNAME = Store()",
        "NAME.items['k'] = 1", "global", "NAME.items", "{'k': 1}",
    ),
    "slots": (
        "class Store:\n    __slots__ = ('n',)\n    def __init__(self):\n        self.n = 0\nNAME = Store()",
        "NAME.n += 1", "global", "NAME.n", "1",
    ),
    "dataclass": (
        "@dataclasses.dataclass\nclass Box:\n    n: int = 0\nNAME = Box()",
        "NAME.n += 1", "global", "NAME.n", "1",
    ),
    "objects in a dict": (
        "@dataclasses.dataclass\nclass Box:\n    n: int = 0\nNAME = {'b': Box()}",
        "NAME['b'].n += 1", "global", "NAME", "{'b': Box(n=1)}",
    ),
    "dict of a subclass": ("class D(dict): pass\nNAME = D()", "NAME['k'] = 1", "global", "NAME", "{'k': 1}"),
    "closure": (
        "def make():\n    NAME = {}\n    def put():\n        NAME['k'] = 1\n    return put\nput = make()",
        "put()", "closure", "make.NAME", "{'k': 1}",
    ),
    "nonlocal": (
        "def make():\n    NAME = 0\n    def put():\n        nonlocal NAME\n        NAME += 1\n    return put\nput = make()",
        "put()", "closure", "make.NAME", "1",
    ),
    "default argument": ("def put(NAME=[]):\n    NAME.append(1)", "put()", "default", "put(NAME)", "[1]"),
    "keyword default": ("def put(*, NAME={}):\n    NAME['k'] = 1", "put()", "default", "put(NAME)", "{'k': 1}"),
    "function attribute": ("def put(): ...\nput.NAME = 0", "put.NAME += 1", "default", "put.NAME", "1"),
    "lru_cache": (
        "@functools.lru_cache\ndef NAME(x):\n    return x", "NAME(1)", "cache", "NAME", "1 entries, 1 misses",
    ),
    "lru_cache of a method": (
        "class A:\n    @staticmethod\n    @functools.cache\n    def NAME(x):\n        return x",
        "A.NAME(1)", "cache", "A.NAME", "1 entries, 1 misses",
    ),
    "cached property": (
        "class A:\n    @functools.cached_property\n    def NAME(self):\n        return 5\na = A()",
        "a.NAME", "global", "a.NAME", "5",
    ),
    "on the application": ("app.NAME = 0", "app.NAME += 1", "global", "app.NAME", "1"),
    "in the configuration": (
        "app.config['NAME'] = 0", "app.config['NAME'] += 1", "global", "app.config['NAME']", "1",
    ),
    "among the extensions": (
        "app.extensions['NAME'] = {}", "app.extensions['NAME']['k'] = 1", "global", "app.extensions['NAME']", "{'k': 1}",
    ),
    "cachetools": (
        "import cachetools\nNAME = cachetools.TTLCache(10, 60)", "NAME['k'] = 1", "global", "NAME", "TTLCache({'k': 1})",
    ),
    "cachetools decorator": (
        "import cachetools\n@cachetools.cached(cache={})\ndef NAME(x):\n    return x",
        "NAME(1)", "global", "NAME.cache", None,
    ),
    "own wrapper": (
        ("def memo(function):\n    NAME = {}\n    @functools.wraps(function)\n    def inner(x):\n"
        "        return NAME.setdefault(x, function(x))\n    return inner\n@memo\ndef twice(x):\n    return 2 * x"),
        "twice(2)", "closure", "twice.NAME", "{2: 4}",
    ),
    "new global": ("", "global NAME; NAME = 3", "global", "NAME", "3"),
    "middleware": (
        ("class NAME:\n    def __init__(self, app):\n        self.app = app\n        self.seen = 0\n"
        "    def __call__(self, environ, start_response):\n        self.seen += 1\n"
        "        return self.app(environ, start_response)\napp.wsgi_app = NAME(app.wsgi_app)"),
        "pass", "global", "NAME.seen", "1",
    ),
    "middleware that holds the application too": (
        ("class NAME:\n    def __init__(self, app):\n        self.app, self.wsgi_app = app, app.wsgi_app\n        self.seen = 0\n"
        "    def __call__(self, environ, start_response):\n        self.seen += 1\n"
        "        return self.wsgi_app(environ, start_response)\napp.wsgi_app = NAME(app)"),
        "pass", "global", "NAME.seen", "1",
    ),
}  # fmt: skip


def service(head: str, body: str, name: str) -> str:
    handler = "\n    ".join(
        ["@app.get('/')\ndef handler():", *body.split("\n"), "return jsonify(True)"]
    )
    return (
        textwrap.dedent(HEAD)
        + head.replace("NAME", name)
        + "\n"
        + handler.replace("NAME", name)
        + "\n"
    )


@pytest.mark.parametrize("case", PLACES)
def test_every_place_is_named(worlds, get, tree, case):
    head, body, kind, name, after = PLACES[case]
    world = worlds(service(head, body, "request_count"), slots=1)
    replica = world.start(0)
    assert replica.changes() == ()
    assert get(replica, "/")
    (change,) = replica.changes()
    assert (change.kind, change.name) == (kind, name.replace("NAME", "request_count"))
    assert change.module == "service"
    assert change.file == str(tree / "service.py")
    assert change.before != change.after
    assert after in {None, change.after}
    assert replica.changes() == ()


@pytest.mark.parametrize("name", ["request_count", "anzahl", "_hidden", "Ünicode"])
def test_renaming_the_state_renames_the_report(worlds, get, name):
    for case in ("dict", "class attribute", "closure", "instance"):
        head, body, kind, wanted, _ = PLACES[case]
        replica = worlds(service(head, body, name), slots=1).start(0)
        assert get(replica, "/")
        assert [(change.kind, change.name) for change in replica.changes()] == [
            (kind, wanted.replace("NAME", name))
        ]


QUIET = {
    "a cache of Python's own": ("from urllib.parse import urlsplit as NAME", "NAME('http://x/y')"),
    "reading": ("NAME = {'k': 1}", "NAME['k']"),
    "reading an LRU cache": ("import cachetools\nNAME = cachetools.LRUCache(9)", "len(NAME)"),
    "a lock": ("NAME = threading.Lock()", "NAME.acquire(); NAME.release()"),
    "a logger": ("NAME = logging.getLogger('x')", "NAME.warning('x')"),
    "locals": ("", "NAME = {}; NAME['k'] = 1"),
    "a proxy": ("from flask import g, session, current_app", "g.NAME = 1; current_app.name"),
    "a property": (
        "class A:\n    @property\n    def NAME(self):\n        return uuid.uuid4()\na = A()",
        "a.NAME",
    ),
    "a hostile object": (
        (
            "class A:\n    def __getattr__(self, name):\n        raise RuntimeError(name)\n"
            "    def __eq__(self, other):\n        raise RuntimeError\n"
            "    def __repr__(self):\n        raise RuntimeError\n    __hash__ = None\n"
            "    def __iter__(self):\n        raise RuntimeError\nNAME = A()"
        ),
        "NAME is None",
    ),
    "a cycle": ("NAME = {}\nNAME['self'] = [NAME]", "NAME['self']"),
    "a deep list": ("NAME = []\nfor _ in range(5000):\n    NAME = [NAME]", "NAME"),
    "a template": (
        "from flask import render_template_string",
        "render_template_string('{{ 1 }}'); app.logger",
    ),
    "an enumeration": (
        "import enum\nclass NAME(enum.Flag):\n    A = 1\n    B = 2",
        "NAME.A | NAME.B; NAME(3)",
    ),
    "a settings model": (
        "import pydantic\nclass S(pydantic.BaseModel):\n    n: int = 1\nNAME = S()",
        "NAME.model_dump()",
    ),
    "a model": (
        (
            "from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column\nclass Base(DeclarativeBase): ...\n"
            "class NAME(Base):\n    __tablename__ = 't'\n    id: Mapped[int] = mapped_column(primary_key=True)"
        ),
        "NAME(id=1)",
    ),
}


@pytest.mark.parametrize("case", QUIET)
def test_what_is_no_state_is_not_reported(worlds, get, case):
    head, body = QUIET[case]
    replica = worlds(service(head, body, "request_count"), slots=1).start(0)
    assert get(replica, "/")
    assert get(replica, "/")
    assert replica.changes() == ()


def test_state_of_another_module_is_reported_once_by_its_owner(worlds, get, tree):
    (tree / "storage.py").write_text("orders = {}\n")
    replica = worlds(service("from storage import orders", "orders['k'] = 1", ""), slots=1).start(0)
    assert get(replica, "/")
    (change,) = replica.changes()
    assert (change.name, change.module, change.file) == (
        "orders", "storage", str(tree / "storage.py")
    )  # fmt: skip


def test_a_module_that_is_imported_later_is_seen(worlds, get, tree):
    (tree / "late.py").write_text("count = 0\ndef bump():\n    global count\n    count += 1\n")
    replica = worlds(service("", "import late\nlate.bump()", ""), slots=1).start(0)
    assert get(replica, "/")
    replica.changes()
    assert get(replica, "/")
    assert [(change.name, change.before, change.after) for change in replica.changes()] == [
        ("count", "1", "2")
    ]


def test_django_loads_its_routes_before_the_first_request(worlds, get, tree):
    pytest.importorskip("django")
    source = """
        from django.conf import settings
        from django.core.cache import cache
        from django.core.wsgi import get_wsgi_application
        from django.http import JsonResponse
        from django.urls import path

        settings.configure(ROOT_URLCONF="service", ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        hits = 0

        def hit(request):
            global hits
            hits += 1
            cache.set("hits", hits)
            return JsonResponse({"hits": hits})

        urlpatterns = [path("", hit)]
        app = get_wsgi_application()
    """
    replica = worlds(source, slots=1).start(0)
    assert get(replica, "/") == {"hits": 1}
    assert [(change.module, change.name) for change in replica.changes()] == [
        ("service", "hits"),
        ("django.core.cache.backends.locmem", "_caches"),
    ]


@pytest.mark.parametrize(
    ("library", "head", "body"),
    [
        ("queue", "import queue\njobs = queue.Queue()", "jobs.put(1)"),
        ("asyncio", "import asyncio\njobs = asyncio.Queue()", "jobs.put_nowait(1)"),
        ("cachelib", "import cachelib\njobs = cachelib.SimpleCache()", "jobs.set('k', 1)"),
        ("limits", "from limits.storage import MemoryStorage\njobs = MemoryStorage()", "jobs.incr('k', 60)"),
    ],
)  # fmt: skip
def test_in_memory_stores_of_libraries_are_seen_into(worlds, get, library, head, body):
    pytest.importorskip(library)
    replica = worlds(service(head, body, ""), slots=1).start(0)
    assert get(replica, "/")
    assert [(change.kind, change.name) for change in replica.changes()] == [("global", "jobs")]


def test_a_store_that_a_librarys_object_holds_is_seen_into(worlds, get):
    head = """
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
limiter = FixedWindowRateLimiter(MemoryStorage())
"""
    replica = worlds(service(head, "limiter.hit(parse('3/minute'), 'k')", ""), slots=1).start(0)
    assert get(replica, "/")
    changed = {change.name for change in replica.changes()}
    assert {"limiter.storage.storage", "limiter.storage.expirations"} <= changed


def test_state_inside_a_factory(worlds, get):
    source = """
        from flask import Flask, jsonify

        def create_app():
            app = Flask(__name__)
            carts = {}

            @app.get("/")
            def put():
                carts["k"] = 1
                return jsonify(True)

            return app
    """
    replica = worlds(source, "service:create_app()", slots=1).start(0)
    assert get(replica, "/")
    assert [(change.kind, change.name) for change in replica.changes()] == [
        ("closure", "create_app.carts")
    ]


def test_state_of_fastapi(worlds, get):
    source = """
        from fastapi import Depends, FastAPI

        def create_app():
            app = FastAPI()
            app.state.visits = 0
            carts = {}
            seen = []

            def noted():
                seen.append(1)

            @app.middleware("http")
            async def counted(request, call_next):
                return await call_next(request)

            @app.get("/")
            async def put(_: None = Depends(noted)):
                carts["k"] = 1
                app.state.visits += 1
                return True

            return app
    """
    replica = worlds(source, "service:create_app()", slots=1).start(0)
    assert get(replica, "/")
    assert {(change.kind, change.name) for change in replica.changes()} == {
        ("closure", "create_app.carts"),
        ("closure", "create_app.seen"),
        ("global", "app.state.visits"),
    }


def test_a_large_container_is_looked_at_in_bounds(worlds, get):
    source = service("NAME = {n: [n] for n in range(300_000)}", "NAME['k'] = 1", "orders")
    replica = worlds(source, slots=1).start(0)
    assert get(replica, "/")
    (change,) = replica.changes()
    assert change.name == "orders"
    assert len(change.after) <= 120


def test_files_are_told_with_their_content_while_it_is_short(worlds, get, tree):
    (tree / "counter.txt").write_text("41")
    body = "import pathlib\npathlib.Path('counter.txt').write_text('42')\nopen('big', 'w').write('x' * 500)"
    replica = worlds(service("", body, ""), slots=1).start(0)
    assert get(replica, "/")
    told = {change.name: change for change in replica.changes()}
    assert (told["counter.txt"].before, told["counter.txt"].after) == ("'41'", "'42'")
    assert told["counter.txt"].file == str(tree / "counter.txt")
    assert (told["big"].before, told["big"].after) == ("absent", "500 bytes")
    assert get(replica, "/")
    assert [change.after for change in replica.changes() if change.name == "counter.txt"] != [
        "absent"
    ]


def test_files_in_home_and_tmp_are_told_by_the_names_people_use(worlds, get):
    body = (
        "import pathlib, tempfile\n(pathlib.Path.home() / 'a').write_text('1')\n"
        "pathlib.Path(tempfile.gettempdir(), 'b').write_text('2')"
    )
    replica = worlds(service("", body, ""), slots=1).start(0)
    assert get(replica, "/")
    assert {change.name for change in replica.changes()} == {"~/a", "$TMPDIR/b"}


def test_a_wal_belongs_to_its_database(worlds, get):
    head = (
        "import sqlite3\ndb = sqlite3.connect('app.db', check_same_thread=False)\n"
        "db.execute('PRAGMA journal_mode=WAL'); db.execute('CREATE TABLE t (n)'); db.commit()"
    )
    replica = worlds(
        service(head, "db.execute('INSERT INTO t VALUES (1)'); db.commit()", ""), slots=1
    ).start(0)
    assert get(replica, "/")
    assert [(change.kind, change.name) for change in replica.changes()] == [("database", "app.db")]


def test_local_caches_declare_themselves_and_are_no_change(worlds, get):
    head = (
        "from anypod.primitives.local import cached\ncalls = []\n"
        "@cached(ttl=300)\ndef rate(x):\n    calls.append(x)\n    return x"
    )
    replica = worlds(service(head, "rate(1)", ""), slots=1).start(0)
    assert get(replica, "/")
    assert [change.name for change in replica.changes()] == ["calls"]
    (cache,) = replica.caches()
    assert cache.ttl == 300
    assert "rate" in cache.name
    assert get(replica, "/")
    assert replica.changes() == ()
    replica.advance(301)
    assert get(replica, "/")
    assert [change.after for change in replica.changes()] == ["[1, 1]"]


def test_without_anypod_there_are_no_caches(worlds):
    replica = worlds(slots=1).start(0)
    assert replica.caches() == ()
    replica.advance(5)


FRAMEWORK = """
import secrets

class Store:
    def __init__(self):
        self.entries = {}
    async def get(self, key):
        return self.entries.get(key)
    async def set(self, key, value):
        self.entries[key] = value
    async def delete(self, key):
        self.entries.pop(key, None)

class Registry:
    def __init__(self):
        self.stores = {"sessions": Store()}

class Signer:
    def __init__(self):
        self.keys = [secrets.token_bytes(16)]

class App:
    def __init__(self):
        self.registry = Registry()
        self.signer = Signer()
    def __call__(self, environ, start_response):
        store = self.registry.stores["sessions"].entries
        if environ["PATH_INFO"] == "/in":
            store["ann"] = 1
        start_response("200 OK", [])
        return [str([len(store), *self.signer.keys[0]]).encode()]
"""


@pytest.fixture
def framework(tmp_path, env):
    """A framework that is not known here, installed beside the project."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "framework.py").write_text(FRAMEWORK)
    env["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(tmp_path / "site"), env.get("PYTHONPATH")))
    )
    return "import framework\napp = framework.App()"


def test_a_store_within_an_unknown_framework_is_seen_and_carried(worlds, get, framework):
    world = worlds(framework)
    writer, reader = world.start(0), world.start(1)
    get(writer, "/in")
    (change,) = writer.changes()
    assert (change.kind, change.module) == ("global", "service")
    assert change.name == "app.registry.stores['sessions'].entries"
    assert (change.before, change.after) == ("{}", "{'ann': 1}")
    assert reader.give(writer.take([change.state])) == {change.state}
    assert get(reader, "/")[0] == 1


def test_a_key_that_each_process_draws_within_a_librarys_object(worlds, get, framework):
    world = worlds(framework)
    one, two = world.start(0), world.start(1)
    assert get(one, "/") != get(two, "/")
    ours, theirs = ({c.state: c.digest for c in replica.constants()} for replica in (one, two))
    (state,) = [state for state in ours if ours[state] != theirs[state]]
    assert state.name == "app.signer.keys[0]"
    assert two.give(one.take([state])) == {state}
    assert get(one, "/") == get(two, "/")
