"""What holds for every service: renaming is invisible, what is not a renaming shows, and nothing crashes."""

import base64
import json
import uuid
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anypod.prove.compare import Noise, ResetIncomplete, compare
from anypod.prove.model import Exchange, Request, Response, Step, Trace
from anypod.prove.renaming import atoms, claims

# A shape is JSON in which an integer n inside `Symbol` stands for the n-th generated value.


class Symbol(int):
    """The n-th generated value of a run."""


SYMBOLS = st.integers(0, 5).map(Symbol)
EMBEDDED = st.tuples(
    st.sampled_from(["/orders/{}", "see {} and {}", "{}", "<a href='/x/{}?y=1'>"]), SYMBOLS
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.sampled_from(["new", "", "a b", "7"])
)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.sampled_from("abcde"), inner, max_size=4),
        ),
        max_leaves=12,
    )


SHAPES = nested(st.one_of(SYMBOLS, EMBEDDED, PLAIN))
CONSTANTS = nested(PLAIN)
TRACES = st.lists(SHAPES, min_size=1, max_size=6)


def values(run: int, form: str) -> list[str]:
    """The generated values of a run: pairwise different, and different from every other run's."""
    made = [uuid.uuid5(uuid.NAMESPACE_OID, f"{run} {n}") for n in range(6)]
    if form == "uuid":
        return [str(value) for value in made]
    if form == "hex":
        return [value.hex for value in made]
    return [base64.urlsafe_b64encode(value.bytes).decode().rstrip("=") for value in made]


def filled(shape: Any, generated: list[str]) -> Any:
    if isinstance(shape, Symbol):
        return generated[shape]
    if isinstance(shape, tuple):
        return shape[0].format(*[generated[shape[1]]] * 2)
    if isinstance(shape, list):
        return [filled(item, generated) for item in shape]
    if isinstance(shape, dict):
        return {key: filled(item, generated) for key, item in shape.items()}
    return shape


def trace(bodies: list[Any], kind: str = "application/json") -> Trace:
    exchanges = []
    for index, body in enumerate(bodies):
        step = Step(index, "GET", f"/{index}", 1, route=f"GET /{index}")
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = Response(200, (("content-type", kind),), data)
        exchanges.append(Exchange(step, 1, 1, Request("GET", f"/{index}"), response))
    return Trace(tuple(exchanges))


def symbols(shape: Any) -> list[int]:
    if isinstance(shape, Symbol):
        return [int(shape)]
    if isinstance(shape, tuple):
        return [int(shape[1])]
    if isinstance(shape, (list, dict)):
        items = shape if isinstance(shape, list) else shape.values()
        return [symbol for item in items for symbol in symbols(item)]
    return []


FORMS = st.sampled_from(["uuid", "hex", "base64"])


@given(TRACES, FORMS)
def test_a_renaming_is_invisible(shapes: list[Any], form: str) -> None:
    runs = [trace([filled(shape, values(run, form)) for shape in shapes]) for run in range(4)]
    noise = Noise.learn(*runs[:3])
    assert noise.identity == ()
    for other in runs:
        assert compare(runs[0], other, noise) == []


@given(TRACES, FORMS, st.data())
def test_two_values_that_become_one_show(shapes: list[Any], form: str, data: st.DataObject) -> None:
    used = sorted({symbol for shape in shapes for symbol in symbols(shape)})
    assume(len(used) > 1)
    one, two = data.draw(st.permutations(used))[:2]
    runs = [trace([filled(shape, values(run, form)) for shape in shapes]) for run in range(3)]
    noise = Noise.learn(*runs)
    merged = values(3, form)
    merged[one] = merged[two]
    assert compare(runs[0], trace([filled(shape, merged) for shape in shapes]), noise)


@given(TRACES, FORMS, st.data())
def test_a_value_that_becomes_two_shows(shapes: list[Any], form: str, data: st.DataObject) -> None:
    per_step = [set(symbols(shape)) for shape in shapes]
    shared = [
        (index, symbol)
        for index, found in enumerate(per_step)
        for symbol in found
        if any(symbol in earlier for earlier in per_step[:index])
    ]
    assume(shared)
    index, symbol = data.draw(st.sampled_from(shared))
    runs = [trace([filled(shape, values(run, form)) for shape in shapes]) for run in range(3)]
    noise = Noise.learn(*runs)
    bodies = [filled(shape, values(3, form)) for shape in shapes]
    foreign = values(3, form)
    foreign[symbol] = values(4, form)[symbol]
    bodies[index] = filled(shapes[index], foreign)
    found = compare(runs[0], trace(bodies), noise)
    assert index in {difference.step_index for difference in found}


@given(st.lists(st.tuples(CONSTANTS, CONSTANTS), min_size=1, max_size=4))
def test_a_constant_that_changes_shows(pairs: list[tuple[Any, Any]]) -> None:
    shapes, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    a = trace([filled(shape, []) for shape in shapes])
    b = trace([filled(shape, []) for shape in others])
    noise = Noise.learn(a, a, a)
    assert bool(compare(a, b, noise)) == (
        json.dumps(shapes, sort_keys=True) != json.dumps(others, sort_keys=True)
    )


KINDS = st.sampled_from(
    [
        "application/json",
        "text/html",
        "text/plain",
        "image/png",
        "application/xml",
        "",
        "x; charset=?",
    ]
)
PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"<p>",
            b"</p>",
            b"<![x",
            b"<!--",
            b"&amp;",
            b"<input name=a value='",
            b'{"a":',
            b"[1,",
            b"2026-13-45",
            b"2026-11-24T10:00:00Z",
            b"1764000000",
            b"99:99",
            b"in 3 seconds",
            b"e30.e30.x",
            b"\n",
            b"\0",
        ]
    ),
)
BODIES = st.lists(PIECES, max_size=6).map(b"".join)


@settings(max_examples=150)
@given(st.lists(st.tuples(BODIES, BODIES, BODIES), min_size=1, max_size=3), KINDS)
def test_any_answers_are_compared(bodies: list[tuple[bytes, bytes, bytes]], kind: str) -> None:
    a, a2, b = (trace([step[run] for step in bodies], kind) for run in range(3))
    try:
        noise = Noise.learn(a, a2, b)
    except ResetIncomplete:
        return
    assert compare(a, a, noise) == []
    assert compare(a, a2, noise) == []
    compare(a, b, noise)
    compare(b, a, noise)


@given(st.text())
def test_atoms_are_the_text(text: str) -> None:
    assert "".join(atom.text for atom in atoms(text)) == text


@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(["e30", ".", ":", "=", "eyJhIjoxfQ", "x" * 27, "%"]), max_size=8
        ).map("".join),
    )
)
def test_any_text_may_be_a_token(text: str) -> None:
    claims(text)
