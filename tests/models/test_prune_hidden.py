"""Decoders with fewer channels between their blocks: a stock model that computes on the channels that stay."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import gemma3, text_model, write_family
from language_world import context, edit, in_shards, logits, plan_faults, require_same_after_a_kill, write_folder
from packed_world import write_letters
from test_minicpm import write as write_minicpm
from test_prune_width import PLAN, stock, stock_logits
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context, Preview
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.passes.quantize.rtn import Rtn
from squeeze.surgery.hidden_widths import DecoderWidths
from squeeze.surgery.widths import Units
from squeeze.writers.decoder.export import Options, export_decoder

ALL = ("intermediate", "heads", "hidden")
SIX_HEADS = {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16}
TOKENS = np.random.default_rng(0).integers(3, 126, (8, 12))

WORLDS: dict[str, Any] = {
    "llama": lambda folder: write_family("llama3.1", folder),
    "mistral": lambda folder: write_family("mistral", folder),
    "phi3, q k v and gate up in one": lambda folder: write_family("phi3", folder),
    "gemma, scaled by the root of its hidden size, tied": lambda folder: write_family("gemma", folder),
    "gemma2, norms behind what writes": lambda folder: write_family("gemma2", folder),
    "gemma3": lambda folder: write_family("gemma3", folder, build=gemma3(num_hidden_layers=2)),
    "minicpm": lambda folder: write_minicpm(folder, tied=True),
    "cohere, one norm for both branches": lambda folder: write_family("command-r", folder),
    "qwen2, biases": lambda folder: write_family("qwen2", folder),
    "qwen3": lambda folder: write_family("qwen3", folder),
    "granite, multipliers": lambda folder: write_folder(folder, "Granite", residual_multiplier=0.5, logits_scaling=4.0),
    "starcoder2, LayerNorm, biases, tied": lambda folder: write_folder(folder, "Starcoder2"),
    "phi, one norm, a head with a bias": lambda folder: write_folder(folder, "Phi"),
    "olmo, norms without weights": lambda folder: write_folder(folder, "Olmo", eos_token_id=1, pad_token_id=2),
}
HIDDEN_ALONE: dict[str, Any] = {  # heads of these are refused
    "minicpm3, a head scaled by its hidden size": lambda folder: write_family("minicpm3", folder),
    "olmo2, no norm before a branch": lambda folder: write_folder(folder, "Olmo2"),
}
CASES = [pytest.param(write, ALL, id=f"{name}, all parts") for name, write in WORLDS.items()]
CASES += [pytest.param(write, ("hidden",), id=name) for name, write in (WORLDS | HIDDEN_ALONE).items()]


class OnChannels(nn.Module):
    """A norm over some channels of a wide stream; the others become zero."""

    def __init__(self, norm: nn.Module, narrow: nn.Module, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = deepcopy(narrow), kept
        for name, value in norm.named_parameters():
            self.norm.get_parameter(name).data = value.data[kept]

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.zeros_like(x)
        wide[..., self.kept] = self.norm(x[..., self.kept])
        return wide


def channels_of(dense: LanguageModel, narrow: LanguageModel) -> Tensor:
    """Which channels the embedding of the narrow model has, whatever they were multiplied by."""
    name = dense.skeleton.ends[0]
    before, now = (nn.functional.normalize(model.tensor(name).float(), dim=0) for model in (dense, narrow))
    found = (now.t() @ before).max(1)
    assert bool((found.values > 0.9999).all())
    return found.indices


def masked(dense: LanguageModel, narrow: LanguageModel) -> nn.Module:
    """The dense model that looks at these channels, and has zeros for units of other parts that left."""
    module, small, kept = dense.whole(), narrow.whole(), channels_of(dense, narrow)
    size, new = dense.skeleton.hidden_size, dict(small.named_parameters())
    for name, value in module.named_parameters():
        if value.dim() != 2 or name in dense.skeleton.ends:
            continue
        reads = value.shape[1] == size != new[name].shape[1] and new[name].shape[1] == len(kept)
        if reads and "o_proj" not in name and "dense" not in name:
            value.data[:, [c for c in range(size) if c not in kept]] = 0
        elif value.shape[1] != new[name].shape[1]:
            stays = (value.data[kept][:, :, None] == new[name][:, None, :]).all(0).any(1)
            assert int(stays.sum()) == new[name].shape[1], name
            value.data[:, ~stays] = 0
    for name, child in list(module.named_modules()):
        own = list(child.parameters(recurse=False))
        if "norm" not in name.rpartition(".")[2] or any(value.shape != (size,) for value in own):
            continue
        if not own or new[f"{name}.weight"].shape != own[0].shape:
            module.set_submodule(name, OnChannels(child, small.get_submodule(name), kept))
    return module


@pytest.mark.parametrize(("write", "parts"), CASES)
def test_the_narrow_folder_opens_in_stock_transformers_and_says_what_the_dense_model_says_of_its_channels(
    tmp_path: Path, write: Any, parts: Any
) -> None:
    (tmp_path / "dense").mkdir()
    dense, lent = LanguageModel(write(tmp_path / "dense")), context(TOKENS)
    narrow = PruneWidth(ratio=0.5, parts=parts, align=8, compensate=False).run(dense, lent)
    assert all(now < was for was, now in lent.facts["widths"].values())
    (tmp_path / "stock").mkdir()
    narrow.save_dense(tmp_path / "stock")
    values = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert values["hidden_size"] == 32
    actual, expected = stock_logits(stock(tmp_path / "stock")), stock_logits(masked(dense, narrow))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(stock_logits(narrow.whole()), stock_logits(dense.whole()), atol=1e-2)


def test_what_stays_makes_up_for_what_leaves(tmp_path: Path) -> None:
    dense = LanguageModel(write_family("llama3.1", tmp_path))
    lent = context(np.random.default_rng(0).integers(3, 126, (64, 16)))
    errors = {}
    for compensate in (False, True):
        result = PruneWidth(ratio=0.25, parts=["hidden"], align=8, compensate=compensate).run(dense, lent)
        errors[compensate] = float((logits(result) - logits(dense)).norm())
    assert errors[True] < 0.85 * errors[False]
    facts = lent.facts["layers"]
    readers = {f"self_attn.{kind}_proj.weight" for kind in "qkv"} | {"mlp.gate_proj.weight", "mlp.up_proj.weight"}
    assert facts.keys() == {f"model.layers.{index}.{name}" for index in range(2) for name in readers}
    assert all(fact["loss"] < 0.95 * fact["loss_cut"] for fact in facts.values())


def silent(weights: dict[str, Tensor]) -> None:
    """Every second channel of the stream is never written to."""
    for name, value in weights.items():
        if "embed_tokens" in name:
            value[:, ::2] = 0
        elif "o_proj.weight" in name or "down_proj.weight" in name:
            value[::2] = 0


@pytest.mark.parametrize("tied", [False, True], ids=["head of its own", "tied"])
def test_channels_that_carry_nothing_leave_first_and_nothing_is_lost(tmp_path: Path, tied: bool) -> None:
    """RMSNorm over half of the channels gives the root of a half of what it gave; solved anew, nothing changes."""
    dense = LanguageModel(edit(write_folder(tmp_path, tie_word_embeddings=tied, rms_norm_eps=1e-12), silent))
    narrow = PruneWidth(ratio=0.5, parts=["hidden"], align=8, damping=1e-6).run(dense, context())
    assert channels_of(dense, narrow).tolist() == list(range(1, 64, 2))
    torch.testing.assert_close(logits(narrow), logits(dense), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("family", ["phi3", "gemma2", "qwen2"])
@pytest.mark.parametrize("finished", [1, 3], ids=["while channels are chosen", "between two blocks"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, family: str, finished: int) -> None:
    dense = LanguageModel(write_family(family, tmp_path / "dense"))
    pass_ = PruneWidth(ratio=0.5, parts=ALL, align=8)
    require_same_after_a_kill(pass_, dense, tmp_path / "journal", finished=finished)


def test_the_preview_is_what_comes_out(tmp_path: Path) -> None:
    dense = LanguageModel(write_family("qwen2", tmp_path))
    pass_ = PruneWidth(ratio=0.5, parts=ALL, align=8)
    before = Preview((), dense.parameters(), sum(p.nbytes for p in dense.skeleton.module.parameters()), dense.macs())
    foretold = pass_.preview(LanguageModel(dense.folder), before)
    result = pass_.run(dense, context())
    assert (foretold.parameters, foretold.macs) == (result.parameters(), result.macs())
    assert foretold.nbytes == sum(value.nbytes for value in result.skeleton.module.parameters())
    touched = (
        "model.layers.1.input_layernorm.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    )
    assert set(touched) <= set(foretold.touched)


@pytest.mark.parametrize("parts", [("hidden",), ("heads", "hidden"), ALL], ids=lambda parts: " ".join(parts))
def test_the_whole_has_the_parameters_asked_for(tmp_path: Path, parts: Any) -> None:
    dense = LanguageModel(write_folder(tmp_path))
    narrow = PruneWidth(parameters="70 %", parts=parts, align=4).run(dense, context())
    assert 0.62 * dense.parameters() < narrow.parameters() <= 0.7 * dense.parameters()


def test_parameters_are_counted_as_they_are(tmp_path: Path) -> None:
    widths = DecoderWidths(LanguageModel(write_family("qwen2", tmp_path)).skeleton, tmp_path, ALL)
    cases: list[Units] = [widths.units, {"hidden": 40}, {"heads": 1, "hidden": 24}]
    for units in [*cases, {"intermediate": 16, "heads": 1, "hidden": 8}]:
        shapes = [value.shape for value in widths.built(units).module.parameters()]
        assert widths.parameters(units) == sum(map(prod, shapes))


def test_the_hidden_size_is_one_that_the_heads_that_stay_divide(tmp_path: Path) -> None:
    """Llama's heads must divide it: beside 6 heads it cannot be 64, beside 4 it can."""
    dense, lent = LanguageModel(write_folder(tmp_path, **SIX_HEADS)), context()
    PruneWidth(ratio=0.3, parts=["hidden"], align=16).run(dense, lent)
    assert lent.facts["widths"] == {"hidden": [96, 48]}
    PruneWidth(ratio=0.3, parts=["heads", "hidden"], align=16).run(dense, lent)
    assert lent.facts["widths"] == {"heads": [3, 2], "hidden": [96, 64]}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"ratio": 0.1, "align": 8, "parts": ["hidden"]},
            r"ratio 0\.1 leaves 86 of 96 hidden channels; a config .* 'llama' with 6 heads takes 24, 48, 72 at align 8",
        ),
        (
            {"ratio": 0.5, "align": 64, "parts": ["hidden"]},
            r"with 6 heads takes no smaller multiple of 64: a smaller align would do, or parts: \[heads, hidden\]",
        ),
        ({"parameters": "5 %", "parts": ["hidden"]}, r"5 % cannot be reached by hidden: .* is the least"),
    ],
)
def test_a_goal_that_the_model_cannot_meet_is_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    folder = write_folder(tmp_path, **SIX_HEADS)
    (message,) = PruneWidth(**options).faults(LanguageModel(folder))
    assert message.startswith("prune_width: ")
    with pytest.raises(ModelError, match=line):
        PruneWidth(**options).run(LanguageModel(folder), context())


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (
            lambda folder: write_folder(folder, "StableLm"),
            r"q_proj.weight goes from \[64, 64\] to \[32, 32\] with hidden_size: its heads are hidden_size / num_",
        ),
        (
            lambda folder: write_family("mixtral", folder),
            "holds experts, which are given other tokens each; parts: .interm",
        ),
        (
            lambda folder: write_folder(folder, "Falcon"),
            "takes no smaller hidden_size beside a head_dim; parts: .interm",
        ),
        (
            lambda folder: write_family("minicpm-v", folder),
            "model.merger.mlp.0.linear_2.weight .* would change with hidden_size: that is known of embedding, head and",
        ),
    ],
    ids=["heads as wide as the stream allows", "experts", "a head_dim that cannot be said", "a tower that sees"],
)
def test_a_family_whose_config_cannot_say_it_is_refused_by_name(tmp_path: Path, write: Any, line: str) -> None:
    with pytest.raises(ModelError, match=line):
        PruneWidth(ratio=0.5, parts=["hidden"], align=8).run(LanguageModel(write(tmp_path)), context())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("parts: [hiden]", r"7: prune_width: parts is 'hiden'; input should be 'intermediate', 'heads' or 'hid"),
        (
            "parts: [hidden], target: given",
            r"7: prune_width: parts: .hidden. is made up for .* target: original would do",
        ),
        (
            "parts: [hidden], align: 64",
            r"takes no smaller multiple of 64: a smaller align would do, or parts: .heads, hid",
        ),
        ("parts: [hidden], align: 0", r"7: prune_width: align is 0; input should be greater than 0"),
    ],
    ids=["misspelt", "no original", "no such size", "no step"],
)
def test_what_a_plan_asks_for_wrongly_is_one_line(tmp_path: Path, options: str, line: str) -> None:
    messages = plan_faults(tmp_path, PLAN.replace("ratio: 0.5", f"ratio: 0.5, {options}"))
    assert [re.search(line, fault) for fault in messages].count(None) == len(messages) - 1, messages


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma"])
def test_the_result_is_quantized_and_exported_as_any_other(tmp_path: Path, family: str) -> None:
    """Heads keep 32 channels, where hidden_size / heads would say 16 and less."""
    gguf = pytest.importorskip("squeeze.writers.gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
    build = text_model(family, hidden_size=128, intermediate_size=192, head_dim=32)
    dense = LanguageModel(write_family(family.lower(), tmp_path / "dense", build=build))
    write_letters(dense.folder)
    narrow = PruneWidth(ratio=0.5, parts=ALL, align=32).run(dense, context(TOKENS))
    assert (narrow.skeleton.hidden_size, narrow.skeleton.config.head_dim) == (64, 32)
    grid, lent = in_shards(Rtn(bits=4, group_size=32).run(narrow, Context())), Context()
    export_decoder(grid, tmp_path, Options(encoding="nbits"), lent)
    assert max(lent.measured["export_error"][kind] for kind in ("prefill", "decode")) < 1e-5
    gguf.write_gguf(grid, tmp_path / "model.gguf")
    assert all(row.equal for row in gguf.GgufWriter().prove(grid, tmp_path / "model.gguf"))
