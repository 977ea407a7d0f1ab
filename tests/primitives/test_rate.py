from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from anypod import ConfigurationError, State
from anypod.commands import Algorithm, Policy
from anypod.primitives.rate import LARGEST_LOG, describe, parse_rates

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "limit", "period", "burst"),
    [
        ("100/minute", 100, 60.0, 100),
        ("100 per minute", 100, 60.0, 100),
        ("5/15m", 5, 900.0, 5),
        ("5 per 15 minutes", 5, 900.0, 5),
        ("10/second burst 20", 10, 1.0, 20),
        ("1_000/day", 1000, 86_400.0, 1000),
        ("3/250ms", 3, 0.25, 3),
        ("  7 / 2 hours ", 7, 7_200.0, 7),
        ("1/week", 1, 604_800.0, 1),
        ("1/S", 1, 1.0, 1),
    ],
)
def test_what_people_write(text: str, limit: int, period: float, burst: int) -> None:
    assert parse_rates(text, Algorithm.GCRA) == (Policy(Algorithm.GCRA, limit, period, burst),)


def test_several_rates() -> None:
    rates = parse_rates("5/s, 100/minute; 1000/d", Algorithm.FIXED_WINDOW)
    assert [policy.limit for policy in rates] == [5, 100, 1000]
    assert {policy.algorithm for policy in rates} == {Algorithm.FIXED_WINDOW}


@pytest.mark.parametrize(
    ("text", "character", "expected"),
    [
        ("", 1, "a limit such as 100"),
        ("fast", 1, "a limit"),
        ("-5/minute", 1, "a limit"),
        ("0/minute", 1, "a limit such as 100 from 1"),
        ("100", 4, "'/' or 'per'"),
        ("100/", 5, "a unit"),
        ("100/fortnight", 5, "a unit"),
        ("100/minut", 5, "a unit"),
        ("100/0 minutes", 5, "a count from 1"),
        ("100/minute burst", 17, "a burst"),
        ("100/minute bust 5", 12, "';' and another rate"),
        ("100/minute;", 12, "a limit"),
        ("100/5000d", 5, "at most a year"),
        ("9999999999/minute", 1, "from 1 to 1,000,000"),
        ("1.5/minute", 2, "'/' or 'per'"),
        ("9" * 900 + "/minute", 1, "from 1 to 1,000,000"),
        ("1/" + "9" * 900 + "s", 3, "a count from 1"),
        ("__/minute", 1, "from 1 to 1,000,000"),
    ],
)
def test_errors_point_at_the_character(text: str, character: int, expected: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_rates(text, Algorithm.GCRA)
    headline, shown, pointer = str(refusal.value).split("\n")
    assert f"character {character}: expected" in headline
    assert expected in headline
    assert shown[4:] == text
    assert pointer.index("^") - 4 == character - 1


def test_only_gcra_has_a_burst() -> None:
    with pytest.raises(ConfigurationError, match="no burst"):
        parse_rates("5/s burst 9", Algorithm.SLIDING_LOG)


@given(st.text())
def test_no_text_does_anything_worse(text: str) -> None:
    try:
        policies = parse_rates(text, Algorithm.GCRA)
    except ConfigurationError:
        return
    assert all(policy.limit > 0 and policy.period > 0 for policy in policies)


@given(st.integers(1, 10**6), st.sampled_from([0.25, 1.0, 30.0, 60.0, 900.0, 7200.0, 86_400.0]))
def test_described_policies_read_back(limit: int, period: float) -> None:
    policy = Policy(Algorithm.GCRA, limit, period, limit)
    assert parse_rates(describe(policy), Algorithm.GCRA) == (policy,)


def test_what_is_no_rate_names_the_limit() -> None:
    """A limit of 5,000 digits used to be Python's own ValueError."""
    policy = Policy(Algorithm.GCRA, 1, 60.0, 1)
    log = Policy(Algorithm.SLIDING_LOG, LARGEST_LOG + 1, 60.0, 1)
    with State("memory://", namespace="") as state:
        for rates, words in (
            ("100", "character 4"),
            ("9" * 5_000 + "/minute", "1,000 characters at most"),
            ("; ".join(f"1/{n}m" for n in range(1, 18)), "at least one rate, at most 16"),
            ("1/m, 1/m", "none twice"),
            ("", "character 1"),
            ([], "at least one rate, at most 16"),
            (None, "rates must be a text"),
            (7, "rates must be a text"),
            (b"1/m", "rates must be a text"),
            (["1/m"], "rates must be a text"),
            ([replace(policy, limit=10**7)], "a limit and a burst from 1 to 1,000,000"),
            ([replace(policy, limit=10**5_000)], "a policy needs"),
            ([replace(policy, limit=True)], "a policy needs"),
            ([replace(policy, limit=1.5)], "a policy needs"),
            ([replace(policy, burst=0)], "a policy needs"),
            ([replace(policy, period=math.nan)], "a policy needs"),
            ([replace(policy, period=math.inf)], "a policy needs"),
            ([replace(policy, period=1e-9)], "a policy needs"),
            ([replace(policy, period="60")], "a policy needs"),
            ([replace(policy, algorithm="gcra")], "algorithm must be an Algorithm"),
            ([log], "10,000 is its largest limit"),
        ):
            with pytest.raises(ConfigurationError, match=r"^rate limit 'api'") as refusal:
                state.rate_limit("api", rates)  # type: ignore[arg-type]
            assert words in str(refusal.value), rates
        with pytest.raises(ConfigurationError, match="'api': a sliding log remembers"):
            state.rate_limit("api", "10001/hour", algorithm="sliding log")
        for algorithm in ("bucket", None, 7, []):
            with pytest.raises(ConfigurationError, match="'api': there is no algorithm"):
                state.rate_limit("api", "1/m", algorithm=algorithm)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="'api': an override must be a text"):
            state.rate_limit("api", "1/m", overrides={"ada": 7})  # type: ignore[dict-item]
        with pytest.raises(ConfigurationError, match="'api': an override must be a text"):
            state.rate_limit("api", "1/m", overrides=lambda _: 7).hit("ada")  # type: ignore[arg-type,return-value]
        with pytest.raises(ValueError, match="'api': a cost must be an int"):
            state.rate_limit("api", "1/m").hit("ada", cost="x" * 5_000)  # type: ignore[arg-type]
        with pytest.raises(
            ValueError, match="'api': a cost of a value of type int can never be admitted"
        ):
            state.rate_limit("api", "1/m").hit("ada", cost=10**5_000)
