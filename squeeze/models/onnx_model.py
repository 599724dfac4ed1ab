"""The ONNX form: a graph that ONNX Runtime runs, scored on the very bytes that are stored.

How a graph gets here (export) or changes (quantization) is the business of ``squeeze.passes``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import onnx_ir as ir
from torch import Tensor

from squeeze.algorithms.affine import Grid
from squeeze.errors import ModelError
from squeeze.formats.onnx_file import onnx_bytes, read_onnx
from squeeze.formats.onnx_graph import (
    STANDARD,
    WEIGHTED_OPS,
    fed_inputs,
    holds_integers,
    node_constants,
    takes_integers,
)
from squeeze.formats.onnx_leading_axis import with_leading_axis
from squeeze.formats.onnx_macs import count_macs, give_sizes, largest_traffic, total_macs
from squeeze.formats.onnx_operations import operations
from squeeze.formats.operation import Operation
from squeeze.models import ort_session
from squeeze.models.base import FREE_SIZE, FULLY, Batch, InputSpec, Layer, Model
from squeeze.models.facts import FLOAT_TOLERANCE, NARROW_TOLERANCE, Facts
from squeeze.models.one_example import answers_one
from squeeze.models.tasks.base import DESCRIPTION, Task, described, read_task, task_named

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE_NAME = "model.onnx"
WIDE = {ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


class OnnxModel(Model):
    """A graph of onnx_ir, run by ONNX Runtime on the CPU.

    The graph is not changed once the model exists: a pass changes ``copy_ir()`` and makes a new model of it.

    Args:
        graph_model: The ONNX model; kept as ``.ir``.
        source: Where it came from, for messages.
        task: None: to classify.
        ranges: What calibration found for the activations that are integers, by the value's name before they were.
    """

    form: ClassVar[str] = "onnx"

    def __init__(
        self,
        graph_model: ir.Model,
        source: str = "ONNX model",
        task: Task | None = None,
        ranges: Mapping[str, Grid] | None = None,
    ) -> None:
        self.ir = graph_model
        self.source = source
        self.task = task or task_named("classify")
        self.ranges = dict(ranges or {})
        self.inputs = tuple(_spec(value, source) for value in fed_inputs(graph_model.graph))
        self.threads = min(4, os.cpu_count() or 1)
        self._sessions: dict[int, InferenceSession] = {}

    @classmethod
    def from_file(cls, path: Path | str, task: Task | None = None) -> Self:
        """Read a ``.onnx`` file and make sure that ONNX Runtime takes it.

        Raises:
            ModelError: Unreadable, truncated, weights outside its folder, or refused by the runtime.
        """
        model = cls(read_onnx(Path(path)), str(path), task)
        model.session(model.threads)
        return model

    def fed_with(self, examples: Mapping[str, tuple[int, ...]]) -> Self:
        """The model as data of these shapes needs it: one that takes an example as it is gets an axis in front, of 1.

        Args:
            examples: By name, the shape of one example.

        Raises:
            ModelError: the shapes do not say whether the graph's first axis counts examples.
        """
        fed = {str(value.name): value.shape for value in fed_inputs(self.ir.graph)}
        shapes = {name: shape for name, shape in fed.items() if shape is not None}
        axes = {name: [n if isinstance(n, int) else str(n) for n in shape] for name, shape in shapes.items()}
        alone = len(axes) == len(fed) and answers_one(axes, examples, self.source)
        return self.with_graph(with_leading_axis(self.ir)) if alone else self

    @property
    def fixed_batch(self) -> int | None:
        shapes = [value.shape for value in fed_inputs(self.ir.graph)[:1]]
        first = next((shape[0] for shape in shapes if shape is not None and len(shape)), None)
        return first if isinstance(first, int) else None

    def copy_ir(self) -> ir.Model:
        """A graph that a pass may change; the weights are shared, since tensors are never changed in place."""
        return self.ir.clone()

    def with_graph(self, graph_model: ir.Model) -> Self:
        """The same model, to do the same with, as another graph."""
        model = type(self)(graph_model, self.source, self.task)
        model.threads = self.threads
        return model

    @cached_property
    def data(self) -> bytes:
        return onnx_bytes(self.ir)

    def write_file(self, folder: Path) -> Path:
        file = folder / FILE_NAME
        file.write_bytes(self.data)
        return file

    @cached_property
    def facts(self) -> Facts:
        """Of the file; quantized weights make another host's outputs differ by whole steps."""
        stored = (value.const_value for graph in self.ir.graphs() for value in graph.initializers.values())
        wide = all(tensor is None or tensor.dtype in WIDE for tensor in stored)
        return Facts(self.parameters(), FLOAT_TOLERANCE if wide else NARROW_TOLERANCE, self.macs())

    def nbytes(self) -> int:
        return len(self.data)

    def predict(self, batch: Batch) -> Tensor:
        return self._answers(self.session(self.threads), batch)

    def predict_exactly(self, batch: Batch) -> Tensor:
        """As the graph says: by itself ONNX Runtime rounds activations to int8 where weights are groups of integers."""
        entries = ort_session.NO_SPINNING | ort_session.FLOAT_ACTIVATIONS
        return self._answers(ort_session.open_session(self.data, self.threads, self.source, entries), batch)

    def _answers(self, session: InferenceSession, batch: Batch) -> Tensor:
        arrays = ort_session.feed(self.inputs, batch, self.source)
        run = partial(ort_session.run_limited, session)
        return ort_session.logits(run, ort_session.fixed_batch(session), arrays, len(batch))

    def answer(self, arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """All outputs in their order, for arrays in the order of the inputs, on one thread."""
        feed = dict(zip((spec.name for spec in self.inputs), arrays, strict=True))
        return ort_session.run_limited(self.session(1), feed)

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        arrays = ort_session.feed(self.inputs, batch, self.source)
        return ort_session.stopwatch_call(self.session(threads), arrays)

    def reopened(self) -> Self:
        again = copy(self)
        again._sessions = {}
        return again

    def session(self, threads: int) -> InferenceSession:
        """ONNX Runtime's session on the stored bytes, made once per number of threads."""
        if threads not in self._sessions:
            self._sessions[threads] = ort_session.open_session(self.data, threads, self.source)
        return self._sessions[threads]

    def marks(self) -> frozenset[str]:
        quantized = {"quantized"} if any(holds_integers(node) for node in self.ir.graph) else set()
        quantized |= {FULLY} if any(takes_integers(node) for node in self.ir.graph) else set()
        stored = (value.const_value for value in self.ir.graph.initializers.values())
        half = any(tensor is not None and tensor.dtype == ir.DataType.FLOAT16 for tensor in stored)
        return frozenset(quantized | ({"float16"} if half else set()))

    def layers(self) -> list[Layer]:
        counted: set[str] = set()
        weighted = (node for node in self.ir.graph if node.op_type in WEIGHTED_OPS)
        layers = (_layer(node, counted, self._macs.get(str(node.outputs[0].name), 0)) for node in weighted)
        return [layer for layer in layers if layer.parameters]

    def macs(self) -> int | None:
        return total_macs(self._macs)

    @cached_property
    def _macs(self) -> dict[str, int | None]:
        """By a node's first output."""
        return count_macs(self.copy_ir(), FREE_SIZE)

    def working_values(self) -> int:
        sized = self.copy_ir()
        give_sizes(sized, FREE_SIZE)
        return largest_traffic(sized.graph)

    def operations(self, cached: int = 0) -> list[Operation] | None:
        return operations(self.copy_ir(), FREE_SIZE)

    def parameters(self) -> int | None:
        """None where an operator that is not known holds weights."""
        return None if any(map(_holds_unknown, self.ir.graph)) else super().parameters()

    def save(self, folder: Path) -> None:
        (folder / FILE_NAME).write_bytes(self.data)
        inputs = [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in self.inputs]
        ranges = {name: asdict(grid) for name, grid in self.ranges.items()}
        facts = {"form": self.form, "inputs": inputs, **described(self), **({"ranges": ranges} if ranges else {})}
        (folder / DESCRIPTION).write_text(json.dumps(facts, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        model = cls.from_file(folder / FILE_NAME, read_task(folder / DESCRIPTION))
        ranges = json.loads((folder / DESCRIPTION).read_text()).get("ranges", {})
        model.ranges = {name: Grid(**values) for name, values in ranges.items()}
        return model


def as_graph(model: Model) -> OnnxModel:
    """A model in the form ``onnx``, as what it is."""
    assert isinstance(model, OnnxModel), "no other has this form"
    return model


def _spec(value: ir.Value, source: str) -> InputSpec:
    sizes = tuple(size if isinstance(size, int) else -1 for size in (value.shape or ())[1:])
    try:
        dtype = str(value.dtype.numpy()) if value.dtype is not None else "float32"
    except TypeError:
        raise ModelError(f"{source}: input '{value.name}' is of type {value.dtype}; FLOAT would do") from None
    return InputSpec(value.name or "", sizes, dtype)


def _holds_unknown(node: ir.Node) -> bool:
    """Whether weights lie in the graph of a branch or loop, or a matrix in an operator of another domain."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    if any(inner.op_type in WEIGHTED_OPS or _holds_unknown(inner) for graph in graphs for inner in graph):
        return True
    known = node.domain in STANDARD or node.op_type in WEIGHTED_OPS
    return not known and any(len(item.tensor.shape) > 1 for item in node_constants(node))


def _layer(node: ir.Node, counted: set[str], macs: int | None) -> Layer:
    constants = [item for item in node_constants(node) if _first_sight(item.value, counted)]
    weights = [item.tensor for item in constants if item.is_weight]
    kernel = max(weights, key=lambda tensor: tensor.size, default=None)
    return Layer(
        name=node.name or node.op_type,
        kind=node.op_type,
        parameters=sum(tensor.size for tensor in weights),
        nbytes=sum(item.tensor.nbytes for item in constants),
        macs=macs,
        shape=tuple(int(size) for size in kernel.shape.numpy()) if kernel is not None else (),
    )


def _first_sight(value: ir.Value, counted: set[str]) -> bool:
    name = value.name or ""
    if name in counted:
        return False
    counted.add(name)
    return True
