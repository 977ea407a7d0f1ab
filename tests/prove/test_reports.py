"""The reports of a proof: JSON by its schema, SARIF by its rules, JUnit, annotations, one HTML page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from lxml import etree
from tests.prove.schema import problems
from tests.prove.verdicts import COUNTER, told, verdict

from anypod.prove.events import Outcome, Verdict
from anypod.report import jsonfile
from anypod.report.proof_ci import github, junit
from anypod.report.proof_html import html
from anypod.report.proof_sarif import document

pytestmark = pytest.mark.quick
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "prove.schema.json").read_text())
FAILED = Verdict(Outcome.COULD_NOT_RUN, claim="nothing was compared", reason="no\nmodule % 'x'")
ACCEPTED = verdict(
    outcome=Outcome.ACCEPTED,
    divergences=(),
    accepted=(replace(COUNTER, accepted="shown to <nobody>"),),
)
FINE = verdict(outcome=Outcome.NO_DIFFERENCE, divergences=())
ALL = [verdict(), FAILED, ACCEPTED, FINE]


@pytest.mark.parametrize("one", ALL, ids=["different", "failed", "accepted", "fine"])
def test_the_json_keeps_to_the_published_schema(one: Verdict) -> None:
    assert problems(json.loads(jsonfile.text(one)), SCHEMA, SCHEMA) == []


def test_accepted_differences_end_well() -> None:
    assert (ACCEPTED.exit_code, verdict().exit_code, FAILED.exit_code) == (0, 1, 2)


# --- SARIF 2.1.0: the rules that readers rely on


def checked(log: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of a log that is as the standard wants it (sections 3.13 to 3.49)."""
    assert log["version"] == "2.1.0"
    assert urlsplit(log["$schema"]).scheme == "https"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert all(isinstance(i["executionSuccessful"], bool) for i in run["invocations"])
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        flows = [f["locations"] for c in result["codeFlows"] for f in c["threadFlows"]]
        assert all(flows)
        places = [*result["locations"], *(place["location"] for flow in flows for place in flow)]
        for place in places:
            physical = place["physicalLocation"]
            assert physical["region"]["startLine"] >= 1
            uri = physical["artifactLocation"]["uri"]
            assert not any(c in uri for c in ' \\<>"{}|^`')
            assert urlsplit(uri).scheme in {"", "file"}
        for suppression in result.get("suppressions", ()):
            assert suppression["kind"] in {"inSource", "external"}
    results: list[dict[str, Any]] = run["results"]
    return results


def test_sarif_stands_at_the_guilty_line() -> None:
    counter, refund, moved = checked(document(verdict()))
    place = counter["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "shop.py"
    assert place["region"]["startLine"] == 14
    # Without a known state the request that shows it is the place.
    place = refund["locations"][0]["physicalLocation"]
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("shop.http", 9)
    assert (counter["ruleId"], moved["ruleId"]) == ("POD101", "prove-difference")
    assert "suppressions" not in counter


def test_sarif_of_what_is_accepted_and_of_what_did_not_run() -> None:
    (accepted,) = checked(document(ACCEPTED))
    assert accepted["suppressions"] == [{"kind": "external", "justification": "shown to <nobody>"}]
    assert checked(document(FAILED)) == []
    (invocation,) = document(FAILED)["runs"][0]["invocations"]
    assert not invocation["executionSuccessful"]
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == FAILED.reason


def test_sarif_names_files_in_strange_places(tmp_path: Path) -> None:
    assert COUNTER.cause is not None
    file = str(tmp_path / "a shop{1}.py")
    one = replace(COUNTER, cause=replace(COUNTER.cause, file=file))
    (result,) = checked(document(verdict(divergences=(one,))))
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert unquote(uri) == f"file://{file}"


# --- JUnit and GitHub


def test_junit_has_a_case_per_route() -> None:
    suite = etree.fromstring(junit(verdict()).encode())[0]
    cases = suite.findall("testcase")
    assert suite.get("tests") == str(len(cases)) == "5"
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("3", "0", "1")
    by_name = {case.get("name"): case for case in cases}
    assert len(by_name["POST /increment"]) == 0
    assert by_name["GET /broken"][0].tag == "skipped"
    failed = by_name["GET /counter (another pod)"]
    assert (failed.get("file"), failed.get("line")) == ("shop.py", "14")
    assert "GET /counter → pod 2: 200" in (failed[0].text or "")


def test_junit_of_the_other_verdicts() -> None:
    suites = [etree.fromstring(junit(one).encode())[0] for one in (FAILED, ACCEPTED, FINE)]
    counts = [(s.get("failures"), s.get("errors"), s.get("skipped")) for s in suites]
    assert counts == [("0", "1", "0"), ("0", "0", "2"), ("0", "0", "1")]


def test_annotations_are_one_line_each() -> None:
    first, second, _ = github(verdict()).splitlines()
    assert first.startswith(
        "::error file=shop.py,line=14,title=anypod prove%3A GET /counter::GET /counter (another pod)"
    )
    assert "%0A" in first
    assert second.startswith("::error file=shop.http,line=9,")
    assert github(ACCEPTED).startswith("::notice ")
    assert "no%0Amodule %25" in github(FAILED)
    assert github(FINE) == ""


# --- HTML


def page(one: Verdict) -> etree._Element:
    root = etree.fromstring(html(one).encode(), etree.HTMLParser())
    assert root is not None
    return root


def test_the_page_tells_each_difference_beside_one_replica() -> None:
    root = page(verdict())
    articles = root.findall(".//article")
    assert len(articles) == 3
    names = ["".join(f.find(".//h4").itertext()) for f in articles[0].iter("figure")]  # type: ignore[union-attr]
    assert names == ["One replica: 1", "As replicas: 0"]
    rows = ["".join(li.itertext()) for li in articles[0].iter("li")]
    assert rows[-1] == "GET /counter → pod 2: 200"
    text = "".join(root.itertext())
    for said in ("stale ≤ 5 min", "Not tried", "not isolated: /var/lib/shop", "stale triples"):
        assert said in text


def test_the_page_loads_and_runs_nothing() -> None:
    root = page(verdict())
    assert not list(root.iter("script", "img", "link", "iframe", "object"))
    assert not root.xpath("//@src|//@onclick|//@onload")
    assert all(str(link).startswith("#") for link in root.xpath("//@href"))  # type: ignore[union-attr]
    assert "default-src 'none'" in html(verdict())
    assert "alert(1)" in "".join(root.find(".//article[@id='d3']").itertext())  # type: ignore[union-attr]


def test_the_page_can_be_used_without_a_mouse_and_without_seeing_it() -> None:
    root = page(verdict())
    assert root.get("lang") == "en"
    ids = [str(found) for found in root.xpath("//@id")]  # type: ignore[union-attr]
    assert len(ids) == len(set(ids))
    wanted = [str(a).removeprefix("#") for a in root.xpath("//@href|//@aria-labelledby")]  # type: ignore[union-attr]
    assert set(wanted) <= set(ids)
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in root.iter("svg"))
    assert len(list(root.iter("h1"))) == 1
    assert len(list(root.iter("main"))) == 1
    first = root.find(".//a")
    assert first is not None
    assert first.get("class") == "skip"
    assert all(th.get("scope") for th in root.iter("th"))


def test_the_page_stays_small_whatever_the_workload() -> None:
    long = tuple(told(n % 40 + 1, f"GET /{'x' * 3000}", body="y" * 3000) for n in range(300))
    many = tuple(
        replace(COUNTER, route=f"GET /{n}/{'z' * 2000}", requests=long, alone=long, got="w" * 5000)
        for n in range(500)
    )
    text = html(verdict(divergences=many, warnings=("v" * 5000,) * 5000))
    assert len(text.encode()) < 2_000_000
    assert "further differences: see the JSON file" in text
