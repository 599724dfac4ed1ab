"""Names to classes: tasks, passes, targets, runtimes, writers, metrics, data; built in or from other packages.

Nothing is imported until it is asked for by name. Other packages register through the entry-point group of a kind, such
as ``squeeze.passes``; a built-in's name cannot be taken over. ``package.module:Class`` names a class that is not
registered at all.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from squeeze.errors import ModelError, UsageError, did_you_mean
from squeeze.references import resolve

Kind = Literal["passes", "targets", "metrics", "data", "tasks", "runtimes", "writers"]

BUILTIN: dict[Kind, dict[str, str]] = {
    "passes": {
        "prune_channels": "squeeze.passes.prune.prune_channels:PruneChannels",
        "separable": "squeeze.passes.prune.separable:Separable",
        "low_rank": "squeeze.passes.prune.low_rank:LowRank",
        "prune_width": "squeeze.passes.prune.prune_width:PruneWidth",
        "prune_depth": "squeeze.passes.prune.prune_depth:PruneDepth",
        "prune_experts": "squeeze.passes.prune.prune_experts:PruneExperts",
        "sparsify": "squeeze.passes.prune.sparsify:Sparsify",
        "prune_vocabulary": "squeeze.passes.prune.prune_vocabulary:PruneVocabulary",
        "rtn": "squeeze.passes.quantize.rtn:Rtn",
        "gptq": "squeeze.passes.quantize.gptq:Gptq",
        "awq": "squeeze.passes.quantize.language.awq:Awq",
        "hqq": "squeeze.passes.quantize.hqq:Hqq",
        "gptqmodel": "squeeze.passes.quantize.backends.gptqmodel:Gptqmodel",
        "neural_compressor": "squeeze.passes.quantize.backends.neural_compressor:NeuralCompressor",
        "auto_round": "squeeze.passes.quantize.backends.auto_round:AutoRound",
        "torchao": "squeeze.passes.quantize.backends.torchao:Torchao",
        "smooth": "squeeze.passes.quantize.language.smooth:Smooth",
        "rotate": "squeeze.passes.quantize.language.rotate:Rotate",
        "write": "squeeze.passes.quantize.language.write:Write",
        "finetune": "squeeze.passes.distill.finetune:Finetune",
        "distill": "squeeze.passes.distill.distill:Distill",
        "export_onnx": "squeeze.passes.export.export_onnx:ExportOnnx",
        "quantize_static": "squeeze.passes.quantize.quantize_static:QuantizeStatic",
        "quantize_dynamic": "squeeze.passes.quantize.quantize_dynamic:QuantizeDynamic",
        "float16": "squeeze.passes.quantize.float16:Float16",
    },
    "targets": {
        "cpu": "squeeze.targets.cpu:Cpu",
        "mobile": "squeeze.targets.mobile:Mobile",
        "gguf": "squeeze.targets.gguf:Gguf",
        "checkpoint": "squeeze.targets.checkpoint:Checkpoint",
        "genai": "squeeze.targets.genai:Genai",
    },
    "metrics": {
        "top1": "squeeze.evaluate.metrics:Top1",
        "top5": "squeeze.evaluate.metrics:Top5",
        "loss": "squeeze.evaluate.metrics:Loss",
        "perplexity": "squeeze.evaluate.perplexity:Perplexity",
        "bits_per_byte": "squeeze.evaluate.perplexity:BitsPerByte",
        "kl": "squeeze.evaluate.metrics:Kl",
        "flips": "squeeze.evaluate.metrics:Flips",
        "size_bytes": "squeeze.evaluate.counts:SizeBytes",
        "parameters": "squeeze.evaluate.counts:Parameters",
        "macs": "squeeze.evaluate.counts:Macs",
        "latency": "squeeze.evaluate.metrics:Latency",
        "prefill": "squeeze.evaluate.generation:Prefill",
        "decode": "squeeze.evaluate.generation:Decode",
        "choice": "squeeze.evaluate.choice:Choice",
        "choice_norm": "squeeze.evaluate.choice:ChoiceNorm",
        "last_word": "squeeze.evaluate.choice:LastWord",
        "probe": "squeeze.evaluate.probe:Probe",
        "cosine": "squeeze.evaluate.probe:Cosine",
        "lm_eval": "squeeze.evaluate.lm_eval:LmEval",
    },
    "data": {
        "npz": "squeeze.data.sources:NpzData",
        "text": "squeeze.data.text:TextData",
        "synthesize": "squeeze.data.synthesize:SynthesizeData",
        "pairs": "squeeze.data.choice_sources:PairsData",
        "questions": "squeeze.data.choice_sources:QuestionsData",
        "last_words": "squeeze.data.choice_sources:LastWordsData",
        "sentences": "squeeze.data.sentences:SentencesData",
        "folder": "squeeze.data.sources:FolderData",
        "builtin": "squeeze.data.sources:DigitsData",
        "datasets": "squeeze.data.tables:DatasetsData",
    },
    "tasks": {
        "classify": "squeeze.models.tasks.classify:Classify",
        "embed": "squeeze.models.tasks.embed:Embed",
        "generate": "squeeze.models.tasks.generate:Generate",
    },
    "runtimes": {
        "onnxruntime": "squeeze.runtimes.ort:OnnxRuntime",
        "executorch": "squeeze.runtimes.executorch:ExecuTorch",
        "litert": "squeeze.runtimes.litert:LiteRt",
        "coreml": "squeeze.runtimes.coreml:CoreMl",
        "onnxruntime-genai": "squeeze.runtimes.genai:GenaiRuntime",
        "llama.cpp": "squeeze.runtimes.llama_cpp:LlamaCpp",
        "transformers-gguf": "squeeze.runtimes.gguf_in_transformers:TransformersGguf",
        "transformers": "squeeze.runtimes.checkpoint:Transformers",
    },
    "writers": {
        "gptq": "squeeze.writers.gptq:GptqWriter",
        "compressed-tensors": "squeeze.writers.compressed_tensors:CompressedTensorsWriter",
        "gguf": "squeeze.writers.gguf:GgufWriter",
        "onnx": "squeeze.writers.onnx:OnnxWriter",
        "onnx-nbits": "squeeze.writers.onnx:NBitsWriter",
        "onnx-qdq": "squeeze.writers.onnx:BlockedWriter",
        "ort": "squeeze.writers.ort:OrtWriter",
        "executorch": "squeeze.writers.executorch:ExecuTorchWriter",
        "litert": "squeeze.writers.litert:LiteRtWriter",
        "coreml": "squeeze.writers.coreml:CoreMlWriter",
        "genai": "squeeze.writers.genai:GenaiWriter",
    },
}
BASES: dict[Kind, str] = {
    "passes": "squeeze.passes.base:Pass",
    "targets": "squeeze.targets.base:Target",
    "metrics": "squeeze.evaluate.metrics:Metric",
    "data": "squeeze.data.sources:DataSource",
    "tasks": "squeeze.models.tasks.base:Task",
    "runtimes": "squeeze.runtimes.base:Runtime",
    "writers": "squeeze.writers.base:Writer",
}
FACTS: dict[Kind, tuple[str, ...]] = {
    "passes": ("ways",),  # from the brackets: Pass[TorchModel, OnnxModel]
    "targets": ("takes",),
    "metrics": ("name", "unit", "evidence"),
    "data": ("kind",),
    "tasks": ("name", "models", "metrics"),
    "runtimes": ("name", "distribution", "modules", "loads", "beside", "script"),
    "writers": ("name",),
}
SINGULAR: dict[Kind, str] = {
    "passes": "pass",
    "targets": "target",
    "metrics": "metric",
    "data": "data source",
    "tasks": "task",
    "runtimes": "runtime",
    "writers": "writer",
}


@cache
def entries(kind: Kind) -> dict[str, EntryPoint]:
    """Every registered name of a kind; built-ins win."""
    group = f"squeeze.{kind}"
    points = {point.name: point for point in entry_points(group=group)}
    return points | {name: EntryPoint(name, value, group) for name, value in BUILTIN[kind].items()}


def load(kind: Kind, name: str, folder: str | None = None) -> type[Any]:
    """The class of that name, or the one that ``package.module:Class`` names (looked for in ``folder`` too).

    Raises:
        UsageError: there is none (says the nearest name), it cannot be imported, or it is no class of that kind.
    """
    known = entries(kind)
    if ":" not in name and name not in known:
        raise UsageError(f"unknown {SINGULAR[kind]} '{name}'{did_you_mean(name, known)}")
    try:
        value = resolve(name, folder) if ":" in name else resolve(known[name].value)
    except ModelError as error:
        raise UsageError(str(error) if ":" in name else f"{SINGULAR[kind]} '{name}': {error}") from error
    return _required(kind, name, value)


def _required(kind: Kind, name: str, value: Any) -> type[Any]:
    """The value, if it is a class of that kind."""
    base = resolve(BASES[kind])
    if not (isinstance(value, type) and issubclass(value, base)):
        raise UsageError(f"{SINGULAR[kind]} '{name}': {value!r} is no class that extends {BASES[kind]}")
    if missing := [
        *sorted(getattr(value, "__abstractmethods__", ())),
        *(fact for fact in FACTS[kind] if not hasattr(value, fact)),
    ]:
        raise UsageError(f"{SINGULAR[kind]} '{name}': {value.__qualname__} does not say {', '.join(missing)}")
    return value


def summary(cls: type[Any]) -> str:
    """The first line of a class's docstring."""
    return next(iter((cls.__doc__ or "").strip().splitlines()), "")
