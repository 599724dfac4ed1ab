"""Which blocks a model does best without: losses with blocks skipped, each on disk before the next is measured."""

from __future__ import annotations

from itertools import islice

import torch

from squeeze.algorithms.sleb import Loss, cheapest_blocks
from squeeze.passes.base import Context

LOSSES = "losses"  # in the journal
MEASURED_AGAIN = 3  # losses for each block that leaves: what looks cheapest


def measured_on(samples: int, blocks: int, count: int, effort: int | None) -> int:
    """How many of the samples each loss is measured on, so that all take about ``effort`` forward passes over them.

    A loss goes on from what comes before its first skipped block: it takes half a pass in the mean.

    Args:
        count: Blocks that leave.
        effort: None: whatever it takes.
    """
    return samples if effort is None else max(1, min(samples, 2 * effort * samples // losses_of(blocks, count)))


def losses_of(blocks: int, count: int) -> int:
    """How many losses are measured until ``count`` blocks have left, about."""
    return blocks + MEASURED_AGAIN * count


def kept_on_disk(measure: Loss, context: Context) -> Loss:
    """The same measurement; what a killed run has measured is read."""
    measured = context.finished(LOSSES) or {}

    def loss(skipped: frozenset[int]) -> float:
        name = ",".join(map(str, sorted(skipped)))
        if name not in measured:
            measured[name] = torch.tensor(measure(skipped), dtype=torch.float64)
            context.keep(LOSSES, measured)
        return float(measured[name])

    return loss


def blocks_to_remove(loss: Loss, blocks: int, count: int, context: Context, name: str) -> list[tuple[int, float]]:
    """``count`` of the blocks, each with the loss once it has left: measured alone, then again what looks cheapest.

    Args:
        name: Of the pass, for the progress bar.
    """
    every = context.progress.track(range(blocks), f"{name}: each block", blocks)
    alone = {index: loss(frozenset({index})) for index in every}
    removed = list(context.progress.track(islice(cheapest_blocks(alone, loss), count), name, count))
    context.facts["removed"] = [{"block": index, "loss": value} for index, value in removed]
    return removed
