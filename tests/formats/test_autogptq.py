"""Checkpoints that auto-gptq itself made are read into the grid, and say what auto-gptq and gptqmodel say."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.checkpoint import CheckpointDecoder
from squeeze.writers.gptq import GptqWriter

FOLDER = Path(__file__).parent / "autogptq"
KINDS = {"act-order": (4, 32, True, True), "asymmetric": (4, 64, False, False)}  # bits, group, symmetric, ordered
FACTS = Facts(1, 0.1)


def reference(name: str) -> tuple[Tensor, Tensor]:
    """Tokens ``[1, 64]``, and the log-probabilities that auto-gptq's own linears gave, in float32."""
    arrays = np.load(FOLDER / name / "reference.npz")
    return torch.from_numpy(arrays["input_ids"]), torch.from_numpy(arrays["logits"]).float().log_softmax(-1)


def loss(log_probabilities: Tensor, tokens: Tensor) -> float:
    return -float(log_probabilities[:, :-1].gather(-1, tokens[:, 1:, None]).mean())


@pytest.mark.parametrize("name", list(KINDS))
def test_its_integers_and_scales_say_what_auto_gptq_said(name: str) -> None:
    """Computed in float32 from the grid, as auto-gptq did; the reference is rounded to float16."""
    model = LanguageModel(FOLDER / name)
    kinds = {(kind.bits, kind.group_size, kind.symmetric, kind.ordered) for kind in model.grid_kinds().values()}
    assert (len(model.grid), kinds) == (35, {KINDS[name]})
    whole = model.whole().float()
    for weight in model.grid:
        whole.get_parameter(weight).data = model.quantized(weight).dequantize()
    tokens, log_probabilities = reference(name)
    with torch.no_grad():
        own = whole(input_ids=tokens).logits.log_softmax(-1)  # type: ignore[operator]
    assert (own - log_probabilities).abs().max() < 0.02
    assert loss(log_probabilities, tokens) < 1.5  # it writes stories; a wrong order of groups ends near log(512) = 6.2


@pytest.mark.parametrize("name", list(KINDS))
def test_walked_block_by_block_it_scores_the_same(name: str) -> None:
    """In float16, in which its other weights are stored, whatever its config says."""
    tokens, log_probabilities = reference(name)
    own = torch.cat([logits for _, logits in LanguageModel(FOLDER / name).logits(tokens)]).log_softmax(-1)
    assert abs(loss(own, tokens) - loss(log_probabilities, tokens)) < 0.002


@pytest.mark.filterwarnings("ignore")  # gptqmodel and its company deprecate many things on import
@pytest.mark.parametrize("name", ["act-order"])  # it opens no asymmetric checkpoint of auto-gptq
def test_gptqmodel_scores_it_the_same(name: str, tmp_path: Path) -> None:
    """Which wants ``is_marlin_format`` gone, the format named, and the shard called as others are."""
    if find_spec("gptqmodel") is None:
        pytest.skip(
            "gptqmodel is not installed: pip install 'squeeze[gptq]'; auto-gptq's own scores are compared above"
        )
    folder = tmp_path / name
    shutil.copytree(FOLDER / name, folder)
    for file in ("config.json", "quantize_config.json"):
        values = json.loads((folder / file).read_text())
        packing = values.get("quantization_config", values)
        del packing["is_marlin_format"]
        packing["format"] = "gptq"
        (folder / file).write_text(json.dumps(values))
    next(folder.glob("*.safetensors")).rename(folder / "model.safetensors")  # transformers looks for no other name
    model = LanguageModel(FOLDER / name)
    assert all(row.equal for row in GptqWriter().prove(model, folder / "config.json"))
    tokens, _ = reference(name)
    both = [
        torch.cat([x for _, x in one.logits(tokens)]).log_softmax(-1)
        for one in (model, CheckpointDecoder(folder, FACTS))
    ]
    assert abs(loss(both[0], tokens) - loss(both[1], tokens)) < 0.002
