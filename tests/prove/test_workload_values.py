"""Values that answers give and later requests send: found, written as their place requires, or missed by name."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prove.texts import answer, read

from anypod.prove.model import Response
from anypod.prove.workload import MissingValue, render

pytestmark = pytest.mark.quick


PRODUCER = "# @name made\nPOST /orders/\n###\n"


def rendered(
    rest: str, response: Response
) -> tuple[str, tuple[tuple[str, str], ...], bytes | None]:
    workload = read(PRODUCER + rest)
    request = render(workload.steps[1], workload, {"made": response})
    return request.target, request.headers, request.body


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$.id", "7"),
        ("$.items[0].name", "a"),
        ("$.items[-1].name", "b"),
        ("$['odd key']", "x"),
        ('$["odd key"]', "x"),
        ("$.nothing", "null"),
        ("$.yes", "true"),
        ("$.price", "1.5"),
        ("$.deep", '{"a":[1]}'.replace(":", ": ")),
        ("*", None),
    ],
)
def test_a_value_is_found_in_json(path: str, value: str | None) -> None:
    body = {
        "id": 7,
        "items": [{"name": "a"}, {"name": "b"}],
        "odd key": "x",
        "nothing": None,
        "yes": True,
        "price": 1.5,
        "deep": {"a": [1]},
    }
    _, headers, _ = rendered(f"GET /\nX: {{{{made.response.body.{path}}}}}", answer(body))
    assert headers == (("X", json.dumps(body) if value is None else value),)


def test_a_value_is_found_in_html_xml_and_headers() -> None:
    page = "<form><input name='csrf' value='a&amp;b'/><p>Hello <b>Ann</b></p></form>"
    html = answer(page, ("content-type", "text/html; charset=utf-8"))
    form = "POST /\nContent-Type: application/x-www-form-urlencoded\n\ncsrf="
    assert (
        rendered(form + "{{made.response.body.//input[@name='csrf']/@value}}", html)[2]
        == b"csrf=a%26b"
    )
    assert rendered("GET /\nX: {{made.response.body.//p}}", html)[1] == (("X", "Hello Ann"),)
    assert rendered("GET /\nX: {{made.response.body.string(//b)}}", html)[1] == (("X", "Ann"),)
    xml = answer("<?xml version='1.0'?><a><b>1</b></a>", ("content-type", "application/xml"))
    assert rendered("GET /\nX: {{made.response.body./a/b}}", xml)[1] == (("X", "1"),)
    located = answer({}, ("location", "/orders/7"))
    assert rendered("GET /\nX: {{made.response.headers.Location}}", located)[1] == (
        ("X", "/orders/7"),
    )


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/orders/7?x=1#top", "/orders/7?x=1"),
        ("http://localhost/orders/7", "/orders/7"),
        ("http://127.0.0.1:4711/orders/7?a=b", "/orders/7?a=b"),
        ("7", "/orders/7"),
        ("../carts/7", "/carts/7"),
        ("?page=2", "/orders/?page=2"),
    ],
)
def test_a_location_is_followed_as_the_answer_gave_it(location: str, target: str) -> None:
    given_ = answer({}, ("location", location))
    assert rendered("GET {{made.response.headers.Location}}", given_)[0] == target


def test_a_value_is_written_as_its_place_requires() -> None:
    value = 'a"b+c&d=é 1/2?'
    response = answer({"v": value})
    reference = "{{made.response.body.$.v}}"
    assert (
        rendered(f"GET /x?q={reference}&r=1", response)[0]
        == "/x?q=a%22b%2Bc%26d%3D%C3%A9%201/2?&r=1"
    )
    assert rendered(f"GET /x/{reference}", response)[0] == "/x/a%22b+c&d=%C3%A9%201/2%3F"
    body = rendered(f'POST /\nContent-Type: application/json\n\n{{"v": "{reference}"}}', response)[
        2
    ]
    assert json.loads(body or b"") == {"v": value}
    raw = rendered(
        f'POST /\nContent-Type: application/json\n\n{{"v": {reference}}}', answer({"v": [1]})
    )[2]
    assert json.loads(raw or b"") == {"v": [1]}
    assert rendered(f"POST /\n\n{reference}", response)[2] == value.encode()
    basic = rendered("GET /\nAuthorization: Basic ann:secret", response)[1]
    assert basic == (("Authorization", "Basic YW5uOnNlY3JldA=="),)


@pytest.mark.parametrize(
    ("reference", "response", "why"),
    [
        ("body.$.id", answer({"no": 1}), 'the answer (200) has no $.id: $ is {"no": 1}'),
        ("body.$.a[2]", answer({"a": [1]}), "the answer (200) has no $.a[2]: $.a is [1]"),
        ("body.$.a.b", answer({"a": "text"}), "has no $.a.b"),
        ("body.$.id", answer("<p>", status=500), "the answer (500) is not JSON: '<p>'"),
        ("body.$.id", answer("[" * 100_000), "is not JSON"),
        (
            "body.//input/@value",
            answer("<p>hi</p>"),
            "the answer (200) has nothing at //input/@value",
        ),
        ("body.//p", answer(""), "the answer (200)"),
        (
            "headers.Location",
            answer({}, ("etag", "x")),
            "the answer (200) has no header Location; it has etag",
        ),
        ("body.$.id", None, "'made' got no answer"),
        ("body.$.id", answer({"id": "a\r\nX: 1"}), "has a line break"),
    ],
)
def test_a_value_that_is_not_there_is_named(
    reference: str, response: Response | None, why: str
) -> None:
    workload = read(f"{PRODUCER}GET /x\nX: {{{{made.response.{reference}}}}}")
    with pytest.raises(MissingValue) as raised:
        render(workload.steps[1], workload, {} if response is None else {"made": response})
    assert why in str(raised.value)
    assert raised.value.expression == f"made.response.{reference}"
    assert "line 4: GET /x needs" in str(raised.value)


def test_a_location_elsewhere_is_not_followed() -> None:
    with pytest.raises(MissingValue, match=r"leads to accounts\.example, which is not the service"):
        rendered(
            "GET {{made.response.headers.Location}}",
            answer({}, ("location", "https://accounts.example/x")),
        )
    with pytest.raises(MissingValue, match="is not a path of the service"):
        rendered("GET {{made.response.headers.Location}}", answer({}, ("location", "mailto:x")))


@given(st.binary(max_size=2000))
def test_any_answer_has_a_value_or_it_is_missing(body: bytes) -> None:
    for path in ("$.a[0]", "//a/@href", "*"):
        workload = read(f"{PRODUCER}POST /\n\n{{{{made.response.body.{path}}}}}")
        for kind in (
            "application/json",
            "text/html",
            "application/xml",
            "text/plain; charset=nope",
        ):
            response = Response(200, (("content-type", kind),), body)
            with contextlib.suppress(MissingValue):
                render(workload.steps[1], workload, {"made": response})
