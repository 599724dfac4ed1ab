"""The blocks of a model in memory, and its config, which says how many there are and how wide they are.

Nothing is known of families: blocks are a list of modules of one class, as many as the config says, and the network of
another config is built from it. A factory's arguments are its config, if it takes them by the config's names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from squeeze.errors import ModelError
from squeeze.models.source import HuggingFaceSource, Source
from squeeze.models.text_folder import write_pooling
from squeeze.models.torch_model import TorchModel
from squeeze.models.weights import assign

COUNT = "num_hidden_layers"


class ConfiguredBlocks:
    """A module in memory, or on the meta device, whose config names its blocks.

    Raises:
        ModelError: it has no config, or no list of as many blocks as that says.
    """

    def __init__(self, source: Source, module: nn.Module) -> None:
        self.source, self.module = source, module
        self.config: Any = getattr(module, "config", None)
        if self.config is None or not hasattr(self.config, "to_dict"):
            what = f"{type(module).__name__} has no config of transformers, which would say how many blocks it has"
            raise ModelError(f"{what}; prune_channels cuts networks without one")
        self.values: Mapping[str, Any] = self.config.to_dict()
        self.layers_name, self.layers = _find_blocks(module, getattr(self.config, COUNT, None))

    @classmethod
    def of(cls, model: TorchModel) -> ConfiguredBlocks:
        return cls(model.source, model.module)

    def prefix(self, index: int) -> str:
        """``encoder.layer.3.``."""
        return f"{self.layers_name}.{index}."

    def built(self, folder: Path, values: Mapping[str, Any]) -> ConfiguredBlocks:
        """The network of a config with those values, without weights; ``folder`` is not looked at.

        Raises:
            ModelError: it cannot be built, or a factory takes no such arguments.
        """
        changes = {name: value for name, value in values.items() if self.values.get(name) != value}
        return self.resized(changes)

    def resized(self, changes: Mapping[str, Any]) -> ConfiguredBlocks:
        """The network of a config that says something else in some places, without weights."""
        spelled = getattr(self.config, "attribute_map", {})  # a family's own words: n_layers
        source = self.source.resized({spelled.get(name, name): value for name, value in changes.items()})
        return ConfiguredBlocks(source, source.build("meta"))

    @contextmanager
    def with_blocks(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        """The module with other blocks in place of its own, for as long as the ``with`` lasts."""
        holder, _, leaf = self.layers_name.rpartition(".")
        owner = self.module.get_submodule(holder)
        setattr(owner, leaf, nn.ModuleList(blocks))
        try:
            yield
        finally:
            setattr(owner, leaf, self.layers)


def filled(model: TorchModel, blocks: ConfiguredBlocks, weights: Mapping[str, Tensor]) -> TorchModel:
    """A model of another config with its weights, by name."""
    module = blocks.source.build()
    assign(module, dict(weights), "the pruned model")
    return TorchModel(module, blocks.source, model.inputs)


def restructure(model: TorchModel, blocks: ConfiguredBlocks) -> None:
    """Let a model without weights be what a pass will make of it, for who checks what comes after it."""
    model.source, model.module = blocks.source, blocks.module


def save_stock(model: TorchModel, folder: Path) -> None:
    """A folder that stock transformers loads: ``config.json``, ``model.safetensors``, and how an encoder is pooled.

    The tokenizer stays where it is: a model in memory does not know of one.

    Raises:
        ModelError: the model is of no such folder, or its sizes are none that its config can say.
    """
    if not isinstance(model.source, HuggingFaceSource):
        raise ModelError(f"a model of kind {model.source.kind} has no config.json; one from a Hugging Face folder has")
    model.require_floats("a folder of floats")
    if changed := model.structure():
        raise ModelError(f"{next(iter(changed))} has a size that config.json cannot say; the model is no stock one")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(json.loads(model.source.config), indent=2, sort_keys=True) + "\n")
    if model.source.pooling is not None:
        write_pooling(json.loads(model.source.pooling), int(model.module.config.hidden_size), folder)  # type: ignore[union-attr,arg-type]
    weights = {name: value.contiguous() for name, value in _stored(model.module)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _stored(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint holds: a tied weight once."""
    once = {name for name, _ in module.named_parameters()}
    every = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return ((name, value) for name, value in module.state_dict().items() if name in once or name not in every)


def _find_blocks(module: nn.Module, count: object) -> tuple[str, nn.ModuleList]:
    """The outermost list of that many modules of one class that hold weight matrices."""
    lists = [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) == count and _alike(child)
    ]
    if not lists:
        kind = type(module).__name__
        raise ModelError(
            f"{kind}: no list of {count} blocks ({COUNT} of its config), of one class with weights, is here"
        )
    return min(lists, key=lambda item: item[0].count("."))


def _alike(children: nn.ModuleList) -> bool:
    same = len({type(child) for child in children}) == 1
    return same and any(parameter.dim() > 1 for parameter in children[0].parameters())


def same_shapes(one: nn.Module, other: nn.Module) -> bool:
    """Whether two blocks hold the same tensors."""
    own, others = ({name: value.shape for name, value in block.state_dict().items()} for block in (one, other))
    return own == others
