"""What packed checkpoints' own readers see is the grid, bit for bit; and the model runs in their runtimes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from families import FAMILIES, tokens, write_family
from language_world import in_shards, write_folder, write_tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.checkpoint import CheckpointDecoder
from squeeze.writers.compressed_tensors import CompressedTensorsWriter
from squeeze.writers.gptq import GptqWriter

DIFFERENT = {"*.down_proj": {"bits": 8, "group_size": None}, "*.k_proj": {"bits": 3}}
FACTS = Facts(1, 0.1)
QUIET = pytest.mark.filterwarnings("ignore")  # gptqmodel and its company deprecate many things on import


def quantized(folder: Path, **options: object) -> LanguageModel:
    pass_ = Rtn(**{"bits": 4, "group_size": 32} | options)  # type: ignore[arg-type]
    return in_shards(pass_.run(LanguageModel(folder), Context()))


def need_compressed_tensors() -> None:
    pytest.importorskip("compressed_tensors", reason="pip install 'squeeze[compressed-tensors]' for this test")


def need_gptqmodel() -> None:
    if find_spec("gptqmodel") is None:
        pytest.skip("gptqmodel is not installed: pip install 'squeeze[gptq]'")


def logits_of(model: LanguageModel | CheckpointDecoder) -> Tensor:
    """Log-probabilities."""
    return torch.cat([logits for _, logits in model.logits(tokens(3))]).log_softmax(-1)


@pytest.mark.parametrize("options", [{}, {"symmetric": False, "overrides": DIFFERENT}], ids=["alike", "different"])
@pytest.mark.parametrize("name", ["llama3.1", "mixtral", "phi3", "minicpm-v"])
def test_compressed_tensors_own_code_reads_the_grid(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    need_compressed_tensors()
    model = quantized(write_family(name, tmp_path / "family"), **options)
    CompressedTensorsWriter().write(model, tmp_path / "packed")
    rows = list(CompressedTensorsWriter().prove(model, tmp_path / "packed" / "config.json"))
    assert all(row.equal for row in rows)
    assert sum(row.weights for row in rows) == sum(model.quantized(weight).q.numel() for weight in model.grid)


@QUIET
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["llama3.1", "mixtral", "phi3"])
def test_gptqmodels_own_linear_reads_the_grid(tmp_path: Path, name: str, version: int) -> None:
    need_gptqmodel()
    options = {} if version == 1 else {"symmetric": False, "overrides": DIFFERENT, "exclude": ("*.o_proj",)}
    model = quantized(write_family(name, tmp_path / "family"), **options)
    GptqWriter(version).write(model, tmp_path / "packed")
    rows = list(GptqWriter().prove(model, tmp_path / "packed" / "config.json"))
    assert all(row.equal for row in rows)
    assert sum(row.weights for row in rows) == sum(model.quantized(weight).q.numel() for weight in model.grid)


def test_a_weight_that_differs_is_counted(tmp_path: Path) -> None:
    """The proof can fail: one bit of one packed word is another one."""
    need_compressed_tensors()
    model = quantized(write_folder(tmp_path / "family"))
    CompressedTensorsWriter().write(model, tmp_path / "packed")
    (file,) = (tmp_path / "packed").glob("*-00003-*.safetensors")
    weights = load_file(file)
    weights["model.layers.1.mlp.up_proj.weight_packed"][0, 0] ^= 1
    save_file(weights, file)
    wrong = [
        row for row in CompressedTensorsWriter().prove(model, tmp_path / "packed" / "config.json") if not row.equal
    ]
    assert [(row.name, row.differing, row.dtype) for row in wrong] == [("model.layers.1.mlp.up_proj", 1, "float16")]


Write = Callable[[LanguageModel, Path], None]


def require_said_alike(model: LanguageModel, folder: Path) -> CheckpointDecoder:
    runtime = CheckpointDecoder(folder, FACTS)
    assert (
        logits_of(model) - logits_of(runtime)
    ).abs().max() < 0.05  # float16 embedding, norms and head; gptqmodel computes in it
    assert logits_of(model).std() > 0.1
    return runtime


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_transformers_runs_compressed_tensors_folders(tmp_path: Path, name: str, symmetric: bool) -> None:
    need_compressed_tensors()
    if not symmetric and name in ("mixtral", "qwen3-moe"):
        pytest.skip("transformers cannot unpack asymmetric experts: tested below")
    model = quantized(write_family(name, tmp_path / "family"), symmetric=symmetric)
    CompressedTensorsWriter().write(model, tmp_path / "packed")
    runtime = require_said_alike(model, tmp_path / "packed")
    prompt = tokens(1)[0].tolist()
    assert len(list(runtime.generate(prompt, 5))) == 5


KINDS = {
    "alike-v1": (1, {}),
    "asymmetric-v2": (2, {"symmetric": False}),
    "different": (2, {"symmetric": False, "overrides": DIFFERENT, "exclude": ("*.o_proj",)}),  # gptqmodel's own loader
}


@QUIET
@pytest.mark.parametrize(("version", "options"), list(KINDS.values()), ids=list(KINDS))
def test_transformers_and_gptqmodel_run_gptq_folders(tmp_path: Path, version: int, options: dict[str, object]) -> None:
    need_gptqmodel()
    write_tokenizer(write_folder(tmp_path / "family"))
    model = quantized(tmp_path / "family", **options)
    GptqWriter(version).write(model, tmp_path / "packed")
    runtime = require_said_alike(model, tmp_path / "packed")
    prompt = tokens(1)[0].tolist()
    whole = model.whole().generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)
    assert list(runtime.generate(prompt, 5)) == whole[0, len(prompt) :].tolist()


def test_what_transformers_cannot_run_is_one_line(tmp_path: Path) -> None:
    need_compressed_tensors()
    model = quantized(write_folder(tmp_path / "family"), symmetric=False, overrides=DIFFERENT)
    CompressedTensorsWriter().write(model, tmp_path / "packed")
    runtime = CheckpointDecoder(tmp_path / "packed", FACTS)
    assert (runtime.vocabulary, len(runtime.weight_files)) == (128, 5)
    with pytest.raises(ModelError, match="transformers reads asymmetric compressed-tensors weights of one kind only"):
        logits_of(runtime)
    experts = quantized(write_family("mixtral", tmp_path / "experts"), symmetric=False)
    CompressedTensorsWriter().write(experts, tmp_path / "packed-experts")
    with pytest.raises(ModelError, match=r"packed-experts: cannot be loaded \("):
        logits_of(CheckpointDecoder(tmp_path / "packed-experts", FACTS))
    file = tmp_path / "packed" / "config.json"
    file.write_text(json.dumps({"vocab_size": 128, "quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(ModelError, match=r"config\.json: names no packing of gptq or compressed-tensors"):
        logits_of(CheckpointDecoder(tmp_path / "packed", FACTS))
    with pytest.raises(ModelError, match=r"no config\.json here, which transformers loads"):
        CheckpointDecoder(tmp_path, FACTS)
