"""Hugging Face folders of models that read sentences: sequence classifiers, and encoders with their pooling.

What a folder holds, its ``config.json`` says by the class that it was saved from; how an encoder's tokens become one
embedding, the files of sentence-transformers say (``modules.json``), else it is the mean of the tokens. Code from the
folder is never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.formats.regular import read_json
from squeeze.models.base import InputSpec

Head = Literal["image", "sequence", "encoder"]
BUILDERS: dict[Head, str] = {
    "image": "AutoModelForImageClassification",
    "sequence": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
}
WORDS: dict[Head, str] = {"image": "image classifier", "sequence": "text classifier", "encoder": "text encoder"}
SENTENCE_INPUTS = (InputSpec("input_ids", (-1,), "int64"), InputSpec("attention_mask", (-1,), "int64"))
ENCODERS = ("Model", "ForMaskedLM", "ForPreTraining")
MODULES = "modules.json"
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")  # positions start after the padding index
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


def head_of(config: Mapping[str, Any]) -> Head:
    """What a config's model does; a folder that does not name its class is taken for an image classifier."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    if name.endswith("ForSequenceClassification"):
        return "sequence"
    reads_text = "vocab_size" in config and "vision_config" not in config
    return "encoder" if name.endswith(ENCODERS) and reads_text else "image"


def read_pooling(folder: Path) -> dict[str, Any]:
    """How tokens become one embedding: ``{"mode": "mean" | "cls", "normalize": bool}``.

    Raises:
        ModelError: by steps that are not known here.
    """
    if not (folder / MODULES).is_file():
        return {"mode": "mean", "normalize": False}
    steps = read_json(folder / MODULES)
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ModelError(f"{folder / MODULES}: is no list of steps, as sentence-transformers writes it")
    kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    if unknown := [kind for kind in kinds if kind not in KNOWN_MODULES]:
        raise ModelError(f"{folder / MODULES}: step '{unknown[0]}' is not known; {', '.join(KNOWN_MODULES)} are")
    poolings = [step for step, kind in zip(steps, kinds, strict=True) if kind == "Pooling"]
    mode = _mode(folder, str(poolings[0].get("path", ""))) if poolings else "mean"
    return {"mode": mode, "normalize": "Normalize" in kinds}


def _mode(folder: Path, name: str) -> str:
    if not name or Path(name).name != name:
        raise ModelError(f"{folder / MODULES}: path {name!r} is no folder beside it; '1_Pooling' would be one")
    file = folder / name / "config.json"
    settings = read_json(file)
    if not isinstance(settings, dict):
        raise ModelError(f"{file}: is no mapping, as sentence-transformers writes it")
    chosen = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in MODES:
        modes = " and ".join(chosen) or "no mode"
        raise ModelError(f"{file}: says {modes}; one of {' and '.join(MODES)} can be run here")
    return MODES[chosen[0]]


def write_pooling(pooling: Mapping[str, Any], hidden_size: int, folder: Path) -> None:
    """The files in which sentence-transformers says how tokens become an embedding."""
    names = ["Transformer", "Pooling", *(["Normalize"] if pooling["normalize"] else [])]
    paths = ["", *(f"{number}_{name}" for number, name in enumerate(names[1:], 1))]
    steps = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (folder / MODULES).write_text(json.dumps(steps, indent=2) + "\n")
    modes = {key: mode == pooling["mode"] for key, mode in MODES.items()}
    (folder / paths[1]).mkdir(exist_ok=True)
    settings = {"word_embedding_dimension": hidden_size, **modes}
    (folder / paths[1] / "config.json").write_text(json.dumps(settings, indent=2) + "\n")


def build_text(settings: Any, head: Head, pooling: Mapping[str, Any] | None) -> nn.Module:
    """The module of a classifier or encoder, in float32: token numbers and their mask in, rows out."""
    import transformers

    builder = getattr(transformers, BUILDERS[head])
    module: nn.Module = builder.from_config(settings, trust_remote_code=False, dtype=torch.float32)
    if head == "encoder":
        return pooled(module, pooling or {"mode": "mean", "normalize": False})
    module.task = "classify"  # type: ignore[assignment]
    return module


def pooled(module: nn.Module, pooling: Mapping[str, Any]) -> nn.Module:
    """The same module with one embedding ``[n, hidden]`` per sentence as its answer; names of weights stay."""
    module.__class__ = _encoder_class(type(module), str(pooling["mode"]), bool(pooling["normalize"]))  # type: ignore[arg-type]
    if getattr(module, "pooler", None) is not None:
        module.pooler = None  # type: ignore[assignment]  # an embedding is made without it
    module.task = "embed"  # type: ignore[assignment]
    return module


@cache
def _encoder_class(kind: type[Any], mode: str, normalize: bool) -> type[nn.Module]:
    """One class for each way: equal networks are of equal classes."""

    class Encoder(kind):  # type: ignore[misc]
        """Its tokens' last hidden states, pooled."""

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            tokens = super().forward(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return _pool(tokens, attention_mask, mode, normalize)

    return Encoder


def _pool(tokens: Tensor, mask: Tensor, mode: str, normalize: bool) -> Tensor:
    """``[n, length, hidden]`` to ``[n, hidden]``; what only fills up a batch does not count."""
    if mode == "cls":
        embeddings = tokens[:, 0]
    else:
        counted = mask[..., None].to(tokens.dtype)
        embeddings = (tokens * counted).sum(1) / counted.sum(1)
    return nn.functional.normalize(embeddings, dim=1) if normalize else embeddings


def fitted(weights: Mapping[str, Tensor], module: nn.Module, head: Head) -> dict[str, Tensor]:
    """A checkpoint's tensors by the module's names: old spellings, and an encoder that was saved under a head."""
    expected = module.state_dict()
    tensors = {_modern(name): value for name, value in weights.items()}
    if head == "encoder":
        prefix = f"{getattr(module, 'base_model_prefix', '')}."
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        tensors = {name: value for name, value in tensors.items() if not name.startswith("pooler.")}
    return {n: v for n, v in tensors.items() if n in expected or not n.endswith(".position_ids")}


def _modern(name: str) -> str:
    """Checkpoints of before 2020 call a norm's weights gamma and beta."""
    for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def longest_sentence(config: Mapping[str, Any]) -> int | None:
    """The most tokens that the model has positions for; None: it does not say."""
    positions, padding = config.get("max_position_embeddings"), config.get("pad_token_id")
    if not isinstance(positions, int):
        return None
    offset = int(padding or 0) + 1 if config.get("model_type") in OFFSET_POSITIONS else 0
    return positions - offset
