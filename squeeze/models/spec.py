"""Where an original model is, as a plan says it, and how it is read: whole, or as an outline without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.models.base import InputSpec, Model
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import is_language_folder
from squeeze.models.onnx_model import OnnxModel
from squeeze.models.source import BuiltinSource, FactorySource, HuggingFaceSource, Source
from squeeze.models.torch_model import TorchModel


@dataclass(frozen=True)
class ModelSpec:
    """Where the original is: exactly one of ``hf``, ``module``, ``builtin``, ``onnx``.

    Args:
        hf: Folder with config.json and safetensors.
        module: ``package.module:factory``, called with ``arguments``.
        builtin: A network that ships with Squeeze; trained at first use unless ``weights`` is given.
        onnx: A ``.onnx`` file.
        weights: For ``module`` and ``builtin``: safetensors or a torch state dict.
        input: Shape of one example, where neither model nor data says it.
    """

    hf: str | None = None
    module: str | None = None
    builtin: str | None = None
    onnx: str | None = None
    weights: str | None = None
    input: tuple[int, ...] | None = None
    arguments: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(name for name in ("hf", "module", "builtin", "onnx") if getattr(self, name) is not None)

    @property
    def reference(self) -> str:
        """The path or name of that one."""
        value: str = getattr(self, self.kind)
        return value

    def is_language(self, root: Path) -> bool:
        """True for a Hugging Face folder whose config names a causal language model."""
        return self.kind == "hf" and is_language_folder(root / self.reference)

    def source(self, root: Path) -> Source | None:
        """How to build the torch module; None for an ONNX file."""
        if self.kind == "hf":
            return HuggingFaceSource.read(root / self.reference)
        if self.kind == "module":
            return FactorySource(self.reference, self.arguments, str(root))
        return BuiltinSource(self.reference) if self.kind == "builtin" else None

    def inputs(self, root: Path, example_shape: tuple[int, ...] | None) -> tuple[InputSpec, ...]:
        """The inputs: as the spec says, as the source knows, or as the data's examples are."""
        source = self.source(root)
        known = source.inputs() if source else None
        if self.input or not known:
            shape = self.input or example_shape
            if shape is None:
                raise ModelError("model: the shape of one example is not known; input: [3, 32, 32] would say it")
            return (InputSpec("image", tuple(shape)),)
        return known

    def outline(self, root: Path, example_shape: tuple[int, ...] | None = None) -> Model:
        """The model without its weights: a torch model on the meta device, or the ONNX graph."""
        source = self.source(root)
        if source is None or self.is_language(root):
            return self._as_it_lies(root)
        if self.weights is not None and not (root / self.weights).exists():
            raise ModelError(f"model: weights {root / self.weights} does not exist")
        if self.kind == "hf" and not any((root / self.reference).glob("*.safetensors")):
            raise ModelError(f"{root / self.reference}: no *.safetensors here; a Hugging Face model folder has some")
        return TorchModel(source.build("meta"), source, self.inputs(root, example_shape))

    def read(self, root: Path, example_shape: tuple[int, ...] | None = None) -> Model:
        """The model with its weights."""
        source = self.source(root)
        if source is None or self.is_language(root):
            return self._as_it_lies(root)
        weights = root / (self.reference if self.kind == "hf" else self.weights or "")
        return TorchModel.build(source, weights, self.inputs(root, example_shape))

    def _as_it_lies(self, root: Path) -> Model:
        """A form that reads its weights when it needs them: outline and model are one."""
        path = root / self.reference
        return OnnxModel.from_file(path) if self.kind == "onnx" else LanguageModel(path)
