"""The torch form: a module, where it came from, and what it takes in.

On disk: ``weights.safetensors``, ``model.json`` (source and inputs), where weights are quantized ``grid.safetensors``
and, where sizes differ from what the source builds, ``structure.json``. Never a pickled module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.algorithms.affine import QuantizedTensor
from squeeze.errors import ModelError, first_line
from squeeze.formats.operation import Operation
from squeeze.models import structure
from squeeze.models.base import Batch, InputSpec, Layer, Model
from squeeze.models.resident import ResidentTorchModel
from squeeze.models.source import Source, source_from
from squeeze.models.torch_call import LOGITS, forward, task_of
from squeeze.models.torch_grid import grid_bytes, put_grid, read_grids, write_grids
from squeeze.models.torch_layers import layer_names, without_grid
from squeeze.models.torch_macs import MacCounter, largest_traffic, meta_copy, structure_key
from squeeze.models.torch_operations import operations
from squeeze.models.torch_stage import TorchStage, WeightShape
from squeeze.models.weights import assign, read_weights, write_weights


class TorchModel(TorchStage):
    """A ``torch.nn.Module`` in evaluation mode, with its source and its inputs.

    Args:
        grid: Quantized weights by parameter name, a convolution's as its matrix; the module computes with what they
            stand for, and the integers are what is stored, counted and exported.
    """

    form = "torch"

    def __init__(
        self,
        module: nn.Module,
        source: Source,
        inputs: tuple[InputSpec, ...],
        grid: Mapping[str, QuantizedTensor] | None = None,
    ) -> None:
        self.module = module.eval()
        self.source = source
        self.inputs = inputs
        self.grid = dict(grid or {})
        self.task = task_of(module, inputs)
        self._counted: tuple[Any, MacCounter] | None = None  # by what decides the count

    @classmethod
    def build(cls, source: Source, weights: Path | None, inputs: tuple[InputSpec, ...]) -> TorchModel:
        """Build from the source and fill in the weights; without weights, the module lies on the meta device."""
        if weights is None:
            return cls(source.build("meta"), source, inputs)
        module = source.build()
        assign(module, source.fitted(read_weights(weights), module), str(weights))
        return cls(module, source, inputs)

    @property
    def is_meta(self) -> bool:
        """True for a model without weights, as ``check`` uses it."""
        return any(parameter.is_meta for parameter in self.module.parameters())

    def outline(self) -> TorchModel:
        module = self.source.build("meta")
        structure.apply(module, structure.difference(module, self.module))
        return TorchModel(module, self.source, self.inputs, self.grid)

    def require_floats(self, work: str) -> None:
        """Raise ``ModelError`` where weights are integers, which that work would lose."""
        if self.grid:
            what = f"{len(self.grid)} weights are quantized, {next(iter(self.grid))} for one"
            raise ModelError(f"{what}, and {work} would lose their integers; quantize after it")

    def copied(self) -> TorchModel:
        return deepcopy(self)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits ``[n, classes]`` with gradients as torch has them switched; what training calls."""
        return forward(self.module, inputs)

    def resident(self, on_disk: bool = False) -> ResidentTorchModel:
        self.require_floats("training")
        return ResidentTorchModel(self)

    def predict(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            return self._logits(batch).float()

    def _logits(self, batch: Batch) -> Tensor:
        """As ``forward``, held to what logits are; what the user's own code raises becomes one line."""
        try:
            logits = self.forward(batch.inputs)
        except ModelError:
            raise
        except Exception as error:  # a network may raise anything at an input that it does not take
            shapes = ", ".join(str(list(tensor.shape[1:])) for tensor in batch.inputs.values())
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ModelError(f"the model does not take examples of shape {shapes} ({reason})") from error
        if logits.ndim != 2 or len(logits) != len(batch):
            raise ModelError(f"the model returned {list(logits.shape)} for {len(batch)} examples; {LOGITS} expected")
        return logits

    def example(self, examples: int = 1, seed: int = 0) -> Batch:
        """A batch of noise of the right shape, on the module's device."""
        device = "meta" if self.is_meta else "cpu"
        generator = torch.Generator().manual_seed(seed)
        noise = {spec.name: spec.noise(examples, generator).to(device) for spec in self.inputs}
        return Batch(noise)

    def macs(self) -> int | None:
        return self.counted().total()

    def working_values(self) -> int:
        return largest_traffic(self.module, partial(self._logits, self.example())) if self.is_meta else 0

    def operations(self, cached: int = 0) -> list[Operation] | None:
        model = self if self.is_meta else self.outline()
        return operations(model.module, partial(model._logits, model.example()), self.counted().by_module)

    def counted(self) -> MacCounter:
        """The work of one example, by module: counted on the meta device, where no code of the module objects to it.

        There the structure alone decides it, so it is counted anew only where that has changed: a check asks often.
        """
        key = structure_key(self.module), self.inputs
        if self._counted is not None and self._counted[0] == key:
            return self._counted[1]
        counter = self._counted_on_meta()
        if counter is not None:
            self._counted = key, counter
            return counter
        with MacCounter().watching(self.module) as counter:
            self._logits(self.example())
        return counter

    def _counted_on_meta(self) -> MacCounter | None:
        """None where the forward reads values, which meta tensors do not have."""
        example = self.example()
        if self.is_meta:
            with MacCounter().watching(self.module) as counter:
                self._logits(example)
            return counter
        with suppress(Exception):  # a network may raise anything
            copy = meta_copy(self.module)
            with MacCounter().watching(copy) as counter:
                forward(copy, {name: value.to("meta") for name, value in example.inputs.items()})
            return counter
        return None

    @property
    def vocabulary(self) -> int | None:
        return self.source.vocabulary()

    @property
    def context(self) -> int | None:
        return self.source.context()

    def class_names(self) -> list[str] | None:
        return self.source.class_names()

    def layers(self) -> list[Layer]:
        return list(_layers(self))

    def nbytes(self) -> int:
        """Bytes of all tensors that ``save`` writes."""
        dense = [value for name, value in self.module.state_dict().items() if name not in self.grid]
        return sum(int(value.nbytes) for value in dense) + sum(map(grid_bytes, self.grid.values()))

    def matrices(self) -> dict[str, WeightShape]:
        """Linears and convolutions."""
        names = [f"{name}.weight" for name in layer_names(self)]
        return {name: WeightShape.of_layer(self.module.get_parameter(name).shape) for name in names}

    def value(self, name: str) -> Tensor:
        return self.module.get_parameter(name).data

    def gridless(self) -> dict[str, str]:
        return without_grid(self)

    def structure(self) -> structure.Difference:
        """How the module's structure differs from a freshly built one."""
        return structure.difference(self.source.build("meta"), self.module)

    def save(self, folder: Path) -> None:
        dense = {name: value for name, value in self.module.state_dict().items() if name not in self.grid}
        write_weights(dense, folder / "weights.safetensors")
        write_grids(self.grid, folder)
        facts = {"source": self.source.describe(), "inputs": [vars(i) for i in self.inputs]}
        (folder / "model.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
        if changed := self.structure():
            (folder / "structure.json").write_text(json.dumps(changed, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path, code_folder: str | None = None) -> TorchModel:
        facts, changed = _read_json(folder / "model.json"), folder / "structure.json"
        try:
            source = source_from(facts["source"], code_folder)
            inputs = tuple(InputSpec(i["name"], tuple(i["shape"]), i["dtype"]) for i in facts["inputs"])
        except (KeyError, TypeError) as error:
            raise ModelError(f"{folder}: not a stored torch model (model.json: {first_line(error)})") from None
        module = source.build()
        if changed.exists():
            structure.apply(module, _read_json(changed))
        grid, expected = read_grids(folder), module.state_dict()
        if unknown := [name for name in grid if name not in expected]:
            raise ModelError(f"{folder}: quantized weights hold '{unknown[0]}', which the model has not")
        weights = read_weights(folder / "weights.safetensors")
        weights |= {name: expected[name] for name in grid}
        assign(module, weights, str(folder))
        for name, quantized in grid.items():
            put_grid(module, name, quantized)
        return cls(module, source, inputs, grid)

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        def run() -> object:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                with torch.inference_mode():
                    return self.forward(batch.inputs)
            finally:
                torch.set_num_threads(before)

        return run


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: not a stored torch model ({first_line(error)})") from None
    if not isinstance(values, dict):
        raise ModelError(f"{file}: not a stored torch model (no mapping)")
    return values


def _layers(model: TorchModel) -> Iterator[Layer]:
    counter = model.counted()
    modules = dict(model.module.named_modules())
    for name in [*counter.order, *(name for name in modules if name not in counter.order)]:
        own = list(modules[name].parameters(recurse=False))
        if own:
            shape = tuple(getattr(modules[name], "weight", own[0]).shape)
            buffers = sum(buffer.nbytes for buffer in modules[name].buffers(recurse=False))
            count, size = sum(p.numel() for p in own), sum(p.nbytes for p in own) + buffers
            if grid := model.grid.get(f"{name}.weight"):
                size += grid_bytes(grid) - modules[name].weight.nbytes
            yield Layer(name, type(modules[name]).__name__, count, size, counter.by_module.get(name, 0), shape)


def in_memory(model: Model) -> TorchModel:
    """A torch model that is not read in blocks, as what it is."""
    assert isinstance(model, TorchModel), "a torch model without blocks is in memory"
    return model
