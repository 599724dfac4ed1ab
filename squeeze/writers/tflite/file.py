"""A ``.tflite`` file as it grows: tensors, constants, operators; the same calls give the same bytes.

The schema's Python classes come with LiteRT (``ai_edge_litert.schema_py_generated``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from squeeze.formats.onnx_step import Step

Array = np.ndarray[Any, Any]
ALIGNED = 16  # bytes; kernels read weights where they lie in the file
IDENTIFIER = b"TFL3"
VERSION = 3
SIGNATURE = "serving_default"
VERSIONS = {  # of operators, the first that takes int8 as we write it; others: 1
    **dict.fromkeys(("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "DEQUANTIZE", "LOGISTIC", "MAX_POOL_2D", "MEAN"), 2),
    **dict.fromkeys(("MUL", "PAD", "QUANTIZE", "RELU", "RELU6", "SOFTMAX", "STRIDED_SLICE", "SUB", "TANH"), 2),
    "TRANSPOSE": 2,
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), 3),
    "FULLY_CONNECTED": 9,
}


class TfliteFile:
    """One graph."""

    def __init__(self) -> None:
        import ai_edge_litert.schema_py_generated as schema

        self.schema: Any = schema
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.buffers: list[Any] = [schema.BufferT()]  # the first means: no constant
        self.codes: list[Any] = []

    def value(self, name: str, shape: Sequence[int], dtype: str, step: Step | None = None) -> int:
        """A computed tensor; gives its number."""
        scales = None if step is None else ([step.scale], [step.zero_point])
        return self._tensor(name, shape, dtype, 0, scales, 0)

    def constant(self, name: str, array: Array, scales: Array | None = None, axis: int = 0) -> int:
        """A stored tensor; integers with a scale each along ``axis`` have no zero points."""
        buffer = _aligned(self.schema)()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.buffers.append(buffer)
        both = None if scales is None else (scales.astype(np.float32), np.zeros(len(scales), np.int64))
        return self._tensor(name, array.shape, str(array.dtype), len(self.buffers) - 1, both, axis)

    def operator(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **fields: Any
    ) -> None:
        """One operator.

        Args:
            kind: As in ``BuiltinOperator``.
            options: The class of its options without the ``T``, whose ``fields`` are set.
        """
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind)
        operator.inputs, operator.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, f"{options}T")()
            for name, value in fields.items():
                assert hasattr(operator.builtinOptions, name), f"{options} has no {name}"
                setattr(operator.builtinOptions, name, value)
        self.graph.operators.append(operator)

    def activate(self, kind: str, name: str) -> None:
        """Let the last operator apply an activation to what it gives, which is called by ``name`` from then on."""
        activation, last = getattr(self.schema.ActivationFunctionType, kind), self.graph.operators[-1]
        last.builtinOptions.fusedActivationFunction = activation
        self.graph.tensors[int(last.outputs[0])].name = name

    def data(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        self.graph.name = "main"
        model = self.schema.ModelT()
        model.version, model.description = VERSION, "squeeze"
        model.subgraphs, model.buffers, model.operatorCodes = [self.graph], self.buffers, self.codes
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = _sharing_builder()
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _signature(self, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        """What apps call the graph, its inputs and its outputs."""
        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = ([self._named(index) for index in each] for each in (inputs, outputs))
        return signature

    def _named(self, index: int) -> Any:
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = self.graph.tensors[index].name, index
        return entry

    def _code(self, kind: str) -> int:
        number = getattr(self.schema.BuiltinOperator, kind)
        for place, code in enumerate(self.codes):
            if code.builtinCode == number:
                return place
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = number, VERSIONS.get(kind, 1)
        code.deprecatedBuiltinCode = min(number, 127)  # where older readers look
        self.codes.append(code)
        return len(self.codes) - 1

    def _tensor(
        self, name: str, shape: Sequence[int], dtype: str, buffer: int, scales: tuple[Any, Any] | None, axis: int
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, np.array(shape, np.int32)
        tensor.type, tensor.buffer = getattr(self.schema.TensorType, dtype.upper()), buffer
        tensor.quantization = self.schema.QuantizationParametersT()
        if scales is not None:
            tensor.quantization.scale = np.array(scales[0], np.float32)
            tensor.quantization.zeroPoint = np.array(scales[1], np.int64)
            tensor.quantization.quantizedDimension = axis
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1


def _aligned(schema: Any) -> Any:
    """The schema's class of constants, whose bytes begin where kernels expect it."""

    class Aligned(schema.BufferT):  # type: ignore[misc]  # known when LiteRT is there
        def Pack(self, builder: Any) -> Any:  # noqa: N802  # the schema's name
            size = len(self.data)
            builder.StartVector(1, size, ALIGNED)
            builder.head = int(builder.head - size)
            builder.Bytes[builder.head : builder.head + size] = self.data.tobytes()
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return Aligned


def _sharing_builder() -> Any:
    """Writes equal lists of numbers once: all weights and biases of one width have the same zero points."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # known when LiteRT is there
        def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802  # the library's name
            key = (str(x.dtype), x.tobytes())
            if key not in written:
                written[key] = super().CreateNumpyVector(x)
            return written[key]

    written: dict[tuple[str, bytes], int] = {}
    return SharingBuilder(1 << 20)
