"""What ``squeeze check --explain`` prints: of each pass what it will do, and what the whole run will take."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from squeeze.cli.show import new_console, table_of
from squeeze.passes.effort import HIGH, LOW, Work, host_speed
from squeeze.plan.check import Check, Explained
from squeeze.plan.duration import Effort, total
from squeeze.report import text
from squeeze.report.duration import span


def show_explained(check: Check, threads: int) -> None:
    """What each pass will do, before it does; for how long, this host is measured."""
    has_memory = any(row.memory_bytes is not None for row in check.explained)
    numbers = ("parameters", "size", "MACs", *(["memory"] if has_memory else []), "time", "scoring")
    table = table_of(("pass", "for", "form"), numbers, ("needs", "layers"))
    if (first := check.original) is not None:
        counts = (text.whole(first.parameters), text.size(first.nbytes), text.count(first.macs))
        table.add_row("original", "", "", *counts, *([""] if has_memory else []), *_times(check.effort, threads))
    for row in check.explained:
        *cells, needs, layers = _explained(row)
        peak = f"about {text.size(row.memory_bytes)}" if row.memory_bytes is not None else ""
        table.add_row(*cells, *([peak] if has_memory else []), *_times(row.effort, threads), needs, layers)
    console = new_console()
    console.print(table)
    for line in _below(check, threads):
        console.print(line, soft_wrap=True)


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
    return {
        "original": asdict(check.original) if check.original else None,
        "passes": [explained_json(row, threads) for row in check.explained],
        "fits": check.fits,
        "writing_bytes": check.writing,
        "kept_of_original": asdict(check.original_size) if check.original_size else None,
        "cost": asdict(check.cost) if check.cost else None,
        **({"seconds": run_seconds(check, threads)} if threads is not None else {}),
    }


def explained_json(row: Explained, threads: int | None) -> dict[str, Any]:
    """A pass as JSON values; seconds where threads are given, for which the host is measured."""
    values = asdict(row)
    del values["effort"], values["place"]
    return values | ({"seconds": row.effort.seconds(threads)} if threads is not None else {})


def run_seconds(check: Check, threads: int) -> dict[str, Any]:
    """Of the whole run."""
    low, high, of_all = total(check.efforts, threads)
    return {"least": round(low, 3), "most": round(high, 3), "of_all": of_all}


def _times(effort: Effort, threads: int) -> list[str]:
    return [_time(work, threads) for work in (effort.of_pass, effort.scoring)]


def _time(work: Work | None, threads: int) -> str:
    """Nothing where it is not known or nothing is done."""
    return span(*host_speed(threads).seconds(work)) if work is not None and work != Work() else ""


def _explained(row: Explained) -> tuple[str, ...]:
    preview = row.preview
    about = "" if preview.exact else "about "
    names = f"{len(preview.touched)}: {preview.touched[0]}, ..." if preview.touched else ""
    counts = (text.whole(preview.parameters), text.size(preview.nbytes), text.count(preview.macs))
    needs = ", ".join([*row.needs, *([f"extra {row.extra}"] if row.extra else [])])
    numbers = (about + count for count in counts)
    return row.name, row.branch or "", f"{row.takes} -> {row.gives}", *numbers, needs, names
