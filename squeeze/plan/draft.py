"""Draft a plan for a model: group sizes that divide its weights, fitting metrics and targets, a budget.

What only the user knows, where his data lies, is marked with ``FILL IN``.
"""

from __future__ import annotations

import json
from pathlib import Path

from squeeze import registry
from squeeze.errors import SqueezeError, printable
from squeeze.models.base import Model
from squeeze.models.language.gguf.architecture import ARCHITECTURES, faults
from squeeze.models.language.language_model import LanguageModel, in_shards
from squeeze.models.spec import ModelSpec

GROUPS = (128, 64, 32)
PICTURE_AXES = 3  # channels, height, width of one example

HEAD = """\
# {what}
# `squeeze check PLAN --explain` says what this plan will do, `squeeze run PLAN` does it. Lines with FILL IN are yours.
version: 1

model: {{{kind}: {reference}}}
"""
LANGUAGE = """
data:
  calibrate: {{text: calibrate.txt, length: {length}, samples: 128, drop_overlap: true}}  # FILL IN: text of your domain
  evaluate: {{text: evaluate.txt, length: {length}, samples: 64}}  # FILL IN: other text of it

metrics: [perplexity, kl, flips, size, parameters]
budget: {{perplexity: "+5 %", size: "<= 60 %"}}  # against the original; broken: exit code 3

# Three quantizers side by side, groups of {group} input channels ({divide}).
targets:
  - name: rtn
    passes: [{{pass: rtn, bits: 4, group_size: {group}}}]
  - name: awq
    passes: [{{pass: awq, bits: 4, group_size: {group}}}]
  - name: gptq{target}
    passes: [{{pass: gptq, bits: 4, group_size: {group}}}]
"""
PICTURES = """
data:
  calibrate: {{folder: calibrate, resize: [{height}, {width}], channels: {channels}, samples: 256}}  # FILL IN: class/*
  evaluate: {{folder: evaluate, resize: [{height}, {width}], channels: {channels}}}  # FILL IN: others, same classes

metrics: [top1, kl, flips, size, macs, latency]
budget: {{top1: "-1 points", size: "<= 35 %"}}  # against the original; broken: exit code 3

passes:{export}
  - pass: quantize_static  # int8 weights and activations

targets:
  - target: cpu
"""
SENTENCES = """
data:
  evaluate: {{sentences: evaluate.tsv, tokenizer: {tokenizer}, labels: {labels}}}  # FILL IN: sentence, tab, class

metrics: [{metrics}, size]
budget: {{size: "<= 45 %"}}  # against the original; broken: exit code 3

passes:
  - pass: export_onnx
  - pass: quantize_dynamic  # int8 weights; activations are measured as they come

targets:
  - target: cpu
"""
ARRAYS = """
data:
  evaluate:
    npz: evaluate.npz  # FILL IN: arrays [examples, ...] of these shapes: {shapes}
    labels: labels  # FILL IN: [examples], whole numbers
    inputs: {{{inputs}}}  # the model's name: the array's

metrics: [top1, kl, flips, size]
budget: {{top1: "-1 points", size: "<= 60 %"}}  # against the original; broken: exit code 3

passes:{export}
  - pass: quantize_dynamic  # int8 weights; activations are measured as they come

targets:
  - target: cpu
"""


def draft(model: Path) -> tuple[str, str]:
    """A description of a model, and a plan for it.

    Args:
        model: A Hugging Face folder, a .gguf or a .onnx file.

    Raises:
        SqueezeError: it is none of these, or cannot be read.
    """
    kind = {".gguf": "gguf", ".onnx": "onnx"}.get(model.suffix, "hf")
    place = str(model.resolve())
    known = {"gguf": ModelSpec(gguf=place), "onnx": ModelSpec(onnx=place), "hf": ModelSpec(hf=place)}
    outline = known[kind].outline(Path.cwd())
    what = _what(outline)
    head = HEAD.format(what=printable(f"{model.name}: {what}"), kind=kind, reference=json.dumps(place))
    if outline.blocks:
        return what, head + _language(in_shards(outline))
    if (model / "tokenizer.json").is_file() and any(spec.name == "input_ids" for spec in outline.inputs):
        return what, head + _sentences(outline, place)
    return what, head + (_pictures(outline) if _takes_pictures(outline) else _arrays(outline))


def is_model(path: Path) -> bool:
    """Whether a plan can be drafted for what lies there."""
    return (path.suffix in (".gguf", ".onnx") and path.is_file()) or (path / "config.json").is_file()


def _what(model: Model) -> str:
    count = model.parameters()
    size = "" if count is None else f", {count / 1e6:.1f} M parameters"
    if model.blocks:
        kind = in_shards(model).skeleton.config.model_type
        return f"a language model ({kind}), {model.blocks} blocks, {model.vocabulary:,} tokens{size}"
    inputs = " and ".join(f"{spec.name} {spec.dtype} {_shape(spec.shape)}" for spec in model.inputs)
    kind = "a network" if _exportable(model) else "an ONNX graph"
    return f"{kind} that takes {inputs}{size}"


def _exportable(model: Model) -> bool:
    """Whether it is no ONNX graph yet."""
    return registry.load("passes", "export_onnx").gives(model.form) is not None


def _language(model: LanguageModel) -> str:
    names = [model.skeleton.prefix(0) + name for name in model.skeleton.block_names(0)]
    state = model.skeleton.module.state_dict()
    columns = sorted({int(state[name].shape[-1]) for name in names if state[name].dim() > 1})
    group = next((size for size in GROUPS if not any(count % size for count in columns)), None)
    length = min(512, model.skeleton.context or 512)
    divide = f"rows of {', '.join(map(str, columns))}" if group else "one scale per row: no usual group divides all"
    target = "\n    target: gguf\n    runtime: transformers" if group and _written_as_gguf(model) else ""
    return LANGUAGE.format(length=length, group=group or "null", divide=divide, target=target)


def _written_as_gguf(model: LanguageModel) -> bool:
    config = model.skeleton.config
    if config.model_type not in ARCHITECTURES:
        return False
    try:
        return not list(faults(config, ARCHITECTURES[config.model_type]))
    except SqueezeError:
        return False


def _takes_pictures(model: Model) -> bool:
    if len(model.inputs) != 1 or model.inputs[0].dtype != "float32":
        return False
    shape = model.inputs[0].shape
    return len(shape) == PICTURE_AXES and shape[0] in (1, 3)


def _pictures(model: Model) -> str:
    channels, *sides = model.inputs[0].shape
    height, width = (side if side > 0 else 224 for side in sides)
    export = "\n  - pass: export_onnx" if _exportable(model) else ""
    return PICTURES.format(channels=channels, height=height, width=width, export=export)


def _sentences(model: Model, place: str) -> str:
    classifies = model.task.name == "classify"
    metrics = "top1, kl, flips" if classifies else "cosine"
    return SENTENCES.format(tokenizer=json.dumps(place), labels=str(classifies).lower(), metrics=metrics)


def _arrays(model: Model) -> str:
    shapes = ", ".join(f"{spec.name} {spec.dtype} {_shape(spec.shape)}" for spec in model.inputs)
    names = [json.dumps(spec.name) for spec in model.inputs]  # a stranger's: quoted, whatever letters they have
    export = "\n  - pass: export_onnx" if _exportable(model) else ""
    return ARRAYS.format(export=export, shapes=printable(shapes), inputs=", ".join(f"{name}: {name}" for name in names))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join("any" if size < 0 else str(size) for size in shape) or "alone"
