"""What gptq aims at: the original model's outputs, in the stream itself where a weight writes into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_world import in_shards, write_folder
from torch import Tensor, nn

from squeeze.algorithms.factor import Factor
from squeeze.blocks.stream import OUTPUT, find_places
from squeeze.blocks.watch import Weight
from squeeze.data.overlap import shared_examples
from squeeze.data.text import TextData, TokenDataset
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.matrices import block_weights, matrices
from squeeze.passes.base import Context
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.gptq_parts import stages_of
from squeeze.passes.quantize.rtn import Rtn

TOKENS = np.random.default_rng(0).integers(0, 128, (64, 32))


def context(**more: Any) -> Context:
    return Context(calibration_data=TokenDataset("random", TOKENS), **more)


def places(model: LanguageModel) -> dict[str, str]:
    walk = model.walk(torch.from_numpy(TOKENS[:4]))
    names = block_weights(model.skeleton, 0)
    weights = [weight for name in names for weight in matrices(model.skeleton, 0, name)]
    with model.block(0) as block:
        result = find_places(block, weights, walk.hidden[:4], lambda: walk.block(0, walk.hidden[:4]))
    return {str(weight): place for weight, place in result.items()}


def away(before: LanguageModel, after: LanguageModel) -> float:
    def logits(model: LanguageModel) -> Tensor:
        return model.predict(Batch({"input_ids": torch.from_numpy(TOKENS)}))

    return float((logits(after) - logits(before)).norm())


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma"])
def test_attention_and_mlp_write_into_the_stream_one_after_the_other(tmp_path: Path, family: str) -> None:
    expected = {"self_attn.o_proj.weight": "post_attention_layernorm", "mlp.down_proj.weight": OUTPUT}
    assert places(LanguageModel(write_folder(tmp_path, family))) == expected


@pytest.mark.parametrize("family", ["Cohere", "Gemma2"], ids=["branches in parallel", "norms behind the linears"])
def test_nothing_is_claimed_where_the_stream_cannot_be_seen(tmp_path: Path, family: str) -> None:
    assert places(LanguageModel(write_folder(tmp_path, family))) == {}


def test_experts_write_only_a_part_into_the_stream(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path, "Mixtral", num_local_experts=2, num_experts_per_tok=1))
    assert places(model) == {"self_attn.o_proj.weight": "post_attention_layernorm"}


@pytest.mark.parametrize("family", ["Llama", "Cohere"], ids=["the stream", "the inputs' drift"])
def test_aiming_at_the_original_comes_nearer_to_it(tmp_path: Path, family: str) -> None:
    model = LanguageModel(write_folder(tmp_path, family, num_hidden_layers=4))
    options: dict[str, Any] = {"bits": 3, "group_size": 16}
    to_inputs, original = (Gptq(target=target, **options).run(model, context()) for target in ("given", "original"))
    assert away(model, original) < 0.95 * away(model, to_inputs)


def test_a_weight_is_moved_by_its_share_of_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first rounding both models are the same; what is moved later depends on what was rounded by then."""
    model, pulls = LanguageModel(write_folder(tmp_path)), dict[float, list[Tensor]]()

    def recorded(weight: Tensor, pull: Tensor, _: Factor) -> Tensor:
        pulls[share].append(pull)
        return weight.float()  # not moved, so that all shares meet the same models

    monkeypatch.setattr("squeeze.passes.quantize.gptq.moved", recorded)
    for share in (0.5, 1.0):
        pulls[share] = []
        Gptq(bits=3, group_size=16, correction=share).run(model, context())
    assert any(bool(pull.any()) for pull in pulls[1.0])
    assert all(torch.allclose(half, 0.5 * whole) for half, whole in zip(pulls[0.5], pulls[1.0], strict=True))


@pytest.mark.parametrize("sequential", [True, False], ids=["sequential", "at once"])
def test_experts_that_see_other_tokens_aim_at_what_they_are_given(tmp_path: Path, sequential: bool) -> None:
    model = LanguageModel(write_folder(tmp_path, "Mixtral", num_local_experts=2, num_experts_per_tok=1))
    result = Gptq(bits=4, group_size=16, true_sequential=sequential).run(model, context())
    assert set(result.grid) == set(Gptq(group_size=16).schemes(model))


def test_activations_of_both_models_may_lie_on_disk(tmp_path: Path) -> None:
    model = LanguageModel(write_folder(tmp_path))
    spilled, in_memory = (in_shards(Gptq(group_size=16).run(model, context(memory_bytes=size))) for size in (1, None))
    assert all(torch.equal(spilled.tensor(name), in_memory.tensor(name)) for name in in_memory.skeleton.names())


def test_experts_wait_for_nobody_but_the_stage_before() -> None:
    groups = [[Weight(f"mlp.experts.{n}.{name}.weight")] for n in range(3) for name in ("w1", "w2")]
    assert [len(stage) for stage in stages_of(groups)] == [3, 3]
    assert [len(stage) for stage in stages_of([[Weight("up", 0)], [Weight("down", 0)], [Weight("up", 1)]])] == [2, 1]


@pytest.mark.slow
def test_gptq_keeps_more_of_a_real_model_than_rounding(real: Path) -> None:
    """Paired over sequences, three bits: the interval of the gain lies above zero."""
    model = LanguageModel(real / "models/prose6M")
    read = TextData(text="data/prose/calibrate.txt", length=128, samples=32).open(real, model.folder)
    data = TextData(text="data/prose/evaluate.txt", length=128, samples=32).open(real, model.folder)
    assert shared_examples(data, read) == 0
    rounded, solved = (
        per_sequence(quantizer(bits=3, group_size=64).run(model, Context(calibration_data=read)), data)
        for quantizer in (Rtn, Gptq)
    )
    gain = rounded - solved
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5


def per_sequence(model: LanguageModel, data: TokenDataset) -> np.ndarray:
    """Mean loss of each sequence."""
    tokens = torch.from_numpy(data.tokens)
    result = [
        nn.functional.cross_entropy(part[:, :-1].transpose(1, 2), tokens[rows, 1:], reduction="none").mean(dim=1)
        for rows, part in model.logits(tokens)
    ]
    return torch.cat(result).numpy()
