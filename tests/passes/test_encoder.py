"""A sentence encoder on its way to int8: free length, tables and matrices on integers, the same embeddings nearly."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_world import PLAN, SIZES, tiny_encoder, write_encoder_world
from language_world import write_tokenizer
from tiny import faults, squeeze
from torch import nn

from squeeze.api import compress, load
from squeeze.data.sentences import SentenceDataset
from squeeze.errors import ModelError
from squeeze.evaluate.probe import Cosine
from squeeze.models.artifact import Artifact
from squeeze.models.base import Batch
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.source import FactorySource
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context
from squeeze.passes.export.export_onnx import ExportOnnx
from squeeze.passes.quantize.quantize_dynamic import QuantizeDynamic
from squeeze.passes.quantize.rtn import Rtn
from squeeze.targets.cpu import Cpu
from squeeze.targets.verify import open_package


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return tiny_encoder()


@pytest.fixture(scope="module")
def exported(module: nn.Module) -> OnnxModel:
    source = FactorySource("minilm:encoder", tuple(sorted(SIZES.items())))
    inputs = source.inputs()
    assert inputs is not None
    model = ExportOnnx().run(TorchModel(module, source, inputs), Context(threads=1))
    assert isinstance(model, OnnxModel)
    return model


def sentences(count: int = 40, seed: int = 0) -> SentenceDataset:
    random = np.random.default_rng(seed)
    tokens = sorted((random.integers(1, 600, random.integers(2, 30)) for _ in range(count)), key=len)
    return SentenceDataset("random", tokens, np.full(count, -1), 0)


def quantized(exported: OnnxModel, **options: object) -> tuple[OnnxModel, Context]:
    context = Context(threads=1, calibration_data=sentences(seed=1))
    return QuantizeDynamic(**options).run(exported, context), context


def cosine(exported: OnnxModel, other: OnnxModel) -> float:
    batch = sentences().batch(np.arange(40))
    return float(Cosine().per_example(other.predict(batch).numpy(), None, exported.predict(batch).numpy()).mean())


def test_any_batch_and_any_length_give_torchs_embeddings(module: nn.Module, exported: OnnxModel) -> None:
    data = sentences()
    for numbers in ([0], [39], [3, 20, 39]):
        batch = data.batch(np.array(numbers))
        with torch.no_grad():
            expected = module(**batch.inputs)
        assert torch.allclose(exported.predict(batch), expected, atol=1e-5)


def test_integers_of_an_encoder_are_exported_but_for_those_that_nothing_reads(module: nn.Module) -> None:
    """Tokens are averaged: BERT's pooler computes something that no embedding depends on."""
    source = FactorySource("minilm:encoder", tuple(sorted(SIZES.items())))
    rounded = Rtn(bits=4, group_size=16).run(TorchModel(deepcopy(module), source, source.inputs() or ()), Context())
    context = Context(threads=1)
    graph = ExportOnnx().run(rounded, context)
    assert isinstance(graph, OnnxModel)
    assert context.facts["without_effect"] == ["pooler.dense.weight"]
    assert {line["tensors"] for line in context.facts["proof"]} == {len(rounded.grid) - 1}
    batch = sentences().batch(np.arange(40))
    assert torch.allclose(graph.predict_exactly(batch), rounded.predict(batch), atol=1e-5)


def test_what_the_model_does_is_kept_on_its_way_to_a_runtime(exported: OnnxModel, tmp_path: Path) -> None:
    small, _ = quantized(exported, include=("embeddings.*",))
    stored, built = tmp_path / "stored", tmp_path / "built"
    for folder in (stored, built, tmp_path / "again"):
        folder.mkdir()
    small.save(stored)
    artifact = Cpu().build(OnnxModel.load(stored), built)
    artifact.save(tmp_path / "again")
    every = [exported, small, OnnxModel.load(stored), artifact, Artifact.load(tmp_path / "again")]
    assert [model.task.name for model in every] == ["embed"] * 5


def test_filling_up_changes_no_embedding(exported: OnnxModel) -> None:
    data = sentences()
    together, alone = exported.predict(data.batch(np.array([2, 39]))), exported.predict(data.batch(np.array([2])))
    assert torch.allclose(together[:1], alone, atol=1e-5)


def test_layers_keep_the_names_of_their_modules(module: nn.Module, exported: OnnxModel) -> None:
    linears = {name for name, child in module.named_modules() if isinstance(child, nn.Linear) and "pooler" not in name}
    assert linears <= {layer.name for layer in exported.layers()}
    assert "embeddings.word_embeddings" in {layer.name for layer in exported.layers()}


def test_matrices_and_large_tables_become_integers(exported: OnnxModel) -> None:
    small, context = quantized(exported)
    assert small.nbytes() < exported.nbytes() / 2  # the graph itself is a third of so small a file
    assert context.facts["embeddings"] == {"int8": ["embeddings.word_embeddings"]}
    assert context.facts["coverage"]["MatMul"] == [12, 16]
    assert context.facts["uncovered"]["embeddings.token_type_embeddings"] == "a table of 64 values is too small to gain"
    assert "both operands are computed at run time" in context.facts["uncovered"].values()
    assert cosine(exported, small) > 0.97


def test_smoothing_turns_embeddings_less(exported: OnnxModel) -> None:
    plain, _ = quantized(exported, embeddings=False)
    smooth, context = quantized(exported, embeddings=False, smooth=True)
    assert 1 - cosine(exported, smooth) < 0.6 * (1 - cosine(exported, plain))
    assert all(0 < remaining <= 1 for _, remaining in context.facts["smooth"].values())
    assert smooth.nbytes() < 1.1 * plain.nbytes()


def test_a_table_alone_is_nearest_to_its_float(exported: OnnxModel) -> None:
    tables, _ = quantized(exported, include=("embeddings.*",))
    matrices, context = quantized(exported, embeddings=False)
    assert cosine(exported, tables) > 0.995
    assert "embeddings.word_embeddings" in {layer.name for layer in matrices.layers()}
    assert context.facts["uncovered"]["embeddings.word_embeddings"] == "left out"


def test_an_excluded_table_stays(exported: OnnxModel) -> None:
    assert quantized(exported, exclude=("embeddings.*",))[1].facts["embeddings"] == {"int8": []}


@pytest.mark.parametrize("value", [["input_ids"], {"input_ids": "int64"}, {"input_ids": ("many", "int64")}], ids=repr)
def test_inputs_that_a_module_tells_wrongly_are_one_line(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minilm.Encoder.inputs", value)
    with pytest.raises(ModelError, match=r"minilm:encoder: the module's inputs are .* would do"):
        FactorySource("minilm:encoder", tuple(SIZES.items())).inputs()


@pytest.mark.usefixtures("in_this_process")
def test_a_plan_goes_from_the_encoder_to_a_verified_package(module: nn.Module, tmp_path: Path) -> None:
    write_encoder_world(tmp_path, module)
    run = compress(load(tmp_path / "plan.yaml"), store=tmp_path / "store", out=tmp_path / "out")
    first, last = run.ledger.rows[0], run.ledger.rows[-1]
    assert first.scores["probe"].value > 0.55  # of a network that nobody trained
    assert abs(last.scores["probe"].value - first.scores["probe"].value) < 0.1
    assert last.scores["probe"].scored_on is None
    assert first.scores["cosine"].value == pytest.approx(1)
    assert 0.97 < last.scores["cosine"].value < 1
    assert squeeze("verify", tmp_path / "out/plan-cpu.zip") == 0
    assert open_package(tmp_path / "out/plan-cpu.zip").load_model().task.name == "embed"  # as the manifest says


def test_what_a_plan_lacks_is_found_before_the_run(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "dev.tsv").write_text("a\t1\n")
    (tmp_path / "tiny.safetensors").write_text("")
    lines = [line for line in PLAN.splitlines() if "train.tsv" not in line]
    (tmp_path / "plan.yaml").write_text("\n".join(lines))
    messages = " ".join(faults(tmp_path / "plan.yaml"))
    assert "probe is fitted on data.train, which the plan does not name" in messages
    assert "quantize_dynamic needs data.calibrate, which the plan does not name" in messages


def test_a_batch_without_its_mask_is_told(exported: OnnxModel) -> None:
    with pytest.raises(ModelError, match="wants the input 'attention_mask'; the data has input_ids, other"):
        exported.predict(Batch({"input_ids": torch.ones(1, 4, dtype=torch.int64), "other": torch.ones(1, 4)}))
