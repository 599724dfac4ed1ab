"""Decoders as ONNX graphs: the logits of torch, in one go and token by token, in every family."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import test_minicpm
import torch
from families import FAMILIES, SMALL, tokens, write_family
from language_world import in_shards
from torch import nn

from squeeze.data.text import TokenDataset
from squeeze.errors import EffectError, ModelError
from squeeze.models.base import Batch
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.gptq import Gptq
from squeeze.passes.quantize.rtn import Rtn
from squeeze.runtimes.onnx_decoder import OnnxDecoder
from squeeze.store import Journal
from squeeze.writers.decoder import compare
from squeeze.writers.decoder.export import Options, blocks_that_fit, export_decoder


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of one family in a Hugging Face folder."""
    return write_family(request.param, tmp_path_factory.mktemp(request.param))


def continued(module: nn.Module, prompt: list[int], most: int) -> list[int]:
    """Greedily by torch, with transformers' own cache."""
    past, read, new = None, prompt, []
    with torch.no_grad():
        for _ in range(most):
            output = module(input_ids=torch.tensor([read]), cache=past, use_cache=True)
            past, read = output.cache, [int(output.logits[0, -1].argmax())]
            new += read
    return new


def largest_error(decoder: OnnxDecoder, model: LanguageModel) -> float:
    expected, got = (form.predict(Batch({"input_ids": tokens()})) for form in (model, decoder))
    assert expected.std() > 0.1
    return float((expected - got).abs().max() / expected.abs().max())


def operators(folder: Path) -> set[str]:
    return {node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node}


def quantized(folder: Path, **options: object) -> LanguageModel:
    return in_shards(Rtn(**options).run(LanguageModel(folder), Context()))


def test_greedy_generation_is_torchs_token_for_token(family: Path, tmp_path: Path) -> None:
    model = LanguageModel(family)
    decoder = export_decoder(model, tmp_path)
    assert largest_error(decoder, model) < 1e-5
    for prompt in tokens(2, 9).tolist():
        assert list(decoder.generate(prompt, 24)) == continued(model.whole(), prompt, 24)
    assert "GroupQueryAttention" in operators(tmp_path)


@pytest.mark.parametrize("way", ["nbits", "qdq"])
def test_a_quantized_family_gives_the_logits_of_its_grid(family: Path, tmp_path: Path, way: str) -> None:
    """Compared with float32 activations, which is what export_decoder itself does before it gives the model."""
    model = quantized(family, bits=4, group_size=16)
    context = Context()
    export_decoder(model, tmp_path, Options(encoding=way), context)
    error = context.measured["export_error"]
    assert {line["reader"] for line in context.facts["proof"]} == {"squeeze", "onnxruntime"}
    assert max(error["prefill"], error["decode"]) < 1e-5
    assert error["as_run"] > 1e-4, "activations in int8 cost something"


GRIDS = {
    "int4": {"bits": 4, "group_size": 32},
    "int4, asymmetric, table and head too": {"bits": 4, "group_size": 32, "symmetric": False, "embeddings": 4},
    "int3 per channel": {"bits": 3, "group_size": None},
    "int2": {"bits": 2, "group_size": 16, "symmetric": False},
    "int8, table and head too": {"bits": 8, "group_size": None, "embeddings": 8},
}


@pytest.mark.parametrize("way", ["nbits", "qdq"])
@pytest.mark.parametrize("options", list(GRIDS.values()), ids=list(GRIDS))
def test_every_width_is_the_grid(tmp_path: Path, way: str, options: dict[str, object]) -> None:
    model = quantized(write_family("mistral", tmp_path / "family"), **options)
    decoder = export_decoder(model, tmp_path / "onnx", Options(encoding=way, accuracy_level=0))
    if way == "nbits":
        assert largest_error(decoder, compare.Exact(model.folder)) < 1e-5
    assert ("MatMulNBits" if way == "nbits" else "DequantizeLinear") in operators(tmp_path / "onnx")


@pytest.mark.parametrize("way", ["nbits", "qdq"])
def test_groups_in_another_order_are_read_in_that_order(tmp_path: Path, way: str) -> None:
    family = write_family("qwen2", tmp_path / "family")
    context = Context(calibration_data=TokenDataset("text", tokens(16, 24).numpy()))
    model = in_shards(Gptq(bits=4, group_size=16, order="act_order").run(LanguageModel(family), context))
    assert model.quantized("model.layers.0.mlp.up_proj.weight").g_idx is not None
    export_decoder(model, tmp_path / "onnx", Options(encoding=way))


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    tied = tied_family(tmp_path / "tied")
    for name, model in (("dense", LanguageModel(tied)), ("int8", quantized(tied, bits=8, group_size=32, embeddings=8))):
        export_decoder(model, tmp_path / name)
        table = SMALL["vocab_size"] * SMALL["hidden_size"]
        stored = (tmp_path / name / "model.onnx.data").stat().st_size
        others = sum(model.tensor(n).numel() for n in model.skeleton.names() if "embed" not in n)
        each = 4 if name == "dense" else 1 + 4 / 32
        assert each * (others + table) < stored < each * (others + 1.9 * table)


def tied_family(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, tie_word_embeddings=True, max_position_embeddings=64)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_bf16_weights_lie_in_bf16_and_compute_in_float32(tmp_path: Path) -> None:
    family = write_family("gemma2", tmp_path / "family", torch.bfloat16)
    decoder = export_decoder(LanguageModel(family), tmp_path / "onnx")
    assert largest_error(decoder, compare.Exact(family)) < 1e-5
    kinds = {
        t.data_type for t in onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph.initializer
    }
    assert onnx.TensorProto.BFLOAT16 in kinds


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    model = quantized(write_family("qwen3-moe", tmp_path / "family"), bits=4, group_size=16)
    for name in ("one", "other"):
        export_decoder(model, tmp_path / name)
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_a_long_text_is_scored_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(write_family("cohere2", tmp_path / "family"))
    decoder = export_decoder(model, tmp_path / "onnx")
    monkeypatch.setattr("squeeze.runtimes.onnx_decoder.LOGITS_BYTES", 4 * 128 * 5)
    assert largest_error(decoder, model) < 1e-5


def test_only_what_fits_into_the_memory_is_compared(tmp_path: Path) -> None:
    model = LanguageModel(write_family("llama3.1", tmp_path / "family"))
    assert blocks_that_fit(model, None) == blocks_that_fit(model, 2**30) == 2
    assert blocks_that_fit(model, 1000) == 1
    decoder = export_decoder(model, tmp_path / "onnx", context=Context(memory_bytes=1000))
    assert largest_error(decoder, model) < 1e-5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["family", "onnx"], "the part is taken away"


def test_a_text_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    decoder = export_decoder(
        LanguageModel(write_family("mistral", tmp_path / "f")), tmp_path / "o", Options(context=12)
    )
    with pytest.raises(ModelError, match="16 tokens are more than the 12 that a text may have"):
        list(decoder.logits(tokens()))
    assert len(list(decoder.generate([1] * 4, 8))) == 8
    with pytest.raises(ModelError, match="13 tokens are more than the 12"):
        list(decoder.generate([1] * 4, 10))


def test_a_graph_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(write_family("llama3.1", tmp_path / "family"))
    monkeypatch.setattr("squeeze.writers.decoder.norms.EPSILONS", ("eps",))  # norms are then traced op by op
    assert largest_error(export_decoder(model, tmp_path / "plain"), model) < 1e-5
    monkeypatch.setattr("squeeze.writers.decoder.attention._attributes", lambda *_: {"scale": 0.3})
    with pytest.raises(EffectError, match=r"read in one go, logits differ by .* of the largest; 0\.001 would do"):
        export_decoder(model, tmp_path / "onnx")


def test_what_travels_with_the_graph(tmp_path: Path) -> None:
    family = write_family("llama3.1", tmp_path / "family")
    (family / "generation_config.json").write_text(json.dumps({"eos_token_id": 3}))
    decoder = export_decoder(LanguageModel(family), tmp_path / "onnx")
    names = {path.name for path in decoder.files}
    assert {"config.json", "generation_config.json", "model.onnx", "model.onnx.data"} == names
    (tmp_path / "kept").mkdir()
    decoder.save(tmp_path / "kept")
    again = OnnxDecoder.load(tmp_path / "kept")
    assert torch.equal(again.predict(Batch({"input_ids": tokens()})), decoder.predict(Batch({"input_ids": tokens()})))


def test_the_pass_takes_language_models_and_says_what_it_proved(tmp_path: Path) -> None:
    model = quantized(write_family("qwen3", tmp_path / "family"), bits=4, group_size=16)
    context = Context(journal=Journal(tmp_path / "journal"))
    decoder = ExportOnnx(length=64).run(model, context)
    assert isinstance(decoder, OnnxDecoder)
    assert decoder.session.context == 64
    assert sum(line["tensors"] for line in context.facts["proof"]) > 0
    assert not list(ExportOnnx().faults(model))
    assert ExportOnnx.gives("language") is OnnxDecoder


@pytest.mark.parametrize("tied", [True, False])
def test_minicpm_goes_the_way_of_the_llama_that_it_is(tmp_path: Path, tied: bool) -> None:
    (tmp_path / "family").mkdir()
    folder = test_minicpm.write(tmp_path / "family", tied)
    expected = test_minicpm.reference(folder, tokens())
    for way, model in (("dense", LanguageModel(folder)), ("int4", quantized(folder, bits=4, group_size=16))):
        decoder = export_decoder(model, tmp_path / way)
        if way == "dense":
            got = decoder.predict(Batch({"input_ids": tokens()}))
            assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("partial", [1.0, 0.5], ids=["whole heads", "half of each head"])
def test_positions_past_the_trained_length_are_turned_otherwise(tmp_path: Path, partial: float) -> None:
    """Phi-3's long rotary: texts of up to 12 tokens by one table, longer ones by another."""
    import transformers

    torch.manual_seed(0)
    factors = int(32 * partial) // 2
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 12}
    rope |= {"short_factor": [1.0] * factors, "long_factor": [4.0] * factors, "partial_rotary_factor": partial}
    sizes = SMALL | {"hidden_size": 128, "max_position_embeddings": 64, "original_max_position_embeddings": 12}
    config = transformers.Phi3Config(**sizes, rope_parameters=rope, partial_rotary_factor=partial)
    transformers.Phi3ForCausalLM(config).save_pretrained(tmp_path / "family")
    model = LanguageModel(tmp_path / "family")
    decoder = export_decoder(model, tmp_path / "onnx")
    for length in (8, 12, 13, 16):
        expected, got = (form.predict(Batch({"input_ids": tokens(3, length)})) for form in (model, decoder))
        assert float((expected - got).abs().max() / expected.abs().max()) < 1e-5, length
    assert "If" in operators(tmp_path / "onnx")
