"""``squeeze compare``: two finished runs side by side."""

from __future__ import annotations

from pathlib import Path

import click

from squeeze.cli.options import PATH, json_option, show_json

EPILOG = """\b
Example:
  squeeze compare squeeze-out/rtn squeeze-out/gptq"""


@click.command("compare", epilog=EPILOG)
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@json_option
def command(first: Path, second: Path, as_json: bool) -> None:
    """Hold the run in SECOND against the one in FIRST (their --out folders): scores, changes, 95 % intervals.

    Paired where the examples are the same; what is scored on other data or by another convention is named instead.
    """
    from squeeze.cli.show import show_comparison
    from squeeze.ledger import written
    from squeeze.run.compare import Finished, compare

    comparison = compare(Finished.read(first), Finished.read(second))
    if as_json:
        pairs = [written(pair) for pair in comparison.pairs]
        show_json({"first": str(first), "second": str(second), "pairs": pairs, "notes": comparison.notes})
    else:
        show_comparison(first, second, comparison)
