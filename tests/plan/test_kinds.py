"""Every pass and every target with every kind of model: taken, or one line that says why not; and no option in vain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from encoder_world import SIZES
from language_world import write_folder
from onnx import TensorProto, helper, numpy_helper
from tiny import PLAN, faults, write_plan, write_world

from squeeze import registry
from squeeze.errors import Fault, ModelError
from squeeze.evaluate.counts import SizeBytes
from squeeze.evaluate.metrics import Latency
from squeeze.models.base import InputSpec, Model
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.spec import ModelSpec
from squeeze.models.torch_call import task_of
from squeeze.passes.base import Context
from squeeze.passes.quantize.rtn import Rtn
from squeeze.plan.check import check
from squeeze.plan.plan import ROLES, Branch, Plan
from squeeze.writers.gptq import GptqWriter

SMALL = SIZES | {"num_hidden_layers": 2}
SPECS = {
    "cnn": ModelSpec(module="tiny:network", weights="weights", input=(3, 6, 6)),
    "encoder": ModelSpec(module="minilm:encoder", weights="weights", arguments=tuple(sorted(SMALL.items()))),
    "language": ModelSpec(hf="language"),
    "gptq": ModelSpec(hf="gptq"),
    "onnx": ModelSpec(onnx="float.onnx"),
    "int8 onnx": ModelSpec(onnx="int8.onnx"),
    "half onnx": ModelSpec(onnx="half.onnx"),
    "gguf": ModelSpec(hf="gguf"),
    "gguf file": ModelSpec(onnx="gguf/model.gguf"),
}
EXPORTED = {"exported cnn": "cnn", "exported encoder": "encoder", "exported language": "language"}
GRAPHS = {"onnx", "exported cnn", "exported encoder"}
CLASSIFIERS, LANGUAGE = {"cnn", "language"}, {"language"}
TAKEN = {  # by pass: kinds without a fault
    "prune_channels": {"cnn", "encoder"},
    "prune_width": {*LANGUAGE, "encoder"},
    "prune_depth": {*LANGUAGE, "encoder"},
    "prune_experts": set(),  # none of them is a mixture
    "prune_vocabulary": set(),  # no tokenizer lies in these folders
    "separable": {"cnn"},
    "low_rank": {"cnn", "encoder"},
    "sparsify": {*LANGUAGE, "cnn", "encoder"},
    "finetune": CLASSIFIERS,
    "distill": {*CLASSIFIERS, "encoder"},
    "export_onnx": {"cnn", "encoder", "language", "gptq"},
    "quantize_static": {*GRAPHS, "int8 onnx"},  # a grid of weights stays as it is
    "quantize_dynamic": GRAPHS,
    "float16": GRAPHS,
    "rtn": {*LANGUAGE, "cnn", "encoder"},
    "gptq": {*LANGUAGE, "cnn", "encoder"},
    "awq": LANGUAGE,
    "hqq": {*LANGUAGE, "cnn", "encoder"},
    "gptqmodel": LANGUAGE,
    "neural_compressor": LANGUAGE,
    "auto_round": LANGUAGE,
    "torchao": LANGUAGE,
    "smooth": LANGUAGE,
    "rotate": LANGUAGE,
    "write": {"language", "gptq"},
}
PACKED = {  # by target
    "cpu": {*GRAPHS, "int8 onnx", "half onnx", "exported language"},
    "mobile": {*GRAPHS, "int8 onnx", "half onnx"},
    "genai": {"exported language"},
    "checkpoint": {"gptq"},
    "gguf": {"language", "gptq"},
}
NEEDED = {
    "prune_channels": {"ratio": 0.5, "align": 1},
    "prune_width": {"ratio": 0.5, "align": 8},
    "prune_depth": {"blocks": 1},
    "prune_experts": {"experts": 1},
    "sparsify": {"ratio": 0.5},
    "low_rank": {"ratio": 0.2, "align": 1},
}
UNREADABLE = {"gguf": "no config.json here", "gguf file": "not a readable ONNX file"}


def graph(kind: type[np.generic], quantized: bool = False) -> onnx.ModelProto:
    """``[n, 4]`` to ``[n, 3]``: one matrix, perhaps behind a DequantizeLinear."""
    weight = np.ones((4, 3), np.int8 if quantized else kind)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"], "product")]
    initializers = [numpy_helper.from_array(weight, "q" if quantized else "w")]
    if quantized:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["q", "s"], ["w"]))
        initializers.append(numpy_helper.from_array(np.float32(0.5), "s"))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    ends = [helper.make_tensor_value_info(name, element, ["n", size]) for name, size in (("x", 4), ("logits", 3))]
    proto = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    assert element in (TensorProto.FLOAT, TensorProto.FLOAT16)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "weights").write_text("")
    onnx.save(graph(np.float32), folder / "float.onnx")
    onnx.save(graph(np.float32, quantized=True), folder / "int8.onnx")
    onnx.save(graph(np.float16), folder / "half.onnx")
    rounded = Rtn(group_size=32).run(LanguageModel(write_folder(folder / "language")), Context())
    GptqWriter(2).write(rounded, folder / "gptq")
    (folder / "gguf").mkdir()
    (folder / "gguf/model.gguf").write_bytes(b"GGUF\x03\0\0\0")
    return folder


@pytest.fixture(autouse=True)
def extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squeeze.plan.extras.find_spec", lambda name: name)  # whether a package is there is not asked


@cache
def outline(folder: Path, kind: str) -> Model | None:
    """Without weights; None where no such model can be read."""
    try:
        return SPECS[kind].outline(folder)
    except ModelError:
        return None


def part(name: str, **options: Any) -> Any:
    """A pass; a quantizer with groups that divide the tiny model's inputs."""
    cls = registry.load("passes", name)
    needed = {"group_size": 32} if "group_size" in cls.model_fields else NEEDED.get(name, {})
    return cls(**needed | options)


def refusals(world: Path, kind: str, passes: Sequence[Any], target: Any = None, metric: Any = None) -> list[Fault]:
    export = [part("export_onnx")] if kind in EXPORTED else []
    kind = EXPORTED.get(kind, kind)
    branches = [Branch("target", target, (), ("targets", 0))] if target else []
    metrics = (metric or SizeBytes(),)
    plan = Plan([*export, *passes], branches, model=SPECS[kind], metrics=metrics, root=world)
    return check(plan, frozenset(ROLES), outline(world, kind)).faults


def require_one_line(kind: str, faults_: list[Fault], accepted: set[str]) -> None:
    """Of a model that cannot be read, this is said, and perhaps one thing more."""
    if kind in accepted:
        assert not faults_
        return
    if kind in UNREADABLE:
        first = faults_.pop(0)
        assert first.path == ("model",)
        assert UNREADABLE[kind] in first.message
    else:
        assert len(faults_) == 1
    for fault in faults_:
        assert "\n" not in fault.message
        assert re.search("[;:,] ", fault.message), "it says what would be right"


def test_the_tables_name_every_pass_and_target() -> None:
    assert set(TAKEN) == set(registry.BUILTIN["passes"])
    assert set(PACKED) == set(registry.BUILTIN["targets"])


@pytest.mark.parametrize("kind", [*SPECS, *EXPORTED])
def test_a_pass_takes_a_kind_of_model_or_says_in_one_line_why_not(world: Path, kind: str) -> None:
    for name, accepted in TAKEN.items():
        ungrouped = (
            {"group_size": None} if kind == "cnn" and name in ("rtn", "gptq", "hqq") else {}
        )  # of three channels
        require_one_line(kind, refusals(world, kind, [part(name, **ungrouped)]), accepted)


@pytest.mark.parametrize("kind", [*SPECS, *EXPORTED])
def test_a_target_takes_a_kind_of_model_or_says_in_one_line_why_not(world: Path, kind: str) -> None:
    keep = [part("write")] if kind in ("language", "gptq") else []
    for name, accepted in PACKED.items():
        require_one_line(kind, refusals(world, kind, keep, registry.load("targets", name)()), accepted)


@pytest.mark.parametrize("runtime", ["executorch", "litert", "coreml"])
def test_phones_runtimes_take_no_encoders_and_one_of_them_language_models(world: Path, runtime: str) -> None:
    """Their graphs have no operator that reads a table: an encoder would be refused after all passes had run."""
    target = registry.load("targets", "mobile")(runtime=runtime)
    assert not refusals(world, "exported cnn", [], target)
    (fault,) = refusals(world, "exported encoder", [], target)
    assert fault.path == ("targets", 0)
    assert fault.message == f"target target: runtime {runtime} takes no encoder of texts; runtime: ort would"
    faults = [fault.message for fault in refusals(world, "language", [part("write")], target)]
    would = "runtime: executorch would, target: genai is ONNX Runtime's"
    taken = runtime == "executorch"
    assert faults == ([] if taken else [f"target target: runtime {runtime} takes no language model; {would}"])


UNUSED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("language", "export_onnx", {"opset": 18}, "opset", "is of classifiers and encoders; a language model's graph is"),
    ("language", "export_onnx", {"weights": "qdq"}, "weights", "is of quantized weights, and none is by then; a pass"),
    ("gptq", "export_onnx", {"weights": "qdq", "accuracy_level": 0}, "accuracy_level", "goes with weights: nbits; wei"),
    ("cnn", "export_onnx", {"weights": "nbits"}, "weights", "is of language models, which this is not: leave it out"),
    ("encoder", "export_onnx", {"length": 64}, "length", "is of language models, which this is not: leave it out"),
    ("language", "finetune", {"augment": ("flip",)}, "augment", "changes images, and the model reads none: leave it"),
    ("cnn", "finetune", {"optimizer": "adamw", "momentum": 0.9}, "momentum", "is of optimizer: sgd; optimizer is adam"),
    ("cnn", "distill", {"feature_weight": 2.0}, "feature_weight", "goes with features, and none is named"),
    ("cnn", "distill", {"alpha": 0, "temperature": 2.0}, "temperature", "softens the teacher's predictions, to which"),
    ("cnn", "prune_channels", {"samples": 64}, "samples", "goes with importance: taylor; importance l2 looks at no"),
    ("encoder", "prune_channels", {"latency_table": "."}, "latency_table", "goes with widths: latency; widths is impo"),
    (
        "language",
        "gptq",
        {"symmetric": False, "negative_scales": True},
        "negative_scales",
        "is for symmetric grids; an",
    ),
    ("language", "gptq", {"target": "given", "correction": 0.5}, "correction", "goes with target: original"),
    ("onnx", "quantize_static", {"entry": "int8"}, "entry", "is of convolutions, and the model has none: leave it out"),
    ("onnx", "quantize_static", {"percent": 99.0}, "percent", "goes with method: percentile; method is mse"),
    ("onnx", "quantize_dynamic", {"layers": "all"}, "layers", "tells convolutions from matrices, and the model has no"),
    (
        "exported cnn",
        "quantize_dynamic",
        {"embeddings": True},
        "embeddings",
        "is of embedding tables, and the model has",
    ),
    (
        "onnx",
        "float16",
        {"compute": "float16", "exclude": ()},
        "exclude",
        "goes with compute: float32; compute: float1",
    ),
]


@pytest.mark.parametrize(
    ("kind", "name", "options", "option", "reason"),
    UNUSED,
    ids=[f"{row[1]}-{row[3]}" for row in UNUSED],
)
def test_an_option_that_is_set_and_does_nothing_is_a_fault(
    world: Path, kind: str, name: str, options: dict[str, Any], option: str, reason: str
) -> None:
    (fault,) = refusals(world, kind, [part(name, **options)])
    assert fault.path == ("passes", int(kind in EXPORTED), option)
    assert fault.message.startswith(f"{name}: {option} {reason}")


def test_what_does_something_is_no_fault(world: Path) -> None:
    assert not refusals(
        world, "cnn", [part("finetune", augment=("crop",), momentum=0.5), part("export_onnx", opset=18)]
    )
    assert not refusals(world, "gptq", [part("export_onnx", weights="nbits", accuracy_level=0, length=32)])
    assert not refusals(world, "exported encoder", [part("quantize_dynamic", smooth=True, embeddings=False)])
    assert not refusals(world, "onnx", [part("quantize_static", method="percentile", percent=99.0)])
    by_weight = {"symmetric": False, "overrides": {"*.q_proj": {"symmetric": True}}}
    assert not refusals(world, "language", [part("gptq", negative_scales=False, **by_weight)])


def test_options_of_targets_and_metrics_are_held_to_the_same(world: Path) -> None:
    checkpoint = registry.load("targets", "checkpoint")(format="compressed-tensors", version=1)
    (fault,) = refusals(world, "gptq", [part("write")], checkpoint)
    assert fault.path == ("targets", 0, "version")
    assert fault.message == "target target: version is of format: gptq; compressed-tensors has one form, leave it out"
    (fault,) = refusals(world, "onnx", [part("float16")], metric=Latency(runtime="own"))
    assert fault.path == ("metrics", 0, "latency", "runtime")
    assert fault.message.startswith("latency: runtime is of torch models; an ONNX model is timed in ONNX Runtime")
    assert not refusals(world, "cnn", [part("export_onnx")], metric=Latency(runtime="own"))


def test_the_fault_stands_at_the_options_own_line(tmp_path: Path) -> None:
    passes = "  - pass: export_onnx\n    opset: 18\n    length: 9\n"
    path = write_plan(write_world(tmp_path), PLAN, ('  - pass: "tiny:Scale"\n    factor: 2.0\n', passes))
    assert faults(path) == ["9: export_onnx: length is of language models, which this is not: leave it out"]


@pytest.mark.parametrize(
    ("value", "kind"), [("classify", "int64"), ("embed", "float32"), (None, "int64"), (None, "float32")], ids=str
)
def test_a_module_says_what_it_does_or_its_inputs_do(value: str | None, kind: str) -> None:
    module = torch.nn.Linear(2, 2)
    module.task = value  # type: ignore[assignment]
    task = task_of(module, (InputSpec("x", (-1,), kind), InputSpec("mask", (-1,), kind)))
    assert task.name == (value or {"int64": "embed", "float32": "classify"}[kind])


@pytest.mark.parametrize("value", ["generate", "Classify", 3, ["embed"], torch.ones(2)], ids=repr)
def test_a_task_that_is_none_is_one_line(value: object) -> None:
    module = torch.nn.Linear(2, 2)
    module.task = value  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"the module's task is .*; 'classify' or 'embed' would do"):
        task_of(module, ())
