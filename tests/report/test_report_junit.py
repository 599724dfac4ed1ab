"""JUnit XML as a CI server reads it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from squeeze.report.junit import junit_xml


def parsed(report):
    return ElementTree.fromstring(junit_xml(report).encode())


def case(root, name):
    (result,) = [element for element in root.iter("testcase") if element.get("name") == name]
    return result


def test_there_is_a_case_per_pass_budget_line_and_package(report):
    root = parsed(report)
    assert [suite.get("name") for suite in root] == ["passes", "budget", "packages"]
    assert [suite.get("tests") for suite in root] == ["3", "3", "1"]
    assert root.attrib | {"name": "small", "tests": "7", "failures": "1", "skipped": "1"} == root.attrib


def test_a_broken_budget_is_a_failure_with_its_line(report):
    failure = case(parsed(report), "cpu: latency <= 50 %").find("failure")
    assert failure.get("message") == failure.text
    assert failure.text.endswith("measured 55.0 % (95 % interval 53.0 % to 57.0 %): broken")
    assert case(parsed(report), "cpu: size_bytes <= 40 %").find("failure") is None


@pytest.mark.parametrize(("strict", "tag"), [(False, "skipped"), (True, "failure")])
def test_an_unproven_budget_is_skipped_and_fails_a_strict_plan(report, strict, tag):
    report["plan"]["strict"] = strict
    result = case(parsed(report), "cpu: top1 -0.5 points")
    assert [child.tag for child in result] == [tag]
    assert "unproven" in result[0].get("message")


def test_a_package_that_does_not_verify_is_a_failure(report):
    report["packages"][0] |= {"verified": False, "notes": ["golden output differs"]}
    message = case(parsed(report), "verify small-cpu.zip").find("failure").get("message")
    assert message == "small-cpu.zip: not verified; golden output differs"


def test_the_pass_that_stopped_the_run_is_a_failure(report):
    report["failure"] = {"name": "distill", "branch": "cpu", "line": "distill: changed no weight"}
    failed = case(parsed(report), "cpu: distill")
    assert failed.find("failure").text == "distill: changed no weight"


def test_characters_that_xml_cannot_hold_do_not_break_it(report):
    report["judgements"][1]["line"] = "a\x00b\x1b[31m <&> \ud800"
    assert case(parsed(report), "cpu: latency <= 50 %").find("failure").text == "a\ufffdb\ufffd[31m <&> \ufffd"


def test_a_ledger_of_the_original_alone_is_an_empty_valid_file(bare_report):
    root = parsed(bare_report)
    assert (root.get("tests"), len(root)) == ("0", 0)
