"""The plan of a report as the file that it came from, and the command that runs it again."""

from __future__ import annotations

from squeeze.report.shape import Report

RUN_AGAIN = "squeeze run plan.yaml --out again"


def plan_yaml(report: Report) -> str:
    """The resolved plan, every option spelled out."""
    import yaml

    if not report.plan:
        return ""
    plain = yaml.safe_dump(report.plan, sort_keys=False, allow_unicode=True, width=110)
    if all(map(str.isprintable, plain.split("\n"))):
        return plain
    return yaml.safe_dump(report.plan, sort_keys=False, allow_unicode=False, width=110)  # control letters as \\u....
