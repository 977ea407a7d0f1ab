"""A list of devices, "log out my other devices", and a closed account."""

from __future__ import annotations

import pytest

from anypod import SessionEnded, State
from anypod.commands import EndDocument, PatchDocument, ReadDocument
from anypod.errors import Conflict
from anypod.keys import encode
from anypod.primitives import session_index
from anypod.primitives.session import Session, Sessions
from anypod.primitives.session_index import MAKING, Entry

from .conftest import advance


@pytest.fixture
def sessions(state: State) -> Sessions:
    return state.session(idle=1_800.0, absolute=86_400.0, grace=10.0)


def indexed(sessions: Sessions, user: object) -> set[str]:
    index = sessions.store.execute(ReadDocument(sessions.index_address(encode(user))))
    return set() if index is None else set(index.fields)


def test_a_list_of_devices(state: State, sessions: Sessions) -> None:
    phone = sessions.create(user=7)
    advance(state, 600.0)
    laptop = sessions.create(user=7)
    sessions.create(user="7")
    listed = sessions.sessions(7, current=phone)
    assert [info.handle for info in listed] == [laptop.handle, phone.handle]
    assert [info.current for info in listed] == [False, True]
    assert listed[0].age < 60.0
    assert 600.0 <= listed[1].age < 660.0
    assert 85_000.0 < listed[1].left <= 85_800.0
    assert listed[0].changed > listed[1].changed
    assert sessions.sessions("nobody") == []


def test_a_handle_opens_nothing(sessions: Sessions) -> None:
    session = sessions.create(user=7)
    assert session.handle not in session.id
    assert sessions.load(session.handle) is None


def test_one_device_is_logged_out_by_its_owner_only(sessions: Sessions) -> None:
    mine, other = sessions.create(user=7), sessions.create(user=7)
    theirs = sessions.create(user=8)
    assert not sessions.end(7, theirs.handle)
    assert not sessions.end(7, "0" * 64)
    assert sessions.load(theirs.id) is not None
    assert sessions.end(7, other.handle)
    assert not sessions.end(7, other.handle)
    assert sessions.load(other.id) is None
    assert sessions.load(mine.id) is not None
    other["late"] = 1
    with pytest.raises(SessionEnded):
        other.save()


def test_log_out_my_other_devices(sessions: Sessions) -> None:
    mine = sessions.create(user=7)
    others = [sessions.create(user=7) for _ in range(3)]
    assert sessions.revoke(7, keep=mine) == 3
    assert [sessions.load(other.id) for other in others] == [None] * 3
    assert [info.handle for info in sessions.sessions(7)] == [mine.handle]


def test_the_index_heals_itself_on_read(state: State, sessions: Sessions) -> None:
    gone = [sessions.create(user=7) for _ in range(3)]
    advance(state, 1_801.0)
    alive = sessions.create(user=7)
    assert len(indexed(sessions, 7)) == 4
    assert [info.handle for info in sessions.sessions(7)] == [alive.handle]
    assert indexed(sessions, 7) == {alive.handle}
    assert sessions.revoke(7) == 1
    assert all(sessions.load(session.id) is None for session in gone)


@pytest.mark.parametrize("moment", [1_000_000_000.01, 1_000_000_000.99])
def test_a_login_in_progress_is_no_ghost(
    sessions: Sessions, moment: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its entry in the index and its document, a list does not take a session for dead."""
    monkeypatch.setattr(session_index.time, "time", lambda: moment)
    session = sessions.new()
    session["n"] = 1
    flow = sessions.bind(session.id, encode(7), {}, None)
    sessions.store.execute(next(flow))  # type: ignore[arg-type]
    assert sessions.sessions(7) == []
    assert indexed(sessions, 7) == {session.handle}
    with pytest.raises(StopIteration):
        flow.send(sessions.store.execute(flow.send(None)))  # type: ignore[arg-type]
    assert [info.handle for info in sessions.sessions(7)] == [session.handle]


def test_a_login_that_was_slower_than_a_ghost_is_told(state: State, sessions: Sessions) -> None:
    """Revoking misses none: what is taken out of the index cannot come to be afterwards."""
    session = sessions.new()
    flow = sessions.bind(session.id, encode(7), {}, None)
    sessions.store.execute(next(flow))  # type: ignore[arg-type]
    advance(state, MAKING + 1.0)
    assert sessions.sessions(7) == []
    assert indexed(sessions, 7) == set()
    reply = sessions.store.execute(flow.send(None))  # type: ignore[arg-type]
    with pytest.raises(SessionEnded, match="treat the client as logged out"):
        flow.send(reply)
    assert sessions.load(session.id) is None


def test_a_login_that_was_revoked_while_it_was_made_is_told(sessions: Sessions) -> None:
    session = sessions.new()
    flow = sessions.bind(session.id, encode(7), {}, None)
    sessions.store.execute(next(flow))  # type: ignore[arg-type]
    assert sessions.revoke(7) == 0
    reply = sessions.store.execute(flow.send(None))  # type: ignore[arg-type]
    with pytest.raises(SessionEnded):
        flow.send(reply)


def test_a_rotation_takes_the_place_of_the_session_before(sessions: Sessions) -> None:
    session = sessions.create(user=7)
    old = session.id
    new = session.rotate()
    assert [info.handle for info in sessions.sessions(7)] == [session.handle]
    assert sessions.load(old) is not None
    assert sessions.end(7, session.handle)
    assert [sessions.load(old), sessions.load(new)] == [None, None]


def test_revoking_reaches_the_token_before_a_rotation(sessions: Sessions) -> None:
    session = sessions.create(user=7)
    tokens = [session.id, session.rotate(), session.rotate()]
    assert [sessions.load(token) is None for token in tokens] == [True, False, False]
    assert sessions.revoke(7) == 1
    assert [sessions.load(token) for token in tokens] == [None] * 3


def test_logging_in_from_an_anonymous_session_is_indexed(sessions: Sessions) -> None:
    session = sessions.create(basket=["pen"])
    old = session.id
    session.rotate(user=7)
    assert len(sessions.sessions(7)) == 1
    assert sessions.revoke(7) == 1
    assert sessions.load(old) is None


def test_logging_out_leaves_the_index(sessions: Sessions) -> None:
    session = sessions.create(user=7)
    session.rotate()
    session.end()
    assert indexed(sessions, 7) == set()


def test_erasing_leaves_no_session_and_no_data(sessions: Sessions) -> None:
    made = [sessions.create(user=7, name="Ada") for _ in range(3)]
    assert sessions.erase(7) == 3
    assert indexed(sessions, 7) == set()
    assert [sessions.load(session.id) for session in made] == [None] * 3
    for session in made:
        assert sessions.store.execute(ReadDocument(sessions.address(session.handle))) is None
    assert sessions.erase(7) == 0


def test_erasing_while_somebody_keeps_logging_in_says_so(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions.create(user=7)
    execute = sessions.store.perform
    made: list[Session] = []

    def eager(command: object) -> object:
        if isinstance(command, EndDocument):
            monkeypatch.setattr(sessions.store, "perform", execute)
            made.append(sessions.create(user=7))
            monkeypatch.setattr(sessions.store, "perform", eager)
        return execute(command)  # type: ignore[arg-type]

    monkeypatch.setattr(sessions.store, "perform", eager)
    with pytest.raises(Conflict, match="refuse the user's logins first"):
        sessions.erase(7)


def test_entries_of_an_earlier_version_are_read(state: State, sessions: Sessions) -> None:
    session = sessions.create(user=7)
    address = sessions.index_address(encode(7))
    sessions.store.execute(PatchDocument(address, put={session.handle: b"", "f" * 64: b""}))
    (info,) = sessions.sessions(7)
    assert info.handle == session.handle
    assert info.age < 60.0
    assert indexed(sessions, 7) == {session.handle}
    assert Entry.of(Entry(5.0, 60.0, "abc").encoded()) == Entry(5.0, 60.0, "abc")


def test_slow_readings_do_not_change_the_order(state: State) -> None:
    """Each age counts up to its own reading: a session that is read later looks older than it is."""
    sessions = state.session()
    made = []
    for _ in range(6):
        made.append(sessions.create(user=7).handle)
        advance(state, 10.0)
    execute = state.store.perform

    def slow(command: object) -> object:
        advance(state, 60.0)
        return execute(command)  # type: ignore[arg-type]

    state.store.perform = slow  # type: ignore[method-assign, assignment]
    assert [info.handle for info in sessions.sessions(7)] == made[::-1]
