"""How much a model's final loss feels an error in what each linear gives, token by token.

A forward walk leaves the input of every block on disk; a backward walk goes from the last block to the first, runs each
again on that input and passes the gradient on. One block is in memory at a time, and a chunk of its activations. The
loss is the cross-entropy with next tokens that are drawn from the model itself: the mean square of its gradient is the
curvature of the KL divergence to that model (the Fisher information). Kim et al., "GuidedQuant", 2025,
https://arxiv.org/abs/2505.07004, average the square over a group of output channels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from squeeze.blocks.mapped import MappedTensor
from squeeze.blocks.walk import Walk
from squeeze.blocks.watch import OutputWatch, Weight
from squeeze.blocks.wide_products import wide_products
from squeeze.errors import ModelError

HEAD_VALUES = 1 << 23  # logits at once: 32 MB; their gradient takes as much again


def output_groups(out: int, groups: int) -> list[slice]:
    """Consecutive output channels of a weight, in so many parts of about the same size; none is empty."""
    sizes = [len(part) for part in torch.arange(out).tensor_split(min(groups, out))]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]


class BackwardWalk:
    """The gradient of the loss on its way from behind the last block to before the first.

    Args:
        walk: Before the first block, with float32 activations, which become gradients.
        folder: Where the input of each block lies until the gradient comes back to it.
    """

    def __init__(self, walk: Walk, folder: Path) -> None:
        self.walk, self.folder = walk, folder
        self.inputs: dict[int, MappedTensor] = {}

    def through(self, index: int) -> None:
        """Send the activations through one block, whose weights are loaded; what goes into it stays on disk."""
        walk = self.walk
        kept = MappedTensor.create(self._file(index), walk.hidden.shape, walk.hidden.dtype)
        for part in walk.chunks():
            kept.tensor[part] = walk.hidden[part]
            kept.release(part)
        walk.through(index)
        self.inputs[index] = kept

    def turn(self, seed: int) -> None:
        """Behind the last block, whose successors are loaded: draw each next token, take the loss's gradient."""
        walk, generator = self.walk, torch.Generator().manual_seed(seed)
        tokens, hidden = walk.tokens.reshape(-1, 1), walk.hidden.view(-1, 1, walk.hidden.shape[-1])
        most = max(1, HEAD_VALUES // int(walk.network.module.get_output_embeddings().weight.shape[0]))  # type: ignore[operator]
        for sequences in walk.chunks():
            rows = range(sequences.start * walk.tokens.shape[1], sequences.stop * walk.tokens.shape[1])
            for start in rows[::most]:
                part = slice(start, min(start + most, rows.stop))
                hidden[part] = _loss_gradient(walk, hidden[part], tokens[part], generator)
            walk.release(sequences)

    def back(self, index: int, block: nn.Module, weights: list[Weight], groups: int) -> dict[Weight, Tensor]:
        """Take the gradient back through one block, whose weights are loaded.

        Args:
            weights: Those whose outputs are looked at.
            groups: Groups of output channels of each.

        Returns:
            float32 ``[tokens, groups]`` by weight: squared gradients, mean over the group, relative to those of all
            tokens.

        Raises:
            ModelError: a weight is not multiplied with every token once: an expert, say.
        """
        walk, kept = self.walk, self.inputs.pop(index)
        squares: dict[Weight, list[Tensor]] = {weight: [] for weight in weights}
        for part in walk.chunks():
            walk.hidden[part] = self._back(index, block, kept.tensor[part], walk.hidden[part], squares, groups)
            kept.release(part)
            walk.release(part)
        del kept
        self._file(index).unlink()
        return {weight: _relative(weight, parts, walk.tokens.numel()) for weight, parts in squares.items()}

    def _back(
        self,
        index: int,
        block: nn.Module,
        inputs: Tensor,
        gradient: Tensor,
        squares: dict[Weight, list[Tensor]],
        groups: int,
    ) -> Tensor:
        """The gradient before the block, of a chunk; notes the squares on its way."""

        def note(weight: Weight, grad: Tensor) -> None:
            flat = grad.detach().flatten(0, -2).float()
            parts = [flat[:, rows].square().mean(1) for rows in output_groups(flat.shape[1], groups)]
            squares[weight].append(torch.stack(parts, dim=1))

        def see(weight: Weight, output: Tensor) -> None:
            output.register_hook(partial(note, weight))  # type: ignore[no-untyped-call]  # torch's own

        hidden = inputs.detach().clone().requires_grad_()
        with torch.enable_grad(), wide_products(self.walk.network.dtype, self.walk.wide):
            with OutputWatch(block, list(squares), see):
                output = self.walk.traced_block(index, hidden)
            (before,) = torch.autograd.grad(output, hidden, gradient)
        return before

    def _file(self, index: int) -> Path:
        return self.folder / f"input-{index:05d}"


def _loss_gradient(walk: Walk, hidden: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Of the cross-entropy with next tokens drawn from the model, ``[tokens, 1, hidden]``; norm and head only."""
    hidden = hidden.detach().clone().requires_grad_()
    with torch.enable_grad(), wide_products(walk.network.dtype, walk.wide):
        logits = walk.behind(hidden, tokens)
        slope = logits.detach()[:, 0].softmax(dim=-1)
        drawn = torch.multinomial(slope, 1, generator=generator)
        slope.scatter_add_(1, drawn, -torch.ones_like(drawn, dtype=slope.dtype))
        (before,) = torch.autograd.grad(logits, hidden, slope[:, None])
    return before


def _relative(weight: Weight, parts: list[Tensor], tokens: int) -> Tensor:
    squares = torch.cat(parts) if parts else torch.empty(0, 1)
    if len(squares) != tokens:
        seen = f"{weight} sees {len(squares)} of {tokens} tokens, of which weighting: end_loss needs every one once"
        raise ModelError(f"{seen}; exclude it, or weighting: equal")
    mean = squares.mean(0)
    return torch.where(mean > 0, squares / mean.clamp_min(torch.finfo(mean.dtype).tiny), 1.0)
