"""Whole proofs of small applications: what is found, what is accepted, what is no difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.prove.conftest import FEW, ONE, Project
from tests.prove.small import SHARED, SHARED_WORKLOAD, small

from anypod.prove.events import Finished, Found, Log, Opened, Outcome, Planned, Progress
from anypod.prove.schedules import Kind
from anypod.report.words import why


@pytest.mark.parametrize("name", ["hits", "how_often", "zähler"])
def test_renaming_the_global_changes_the_name_that_is_reported(project: Project, name: str) -> None:
    small(
        project,
        f"""
        {name} = 0

        @route("POST /hit")
        def hit(body):
            global {name}
            {name} += 1
            return {{}}

        @route("GET /hits")
        def hits_of_this_pod(body):
            return {{"count": {name}}}
        """,
    )
    verdict = project.prove("POST /hit\n\n###\nGET /hits\n")
    (divergence,) = verdict.divergences
    assert divergence.cause is not None
    assert divergence.cause.name == name
    source = (project.path / "service.py").read_text().splitlines()
    assert divergence.cause.line is not None
    assert source[divergence.cause.line - 1] == f"{name} = 0"


def test_state_in_a_shared_database_is_no_difference(project: Project) -> None:
    small(project, SHARED)
    log = Log()
    verdict = project.prove(SHARED_WORKLOAD, log=log)
    assert verdict.outcome is Outcome.NO_DIFFERENCE, verdict
    assert verdict.exit_code == 0
    assert verdict.claim.endswith("no response differed from one replica.")
    assert [type(event) for event in log.events][:2] == [Opened, Planned]
    assert isinstance(log.events[-1], Finished)
    assert log.events[-1].verdict == verdict
    assert any(isinstance(event, Progress) for event in log.events)
    assert not any(isinstance(event, Found) for event in log.events)


def test_the_same_proof_twice_gives_the_same_verdict(project: Project) -> None:
    small(
        project,
        SHARED
        + """
    seen = {}

    @route("POST /seen")
    def see(body):
        seen[body] = seen.get(body, 0) + 1
        return seen
    """,
    )
    text = SHARED_WORKLOAD + "\n###\nPOST /seen\n\nx\n\n###\nPOST /seen\n\nx\n"
    first, second = project.prove(text), project.prove(text)
    assert first.divergences
    assert [replace(d, requests=()) for d in first.divergences] == [
        replace(d, requests=()) for d in second.divergences
    ]


def test_consequences_are_not_told(project: Project) -> None:
    small(
        project,
        """
        tokens = set()

        @route("POST /login")
        def login(body):
            tokens.add(body)
            return {}

        @route("POST /paid")
        def pay(body):
            if body not in tokens:
                return 401, {}
            write("paid", "yes")
            return {}

        @route("GET /paid")
        def paid(body):
            return {"paid": read("paid")}
        """,
    )
    verdict = project.prove("POST /login\n\nbob\n\n###\nPOST /paid\n\nbob\n\n###\nGET /paid\n")
    assert {d.route for d in verdict.divergences} == {"POST /paid"}


LOCAL_CACHE = """
    from anypod import LocalCache

    copies = LocalCache("copies", ttl=300.0)

    @route("PUT /value")
    def put(body):
        write("value", body)
        copies.invalidate("value")
        return {}

    @route("GET /value")
    def get(body):
        return {"value": copies.get_or_load("value", lambda: read("value"))}
"""


def test_an_anypod_cache_says_itself_how_old_its_copies_may_be(project: Project) -> None:
    small(project, LOCAL_CACHE)
    verdict = project.prove(SHARED_WORKLOAD.partition("###\nPOST")[0])
    assert verdict.exit_code == 0, verdict.divergences
    (stale,) = verdict.stale
    assert (stale.route, stale.cache, stale.seconds) == ("GET /value", "copies", 300.0)
    assert stale.expected == '"two"'


DICT_CACHE = """
    copies = {}

    @route("PUT /value")
    def put(body):
        write("value", body)
        copies.clear()
        return {}

    @route("GET /value")
    def get(body):
        if "value" not in copies:
            copies["value"] = read("value")
        return {"value": copies["value"]}
"""


def test_a_dict_without_expiry_is_a_difference_with_a_hint(project: Project) -> None:
    small(project, DICT_CACHE)
    verdict = project.prove(SHARED_WORKLOAD.partition("###\nPOST")[0])
    (divergence,) = verdict.divergences
    assert divergence.schedule is Kind.STALE_COPY
    assert divergence.cause is not None
    assert divergence.cause.name == "copies"
    assert divergence.cause.pod == divergence.cause.reader
    assert "# @stale" in divergence.hint


def test_staleness_that_the_workload_declares_is_accepted(project: Project) -> None:
    small(project, DICT_CACHE)
    text = SHARED_WORKLOAD.partition("###\nPOST")[0].replace(
        "GET /value", "# @stale 2m\nGET /value"
    )
    verdict = project.prove(text)
    assert verdict.exit_code == 0, verdict.divergences
    (stale,) = verdict.stale
    assert (stale.cache, stale.seconds) == ("", 120.0)


def test_an_accepted_old_answer_hides_no_other_difference_of_its_route(project: Project) -> None:
    small(
        project,
        LOCAL_CACHE.replace('("value"))}', '("value")), "seen": seen[0]}').replace(
            "copies.invalidate", "seen[0] += 1; copies.invalidate"
        )
        + "\n    seen = [0]\n",
    )
    verdict = project.prove(SHARED_WORKLOAD.partition("###\nPOST")[0])
    assert ("GET /value", "body $.seen") in {(d.route, d.where) for d in verdict.divergences}


def test_one_replica_still_moves(project: Project) -> None:
    small(
        project,
        """
        seen = []

        @route("POST /seen")
        def see(body):
            seen.append(body)
            return {}

        @route("GET /seen")
        def look(body):
            return seen
        """,
    )
    verdict = project.prove("POST /seen\n\nx\n\n###\nGET /seen\n", options=ONE)
    (divergence,) = verdict.divergences
    assert divergence.schedule is Kind.POD_MOVED
    assert [(r.pod, r.incarnation, r.moved) for r in divergence.requests] == [
        (1, 1, False),
        (1, 2, True),
    ]
    assert "stale copy: there is one replica" in verdict.not_tried


def test_a_secret_drawn_at_import_is_a_difference_of_process_identity(project: Project) -> None:
    small(
        project,
        """
        SECRET = os.urandom(8).hex()

        @route("GET /signature")
        def sign(body):
            return {"signature": SECRET}
        """,
    )
    verdict = project.prove("GET /signature\n")
    (divergence,) = verdict.divergences
    assert divergence.schedule is Kind.IDENTITY
    assert (divergence.rule, divergence.confirmed) == ("POD109", 3)
    assert [r.pod for r in divergence.requests] == [1, 2]


def test_a_database_that_each_import_makes_for_itself_is_named(project: Project) -> None:
    """As with an account that a service makes, with a secret of its own, where there is none yet."""
    small(
        project,
        """
        import hmac, uuid

        def secret():
            with sqlite3.connect("users.db") as users:
                return users.execute("SELECT secret FROM user").fetchone()[0].encode()

        with sqlite3.connect("users.db") as users:
            users.execute("CREATE TABLE user (secret TEXT)")
            users.execute("INSERT INTO user VALUES (?)", [uuid.uuid4().hex])

        @route("POST /token")
        def token(body):
            id = uuid.uuid4().hex
            return {"token": id + hmac.new(secret(), id.encode(), "sha1").hexdigest()}

        @route("POST /check")
        def check(body):
            good = hmac.new(secret(), body[:32].encode(), "sha1").hexdigest() == body[32:]
            return (200 if good else 403), {}
        """,
    )
    verdict = project.prove(
        "# @name t\nPOST /token\n\n###\nPOST /check\n\n{{t.response.body.$.token}}\n"
    )
    (divergence,) = verdict.divergences
    assert (divergence.route, divergence.rule) == ("POST /check", "POD105")
    cause = divergence.cause
    assert cause is not None
    assert (cause.kind, cause.name, cause.verified, cause.drawn) == (
        "database",
        "users.db",
        True,
        True,
    )
    told = "pod 1 and pod 2 each made the database users.db for itself when it started"
    assert why(divergence) == told


def test_a_secret_per_import_is_found_by_the_token_that_another_import_refuses(
    project: Project,
) -> None:
    small(
        project,
        """
        import hmac, uuid

        SECRET = os.urandom(8)

        @route("POST /token")
        def token(body):
            id = uuid.uuid4().hex
            return {"token": id + hmac.new(SECRET, id.encode(), "sha1").hexdigest()}

        @route("POST /check")
        def check(body):
            good = hmac.new(SECRET, body[:32].encode(), "sha1").hexdigest() == body[32:]
            return (200 if good else 403), {}
        """,
    )
    verdict = project.prove(
        "# @name t\nPOST /token\n\n###\nPOST /check\n\n{{t.response.body.$.token}}\n"
    )
    assert {d.route for d in verdict.divergences} == {"POST /check"}


def test_a_factory_and_asgi_are_told_apart_by_themselves(project: Project) -> None:
    project.write(
        """
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route


        def create_app():
            seen = []

            async def see(request):
                seen.append(1)
                return JSONResponse({})

            async def look(request):
                return JSONResponse(len(seen))

            return Starlette(routes=[
                Route("/seen", see, methods=["POST"]), Route("/seen", look, methods=["GET"])
            ])
        """
    )
    verdict = project.prove("POST /seen\n\n###\nGET /seen\n", target="service:create_app()")
    assert [d.route for d in verdict.divergences] == ["GET /seen"]


def test_a_shared_path_is_a_volume(project: Project) -> None:
    small(
        project,
        """
        @route("POST /note")
        def write_note(body):
            Path("notes").mkdir(exist_ok=True)
            Path("notes/note").write_text(body)
            return {}

        @route("GET /note")
        def read_note(body):
            note = Path("notes/note")
            return note.read_text() if note.exists() else None
        """,
    )
    text = "POST /note\n\nx\n\n###\nGET /note\n"
    private = project.prove(text)
    assert [d.cause.kind for d in private.divergences if d.cause] == ["file"]
    assert project.prove(text, options=replace(FEW, shared=(Path("notes"),))).exit_code == 0


def test_a_part_of_the_workload_may_draw_what_the_whole_did_not(project: Project) -> None:
    """The second sign-up is refused. Asked alone it gets a random id, which no earlier run showed."""
    small(
        project,
        """
        import uuid

        users = {}

        @route("POST /register")
        def register(body):
            if body in users:
                return 400, {"detail": "exists"}
            users[body] = str(uuid.uuid4())
            return 201, {"id": users[body]}
        """,
    )
    verdict = project.prove("POST /register\n\nann\n\n###\nPOST /register\n\nann\n")
    (found,) = verdict.divergences
    assert (found.where, found.expected, found.got) == ("status", "400", "201")
    assert len(found.requests) == 2
    assert found.cause is not None
    assert (found.cause.name, found.cause.verified) == ("users", True)


def test_a_folder_that_another_pod_lacks_is_the_cause(project: Project) -> None:
    """And a copied file has an age of its own, which the tag of its answer shows."""
    small(
        project,
        """
        @route("POST /folder")
        def folder(body):
            os.mkdir("kept")
            return {}

        @route("POST /file")
        def file(body):
            if not os.path.isdir("kept"):
                return 409, {}
            Path("kept/one.txt").write_text(body)
            return {}

        @route("GET /file")
        def read_it(body):
            return {"text": Path("kept/one.txt").read_text() if os.path.exists("kept/one.txt") else ""}
        """,
    )
    verdict = project.prove("POST /folder\n\n###\nPOST /file\n\none\n\n###\nGET /file\n")
    found = {
        d.route: d.cause and (d.cause.kind, d.cause.name, d.cause.verified)
        for d in verdict.divergences
    }
    assert found == {
        "POST /file": ("file", "kept/", True),
        "GET /file": ("file", "kept/one.txt", True),
    }


def test_what_one_replica_answers_at_random_to_fewer_requests_is_no_difference(
    project: Project,
) -> None:
    """Without the login of the workload a visitor gets a random name, which nobody got before."""
    project.write(
        """
        import uuid
        from flask import Flask, jsonify, session

        app = Flask(__name__)
        app.secret_key = "the same everywhere"
        users = set()

        @app.post("/login")
        def login():
            session["user"] = "ann"
            users.add("ann")
            return "", 204

        @app.get("/page")
        def page():
            if session.get("user") not in users:
                session["visitor"] = uuid.uuid4().hex
                return jsonify(user=None)
            return jsonify(user="ann")
        """
    )
    verdict = project.prove("POST /login\n\n###\nGET /page\n")
    (divergence,) = verdict.divergences
    assert divergence.route == "GET /page"
    assert [request.target for request in divergence.requests] == ["/login", "/page"]
    assert divergence.cause is not None
    assert (divergence.cause.name, divergence.cause.verified) == ("users", True)
