"""Every family is walked as stock transformers runs it, quantized, and written as a folder that it loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, stock_logits, tokens, write_family

from squeeze.data.text import TokenDataset
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.shards import Shards
from squeeze.passes.base import Context, Pass
from squeeze.passes.quantize.language.gptq import Gptq
from squeeze.passes.quantize.language.rtn import Rtn


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of one family in a Hugging Face folder."""
    return write_family(request.param, tmp_path_factory.mktemp(request.param))


def walked(model: LanguageModel) -> torch.Tensor:
    return model.predict(Batch({"input_ids": tokens()}))


def quantized(folder: Path, method: Pass[LanguageModel, LanguageModel]) -> tuple[LanguageModel, Context]:
    context = Context(calibration_data=TokenDataset("text", tokens(16, 24).numpy()))
    return method.run(LanguageModel(folder), context), context


def matrices(model: LanguageModel) -> set[str]:
    """All weights of the decoder blocks but routers (``gate``) and norms (of several heads: Command R)."""
    named = model.skeleton.module.named_parameters()
    inside = {name for name, value in named if name.startswith(f"{model.skeleton.layers_name}.") and value.dim() > 1}
    return {name for name in inside if not name.endswith(("gate.weight", "norm.weight"))}


def test_the_walk_gives_the_logits_of_stock_transformers(family: Path) -> None:
    stock = stock_logits(family)
    assert stock.std() > 0.1
    assert torch.allclose(walked(LanguageModel(family)), stock, atol=1e-5)


@pytest.mark.parametrize("method", [Rtn(bits=4, group_size=16), Gptq(bits=4, group_size=32)], ids=["rtn", "gptq"])
def test_a_quantized_model_is_what_stock_transformers_loads(
    family: Path, tmp_path: Path, method: Pass[LanguageModel, LanguageModel]
) -> None:
    model, context = quantized(family, method)
    model.save_dense(tmp_path)
    assert set(model.grid) == matrices(model)
    assert set(Shards(tmp_path).pieces) == set(Shards(family).pieces)
    assert torch.allclose(walked(model), stock_logits(tmp_path), atol=1e-5)
    assert not torch.allclose(walked(model), stock_logits(family), atol=1e-3)
    said = context.facts["layers"]
    assert {name.partition("[")[0] for name in said} == (set(model.grid) if method.name == "gptq" else set())
    assert not any("fallback" in fact for fact in said.values())
