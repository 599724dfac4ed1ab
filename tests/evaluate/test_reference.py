"""The original of a language model is kept as hidden states, whose logits are exact: nothing moved reads as nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from language_world import in_shards, write_folder

from squeeze.blocks.mapped import MappedTensor
from squeeze.data.text import TokenDataset
from squeeze.errors import ModelError
from squeeze.evaluate.tokens import HIDDEN, Reference, TokenScores, noise_floor, score_tokens
from squeeze.models.facts import Facts
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.rtn import Rtn
from squeeze.progress import Progress
from squeeze.runtimes.checkpoint import CheckpointDecoder
from squeeze.runtimes.onnx_decoder import in_onnx_runtime

DATA = TokenDataset("text", np.random.default_rng(0).integers(0, 128, (6, 24)))


def bf16(folder: Path, **changes: int) -> Path:
    import transformers

    write_folder(folder, **changes)
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageModel, Path]:
    folder = tmp_path_factory.mktemp("original")
    model, entry = LanguageModel(bf16(folder / "model")), folder / "entry"
    entry.mkdir()
    score_tokens(model, DATA, entry, None, Progress(), "score original").save(entry)
    return model, entry


def scored(model: object, original: tuple[LanguageModel, Path], folder: Path) -> TokenScores:
    return score_tokens(model, DATA, folder, Reference(*original), Progress(), "score")  # type: ignore[arg-type]


def test_a_model_that_did_not_change_has_moved_by_nothing(original, tmp_path: Path) -> None:
    same = scored(LanguageModel(original[0].folder), original, tmp_path)
    assert same.kl.max() < 1e-6
    assert not same.flips.any()
    assert np.array_equal(same.nll, TokenScores.load(original[1]).nll)
    assert not list(tmp_path.iterdir())  # only the original's hidden states are kept


def test_the_original_has_its_own_blocks_again_when_a_model_was_scored(original, tmp_path: Path) -> None:
    """Left to the collector, the stand-ins for its blocks went when another walk was under way."""
    skeleton = original[0].skeleton
    blocks = list(skeleton.layers)
    scored(LanguageModel(original[0].folder), original, tmp_path)
    assert all(one is other for one, other in zip(skeleton.layers, blocks, strict=True))
    assert all(value.is_meta for value in skeleton.module.parameters())


@pytest.mark.parametrize("at_once", [7, 40])
def test_scores_do_not_depend_on_how_many_logits_are_worked_out_at_once(
    original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    rounded = Rtn(bits=4, group_size=32).run(LanguageModel(original[0].folder), Context())
    exported = ExportOnnx().run(rounded, Context())
    whole = [scored(model, original, tmp_path) for model in (rounded, exported)]
    monkeypatch.setattr("squeeze.evaluate.tokens.LOGITS", 128 * at_once)
    for model, before in zip((rounded, exported), whole, strict=True):
        scores = scored(model, original, tmp_path)
        assert scores.nll == pytest.approx(before.nll, abs=1e-5)
        assert scores.kl == pytest.approx(before.kl, abs=1e-5)


def test_a_plain_export_of_a_bf16_model_has_moved_by_nothing(original, tmp_path: Path) -> None:
    exported = ExportOnnx().run(LanguageModel(original[0].folder), Context())
    moved = scored(exported, original, tmp_path)
    assert moved.kl.max() < 1e-6
    assert not moved.flips.any()


def test_the_floor_is_what_another_order_of_summation_reads_as(original) -> None:
    """Measured, not assumed: the very weights, so no model can be told from the original below it."""
    model, entry = original
    floor = noise_floor(Reference(model, entry), DATA, Progress(), "original")
    assert len(floor) == 4
    assert 0 < floor.kl.mean() < 1e-6
    assert not floor.flips.any()


def test_every_runtime_says_its_arithmetic(original, tmp_path: Path) -> None:
    assert original[0].arithmetic() == "torch: float32 activations, head and logits, bfloat16 weights"
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    packed = CheckpointDecoder(tmp_path, Facts(1, 0.1))
    assert packed.arithmetic() == "transformers with gptqmodel: float16 activations, head and logits"


@pytest.mark.parametrize(("attributes", "rounds"), [({"accuracy_level": 4}, True), ({"accuracy_level": 0}, False)])
def test_a_graph_says_whether_its_products_round_activations(tmp_path: Path, attributes, rounds) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=4, N=4, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xwsy"]
    graph = helper.make_graph([node], "g", values[:3], values[3:])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    arithmetic = in_onnx_runtime("ONNX Runtime", tmp_path / "model.onnx")
    assert ("activations rounded to int8" in arithmetic) == rounds


def test_int8_rounding_reads_as_stock_transformers_in_float32_says(original, tmp_path: Path) -> None:
    import transformers

    rounded = in_shards(Rtn(bits=8, group_size=32).run(original[0], Context()))
    tokens = torch.from_numpy(DATA.tokens)
    stock = transformers.AutoModelForCausalLM.from_pretrained(original[0].folder, dtype=torch.float32).eval()
    with torch.no_grad():
        log_p = stock(tokens).logits[:, :-1].double().log_softmax(-1)
        for name, parameter in stock.named_parameters():
            if name in rounded.grid:
                parameter.copy_(rounded.tensor(name, wide=True))
        log_q = stock(tokens).logits[:, :-1].double().log_softmax(-1)
    truth = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    scores = scored(rounded, original, tmp_path)
    assert float(scores.kl.mean()) == pytest.approx(truth, rel=0.05)
    assert scores.flips.mean() == pytest.approx(float((log_p.argmax(-1) != log_q.argmax(-1)).double().mean()), abs=0.01)


def test_activations_in_a_file_give_the_same_scores_and_leave_no_file(original, tmp_path: Path) -> None:
    rounded = Rtn(bits=4, group_size=32).run(LanguageModel(original[0].folder), Context())
    in_memory = scored(rounded, original, tmp_path)
    in_file = score_tokens(rounded, DATA, tmp_path, Reference(*original), Progress(), "score", in_file=True)
    assert np.array_equal(in_file.nll, in_memory.nll)
    assert np.array_equal(in_file.kl, in_memory.kl)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_activations_is_an_error_and_no_dead_process(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large|limit"):
        MappedTensor.create(tmp_path / "huge", (1 << 40, 1 << 10), torch.float32)


def test_the_original_takes_four_bytes_a_channel_and_token_on_disk(original) -> None:
    size = (original[1] / HIDDEN).stat().st_size
    assert size == original[0].hidden_bytes(DATA.tokens.size) == 4 * 64 * DATA.tokens.size


def test_another_vocabulary_cannot_be_compared(original, tmp_path: Path) -> None:
    other = LanguageModel(bf16(tmp_path / "other", vocab_size=160))
    with pytest.raises(ModelError, match="the model has 160 tokens, the original 128"):
        scored(other, original, tmp_path)
