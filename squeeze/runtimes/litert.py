"""LiteRT: ``.tflite`` files that answer one example in one call, most of it by XNNPACK."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from squeeze.errors import ModelError, all_lines
from squeeze.formats.tensor_spec import TensorSpec
from squeeze.runtimes.base import PREDICT, Arrays, Opened, Runtime

WEIGHT = ".weight"  # how the tensors of our files are called that hold a layer's weight


class LiteRtFile:
    """A ``.tflite`` file in LiteRT, with XNNPACK."""

    def __init__(self, file: Path, threads: int) -> None:
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter

        with self.quiet():
            self.interpreter = Interpreter(model_path=str(file), num_threads=threads)
            self.interpreter.allocate_tensors()
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()
        self.np = np

    def run(self, feed: dict[str, Any]) -> list[Any]:
        """All outputs, in their order; as many examples as the file takes at once."""
        for spec in self.inputs:
            self.interpreter.set_tensor(spec["index"], self.np.ascontiguousarray(feed[spec["name"]]))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(spec["index"]) for spec in self.outputs]

    @staticmethod
    @contextmanager
    def quiet() -> Iterator[None]:
        """Hold back what C++ writes to standard error: that it uses XNNPACK."""
        stderr = os.dup(2)
        try:
            with Path(os.devnull).open("w") as nothing:
                os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class OpenedLiteRt(Opened):
    """A file in LiteRT."""

    def __init__(self, file: Path, threads: int, where: str) -> None:
        try:
            self.file = LiteRtFile(file, threads)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{where}: LiteRT refuses the file ({all_lines(error)})") from error
        self.inputs, self.outputs = (tuple(map(_spec, each)) for each in (self.file.inputs, self.file.outputs))

    def run(self, feed: Arrays) -> list[np.ndarray[Any, Any]]:
        try:
            return self.file.run(dict(feed))
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT cannot run the model: {all_lines(error)}") from error


def _spec(details: dict[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in details["shape"])
    return TensorSpec(name=str(details["name"]), shape=shape, dtype=np.dtype(details["dtype"]).name)


def stored_weights(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What the integer weights of a file stand for, float32 ``[out, in]``, by their layer."""
    interpreter, found = _undelegated(file), {}
    for details in interpreter.get_tensor_details():
        scales = details["quantization_parameters"]["scales"]
        if not details["name"].endswith(WEIGHT) or not len(scales):
            continue
        axis = int(details["quantization_parameters"]["quantized_dimension"])
        # [out, in], [out, h, w, in] or, where each channel has a filter of its own, [1, h, w, out]
        stored = interpreter.get_tensor(details["index"])
        q = stored if stored.ndim != 4 else stored.transpose(3, 0, 1, 2) if axis == 3 else stored.transpose(0, 3, 1, 2)
        matrix = q.reshape(len(q), -1).astype(np.float32)
        found[details["name"].removesuffix(WEIGHT)] = np.float32(scales.reshape(-1, 1)) * matrix
    return found


def delegated(file: Path) -> tuple[int, dict[str, str]]:
    """How many operators XNNPACK takes, and the kinds of those that it leaves by the name of what they give.

    What it takes lies between the inputs and the outputs of the operators that it puts in their place.
    """
    plain, interpreter = _undelegated(file), LiteRtFile(file, threads=1).interpreter
    names = {details["index"]: str(details["name"]) for details in plain.get_tensor_details()}
    makers = {int(one["outputs"][0]): one for one in plain._get_ops_details()}
    taken: set[int] = set()
    for part in (one for one in interpreter._get_ops_details() if one["op_name"] == "DELEGATE"):
        ends, reached = set(map(int, part["inputs"])), list(map(int, part["outputs"]))
        while reached:
            index = reached.pop()
            if index in makers and index not in ends | taken:
                taken.add(index)
                reached += map(int, makers[index]["inputs"])
    left = {names[index]: str(one["op_name"]) for index, one in makers.items() if index not in taken}
    return len(taken), left


def _real(interpreter: Any, details: dict[str, Any]) -> np.ndarray[Any, Any]:
    """A tensor's numbers, channels first."""
    scale, zero_point = details["quantization"]
    numbers: np.ndarray[Any, Any] = interpreter.get_tensor(details["index"]).astype(np.float32)
    if scale:
        numbers = np.float32(scale) * (numbers - zero_point)
    return numbers.transpose(0, 3, 1, 2) if numbers.ndim == 4 else numbers


def _undelegated(file: Path, keeps_all: bool = False) -> Any:
    """With LiteRT's own kernels; ``keeps_all``: no tensor's memory is used again for another."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_path=str(file), experimental_op_resolver_type=resolver, experimental_preserve_all_tensors=keeps_all
    )
    interpreter.allocate_tensors()
    return interpreter


class LiteRt(Runtime):
    """LiteRT with XNNPACK, on a processor."""

    name = "litert"
    distribution = "ai-edge-litert"
    modules = ("ai_edge_litert",)
    extra = "litert"
    loads: ClassVar = {PREDICT: (".tflite",)}
    opens = OpenedLiteRt
    beside = (".tflite",)
    float_writer = "litert"
    script: ClassVar = {PREDICT: (LiteRtFile,)}

    @classmethod
    def values(cls, file: Path, feed: Arrays, names: Collection[str], where: str) -> dict[str, np.ndarray[Any, Any]]:
        cls.require_installed(where)
        interpreter, found = _undelegated(file, keeps_all=True), dict[str, list[np.ndarray[Any, Any]]]()
        inputs = {str(details["name"]): int(details["index"]) for details in interpreter.get_input_details()}
        shown = [one for one in interpreter.get_tensor_details() if one["name"] in names and one["name"] not in inputs]
        for place in range(len(next(iter(feed.values())))):
            for name, index in inputs.items():
                interpreter.set_tensor(index, feed[name][place : place + 1])
            interpreter.invoke()
            for details in shown:
                found.setdefault(details["name"], []).append(_real(interpreter, details))
        return {name: np.concatenate(rows) for name, rows in found.items()}
