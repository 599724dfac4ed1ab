"""A report on disk: ``report.json`` holds everything, the other files are drawn from it and can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from squeeze.errors import SqueezeError, UsageError
from squeeze.formats.regular import parse_json, require_regular
from squeeze.report.shape import SCHEMA, as_report, plain
from squeeze.work import owned_folder


def write_reports(report: Mapping[str, Any], out: Path) -> dict[str, Path]:
    """Write ``report.json``, ``report.md``, ``report.html`` and ``junit.xml``, each whole or not at all.

    Returns:
        The paths by kind: ``json``, ``markdown``, ``html``, ``junit``.
    """
    from squeeze.report.html import html_report
    from squeeze.report.junit import junit_xml
    from squeeze.report.markdown import markdown_report

    contents = {
        "json": ("report.json", json.dumps(plain(report), indent=1) + "\n"),
        "markdown": ("report.md", markdown_report(report)),
        "html": ("report.html", html_report(report)),
        "junit": ("junit.xml", junit_xml(report)),
    }
    out.mkdir(parents=True, exist_ok=True)
    with owned_folder(out) as parts:
        for name, content in contents.values():
            (parts / name).write_text(content, encoding="utf-8", newline="\n")
            (parts / name).replace(out / name)
    return {kind: out / name for kind, (name, _) in contents.items()}


def read_report(out: Path) -> dict[str, Any]:
    """The report that ``write_reports`` left in a folder.

    Raises:
        UsageError: there is none.
        SqueezeError: it is damaged, or of another version.
    """
    path = out / "report.json" if out.is_dir() else out
    require_regular(path, UsageError)
    try:
        values = parse_json(path.read_bytes().decode())
    except OSError:
        raise UsageError(f"{out}: no report.json there; squeeze run PLAN --out {out} would write one") from None
    except ValueError as error:
        raise SqueezeError(f"{path}: not a whole report ({error}); run the plan again to write it anew") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        version = values.get("schema") if isinstance(values, dict) else None
        raise SqueezeError(
            f"{path}: report schema {version!r}; this squeeze reads {SCHEMA}: run the plan again with it"
        )
    try:
        as_report(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SqueezeError(f"{path}: {where}: {first['msg'].lower()}; run the plan again to write it anew") from None
    return values
