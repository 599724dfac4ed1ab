"""Encoders and classifiers with fewer blocks or narrower ones: stock models that compute what the dense ones do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_world import SIZES, write_sentences
from text_world import SIZES as BERT_SIZES
from text_world import write_bert, write_pooling
from tiny import faults
from torch import Tensor, nn

from squeeze.algorithms.distillation import embedding_loss
from squeeze.api import load
from squeeze.data.sentences import SentenceDataset
from squeeze.data.tensors import TensorDataset
from squeeze.errors import ModelError
from squeeze.models.configured import save_stock
from squeeze.models.source import HuggingFaceSource
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_model import TorchModel
from squeeze.passes.base import Context, Preview
from squeeze.passes.prune.prune_depth import PruneDepth
from squeeze.passes.prune.prune_width import PruneWidth
from squeeze.run import run
from squeeze.store import Journal

GENERATOR = np.random.default_rng(0)
LENGTHS = sorted(GENERATOR.integers(3, 12, 40))
DATA = SentenceDataset("random", [GENERATOR.integers(1, 160, n) for n in LENGTHS], np.zeros(40, np.int64), 0)
CUT = PruneWidth(ratio=0.5, align=8, compensate=False, target="given")


def read(folder: Path) -> TorchModel:
    model = ModelSpec(hf=str(folder)).read(folder.parent)
    assert isinstance(model, TorchModel)
    return model


def bert(folder: Path, kind: str = "BertModel", **changes: Any) -> TorchModel:
    """Three blocks; ``BertModel`` is pooled as sentence-transformers says it."""
    write_bert(folder, kind, **{"num_hidden_layers": 3} | changes)
    if kind == "BertModel":
        write_pooling(folder, "mean_tokens", "Normalize")
    return read(folder)


def vit() -> TorchModel:
    """An image classifier whose blocks have their norms in front."""
    from transformers import ViTConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, id2label={0: "cat", 1: "dog"})
    source = HuggingFaceSource(json.dumps(config.to_dict() | {"architectures": ["ViTForImageClassification"]}))
    torch.manual_seed(0)
    module = source.build()
    for parameter in module.parameters():
        nn.init.normal_(parameter.data, 0.0, 0.15)
    return TorchModel(module, source, source.inputs() or ())


def lent() -> Context:
    return Context(calibration_data=DATA)


def stock(folder: Path) -> nn.Module:
    """As transformers opens it, without code of ours."""
    from transformers import AutoModel

    module: nn.Module = AutoModel.from_pretrained(folder).eval()
    return module


def tokens(module: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(**DATA.batch(np.arange(40)).inputs).last_hidden_state
    return found


def outputs(model: TorchModel) -> Tensor:
    return model.predict(DATA.batch(np.arange(40)))


def test_the_shallow_folder_opens_in_stock_transformers_and_says_what_the_dense_model_says_with_blocks_skipped(
    tmp_path: Path,
) -> None:
    dense, context = bert(tmp_path / "dense"), lent()
    made = PruneDepth(blocks=2).run(dense, context)
    save_stock(made, tmp_path / "made")
    whole: Any = stock(tmp_path / "dense")
    gone = {entry["block"] for entry in context.facts["removed"]}
    whole.encoder.layer = nn.ModuleList([each for index, each in enumerate(whole.encoder.layer) if index not in gone])
    assert torch.allclose(tokens(stock(tmp_path / "made")), tokens(whole), atol=1e-5)
    assert json.loads((tmp_path / "made/config.json").read_text())["num_hidden_layers"] == 1
    assert torch.equal(outputs(read(tmp_path / "made")), outputs(made))  # its pooling was written, too


def test_the_narrow_folder_opens_in_stock_transformers_and_says_what_the_dense_model_with_zeros_says(
    tmp_path: Path,
) -> None:
    dense, context = bert(tmp_path / "dense"), lent()
    save_stock(CUT.run(dense.copied(), context), tmp_path / "made")
    narrow, whole = stock(tmp_path / "made"), stock(tmp_path / "dense")
    for name, value in whole.named_parameters():
        if name.endswith("output.dense.weight") and (new := narrow.get_parameter(name)).shape != value.shape:
            stays = (value.data[:, :, None] == new.data[:, None, :]).all(0).any(1)
            assert int(stays.sum()) == 32, name
            value.data[:, ~stays] = 0
    assert torch.allclose(tokens(narrow), tokens(whole), atol=1e-5)
    assert not torch.allclose(tokens(narrow), tokens(stock(tmp_path / "dense")), atol=1e-2)
    assert context.facts["widths"] == {"intermediate": [64, 32]}
    places = {fact["tokens"] for fact in context.facts["layers"].values()}
    assert places == {sum(LENGTHS)}  # what only fills up a batch does not count


def test_heads_leave_where_the_config_can_say_it(tmp_path: Path) -> None:
    """EuroBERT has a head_dim, grouped keys and values, and its norms in front."""
    from transformers import EuroBertConfig, EuroBertModel

    sizes = BERT_SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    EuroBertModel(EuroBertConfig(**sizes, pad_token_id=0)).save_pretrained(tmp_path)
    dense, context = read(tmp_path), lent()
    cut = PruneWidth(ratio=0.5, parts=("intermediate", "heads"), align=8, compensate=False, target="given")
    pruned = cut.run(dense.copied(), context)
    assert context.facts["widths"] == {"intermediate": [64, 32], "heads": [2, 1]}
    for name, value in dense.module.named_parameters():
        if value.dim() == 2 and value.shape[1] != (new := pruned.module.get_parameter(name)).shape[1]:
            value.data[:, ~(value.data[:, :, None] == new.data[:, None, :]).all(0).any(1)] = 0
    assert torch.allclose(outputs(pruned), outputs(dense), atol=1e-5)


def test_what_stays_makes_up_for_what_leaves(tmp_path: Path) -> None:
    dense, context = bert(tmp_path / "dense"), lent()
    for block in dense.module.encoder.layer:  # type: ignore[union-attr]
        nn.init.normal_(block.intermediate.dense.bias, 2.0)  # means that a bias can make up for
    before = outputs(dense)
    distances = {}
    for compensate in (False, True):
        made = PruneWidth(ratio=0.5, align=8, compensate=compensate).run(dense.copied(), context)
        distances[compensate] = float(embedding_loss(outputs(made), before))
    assert distances[True] < 0.3 * distances[False]
    assert all(fact["loss"] < fact["loss_cut"] for fact in context.facts["layers"].values())


def test_the_aim_is_the_sum_that_the_outputs_are_part_of(tmp_path: Path) -> None:
    """Later blocks make up for what earlier ones have lost only where they are told of it."""
    dense, before = bert(tmp_path / "dense"), outputs(read(tmp_path / "dense"))
    distances = [
        float(
            embedding_loss(outputs(PruneWidth(ratio=0.75, align=8, target=target).run(dense.copied(), lent())), before)
        )
        for target in ("original", "given")
    ]
    assert distances[0] < distances[1]


@pytest.mark.parametrize("kind", ["BertModel", "BertForSequenceClassification"])
def test_a_block_that_does_nothing_leaves_first_and_takes_nothing_with_it(tmp_path: Path, kind: str) -> None:
    dense = bert(tmp_path / "dense", kind)
    idle = dense.module.get_submodule(f"{'bert.' if 'For' in kind else ''}encoder.layer.1")
    for name in ("attention.output.dense", "output.dense"):
        for parameter in idle.get_submodule(name).parameters():
            parameter.data.zero_()
    context, before = lent(), outputs(dense)
    made = PruneDepth(ratio=0.3).run(dense, context)
    assert [entry["block"] for entry in context.facts["removed"]] == [1]
    assert torch.allclose(outputs(made), before, atol=1e-4)
    assert made.class_names() == dense.class_names()


def test_the_same_passes_take_an_image_classifier_with_norms_in_front(tmp_path: Path) -> None:
    images = GENERATOR.normal(size=(24, 3, 8, 8)).astype(np.float32)
    context = Context(calibration_data=TensorDataset("noise", {"image": images}, np.zeros(24, np.int64)))
    made = PruneDepth(blocks=1).run(PruneWidth(ratio=0.5, align=8).run(vit(), context), context)
    made.save(tmp_path)
    again, batch = TorchModel.load(tmp_path), context.calibration.batch(np.arange(8))
    assert torch.equal(again.predict(batch), made.predict(batch))
    config = json.loads((tmp_path / "model.json").read_text())["source"]["config"]
    assert (config["intermediate_size"], config["num_hidden_layers"]) == (32, 2)


def test_a_factory_that_takes_its_configs_sizes_is_called_with_others(tmp_path: Path) -> None:
    arguments = tuple(sorted((SIZES | {"num_hidden_layers": 3, "vocab_size": 160}).items()))
    spec = ModelSpec(module="minilm:encoder", arguments=arguments)
    source = spec.source(tmp_path)
    assert source is not None
    dense = TorchModel(source.build(), source, spec.inputs(tmp_path, None))
    made = CUT.run(PruneDepth(blocks=2).run(dense, lent()), lent())
    (tmp_path / "stored").mkdir()
    made.save(tmp_path / "stored")
    assert not (tmp_path / "stored/structure.json").exists()  # its arguments say it all
    assert torch.equal(outputs(TorchModel.load(tmp_path / "stored")), outputs(made))
    with pytest.raises(ModelError, match=r"a model of kind module has no config\.json"):
        save_stock(made, tmp_path / "stock")


@pytest.mark.parametrize("pass_", [PruneDepth(blocks=1), CUT], ids=["depth", "width"])
def test_the_preview_is_what_comes_out(tmp_path: Path, pass_: Any) -> None:
    dense = bert(tmp_path / "dense")
    outline = dense.outline()
    foretold = pass_.preview(outline, Preview((), dense.parameters(), dense.nbytes(), dense.macs()))
    made = pass_.run(dense, lent())
    assert (foretold.parameters, foretold.nbytes, foretold.macs) == (made.parameters(), made.nbytes(), made.macs())
    assert outline.parameters() == made.parameters()  # what comes after is checked on that


def test_a_killed_run_measures_no_distance_twice(tmp_path: Path, monkeypatch: Any) -> None:
    from squeeze.passes.prune import resident_depth

    dense, measure, calls = bert(tmp_path / "dense"), resident_depth.outputs_without, []

    def killed(*arguments: Any) -> list[Tensor]:
        calls.append(arguments[2])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(resident_depth, "outputs_without", killed)
    context = Context(calibration_data=DATA, journal=Journal(tmp_path / "journal"))
    with pytest.raises(KeyboardInterrupt):
        PruneDepth(blocks=2).run(dense, context)
    PruneDepth(blocks=2).run(dense, context)
    assert set(calls[1:3]) & set(calls[5:]) == set()  # the original's outputs alone are worked out again


@pytest.mark.parametrize(
    ("pass_", "line"),
    [
        (PruneDepth(blocks=3), "blocks 3 removes 3 of 3 blocks; 1 to 2 would do"),
        (PruneDepth(ratio=0.1), "ratio 0.1 removes 0 of 3 blocks; 1 to 2 would do"),
        (PruneDepth(parameters="1 %"), "1 % cannot be reached by whole blocks"),
        (PruneDepth(decode="70 %"), "decode: 70 % is of language models; parameters or size would do here"),
        (PruneWidth(decode="70 %"), "decode: 70 % is of language models; parameters or size would do here"),
        (PruneWidth(ratio=0.9), r"ratio 0\.9 leaves 6 of 64 channels; 32 are the fewest"),
        (
            PruneWidth(ratio=0.5, parts=["heads"]),
            r"model_type 'bert' cannot say fewer heads of the same width .* takes a head_dim",
        ),
        (
            PruneWidth(ratio=0.5, parts=["hidden"]),
            r"the hidden size of a model in memory is the width of what it gives.*; parts: .intermediate. would do",
        ),
    ],
)
def test_a_goal_that_the_encoder_cannot_meet_is_one_line(tmp_path: Path, pass_: Any, line: str) -> None:
    dense = bert(tmp_path / "dense")
    (fault,) = pass_.faults(dense.outline())
    assert fault.startswith(f"{pass_.name}: ")
    with pytest.raises(ModelError, match=line):
        pass_.run(dense, lent())


def test_a_single_block_and_a_network_without_a_config_are_refused(tmp_path: Path) -> None:
    (fault,) = PruneDepth(blocks=1).faults(bert(tmp_path / "dense", num_hidden_layers=1))
    assert fault == "prune_depth: blocks 1 removes 1 of 1 blocks; one has to stay"
    digits = ModelSpec(builtin="digits-cnn").outline(tmp_path)
    (fault,) = PruneDepth(blocks=1).faults(digits)  # type: ignore[arg-type]
    assert "has no config of transformers" in fault
    assert "prune_channels cuts networks without one" in fault


PLAN = """\
model: {hf: bert}
data:
  train: {sentences: train.tsv}
  calibrate: {sentences: train.tsv, samples: 16}
  evaluate: {sentences: dev.tsv}
metrics: [cosine, parameters]
passes:
  - {pass: prune_depth, blocks: 2}
  - {pass: distill, epochs: 1}
  - {pass: export_onnx}
  - {pass: quantize_dynamic}
"""


@pytest.mark.slow
def test_distillation_export_and_int8_follow_in_one_plan(tmp_path: Path) -> None:
    bert(tmp_path / "bert")
    write_sentences(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN)
    assert not faults(tmp_path / "plan.yaml")
    rows = run(load(tmp_path / "plan.yaml"), store=tmp_path / "store").ledger.rows
    cosines = {row.name: row.scores["cosine"].value for row in rows}
    assert (cosines["distill"] or 0) > (cosines["prune_depth"] or 1)
    assert (rows[-1].scores["parameters"].value or 1) < (rows[0].scores["parameters"].value or 0)


def test_a_linear_map_in_place_of_an_encoders_block_is_refused(tmp_path: Path) -> None:
    pass_, model = PruneDepth(blocks=1, replace="linear"), bert(tmp_path)
    assert list(pass_.faults(model)) == ["prune_depth: replace: linear is of language models; leave it out"]
    with pytest.raises(ModelError, match="replace: linear is of language models"):
        pass_.run(model, Context(calibration_data=DATA))
