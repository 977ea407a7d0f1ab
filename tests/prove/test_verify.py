"""Which causes are verified: by what a copy mends, and what a copy of other state does not."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from anypod.prove.cause import Suspected, rule
from anypod.prove.model import Exchange, Request, Response, Step, Trace
from anypod.prove.player import Copy, Played, Stopped
from anypod.prove.schedules import Delivery, Kind, Schedule
from anypod.prove.verify import Outcome, Replayed, Verification
from anypod.replicas import Change, Constant, State, Write

pytestmark = pytest.mark.quick
WRITER, READER = (0, 1), (1, 2)
SCHEDULE = Schedule(Kind.ANOTHER_POD, "", (Delivery(0, *WRITER), Delivery(1, *READER)))


def state(name: str) -> State:
    return State("global", "shop", name)


def exchange(what: str, pod: int, *names: str, writes: tuple[Write, ...] = ()) -> Exchange:
    method, target = what.split()
    step = Step(0, method, target, 1)
    changes = tuple(Change("global", name, "shop", "", "0", "1") for name in names)
    return Exchange(step, pod, 1, Request(method, target), Response(200), changes, writes=writes)


def suspects(*names: str, kept: bool = False) -> list[Suspected]:
    writer = exchange("POST /", 2 if kept else 1, *names)
    reader = exchange("GET /", 2)
    return [Suspected(change, 0, writer, reader) for change in writer.changes]


def replay(
    heals: Callable[[Copy], bool], *, carried: Collection[str] = (), lines: tuple[Write, ...] = ()
) -> Callable[..., Replayed]:
    """A service whose answer is right after some copies; only `carried` states can be copied."""

    def play(copy: Copy | None = None, trace: Collection[State] = ()) -> Replayed:
        writes = lines if trace else ()
        ran = Trace((exchange("POST /", 1, writes=writes), exchange("GET /", 2)))
        if copy is None:
            return Replayed(Outcome.DIFFERS, Played(ran, {}))
        copied = frozenset(s for s in copy.states if not carried or s.name in carried)
        outcome = Outcome.RIGHT if heals(copy) else Outcome.DIFFERS
        return Replayed(outcome, Played(ran, {}, copied=copied))

    return play


def test_a_copy_that_mends_the_answer_verifies_its_state() -> None:
    play = replay(lambda copy: state("count") in copy.states)
    cause = Verification(play, SCHEDULE).cause(suspects("count", "log"))
    assert cause is not None
    assert (cause.name, cause.verified, cause.together) == ("count", True, ())


def test_the_state_that_mends_is_the_cause_not_the_likeliest_one() -> None:
    play = replay(lambda copy: state("log") in copy.states)
    cause = Verification(play, SCHEDULE).cause(suspects("count", "log"))
    assert cause is not None
    assert (cause.name, cause.verified) == ("log", True)


def test_when_any_copy_mends_it_nothing_is_verified() -> None:
    cause = Verification(replay(lambda _: True), SCHEDULE).cause(suspects("count", "log"))
    assert cause is not None
    assert (cause.name, cause.verified) == ("count", False)


def test_the_control_copies_other_state_of_the_same_process() -> None:
    asked: list[Copy] = []

    def heals(copy: Copy) -> bool:
        asked.append(copy)
        return state("count") in copy.states

    Verification(replay(heals), SCHEDULE).cause(suspects("count", "log"))
    control = asked[-1]
    assert control == Copy(frozenset({state("log")}), WRITER, but=frozenset({state("count")}))


def test_two_states_that_are_needed_together_are_named_together() -> None:
    play = replay(lambda copy: {state("a"), state("c")} <= copy.states)
    cause = Verification(play, SCHEDULE).cause(suspects("a", "b", "c"))
    assert cause is not None
    assert (cause.name, cause.verified, cause.together) == ("a", True, ("c",))


def test_what_cannot_be_copied_stays_correlated() -> None:
    play = replay(lambda copy: state("lock") in copy.states, carried=["other"])
    cause = Verification(play, SCHEDULE).cause(suspects("lock"))
    assert cause is not None
    assert (cause.name, cause.verified) == ("lock", False)


def test_an_old_copy_is_mended_from_another_pod() -> None:
    schedule = Schedule(
        Kind.STALE_COPY, "", (Delivery(0, *READER), Delivery(1, *WRITER), Delivery(2, *READER))
    )
    asked: list[Copy] = []

    def heals(copy: Copy) -> bool:
        asked.append(copy)
        return state("pages") in copy.states

    cause = Verification(replay(heals), schedule).cause(suspects("pages", kept=True))
    assert cause is not None
    assert cause.verified
    assert {copy.source for copy in asked} == {WRITER}


def test_without_time_the_cause_is_told_as_far_as_it_is_known() -> None:
    def stopped(copy: Copy | None = None, trace: Collection[State] = ()) -> Replayed:
        raise Stopped

    cause = Verification(stopped, SCHEDULE).cause(suspects("count"))
    assert cause is not None
    assert (cause.name, cause.verified, cause.written_at) == ("count", False, None)
    assert Verification(stopped, SCHEDULE).cause([]) is None


def test_the_line_is_the_writers() -> None:
    line = Write(state("count"), "shop.py", 12)
    play = replay(lambda copy: state("count") in copy.states, lines=(line,))
    cause = Verification(play, SCHEDULE).cause(suspects("count"))
    assert cause is not None
    assert (cause.written_in, cause.written_at) == ("shop.py", 12)


def test_what_each_process_drew_at_import_is_named_if_it_alone_decides() -> None:
    secret = Constant(state("secret"), "shop.py", "a")

    def play(copy: Copy | None = None, trace: Collection[State] = ()) -> Replayed:
        assert copy is not None
        ran = Trace((exchange("POST /", 1), exchange("GET /", 2)))
        unlike = (Constant(state("pid"), "shop.py", "b"), secret) if copy.compares else ()
        outcome = Outcome.RIGHT if secret.state in copy.states else Outcome.DIFFERS
        return Replayed(outcome, Played(ran, {}, copied=copy.states, unlike=unlike))

    cause = Verification(play, SCHEDULE).cause([])
    assert cause is not None
    assert (cause.name, cause.verified, cause.drawn) == ("secret", True, True)
    assert (cause.before, cause.after) == ("a value of its own", "a value of its own")
    assert rule(Kind.ANOTHER_POD, cause, "GET /") == "POD109"


def test_a_state_that_changed_is_verified_together_with_what_each_process_drew() -> None:
    secret = Constant(state("secret"), "shop.py", "a")
    needed = {state("count"), secret.state}

    def play(copy: Copy | None = None, trace: Collection[State] = ()) -> Replayed:
        ran = Trace((exchange("POST /", 1), exchange("GET /", 2)))
        states = frozenset() if copy is None else copy.states
        unlike = (secret,) if copy is not None and copy.compares else ()
        outcome = Outcome.RIGHT if needed <= states else Outcome.DIFFERS
        return Replayed(outcome, Played(ran, {}, copied=states, unlike=unlike))

    cause = Verification(play, SCHEDULE).cause(suspects("other", "count"))
    assert cause is not None
    assert (cause.name, cause.together, cause.verified) == ("count", ("secret",), True)
    assert not cause.drawn


def test_a_difference_without_any_state_has_no_cause() -> None:
    cause = Verification(replay(lambda _: False), SCHEDULE).cause([])
    assert cause is None
