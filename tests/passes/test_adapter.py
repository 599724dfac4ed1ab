"""An adapter kept beside an int4 base: trained, written apart, read back, and refused where it would be lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_world import in_shards
from safetensors.torch import load_file, save_file
from test_language_training import context, counting, loss_of
from test_trained_weights import folder, learnt, plan_faults, quantized  # noqa: F401, fixtures
from transformers import AutoModelForCausalLM

from squeeze.errors import EffectError, ModelError, UsageError
from squeeze.models.base import ADAPTER, Batch
from squeeze.models.language.adapter import CONFIG, FOLDER, WEIGHTS
from squeeze.models.language.language_model import LanguageModel
from squeeze.passes.base import Preview
from squeeze.passes.distill.distill import Distill
from squeeze.targets.checkpoint import Checkpoint
from squeeze.training.proof import require_adapter

PASS = Distill(steps=20, batch_size=8, rank=4, quantized="adapter")


@pytest.fixture(scope="module")
def base(learnt: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:  # noqa: F811
    return quantized(learnt, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base: LanguageModel, learnt: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:  # noqa: F811
    lent = context(tmp_path_factory.mktemp("trained"), learnt.folder)
    after = in_shards(PASS.run(base, lent))
    assert not list(PASS.check_effect(base, after, lent.facts))
    assert after.adapter is not None
    expected = {"weights": 14, "parameters": after.adapter.parameters(), "bytes": after.adapter.nbytes()}
    assert lent.facts["adapter"] == expected
    assert lent.facts["trained"] == after.adapter.parameters()
    return after


def test_it_wins_back_what_rounding_lost_and_the_base_stays(
    base: LanguageModel,
    trained: LanguageModel,
    learnt: LanguageModel,  # noqa: F811
) -> None:
    assert loss_of(trained) - loss_of(learnt) < 0.8 * (loss_of(base) - loss_of(learnt))
    for name in base.grid:
        before, after = base.quantized(name), trained.quantized(name)
        assert torch.equal(before.q, after.q)
        assert torch.equal(before.scale, after.scale)
    assert trained.nbytes() == trained.shards.nbytes() + trained.adapter.nbytes()  # type: ignore[union-attr]
    assert trained.parameters() == base.parameters() + trained.adapter.parameters()  # type: ignore[union-attr]
    assert trained.macs() == base.macs() + trained.adapter.parameters()  # type: ignore[operator,union-attr]
    assert trained.marks() == {"quantized", ADAPTER}


def test_a_pass_that_moves_what_it_promised_to_leave_is_found(
    base: LanguageModel,
    trained: LanguageModel,
    learnt: LanguageModel,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert not list(PASS.check_effect(base, trained, {}))
    other = quantized(learnt, tmp_path, clip="mse")  # other integers and scales, and no adapter
    lines = list(PASS.check_effect(base, other, {}))
    starts = [
        "promises integers that stay, and moved ",
        "promises scales that stay, and moved ",
        "promises an adapter ",
    ]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=True)] == [True] * 3


def test_a_weight_that_lies_on_no_grid_gets_none(learnt: LanguageModel, tmp_path: Path) -> None:  # noqa: F811
    some = quantized(learnt, tmp_path / "some", include=("*.mlp.*",), embeddings=8)
    lent = context(tmp_path / "trained", learnt.folder)
    foretold = PASS.preview(some, Preview((), some.parameters(), some.nbytes(), some.macs(), grid=some.grid_kinds()))
    after = in_shards(PASS.run(some, lent))
    assert after.adapter is not None
    assert len(after.adapter.names) == 6
    assert all(".mlp." in name for name in after.adapter.names)
    assert (foretold.parameters, foretold.macs) == (after.parameters(), after.macs())


def test_it_lies_in_pefts_files_under_pefts_names(base: LanguageModel, trained: LanguageModel) -> None:
    place = trained.folder / FOLDER
    config, tensors = (
        json.loads((place / "adapter_config.json").read_text()),
        load_file(place / "adapter_model.safetensors"),
    )
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 8)
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    name = "model.layers.1.mlp.down_proj"
    down, up = (tensors[f"base_model.model.{name}.lora_{end}.weight"] for end in ("A", "B"))
    weight = base.quantized(f"{name}.weight")
    assert (down.shape[1], up.shape[0], len(down), up.shape[1]) == (weight.q.shape[1], len(weight.q), 4, 4)
    expected = weight.dequantize() + 2 * up @ down
    torch.testing.assert_close(trained.tensor(f"{name}.weight", wide=True), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
def test_peft_lays_it_over_the_same_weights(base: LanguageModel, trained: LanguageModel, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install peft")
    base.save_dense(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.from_numpy(counting().tokens)
    with torch.no_grad():
        logits = peft.PeftModel.from_pretrained(stock, str(trained.folder / FOLDER)).eval()(input_ids=tokens).logits
    torch.testing.assert_close(logits, trained.predict(Batch({"input_ids": tokens})), rtol=0, atol=1e-4)


def test_a_copy_of_the_model_has_it_too(trained: LanguageModel, tmp_path: Path) -> None:
    trained.save(tmp_path)
    copy = LanguageModel.load(tmp_path)
    assert all(torch.equal(copy.tensor(name), trained.tensor(name)) for name in trained.skeleton.names())


def test_another_adapter_than_the_trained_one_is_found(trained: LanguageModel) -> None:
    adapter = trained.adapter
    assert adapter is not None
    updates = {name: adapter.update(name) for name in adapter.names}
    require_adapter(trained, updates)
    name = adapter.names[0]
    other = replace(updates[name], up=updates[name].up + 1e-6)
    with pytest.raises(EffectError, match=f"{name}: the adapter that was written is not the one that was trained"):
        require_adapter(trained, updates | {name: other})
    with pytest.raises(EffectError, match="is not of the weights that were trained"):
        require_adapter(trained, {name: updates[name]})


def test_a_target_that_would_lose_it_builds_nothing(trained: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target checkpoint: writes no adapter beside the weights"):
        Checkpoint().build(trained, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"peft_type": "IA3"}, r"adapter_config\.json: no adapter that is read here; one of PEFT's type LORA would be"),
        ({"use_dora": True}, "no adapter that is read here"),
        ({"r": 0}, "r 0 and lora_alpha 8.0 are no rank and no number"),
        ({"lora_alpha": None}, "r 4 and lora_alpha None are no rank and no number"),
        ({"lora_alpha": float("inf")}, "r 4 and lora_alpha inf are no rank and no number"),
        ({"r": 5}, r"lora_A\.weight' does not fit: \[4, \d+\] on disk, \[5, \d+\] by model and rank"),
    ],
)
def test_an_adapter_that_is_none_is_one_line(
    trained: LanguageModel, tmp_path: Path, change: dict[str, object], line: str
) -> None:
    trained.save(tmp_path)
    file = tmp_path / FOLDER / CONFIG
    values = json.loads(file.read_text()) | change
    file.unlink()  # a link to the trained one's
    file.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=line):
        LanguageModel.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("mlp.up_proj.lora_B", "mlp.up_proj.lora_C", r"up_proj\.lora_B\.weight' does not fit: \[\] on disk, \[96, 4\]"),
        (
            "layers.1.mlp.up_proj",
            "layers.7.mlp.up_proj",
            "'model.layers.7.mlp.up_proj.weight', which is no matrix",
        ),
        (
            "layers.1.mlp.up_proj",
            "layers.1.mlp.down_proj2",
            "'model.layers.1.mlp.down_proj2.weight', which is no",
        ),
    ],
)
def test_an_adapter_of_other_weights_is_one_line(
    trained: LanguageModel, tmp_path: Path, old: str, new: str, line: str
) -> None:
    trained.save(tmp_path)
    file = tmp_path / FOLDER / WEIGHTS
    tensors = {name.replace(old, new): value for name, value in load_file(file).items()}
    file.unlink()
    save_file(tensors, file)
    with pytest.raises(ModelError, match=line):
        LanguageModel.load(tmp_path)


PLAN = """\
model: {hf: ./model}
data:
  train: {text: train.txt, length: 16}
  evaluate: {text: train.txt, length: 16}
metrics: [size]
passes:
  - {pass: rtn, bits: 4, group_size: 32}
  - {pass: distill, quantized: adapter, epochs: 1, rank: 4}
targets:
  - {target: gguf}
"""
FAULTS: dict[tuple[str, ...], str] = {
    ("targets.0={target: checkpoint}",): "target checkpoint: writes no adapter beside the weights; target: gguf does",
    ("targets.0={target: cpu, passes: [{pass: export_onnx}]}",): "export_onnx must come before distill (line 8), which "
    "leaves the weights beside an adapter",
    (
        "targets.0={target: gguf, runtime: transformers}",
    ): "target gguf: runtime: transformers reads no adapter; llama.cpp does",
    ("passes.1.rank=64",): "distill: rank: 64 is more than the 32 channels of the narrowest weight",
    ("passes.1.quantized=all",): "rank goes with train: lora",
    ("passes.1.optimizer=adafactor",): "adafactor measures its steps by a weight's own size",
}


@pytest.mark.parametrize("settings", FAULTS, ids=lambda one: one[0])
def test_where_it_would_be_lost_is_a_fault(tmp_path: Path, settings: tuple[str, ...]) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'squeeze[gguf]'")
    messages = plan_faults(tmp_path, PLAN, *settings)
    assert any(FAULTS[settings] in line for line in messages), messages
