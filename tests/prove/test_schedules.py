"""Schedules: what each covers, counted by brute force."""

from __future__ import annotations

from itertools import combinations, islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anypod.prove.options import usual_budget
from anypod.prove.schedules import (
    Delivery,
    Kind,
    Retry,
    another_pod,
    at_random,
    one_replica,
    pod_moved,
    retry,
    stale_copy,
)

pytestmark = pytest.mark.quick


@given(steps=st.integers(1, 40), slots=st.integers(1, 5))
def test_another_pod_gives_every_request_a_process_of_its_own(steps: int, slots: int) -> None:
    for schedule in another_pod(steps, slots):
        assert [d.step for d in schedule.deliveries] == list(range(steps))
        assert schedule.starts == steps


@given(steps=st.integers(2, 40), slots=st.integers(2, 5))
def test_another_pod_parts_every_pair_by_import(steps: int, slots: int) -> None:
    schedules = list(another_pod(steps, slots))
    for first, second in combinations(range(steps), 2):
        assert any(s.deliveries[first].slot != s.deliveries[second].slot for s in schedules)
    neighbours = schedules[0].deliveries
    assert all(a.slot != b.slot for a, b in pairwise(neighbours))


@given(steps=st.integers(2, 40), slots=st.integers(2, 5))
def test_replicas_that_stay_part_every_pair_too(steps: int, slots: int) -> None:
    runs = list(another_pod(steps, slots, routed=True))
    assert all(d.life == 0 for schedule in runs for d in schedule.deliveries)
    for first, second in combinations(range(steps), 2):
        assert any(s.deliveries[first].slot != s.deliveries[second].slot for s in runs)


@settings(deadline=None, max_examples=25)
@given(
    steps=st.integers(3, 14),
    slots=st.integers(2, 4),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_stale_copy_covers_every_triple(
    steps: int, slots: int, seed: int, data: st.DataObject
) -> None:
    writers = data.draw(st.sets(st.integers(0, steps - 1)))
    planned = list(stale_copy(steps, slots, writers=writers, seed=seed))
    routings = [[d.slot for d in schedule.deliveries] for schedule, _ in planned]
    for i, j, k in combinations(range(steps), 3):
        assert any(a[i] == a[k] != a[j] for a in routings), (i, j, k)
    assert sum(gained for _, gained in planned) == steps * (steps - 1) * (steps - 2) // 6


def test_stale_copy_takes_about_as_many_runs_as_greedy_covers_do() -> None:
    assert len(list(stale_copy(20, 2))) <= 18
    assert len(list(stale_copy(50, 2))) <= 30


def test_stale_copy_is_the_same_for_the_same_seed() -> None:
    assert list(stale_copy(12, 3, seed=5)) == list(stale_copy(12, 3, seed=5))
    assert list(stale_copy(12, 3, seed=5)) != list(stale_copy(12, 3, seed=6))


@pytest.mark.parametrize(
    ("mode", "second_slot", "lost"),
    [(Retry.SAME, 0, False), (Retry.OTHER, 1, False), (Retry.LOST, 1, True)],
)
def test_retry_delivers_again_right_after(mode: Retry, second_slot: int, lost: bool) -> None:
    schedule = retry(3, {1}, mode, 3)
    assert schedule.deliveries == (
        Delivery(0, 0),
        Delivery(1, 0, lost=lost),
        Delivery(1, second_slot, duplicate=True),
        Delivery(2, 0),
    )


def test_retry_on_one_replica_stays_there() -> None:
    assert {d.slot for d in retry(3, {0, 1}, Retry.LOST, 1).deliveries} == {0}


def test_pod_moved_parts_each_write_from_what_follows() -> None:
    schedules = list(pod_moved(5, {1, 3, 4}))
    names = ["killed before every request", "killed after request 2", "killed after request 4"]
    assert [s.name for s in schedules] == names
    first = schedules[1].deliveries
    assert [d.slot for d in first] == [0, 0, 1, 1, 1]
    assert all(s.moves and s.starts == 2 for s in schedules[1:])


def test_pod_moved_everywhere_never_uses_a_process_twice() -> None:
    everywhere = next(pod_moved(7, set()))
    assert everywhere.starts == 7


def test_a_part_of_a_schedule_is_a_schedule() -> None:
    schedule = next(another_pod(6, 3))
    part = schedule.keep({5, 0, 3})
    assert [d.step for d in part.deliveries] == [0, 3, 5]
    assert part.kind is Kind.ANOTHER_POD
    assert part.deliveries[1] == schedule.deliveries[3]
    assert one_replica([2, 4], slot=1) == (Delivery(2, 1), Delivery(4, 1))


def test_random_schedules_are_the_seeds_and_have_no_end() -> None:
    drawn = [list(islice(at_random(40, 3, seed), 5)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    deliveries = [d for schedule in drawn[0] for d in schedule.deliveries]
    assert {d.slot for d in deliveries} == {0, 1, 2}
    assert any(d.life for d in deliveries)
    for schedule in drawn[0]:
        for slot in range(3):
            lives = [d.life for d in schedule.deliveries if d.slot == slot]
            assert lives == sorted(lives)


@pytest.mark.parametrize(
    ("requests", "seconds"), [(1, 60.0), (150, 60.0), (500, 200.0), (5000, 240.0)]
)
def test_a_larger_workload_has_a_larger_budget_if_none_is_named(
    requests: int, seconds: float
) -> None:
    assert usual_budget(requests) == seconds
