"""Which linear maps take the place of removed blocks: fitted on some sequences, judged on others, each on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from squeeze.blocks.walk import Walk
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.surgery.replaced import Changed, Parameters, Run, folded, last_linear, measure_gap, runs_of, walk_to_runs

DAMPINGS = (0.001, 0.01, 0.1)  # shares of the mean diagonal that are tried; the more, the nearer to no map at all
LOSS, DAMPING = "loss", "damping"  # in a run's piece of the journal, beside its parameters

Judge = Callable[[Changed], float]  # loss of the model without its blocks, some parameters being others


def replace_runs(
    model: LanguageModel, start: Walk, gone: frozenset[int], judge: Judge, loss: float, context: Context, name: str
) -> tuple[Changed, float]:
    """Parameters whose maps make the loss smaller, and the loss with them; the other runs are skipped as they are.

    Args:
        start: Embedded tokens that maps are fitted to; they are walked through the model.
        judge: On other sequences.
        loss: Of the model without its blocks, and without a map.
        name: Of the pass, for the progress bar.
    """
    changed: dict[int, Parameters] = {}
    facts: list[dict[str, Any]] = []
    runs = runs_of(gone)

    def visit(run: Run, walk: Walk, target: Walk) -> Changed:
        nonlocal loss
        piece = context.finished(f"map-{run.before}")
        if piece is None:
            piece = _best_map(model, walk, target, run, changed, judge, loss)
            context.keep(f"map-{run.before}", piece)
        loss, damping = float(piece.pop(LOSS)), float(piece.pop(DAMPING))
        facts.append({"block": run.before, "removed": list(run.removed), "loss": loss, "kept": bool(piece)})
        if piece:
            facts[-1]["damping"] = damping
            changed[run.before] = piece
        return changed

    walk_to_runs(model, start, context.progress.track(runs, f"{name}: linear maps", len(runs)), visit)
    context.facts["replaced"] = {"kept": len(changed), "fitted": len(runs), "maps": facts}
    return changed, loss


def _best_map(
    model: LanguageModel, walk: Walk, target: Walk, run: Run, changed: Changed, judge: Judge, loss: float
) -> dict[str, Tensor]:
    """The parameters that make the loss least, with it; the loss alone where skipping is best."""
    linear = last_linear(model, walk, run.before)
    gap = measure_gap(model, walk, target, run, linear, changed)
    best: dict[str, Tensor] = {}
    chosen = 0.0
    for damping in DAMPINGS:
        parameters = folded(model, run.before, linear, gap.map(damping))
        with_map = judge({**changed, run.before: parameters})
        if with_map < loss:
            best, loss, chosen = parameters, with_map, damping
    exact = {LOSS: torch.tensor(loss, dtype=torch.float64), DAMPING: torch.tensor(chosen, dtype=torch.float64)}
    return best | exact
