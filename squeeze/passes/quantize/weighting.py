"""What an error in a token's output costs: the same for all tokens, or as much as the end loss feels it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from torch import Tensor, nn

from squeeze.blocks.end_loss import HEAD_VALUES, BackwardWalk
from squeeze.blocks.watch import Weight
from squeeze.errors import ModelError
from squeeze.models.language.footprint import FLOAT, PROCESS_BYTES, gradient_bytes, head_bytes, largest_block_bytes
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.matrices import block_weights
from squeeze.models.language.memory import trim_heap
from squeeze.models.language.skeleton import Skeleton
from squeeze.passes.base import Context
from squeeze.passes.calibration import calibration_tokens
from squeeze.store import Journal

Weighting = Literal["equal", "end_loss"]

BACKWARD_TOKENS = 1024  # that pass a block together when it is run with gradients
LOGIT_COPIES = 4  # logits, their probabilities, and both on their way


class TokenWeights:
    """Squared gradients of the end loss by the outputs of weights, or a power of them, a block's at a time, on disk.

    Args:
        names: Of the weights that are looked at, in the whole model.
        groups: Groups of output channels of each.
        power: Of the squared gradient.
    """

    def __init__(
        self, model: LanguageModel, names: Collection[str], groups: int, power: float, context: Context
    ) -> None:
        self.model, self.groups, self.power, self.context = model, groups, power, context
        self.names = [_inside(model.skeleton, index, names) for index in range(model.blocks)]
        self.journal = context.journal or Journal(context.work_folder())
        if any(self.journal.open(_piece(index)) is None for index in self._indices()):
            self._write()

    def of(self, index: int) -> Mapping[Weight, Tensor]:
        """float32 ``[tokens, groups]`` by weight of a block, mean 1."""
        return {Weight(name): value for name, value in (self.journal.get(_piece(index)) or {}).items()}

    def _indices(self) -> list[int]:
        """Of the blocks with weights to look at."""
        return [index for index, names in enumerate(self.names) if names]

    def _write(self) -> None:
        """Forwards through all blocks, then backwards to the first one that is looked at."""
        model, progress, folder = self.model, self.context.progress, self.context.work_folder()
        tokens = calibration_tokens(self.context)
        on_disk = self.context.spill(tokens.numel() * model.skeleton.hidden_size * FLOAT) is not None
        spill = folder / "gradients" if on_disk else None
        walk = model.walk(tokens, max(1, BACKWARD_TOKENS // tokens.shape[1]), spill, wide=True)
        backward, first = BackwardWalk(walk, folder), min(self._indices())
        for index in progress.track(range(model.blocks), "end loss, forwards", model.blocks):
            with model.block(index, wide=True):
                backward.through(index)
        with model.outside(wide=True):
            backward.turn(self.context.seed)
        indices = range(model.blocks - 1, first - 1, -1)
        for index in progress.track(indices, "end loss, backwards", len(indices)):
            with model.block(index, wide=True) as block:
                self._note(backward, index, block)
            trim_heap()

    def _note(self, backward: BackwardWalk, index: int, block: nn.Module) -> None:
        """One block's weights, on disk when this returns."""
        try:
            squares = backward.back(index, block, [Weight(name) for name in self.names[index]], self.groups)
        except ModelError as error:
            raise ModelError(f"{self.model.skeleton.prefix(index)}{error}") from None
        if squares:
            pieces = {weight.name: square.pow(self.power) for weight, square in squares.items()}
            self.journal.put(_piece(index), {name: value / value.mean(0) for name, value in pieces.items()})


def end_loss_bytes(model: LanguageModel, tokens: int, limit: int | None) -> int:
    """The peak of :class:`TokenWeights`: a block with gradients, or head and logits, beside float32 activations."""
    activations = FLOAT * tokens * model.skeleton.hidden_size
    between = activations if limit is None else min(activations, limit // 4)
    block = largest_block_bytes(model) + gradient_bytes(model, min(tokens, BACKWARD_TOKENS))
    head = head_bytes(model) + LOGIT_COPIES * FLOAT * max(HEAD_VALUES, model.vocabulary)
    return PROCESS_BYTES + between + max(block, head)


def _inside(skeleton: Skeleton, index: int, names: Collection[str]) -> list[str]:
    """Those of a block, named inside it."""
    return [name for name in block_weights(skeleton, index) if skeleton.prefix(index) + name in names]


def _piece(index: int) -> str:
    return f"end-loss-{index:05d}"
