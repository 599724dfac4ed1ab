"""What commands print on a terminal; numbers are worded by ``squeeze.report``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from squeeze.ledger import written
from squeeze.models.base import Layer, Model
from squeeze.report import text
from squeeze.report.headline import headline
from squeeze.report.shape import Delta, as_report
from squeeze.report.summary import summary
from squeeze.report.table import ledger_table
from squeeze.run.compare import Comparison
from squeeze.run.on_arm64 import OnArm64
from squeeze.targets.verify import Verification

if TYPE_CHECKING:  # it brings the exporter, which takes seconds
    from squeeze.run.compare_tensors import Compared

PIPE_COLUMNS = 160


def show_run(report: dict[str, Any]) -> None:
    """The ledger, the budget and the packages of a finished run."""
    console = new_console()
    if line := headline(as_report(report)):
        console.print(f"{line}.", style="yellow", markup=False, soft_wrap=True)
    console.print(ledger_table(report, width=console.width))
    console.print(summary(report))


def show_comparison(first: Path, second: Path, comparison: Comparison) -> None:
    """Each score of two runs, and how far the second is from the first."""
    folders = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    table = table_of(("", "metric"), folders, ("change", "verdict"))
    for pair in comparison.pairs:
        values = (text.value(pair.unit, pair.first), text.value(pair.unit, pair.second))
        delta = Delta.model_validate(written(pair.change)) if pair.change else None
        words = text.change_text(pair.unit, delta), text.verdict(pair.unit, delta)
        table.add_row(pair.row, text.heading(pair.metric), *values, *words)
    console = new_console()
    console.print(table)
    for note in comparison.notes:
        console.print(note, soft_wrap=True, markup=False)


def show_model(name: str, model: Model, coupled: list[dict[str, Any]]) -> None:
    """A model's layers with their share, and what must be pruned together."""
    layers = model.layers()
    table = table_of(("layer", "kind", "shape"), ("parameters", "share", "bytes", "MACs", "share"))
    table.title = f"{name}: {model.form}, {text.whole(model.parameters())} parameters, {text.size(model.nbytes())}"
    for layer in layers:
        table.add_row(*_layer(layer, model.parameters(), model.macs()))
    console = new_console()
    console.print(table)
    for group in coupled:
        writers, readers = (", ".join(group[name]) for name in ("writers", "readers"))
        end = "; the model's output" if group["output"] else ""
        line = f"coupled, {group['channels']} channels: {writers} -> {readers or '-'}{end}"
        console.print(line, soft_wrap=True)


def show_verified(package: Path, digest: str, verification: Verification, rescored: dict[str, Any] | None) -> None:
    """That a package is what it claims to be, and how that was found."""
    console = new_console()
    equal = "bit for bit" if verification.bit_equal else f"within {verification.difference:.2g} of the largest output"
    outcome = (
        f"golden output equal {equal}" if verification.not_run is None else "program and integers read back, not run"
    )
    console.print(f"{package}: verified: every file as listed, {outcome}")
    console.print(f"digest {digest}")
    for note in verification.notes:
        console.print(f"note: {note}")
    for line in _rescored(rescored or {}):
        console.print(line, soft_wrap=True)


def _rescored(rescored: dict[str, Any]) -> Iterator[str]:
    """Each metric: its score beside the ledger's, or why there is none."""
    for name, score in rescored.get("scores", {}).items():
        exact = text.whole(score["value"]) if score["interval"] is None else f"{score['value']:.4g}"
        spread = " (95 % interval {:.4g} to {:.4g})".format(*score["interval"]) if score["interval"] else ""
        yield f"{name}: {exact}{spread}; {_beside_ledger(rescored, name, score)}"
    yield from (f"{name}: not scored: {reason}" for name, reason in rescored.get("not_scored", {}).items())


def _beside_ledger(rescored: dict[str, Any], name: str, score: dict[str, Any]) -> str:
    if "claimed" not in score:
        return str(rescored["not_compared"][name])
    if score["interval"] is None or not (shift := rescored["outputs_differ_by"]):
        return "equal to the ledger's"
    near = f"{score['claimed']:.4g}, within the {score['tolerance']:.1g} that outputs differing by {shift:.1g} allow"
    return f"the ledger's is {near}"


def show_on_arm64(result: OnArm64) -> None:
    """The golden output and the scores of a package on an emulated processor, beside this one's."""
    console = new_console()
    golden = "bit for bit" if result.golden_difference == 0 else f"within {result.golden_difference:.2g} of the largest"
    what = f"{result.runtime} on an emulated {result.processor} (ARM64; says nothing of speed)"
    console.print(f"{what}: golden output equal {golden}", soft_wrap=True)
    if result.outputs_differ_by is not None:
        table = table_of(("metric",), ("here", "ARM64"), ("change", "verdict"))
        for label, score in result.arm64.items():
            delta = Delta.model_validate(written(score.to_original)) if score.to_original else None
            words = text.change_text(score.unit, delta), text.verdict(score.unit, delta)
            values = (text.value(score.unit, result.here[label].value), text.value(score.unit, score.value))
            table.add_row(text.heading(label), *values, *words)
        console.print(table)
        far = f"{result.outputs_differ_by:.2g} of the largest"
        console.print(f"{result.examples} examples, outputs differ by at most {far}", soft_wrap=True)
    if names := ", ".join(map(text.heading, result.not_scored)):
        console.print(f"not scored on ARM64: {names}; only a model's answers to single examples are", soft_wrap=True)


def show_tensors(package: Path, compared: Compared, shows_all: bool) -> None:
    """The error of each layer, and the first that is further off than the tolerance."""
    console = new_console()
    table = table_of(("layer", "value", "operator"), ("error", "growth"))
    table.title = f"{package} beside the original, {compared.examples} examples in {compared.runtime}"
    last = {layer.layer: layer for layer in compared.layers}
    for layer in compared.layers if shows_all else last.values():
        mark = " <-" if layer == compared.first else ""
        growth = "" if layer.growth is None else f"{layer.growth:.2f}x"
        table.add_row(layer.layer, layer.value, layer.operator, f"{100 * layer.error:.2f} %{mark}", growth)
    console.print(table)
    limit = f"{100 * compared.tolerance:g} %"
    if compared.first is None:
        console.print(f"no layer is further off than {limit} of its values", soft_wrap=True)
    else:
        first, where = compared.first, f"{compared.first.layer} ({compared.first.operator})"
        console.print(f"first over {limit}: {where}, {100 * first.error:.2f} % in {first.value}", soft_wrap=True)
    if compared.not_compared:
        console.print(f"{compared.not_compared} values are not in the file, or of another shape", soft_wrap=True)


def show_bench(package: Path, bench: dict[str, Any]) -> None:
    """Latency and throughput per batch size; of a language model tokens per second, reading and writing."""
    console = new_console()
    threads = f"{bench['threads']} thread(s)"
    if "batches" in bench:
        table = table_of((), ("batch", "median ms", "p10 ms", "p90 ms", "examples/s"))
        table.title = f"{package}, {threads}"
        for row in bench["batches"]:
            values = (row["median_ms"], row["p10_ms"], row["p90_ms"], row["examples_per_s"])
            table.add_row(str(row["batch"]), *(f"{value:,.3f}" for value in values))
    else:
        table = table_of(("",), ("median", "p10", "p90"))
        table.title = f"{package}: {bench['prompt_tokens']} tokens read, {bench['new_tokens']} written, {threads}"
        for name in ("prefill_tokens_per_s", "decode_tokens_per_s", "first_token_ms"):
            table.add_row(name, *(f"{bench[name][part]:,.1f}" for part in ("median", "p10", "p90")))
    console.print(table)
    for name in ("load_ms", "peak_rss_bytes", "model_bytes", "package_bytes", "host"):
        console.print(f"{name}: {bench[name]}")


def show_side_by_side(packages: Sequence[Path], turns: Sequence[Sequence[dict[str, Any]]]) -> None:
    """A row per package: medians over its turns, and how far these are apart."""
    console, first = new_console(), turns[0][0]
    if "batches" in first:
        batches = [row["batch"] for row in first["batches"]]
        figures = {
            f"ms, batch {size}": [[one["batches"][place]["median_ms"] for one in found] for found in turns]
            for place, size in enumerate(batches)
        }
    else:
        figures = {
            title: [[one[name]["median"] for one in found] for found in turns]
            for title, name in (
                ("read tok/s", "prefill_tokens_per_s"),
                ("write tok/s", "decode_tokens_per_s"),
                ("first ms", "first_token_ms"),
            )
        }
    table = table_of(("",), (*figures, "load ms", "memory", "model", "spread"))
    host = f"{first['host']['processor']}, {first['host']['cores']} cores"
    console.print(f"medians of {len(turns[0])} turns, {first['threads']} thread(s), {host}; spread: most less least")
    for place, package in enumerate(packages):
        console.print(f"{place + 1}: {package}", soft_wrap=True, markup=False)
        values = [each[place] for each in figures.values()]
        loads, peaks = ([one[name] for one in turns[place]] for name in ("load_ms", "peak_rss_bytes"))
        spread = max((max(some) - min(some)) / median(some) for some in values)
        cells = [f"{median(some):,.4g}" for some in (*values, loads)]
        sizes = text.size(max(peaks)), text.size(turns[place][0]["model_bytes"])
        table.add_row(str(place + 1), *cells, *sizes, f"{100 * spread:.0f} %")
    console.print(table)


def _layer(layer: Layer, parameters: int | None, macs: int | None) -> tuple[str, ...]:
    shape = " x ".join(map(str, layer.shape))
    share = f"{layer.parameters / parameters:.1%}" if parameters else ""
    work = f"{layer.macs / macs:.1%}" if macs and layer.macs is not None else ""
    numbers = (f"{layer.parameters:,}", share, f"{layer.nbytes:,}", text.whole(layer.macs), work)
    return layer.name, layer.kind, shape, *numbers


def new_console() -> Console:
    """The terminal as wide as it is; a file or pipe wide enough to lose nothing."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, PIPE_COLUMNS)
    return console


def table_of(names: tuple[str, ...], numbers: tuple[str, ...], wrapped: tuple[str, ...] = ()) -> Table:
    """Columns of names, of numbers, and of text that may wrap."""
    table = Table(box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in names:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    for column in wrapped:
        table.add_column(column, overflow="fold", min_width=12)
    return table
