"""What every form of a model can do: predict, be counted, be stored.

Three forms: ``TorchModel``, ``OnnxModel``, ``Artifact``. One evaluator serves all three because
``predict`` is the same call. How a pass changes a model is not this module's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, ClassVar, Self, get_args

import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.grid_kind import GridKind
from squeeze.formats.operation import Operation
from squeeze.models.resident import Resident

if TYPE_CHECKING:
    from squeeze.models.tasks.base import Task

FREE_SIZE = 16  # size of a free dimension in made-up examples
FULLY = "fully quantized"  # the mark of a graph whose activations are integers too
ADAPTER = "beside an adapter"  # the mark of weights whose low-rank updates lie in a file of their own


@dataclass(frozen=True)
class Batch:
    """Examples that go through a model together.

    Args:
        inputs: Name to tensor, first dimension = examples. An image classifier has one, ``image`` ``[n, c, h, w]``.
        labels: ``[n]`` integers, or None where the data has none.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def image(self) -> Tensor:
        """The one input of an image model, ``[n, c, h, w]``."""
        return self.inputs["image"]

    def part(self, rows: slice) -> Batch:
        """Some of the examples."""
        labels = None if self.labels is None else self.labels[rows]
        return Batch({name: value[rows] for name, value in self.inputs.items()}, labels)


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, its shape without the batch dimension, its element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def noise(self, examples: int, generator: torch.Generator) -> Tensor:
        """Seeded noise that the input takes: a free size is 16, integers are small tokens, a mask lets all by."""
        shape = [examples, *(FREE_SIZE if size < 0 else size for size in self.shape)]
        dtype: torch.dtype = getattr(torch, self.dtype)
        if dtype.is_floating_point:
            return torch.randn(*shape, generator=generator).to(dtype)
        if self.name.endswith("mask"):
            return torch.ones(*shape, dtype=dtype)
        return torch.randint(1, 100, shape, generator=generator).to(dtype)


@dataclass(frozen=True)
class Layer:
    """One row of a model's graph.

    Args:
        name: Dotted module name or ONNX node name; what ``include`` / ``exclude`` match.
        kind: ``Conv2d``, ``Linear``, ``Conv``, ``Gemm``, ...
        parameters: Number of stored values.
        nbytes: Bytes they take as stored.
        macs: Multiply-accumulates for one example; None: not known.
        shape: Weight shape.
    """

    name: str
    kind: str
    parameters: int
    nbytes: int
    macs: int | None
    shape: tuple[int, ...] = ()


class Model(ABC):
    """A model in one of its three forms."""

    form: ClassVar[str]
    task: Task  # what it does with an example
    inputs: tuple[InputSpec, ...]
    runtime: str | None = None  # registered name of the runtime whose file it is; None: no runtime's
    has_weights: bool = True  # False: they were released from the store, and only facts of the model are known

    @classmethod
    def forms(cls) -> tuple[type[Model], ...]:
        """The forms that this class stands for in a bracket."""
        return (cls,)

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Logits, float32, ``[n, classes]``."""

    @abstractmethod
    def layers(self) -> list[Layer]:
        """The layers that hold weights, in the order in which they run."""

    @abstractmethod
    def nbytes(self) -> int:
        """Bytes as stored, never as simulated."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that ``load`` needs into an existing, empty folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read back what ``save`` wrote."""

    @abstractmethod
    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        """A call that runs the batch once and does nothing else: what a stopwatch wraps."""

    def cannot_run(self) -> str | None:
        """Why it cannot answer on this system, whatever is installed; None: it can."""
        return None

    def arithmetic(self) -> str:
        """In which arithmetic it is scored, in words; nothing where a task's models all have the same."""
        return ""

    def reopened(self) -> Self:
        """The same model without the sessions that it holds open: each session has a speed of its own."""
        return self

    def close(self) -> None:
        """Let go of what was opened to answer; asked again, it is opened again."""
        return

    def takes_images(self) -> bool:
        """Whether an example is one image ``[channels, height, width]`` of floats."""
        return len(self.inputs) == 1 and len(self.inputs[0].shape) == 3 and self.inputs[0].dtype.startswith("float")

    def reads_tokens(self) -> bool:
        """Whether an example is token numbers."""
        return any(spec.dtype.startswith("int") for spec in self.inputs)

    @property
    def vocabulary(self) -> int | None:
        """How many tokens there are; None: it reads none, or nobody says how many."""
        return None

    @property
    def context(self) -> int | None:
        """The most tokens that it reads; None: not known, or no bound."""
        return None

    def class_names(self) -> list[str] | None:
        """What its classes are called, where the model itself says it."""
        return None

    @property
    def fixed_batch(self) -> int | None:
        """The one number of examples that it takes at once; None: any."""
        return None

    def grid_kinds(self) -> dict[str, GridKind]:
        """What kind of grid each quantized weight lies on, by name."""
        return {}

    def outline(self) -> Model:
        """The same model without its weights, where it can be had so."""
        return self

    def copied(self) -> Model:
        """A copy that may be changed in place; a model that nobody changes in place is its own."""
        return self

    def marks(self) -> frozenset[str]:
        """What passes have left in the weights, in the words of their ``leaves``: ``quantized``, ``float16``."""
        return frozenset()

    def module_names(self) -> list[str]:
        """Dotted names of all torch modules; none where the model is no torch module."""
        return []

    @property
    def blocks(self) -> int:
        """In how many blocks its weights are read from disk, one at a time; 0: they are not read so."""
        return 0

    def golden_prompt(self) -> list[int]:
        """The tokens of a sentence of ours.

        Raises:
            ModelError: it does not go on with a text.
        """
        raise ModelError(f"a model in the form '{self.form}' does not go on with a text")

    def working_values(self) -> int:
        """Numbers that an operator reads and writes for one example, of the operator that takes most; 0: not known."""
        return 0

    def cache_values(self) -> int | None:
        """Numbers that a runtime keeps of each token that was read, as keys and values; None: it keeps none."""
        return None

    def operations(self, cached: int = 0) -> list[Operation] | None:
        """What a runtime runs for one example, or for one token behind ``cached`` others; None: not known."""
        return None

    def resident(self, on_disk: bool = False) -> Resident:
        """The model as one module with gradients, all weights in memory.

        Args:
            on_disk: Weights of blocks that are not trained are read when they are computed with, where the model lies
                in shards.

        Raises:
            ModelError: a model of this form has no gradients.
        """
        raise ModelError(f"a model in the form '{self.form}' has no gradients: it can neither be trained nor teach")

    def parameters(self) -> int | None:
        """Number of stored weights; None where it is not known, which is never 0."""
        return sum(layer.parameters for layer in self.layers())

    def macs(self) -> int | None:
        """Multiply-accumulates for one example; None where they are not known, which is never 0."""
        return None


def has_form(model: Model, forms: tuple[type[Model], ...]) -> bool:
    """Whether a model is in one of these forms."""
    return isinstance(model, forms)


def forms_of(bracket: object) -> tuple[type[Model], ...]:
    """The forms that a bracket names: one class, or several joined by ``|``; none where it is no form yet.

    A stage stands for all forms that it has.
    """
    classes = get_args(bracket) if isinstance(bracket, UnionType) else (bracket,)
    if not all(isinstance(one, type) and issubclass(one, Model) for one in classes):
        return ()
    return tuple(form for one in classes for form in one.forms())
