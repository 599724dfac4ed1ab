"""Decoders made narrower: the result is a stock model that computes what the dense one does with zeros in place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import gemma3, write_family
from language_world import CALIBRATED, context, logits, plan_faults, require_same_after_a_kill, write_folder
from test_minicpm import write as write_minicpm
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.surgery import narrow

BOTH = ("intermediate", "heads")
CUT = PruneWidth(ratio=0.5, parts=BOTH, align=8, compensate=False, target="given")


def minicpm(folder: Path) -> Path:
    return write_minicpm(folder, tied=True)


WORLDS: dict[str, Any] = {
    "llama": lambda folder: write_family("llama3.1", folder),
    "mistral": lambda folder: write_family("mistral", folder),
    "phi3, q k v and gate up in one": lambda folder: write_family("phi3", folder),
    "gemma3": lambda folder: write_family("gemma3", folder, build=gemma3(num_hidden_layers=2)),
    "minicpm": minicpm,
    "cohere, a norm for each head": lambda folder: write_family("command-r", folder),
    "qwen2, biases": lambda folder: write_family("qwen2", folder),
    "minicpm-v, a tower that sees": lambda folder: write_family("minicpm-v", folder),
}


def stock(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    sees = "vision_config" in json.loads((folder / "config.json").read_text())
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    module: torch.nn.Module = kind.from_pretrained(folder).eval()
    return module


def zeroed(dense: LanguageModel, narrow: LanguageModel) -> torch.nn.Module:
    """The dense model, its readers' columns zero where the narrow one has none: those that stayed are unchanged."""
    module = dense.whole()
    for name, value in module.named_parameters():
        if value.dim() == 2 and value.shape[1] != (new := narrow.tensor(name)).shape[1]:
            stays = (value.data[:, :, None] == new[:, None, :]).all(0).any(1)
            assert int(stays.sum()) == new.shape[1], name
            value.data[:, ~stays] = 0
    return module


def stock_logits(module: Any) -> Tensor:
    with torch.no_grad():
        output: Tensor = module(input_ids=torch.from_numpy(np.random.default_rng(1).integers(3, 126, (2, 12)))).logits
    return output


@pytest.mark.parametrize("write", WORLDS.values(), ids=WORLDS)
def test_the_narrow_folder_opens_in_stock_transformers_and_says_what_the_dense_model_with_zeros_says(
    tmp_path: Path, write: Any
) -> None:
    (tmp_path / "dense").mkdir()
    dense, lent = LanguageModel(write(tmp_path / "dense")), context(np.random.default_rng(0).integers(3, 126, (8, 12)))
    narrow = CUT.run(dense, lent)
    assert all(now < was for was, now in lent.facts["widths"].values())
    (tmp_path / "stock").mkdir()
    narrow.save_dense(tmp_path / "stock")
    actual, expected = stock_logits(stock(tmp_path / "stock")), stock_logits(zeroed(dense, narrow))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(stock_logits(narrow.whole()), stock_logits(dense.whole()), atol=1e-2)


def test_what_stays_makes_up_for_what_leaves(tmp_path: Path) -> None:
    dense, lent = LanguageModel(write_folder(tmp_path)), context(np.random.default_rng(0).integers(0, 128, (64, 16)))
    outputs = {}
    for compensate in (False, True):
        result = PruneWidth(ratio=0.5, parts=BOTH, align=8, compensate=compensate).run(dense, lent)
        outputs[compensate] = float((logits(result) - logits(dense)).norm())
    assert outputs[True] < 0.95 * outputs[False]
    facts = lent.facts["layers"]
    assert facts.keys() == {
        f"model.layers.{i}.{name}.weight" for i in range(2) for name in ("self_attn.o_proj", "mlp.down_proj")
    }
    assert all(fact["loss"] < 0.98 * fact["loss_cut"] for fact in facts.values())


@pytest.mark.parametrize("parts", [("intermediate",), ("heads",), BOTH], ids=["intermediate", "heads", "both"])
def test_the_aim_is_the_stream_behind_a_matrix_whatever_else_is_cut(
    tmp_path: Path, parts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = narrow.block_inputs
    aims: list[tuple[Any, Any]] = []

    def noted(visit: Any, groups: Any, places: Any) -> Any:
        aims.append((groups, places))
        return inputs(visit, groups, places)

    monkeypatch.setattr(narrow, "block_inputs", noted)
    PruneWidth(ratio=0.5, parts=parts, align=8).run(LanguageModel(write_folder(tmp_path)), context())
    assert len(aims) == 2 * len(parts)
    assert all(places[weight] in ("post_attention_layernorm", "") for ((weight,),), places in aims)


def test_the_config_names_the_widths_and_the_whole_has_the_parameters_asked_for(tmp_path: Path) -> None:
    dense = LanguageModel(write_folder(tmp_path))
    pass_ = PruneWidth(parameters="70 %", parts=BOTH, align=8)
    assert not list(pass_.faults(dense))
    narrow = pass_.run(dense, context())
    values = json.loads((narrow.folder / "config.json").read_text())
    assert (values["num_attention_heads"], values["num_key_value_heads"], values["head_dim"]) == (2, 1, 16)
    assert values["intermediate_size"] % 8 == 0
    assert 0.65 * dense.parameters() < narrow.parameters() <= 0.7 * dense.parameters()
    assert narrow.nbytes() < 0.8 * dense.nbytes()


@pytest.mark.parametrize("target", ["original", "given"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, target: Any) -> None:
    dense = LanguageModel(write_family("phi3", tmp_path / "dense"))
    pass_ = PruneWidth(ratio=0.5, parts=BOTH, align=8, target=target)
    require_same_after_a_kill(pass_, dense, tmp_path / "journal")


def test_the_preview_is_what_comes_out(tmp_path: Path) -> None:
    from squeeze.passes.base import Preview

    dense = LanguageModel(write_folder(tmp_path))
    before = Preview((), dense.parameters(), sum(p.nbytes for p in dense.skeleton.module.parameters()), dense.macs())
    foretold = CUT.preview(LanguageModel(dense.folder), before)
    result = CUT.run(dense, context())
    assert (foretold.parameters, foretold.macs) == (result.parameters(), result.macs())
    assert foretold.nbytes == sum(value.nbytes for value in result.skeleton.module.parameters())
    assert "model.layers.1.self_attn.k_proj.weight" in foretold.touched


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"ratio": 0.9, "parts": BOTH, "align": 8},
            r"ratio 0\.9 leaves 0 of 2 KV heads; 1 are the fewest: 0\.5 is the",
        ),
        ({"ratio": 0.9}, r"ratio 0\.9 leaves 10 of 96 channels; 32 are the fewest: 0\.67 is the most"),
        ({"ratio": 0.01, "parts": ["heads"]}, r"ratio 0\.01 rounds to nothing at align 32 and 2 KV heads; more would"),
        ({"parameters": "10 %"}, r"10 % cannot be reached by intermediate: .* is the least; prune_depth before it"),
        ({"parameters": "100M"}, r"the model has [\d,]+, no more than 100M allows; there is nothing to cut"),
    ],
)
def test_a_goal_that_the_model_cannot_meet_is_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    (messages,) = PruneWidth(**options).faults(LanguageModel(write_folder(tmp_path)))
    assert messages.startswith("prune_width: ")
    with pytest.raises(ModelError, match=line):
        PruneWidth(**options).run(LanguageModel(tmp_path), context())


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (lambda folder: write_family("mixtral", folder), "one matrix that reads them is needed .mixtures of experts"),
        (lambda folder: write_family("minicpm3", folder), "how units lie in .* channels is not known"),
        (
            lambda folder: write_folder(folder, "Bloom"),
            "model_type 'bloom': no weight of transformer.h.0 gets narrower with intermediate_size",
        ),
        (lambda folder: write_folder(folder, "Olmo2"), "Olmo2DecoderLayer computes otherwise with fewer units"),
    ],
    ids=["experts", "latent attention", "another name", "a norm over all heads"],
)
def test_a_family_whose_widths_mean_something_else_is_refused_by_name(tmp_path: Path, write: Any, line: str) -> None:
    with pytest.raises(ModelError, match=line):
        CUT.run(LanguageModel(write(tmp_path)), context())


def test_heads_that_a_config_of_the_family_cannot_name_are_rounded(tmp_path: Path) -> None:
    """Llama's heads must divide the hidden size: of 8, 6 cannot stay, 4 can."""
    dense = LanguageModel(write_folder(tmp_path, num_attention_heads=8, num_key_value_heads=4))
    lent = context()
    result = PruneWidth(ratio=0.3, parts=["heads"]).run(dense, lent)
    assert lent.facts["widths"] == {"heads": [4, 2]}
    assert result.skeleton.config.num_attention_heads == 4


PLAN = CALIBRATED + "  - {pass: prune_width, ratio: 0.5}\n"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("ratio: 0.5", "ratio: 0", "7: prune_width: ratio is 0; input should be greater than 0"),
        ("ratio: 0.5", "ratio: 1", "7: prune_width: ratio is 1; input should be less than 1"),
        ("ratio: 0.5", "parameters: lots", '"lots" is no number of parameters; "75 %" of what the model has'),
        (
            "  - {pass: prune",
            "  - {pass: rtn, group_size: 16}\n  - {pass: prune",
            "8: prune_width must come before rtn",
        ),
        ("metrics:", "memory: 100MB\nmetrics:", "100 MB is less than the .* that prune_width .line 8. takes"),
        ("  calibrate: {text: calibrate.txt, length: 16}\n", "", "prune_width needs data.calibrate"),
    ],
    ids=["none", "all", "no number", "quantized before", "memory", "no text"],
)
def test_what_a_plan_asks_for_wrongly_is_one_line(tmp_path: Path, old: str, new: str, line: str) -> None:
    messages = plan_faults(tmp_path, PLAN.replace(old, new))
    assert [re.search(line, fault) for fault in messages].count(None) == len(messages) - 1, messages
