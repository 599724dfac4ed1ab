"""How much memory a training of a language model takes, by its shapes and options alone."""

from __future__ import annotations

from torch import nn

from squeeze.models.base import Model
from squeeze.models.language.effort import AROUND_SCORE
from squeeze.models.language.footprint import FLOAT, PROCESS_BYTES
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.language.resident import LOGITS_VALUES
from squeeze.training.launch import launched_processes
from squeeze.training.options import TrainingOptions

LOGITS_COPIES = 4  # logits, their logarithms, and the gradients of both
STATE = {"adamw": 2, "sgd": 1, "adafactor": 0}  # values that an optimizer keeps of each weight
STEP_COPIES = {"adafactor": 3}  # of the largest weight, while its step is worked out; fused steps need none
HIDDEN_COPIES, WIDE_COPIES = 10, 4  # values that a block keeps of a token for its gradient, in hidden and inner widths
READ_VALUES = 2  # of each weight on disk: as it lies there, and as it is computed with
STEP_VALUES = 6  # of each trained weight, once a step: it, its gradient and the optimizer's state, read and written
REST_COPIES, PIECE_COPIES = 2, 3  # of weights in parts: whole and as sent; of a block the next one's, too
BLOCK_COPIES = 2  # of a block whose weights are read: as it computes, and of the one before, not yet let go
GRID_COPIES = 8  # copies of a weight on its grid: integers, rounded and clipped values, and gradients


def training_bytes(model: Model, options: TrainingOptions, length: int, quantized: str | None, teacher: bool) -> int:
    """The peak: weights, gradients, the optimizer's state, a teacher, and what a micro-batch leaves for its gradient.

    Of each process, where ``sharded`` divides all but the last among those that a launcher started with this one. A
    check that is started alone does not know of others, and tells what one process takes that holds all of it.

    Args:
        length: Tokens of a sequence; 0: not known.
        quantized: How weights on a grid are trained; None: they are floats.
        teacher: Whether one lies in memory beside the student.
    """
    shards = in_shards(model)
    weights, optimizer = shards.parameters(), options.trains_with(model)
    trained = trained_weights(shards, options, quantized)
    state = trained * (1 + STATE[optimizer])
    on_grid = _grid_values(shards, quantized)
    step = STEP_COPIES.get(optimizer, 0) * max(value.numel() for value in shards.skeleton.module.parameters())
    if options.on_disk:
        read = BLOCK_COPIES * max(map(_count, shards.skeleton.layers))
        values = _ends(shards) * (1 + teacher) + trained + state + read
        return PROCESS_BYTES + FLOAT * (values + _activations(shards, options, length, teacher))
    values = weights * (1 + teacher) + state + step
    within = on_grid + _activations(shards, options, length, teacher)
    processes = launched_processes() if options.sharded else 1
    if processes == 1:
        return PROCESS_BYTES + FLOAT * (values + within)
    whole = weights + weights * (1 + teacher) // processes  # as a model is read, and as the student is written
    parts = values // processes + _gathered(shards, trained / weights) + within
    return PROCESS_BYTES + FLOAT * max(whole, parts)


def _ends(model: LanguageModel) -> int:
    """Values outside of the blocks."""
    return model.parameters() - sum(map(_count, model.skeleton.layers))


def _gathered(model: LanguageModel, trained: float) -> int:
    """Values that a process holds whole beside its part of them: weights, and the gradients of a share of them."""
    ends = [model.skeleton.module.get_parameter(name).numel() for name in model.skeleton.ends]
    pieces = [_count(block) for block in model.skeleton.layers] + (ends if len(ends) > 1 else [])
    rest = model.parameters() - sum(pieces)
    return round((1 + trained) * (REST_COPIES * rest + PIECE_COPIES * max(pieces)))


def trained_weights(model: LanguageModel, options: TrainingOptions, quantized: str | None) -> int:
    """How many values the optimizer moves."""
    if quantized == "scales":
        return model.parameters() // 32  # groups are seldom smaller
    blocks = model.skeleton.layers
    if options.train == "last_blocks":
        return sum(_count(block) for block in blocks[-options.blocks :])
    if options.train == "norms":
        return sum(_count(part) for part in model.module.modules() if "Norm" in type(part).__name__)
    if options.trains_adapters:
        linears = [part for block in blocks for part in block.modules() if isinstance(part, nn.Linear)]
        return sum(options.rank * (part.in_features + part.out_features) for part in linears)
    return model.parameters()


def _activations(model: LanguageModel, options: TrainingOptions, length: int, teacher: bool) -> int:
    """Values of one micro-batch."""
    tokens = _sequences(model, options, length) * length
    hidden, block = int(model.skeleton.hidden_size), _block_values(model)
    block_values = model.blocks * hidden + block if options.computes_again else model.blocks * block
    return tokens * (block_values + (LOGITS_COPIES + teacher) * model.vocabulary)


def _sequences(model: LanguageModel, options: TrainingOptions, length: int) -> int:
    """Of one micro-batch."""
    return min(options.batch_size, max(1, LOGITS_VALUES // max(length * model.vocabulary, 1)))


def touched_values(
    model: LanguageModel, options: TrainingOptions, quantized: str | None, tokens: int, length: int, forwards: int
) -> float:
    """Values that a training reads or writes outside of products and of the loss, for an estimate of its time.

    Args:
        tokens: That it sees in all.
        length: Of a sequence; attention looks from each token at as many.
        forwards: Forward passes that a step is worth.
    """
    heads = int(getattr(model.skeleton.config.get_text_config(), "num_attention_heads", 1))
    seen = forwards * tokens * model.blocks * (_block_values(model) + AROUND_SCORE * heads * length)
    weights = trained_weights(model, options, quantized) + _grid_values(model, quantized)
    stepped = STEP_VALUES * weights * tokens / max(length * options.batch_size, 1)
    if not options.on_disk:
        return seen + stepped
    passes = tokens / max(_sequences(model, options, length) * length, 1)
    return seen + stepped + READ_VALUES * forwards * (model.parameters() - _ends(model)) * passes


def _grid_values(model: LanguageModel, quantized: str | None) -> int:
    """Copies of the weights that are trained through their grid; beside an adapter they are as they are."""
    if quantized is None or quantized == "adapter":
        return 0
    return GRID_COPIES * sum(shape.matrix[0] * shape.matrix[1] for shape in model.matrices().values())


def _block_values(model: LanguageModel) -> int:
    """Of one token, what a block keeps for its gradient."""
    wide = max(max(value.shape) for block in model.skeleton.layers for value in block.parameters())
    return HIDDEN_COPIES * int(model.skeleton.hidden_size) + WIDE_COPIES * wide


def _count(part: nn.Module) -> int:
    return sum(value.numel() for value in part.parameters())
