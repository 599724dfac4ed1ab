"""The report for CI servers: JUnit XML as GitLab and Jenkins read it.

One test case per pass, per line of the budget and per package, so that a broken budget is a failed test with its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from squeeze.report import text
from squeeze.report.shape import Judgement, Package, Report, Row, as_report


def junit_xml(report: Mapping[str, Any]) -> str:
    """One suite each for the passes, the budget and the packages."""
    data = as_report(report)
    root = Element("testsuites", name=data.name)
    budget = [_judged(judgement, data.strict) for judgement in data.judgements]
    suites = {"passes": _passes(data), "budget": budget, "packages": [_package(p) for p in data.packages]}
    for name, cases in suites.items():
        if cases:
            SubElement(root, "testsuite", name=name).extend(cases)
    for suite in root:
        _count(suite, list(suite))
    _count(root, list(root.iter("testcase")))
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _count(element: Element, cases: list[Element]) -> None:
    element.set("tests", str(len(cases)))
    element.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    element.set("errors", "0")
    element.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    element.set("time", "0")


def _passes(report: Report) -> list[Element]:
    """A row in the ledger is a pass that kept its promises; the one that did not has no row, and stopped the run."""
    cases = [_pass(row) for row in report.rows[1:]]
    if report.failure:
        failed = _case("squeeze.passes", Row(name=report.failure.name, branch=report.failure.branch).label)
        _say(failed, "failure", report.failure.line)
        cases.append(failed)
    return cases


def _pass(row: Row) -> Element:
    case = _case("squeeze.passes", row.label)
    scores = [text.sentence(score) for score in (*row.scores.values(), *row.timings.values())]
    scores += [f"{text.NOT_RUN}: {row.not_run}"] if row.not_run else []
    SubElement(case, "system-out").text = "\n".join(scores) or "not scored"
    return case


def _judged(judgement: Judgement, strict: bool) -> Element:
    where = f"{judgement.branch}: " if judgement.branch else ""
    case = _case("squeeze.budget", f"{where}{judgement.metric} {judgement.written}")
    if judgement.outcome == "broken" or judgement.unknown or (strict and judgement.outcome == "unproven"):
        _say(case, "failure", judgement.line)
    elif judgement.outcome == "unproven":
        _say(case, "skipped", judgement.line)
    else:
        SubElement(case, "system-out").text = judgement.line
    return case


def _package(package: Package) -> Element:
    case = _case("squeeze.packages", f"verify {package.path}")
    if not package.verified:
        _say(case, "failure", "; ".join([f"{package.path}: not verified", *package.notes]))
    return case


def _case(classname: str, name: str) -> Element:
    return Element("testcase", classname=classname, name=name, time="0")


def _say(case: Element, tag: str, line: str) -> None:
    element = SubElement(case, tag, message=line)
    if tag == "failure":
        element.set("type", case.get("classname", ""))
        element.text = line
