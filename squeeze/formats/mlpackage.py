"""A Core ML ``.mlpackage`` read back: what goes in and out, constants, operations; by coremltools' own readers.

What is read is data: nothing is run or compiled, and Core ML itself is not needed. How such a package is written is the
business of ``squeeze.writers``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from squeeze.errors import ModelError
from squeeze.formats.tensor_spec import TensorSpec

PACKAGE = "model.mlpackage"
DATA = "Data/com.apple.CoreML"
MODEL = f"{DATA}/model.mlmodel"
WEIGHTS = f"{DATA}/weights/weight.bin"
MANIFEST = "Manifest.json"
CONSTANT, COMPRESSED = "const", "constexpr_"
WIDTHS = {"INT4": 4, "INT8": 8}  # of a grid's integers
ARRAYS = {
    "FLOAT32": np.float32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT4": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
}
READERS = {"FLOAT32": "read_float_data", "INT8": "read_int8_data", "UINT8": "read_uint8_data", "INT4": "read_int4_data"}
Array = np.ndarray[Any, Any]


def coremltools() -> Any:
    """The package, imported without its lines about versions of other packages and about macOS."""
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        import coremltools
    finally:
        logger.setLevel(before)
    return coremltools


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        output: Name of what it gives.
        shape: Of what it gives.
        reads: By parameter, names of constants and of what operations before it give.
    """

    kind: str
    output: str
    shape: tuple[int, ...]
    reads: Mapping[str, tuple[str, ...]]


@dataclass
class Program:
    """The one function of a package.

    Args:
        constants: Arrays, texts and truth values, by name.
        dtypes: Of constants, as the format calls them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def constant(self, operation: Operation, parameter: str) -> Any:
        """What a constant parameter is; None: it is not given."""
        names = operation.reads.get(parameter)
        return None if names is None else self.constants[names[0]]

    def weights(self) -> Iterator[StoredWeight]:
        """The integers that weights are stored as."""
        for operation in self.operations:
            if operation.kind.startswith(COMPRESSED):
                yield _stored_weight(self, operation)


@dataclass(frozen=True)
class StoredWeight:
    """A weight as integers: ``real = scale * (q - zero_point)``.

    Args:
        q: int8 ``[out, ...]``, whatever its width.
        scale, zero_point: With as many axes as ``q`` has; each stands for a block of it.
    """

    name: str
    q: Array
    scale: Array
    zero_point: Array
    bits: int

    def real(self) -> Array:
        """float32, of the shape of ``q``."""
        scale, zero = (self._spread(each) for each in (self.scale, self.zero_point))
        return scale * (self.q.astype(np.float32) - zero.astype(np.float32))

    def _spread(self, values: Array) -> Array:
        for axis, size in enumerate(self.q.shape):
            values = np.repeat(values, size // values.shape[axis], axis)
        return values


def root_of(file: Path) -> Path:
    """The ``.mlpackage`` folder that a model's file lies in."""
    return file.parents[len(Path(MODEL).parts) - 1]


def read_mlpackage(folder: Path) -> Program:
    """Read a ``.mlpackage`` folder and check that its parts fit together.

    Raises:
        ModelError: it is none, or something in it does not fit; in one line.
    """
    try:
        return _read(folder)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except Exception as error:  # protobuf's and the blob reader's exceptions share no base
        what = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder}: not a Core ML package that can be read ({what})") from error


def _read(folder: Path) -> Program:
    tools = coremltools()
    model = tools.proto.Model_pb2.Model()
    model.ParseFromString((folder / MODEL).read_bytes())
    if model.WhichOneof("Type") != "mlProgram" or list(model.mlProgram.functions) != ["main"]:
        raise ModelError("holds no program with the one function 'main'; an ML program would be right")
    fed, given = model.description.input, model.description.output
    program = Program(tuple(map(_described, fed)), tuple(map(_described, given)))
    reader = _Reader(program, folder / WEIGHTS)
    function = model.mlProgram.functions["main"]
    (block,) = function.block_specializations.values()
    for value in function.inputs:
        reader.define(value.name)
    for operation in block.operations:
        reader.add(operation)
    for name in (*block.outputs, *(spec.name for spec in program.outputs)):
        reader.require(name, "the outputs")
    return program


class _Reader:
    def __init__(self, program: Program, weights: Path) -> None:
        from coremltools.libmilstoragepython import _BlobStorageReader

        self.program, self.known = program, set[str]()
        self.blobs = _BlobStorageReader(str(weights)) if weights.is_file() else None

    def define(self, name: str) -> None:
        """A value from here on.

        Raises:
            ModelError: there is one of that name already.
        """
        if name in self.known:
            raise ModelError(f"'{name}' is defined twice")
        self.known.add(name)

    def require(self, name: str, reader: str) -> None:
        """Raise ``ModelError`` where no value of that name is known yet."""
        if name not in self.known:
            raise ModelError(f"{reader}: '{name}' is read and not defined before")

    def add(self, operation: Any) -> None:
        """One operation, or one constant."""
        (output,) = operation.outputs
        if operation.type == CONSTANT:
            self._constant(output.name, operation.attributes["val"])
            return
        reads = {name: self._bound(output.name, name, argument) for name, argument in operation.inputs.items()}
        for name, value in operation.attributes.items():
            if name != "name":
                reads[name] = (self._own(output.name, name, value),)
        self.define(output.name)
        shape = _shape(output.type.tensorType)
        self.program.operations.append(Operation(operation.type, output.name, shape, reads))

    def _bound(self, output: str, parameter: str, argument: Any) -> tuple[str, ...]:
        names = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                names.append(self._own(output, parameter, binding.value))
            else:
                self.require(binding.name, output)
                names.append(binding.name)
        return tuple(names)

    def _own(self, output: str, parameter: str, value: Any) -> str:
        """A constant that stands in its operation."""
        name = f"{output}.{parameter}"
        self._constant(name, value)
        return name

    def _constant(self, name: str, value: Any) -> None:
        self.define(name)
        self.program.dtypes[name] = _dtype(value.type.tensorType)
        self.program.constants[name] = self._value(name, value)

    def _value(self, name: str, value: Any) -> Any:
        tensor = value.type.tensorType
        dtype, shape = _dtype(tensor), _shape(tensor)
        if value.WhichOneof("value") == "blobFileValue":
            if self.blobs is None or dtype not in READERS:
                raise ModelError(f"'{name}' of {dtype} lies in a file of weights that is not there or not readable")
            array = np.asarray(getattr(self.blobs, READERS[dtype])(value.blobFileValue.offset))
        else:
            stored = value.immediateValue.tensor
            kind = stored.WhichOneof("value")
            if dtype == "STRING":
                return str(stored.strings.values[0])
            values = getattr(stored, kind).values
            array = _from_bytes(values, dtype, shape) if kind == "bytes" else np.array(values)
        if array.size != int(np.prod(shape)):
            raise ModelError(
                f"'{name}' holds {array.size} numbers; its shape {list(shape)} wants {int(np.prod(shape))}"
            )
        return array.astype(ARRAYS[dtype]).reshape(shape)


def _from_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    """Numbers of a byte or of half a byte, the lower half first."""
    if WIDTHS.get(dtype) != 4:
        return np.frombuffer(data, ARRAYS[dtype])
    halves = np.frombuffer(data, np.uint8)
    both = np.stack([halves & 15, halves >> 4], axis=1).reshape(-1)[: int(np.prod(shape))].astype(np.int8)
    return np.where(both > 7, both - 16, both)


def _stored_weight(program: Program, operation: Operation) -> StoredWeight:
    """Either kind: a scale for each channel, or for each block."""
    blocks = "data" in operation.reads
    data, zeros = ("data", "offset") if blocks else ("quantized_data", "zero_point")
    q, scale = program.constant(operation, data), program.constant(operation, "scale")
    zero_point = program.constant(operation, zeros)
    zero_point = np.zeros_like(scale, np.int8) if zero_point is None else zero_point
    if not blocks:
        axis = int(program.constant(operation, "axis"))
        shape = [len(each) if place == axis else 1 for place, each in enumerate([scale] * q.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    bits = WIDTHS[program.dtypes[operation.reads[data][0]]]
    sizes = zip(q.shape, scale.shape, zero_point.shape, strict=True)
    if any(size % parts or parts != zeros for size, parts, zeros in sizes) or not np.isfinite(scale).all():
        raise ModelError(f"{operation.output}: its scales do not fit its integers {list(q.shape)}")
    if q.size and (q.min() < -(2 ** (bits - 1)) or q.max() > 2 ** (bits - 1) - 1):
        raise ModelError(f"{operation.output}: integers beyond {bits} bits")
    return StoredWeight(operation.output, q, scale, zero_point, bits)


def _described(feature: Any) -> TensorSpec:
    """An input or output of the model.

    Raises:
        ModelError: a picture or another kind that is not written here.
    """
    if feature.type.WhichOneof("Type") != "multiArrayType":
        raise ModelError(f"'{feature.name}' is no array of numbers; a multiArrayType would be right")
    array = feature.type.multiArrayType
    dtype = {65552: "float16", 65568: "float32"}.get(array.dataType)
    if dtype is None:
        raise ModelError(f"'{feature.name}' is of another type than FLOAT16 or FLOAT32")
    return TensorSpec(name=feature.name, shape=tuple(int(size) for size in array.shape), dtype=dtype)


def _dtype(tensor: Any) -> str:
    """As the format calls it."""
    field_ = tensor.DESCRIPTOR.fields_by_name["dataType"]
    return str(field_.enum_type.values_by_number[tensor.dataType].name)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(each.constant.size) for each in tensor.dimensions)
