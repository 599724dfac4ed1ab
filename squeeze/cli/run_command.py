"""``squeeze run``: carry a plan out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from squeeze.cli.options import PATH, json_option, load_plan, plan_options, show_json, store_option
from squeeze.errors import UsageError

if TYPE_CHECKING:
    from squeeze.run import Run, RunFailed

EPILOG = """\b
Example:
  squeeze run plans/digits.yaml --out squeeze-out/digits --set passes.0.ratio=0.25"""


@click.command("run", epilog=EPILOG)
@plan_options
@click.option("--out", type=PATH, help="Folder for report and packages  [squeeze-out/PLAN]")
@store_option
@json_option
@click.option("--quiet", is_flag=True, help="No word until the end.")
@click.option("--verbose", is_flag=True, help="A line for every piece of work, each with the time since the start.")
def command(
    plan: Path,
    overrides: tuple[str, ...],
    variables: tuple[str, ...],
    out: Path | None,
    store: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compress by PLAN: every pass scored, the result packed and verified, reports in the --out folder.

    In a log a line says at least every half minute where the work is; `squeeze status OUT` says it meanwhile.
    Exit code 3 when the result is outside the plan's budget. Kill it, run it again: it goes on after the last
    finished pass.
    """
    from squeeze.cli.terminal import progress_for_terminal
    from squeeze.run import RunFailed, run
    from squeeze.run.helper import help_unless_leading

    help_unless_leading()
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other; one of them would do")
    loaded = load_plan(plan, overrides, variables)
    folder = _create(out or Path("squeeze-out") / loaded.name)
    try:
        with progress_for_terminal(folder, quiet=quiet or as_json, verbose=verbose) as progress:
            result = run(loaded, out=folder, store=store, progress=progress)
    except RunFailed as failed:
        raise _reported(failed, folder) from failed
    _show(result, folder, as_json)
    result.require_budget()


def _show(result: Run, folder: Path, as_json: bool) -> None:
    """Write the reports and print what came out."""
    from squeeze.cli.show import show_run
    from squeeze.refused import one_line_if_refused
    from squeeze.report.examples import write_examples
    from squeeze.report.write import write_reports
    from squeeze.run.reporting import report_of

    report = report_of(result, folder)
    with one_line_if_refused(folder):
        written = write_reports(report, folder)
        write_examples(result.ledger, folder)
    if as_json:
        show_json(report)
    else:
        show_run(report)
        click.echo(f"\nReport: {os.path.relpath(written['html'])}")


def _create(folder: Path) -> Path:
    """The --out folder, made where it is not there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be made ({error.strerror}); another folder would do") from None
    return folder


def _reported(failed: RunFailed, folder: Path) -> RunFailed:
    """A failure whose report is written; where that is refused as well, the one line says both."""
    from squeeze.errors import RefusedError
    from squeeze.refused import refusal
    from squeeze.report.write import write_reports
    from squeeze.run import RunFailed
    from squeeze.run.reporting import report_of

    try:
        write_reports(report_of(failed.run, folder), folder)
    except OSError as error:
        if (line := refusal(error, folder)) is None:
            raise
        if not isinstance(failed.__cause__, RefusedError):
            return RunFailed(f"{failed}; no report is written: {line}", failed.run, failed.exit_code)
    return failed
