"""The header's grammar, the fingerprint and the policy on answers, without any framework."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anypod.errors import (
    EarlierFailure,
    InFlight,
    KeyReused,
    LeaseLost,
    NotReplayable,
    RecordError,
    StoreUnavailable,
)
from anypod.web.idempotency_key import (
    LONGEST_KEY,
    BadKey,
    KeptAnswer,
    fingerprint,
    is_kept,
    parse_key,
    refusal,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ('"8e03978e-40d5-43dd-bc93-6894a57f9324"', "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ('  "a b, c"  ', "a b, c"),
        (r'"say \"hi\" \\ bye"', 'say "hi" \\ bye'),
        ('"a";version=2; signed', "a"),
        ("dGVzdA==", "dGVzdA=="),
        ('"' + "k" * LONGEST_KEY + '"', "k" * LONGEST_KEY),
    ],
)
def test_good_keys(value: str, key: str) -> None:
    assert parse_key([value]) == key


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], "needs an Idempotency-Key header"),
        (["a", "b"], "sent 2 times"),
        ([""], "must be a quoted string"),
        (['""'], "1 to 255 characters, not 0"),
        (["k" * 256], "not 256"),
        (['"a", "b"'], "must be a quoted string"),
        (["a b"], "must be a quoted string"),
        (['"a'], "must be a quoted string"),
        (['a"b'], "must be a quoted string"),
        ([r'"\a"'], "must be a quoted string"),
        (['"caf\u00e9"'], "must be a quoted string"),
        (['"a\x00"'], "must be a quoted string"),
        (['"a" b'], "must be a quoted string"),
    ],
)
def test_bad_keys_say_what_was_expected(values: list[str], says: str) -> None:
    with pytest.raises(BadKey, match=says):
        parse_key(values)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_every_printable_string_survives_quoting(key: str) -> None:
    quoted = key.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_key([f'"{quoted}"']) == key


def test_query_order_is_no_difference() -> None:
    assert fingerprint("POST", "/a", "x=1&y=2", b"") == fingerprint("POST", "/a", "y=2&x=1", b"")


def test_anything_else_is_a_difference() -> None:
    requests = [
        ("POST", "/a", "", b""),
        ("PUT", "/a", "", b""),
        ("POST", "/a/", "", b""),
        ("POST", "/a", "x=1", b""),
        ("POST", "/a", "x=1&x=1", b""),
        ("POST", "/a", "x=", b""),
        ("POST", "/a", "x=1&y=2", b""),
        ("POST", "/a", "x=2&y=1", b""),
        ("POST", "/a", "", b"x=1"),
        ("POST", "/a", "", b"{}"),
        ("POST", "/ax", "", b""),
    ]
    assert len({fingerprint(*request) for request in requests}) == len(requests)


def test_which_answers_are_kept() -> None:
    passing = {401, 403, 408, 409, 425, 429}
    for status in range(200, 600):
        assert is_kept(status) is (status not in passing)


def test_an_answer_keeps_repeated_headers_and_drops_what_is_one_clients_or_one_connections() -> (
    None
):
    headers = [
        ("Link", "</a>; rel=next"),
        ("Link", "</b>; rel=last"),
        ("Set-Cookie", "id=1"),
        ("Content-Length", "2"),
        ("Date", "now"),
        ("X-Made", "yes"),
    ]
    kept = KeptAnswer.of(201, headers, b"ok")
    assert kept.headers == (headers[0], headers[1], headers[5])
    assert KeptAnswer.of(201, headers, b"ok", cookies=True).headers[2] == headers[2]
    assert KeptAnswer.from_data(kept.as_data()) == kept


def test_refusals() -> None:
    expected = {
        BadKey("missing"): 400,
        KeyReused("other"): 422,
        InFlight(2.2, "busy"): 409,
        NotReplayable("large"): 409,
        EarlierFailure("died"): 500,
        StoreUnavailable("away"): 503,
        LeaseLost("late"): None,
        RecordError("garbled"): None,
    }
    for error, status in expected.items():
        problem = refusal(error)
        assert (problem and problem.status) == status
    busy = refusal(InFlight(2.2, "busy"))
    assert busy is not None
    assert dict(busy.headers()) == {
        "Content-Type": "application/problem+json",
        "Retry-After": "3",
    }
