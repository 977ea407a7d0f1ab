"""A state is carried from one replica into another, and the line that writes it is found."""

from __future__ import annotations

import os
import textwrap

import pytest
from tests.replicas.test_probe import PLACES, service

from anypod.replicas import State

WRITTEN_BELOW = {
    "closure": ["NAME['k'] = 1".replace("NAME", "request_count")],
    "nonlocal": ["request_count += 1"],
    "default argument": ["request_count.append(1)"],
    "keyword default": ["request_count['k'] = 1"],
    "own wrapper": ["return request_count.setdefault(x, function(x))"],
    "middleware": ["self.seen += 1"],
    "middleware that holds the application too": ["self.seen += 1"],
}


def state_of(case: str) -> State:
    _, _, kind, name, _ = PLACES[case]
    return State(kind, "service", name.replace("NAME", "request_count"))


@pytest.mark.parametrize("case", PLACES)
def test_every_place_is_carried(worlds, get, case):
    head, body, *_ = PLACES[case]
    world = worlds(service(head, body, "request_count"), slots=2)
    state = state_of(case)
    writer, reader = world.start(0), world.start(1)
    assert get(writer, "/")
    (there,) = writer.changes()
    assert reader.changes() == ()
    contents = writer.take([state])
    assert reader.give(contents) == {state}
    here = [change for change in reader.changes() if change.state == state]
    if there.kind == "cache":
        assert writer.take([state]) == reader.take([state]) or here
        return
    assert [change.after for change in here] == [there.after]


@pytest.mark.parametrize("case", PLACES)
def test_every_write_has_its_line(worlds, get, tree, case):
    head, body, *_ = PLACES[case]
    source = service(head, body, "request_count")
    state = state_of(case)
    replica = worlds(source, slots=1).start(0, trace=[state])
    assert get(replica, "/")
    (write,) = replica.writes()
    assert write.state == state
    assert write.file == str(tree / "service.py")
    line = textwrap.dedent(source).splitlines()[write.line - 1].strip()
    # It stands in the handler, or in what the handler calls; a decorator writes for its caller.
    inside = [text.strip() for text in textwrap.dedent(source).split("def handler")[1].splitlines()]
    assert line in {*inside, *WRITTEN_BELOW.get(case, ())}


def test_a_file_is_carried_and_its_write_has_a_line(worlds, get, tree):
    body = "with open('note.txt', 'w') as file:\n        file.write('hello')"
    source = service("", body, "")
    world = worlds(source, slots=2)
    state = State("file", "", "note.txt")
    writer, reader = world.start(0, trace=[state]), world.start(1)
    assert get(writer, "/")
    (write,) = writer.writes()
    line = textwrap.dedent(source).splitlines()[write.line - 1]
    assert "open('note.txt'" in line
    assert reader.give(writer.take([state])) == {state}
    assert [(change.name, change.after) for change in reader.changes()] == [("note.txt", "'hello'")]


def test_a_database_is_carried_with_its_journal(worlds, get):
    body = (
        "import sqlite3\ndb = sqlite3.connect('app.db')\ndb.execute('PRAGMA journal_mode=WAL')\n"
        "db.execute('CREATE TABLE IF NOT EXISTS t (n)')\ndb.execute('INSERT INTO t VALUES (1)')\n"
        "db.commit()\nrows = db.execute('SELECT count(*) FROM t').fetchone()\nreturn jsonify(rows[0])"
    )
    world = worlds(service("", body, ""), slots=2)
    writer, reader = world.start(0), world.start(1)
    assert [get(writer, "/") for _ in range(2)] == [1, 2]
    state = State("database", "", "app.db")
    assert reader.give(writer.take([state])) == {state}
    assert get(reader, "/") == 3


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("import socket\nNAME = {'k': None}", "NAME['k'] = socket.socket()"),
        ("NAME = {'k': None}", "NAME['k'] = lambda: 1"),
    ],
    ids=["a socket", "a function without a name"],
)
def test_what_cannot_be_carried_is_left_out(worlds, get, head, body):
    replica = worlds(service(head, body, "held"), slots=1).start(0)
    assert get(replica, "/")
    state = State("global", "service", "held")
    assert replica.take([state]) == {}
    assert replica.give({state: "nonsense"}) == frozenset()


def test_a_state_that_is_absent_there_is_removed_here(worlds, get):
    head = (
        "class A:\n    @functools.cached_property\n    def NAME(self):\n        return 5\na = A()"
    )
    world = worlds(service(head, "a.NAME", "size"), slots=2)
    reader, fresh = world.start(0), world.start(1)
    assert get(reader, "/")
    reader.changes()
    state = State("global", "service", "a.size")
    assert reader.give(fresh.take([state])) == {state}
    assert [(change.name, change.after) for change in reader.changes()] == [("a.size", "absent")]


def test_who_holds_a_container_directly_sees_what_was_carried(worlds, get):
    head = "NAME = {'inner': []}\nheld = NAME['inner']"
    world = worlds(service(head, "held.append(1)\nreturn jsonify(len(held))", "data"), slots=2)
    writer, reader = world.start(0), world.start(1)
    assert [get(writer, "/") for _ in range(2)] == [1, 2]
    reader.give(writer.take([State("global", "service", "data")]))
    assert get(reader, "/") == 3


@pytest.mark.parametrize("bound", ["None", "8"])
def test_an_lru_cache_is_carried_with_what_it_holds(worlds, get, bound):
    head = (
        "calls = []\n@functools.lru_cache(maxsize=BOUND)\ndef double(x):\n    calls.append(x)\n"
        "    return 2 * x"
    ).replace("BOUND", bound)
    world = worlds(
        service(head, "return jsonify(double(21), double('a'), len(calls))", ""), slots=2
    )
    writer, reader = world.start(0), world.start(1)
    assert get(writer, "/") == [42, "aa", 2]
    state = State("cache", "service", "double")
    assert reader.give(writer.take([state])) == {state}
    assert get(reader, "/") == [42, "aa", 0]


def test_what_an_lru_cache_makes_once_is_carried_to_who_never_made_it(worlds, get):
    head = (
        "class Codes:\n    def __init__(self):\n        self.kept = []\n"
        "@functools.lru_cache\ndef codes():\n    return Codes()\nheld = codes"  # as Depends holds it
    )
    world = worlds(service(head, "held().kept.append(1)\nreturn jsonify(held().kept)", ""), slots=2)
    writer, reader = world.start(0), world.start(1)
    assert get(writer, "/") == [1]
    state = State("global", "service", "codes().kept")
    assert state in {change.state for change in writer.changes()}
    assert reader.give(writer.take([state])) == {state}
    assert get(reader, "/") == [1, 1]


LIBRARY = """
    class Store:
        __slots__ = ("_held",)

        def __init__(self):
            self._held = {}

        def get(self, key):
            return self._held.get(key)

        def set(self, key, value):
            self._held[key] = value

        def delete(self, key):
            del self._held[key]

    class Stores:
        __slots__ = ("_stores",)

        def __init__(self):
            self._stores = {}

        def get(self, name):
            if name not in self._stores:
                self._stores[name] = Store()
            return self._stores[name]

    class App:
        __slots__ = ("stores",)

        def __init__(self):
            self.stores = Stores()

        def __call__(self, environ, start):
            kept = self.stores.get("sessions")
            kept.set("n", (kept.get("n") or 0) + 1)
            start("200 OK", [("Content-Type", "application/json")])
            return [b"%d" % kept.get("n")]
"""


def install(name, source, libraries, env):
    """Put a library beside the project, where a service finds it."""
    libraries.mkdir()
    (libraries / f"{name}.py").write_text(textwrap.dedent(source))
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), str(libraries))))


def test_a_store_that_a_library_makes_when_it_is_asked_for_is_made_and_filled(
    worlds, get, env, tmp_path
):
    install("shelf", LIBRARY, tmp_path / "libraries", env)
    world = worlds("from shelf import App\napp = App()", slots=2)
    writer, reader = world.start(0), world.start(1)
    assert get(writer, "/") == 1
    state = State("global", "service", "app.stores._stores['sessions']._held")
    assert state in {change.state for change in writer.changes()}
    assert reader.give(writer.take([state])) == {state}
    assert get(reader, "/") == 2


# A library's cache that is set up once for all of the process; its backend is a class with one store.
SET_UP = """
    class Backend:
        _store = {}

        def get(self, key):
            return self._store.get(key)

        def set(self, key, value):
            self._store[key] = value

        def clear(self):
            self._store.clear()


    class Cache:
        _backend = None

        @classmethod
        def init(cls, backend):
            cls._backend = backend

        @classmethod
        def count(cls):
            cls._backend.set("n", (cls._backend.get("n") or 0) + 1)
            return cls._backend.get("n")
"""


def test_a_store_of_a_librarys_class_is_seen_and_carried(worlds, get, env, tmp_path):
    install("setup_once", SET_UP, tmp_path / "libraries", env)
    source = """
        from setup_once import Backend, Cache

        Cache.init(Backend())

        def app(environ, start):
            start("200 OK", [("Content-Type", "application/json")])
            return [b"%d" % Cache.count()]
    """
    world = worlds(source, slots=2)
    writer, reader = world.start(0), world.start(1)
    assert get(writer, "/") == 1
    state = State("global", "service", "Cache._backend._store")
    assert state in {change.state for change in writer.changes()}
    assert reader.give(writer.take([state])) == {state}
    assert get(reader, "/") == 2


def test_a_few_other_states_are_taken_beside(worlds, get):
    head = "NAME = {}\nother = []\nlimit = 3"
    replica = worlds(service(head, "NAME['k'] = 1", "held"), slots=1).start(0)
    assert get(replica, "/")
    held = State("global", "service", "held")
    beside = replica.take([], but={held})
    assert {State("global", "service", "other"), State("global", "service", "limit")} <= {*beside}
    assert held not in beside


def test_a_state_that_only_the_other_has_is_carried_even_if_it_is_none(worlds, get):
    head = "class A:\n    @functools.cached_property\n    def NAME(self):\n        return None\na = A()"
    world = worlds(service(head, "a.NAME", "size"), slots=2)
    writer, fresh = world.start(0), world.start(1)
    assert get(writer, "/")
    state = State("global", "service", "a.size")
    assert fresh.give(writer.take([state])) == {state}
    assert [(change.name, change.after) for change in fresh.changes()] == [("a.size", "None")]
