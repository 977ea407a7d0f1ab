from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anypod import ConfigurationError, SessionEnded, State
from anypod.commands import Command, ReadDocument
from anypod.primitives.session import Session, Sessions

from .conftest import advance


@pytest.fixture
def sessions(state: State) -> Sessions:
    return state.session(idle=1_800.0, absolute=86_400.0, grace=10.0)


def loaded(sessions: Sessions, token: str) -> Session:
    session = sessions.load(token)
    assert session is not None
    return session


class Recorder:
    """Counts what reaches the store."""

    def __init__(self, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[Command[Any]] = []
        execute = state.store.perform

        def recorded(command: Command[Any]) -> Any:
            self.commands.append(command)
            return execute(command)

        monkeypatch.setattr(state.store, "perform", recorded)


def test_any_holder_of_the_token_sees_the_session(sessions: Sessions) -> None:
    token = sessions.create(user=7, name="Ada").id
    assert dict(loaded(sessions, token)) == {"name": "Ada"}


def test_fields_may_have_any_names_of_whole_characters(sessions: Sessions) -> None:
    fields = {"": 1, ".": 2, "user": 3, "é\U0001f58b": "x" * 300, "big": b"\xff" * 70_000}
    session = sessions.new()
    session.update(fields)
    session.save()
    assert dict(loaded(sessions, session.id)) == fields
    with pytest.raises(UnicodeEncodeError):
        session["half \ud83d"] = 1
    del session["big"]
    session.save()
    assert set(loaded(sessions, session.id)) == {"", ".", "user", "é\U0001f58b"}


def test_different_fields_both_win(sessions: Sessions) -> None:
    token = sessions.create(cart=[]).id
    first, second = loaded(sessions, token), loaded(sessions, token)
    first["colour"] = "red"
    second["size"] = 4
    first.save()
    second.save()
    assert dict(loaded(sessions, token)) == {"cart": [], "colour": "red", "size": 4}


def test_a_slow_reader_does_not_revert_a_concurrent_write(sessions: Sessions) -> None:
    token = sessions.create(cart=["book"]).id
    slow = loaded(sessions, token)
    assert slow["cart"] == ["book"]
    quick = loaded(sessions, token)
    quick["cart"] = ["book", "pen"]
    quick.save()
    slow.save()
    assert loaded(sessions, token)["cart"] == ["book", "pen"]


def test_a_slow_request_does_not_resurrect_a_logged_out_session(sessions: Sessions) -> None:
    token = sessions.create(user=7).id
    slow = loaded(sessions, token)
    slow["seen"] = True
    loaded(sessions, token).end()
    with pytest.raises(SessionEnded, match="nothing was written"):
        slow.save()
    assert sessions.load(token) is None


def test_logout_outlives_the_absolute_timeout(state: State, sessions: Sessions) -> None:
    token = sessions.create().id
    slow = loaded(sessions, token)
    slow["seen"] = True
    loaded(sessions, token).end()
    for _ in range(3):
        advance(state, 28_800.0)
        with pytest.raises(SessionEnded):
            slow.save()
        assert sessions.load(token) is None


@pytest.mark.parametrize(
    "token", [None, "", "x", "a.b", "A" * 22 + "." + "B" * 43, "A" * 22 + "." + "B" * 44, "é" * 66]
)
def test_unknown_ids_are_never_adopted(sessions: Sessions, token: str | None) -> None:
    assert sessions.load(token) is None
    assert sessions.load(token) is None
    fresh = sessions.new()
    assert fresh.id != token


def test_the_secret_part_is_checked(sessions: Sessions) -> None:
    token = sessions.create(user=7).id
    lookup, _, secret = token.partition(".")
    forged = f"{lookup}.{secret[:-2]}{'AA' if not secret.endswith('AA') else 'BB'}"
    assert sessions.load(forged) is None
    assert sessions.load(token) is not None


def test_the_store_holds_only_hashes(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Recorder(state, monkeypatch)
    sessions = state.session()
    session = sessions.create(user=7, name="Ada")
    lookup, _, secret = session.id.partition(".")
    session["more"] = 1
    session.save()
    loaded(sessions, session.id).end()
    for command in seen.commands:
        assert lookup not in repr(command)
        assert secret not in repr(command)


def test_reading_costs_one_exchange_and_writes_nothing(
    state: State, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sessions.create(cart=[1, 2]).id
    seen = Recorder(state, monkeypatch)
    session = loaded(sessions, token)
    assert session["cart"] == [1, 2]
    assert "cart" in session
    assert not session.modified
    session.save()
    assert [type(command) for command in seen.commands] == [ReadDocument]


def test_nested_mutation_is_seen(sessions: Sessions) -> None:
    token = sessions.create(cart={"items": []}).id
    session = loaded(sessions, token)
    session["cart"]["items"].append("pen")
    assert session.modified
    session.save()
    assert loaded(sessions, token)["cart"] == {"items": ["pen"]}


def test_delete_and_iterate(sessions: Sessions) -> None:
    token = sessions.create(a=1, b=2).id
    session = loaded(sessions, token)
    del session["a"]
    session["c"] = 3
    assert sorted(session) == ["b", "c"]
    assert len(session) == 2
    with pytest.raises(KeyError):
        del session["a"]
    session.save()
    assert dict(loaded(sessions, token)) == {"b": 2, "c": 3}


def test_idle_timeout_moves_with_use(state: State, sessions: Sessions) -> None:
    token = sessions.create().id
    for _ in range(5):
        advance(state, 1_600.0)
        assert sessions.load(token) is not None
    advance(state, 1_801.0)
    assert sessions.load(token) is None


def test_absolute_timeout_does_not(state: State, sessions: Sessions) -> None:
    token = sessions.create().id
    for _ in range(57):
        advance(state, 1_500.0)
        assert sessions.load(token) is not None
    advance(state, 1_000.0)
    assert sessions.load(token) is None


def test_login_rotates_and_the_old_token_keeps_only_what_it_had(
    state: State, sessions: Sessions
) -> None:
    session = sessions.new()
    session["basket"] = ["pen"]
    session.save()
    old = session.id
    session["role"] = "admin"
    new = session.rotate(user=7)
    assert new != old
    assert dict(loaded(sessions, new)) == {"basket": ["pen"], "role": "admin"}
    assert dict(loaded(sessions, old)) == {"basket": ["pen"]}
    advance(state, 11.0)
    assert sessions.load(old) is None
    assert sessions.load(new) is not None


def test_logout_right_after_login_ends_both_tokens(sessions: Sessions) -> None:
    session = sessions.create(user=7)
    old = session.id
    new = session.rotate()
    loaded(sessions, new).end()
    assert sessions.load(new) is None
    assert sessions.load(old) is None


def test_a_session_that_was_ended_cannot_be_rotated(sessions: Sessions) -> None:
    session = sessions.create(user=7)
    loaded(sessions, session.id).end()
    with pytest.raises(SessionEnded):
        session.rotate()


def test_revoke_ends_every_session_of_a_user_and_no_other(sessions: Sessions) -> None:
    mine = [sessions.create(user=7).id for _ in range(3)]
    theirs = sessions.create(user="7").id
    assert sessions.revoke(7) == 3
    assert [sessions.load(token) for token in mine] == [None] * 3
    assert sessions.load(theirs) is not None
    assert sessions.revoke(7) == 0


def test_an_empty_new_session_is_not_stored(sessions: Sessions) -> None:
    session = sessions.new()
    session.save()
    assert not session.saved
    assert sessions.load(session.id) is None


def test_after_the_end_the_object_is_a_fresh_session(sessions: Sessions) -> None:
    session = sessions.create(user=7, name="Ada")
    old = session.id
    session.end()
    assert dict(session) == {}
    session["next"] = 1
    session.save()
    assert session.id != old
    assert dict(loaded(sessions, session.id)) == {"next": 1}
    assert sessions.load(old) is None


def test_the_async_twins(state: State, sessions: Sessions) -> None:
    async def scenario() -> None:
        session = await sessions.acreate(user=7, n=1)
        session["n"] = 2
        await session.asave()
        token = await session.arotate()
        again = await sessions.aload(token)
        assert again is not None
        assert dict(again) == {"n": 2}
        assert [info.handle for info in await sessions.asessions(7)] == [again.handle]
        assert await sessions.arevoke(7) == 1
        assert await sessions.aload(session.id) is None
        other = await sessions.acreate(user=7)
        assert await sessions.aend(7, other.handle)
        await sessions.acreate(user=7)
        assert await sessions.aerase(7) == 1
        assert await sessions.aload(token) is None
        await again.aend()
        await state.aclose()

    asyncio.run(scenario())


def test_values_that_would_come_back_different_are_refused(sessions: Sessions) -> None:
    session = sessions.create()
    session["when"] = {1, 2}
    with pytest.raises(TypeError, match="would come back as something else"):
        session.save()


def test_bad_options_are_refused(state: State) -> None:
    for option in ("idle", "absolute", "grace"):
        with pytest.raises(ConfigurationError, match=f"{option} must be seconds above 0"):
            state.session(**{option: 0.0})
