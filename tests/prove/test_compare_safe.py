"""Comparison: traces of replica-safe services never differ, whatever is random in them."""

import json
import string
from datetime import timedelta
from urllib.parse import quote

import pytest
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer
from tests.prove.traces import Run, Service, learned, played, random_ids

from anypod.prove.compare import Noise, compare
from anypod.prove.model import Trace

pytestmark = pytest.mark.quick


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


def counted_down(run: Run) -> None:
    left = 58 + run.random.randrange(3)
    headers = (("cache-control", f"public, max-age={left}"), ("age", str(60 - left)))
    run.answer("GET /cached", "text", headers=headers)


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
    counted_down,
    short_codes,
]


def test_another_age_is_told_where_no_clock_explains_it() -> None:
    noise = Noise()
    for other in ("public, max-age=30", "private, max-age=60", "no-store"):
        one, two = Run(1), Run(1)
        one.answer("GET /", "text", headers=(("cache-control", "public, max-age=60"),))
        two.answer("GET /", "text", headers=(("cache-control", other),))
        (found,) = compare(one.trace, two.trace, noise)
        assert found.where == "header cache-control"


def test_the_tag_of_a_file_in_a_listing_is_told_of_no_process() -> None:
    def run(number: int) -> Trace:
        one = Run(1)
        listing = f"<d:multistatus><d:getetag>{number}-1795558236-6</d:getetag></d:multistatus>"
        one.answer("PROPFIND /docs/", listing, status=207, kind="application/xml")
        return one.trace

    assert not Noise.learn(run(2195981), run(2195981), run(2204795)).identity


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
