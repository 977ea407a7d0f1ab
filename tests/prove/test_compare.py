"""Comparison by renaming: what is noise to it, what is not, and what it says.

A "service" here is a function from a random source to the answers of one run; runs A and A′ (and B) of
one replica teach the noise, a third run is judged.
"""

import json
import random
import string
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import quote

import pytest
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer

from anypod.prove.compare import Noise, ResetIncomplete, compare
from anypod.prove.model import Exchange, NoResponse, Request, Response, Step, Trace
from anypod.prove.workload import route

pytestmark = pytest.mark.quick

NOW = datetime.now(UTC).replace(microsecond=123456)


class Run:
    """One run of a service: its answers in order, and the clock they were made by."""

    def __init__(self, seed: int, after: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.now = NOW + timedelta(seconds=after)
        self.exchanges: list[Exchange] = []

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def token(self, length: int = 32) -> str:
        return "".join(self.random.choices(string.ascii_letters + string.digits + "-_", k=length))

    def tick(self, seconds: float = 0.02) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def answer(
        self,
        label: str,
        body: object,
        *,
        status: int = 200,
        headers: tuple[tuple[str, str], ...] = (),
        kind: str = "application/json",
    ) -> None:
        method, target = label.split(" ")
        step = Step(len(self.exchanges), method, target, 1, route=route(label))
        data = body if isinstance(body, bytes) else None
        if data is None:
            data = (
                body if isinstance(body, str) and kind != "application/json" else json.dumps(body)
            ).encode()
        fixed = (("content-type", kind), ("date", format_datetime(self.now, usegmt=True)))
        response = Response(status, (*fixed, *headers), data)
        self.exchanges.append(Exchange(step, 1, 1, Request(method, target), response))

    @property
    def trace(self) -> Trace:
        return Trace(tuple(self.exchanges))


Service = Callable[[Run], None]


def played(service: Service, seed: int, after: float = 0.0) -> Trace:
    run = Run(seed, after)
    service(run)
    return run.trace


def learned(service: Service, *, identity: Service | None = None) -> tuple[Trace, Noise]:
    a = played(service, 1)
    return a, Noise.learn(a, played(service, 2, 1.3), played(identity or service, 3, 2.7))


def differences(service: Service, other: Service) -> list[tuple[str, str, str]]:
    a, noise = learned(service)
    assert noise.identity == ()
    return [(d.where, d.expected, d.got) for d in compare(a, played(other, 4, 30.0), noise)]


def random_ids(run: Run) -> None:
    made = run.uuid()
    run.answer(
        "POST /orders",
        {"id": made, "state": "new"},
        status=201,
        headers=(("location", f"/orders/{made}"),),
    )
    run.answer(
        f"GET /orders/{made}", {"id": made, "state": "new", "links": [f"/orders/{made}/cancel"]}
    )


def clocks(run: Run) -> None:
    created = run.tick()
    run.answer(
        "POST /notes",
        {
            "created": created.isoformat(),
            "updated": (created + timedelta(microseconds=3)).isoformat(),
        },
    )
    run.tick(0.4)
    run.answer(
        "GET /notes/1",
        {
            "created": created.isoformat(),
            "at": int(run.now.timestamp()),
            "ms": int(run.now.timestamp() * 1000),
        },
    )
    run.answer(
        "GET /time",
        f"<p>It is {run.now:%H:%M} on {run.now:%Y-%m-%d}, 2 seconds ago</p>",
        kind="text/html",
    )
    run.answer(
        "GET /token",
        {
            "expires": (run.now + timedelta(days=14)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "expires_in": 1209600,
        },
    )


def etags(run: Run) -> None:
    version = run.token(16)
    run.answer("PUT /page", None, headers=(("etag", f'W/"{version}"'),))
    run.answer(
        "GET /page",
        {"title": "x"},
        headers=(("etag", f'W/"{version}"'), ("cache-control", "max-age=60, public")),
    )


def random_order(run: Run) -> None:
    made = [{"id": run.uuid(), "name": name} for name in ("ann", "bob", "cid", "dan", "eve", "fay")]
    for item in made:
        run.answer("POST /users", item, status=201)
    run.random.shuffle(made)
    run.answer("GET /users", {"users": made})


def csrf(run: Run) -> None:
    token = run.token(43)
    page = (
        f'<form><input type="hidden" name="csrf" value="{token}"><p>Hello &amp; welcome</p></form>'
    )
    run.answer(
        "GET /form",
        page,
        kind="text/html; charset=utf-8",
        headers=(("set-cookie", f"csrf={token}; Path=/; HttpOnly"),),
    )
    base64ish = "".join(run.random.choices(string.ascii_letters + "+/=", k=40))
    run.answer("GET /form2", f'<input name=csrf value="{base64ish}"><b>a</b>', kind="text/html")


def pagination(run: Run) -> None:
    import base64

    last = run.uuid()
    cursor = base64.urlsafe_b64encode(json.dumps({"after": last, "n": 2}).encode()).decode()
    run.answer(
        "GET /items",
        {
            "items": [{"id": run.uuid()}, {"id": last}],
            "next": f"/items?cursor={run.token(20)}",
            "cursor": cursor,
        },
    )
    run.answer("GET /items?cursor=x", {"items": [], "after": last})


def signed_session(run: Run) -> None:
    user = run.uuid()
    signer = URLSafeTimedSerializer(run.token(), salt="cookie-session")
    run.tick(run.random.random() * 2)  # the signing time is a second like the others, or not
    for path in ("/login", "/me"):
        run.tick(0.6)
        payload = signer.dumps({"user_id": user, "_fresh": True, "theme": "dark"})
        run.answer(
            f"GET {path}",
            {"ok": True},
            headers=(("set-cookie", f"session={payload}; HttpOnly; Path=/"),),
        )
    run.answer(
        "GET /csrf",
        f'<input value="{URLSafeSerializer(run.token()).dumps(user)}">',
        kind="text/html",
    )


def serials(run: Run) -> None:
    """A database that numbers on from run to run."""
    first = run.random.randrange(1, 400)
    item = run.random.randrange(500, 900)
    for offset in (0, 1):
        run.answer(
            "POST /orders",
            {"id": first + offset, "item": item, "quantity": 1},
            headers=(("location", f"/orders/{first + offset}"),),
        )
    run.answer("GET /orders", [{"id": first, "quantity": 1}, {"id": first + 1, "quantity": 1}])


def durations(run: Run) -> None:
    for _ in range(6):
        run.answer(
            "GET /slow",
            {
                "took_ms": run.random.randrange(3),
                "elapsed": run.random.random(),
                "dice": run.random.randrange(1, 7),
            },
        )


def printed_durations(run: Run) -> None:
    """Of few digits, so that they come out alike now and then, in part or as a whole."""
    for kind in ("text/html", "text/plain"):
        run.answer(
            "GET /report",
            f"<p>{run.random.choice(['0.1', '0.2', '1.2', '12', '3.51'])}ms for 2 queries</p>\n"
            f"<p>It took {run.random.choice(['0.11', '0.12', '1.02'])} seconds</p>\n"
            f"<p>{run.random.randrange(1, 9)}.{run.random.randrange(10, 99)}req, at "
            f"{run.random.randrange(8)} ms each</p>",
            kind=kind,
        )


def keyed_by_id(run: Run) -> None:
    one, two = run.uuid(), run.uuid()
    run.answer("POST /a", {"id": one})
    run.answer("POST /b", {"id": two})
    pairs = [(one, {"n": 1}), (two, {"n": 2})]
    run.random.shuffle(pairs)
    run.answer("GET /all", dict(pairs))


def prose(run: Run) -> None:
    quotes = ["Less is more.", "Form follows function, mostly.", "Simple things should be simple."]
    for _ in range(5):
        run.answer("GET /quote", {"quote": run.random.choice(quotes)})
        run.answer(
            "GET /hello",
            "\n".join(run.random.choices(quotes, k=run.random.randrange(1, 5))),
            kind="text/plain",
        )


def rate_limited(run: Run) -> None:
    for left in (2, 1, 0):
        run.tick(0.3)
        reset = str(int(run.now.timestamp()) + 30)
        run.answer(
            "GET /limited",
            {},
            headers=(
                ("ratelimit", f'"burst";r={left};t={run.random.randrange(60)}'),
                ("x-ratelimit-reset", reset),
                ("retry-after", str(run.random.randrange(30))),
            ),
        )


def short_codes(run: Run) -> None:
    code = "".join(run.random.choices(string.ascii_uppercase + string.digits, k=4))
    run.answer("POST /invites", {"code": code})
    run.answer("GET /invites", {"codes": [code], "text": f"Your code is {code}."})


def shuffled_ids(run: Run) -> None:
    ids = [run.uuid() for _ in range(5)]
    for made in ids:
        run.answer("POST /ids", {"id": made})
    for _ in range(3):
        run.random.shuffle(ids)
        run.answer("GET /ids", ids)
    run.answer("GET /sorted", sorted(ids))


def small_sets(run: Run) -> None:
    """Two orders agree by luck every second time; other steps of the route tell."""
    tags = ["red", "blue"]
    for _ in range(12):
        run.random.shuffle(tags)
        run.answer("GET /tags", {"tags": list(tags)})


def optional_headers(run: Run) -> None:
    for _ in range(8):
        headers = (("x-cache", "hit"),) if run.random.random() < 0.5 else ()
        cookie = (("set-cookie", f"seen={run.token(12)}"),) if run.random.random() < 0.5 else ()
        run.answer("GET /cached", {}, headers=(*headers, *cookie))


def copies_of_the_tree(run: Run) -> None:
    """Each replica's copy of the project is elsewhere, which no pod's would be."""
    code = "".join(run.random.choices(string.ascii_lowercase + "_", k=8))
    disk = f"/tmp/anypod-{code}/slot-{run.random.randrange(3)}/disk"
    signer = URLSafeTimedSerializer("secret", salt="cookie-session")
    run.answer(
        "GET /",
        f'<script>db = "{disk}/shop.db";</script><a href="/?db={quote(disk, safe="")}%2Fshop.db">x</a>',
        kind="text/html",
        headers=(
            ("set-cookie", f"session={signer.dumps({'dataset': f'{disk}/shop.db'})}; Path=/"),
            ("x-sendfile", f"{disk}/files/1.pdf"),
        ),
    )
    run.answer("GET /databases", [{"name": "shop", "path": f"{disk}/shop.db"}])
    run.answer("GET /log", f"opened {disk}/shop.db\nclosed", kind="text/plain")


def test_where_the_copies_of_the_tree_are_is_told_of_no_process() -> None:
    a = played(copies_of_the_tree, 1)
    noise = Noise.learn(a, played(copies_of_the_tree, 1, 1.3), played(copies_of_the_tree, 2, 2.7))
    assert noise.identity == ()
    assert compare(a, played(copies_of_the_tree, 3, 30.0), noise) == []


def test_a_cookie_is_as_random_where_a_request_alone_is_the_first_to_set_it() -> None:
    def visit(run: Run, *, alone: bool) -> None:
        token = run.token(16)
        signed = URLSafeSerializer("secret").dumps(token)
        cookie = (("set-cookie", f"csrf={signed}; Path=/"),)
        if not alone:
            run.answer("GET /form", "", kind="text/html", headers=cookie)
        else:
            run.exchanges = [*played(lambda r: r.answer("GET /form", ""), 1).exchanges]
        run.answer("GET /other", "", kind="text/html", headers=cookie if alone else ())

    _, noise = learned(lambda run: visit(run, alone=False))
    one, two = (played(lambda run: visit(run, alone=True), seed) for seed in (5, 6))
    assert compare(Trace(one.exchanges[1:]), Trace(two.exchanges[1:]), noise) == []


SAFE = [
    copies_of_the_tree,
    shuffled_ids,
    small_sets,
    optional_headers,
    random_ids,
    clocks,
    etags,
    random_order,
    csrf,
    pagination,
    signed_session,
    serials,
    durations,
    printed_durations,
    keyed_by_id,
    prose,
    rate_limited,
    short_codes,
]


@pytest.mark.parametrize("service", SAFE, ids=lambda service: service.__name__)
def test_a_replica_safe_service_never_differs(service: Service) -> None:
    for seed in range(10):
        a = played(service, 100 + seed)
        noise = Noise.learn(a, played(service, 200 + seed, 1.3), played(service, 300 + seed, 3.0))
        assert compare(a, a, noise) == []
        for other in range(3):
            run = played(service, 400 + seed * 10 + other, 60.0)
            luck = {d.where for d in noise.identity}
            assert [d for d in compare(a, run, noise) if d.where not in luck] == []


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
