"""`flask.session` over a shared store: the same on every pod, by id, by field, and ended for good."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, flash, get_flashed_messages, session
from flask.testing import FlaskClient
from markupsafe import Markup

from anypod import State
from anypod.commands import Command, PatchDocument, ReadDocument
from anypod.errors import SessionEnded
from anypod.web.flask import AnypodSessionInterface, FlaskSession, logout, rotate

pytestmark = pytest.mark.quick

VALUES: dict[str, Any] = {
    "tuple": (1, ("two", None)),
    "bytes": b"\x00\xff",
    "markup": Markup("<b>bold</b>"),
    "uuid": uuid.UUID(int=7),
    "datetime": datetime(2026, 5, 17, 12, 30, tzinfo=UTC),
    "nested": {"list": [1, 2.5, {"deep": True}], " t": "looks like a tag"},
    "none": None,
}


def make_app(where: Any, **config: Any) -> Flask:
    app = Flask(__name__)
    app.config.update(config)
    app.session_interface = AnypodSessionInterface(where)

    @app.post("/login/<user>")
    def login(user: str) -> str:
        session["user"] = user
        rotate(user)
        return session.id  # type: ignore[attr-defined, no-any-return]

    @app.get("/me")
    def me() -> str:
        return str(session.get("user", "nobody"))

    @app.post("/logout")
    def leave() -> str:
        logout()
        return "bye"

    @app.post("/clear")
    def clear() -> str:
        session.clear()
        return "cleared"

    @app.post("/set/<name>/<value>")
    def put(name: str, value: str) -> str:
        session[name] = value
        return value

    @app.post("/append/<value>")
    def append(value: str) -> list[str]:
        cart: list[str] = session.setdefault("cart", [])
        cart.append(value)
        return cart

    @app.post("/values")
    def put_values() -> str:
        session.update(VALUES)
        return "ok"

    @app.get("/values")
    def values() -> str:
        return "same" if dict(session) == VALUES else repr(dict(session))

    @app.post("/flash")
    def say() -> str:
        flash("saved")
        return "ok"

    @app.get("/flash")
    def said() -> list[str]:
        return list(get_flashed_messages())

    @app.post("/permanent")
    def permanent() -> str:
        session.permanent = True
        return "ok"

    @app.get("/nothing")
    def nothing() -> str:
        return "nothing"

    return app


@pytest.fixture
def pods(state: State) -> tuple[FlaskClient, Callable[[], FlaskClient]]:
    """A client of one pod, and a function which gives a client of another pod with the same cookies."""
    first = make_app(state).test_client()

    def other() -> FlaskClient:
        client = make_app(state).test_client()
        if cookie := first.get_cookie("session"):
            client.set_cookie("session", cookie.value)
        return client

    return first, other


@pytest.fixture
def commands(state: State, monkeypatch: pytest.MonkeyPatch) -> list[Command[Any]]:
    """Every command that reaches the store, in order."""
    seen: list[Command[Any]] = []
    execute = state.store._execute

    def recorded(command: Command[Any]) -> Any:
        seen.append(command)
        return execute(command)

    monkeypatch.setattr(state.store, "_execute", recorded)
    return seen


def test_another_pod_knows_who_logged_in(pods: Any) -> None:
    client, other = pods
    client.post("/login/alice")
    assert other().get("/me").text == "alice"


def test_values_come_back_as_they_were(pods: Any) -> None:
    client, other = pods
    client.post("/values")
    assert other().get("/values").text == "same"


def test_a_request_that_does_not_look_costs_nothing(pods: Any, commands: Any) -> None:
    client, _ = pods
    client.post("/login/alice")
    commands.clear()
    answer = client.get("/nothing")
    assert commands == []
    assert "Set-Cookie" not in answer.headers
    assert "Vary" not in answer.headers


def test_a_request_that_reads_costs_one_exchange(pods: Any, commands: Any) -> None:
    client, _ = pods
    client.post("/login/alice")
    commands.clear()
    answer = client.get("/me")
    assert [type(command) for command in commands] == [ReadDocument]
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["Vary"] == "Cookie"


def test_only_what_changed_is_written(pods: Any, commands: Any) -> None:
    client, _ = pods
    client.post("/set/a/1")
    client.post("/set/b/1")
    commands.clear()
    client.post("/set/b/2")
    written = [command for command in commands if isinstance(command, PatchDocument)]
    assert [set(command.put) for command in written] == [{".b"}]


def test_a_nobody_gets_no_cookie(pods: Any) -> None:
    client, _ = pods
    assert "Set-Cookie" not in client.get("/me").headers


def test_a_change_inside_a_value_is_seen(pods: Any) -> None:
    client, other = pods
    client.post("/append/pen")
    assert other().post("/append/ink").json == ["pen", "ink"]
    assert client.post("/append/pad").json == ["pen", "ink", "pad"]


def test_two_requests_at_once_keep_both_changes(state: State) -> None:
    app = make_app(state)
    client = app.test_client()
    client.post("/set/seen/yes")
    cookie = client.get_cookie("session")
    assert cookie is not None
    one, two = (FlaskSession(app.session_interface.sessions, cookie.value) for _ in range(2))  # type: ignore[attr-defined]
    assert one["seen"] == two["seen"] == "yes"
    one["a"], two["b"] = 1, 2
    one.commit()
    two.commit()
    late = FlaskSession(app.session_interface.sessions, cookie.value)  # type: ignore[attr-defined]
    assert dict(late) == {"seen": "yes", "a": 1, "b": 2}


def test_logout_ends_the_session_everywhere(pods: Any) -> None:
    client, other = pods
    client.post("/login/alice")
    stolen = other()
    answer = client.post("/logout")
    assert "session=;" in answer.headers["Set-Cookie"]
    assert stolen.get("/me").text == "nobody"


def test_clear_ends_the_session_too(pods: Any) -> None:
    client, other = pods
    client.post("/login/alice")
    stolen = other()
    client.post("/clear")
    assert stolen.get("/me").text == "nobody"


def test_what_follows_a_clear_is_a_new_session(state: State) -> None:
    app = make_app(state)

    @app.post("/login-as-the-flask-tutorial-does/<user>")
    def tutorial(user: str) -> str:
        session.clear()
        session["user"] = user
        return user

    client = app.test_client()
    client.post("/set/a/1")
    before = client.get_cookie("session")
    client.post("/login-as-the-flask-tutorial-does/alice")
    after = client.get_cookie("session")
    assert before is not None
    assert after is not None
    assert before.value != after.value
    assert client.get("/me").text == "alice"
    client.set_cookie("session", before.value)
    assert client.get("/me").text == "nobody"


def test_a_slow_request_does_not_bring_a_session_back(state: State) -> None:
    app = make_app(state)
    client = app.test_client()

    @app.post("/slow")
    def slow() -> str:
        assert session["user"] == "alice"
        elsewhere = app.test_client()
        elsewhere.set_cookie("session", client.get_cookie("session").value)  # type: ignore[union-attr]
        elsewhere.post("/logout")
        session["late"] = "yes"
        return "done"

    client.post("/login/alice")
    cookie = client.get_cookie("session")
    assert cookie is not None
    answer = client.post("/slow")
    assert (answer.status_code, answer.text) == (200, "done")
    assert "session=;" in answer.headers["Set-Cookie"]
    client.set_cookie("session", cookie.value)
    assert client.get("/me").text == "nobody"


def test_an_id_that_the_client_made_up_is_not_adopted(pods: Any) -> None:
    client, _ = pods
    for made_up in ("x" * 22 + "." + "y" * 43, "nonsense", "", "a.b", "é"):
        client.set_cookie("session", made_up)
        client.post("/set/a/1")
        given = client.get_cookie("session")
        assert given is not None
        assert given.value != made_up


def test_a_login_gives_a_new_id(pods: Any) -> None:
    client, _ = pods
    client.post("/set/cart/pen")
    before = client.get_cookie("session").value
    after = client.post("/login/alice").text
    assert client.get_cookie("session").value == after != before


def test_the_id_before_a_login_does_not_get_its_rights(pods: Any) -> None:
    client, other = pods
    client.post("/set/cart/pen")
    fixated = other()
    client.post("/login/alice")
    assert fixated.get("/me").text == "nobody"


def test_all_sessions_of_a_user_can_be_ended(state: State) -> None:
    app = make_app(state)
    clients = [app.test_client() for _ in range(3)]
    for client in clients:
        client.post("/login/alice")
    bob = app.test_client()
    bob.post("/login/bob")
    assert app.session_interface.sessions.revoke("alice") >= 3  # type: ignore[attr-defined]
    assert [client.get("/me").text for client in clients] == ["nobody"] * 3
    assert bob.get("/me").text == "bob"


def test_flashed_messages(pods: Any) -> None:
    client, other = pods
    client.post("/flash")
    assert other().get("/flash").json == ["saved"]
    assert client.get("/flash").json == []


def test_cookie_attributes_are_flasks(state: State) -> None:
    app = make_app(
        state,
        SESSION_COOKIE_NAME="__Host-sid",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PATH="/",
    )
    header = app.test_client().post("/set/a/1").headers["Set-Cookie"]
    assert header.startswith("__Host-sid=")
    attributes = set(header.split("; ")[1:])
    assert attributes == {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"}


def test_a_permanent_session_has_a_cookie_that_lasts(state: State) -> None:
    client = make_app(state).test_client()
    assert "Expires" not in client.post("/set/a/1").headers["Set-Cookie"]
    assert "Expires" in client.post("/permanent").headers["Set-Cookie"]
    assert "Set-Cookie" not in client.get("/me").headers


def test_a_short_cookie_is_refreshed(state: State) -> None:
    client = make_app(state, PERMANENT_SESSION_LIFETIME=600).test_client()
    client.post("/permanent")
    assert "Expires" in client.get("/me").headers["Set-Cookie"]
    quiet = make_app(
        state, PERMANENT_SESSION_LIFETIME=600, SESSION_REFRESH_EACH_REQUEST=False
    ).test_client()
    quiet.post("/permanent")
    assert "Set-Cookie" not in quiet.get("/me").headers


def test_session_transaction_of_flasks_test_client(state: State) -> None:
    app = make_app(state)
    with app.test_client() as client:
        with client.session_transaction() as prepared:
            prepared["user"] = "alice"
        assert client.get("/me").text == "alice"


def test_one_line_in_an_application_factory(state: State) -> None:
    interface = AnypodSessionInterface(state.session("shop", idle=60.0))

    def create_app() -> Flask:
        app = make_app(state)
        app.session_interface = interface
        return app

    client = create_app().test_client()
    token = client.post("/login/alice").text
    other = create_app().test_client()
    other.set_cookie("session", token)
    assert other.get("/me").text == "alice"


def test_a_session_that_idles_or_grows_old_ends(state: State) -> None:
    sessions = state.session("short", idle=100.0, absolute=300.0)
    client = make_app(sessions).test_client()
    client.post("/login/alice")
    state.store.driver.clock_offset += 90
    assert client.get("/me").text == "alice"
    state.store.driver.clock_offset += 101
    assert client.get("/me").text == "nobody"
    client.post("/login/alice")
    for _ in range(3):
        state.store.driver.clock_offset += 90
        assert client.get("/me").text == "alice"
    state.store.driver.clock_offset += 90
    assert client.get("/me").text == "nobody"


def test_what_cannot_be_stored_is_refused_where_it_is_put(state: State) -> None:
    app = make_app(state)
    with app.test_request_context():
        fresh = FlaskSession(state.session("flask"), None)
        with pytest.raises(TypeError):
            fresh["bad"] = {1, 2}
        assert "bad" not in fresh


def test_rotating_a_session_that_was_ended_says_so(state: State) -> None:
    sessions = state.session("flask")
    app = make_app(sessions)
    with app.test_request_context():
        token = sessions.create(a=app.json.dumps(1)).id
        slow = FlaskSession(sessions, token)
        assert slow["a"] == 1
        ended = sessions.load(token)
        assert ended is not None
        ended.end()
        with pytest.raises(SessionEnded):
            slow.rotate("alice")


def test_rotate_needs_anypods_sessions() -> None:
    app = Flask(__name__)
    app.secret_key = "only for this test"
    with app.test_request_context(), pytest.raises(RuntimeError, match="AnypodSessionInterface"):
        rotate()
