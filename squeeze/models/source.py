"""Where a torch model comes from, and how to build it again: a Hugging Face folder, a factory, a builtin.

A source builds the module without weights (also on the meta device, for checks that must not load anything)
and names what made it. Weights are read by ``weights``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from squeeze.errors import ModelError, all_lines, did_you_mean
from squeeze.formats.regular import read_json, require_regular, require_regular_folder
from squeeze.models.base import InputSpec
from squeeze.models.config_sizes import require_sizes, stored_tensors
from squeeze.models.text_folder import (
    SENTENCE_INPUTS,
    WORDS,
    Head,
    build_text,
    fitted,
    head_of,
    longest_sentence,
    read_pooling,
)
from squeeze.models.weights import Weights
from squeeze.references import raised_where, resolve

BUILTINS = {"digits-cnn": ("squeeze.models.digits_cnn:digits_cnn", (1, 8, 8))}


class Source(ABC):
    """How to build a module again, as JSON values and as a call."""

    kind: str

    @abstractmethod
    def build(self, device: str = "cpu") -> nn.Module:
        """A module with weights that mean nothing; on ``meta`` without any."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values from which :func:`source_from` makes this source again."""

    def inputs(self) -> tuple[InputSpec, ...] | None:
        """The inputs, where the source itself knows them."""
        return None

    def resized(self, sizes: Mapping[str, Any]) -> Source:
        """The source of the same network with other sizes, by the names of its config.

        Raises:
            ModelError: nobody but the code itself says how large it is.
        """
        raise ModelError(
            f"the sizes of a model of kind {self.kind} stand in its code; a Hugging Face folder names them"
        )

    def fitted(self, weights: Weights, module: nn.Module) -> Weights:
        """A checkpoint's tensors by the names that the module has for them."""
        return weights

    def vocabulary(self) -> int | None:
        """How many tokens there are, where the source itself says it."""
        return None

    def context(self) -> int | None:
        """The most tokens that are read, where the source itself says it."""
        return None

    def class_names(self) -> list[str] | None:
        """What classes are called, where the source itself says it."""
        return None


@dataclass(frozen=True)
class FactorySource(Source):
    """``package.module:callable``, called with ``arguments``. ``folder`` is searched first (a plan's own folder)."""

    reference: str
    arguments: tuple[tuple[str, Any], ...] = ()
    folder: str | None = None
    kind = "module"

    def build(self, device: str = "cpu") -> nn.Module:
        factory = resolve(self.reference, self.folder)
        if not callable(factory):
            raise ModelError(f"{self.reference} is {factory!r}; a callable that returns a torch.nn.Module would do")
        try:
            with torch.device(device):
                module = factory(**dict(self.arguments))
        except (Exception, SystemExit) as error:  # the user's own code may raise anything
            raise ModelError(f"{self.reference} raised {raised_where(error, __file__)}") from error
        if not isinstance(module, nn.Module):
            raise ModelError(f"{self.reference} returned a {type(module).__name__}; a torch.nn.Module would do")
        return module.eval()

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "reference": self.reference, "arguments": dict(self.arguments)}

    def resized(self, sizes: Mapping[str, Any]) -> FactorySource:
        return replace(self, arguments=tuple(sorted((dict(self.arguments) | dict(sizes)).items())))

    def inputs(self) -> tuple[InputSpec, ...] | None:
        """As the module's own ``inputs`` says: name to shape and type of one example; -1 is a free size."""
        declared = getattr(self.build("meta"), "inputs", None)
        if declared is None:
            return None
        try:
            return tuple(
                InputSpec(str(n), tuple(map(int, shape)), str(dtype)) for n, (shape, dtype) in declared.items()
            )
        except (AttributeError, TypeError, ValueError):
            cure = '{"input_ids": ((-1,), "int64")} would do'
            raise ModelError(f"{self.reference}: the module's inputs are {declared!r:.60}; {cure}") from None


@dataclass(frozen=True)
class BuiltinSource(Source):
    """A network that ships with Squeeze."""

    name: str
    kind = "builtin"

    def __post_init__(self) -> None:
        if self.name not in BUILTINS:
            raise ModelError(f"unknown builtin model '{self.name}'{did_you_mean(self.name, BUILTINS)}")

    def build(self, device: str = "cpu") -> nn.Module:
        return FactorySource(BUILTINS[self.name][0]).build(device)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name}

    def inputs(self) -> tuple[InputSpec, ...]:
        return (InputSpec("image", BUILTINS[self.name][1]),)


@dataclass(frozen=True)
class HuggingFaceSource(Source):
    """The ``config.json`` of a classifier's or encoder's folder; code from the folder is never run."""

    config: str  # JSON text: hashable, and what is written back
    pooling: str | None = None  # JSON text: of an encoder

    kind = "hf"

    @classmethod
    def read(cls, folder: Path) -> HuggingFaceSource:
        file = folder / "config.json"
        require_regular(folder)
        require_regular(file)
        if not file.is_file():
            raise ModelError(f"{folder}: no config.json here; a Hugging Face model folder has one")
        config = read_json(file)
        if not isinstance(config, dict):
            raise ModelError(f"{file}: is no mapping; a Hugging Face config is one")
        require_regular_folder(folder)
        require_sizes(config, file, stored_tensors(folder))
        pooling = read_pooling(folder) if head_of(config) == "encoder" else None
        return cls(json.dumps(config, sort_keys=True), None if pooling is None else json.dumps(pooling, sort_keys=True))

    @property
    def head(self) -> Head:
        """What the module does with an example."""
        return head_of(json.loads(self.config))

    def build(self, device: str = "cpu") -> nn.Module:
        from transformers import AutoConfig, AutoModelForImageClassification

        config, head = json.loads(self.config), self.head
        kind = config.pop("model_type", None)
        try:
            settings = AutoConfig.for_model(kind, **config)
            with torch.device(device):
                if head != "image":
                    return build_text(settings, head, json.loads(self.pooling or "null")).eval()
                module: nn.Module = AutoModelForImageClassification.from_config(settings, trust_remote_code=False)
        except Exception as error:  # transformers checks a config in many places, each with a kind of its own
            reason = all_lines(error)
            raise ModelError(
                f"config.json: model_type '{kind}' is no {WORDS[head]} that transformers can build: {reason}"
            ) from error
        return module.eval()

    def describe(self) -> dict[str, Any]:
        pooling = {} if self.pooling is None else {"pooling": json.loads(self.pooling)}
        return {"kind": self.kind, "config": json.loads(self.config), **pooling}

    def resized(self, sizes: Mapping[str, Any]) -> HuggingFaceSource:
        return replace(self, config=json.dumps(json.loads(self.config) | dict(sizes), sort_keys=True))

    def inputs(self) -> tuple[InputSpec, ...] | None:
        config = json.loads(self.config)
        if self.head != "image":
            return SENTENCE_INPUTS
        side = config.get("image_size")
        if side is None:
            return None
        shape = [config.get("num_channels", 3), *(side if isinstance(side, list) else (side, side))]
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ModelError(f"config.json: image_size is {side!r}; one number or [height, width] would do")
        return (InputSpec("image", tuple(shape)),)

    def fitted(self, weights: Weights, module: nn.Module) -> Weights:
        return weights if self.head == "image" else fitted(weights, module, self.head)

    def vocabulary(self) -> int | None:
        size = json.loads(self.config).get("vocab_size")
        return size if self.head != "image" and isinstance(size, int) else None

    def context(self) -> int | None:
        return None if self.head == "image" else longest_sentence(json.loads(self.config))

    def class_names(self) -> list[str] | None:
        if self.head == "encoder":
            return None
        names = json.loads(self.config).get("id2label") or {}
        return [str(names[key]) for key in sorted(names, key=int)] or None


def source_from(description: dict[str, Any], folder: str | None = None) -> Source:
    """Make a source from what ``describe`` gave."""
    kind = description.get("kind")
    if kind == "module":
        return FactorySource(description["reference"], tuple(sorted(description["arguments"].items())), folder)
    if kind == "builtin":
        return BuiltinSource(description["name"])
    if kind == "hf":
        pooling = description.get("pooling")
        described = None if pooling is None else json.dumps(pooling, sort_keys=True)
        return HuggingFaceSource(json.dumps(description["config"], sort_keys=True), described)
    raise ModelError(f"unknown kind of source {kind!r}; module, builtin and hf are known")
