"""``squeeze report``: a finished run's report, again."""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.options import PATH, json_option, show_json

EPILOG = """\b
Example:
  squeeze report squeeze-out/digits"""


@click.command("report", epilog=EPILOG)
@click.argument("out", type=PATH)
@click.option("--render", is_flag=True, help="Write report.md, report.html and junit.xml anew from report.json.")
@json_option
def command(out: Path, render: bool, as_json: bool) -> None:
    """Show the ledger of the run whose --out folder was OUT."""
    from squeeze.cli.show import show_run
    from squeeze.report.write import read_report, write_reports

    report = read_report(out)
    if render:
        write_reports(report, out)
    if as_json:
        show_json(report)
    else:
        show_run(report)
