"""The ONNX form: a graph that ONNX Runtime runs, scored on the very bytes that are stored.

How a graph gets here (export) or changes (quantization) is the business of ``squeeze.passes``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from squeeze.errors import ModelError
from squeeze.formats.onnx_file import copy_onnx, onnx_bytes, read_onnx
from squeeze.formats.onnx_graph import WEIGHTED_OPS, held, multiplications
from squeeze.models.base import Batch, InputSpec, Layer, Model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FILE_NAME = "model.onnx"


class OnnxModel(Model):
    """A graph of onnx_ir, run by ONNX Runtime on the CPU.

    The graph is not changed once the model exists: a pass changes ``copy_ir()`` and makes a new model of it.

    Args:
        graph_model: The ONNX model; kept as ``.ir``.
        source: Where it came from, for messages.
    """

    form: ClassVar[str] = "onnx"

    def __init__(self, graph_model: ir.Model, source: str = "ONNX model") -> None:
        self.ir = graph_model
        self.source = source
        self.inputs = tuple(_spec(value) for value in _fed_inputs(graph_model.graph))
        self.threads = min(4, os.cpu_count() or 1)
        self._sessions: dict[int, InferenceSession] = {}

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """Read a ``.onnx`` file and make sure that ONNX Runtime takes it.

        Raises:
            ModelError: Unreadable, truncated, weights outside its folder, or refused by the runtime.
        """
        model = cls(read_onnx(Path(path)), str(path))
        model.session(model.threads)
        return model

    def copy_ir(self) -> ir.Model:
        """A graph that a pass may change."""
        return copy_onnx(self.ir)

    @cached_property
    def data(self) -> bytes:
        """The stored file."""
        return onnx_bytes(self.ir)

    def nbytes(self) -> int:
        return len(self.data)

    def predict(self, batch: Batch) -> Tensor:
        session, fixed = self.session(self.threads), self._fixed_batch()
        feed = self._feed(batch)
        if fixed is None or fixed == len(batch):
            logits = session.run(None, feed)[0]
        else:
            parts = [session.run(None, part)[0] for part in _parts(feed, len(batch), fixed)]
            logits = np.concatenate(parts)[: len(batch)]
        return torch.from_numpy(np.asarray(logits, dtype=np.float32).reshape(len(batch), -1))

    def runner(self, batch: Batch, threads: int) -> Callable[[], object]:
        session, feed = self.session(threads), self._feed(batch)
        names = [output.name for output in session.get_outputs()]
        run = session.run
        return lambda: run(names, feed)

    def session(self, threads: int) -> InferenceSession:
        """ONNX Runtime's session on the stored bytes, made once per number of threads."""
        if threads not in self._sessions:
            self._sessions[threads] = _open_session(self.data, threads, self.source)
        return self._sessions[threads]

    def layers(self) -> list[Layer]:
        seen: set[str] = set()
        found = (_layer(node, seen) for node in self.ir.graph if node.op_type in WEIGHTED_OPS)
        return [layer for layer in found if layer.parameters]

    def save(self, folder: Path) -> None:
        (folder / FILE_NAME).write_bytes(self.data)
        inputs = [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in self.inputs]
        (folder / "model.json").write_text(json.dumps({"form": self.form, "inputs": inputs}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls.from_file(folder / FILE_NAME)

    def _fixed_batch(self) -> int | None:
        shape = _fed_inputs(self.ir.graph)[0].shape
        return shape[0] if shape is not None and len(shape) and isinstance(shape[0], int) else None

    def _feed(self, batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs by the graph's names; a model with one input takes the batch's one input whatever its name."""
        if len(self.inputs) == 1 and len(batch.inputs) == 1:
            spec, (tensor,) = self.inputs[0], batch.inputs.values()
            return {spec.name: _array(tensor, spec)}
        missing = [spec.name for spec in self.inputs if spec.name not in batch.inputs]
        if missing:
            raise ModelError(f"{self.source}: wants the input '{missing[0]}'; the data has {', '.join(batch.inputs)}")
        return {spec.name: _array(batch.inputs[spec.name], spec) for spec in self.inputs}


def _fed_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Inputs without a default value: old files also list their weights as inputs."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def _spec(value: ir.Value) -> InputSpec:
    sizes = tuple(size if isinstance(size, int) else -1 for size in (value.shape or ())[1:])
    dtype = str(value.dtype.numpy()) if value.dtype is not None else "float32"
    return InputSpec(value.name or "", sizes, dtype)


def _array(tensor: Tensor, spec: InputSpec) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy().astype(spec.dtype, copy=False))


def _parts(
    feed: dict[str, np.ndarray[Any, Any]], examples: int, size: int
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Feeds of exactly ``size`` examples for a graph that takes no other number; the last is filled up."""
    for start in range(0, examples, size):
        indices = np.minimum(np.arange(start, start + size), examples - 1)
        yield {name: array[indices] for name, array in feed.items()}


def _open_session(data: bytes, threads: int, source: str) -> InferenceSession:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # failures come back as exceptions; the rest is noise on the user's screen
    # a session that spins after its run would take the processor from the one it is compared with
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception classes share no base
        raise ModelError(f"{source}: ONNX Runtime refuses the model: {' '.join(str(error).split())[:200]}") from error


def _layer(node: ir.Node, seen: set[str]) -> Layer:
    constants = [item for item in held(node) if _first_sight(item.value, seen)]
    weights = [item.tensor for item in constants if item.is_weight]
    kernel = max(weights, key=lambda tensor: tensor.size, default=None)
    return Layer(
        name=node.name or node.op_type,
        kind=node.op_type,
        parameters=sum(tensor.size for tensor in weights),
        nbytes=sum(item.tensor.nbytes for item in constants),
        macs=multiplications(node, kernel.size) if kernel is not None else 0,
        shape=tuple(int(size) for size in kernel.shape.numpy()) if kernel is not None else (),
    )


def _first_sight(value: ir.Value, seen: set[str]) -> bool:
    name = value.name or ""
    if name in seen:
        return False
    seen.add(name)
    return True
