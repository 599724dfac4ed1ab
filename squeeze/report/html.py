"""The report as one self-contained page: no network, nothing that runs but the table sorter printed in it.

The page's content security policy names that script by its hash, so that even a hole in the escaping runs nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any

from squeeze.report import duration, equality, layers, text, weights
from squeeze.report.facts import fact_lines
from squeeze.report.headline import headline
from squeeze.report.reproduce import RUN_AGAIN, plan_yaml
from squeeze.report.scores import SCORE_HEADINGS, score_lines
from squeeze.report.shape import Report, as_report


def html_report(report: Mapping[str, Any]) -> str:
    """The page; the same report gives the same bytes."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    data = as_report(report)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    script = _template("sort.js.j2")
    script_hash = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(_template("style.css.j2")), "script": Markup(script), "script_hash": script_hash}
    pictures = {name: Markup(svg) for name, svg in _pictures(data).items()}
    page = environment.from_string(_template("report.html.j2"))
    return page.render(report=data, pictures=pictures, **_worded(data), **own) + "\n"


def _worded(report: Report) -> dict[str, Any]:
    facts = [(row, lines) for row in report.rows if (lines := fact_lines(row))]
    return {
        "text": text,
        "headline": headline(report),
        "facts": facts,
        "score_headings": SCORE_HEADINGS,
        "score_lines": score_lines(report),
        "layer_columns": layers.COLUMNS,
        "layer_tables": layers.layer_tables(report),
        "duration_columns": duration.COLUMNS,
        "duration_cells": duration.duration_cells(report),
        "equality_columns": equality.COLUMNS,
        "equality_lines": equality.equality_lines(report),
        "weight_columns": weights.COLUMNS,
        "weight_tables": weights.weight_tables(report),
        "plan": plan_yaml(report),
        "cost": text.cost(report),
        "run_again": RUN_AGAIN,
    }


def _pictures(report: Report) -> dict[str, str]:
    from squeeze.report.pictures import branch_picture, pass_picture

    pictures = {"passes": pass_picture(report), "branches": branch_picture(report)}
    return {name: svg for name, svg in pictures.items() if svg is not None}


def _template(name: str) -> str:
    return resources("squeeze.report").joinpath("templates", name).read_text(encoding="utf-8")
