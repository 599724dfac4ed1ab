"""What ``squeeze check --explain`` prints: of each pass what it will do, and what the whole run will take."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from squeeze.cli.show import new_console, table_of
from squeeze.passes.effort import HIGH, LOW, Work, host_speed
from squeeze.plan.check import Check
from squeeze.plan.cost import Explained
from squeeze.plan.duration import Effort, total
from squeeze.report import text
from squeeze.report.duration import span

ABOUT = "~"  # before what is foretold and not exact
LEAST_NAMES = 24  # columns for the names of layers
WIDEST = 1000  # columns; a table that may be so wide says how many it needs


def show_explained(check: Check, threads: int) -> None:
    """What each pass will do, before it does; for how long, this host is measured."""
    console = new_console()
    tables = [_table(check, threads, *shown) for shown in ((True, True), (True, False), (False, False))]
    table = next((one for one in tables if _width(console, one) <= console.width), tables[-1])
    console.print(table)
    for line in [*([] if table is tables[0] else _layers(check)), *_below(check, threads)]:
        console.print(line, soft_wrap=True)


def _width(console: Console, table: Table) -> int:
    """Columns that a table takes unless it cuts something short; names of layers may wrap."""
    names, most = table.columns[-1], table.columns[-1].max_width
    names.max_width = LEAST_NAMES
    width = Measurement.get(console, console.options.update(width=WIDEST), table).maximum
    names.max_width = most
    return width


def _table(check: Check, threads: int, shows_form: bool, names_layers: bool) -> Table:
    """A row for each pass; what has no room on a narrow terminal is left out."""
    has_memory = any(row.memory_bytes is not None for row in check.explained)
    names = ("pass", "for", *(["form"] if shows_form else []))
    numbers = ("parameters", "size", "MACs", *(["memory"] if has_memory else []), "time", "scoring")
    table = table_of(names, numbers, ("needs", "layers") if names_layers else ())
    if (first := check.original) is not None:
        counts = (text.whole(first.parameters), text.size(first.nbytes), text.count(first.macs))
        table.add_row(
            "original", *[""] * (len(names) - 1), *counts, *([""] if has_memory else []), *_times(check.effort, threads)
        )
    for row in check.explained:
        name, branch, form, *values, needs, layers = _explained(row)
        peak = [ABOUT + text.size(row.memory_bytes) if row.memory_bytes is not None else ""] if has_memory else []
        times = ["as above", ""] if row.again else _times(row.effort, threads)
        cells = (name, branch, *([form] if shows_form else []), *values, *peak, *times)
        table.add_row(*cells, *((needs, layers) if names_layers else ()))
    return table


def _layers(check: Check) -> list[str]:
    """What passes need and touch, a line each, however many branches share them."""
    lines = []
    for row in check.explained:
        *_, needs, layers = _explained(row)
        parts = [*([f"needs {needs}"] if needs else []), *([f"layers {layers}"] if layers else [])]
        lines += [f"{row.name}: {'; '.join(parts)}"] if parts else []
    return list(dict.fromkeys(lines))


def _below(check: Check, threads: int) -> list[str]:
    """What is kept, and what the run takes as a whole."""
    lines = list(dict.fromkeys(row.keeps for row in check.explained if row.keeps))
    if (stored := check.original_size) is not None:
        in_all = "" if stored.size_bytes is None else f", {text.size(stored.size_bytes)} in all"
        kept = f"{stored.token_bytes:,} bytes of the original for each token of data.evaluate"
        lines.append(f"the store keeps {kept}{in_all}")
    for name, takes in check.writing.items():
        lines.append(f"{name}: about {text.size(takes)} of memory while its files are written")
    if (cost := check.cost) is not None:
        memory, disk = text.size(cost.memory_bytes), text.size(cost.store_bytes)
        lines.append(f"the whole run: about {memory} of memory and {disk} in the store")
    low, high, of_all = total(check.efforts, threads)
    if high:
        least, rest = ("", "") if of_all else ("at least ", "; what has no time above comes on top")
        how = f"{LOW:g} to {HIGH:g} times what is counted, at this host's speed now"
        lines.append(f"estimated time: {least}{span(low, high)} ({how}){rest}")
    return lines


def check_json(check: Check, threads: int | None) -> dict[str, Any]:
    """The whole check as JSON values; seconds where threads are given, for which the host is measured."""
    seconds = {}
    if threads is not None:
        low, high, of_all = total(check.efforts, threads)
        seconds = {"seconds": {"least": round(low, 3), "most": round(high, 3), "of_all": of_all}}
    return {
        "original": asdict(check.original) if check.original else None,
        "passes": [_pass_json(row, threads) for row in check.explained],
        "fits": check.fits,
        "writing_bytes": check.writing,
        "kept_of_original": asdict(check.original_size) if check.original_size else None,
        "cost": asdict(check.cost) if check.cost else None,
        **seconds,
    }


def _pass_json(row: Explained, threads: int | None) -> dict[str, Any]:
    values = asdict(row)
    del values["effort"], values["place"]
    return values | ({"seconds": row.effort.seconds(threads)} if threads is not None else {})


def _times(effort: Effort, threads: int) -> list[str]:
    """Of the pass and of scoring; nothing where it is not known or nothing is done."""
    works = (effort.of_pass, effort.scoring)
    return ["" if work in (None, Work()) else span(*host_speed(threads).seconds(work)) for work in works]


def _explained(row: Explained) -> tuple[str, ...]:
    preview = row.preview
    about = "" if preview.exact else ABOUT
    names = f"{len(preview.touched)}: {preview.touched[0]}, ..." if preview.touched else ""
    counts = (text.whole(preview.parameters), text.size(preview.nbytes), text.count(preview.macs))
    needs = ", ".join([*row.needs, *([f"extra {row.extra}"] if row.extra else [])])
    numbers = (about + count for count in counts)
    form = row.gives if row.takes == row.gives else f"{row.takes} -> {row.gives}"
    return row.name, row.branch or "", form, *numbers, needs, names
