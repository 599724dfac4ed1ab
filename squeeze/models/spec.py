"""Where an original model is, as a plan says it, and how it is read: whole, or as an outline without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeeze.errors import ModelError
from squeeze.formats.regular import read_json
from squeeze.models.base import InputSpec, Model
from squeeze.models.hub import is_hub_id, snapshot
from squeeze.models.language.from_gguf import folder_of
from squeeze.models.language.language_model import LanguageModel
from squeeze.models.language.skeleton import is_language_folder
from squeeze.models.source import BuiltinSource, FactorySource, HuggingFaceSource, Source
from squeeze.models.text_folder import head_of
from squeeze.models.torch_model import TorchModel
from squeeze.sums import file_sum

KINDS = ("hf", "gguf", "module", "builtin", "onnx")
Shapes = Mapping[str, tuple[int, ...]]  # of one example of the data, by its names; an image: ``image``
FOLDERS = ("hf", "gguf")  # whose original is, or becomes, a folder with config.json


@dataclass(frozen=True)
class ModelSpec:
    """Where the original is: exactly one of :data:`KINDS`.

    Args:
        hf: Folder with config.json and safetensors, or ``org/name`` on the Hugging Face hub.
        gguf: A ``.gguf`` file of a language model.
        module: ``package.module:factory``, called with ``arguments``.
        builtin: A network that ships with Squeeze; trained at first use unless ``weights`` is given.
        onnx: A ``.onnx`` file.
        weights: For ``module`` and ``builtin``: safetensors or a torch state dict.
        input: Shape of one example, where neither model nor data says it.
        revision: For a model of the hub: branch, tag or commit.
        dtype: For ``gguf``: what weights are read as; None: the narrowest that holds them exactly.
    """

    hf: str | None = None
    gguf: str | None = None
    module: str | None = None
    builtin: str | None = None
    onnx: str | None = None
    weights: str | None = None
    input: tuple[int, ...] | None = None
    arguments: tuple[tuple[str, Any], ...] = ()
    revision: str | None = None
    dtype: str | None = None

    @property
    def kind(self) -> str:
        return next(name for name in KINDS if getattr(self, name) is not None)

    @property
    def reference(self) -> str:
        """The path or name of that one."""
        value: str = getattr(self, self.kind)
        return value

    def folder(self, root: Path) -> Path | None:
        """Where config and tokenizer are; None for a model without such a folder. A .gguf file becomes one, an outline.

        Raises:
            ModelError: a .gguf file that cannot be read, a hub that cannot be asked.
        """
        if self.kind == "gguf":
            return folder_of(root / self.reference, self.dtype, outline=True)
        if self.kind != "hf":
            return None
        return snapshot(self.reference, self.revision) if self.of_hub(root) else root / self.reference

    def of_hub(self, root: Path) -> bool:
        """Whether it is the id of a model on the hub."""
        return self.kind == "hf" and is_hub_id(self.reference, root)

    def origin(self, root: Path) -> dict[str, str]:
        """What pins a model that is no folder of the user's: the hub's commit, the sha256 of a .gguf file."""
        if self.of_hub(root):
            return {"hub": self.reference, "commit": snapshot(self.reference, self.revision).name}
        return {"gguf_sha256": file_sum(root / self.reference)} if self.kind == "gguf" else {}

    def is_language(self, root: Path) -> bool:
        """True for a .gguf file, and for a Hugging Face folder whose config names a causal language model."""
        if self.kind == "gguf":
            return True
        folder = self.folder(root)
        return folder is not None and is_language_folder(folder)

    def source(self, root: Path) -> Source | None:
        """How to build the torch module; None for a file that holds a whole model."""
        if self.kind == "hf":
            folder = self.folder(root)
            assert folder is not None, "an hf model has a folder"
            return HuggingFaceSource.read(folder)
        if self.kind == "module":
            return FactorySource(self.reference, self.arguments, str(root))
        return BuiltinSource(self.reference) if self.kind == "builtin" else None

    def inputs(self, root: Path, examples: Shapes | None) -> tuple[InputSpec, ...]:
        """The inputs: as the spec says, as the source knows, or as the data's examples are."""
        source = self.source(root)
        known = source.inputs() if source else None
        if self.input or not known:
            shape = self.input or (examples or {}).get("image")
            if shape is None:
                raise ModelError("model: the shape of one example is not known; input: [3, 32, 32] would say it")
            return (InputSpec("image", tuple(shape)),)
        return known

    def outline(self, root: Path, examples: Shapes | None = None) -> Model:
        """The model without its weights: a torch model on the meta device, or the ONNX graph.

        Args:
            examples: Shapes that it is to be fed with, as far as they are known.
        """
        source = self.source(root)
        if source is None or self.is_language(root):
            return self._as_it_lies(root, examples, outline=True)
        if self.weights is not None and not (root / self.weights).exists():
            raise ModelError(f"model: weights {root / self.weights} does not exist")
        folder = self.folder(root)
        if folder is not None and not any(folder.glob("*.safetensors")):
            raise ModelError(f"{folder}: no *.safetensors here; a Hugging Face model folder has some")
        return TorchModel(source.build("meta"), source, self.inputs(root, examples))

    def read(self, root: Path, examples: Shapes | None = None) -> Model:
        """The model with its weights, for examples of these shapes."""
        source = self.source(root)
        if source is None or self.is_language(root):
            return self._as_it_lies(root, examples)
        weights = self.folder(root) or root / (self.weights or "")
        return TorchModel.build(source, weights, self.inputs(root, examples))

    def _as_it_lies(self, root: Path, examples: Shapes | None, outline: bool = False) -> Model:
        """A form that reads its weights when it needs them: outline and model are one, but for a .gguf file."""
        if self.kind == "onnx":
            from squeeze.models.onnx_model import OnnxModel  # onnx_ir takes a second to import

            model = OnnxModel.from_file(root / self.reference)
            return model.fed_with(examples) if examples else model
        if self.kind == "gguf":
            return LanguageModel(folder_of(root / self.reference, self.dtype, outline))
        folder = self.folder(root)
        assert folder is not None, "only a folder is a language model here"
        return LanguageModel(folder)


def folder_task(folder: Path) -> str:
    """The name of what a folder's model does, as its config.json says; whoever reads the folder says what is wrong."""
    if is_language_folder(folder):
        return "generate"
    try:
        config = read_json(folder / "config.json")
    except ModelError:
        return "classify"
    return "embed" if isinstance(config, dict) and head_of(config) == "encoder" else "classify"
