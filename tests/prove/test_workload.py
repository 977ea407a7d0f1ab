"""The `.http` format: what it means, and what is refused with which words."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.prove.texts import answer, read

from anypod.prove.workload import MissingValue, WorkloadError, load, parse, render, route

pytestmark = pytest.mark.quick


def test_a_file_as_editors_write_it() -> None:
    workload = read(
        """\
# A comment, then variables.
@host = http://localhost:5000
@json = application/json
@user = ann

### Log in
// @name login
# @client ann
POST {{host}}/login HTTP/1.1
Content-Type: {{json}}
# a comment between headers

{
  "user": "{{user}}"
}

###
# @client ann
# @retry
# @stale 5m
GET {{host}}/search
    ?q=a lamp
    &page=2
Authorization: Bearer {{login.response.body.$.session_id}}

###

### Nothing but a comment in this block

###
/counter
"""
    )
    login, search, counter = workload.steps
    assert (login.index, login.line, login.method, login.target) == (0, 9, "POST", "/login")
    assert (login.name, login.client, login.retry, login.stale) == ("login", "ann", False, None)
    assert login.headers == (("Content-Type", "application/json"),)
    assert login.body == '{\n  "user": "ann"\n}'
    assert (search.target, search.retry, search.stale) == ("/search?q=a lamp&page=2", True, 300.0)
    assert (counter.method, counter.target, counter.client) == ("GET", "/counter", "default")
    assert workload.producers(1) == {0}
    assert workload.producers(2) == frozenset()

    request = render(search, workload, {"login": answer({"session_id": "s3cret"})})
    assert request.target == "/search?q=a%20lamp&page=2"
    assert request.headers == (("Authorization", "Bearer s3cret"),)
    assert render(login, workload, {}).body == b'{\n  "user": "ann"\n}'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "shop.http: expected at least one request, got an empty file"),
        ("# only\n@a = 1\n", "shop.http: expected at least one request, for example 'GET /'"),
        ("FETCH /x", "shop.http:1: expected a request line such as 'GET /path', got 'FETCH /x'"),
        ("\n\nhello", "shop.http:3: expected a request line"),
        ("GET x/y", "shop.http:1: expected a path that starts with '/'"),
        (
            "GET http://shop.example/x",
            "shop.http:1: expected a path or a loopback URL, got the host 'shop.example'",
        ),
        ("GET /x\nnonsense", "shop.http:2: expected a header 'Name: value' or a blank line"),
        (
            "# @alice\nGET /",
            "shop.http:1: expected one of @name, @client, @retry, @stale, @status after '#', got '@alice'",
        ),
        ("# @prompt pin\nGET /", "shop.http:1: expected one of"),
        (
            "# @name a b\nGET /",
            "shop.http:1: expected a name (letters, digits, - and _) after @name, got 'a b'",
        ),
        ("# @client\nGET /", "shop.http:1: expected a name"),
        ("# @retry twice\nGET /", "shop.http:1: expected nothing after @retry, got 'twice'"),
        (
            "# @stale 5\nGET /",
            "shop.http:1: expected a duration like 500ms, 30s, 5m or 1h after @stale, got '5'",
        ),
        (
            "# @retry\n# @retry\nGET /",
            "shop.http:2: expected @retry once per request, got it again after line 1",
        ),
        ("# @name a\n\n###\nGET /", "shop.http:1: expected a request below @name"),
        (
            "# @name a\nGET /\n###\n# @name a\nGET /",
            "shop.http:4: expected a new name, got 'a', which line 1 has",
        ),
        (
            "GET /{{id}}",
            "shop.http:1: expected a variable that this file defines (none), got {{id}}; add '@id = value'",
        ),
        (
            "@a = {{b}}\n@b = {{a}}\nGET /{{a}}",
            "expected a value, got variables defined by themselves: a → b → a",
        ),
        ("@1a = x\nGET /", "shop.http:1: expected a variable's name"),
        (
            "GET /{{id}/x",
            "shop.http:1: expected '}}' after '{{', got '/{{id}/x'",
        ),
        (
            "GET /{{$guidd}}",
            "shop.http:1: expected one of $guid, $uuid, $timestamp, $randomInt MIN MAX, got {{$guidd}}",
        ),
        ("GET /{{$processEnv HOME}}", "shop.http:1: expected one of $guid"),
        ("GET /{{a.response.body.$.x}}", "shop.http:1: expected a request with '# @name a' above"),
        (
            "GET /{{a.response.body.$.x}}\n###\n# @name a\nGET /",
            "shop.http:1: expected a reference to an earlier request, got 'a', which line 3 names",
        ),
        (
            "# @name a\nGET /{{a.response.body.$.x}}",
            "shop.http:2: expected a reference to an earlier request",
        ),
        (
            "# @name a\nGET /\n###\nGET /{{a.response.body.$..x}}",
            "shop.http:4: expected .member, ['member'] or [index] at '..x'",
        ),
        ("# @name a\nGET /\n###\nGET /{{a.response.body.$.x[*]}}", "shop.http:4: expected .member"),
        (
            "# @name a\nGET /\n###\nGET /{{a.response.body.x}}",
            "shop.http:4: expected a JSONPath ($.…), an XPath (//…) or *, got 'x'",
        ),
        (
            "# @name a\nGET /\n###\nGET /{{a.response.body.//p[}}",
            "shop.http:4: expected an XPath, got '//p['",
        ),
        (
            "# @name a\nGET /\n###\nGET /{{a.response.headers}}",
            "shop.http:4: expected a path after 'a.response.headers'",
        ),
        (
            "# @name a\nGET /\n###\nGET /{{a.request.body.$.x}}",
            "shop.http:4: expected a value from a response",
        ),
        (
            "POST /\n\nx\n\n> {%\n client.test()\n%}",
            "shop.http:5: expected a body, got the script or redirection '> {%'",
        ),
        ("POST /\n\nx\n\n> ./check.js", "shop.http:5: expected a body, got the script"),
        ("< {% x %}\nGET /", "shop.http:1: expected a request line, got the script or redirection"),
        ("POST /\nX-REQUEST-TYPE: GraphQL\n\nquery", "shop.http:2: expected a plain HTTP request"),
        ("GRAPHQL /\n\nquery", "shop.http:1: expected a request line"),
        (
            "GET /\n\nGET /b",
            "shop.http:3: expected '###' before the next request, got 'GET /b' in the body of line 1",
        ),
        ("POST /\n\nx\n# @name b", "shop.http:4: expected '###' before the next request"),
        ("POST /\n\nx\n@token = 1", "shop.http:4: expected '###' before the next request"),
        (
            "POST /\n\n< ./no.json",
            "shop.http:3: expected a file to send, got './no.json': No such file",
        ),
        ("POST /\n\n< ./a\nmore", "shop.http:4: expected the included file to be the whole body"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(WorkloadError) as raised:
        read(text)
    assert expected in str(raised.value)


def test_line_endings_and_a_byte_order_mark_make_no_difference(tmp_path: Path) -> None:
    text = "@a = 1\n\n### One\nPOST /x/{{a}}\nX-A: {{a}}\n\nbody\nmore\n"
    file = tmp_path / "w.http"
    for ending in ("\n", "\r\n", "\r"):
        file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", ending).encode())
        (step,) = load(file).steps
        assert (step.line, step.target, step.body) == (4, "/x/1", "body\nmore")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.http"
    with pytest.raises(WorkloadError, match=r"w.http: cannot be read: No such file"):
        load(file)
    file.write_bytes(b"GET /\n###\nGET /\xff")
    with pytest.raises(WorkloadError, match=r"w.http:3: expected UTF-8, got the byte 0xff"):
        load(file)
    with file.open("wb") as huge:
        huge.truncate(9 << 20)
    with pytest.raises(WorkloadError, match=r"expected at most 8388608 bytes, got 9437184"):
        load(file)
    with pytest.raises(WorkloadError, match=r"cannot be read: Is a directory"):
        load(tmp_path)


def test_variables_see_the_definition_above_them() -> None:
    workload = read(
        "@a = 1\nGET /{{a}}/{{b}}\n###\n@a = 2\nGET /{{a}}\n###\n@b = {{a}}{{a}}\nGET /{{b}}"
    )
    assert [step.target for step in workload.steps] == ["/1/22", "/2", "/22"]


def test_variables_that_multiply_are_cut_off() -> None:
    lines = ["@a0 = " + "x" * 1000]
    lines += [f"@a{n} = " + f"{{{{a{n - 1}}}}}" * 20 for n in range(1, 8)]
    with pytest.raises(WorkloadError, match="expected at most"):
        read("\n".join([*lines, "POST /", "", "{{a7}}"]))


def test_a_host_is_dropped_where_it_cannot_matter() -> None:
    targets = [
        "http://localhost:5000/x",
        "http://127.0.0.1/x",
        "localhost:8000/x",
        "http://{{nowhere}}/x",
        "https://{{nowhere}}:{{port}}/x",
        "{{base}}/x",
        "{{bare}}/x",
        "http://[::1]:80/x",
    ]
    head = "@base = https://shop.example/\n@bare = shop.example:8080\n"
    workload = read(head + "\n###\n".join(f"GET {target}" for target in targets))
    assert {step.target.replace("//", "/") for step in workload.steps} == {"/x"}
    assert read("GET http://localhost").steps[0].target == "/"
    assert read("GET http://localhost?a=1").steps[0].target == "/?a=1"


def test_generated_values_are_the_same_in_every_reading() -> None:
    text = "@id = {{$guid}}\nPOST /{{$uuid}}/{{$uuid}}/{{$randomInt 5 9}}\nKey: {{id}}\n###\nPOST /{{$guid}}\nKey: {{id}}"
    one, two = read(text), read(text)
    assert one.steps == two.steps
    first, second = one.steps
    assert first.headers == second.headers
    parts = first.target.split("/")[1:]
    assert parts[0] != parts[1]
    assert 5 <= int(parts[2]) < 9
    assert second.target[1:] not in parts
    assert int(read("GET /{{$timestamp 1 d}}").steps[0].target[1:]) > 1_700_000_000


def test_bodies_are_read_by_their_kind(tmp_path: Path) -> None:
    (tmp_path / "raw.bin").write_bytes(b"\x00\xff{{x}}")
    (tmp_path / "text.json").write_text('{"a": "{{x}}"}')
    workload = parse(
        """\
@x = 1
POST /form
Content-Type: application/x-www-form-urlencoded

name=ann
&age={{x}}
###
POST /upload
Content-Type: multipart/form-data; boundary=b

--b
Content-Disposition: form-data; name="a"

1
--b--
###
POST /raw

< ./raw.bin
###
POST /text

<@ text.json
###
POST /markup
Content-Type: text/html

<p>
> quoted
</p>

""",
        tmp_path / "w.http",
    )
    form, upload, raw, text, markup = (render(step, workload, {}).body for step in workload.steps)
    assert form == b"name=ann&age=1"
    assert upload == b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--'
    assert raw == b"\x00\xff{{x}}"
    assert text == b'{"a": "1"}'
    assert markup == b"<p>\n> quoted\n</p>"


def test_routes_are_told_from_paths() -> None:
    text = """\
@base = http://localhost/api/v1
@currency = EUR
GET /counter
###
# @name made
POST /orders
###
POST /orders/{{made.response.body.$.order_id}}/cancel?x=1
###
GET /orders/3f2a1b00-0000-4000-8000-000000000000
###
GET /orders/17/cancel
###
GET /data/lamp
###
PUT /data/lamp
###
GET /data/mug
###
PUT /data/mug
###
GET /about/us
###
GET /about/them
###
GET {{base}}/rates/{{currency}}
###
GET /rates/USD
###
GET /static/site.v2.css
###
GET {{made.response.headers.Location}}
"""
    assert [step.route for step in read(text).steps] == [
        "GET /counter",
        "POST /orders",
        "POST /orders/{order_id}/cancel",
        "GET /orders/{id}",
        "GET /orders/{order_id}/cancel",
        "GET /data/{id}",
        "PUT /data/{id}",
        "GET /data/{id}",
        "PUT /data/{id}",
        "GET /about/us",
        "GET /about/them",
        "GET /api/v1/rates/{currency}",
        "GET /rates/{id}",
        "GET /static/site.v2.css",
        "GET (Location of POST /orders)",
    ]
    assert route("GET /data/7") == "GET /data/{id}"
    assert route("DELETE /") == "DELETE /"


LINES = st.sampled_from(
    [
        "###",
        "### title",
        "GET /a",
        "POST /b HTTP/1.1",
        "GET {{host}}/c",
        "@host = http://localhost",
        "@x = {{y}}",
        "# @name one",
        "# @name two",
        "# @client ann",
        "# @retry",
        "# @stale 5s",
        "# @",
        "Content-Type: application/json",
        "",
        '{"a": "{{one.response.body.$.id}}"}',
        "{{two.response.body.//a/@href}}",
        "{{one.response.headers.Location}}",
        "GET {{one.response.headers.Location}}",
        "{{",
        "}}",
        "{{}}",
        "< ./x",
        "<@ ",
        "?a=1",
        "&b",
        "> {%",
        "@",
        "http://",
        "GET",
        "GET http://{{",
    ]
)


@given(st.lists(st.one_of(LINES, st.text(max_size=12)), max_size=14))
def test_any_text_is_a_workload_or_refused(lines: list[str]) -> None:
    answers = {"one": answer({"id": 1}, ("location", "/a")), "two": answer("<a href='/b'>")}
    workload = refusal = None
    try:
        workload = read("\n".join(lines))
    except WorkloadError as refused:
        refusal = str(refused)
    if workload is None:
        assert refusal is not None
        assert refusal.startswith("shop.http")
        assert "expected" in refusal
        return
    for index, step in enumerate(workload.steps):
        assert step.index == index
        assert step.route
        assert workload.producers(index) <= set(range(index))
        try:
            request = render(step, workload, answers)
        except MissingValue:
            continue
        assert request.target.startswith("/")
        assert request.target.isascii()
        assert " " not in request.target
