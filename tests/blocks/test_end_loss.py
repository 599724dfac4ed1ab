"""The backward walk gives what one backward over the whole model gives, a block at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from language_world import edit, write_folder
from torch import Tensor, nn

from squeeze.blocks.end_loss import BackwardWalk, output_groups
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.matrices import block_weights, matrices

TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 128, (5, 12)))  # chunks of 2, 2 and 1


def by_walk(model: LanguageModel, folder: Path, groups: int) -> dict[str, Tensor]:
    backward = BackwardWalk(model.walk(TOKENS, 2, wide=True), folder)
    for index in range(model.blocks):
        with model.block(index, wide=True):
            backward.through(index)
    with model.outside(wide=True):
        backward.turn(seed=7)
    found: dict[str, Tensor] = {}
    for index in reversed(range(model.blocks)):
        names = block_weights(model.skeleton, index)
        weights = [weight for name in names for weight in matrices(model.skeleton, index, name)]
        with model.block(index, wide=True) as block:
            squares = backward.back(index, block, weights, groups)
        found |= {model.skeleton.prefix(index) + weight.name: value for weight, value in squares.items()}
    return found


def by_autograd(model: LanguageModel, groups: int) -> dict[str, Tensor]:
    module, outputs = model.whole().float().requires_grad_(), dict[str, Tensor]()
    linears = [(name, child) for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    for name, linear in linears:
        linear.register_forward_hook(lambda _, args, output, name=f"{name}.weight": outputs.update({name: output}))
    logits = module(input_ids=TOKENS, use_cache=False).logits.flatten(0, 1)
    generator = torch.Generator().manual_seed(7)
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    blocks = {name: output for name, output in outputs.items() if "layers" in name}
    loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
    grads = torch.autograd.grad(loss, list(blocks.values()))
    found = {}
    for name, grad in zip(blocks, grads, strict=True):
        parts = [part.square().mean(-1) for part in grad.flatten(0, 1).tensor_split(groups, dim=1)]
        squares = torch.stack(parts, dim=1)
        found[name] = squares / squares.mean(0)
    return found


def halved(folder: Path) -> Path:
    """The same weights in bfloat16, which the backward walk computes with in float32."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return edit(folder, lambda weights: weights.update({name: value.bfloat16() for name, value in weights.items()}))


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Qwen2", "Cohere"])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_squared_gradients_are_those_of_one_backward_over_the_whole_model(
    tmp_path: Path, family: str, half: bool
) -> None:
    """Gemma 2 caps its logits and has norms behind its linears, Cohere branches in parallel, Qwen 2 biases."""
    folder = write_folder(tmp_path, family)
    model = LanguageModel(halved(folder) if half else folder)
    assert model.skeleton.dtype == (torch.bfloat16 if half else torch.float32)
    walked, whole = by_walk(model, tmp_path, 3), by_autograd(model, 3)
    assert set(walked) == set(whole) == set(model.matrices())
    for name, squares in whole.items():
        torch.testing.assert_close(walked[name], squares, rtol=2e-3, atol=2e-4)
    assert not list(tmp_path.glob("input-*")), "inputs of blocks are gone with the gradient"


@pytest.mark.parametrize(("out", "groups", "sizes"), [(8, 2, [4, 4]), (7, 3, [3, 2, 2]), (2, 4, [1, 1])])
def test_every_output_is_in_one_group_and_no_group_is_empty(out: int, groups: int, sizes: list[int]) -> None:
    rows = output_groups(out, groups)
    assert [part.stop - part.start for part in rows] == sizes
    assert [place for part in rows for place in range(part.start, part.stop)] == list(range(out))
