"""An adapter as llama.cpp lays it over the weights: every family's names and the order of its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import tokens
from packed_world import AS_THEY_ARE, quantized

from squeeze.models.base import Batch
from squeeze.models.facts import Facts
from squeeze.models.language.adapter import LowRank, write_adapter
from squeeze.models.language.language_model import LanguageModel
from squeeze.runtimes.llama_cpp import GgufDecoder
from squeeze.writers.gguf import GgufWriter

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
DENSE = [name for name in AS_THEY_ARE if name != "mixtral"]  # experts lie in one tensor, which no linear computes


def adapted(name: str, folder: Path) -> tuple[LanguageModel, LanguageModel]:
    """A quantized model of a family, and the same with a random adapter that changes much."""
    base, generator = quantized(name, folder), torch.Generator().manual_seed(0)
    updates = {}
    for weight in base.grid:
        out, columns = base.grid[weight].shape
        down, up = (torch.randn(shape, generator=generator) for shape in ((3, columns), (out, 3)))
        updates[weight] = LowRank(down / columns**0.5, 0.05 * up, 2.0)
    (folder / "adapted").mkdir()
    base.save(folder / "adapted")
    write_adapter(folder / "adapted", updates)
    return base, LanguageModel(folder / "adapted")


@pytest.mark.parametrize("name", DENSE)
def test_llama_cpp_adds_it_to_the_very_weights(tmp_path: Path, name: str) -> None:
    pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: pip install 'squeeze[llama-cpp]'")
    base, model = adapted(name, tmp_path)
    (tmp_path / "gguf").mkdir()
    GgufWriter().write(model, tmp_path / "gguf")
    batch = Batch({"input_ids": tokens(2)})
    own, without = (one.predict(batch).log_softmax(-1) for one in (model, base))
    logits = GgufDecoder(tmp_path / "gguf", Facts(1, 0.1)).logits(tokens(2))
    runtime = torch.cat([one for _, one in logits]).log_softmax(-1)
    assert (own - runtime).abs().mean() < 0.03
    assert (own - without).abs().mean() > 0.06


@pytest.mark.parametrize("name", DENSE)
def test_the_file_holds_its_very_numbers(tmp_path: Path, name: str) -> None:
    _, model = adapted(name, tmp_path)
    (tmp_path / "gguf").mkdir()
    file = GgufWriter().write(model, tmp_path / "gguf")
    rows = list(GgufWriter().prove(model, file))
    beside = [row for row in rows if row.name.endswith((".lora_a", ".lora_b"))]
    assert all(row.equal for row in rows)
    assert model.adapter is not None
    decoder = GgufDecoder(tmp_path / "gguf", Facts(1, 0.1))
    assert decoder.nbytes() == file.stat().st_size + (tmp_path / "gguf" / "adapter.gguf").stat().st_size
    assert sum(row.weights for row in beside) == model.adapter.parameters()
    reader = gguf.GGUFReader(tmp_path / "gguf" / "adapter.gguf")
    assert reader.fields["adapter.lora.alpha"].parts[-1][0] == 6.0
    content = bytearray((tmp_path / "gguf" / "adapter.gguf").read_bytes())
    content[next(t.data_offset for t in reader.tensors if t.name == "blk.1.ffn_up.weight.lora_b")] ^= 1
    (tmp_path / "gguf" / "adapter.gguf").write_bytes(content)
    assert [row.name for row in GgufWriter().prove(model, file) if not row.equal] == ["blk.1.ffn_up.weight.lora_b"]
