"""How much arithmetic GPTQ takes on a language model, term by term, from shapes alone."""

from __future__ import annotations

from squeeze.algorithms.rtn import RATIOS
from squeeze.models.language.effort import block_macs, block_values
from squeeze.models.language.footprint import beside_shapes, kept_inputs_bytes, shared_shapes
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.calibration import KEPT_BYTES
from squeeze.passes.effort import WRITTEN_BLOCK, Amount, Work

STAGES = 4  # q, k, v; o; gate, up; down: each is calibrated on the quantized ones before it
REACHED = 0.6  # share of a block that runs until a stage's inputs are seen, on average
ONCE = 1.2  # times that a block runs where what goes into its last products is kept, first looks at it included
SHARING = 3  # weights that share an input, and so a Hessian, at most
SOLVE, PULL, SWEEP, LOSS = 0.5, 1.5, 1.2, 1.0  # products of H and W: solver, drift, a sweep, loss of plain rounding
SEARCH_STEPS = 10  # times that a weight is read or written for each scale that is tried
SWEEP_STEPS = 30  # the same for a sweep
HEAD_STEPS = 4  # times that a logit is read or written: softmax, the draw of a token, its gradient
COLUMN_CALLS, SWEEP_CALLS = 12, 12  # operators for each column: of the solver, of a sweep


def gptq_work(
    model: LanguageModel,
    data: Amount,
    follows_original: bool,
    sequential: bool,
    refinements: int,
    weighting_groups: int | None = None,
) -> Work | None:
    """Forward passes of the calibration tokens, Hessians, factors, solver and sweeps of all blocks; None: not known.

    Args:
        weighting_groups: Groups of outputs that have their own Hessian; None: weights with one input share one.
    """
    macs, tokens = block_macs(model), data.tokens
    if macs is None or not tokens:
        return None
    walks, stages = 1 + follows_original, STAGES if sequential else 1
    width = model.skeleton.hidden_size
    forward = Work({width: tokens * macs}, tokens * block_values(model, data.length))
    if weighting_groups is None:
        of_a_block = sum((_shared(*shape, tokens, walks, refinements) for shape in shared_shapes(model)), Work())
    else:
        of_a_block = _weighted(model, tokens, walks, refinements, weighting_groups)
    once = sequential and kept_inputs_bytes(model, tokens, KEPT_BYTES // walks)
    times = ONCE if once else stages * REACHED + 1
    backward = Work() if weighting_groups is None else _backward(model, forward, tokens)
    return forward.times(walks * times) + (of_a_block + WRITTEN_BLOCK).times(model.blocks) + backward


def _shared(out: int, width: int, tokens: int, walks: int, refinements: int) -> Work:
    """Weights ``[out, width]`` that lie beside each other."""
    hessians = 1 + (out > SHARING * width)
    sums = hessians * tokens * width * width * (0.5 + (walks - 1))
    products = SOLVE + PULL * (walks - 1) + SWEEP * refinements + LOSS
    values = out * width * (len(RATIOS) * SEARCH_STEPS + SWEEP_STEPS * refinements)
    calls = SHARING * width * (COLUMN_CALLS + SWEEP_CALLS * refinements)
    return Work({width: sums + products * out * width * width + width**3 / 6}, values, calls)


def _weighted(model: LanguageModel, tokens: int, walks: int, refinements: int, groups: int) -> Work:
    """All weights of a block, each in groups of outputs with a Hessian of their own."""
    shapes = [(-(-out // groups), width) for outs, width in beside_shapes(model) for out in outs]
    scaled = Work(values=walks * tokens * sum(width for _, width in shapes))
    return (sum((_shared(*shape, tokens, walks, refinements) for shape in shapes), Work()) + scaled).times(groups)


def _backward(model: LanguageModel, forward: Work, tokens: int) -> Work:
    """Squared gradients of the end loss: blocks forwards, again with gradients, backwards; the head both ways."""
    width, logits = model.skeleton.hidden_size, tokens * model.vocabulary
    return forward.times(3) + Work({width: 2.0 * width * logits}, HEAD_STEPS * logits)
