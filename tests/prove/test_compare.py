"""Comparison by renaming: what is noise to it, what is not, and what it says.

A "service" here is a function from a random source to the answers of one run; runs A and A′ (and B) of
one replica teach the noise, a third run is judged.
"""

import json
from datetime import timedelta

import pytest
from itsdangerous import URLSafeTimedSerializer
from tests.prove.traces import Run, Service, differences, learned, played, random_ids

from anypod.prove.compare import Noise, ResetIncomplete, compare
from anypod.prove.model import Exchange, NoResponse, Trace

pytestmark = pytest.mark.quick


def bodies(*values: object) -> Service:
    def service(run: Run) -> None:
        for value in values:
            run.answer("GET /x", value)

    return service


@pytest.mark.parametrize(
    ("expected", "got", "found"),
    [
        ({"count": 1}, {"count": 2}, ("body $.count", "1", "2")),
        ({"price": "old"}, {"price": "new"}, ("body $.price", '"old"', '"new"')),
        ({"a": 1, "b": 2}, {"a": 1}, ("body $.b", "2", "absent")),
        ({"a": 1}, {"a": 1, "b": [2]}, ("body $.b", "absent", "[2]")),
        ([1, 2], [1], ("body $", "2 items: [1, 2]", "1 item: [1]")),
        ([1, 2], [2, 1], ("body $", "[1, 2]", "[2, 1]")),
        ({"a": None}, {"a": "x"}, ("body $.a", "null", '"x"')),
        ({"a": "1"}, {"a": 1}, ("body $.a", '"1"', "1")),
        ({"a": True}, {"a": False}, ("body $.a", "true", "false")),
        (
            {"a b": {"c": [0, {"d": "x"}]}},
            {"a b": {"c": [0, {"d": "y"}]}},
            ('body $["a b"].c[1].d', '"x"', '"y"'),
        ),
        (
            {"born": "1990-05-01"},
            {"born": "1991-05-01"},
            ("body $.born", '"1990-05-01"', '"1991-05-01"'),
        ),
    ],
)
def test_a_planted_difference_is_found_and_told(
    expected: object, got: object, found: tuple[str, str, str]
) -> None:
    assert differences(bodies(expected), bodies(got)) == [found]


def test_a_status_is_told_alone() -> None:
    def other(run: Run) -> None:
        run.answer("GET /x", {"error": "who are you?"}, status=401)

    assert differences(bodies({"user": "ann"}), other) == [("status", "200", "401")]


def test_another_id_than_the_one_posted_is_found() -> None:
    def other(run: Run) -> None:
        made, foreign = run.uuid(), run.uuid()
        run.answer(
            "POST /orders",
            {"id": made, "state": "new"},
            status=201,
            headers=(("location", f"/orders/{made}"),),
        )
        run.answer(
            f"GET /orders/{made}",
            {"id": foreign, "state": "new", "links": [f"/orders/{made}/cancel"]},
        )

    (found,) = differences(random_ids, other)
    assert found[0] == "body $.id"
    assert found[1].endswith(", as answered before")
    assert found[1].split('"')[1] != found[2].strip('"')


def test_one_id_for_two_things_is_found() -> None:
    def service(run: Run) -> None:
        run.answer("POST /a", {"id": run.uuid()})
        run.answer("POST /a", {"id": run.uuid()})

    def other(run: Run) -> None:
        same = run.uuid()
        run.answer("POST /a", {"id": same})
        run.answer("POST /a", {"id": same})

    ((where, expected, _),) = differences(service, other)
    assert (where, expected) == ("body $.id", "a value that was not there before")


def test_a_counter_that_the_reset_does_not_reach_is_still_judged() -> None:
    def counter(start: int) -> Service:
        return bodies(*({"count": start + n} for n in range(3)))

    a = played(counter(1), 1)
    noise = Noise.learn(a, played(counter(4), 2, 1.3))
    assert compare(a, played(counter(7), 3, 5.0), noise) == []
    assert compare(a, played(bodies({"count": 1}, {"count": 1}, {"count": 2}), 3, 5.0), noise) != []


def test_an_old_moment_for_a_new_one_is_found() -> None:
    def service(run: Run) -> None:
        for _ in range(2):
            run.answer("GET /profile", {"changed": run.tick().isoformat()})

    def other(run: Run) -> None:
        stale = run.tick().isoformat()
        for _ in range(2):
            run.answer("GET /profile", {"changed": stale})

    assert len(differences(service, other)) == 1


def test_moments_are_compared_in_every_form() -> None:
    def service(form: str, days: float) -> Service:
        return lambda run: run.answer(
            "GET /x", {"at": (run.tick() + timedelta(days=days)).strftime(form)}
        )

    for form in ("%Y-%m-%d %H:%M:%S.%f", "%a, %d %b %Y %H:%M:%S GMT", "%Y-%m-%dT%H:%M:%SZ", "%s"):
        assert differences(service(form, 1), service(form, 1)) == []
        assert len(differences(service(form, 1), service(form, 3))) == 1
        assert len(differences(service(form, 1), bodies({"at": "never"}))) == 1


def test_a_moment_far_from_its_run_is_found() -> None:
    def service(days: float) -> Service:
        return lambda run: run.answer(
            "POST /login", {"expires": (run.tick() + timedelta(days=days)).isoformat()}
        )

    assert differences(service(14), service(14)) == []
    assert len(differences(service(14), service(0.01))) == 1


def test_claims_of_a_signed_cookie_are_compared() -> None:
    def service(user: str) -> Service:
        def run_it(run: Run) -> None:
            token = URLSafeTimedSerializer(run.token()).dumps({"user": user})
            run.answer("GET /me", {}, headers=(("set-cookie", f"session={token}; Path=/"),))

        return run_it

    assert differences(service("ann"), service("ann")) == []
    assert differences(service("ann"), service("bob")) == [
        ("cookie session → $.user", '"ann"', '"bob"')
    ]


def test_claims_of_a_json_web_token_are_compared() -> None:
    import base64

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    def service(role: str) -> Service:
        def run_it(run: Run) -> None:
            issued = int(run.tick().timestamp())
            payload = {"role": role, "iat": issued, "exp": issued + 3600, "jti": run.uuid()}
            run.answer(
                "POST /login",
                {"token": f"{part({'alg': 'HS256'})}.{part(payload)}.{run.token(43)}"},
            )

        return run_it

    assert differences(service("user"), service("user")) == []
    assert differences(service("user"), service("admin")) == [
        ("body $.token → $.payload.role", '"user"', '"admin"')
    ]


def test_headers_and_cookies_are_compared() -> None:
    def service(*headers: tuple[str, str]) -> Service:
        return lambda run: run.answer("GET /x", {}, headers=headers)

    cookie = ("set-cookie", "sid=1; Path=/; HttpOnly; Max-Age=60")
    base = service(
        cookie, ("vary", "Cookie, Accept"), ("x-request-id", "a"), ("allow", "GET, HEAD")
    )
    assert (
        differences(
            base,
            service(
                ("allow", "HEAD, GET"), ("vary", "Accept, Cookie"), cookie, ("x-request-id", "b")
            ),
        )
        == []
    )
    assert differences(service(cookie), service()) == [("cookie sid", "1", "no such cookie")]
    assert differences(service(cookie), service(("set-cookie", "sid=1; Path=/"))) == [
        ("cookie sid attributes", "httponly; max-age=60; path=/", "path=/")
    ]
    assert differences(service(("location", "/a")), service(("location", "/b"))) == [
        ("header location", "/a", "/b")
    ]
    assert differences(service(), service(("retry-after", "3"))) == [
        ("header retry-after", "no such header", "3")
    ]


def test_a_page_is_compared_by_its_parts() -> None:
    def page(text: str) -> Service:
        return lambda run: run.answer("GET /", text, kind="text/html")

    base = "<ul id=cart>\n <li>mug</li><li>lamp</li></ul><p>2 items</p>"
    assert differences(page(base), page(base.replace("\n ", ""))) == []
    assert differences(page(base), page(base.replace("2 items", "3 items"))) == [
        ("body text of <p>", "2 items", "3 items")
    ]
    assert differences(page(base), page(base.replace("<li>lamp</li>", ""))) == [
        ("body <li> (2)", "<li>", "<p>")
    ]
    assert differences(page("<input name=a value=1>"), page("<input name=a value=1 checked>")) == [
        (
            'body <input name="a">',
            "<input name='a' value='1'>",
            "<input name='a' value='1' checked=''>",
        )
    ]


def test_text_and_bytes_are_compared() -> None:
    def body(value: str | bytes, kind: str) -> Service:
        return lambda run: run.answer("GET /", value, kind=kind)

    assert differences(body("a\nb\n", "text/plain"), body("a\nc\n", "text/plain")) == [
        ("body line 2", "b", "c")
    ]
    assert differences(body("a\nb\n", "text/plain"), body("a\n", "text/plain")) == [
        ("body line 2", "b", "the end of the body")
    ]
    ((where, expected, _),) = differences(
        body(b"\x00\x01", "image/png"), body(b"\x00\x02", "image/png")
    )
    assert where == "body"
    assert expected.startswith("2 bytes, SHA-256 ")
    assert differences(body("{}", "application/json"), body("<h1>", "text/html"))[-1] == (
        "body",
        'JSON: "{}"',
        "text: <h1>",
    )


def test_no_answer_is_a_difference() -> None:
    a, noise = learned(bodies({"a": 1}))
    (exchange,) = a.exchanges
    silent = Trace(
        (Exchange(exchange.step, 2, 1, exchange.request, NoResponse("closed the connection")),)
    )
    (found,) = compare(a, silent, noise)
    assert (found.where, found.expected, found.got) == (
        "no response",
        "200",
        "closed the connection",
    )


def test_duplicates_and_missing_steps_are_not_compared() -> None:
    a, noise = learned(bodies({"n": 1}, {"n": 2}))
    first, second = a.exchanges
    again = Exchange(first.step, 2, 1, first.request, second.response, duplicate=True)
    assert compare(a, Trace((first, again)), noise) == []


def test_structure_that_differs_between_two_runs_of_one_replica_is_an_incomplete_reset() -> None:
    one, two = played(bodies({"a": 1}, []), 1), played(bodies({"a": 1}, [1]), 2, 1.3)
    with pytest.raises(ResetIncomplete) as raised:
        Noise.learn(one, two)
    assert raised.value.step == 1
    assert (raised.value.difference.where, raised.value.difference.kind) == ("body $", "length")
    with pytest.raises(ResetIncomplete):
        Noise.learn(played(bodies({"a": 1}), 1), played(bodies({"b": 1}), 2))
    with pytest.raises(ResetIncomplete):
        Noise.learn(played(bodies({"": 1}), 1), played(bodies({}), 2))


def test_what_depends_on_the_process_is_a_finding_and_is_told_once() -> None:
    def host(name: str) -> Service:
        return bodies(
            {"served_by": name, "names": ["a", "b", "c"] if name == "one" else ["c", "a", "b"]},
            {"n": 1},
        )

    a = played(host("one"), 1)
    noise = Noise.learn(a, played(host("one"), 2, 1.3), played(host("two"), 3, 2.6))
    assert [(d.where, d.kind) for d in noise.identity] == [
        ("body $.served_by", "value"),
        ("body $.names", "order"),
    ]
    assert compare(a, played(host("three"), 4, 30.0), noise) == []
    assert (0, "body $.served_by") in noise.not_compared()


def test_each_further_run_of_one_replica_shows_more_of_what_is_random() -> None:
    def pick(size: int) -> Service:
        return bodies({"size": size})

    runs = [played(pick(size), seed, seed * 1.3) for seed, size in enumerate((1, 1, 1, 2), 1)]
    other = played(pick(3), 9, 60.0)
    assert compare(runs[0], other, Noise.learn(*runs[:3])) != []
    assert compare(runs[0], other, Noise.learn(*runs[:3], more=runs[3:])) == []


def test_a_measured_float_is_one_value() -> None:
    def took(seconds: float) -> Service:
        return bodies({"took": seconds, "other": seconds})

    a = played(took(1.25), 1)
    noise = Noise.learn(a, played(took(1.75), 2, 1.3))
    assert compare(a, played(took(2.99e-05), 3, 60.0), noise) == []


def test_a_stated_duration_is_compared_where_it_was_not_measured() -> None:
    def page(text: str) -> Service:
        return lambda run: run.answer("GET /", text, kind="text/html")

    found = differences(page("<p>it waits 30 seconds</p>"), page("<p>it waits 5 seconds</p>"))
    assert [where for where, *_ in found] == ["body text of <p>"]
    found = differences(page("<p>2.50 s</p>"), page("<p>never</p>"))
    assert [where for where, *_ in found] == ["body text of <p>"]


def test_deep_and_huge_bodies_are_compared() -> None:
    deep = "[" * 5000 + "]" * 5000
    raw = lambda text: lambda run: run.answer("GET /", text.encode())  # noqa: E731
    assert differences(raw(deep), raw(deep)) == []
    assert len(differences(raw(deep), raw(deep[1:-1]))) == 1
    many = [{"id": n, "name": f"name {n}"} for n in range(5000)]
    assert differences(bodies(many), bodies(many)) == []
    other = [dict(item, name="x") for item in many]
    assert len(differences(bodies(many), bodies(other))) == 49


def test_malformed_markup_is_read_in_linear_time() -> None:
    def page(text: str) -> Service:
        return lambda run: run.answer("GET /", text, kind="text/html")

    for piece in (
        "<a",
        "<a ",
        '<a "',
        "<a '",
        "<!--",
        "<!",
        "<script>",
        "&#",
        "</",
        '<a b="c"d=\'',
    ):
        text = piece * 5_000
        assert differences(page(text + "x"), page(text + "x")) == []
        assert len(differences(page("<p>1</p>" + text), page("<p>2</p>" + text))) >= 1


def test_scripts_and_styles_are_text() -> None:
    def page(value: str) -> Service:
        return lambda run: run.answer(
            "GET /", f"<script>if (a<b) x('{value}')</script><p>&eacute;", kind="text/html"
        )

    assert differences(page("a"), page("a")) == []
    ((where, expected, got),) = differences(page("old"), page("new"))
    assert (where, expected, got) == (
        "body text of <script>",
        "if (a<b) x('old')",
        "if (a<b) x('new')",
    )
